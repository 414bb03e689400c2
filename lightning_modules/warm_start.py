"""Learning from earlier models, which may not have seen the images that a run reports on.

A run can start from their weights (further training), or learn from their answers (distillation); and the weights of
several runs can be averaged into one model (a soup).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.cache import build_cache
from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, invalid
from datamodules.files.paths import replacing
from datamodules.manifest import Manifest
from datamodules.readers.face_crops import SOURCE as FACE_SOURCE
from datamodules.readers.face_crops import FaceCrops, same_faces
from datamodules.splits.protocol import SeenImages
from lightning_modules.backbones import rescaled, used_alone
from lightning_modules.checkpoints import CONFIG_KEY, load_plain, read_checkpoint, require_classes
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.decisions import DECISIONS_KEY, JOINT_KEY
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


def note_known_val(data: EmotionDataModule, rule: tuple[str, float] | None) -> str:
    """Return a note if the weights that a run starts from were trained on its val part; "" otherwise.

    Args:
        data: The images of the run; ``seen_before`` is what those weights were trained on.
        rule: Name and value of the promise that is fitted on the val part, such as ``("risk", 0.1)``.

    Raises:
        InputError: They were, and the promise would not hold.
    """
    known = count_known(data.seen_before, data, data.selected_on, selected=False)
    if not known or data.plan.protocol == "paper":  # that protocol selects on the test part, and says so everywhere
        return ""
    said = (
        f"the weights that this run starts from were trained on {known} of the {len(data.selected_on)} images of its "
        "val part (or on near-duplicates of them or images of the same people)"
    )
    if rule:
        msg = (
            f"--run.{rule[0]} {rule[1]}: {said}, so it would not hold; leave it out, or divide both runs alike "
            f"({_ALIKE})"
        )
        raise InputError(msg)
    return f"{said}, so its scores there are too high, and another epoch may be better"


def _same_rows(run_id: str, data: Images) -> SeenImages:
    """Return this run's face crops of the photographs that another run of the same manifest has seen.

    The other run may have cut the faces out in another way, so that equal photographs have other contents.
    """
    if run_row(run_id).get("tags.manifest") != data.manifest.fingerprint():
        return SeenImages()
    split, contents = load_table(run_id, SPLIT), np.asarray(data.contents, dtype=object)
    parts = [split.loc[split["role"] == role, "row"].to_numpy() for role in ("train", "val")]
    return SeenImages.of(*(contents[rows] for rows in parts))


def count_known(seen: SeenImages, data: Images, rows: np.ndarray, *, selected: bool = True) -> int:
    """Return how many rows, or near-duplicates of them or images of the same people, a model has seen.

    Args:
        seen: What the model has seen.
        data: The images.
        rows: Rows of them.
        selected: Whether images that were only selected on count, too.
    """
    before = seen.among(data.contents, selected=selected)
    return int(np.isin(data.clusters[rows], data.clusters[before]).sum())


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
    if known := count_known(seen, data, test, selected=selected):
        msg = (
            f"{option}: {source} was trained or selected on {known} of the {len(test)} images that this run reports "
            f"on (or on near-duplicates of them or images of the same people); divide both runs alike ({alike}), or "
            "name another model"
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


ASKED = 256  # images that a teacher answers at a time


def learn_from_teacher(data: EmotionDataModule, sources: Sequence[str], share: float) -> None:
    """Set soft training targets: ``share`` of a teacher's probabilities and the rest of the label (distillation).

    The teacher's answer is the mean over the networks that did not train on the image, as the folds of a
    cross-validation that had it in their test part, and over all networks where each has (Hinton et al. 2015,
    arXiv:1503.02531). The images are answered once, without transforms.

    Args:
        data: The images of the run; ``targets`` is set.
        sources: Runs, cross-validations or checkpoints.
        share: Of the teacher, in (0, 1].

    Raises:
        InputError: There is no such model; it has other classes or other face crops; it has seen images that this run
            reports on; or it does not record which images it has seen.
    """
    from lightning_modules.predictor import Predictor  # few runs have a teacher

    teacher, named = Predictor.load(*sources), ", ".join(sources)
    require_classes(teacher.classes, data.classes, f"--run.teacher {named}")
    faces = FaceCrops.of(data.manifest, data.read_options)
    if not same_faces(teacher.faces, faces):
        own, other = faces or "whole images", teacher.faces or "whole images"
        msg = f"--run.teacher: {named} was trained on {other}, and this run trains on {own}; name another teacher"
        raise InputError(msg)
    for member in teacher.members:
        if member.seen is None:
            msg = f"--run.teacher: {named} does not record which images it was trained on; name runs or .ckpt files"
            raise InputError(msg)
        refuse_seen(member.seen, data, data.fold_rows.test, "--run.teacher", named, _ALIKE)
    rows = np.unique(data.draws.rows)  # (M,)
    contents = np.asarray(data.contents, dtype=object)[rows]
    answers = np.zeros((len(rows), len(data.classes)))
    counts = np.zeros(len(rows))
    fresh = np.array([~member.seen.among(contents, selected=False) for member in teacher.members if member.seen])
    chosen = fresh | ~fresh.any(axis=0)  # (networks, M)
    for member, by_row in zip(teacher.members, chosen, strict=True):
        cache = data.cache
        if (member.size, member.fit) != (data.size, data.fit):
            place = Path(data.cache_dir) if data.cache_dir else None
            limits: dict[str, Any] = {"budget_gb": data.cache_budget_gb, "pixel_limit": data.pixel_limit}
            cache = build_cache(data.manifest, member.size, fit=member.fit, directory=place, **limits)
        wanted = np.flatnonzero(by_row)
        for at in range(0, len(wanted), ASKED):
            part = wanted[at : at + ASKED]
            answers[part] += member.probabilities(cache.read(rows[part]))
        counts += by_row
    own_targets = data.manifest.votes if data.read_options.votes == "soft" else None
    targets = np.eye(len(data.classes))[data.manifest.labels] if own_targets is None else own_targets.copy()
    targets[rows] = (1 - share) * targets[rows] + share * answers / counts[:, None]
    data.targets = targets


def write_soup(sources: Sequence[str], path: Path) -> tuple[list[str], list[str]]:
    """Write the mean of the weights of several runs with the same architecture as a checkpoint (Wortsman et al. 2022).

    Its predictions take as long as those of one run. The mean of runs whose heads started from different weights is
    usually worse than each. Statistics of normalisation layers are averaged, too. See arXiv:2203.05482.

    Args:
        sources: Runs or .ckpt files, at least two.
        path: The .ckpt file to write.

    Returns:
        The classes of the model, and the sources with decisions that were fitted on val predictions (calibration,
        thresholds, a bound on the risk). The file has no decisions: those of one model do not hold for the mean.

    Raises:
        InputError: Fewer than two, no such run, a damaged one, or models of other networks, classes or preparation of
            images; or the file cannot be written.
    """
    if len(sources) < 2:
        raise invalid("RUN", "must be at least two runs, whose weights are averaged", ", ".join(sources) or "none")
    checkpoints = [read_start(source)[0] for source in sources]
    first = checkpoints[0]
    seen = SeenImages()
    for source, other in zip(sources, checkpoints, strict=True):
        record = SeenImages.read(other.get("EmotionDataModule", {}).get("seen"))
        if record is None:
            msg = f"RUN: {source} does not record which images it was trained on; train it again with this version"
            raise InputError(msg)
        seen = seen.joined(record)
        for what, part in (("model", CONFIG_KEY), ("data", "EmotionDataModule")):
            for name, value in first[part].items():
                if name not in ("seen", "pixel_limit") and other[part].get(name) != value:
                    msg = (
                        f"RUN: option {what}.{name} is {value!r} in {sources[0]} and {other[part].get(name)!r} in "
                        f"{source}, so their weights cannot be averaged; name runs of equal options, or average their "
                        f"predictions: emotion predict --run {' '.join(sources)} --data IMAGES"
                    )
                    raise InputError(msg)
    states = [checkpoint["state_dict"] for checkpoint in checkpoints]
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    for source, other in zip(sources, shapes, strict=True):
        if other != shapes[0]:
            name = min(name for name in shapes[0] | other if shapes[0].get(name) != other.get(name))
            msg = (
                f"RUN: {source} has other tensors than {sources[0]}, such as {name!r}, although both are of the same "
                "network; one of the files is damaged: take another copy"
            )
            raise InputError(msg)
    mean: dict[str, Tensor] = {}
    for name, value in states[0].items():
        mean[name] = torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
    content = {name: first[name] for name in (CONFIG_KEY, "format") if name in first}
    content |= {"state_dict": mean, "EmotionDataModule": first["EmotionDataModule"] | {"seen": seen.state()}}
    try:
        with replacing(path, suffix=".ckpt") as draft:
            torch.save(content, draft)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a folder or disk it cannot write
        msg = f"--output: {path} cannot be written ({error}); name a file elsewhere"
        raise InputError(msg) from error
    left_out = [
        source for source, each in zip(sources, checkpoints, strict=True) if {DECISIONS_KEY, JOINT_KEY} & set(each)
    ]
    return list(first[CONFIG_KEY]["classes"]), left_out
