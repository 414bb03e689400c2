"""Further training: start a run from the weights of a model that has not seen the images it reports on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.readers.face_crops import SOURCE as FACE_SOURCE
from datamodules.splits.protocol import SeenImages
from lightning_modules.backbones import rescaled, used_alone
from lightning_modules.checkpoints import CONFIG_KEY, load_plain, read_checkpoint, require_classes
from lightning_modules.classifier import EmotionClassifier
from results.predictions import SPLIT
from results.tracking.runs import find_trained_run, load_table, run_checkpoint, run_config, run_row

_ALIKE = "the same data.split, fold, fold_seed, holdout_fraction and stratify_by"


class Images(Protocol):
    """The images of a run and their division: what EmotionDataModule and BoxesDataModule have in common."""

    seen_before: SeenImages

    @property
    def manifest(self) -> Manifest:
        """The table of images."""

    @property
    def contents(self) -> list[str]:
        """Hash of each row's decoded pixels."""

    @property
    def clusters(self) -> np.ndarray:
        """(N,): rows with equal numbers must stay together."""


def read_start(source: str) -> tuple[dict[str, Any], Path, str | None]:
    """Return the checkpoint that a run starts from, its file, and the id of the run that wrote it, if one was named.

    Raises:
        InputError: There is no such run or file, or it is damaged.
    """
    path, run_id = Path(source), None
    if path.suffix != ".ckpt":
        run_id = find_trained_run(source)
        path = run_checkpoint(run_id)
    return read_checkpoint(path), path, run_id


def start_from_weights(model: EmotionClassifier, data: EmotionDataModule, source: str) -> None:
    """Give a model the weights of a checkpoint, the averaged ones where an average was kept.

    Args:
        model: Of the same classes, backbone and head.
        data: The images of the run; the other model may not have been trained or selected on those it reports on.
        source: A .ckpt file, or a run: its id, the beginning of that, its name.

    Raises:
        InputError: There is no such run or file; the model is a different one; it has seen images that this run
            reports on; or it does not record which images it has seen.
    """
    checkpoint, path, run_id = read_start(source)
    known: dict[str, Any] = used_alone(checkpoint[CONFIG_KEY])
    require_classes(known["classes"], model.classes, f"--run.start_from {source}")
    for name in ("backbone", "head", "head_width"):
        if known[name] != model.plain[name]:
            own = model.plain[name]
            msg = f"--run.start_from: {source} has {name} {known[name]!r}, this run {own!r}; give both the same"
            raise InputError(msg)
    _refuse(data, checkpoint, "--run.start_from", source, run_id)
    try:
        model.load_state_dict(_of_this_size(model, checkpoint["state_dict"]))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        msg = f"--run.start_from: the tensors in {path} are not those of {known['backbone']}: {reason}"
        raise InputError(msg) from error


