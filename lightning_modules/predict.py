"""Classify a picture, a folder or a table of paths with a trained model."""

from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.pictures import PictureDataModule
from datamodules.places import replacing
from lightning_modules.device import best_device
from lightning_modules.stored import Trained


def predict_table(
    trained: Trained, source: str, *, batch_size: int = 64, num_workers: int = 0, run: str = "the model"
) -> pd.DataFrame:
    """Classify pictures.

    Args:
        trained: the model, and how its pictures are prepared.
        source: a picture, a folder, or a table with a ``path`` column.
        batch_size: pictures a step.
        num_workers: processes that decode.
        run: the name of the model in errors.

    Returns:
        One row a picture: ``path``, ``predicted``, ``prob_<class>`` (sum 1) and ``error``; a picture that cannot be
        read has an error and no prediction.

    Raises:
        InputError: the images are whole photographs and the model is one of face crops, or there are no images.
    """
    pictures = PictureDataModule(source, trained.size, trained.fit, batch_size, num_workers)
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
