"""Studies: the papers' experiments and the effect of leaky protocols, as cells, tables and claims."""

from collections.abc import Callable

from datamodules.errors import InputError, did_you_mean
from sweeps.studies import (
    backbones,
    balanced_augmentation,
    balancing,
    data_imbalance,
    face_crop,
    face_detector,
    leakage,
    teachable,
)
from sweeps.studies.schema import Protocol, Scale, Study

STUDIES: dict[str, Callable[[Scale, Protocol], Study]] = {
    "balanced-augmentation": balanced_augmentation.build,
    "teachable": teachable.build,
    "backbones": backbones.build,
    "face-crop": face_crop.build,
    "data-imbalance": data_imbalance.build,
    "leakage": leakage.build,
    "balancing": balancing.build,
    "face-detector": face_detector.build,
}
WITHOUT_PROTOCOL = {
    "leakage": "study leakage compares protocols itself",
    "face-detector": "study face-detector has only the honest protocol",
}


def build_study(name: str, scale: Scale, protocol: Protocol) -> Study:
    """Return a study at a scale.

    Raises:
        InputError: There is no such study (the nearest name is offered), or it takes no protocol.
    """
    if name not in STUDIES:
        hint = did_you_mean(name, STUDIES, cutoff=0.4) or "`emotion study list` lists them"
        msg = f"no study is called {name!r}; {hint}"
        raise InputError(msg)
    if name in WITHOUT_PROTOCOL and protocol != "honest":
        msg = f"--protocol: {WITHOUT_PROTOCOL[name]}, got {protocol}; leave --protocol out"
        raise InputError(msg)
    return STUDIES[name](scale, protocol)
