"""A task small enough to train in a second: 32-pixel squares whose colour is their class."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_modules.classifier import EmotionClassifier

CLASSES = ["happy", "neutral", "sad"]
SMALL = {"backbone": "resnet10t", "weights": "none", "schedule": "constant", "warmup": 0.0}


class Squares(Dataset[dict[str, Tensor]]):
    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        noise = torch.Generator().manual_seed(row)
        image = torch.randint(0, 120, (3, 32, 32), generator=noise, dtype=torch.uint8)
        image[row % 3] += 100
        return {"image": image, "label": torch.tensor(row % 3), "row": torch.tensor(row)}


class TinyTask(pl.LightningDataModule):
    train_counts = np.array([8, 8, 8])

    def __init__(self, rows: int = 24, batch: int = 8) -> None:
        super().__init__()
        self.rows, self.batch = rows, batch

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Squares(self.rows), batch_size=self.batch)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Squares(14), batch_size=5)

    test_dataloader = predict_dataloader = val_dataloader


class Killed(Exception):
    """Stands for whatever ends a process."""


class StopAfter(pl.Callback):
    """Writes a checkpoint after some epochs, as a run that is then killed would leave."""

    def __init__(self, epochs: int, path: Path) -> None:
        self.epochs, self.path = epochs, path

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise Killed

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.due = trainer.current_epoch + 1 == self.epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.due:
            trainer.save_checkpoint(self.path)


def classifier(**options: Any) -> EmotionClassifier:
    torch.manual_seed(0)
    return EmotionClassifier(CLASSES, **(SMALL | options))


def trainer(epochs: int = 1, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", **(quiet | options))
