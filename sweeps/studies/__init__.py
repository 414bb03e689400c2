"""The papers' experiments, and what leaking protocols are worth, as data: cells, tables and claims."""

from collections.abc import Callable

from datamodules.errors import InputError, did_you_mean
from sweeps.studies import (
    backbones,
    balanced_augmentation,
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
}

OWN_DOORS = {face_detector.NAME: (face_detector.ABOUT, face_detector.SOURCE)}  # cells are no runs of a classifier


def build_study(name: str, scale: Scale, protocol: Protocol) -> Study:
    """Return a study at a scale.

    Raises:
        InputError: There is no such study (the nearest name is offered), or it takes no protocol.
    """
    if name not in STUDIES:
        hint = did_you_mean(name, [*STUDIES, *OWN_DOORS], cutoff=0.4) or "`emotion study list` names them"
        msg = f"no study is called {name!r}; {hint}"
        raise InputError(msg)
    if name == "leakage" and protocol != "honest":
        msg = f"--protocol: leakage compares protocols and is of none, got {protocol}; leave --protocol out"
        raise InputError(msg)
    return STUDIES[name](scale, protocol)
