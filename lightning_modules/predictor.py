"""Classify an image, a folder or a table of paths with a trained model."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from datamodules.dataset import ImageDataModule
from datamodules.errors import InputError
from datamodules.images import Fit
from datamodules.paths import replacing
from datamodules.readers.face_crops import FaceCrops
from lightning_modules.backbones import best_device
from lightning_modules.classifier import EmotionClassifier
from results.tracking.runs import find_run, run_row
from results.tracking.store import FORMAT, version_0_1_message


@dataclass(frozen=True)
class Trained:
    """A trained model and how its images must be prepared; ``faces`` if they must be face crops."""

    model: EmotionClassifier
    classes: list[str]
    size: int
    fit: Fit
    faces: FaceCrops | None = None


def load_trained(checkpoint: Path) -> Trained:
    """Load a model for use.

    Raises:
        InputError: not a file, damaged, not written by this project, or one that would run code when opened.
    """
    model = EmotionClassifier.from_checkpoint(checkpoint)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise InputError(version_0_1_message(f"--checkpoint: {checkpoint}"))
    data = content.get("EmotionDataModule", {})
    if not {"size", "fit"} <= set(data):
        msg = f"--checkpoint: {checkpoint} does not say how its images were prepared; use one that `emotion fit` wrote"
        raise InputError(msg)
    faces = FaceCrops(**data["faces"]) if data.get("faces") else None  # older checkpoints do not record it
    return Trained(model.eval(), list(model.classes), int(data["size"]), data["fit"], faces)


def header(run: str, trained: Trained) -> str:
    """Return a run's name, id, backbone and classes as two lines of text.

    Args:
        run: its id, the beginning of that, its name or latest.
        trained: the model of the run.
    """
    run_id = find_run(run)
    name = run_row(run_id)["name"]
    return (
        f"run {name} [{run_id[:8]}], backbone {trained.model.plain['backbone']}\nclasses: {', '.join(trained.classes)}"
    )


def predict_table(
    trained: Trained, source: str, *, batch_size: int = 64, num_workers: int = 0, run: str = "the model"
) -> pd.DataFrame:
    """Classify images.

    Args:
        trained: the model, and how its images are prepared.
        source: an image, a folder, or a table with a ``path`` column.
        batch_size: images per batch.
        num_workers: decoding processes.
        run: name of the model in errors.

    Returns:
        One row an image: ``path``, ``predicted``, ``prob_<class>`` (sum 1) and ``error``; an image that cannot be
        read has an error and no prediction.

    Raises:
        InputError: the images are whole photographs and the model was trained on face crops, or there are no images.
    """
    pictures = ImageDataModule(source, trained.size, trained.fit, batch_size, num_workers)
    if trained.faces is not None:
        trained.faces.require_crops(run, "--data", source, pictures.paths)
    probabilities, errors = [], []
    device = best_device()
    model = trained.model.to(device).eval()
    with torch.inference_mode():
        for batch in tqdm(pictures.predict_dataloader(), desc="classifying", unit="batch", delay=1, disable=None):
            probabilities.append(model.probabilities(batch["image"].to(device)).cpu())  # (B, C)
            errors += batch["error"]
    table = pd.DataFrame(torch.cat(probabilities).numpy(), columns=[f"prob_{name}" for name in trained.classes])
    best = table.to_numpy().argmax(axis=1)
    table.insert(0, "path", [str(path) for path in pictures.paths])
    table.insert(1, "predicted", [trained.classes[index] for index in best])
    table["error"] = errors
    bad = table["error"] != ""
    table.loc[bad, [name for name in table if name.startswith("prob_")]] = float("nan")
    table.loc[bad, "predicted"] = ""
    return table


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write the table of `predict_table` as .csv or .parquet.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        with replacing(path) as part:
            if path.suffix == ".csv":
                table.to_csv(part, index=False)
            else:
                table.to_parquet(part, index=False)
    except OSError as error:
        msg = f"--output: cannot write {path}: {error.strerror or error}; choose a folder that exists and is writable"
        raise InputError(msg) from error