def _of_this_size(model: EmotionClassifier, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the position embeddings of a backbone rescaled to the size of this run's images."""
    inside = "backbone."
    backbone = {name.removeprefix(inside): value for name, value in state.items() if name.startswith(inside)}
    return state | {f"{inside}{name}": value for name, value in rescaled(model.backbone, backbone).items()}


def check_resumed(model: EmotionClassifier, data: EmotionDataModule, path: str) -> None:
    """Check the checkpoint of Lightning's ``ckpt_path``, from which a training continues, as `start_from_weights` does.

    Raises:
        InputError: It has other classes, has seen images that the run reports on, or does not record what it has seen.
    """
    checkpoint = read_checkpoint(path)
    require_classes(used_alone(checkpoint[CONFIG_KEY])["classes"], model.classes, f"checkpoint {path}")
    _refuse(data, checkpoint, "--ckpt_path", path)


def check_weights(data: EmotionDataModule, weights: str) -> None:
    """Check the option ``model.weights``, which may name a checkpoint of this project, as `start_from_weights` does.

    A file that this project did not write has no record of its images and is accepted.

    Raises:
        InputError: The checkpoint has seen images that the run reports on, or does not record what it has seen.
    """
    if weights in ("embedded", "hub", "none") or Path(weights).suffix == ".safetensors":
        return
    content = load_plain(weights)
    if isinstance(content, Mapping) and CONFIG_KEY in content:
        _refuse(data, content, "--model.weights", weights)


def _refuse(
    data: EmotionDataModule, checkpoint: Mapping[str, Any], option: str, source: str, run_id: str | None = None
) -> None:
    seen = seen_by(checkpoint, data, option, source, run_id)
    if run_id is not None and FACE_SOURCE in data.manifest.table:
        seen = seen.joined(_same_rows(run_id, data))
    # a run that selects on the part it reports says so in every table; selecting on it earlier adds nothing to that
    selected = data.plan.protocol != "paper"
    refuse_seen(seen, data, data.fold_rows.test, option, source, _ALIKE, selected=selected)


def _same_rows(run_id: str, data: Images) -> SeenImages:
    """Return this run's face crops of the photographs that another run of the same manifest has seen.

    The other run may have cut the faces out in another way, so that equal photographs have other contents.
    """
    if run_row(run_id).get("tags.manifest") != data.manifest.fingerprint():
        return SeenImages()
    split, contents = load_table(run_id, SPLIT), np.asarray(data.contents, dtype=object)
    parts = [split.loc[split["role"] == role, "row"].to_numpy() for role in ("train", "val")]
    return SeenImages.of(*(contents[rows] for rows in parts))


def refuse_seen(
    seen: SeenImages, data: Images, test: np.ndarray, option: str, source: str, alike: str, *, selected: bool = True
) -> None:
    """Raise for a model that has seen images of the reported part; otherwise record in `data` what it has seen.

    Images are recognised by content, whatever data set they were in; near-duplicates of them and images of the same
    people by the clusters of this run's data.

    Args:
        seen: What the model has seen.
        data: The images of this run.
        test: Rows of the part that it reports on.
        option: The option that named the model.
        source: The run or file.
        alike: Options that divide two runs in the same way.
        selected: Whether images that were only selected on count, too.

    Raises:
        InputError: The model has seen some of them.
    """
    rows = seen.among(data.contents, selected=selected)
    known = int(np.isin(data.clusters[test], data.clusters[rows]).sum())
    if known:
        msg = (
            f"{option}: {source} was trained or selected on {known} of the {len(test)} images that this run reports "
            f"on (or on near-duplicates of them or images of the same people); divide both runs alike ({alike}), or "
            "start from another model"
        )
        raise InputError(msg)
    data.seen_before = data.seen_before.joined(seen)


def seen_by(
    checkpoint: Mapping[str, Any], data: Images, option: str, source: str, run_id: str | None = None
) -> SeenImages:
    """Return which images the model in a checkpoint has seen.

    An older checkpoint does not record this. It follows from the split table of the run that wrote the checkpoint if
    that run has the same manifest as this run and did not start from another model; otherwise it is unknown.

    Args:
        checkpoint: The content of the file.
        data: The images of this run.
        option: The option that named the model.
        source: The run or file.
        run_id: The run that wrote it, if known.

    Raises:
        InputError: It is unknown.
    """
    for name in ("EmotionDataModule", "BoxesDataModule"):
        part = checkpoint.get(name)
        if isinstance(part, Mapping) and (seen := SeenImages.read(part.get("seen"))):
            return seen
    if run_id is not None:
        run, config = run_row(run_id), run_config(run_id)
        began = (config.get("run") or {}).get("start_from") or config.get("ckpt_path")
        if run.get("tags.manifest") == data.manifest.fingerprint() and not began:
            split = load_table(run_id, SPLIT)
            selected = ["val", "test"] if run.get("tags.selected_on") == "reported fold" else ["val"]
            contents = np.asarray(data.contents, dtype=object)
            parts = [split.loc[split["role"].isin(roles), "row"] for roles in (["train"], selected)]
            return SeenImages.of(*(contents[rows.to_numpy()] for rows in parts))
    takes_files = option in ("--model.weights", "--ckpt_path")
    by_run = "use --run.start_from with" if takes_files else "name"
    msg = (
        f"{option}: {source} does not record which images it was trained on, so it may have seen images that this run "
        f"reports on; {'' if run_id else f'{by_run} the run that wrote the file instead, or '}train that model again "
        "with this version"
    )
    raise InputError(msg)
