"""Find the checkpoint and config a tracked run left, and bring its model back without running stored code."""

from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules.errors import InputError
from datamodules.face_crops import FaceCrops
from datamodules.pixels import Fit
from lightning_modules.classifier import EmotionClassifier
from records.runs import children, download, find_run, run_config, run_row

CHECKPOINT = "checkpoint/best.ckpt"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Trained:
    """A trained model and how its images must be prepared; ``faces`` if they must be face crops."""

    model: EmotionClassifier
    classes: list[str]
    size: int
    fit: Fit
    faces: FaceCrops | None = None


def run_checkpoint(run_id: str) -> Path:
    """Return the local path of the checkpoint the inner split chose in a run (its id, its beginning, name or latest).

    Raises:
        InputError: there is no such run, it was deleted, it has no checkpoint, or it is the parent of a
            cross-validation.
    """
    run_id = find_run(run_id)
    run_row(run_id)
    try:
        return download(run_id, CHECKPOINT)
    except InputError as error:
        folds = children(run_id)
        if len(folds):
            names = ", ".join(folds["run_id"].head(5))
            msg = (
                f"--run: {run_id} is the parent of {len(folds)} runs and has no model itself; name one of them: {names}"
            )
            raise InputError(msg) from error
        if (run_config(run_id).get("run") or {}).get("keep") == "none":
            msg = f"--run: {run_id} was trained with --run.keep none, so it left no checkpoint; train it again without"
            raise InputError(msg) from error
        raise


def stored_run(run_id: str) -> tuple[Path, Path]:
    """Return the config file and the checkpoint of a run."""
    run_id = find_run(run_id)
    checkpoint = run_checkpoint(run_id)  # first: it says what is wrong with the parent of a cross-validation
    return download(run_id, CONFIG), checkpoint


def load_trained(checkpoint: Path) -> Trained:
    """Load a model for use.

    Raises:
        InputError: not a file, damaged, not ours, or one that would run code when opened.
    """
    model = EmotionClassifier.from_checkpoint(checkpoint)
    data = torch.load(checkpoint, map_location="cpu", weights_only=True).get("EmotionDataModule", {})
    if not {"size", "fit"} <= set(data):
        msg = (
            f"--checkpoint: {checkpoint} does not say how its pictures were prepared; use one that `emotion fit` wrote"
        )
        raise InputError(msg)
    faces = FaceCrops(**data["faces"]) if data.get("faces") else None  # older checkpoints do not record it
    return Trained(model.eval(), list(model.classes), int(data["size"]), data["fit"], faces)


def header(run: str, trained: Trained) -> str:
    """Return what a run is, in two lines: its name and id, its backbone and its classes.

    Args:
        run: its id, the beginning of that, its name or latest.
        trained: the model it left.
    """
    run_id = find_run(run)
    name = run_row(run_id)["name"]
    return (
        f"run {name} [{run_id[:8]}], backbone {trained.model.plain['backbone']}\nclasses: {', '.join(trained.classes)}"
    )
