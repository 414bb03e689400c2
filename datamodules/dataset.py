"""Datasets: batches of uint8 images with label, row and copy flag; images without labels for prediction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.cache import PixelCache
from datamodules.errors import InputError
from datamodules.images import Fit, decode, fit_to_square
from datamodules.manifest import plain_text, read_table, saved_meta
from datamodules.sampling import Batch, Draws
from datamodules.transforms import reseed

ONCE = 2  # random stream of transforms that are drawn once, beside those of sampling.py


class EmotionDataset(Dataset):
    """Images by their position in an epoch's list of draws.

    Whole batches are read at once: pixels of untransformed images are copied once, from the cache to the tensor. The
    batch sampler gives the seed of each batch's transforms, so a batch is the same whichever worker reads it.
    """

    def __init__(
        self,
        cache: PixelCache,
        labels: np.ndarray,
        draws: Draws,
        *,
        originals: A.Compose | None = None,
        copies: A.Compose | None = None,
        once: bool = False,
        seed: int = 0,
        votes: np.ndarray | None = None,
    ) -> None:
        """Create the dataset.

        Args:
            cache: The decoded images.
            labels: (N,) int64, labels of all rows of the manifest.
            draws: (M,) rows of the manifest and which of them are copies.
            originals: Transform of images that are not copies.
            copies: Transform of copies.
            once: Draw the transform of each position in ``draws`` once, so that it is the same in every epoch.
            seed: Seed of transforms that are drawn once.
            votes: (N, C) shares of the annotators' votes, passed on as ``target``.
        """
        self.cache, self.labels, self.draws = cache, labels, draws
        self.originals, self.copies = originals, copies
        self.once, self.seed, self.votes = once, seed, votes

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """Return one draw without the batch axis; a transform's random values then depend on ``position`` alone."""
        return {name: value[0] for name, value in self._read([position]).items()}

    def __getitems__(self, wanted: Batch | Sequence[int]) -> dict[str, torch.Tensor] | InputError:
        """Return a batch: image (B, 3, S, S) uint8 in channels-last memory, label (B,), row (B,), is_copy (B,).

        With votes, also target (B, C) float32. A worker returns the error of an unreadable image, which `PlainLoader`
        raises in the main process.
        """
        try:
            return self._read(wanted)
        except InputError as error:
            if get_worker_info() is None:
                raise
            return error

    def _read(self, wanted: Batch | Sequence[int]) -> dict[str, torch.Tensor]:
        if isinstance(wanted, Batch):
            positions, seed = wanted.positions, wanted.seed
        else:
            positions = np.asarray(wanted, dtype=np.int64)
            seed = (self.seed, ONCE, *positions.tolist())
        rows, is_copy = self.draws.rows[positions], self.draws.is_copy[positions]
        images = self.cache.read(rows)  # (B, S, S, 3)
        self._transform(images, self.originals, np.flatnonzero(~is_copy), positions, seed)
        self._transform(images, self.copies, np.flatnonzero(is_copy), positions, (*seed, 1))
        batch = {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),  # (B, 3, S, S)
            "label": torch.from_numpy(self.labels[rows]),
            "row": torch.from_numpy(rows),
            "is_copy": torch.from_numpy(is_copy),
        }
        if self.votes is not None:
            batch["target"] = torch.from_numpy(self.votes[rows].astype(np.float32))
        return batch

    def _transform(
        self,
        images: np.ndarray,
        transform: A.Compose | None,
        places: np.ndarray,
        positions: np.ndarray,
        seed: tuple[int, ...],
    ) -> None:
        if transform is None or not len(places):
            return
        reseed(transform, *seed)
        for place in places:
            if self.once:
                reseed(transform, self.seed, ONCE, int(positions[place]))
            images[place] = transform(image=images[place])["image"]


def keep(batch: dict[str, torch.Tensor] | InputError) -> dict[str, torch.Tensor] | InputError:
    """Collate function of datasets that return whole batches: return the batch unchanged."""
    return batch


def start_worker(worker: int) -> None:
    """Limit OpenCV to one thread in each worker, since all workers share the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_pictures(source: str) -> list[Path]:
    """Return the paths of the images in ``source``, in the order of the folder or table.

    Args:
        source: an image, a folder (with its subfolders), or a CSV or Parquet table with a ``path`` column.

    Raises:
        InputError: the source does not exist or has no image, or a path of the table leads out of its folder.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            msg = f"--data: the folder {source} holds no image ({' '.join(SUFFIXES)}); name another folder"
            raise InputError(msg)
        return paths
    if not place.is_file():
        msg = f"--data: {source} does not exist; give an image, a folder of images, or a CSV with a path column"
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
    if meta := saved_meta(place):  # the images of a manifest may be in another folder
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


class _Images(Dataset):
    def __init__(self, paths: Sequence[Path], size: int, fit: Fit) -> None:
        self.paths = list(paths)
        self.size = size
        self.fit: Fit = fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return {"image": uint8 (3, size, size), "row": int, "error": str}; unreadable images are black."""
        try:
            image, error = fit_to_square(decode(self.paths[row]), self.size, self.fit).copy(), ""
        except InputError as problem:
            image, error = np.zeros((self.size, self.size, 3), np.uint8), str(problem)
        return {"image": torch.from_numpy(image).permute(2, 0, 1), "row": row, "error": error}


class ImageDataModule(L.LightningDataModule):
    """Unlabelled images, decoded exactly as in training.

    Args:
        source: an image, a folder, or a CSV or Parquet table with a ``path`` column.
        size: side of the square input in pixels, as in training.
        fit: how an image is made square, as in training.
        batch_size: images per batch.
        num_workers: decoding processes.
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
        pictures = _Images(self.paths, self.size, self.fit)
        return DataLoader(pictures, batch_size=self.batch_size, num_workers=self.num_workers)
