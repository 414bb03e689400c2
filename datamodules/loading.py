"""By how many processes batches are loaded, and how those start."""

import os
from typing import Any

import lightning as L
import torch

from datamodules.dataset import EmotionDataset, keep, start_worker
from datamodules.processes import cores

TINY = 1_000  # pictures an epoch, below which starting workers costs more than they save
MOST_WORKERS = 8


def loading(dataset: EmotionDataset, workers: int | None, trainer: L.Trainer | None) -> dict[str, Any]:
    """Return the arguments of a loader.

    Args:
        dataset: What is loaded.
        workers: Loading processes; None takes as many as help.
        trainer: Knows how many processes train on this machine; None: one.
    """
    if workers is None:
        # those on this machine share its cores; torchrun alone knows of those it started
        ranks = max(trainer.num_devices if trainer else 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        # copying from the map is quicker than handing over from another process
        only_copies = dataset.cache.pixels is not None and not (dataset.originals or dataset.copies)
        workers = 0 if only_copies or len(dataset) < TINY else min(MOST_WORKERS, max(1, cores() // ranks))
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "worker_init_fn": start_worker,
        "collate_fn": keep,
        "pin_memory": torch.cuda.is_available(),
    }
