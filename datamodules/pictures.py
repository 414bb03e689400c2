"""Pictures without labels, to be classified by a trained model: a file, a folder, or a table of paths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import InputError
from datamodules.manifest import read_table, saved_meta
from datamodules.manifest_checks import plain_text
from datamodules.pixels import Fit, decode, fit_to_square

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_pictures(source: str) -> list[Path]:
    """Return the pictures that ``source`` names, sorted as the folder or the table has them.

    Args:
        source: a picture, a folder (searched whole), or a CSV or Parquet table with a ``path`` column.

    Raises:
        InputError: there is nothing there, or no picture in it, or a path of the table leaves the table's folder.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            msg = f"--data: the folder {source} holds no picture ({' '.join(SUFFIXES)}); name another folder"
            raise InputError(msg)
        return found
    if not place.is_file():
        msg = f"--data: {source} does not exist; give a picture, a folder of pictures, or a CSV with a path column"
        raise InputError(msg)
    if place.suffix.lower() in (".csv", ".parquet"):
        return _listed(place)
    return [place]


def _listed(place: Path) -> list[Path]:
    try:
        table = read_table(place)
    except InputError as error:
        msg = f"--data: {error}"
        raise InputError(msg) from error
    column = next((name for name in ("path", "file", "filename", "image") if name in table), None)
    if column is None or table.empty:
        msg = f"--data: {place} needs a column path and at least one row; it has {len(table)} rows of {list(table)}"
        raise InputError(msg)
    root = place.resolve().parent
    if meta := saved_meta(place):  # a manifest names its pictures' folder, which need not be its own
        root = (root / meta["root"]).resolve()
    names = plain_text(table[column])
    paths = [(root / name).resolve() for name in names]
    for row, path in enumerate(paths):
        if not names.iloc[row].strip():
            msg = f"--data: row {row + 1} below the header of {place} has no {column}; fill it in, or remove the row"
            raise InputError(msg)
        if not path.is_relative_to(root):
            msg = f"--data: row {row} of {place} leads out of {root}: {table[column].iloc[row]!r}; use paths below it"
            raise InputError(msg)
    return paths


class _Pictures(Dataset):
    def __init__(self, paths: Sequence[Path], size: int, fit: Fit) -> None:
        self.paths = list(paths)
        self.size = size
        self.fit: Fit = fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return {"image": uint8 (3, size, size), "row": int, "error": str}; a bad picture is black and named."""
        try:
            image, error = fit_to_square(decode(self.paths[row]), self.size, self.fit).copy(), ""
        except InputError as problem:
            image, error = np.zeros((self.size, self.size, 3), np.uint8), str(problem)
        return {"image": torch.from_numpy(image).permute(2, 0, 1), "row": row, "error": error}


class PictureDataModule(L.LightningDataModule):
    """Unlabelled pictures, decoded exactly as in training.

    Args:
        source: a picture, a folder, or a CSV or Parquet table with a ``path`` column.
        size: side of the square input, pixels; the training run's.
        fit: how a picture that is not square is made so; the training run's.
        batch_size: pictures a step.
        num_workers: processes that decode.
    """

    def __init__(
        self, source: str, size: int = 64, fit: Fit = "crop", batch_size: int = 64, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.paths = find_pictures(source)
        self.size = size
        self.fit: Fit = fit
        self.batch_size = batch_size
        self.num_workers = num_workers

    def predict_dataloader(self) -> DataLoader:
        """Return batches {"image": uint8 (B, 3, size, size), "row": int64 (B,), "error": list of str}."""
        pictures = _Pictures(self.paths, self.size, self.fit)
        return DataLoader(pictures, batch_size=self.batch_size, num_workers=self.num_workers)
