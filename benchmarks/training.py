"""Our training loop against a bare PyTorch loop: epochs of both take turns, on the same batches and weights."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.report import Figure, paired, say
from datamodules.dataset import keep
from datamodules.emotion import EmotionDataModule
from datamodules.sampling import EpochBatchSampler
from lightning_modules.callbacks import quiet, run_callbacks
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import TRAINER_DEFAULTS, RunOptions
from lightning_modules.optimizers import build_optimizer
from results.tracking.logger import TrackingLogger

LEARNING_RATE, DECAY, SEED = 1e-3, 0.01, 0


class BareLoop:
    """What somebody would write without Lightning: the model's layers, an optimizer, a for loop."""

    def __init__(self, model: EmotionClassifier, data: EmotionDataModule, dataset: Any) -> None:  # noqa: ANN401
        self.model = model.train()
        self.optimizer = build_optimizer("adamw", model.parameters(), LEARNING_RATE, DECAY)
        self.sampler = EpochBatchSampler(len(dataset), data.batch_size, seed=SEED)
        whole: dict[str, Any] = {"batch_sampler": self.sampler, "collate_fn": keep}  # batches come ready-made
        self.loader: Any = DataLoader(dataset, **whole)

    def epoch(self, number: int) -> float:
        """Train on one epoch's batches and return the mean loss."""
        self.sampler.set_epoch(number)
        total = torch.zeros(())
        for batch in self.loader:
            logits = self.model.logits(self.model.normalise(batch["image"]))
            loss = F.cross_entropy(logits, batch["label"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return float(total) / len(self.sampler)


class TakeTurns(Callback):
    """After each epoch of the trainer, runs one of the bare loop. An epoch of ours ends where the next one starts."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare = bare
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._began: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch before, whose end Lightning has worked on until now, and begin another."""
        self._close()
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the bare loop train on the same batches."""
        start = time.perf_counter()
        self.bare.epoch(trainer.current_epoch)
        self.theirs.append(time.perf_counter() - start)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch."""
        self._close()

    def _close(self) -> None:
        if self._began is not None:
            self.ours.append(time.perf_counter() - self._began - self.theirs[-1])
            self._began = None


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return images/s of our loop over images/s of the bare one, on the processor."""
    quiet()
    largest, size, batch, repeats = (4, 32, 8, 1) if toy else (180, 48, 64, 6)
    backbone = "resnet10t" if toy else "tf_efficientnet_lite0"
    data = EmotionDataModule(
        f"drawn:largest={largest},ratio=1", size, batch_size=batch, split="holdout", near_duplicates=False, seed=SEED
    )
    data.prepare_data()
    data.setup("fit")

    def model() -> EmotionClassifier:
        torch.manual_seed(SEED)
        plain: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
        return EmotionClassifier(
            data.classes, backbone, "none", learning_rate=LEARNING_RATE, weight_decay=DECAY, **plain
        )

    ours, bare = model(), BareLoop(model(), data, data.train_dataloader().dataset)
    turns = TakeTurns(bare)
    logger = TrackingLogger(directory=str(folder / "mlruns"), system_metrics=False)
    guards = [call for call in run_callbacks(RunOptions(), folder) if not isinstance(call, ModelCheckpoint)]
    settings = TRAINER_DEFAULTS | {"max_epochs": repeats + 1, "accelerator": "cpu", "limit_val_batches": 0}
    trainer = Trainer(logger=logger, callbacks=[turns, *guards], enable_checkpointing=False, **settings)
    say(f"{repeats + 1} epochs each of {len(data.draws)} pictures at {size} px, taking turns")
    trainer.fit(ours, datamodule=data)
    difference = max(
        float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), bare.model.parameters(), strict=True)
    )
    ratio, detail = paired(turns.ours[1:], turns.theirs[1:])  # the first epoch of both warms up
    detail |= {
        "images_per_epoch": len(data.draws),
        "images_per_second": round(len(data.draws) / min(turns.ours[1:]), 1),
        "setting": f"{backbone} at {size} px, batch {batch}, AdamW, float32, {torch.get_num_threads()} threads",
        "same": "model class, first weights, optimizer, batches, reads from the cache",
        "ours_besides": "logging to MLflow, non-finite guard, Ctrl-C guard, progress bar; neither evaluates nor saves",
        "largest_weight_difference_after": difference,  # 0: both did the same work
    }
    return [
        Figure("training_loop", ratio, "images/s of our loop over a bare PyTorch loop", at_least=0.95, detail=detail)
    ]
