"""Datasets: batches of uint8 images with label, row and copy flag."""

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess, parent_process

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.cache import PixelCache
from datamodules.errors import InputError
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
    """Prepare a loading process: one thread, since all share the cores; only its parent ends it by SIGTERM.

    Service managers and batch systems send SIGTERM to all processes. The training then finishes its step and saves a
    checkpoint, for which its loading processes must live on; they end with it.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for, args=(parent_process(),), daemon=True).start()


def _end_for(parent: BaseProcess | None) -> None:
    """End this process once its parent sends SIGTERM, as PyTorch does to one that hangs."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (parent and parent.pid):
        pass
    os._exit(0)
