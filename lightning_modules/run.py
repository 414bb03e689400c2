"""Options, callbacks and checkpoints of a run."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from datamodules.errors import InputError, invalid
from lightning_modules.callbacks import INTERRUPTED, NonFiniteLoss, StopGracefully, average_weights, run_progress

BEST, LAST = "best.ckpt", "last.ckpt"
Keep = Literal["best", "last", "none"]
MONITOR = "val/f1_macro"  # of the val part: what is selected on is never what is reported


def first_rank() -> bool:
    """Return whether this process writes the run: the only one, or rank zero of several."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


class RunOptions:
    """Options of a run: name, experiment, start, stop and checkpoints.

    Args:
        recipe: name of the recipe, shown with the run.
        name: the run's name on the MLflow page; by default recipe, data, fold and seed.
        experiment: MLflow experiment.
        parent: run id of the parent, for the folds of a cross-validation.
        resume: run id to resume, or "auto": the newest unfinished run of the same config.
        start_from: start with the weights (backbone and head) of a run (id or name) or a .ckpt file.
        patience: stop after this many epochs without a better macro F1 on the val part; None: train all epochs.
        ema_decay: average the weights with this decay per step and evaluate the average; None: do not.
        evaluate: predict the held-out part once at the end and write the tables of predictions and split.
        resamples: bootstrap resamples of the printed intervals.
        keep: checkpoint to keep when the run has ended: "best", the selected weights; "last", also the training
            state of the last epoch; or "none", after which `emotion predict` cannot use the run.
    """

    def __init__(
        self,
        recipe: str = "custom",
        name: str | None = None,
        experiment: str = "emotion",
        parent: str | None = None,
        resume: str | None = None,
        start_from: str | None = None,
        patience: int | None = None,
        ema_decay: float | None = None,
        evaluate: bool = True,
        resamples: int = 2000,
        keep: Keep = "best",
    ) -> None:
        if patience is not None and patience < 1:
            raise invalid("--run.patience", "must be at least 1 epoch", patience, "leave it out to train all epochs")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise invalid("--run.ema_decay", "must be between 0 and 1, such as 0.998", ema_decay)
        if resamples < 100:
            raise invalid("--run.resamples", "must be at least 100 for an interval (2000 is usual)", resamples)
        self.recipe = recipe
        self.name = name
        self.experiment = experiment
        self.parent = parent
        self.resume = resume
        self.start_from = start_from
        self.patience = patience
        self.ema_decay = ema_decay
        self.evaluate = evaluate
        self.resamples = resamples
        self.keep = keep


@dataclass(frozen=True)
class DetectorRun:
    """What a run is called, how long it trains and where.

    Attributes:
        name: the run's name on the MLflow page; by default data, backbone and seed.
        experiment: MLflow experiment.
        parent: run id of the parent, for the members of a study.
        resume: run id to go on with, or "auto": the newest unfinished run of the same config.
        start_from: begin with the weights of a run (id or name) or .ckpt file: further training.
        epochs: most epochs.
        patience: stop after this many epochs without a better val map_50; None: train all epochs.
        ema_decay: average the weights with this decay per step and keep the average; None: do not.
        accelerator: "auto", "cpu" or "gpu".
        precision: of the computations, such as "bf16-mixed".
        clip: largest norm of the gradient.
        resamples: bootstrap resamples of the printed intervals.
        keep: which checkpoint stays when the run has ended: "best", "last" (with the training state) or "none".
    """

    name: str | None = None
    experiment: str = "face-detector"
    parent: str | None = None
    resume: str | None = None
    start_from: str | None = None
    epochs: int = 12
    patience: int | None = None
    ema_decay: float | None = None
    accelerator: str = "auto"
    precision: str = "32-true"
    clip: float = 10.0
    resamples: int = 1000
    keep: Keep = "best"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("patience", 1), ("resamples", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise invalid(f"--run.{name}", f"must be at least {least}", value)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise invalid("--run.ema_decay", "must be between 0 and 1, such as 0.998", self.ema_decay)
        if not self.clip > 0:
            raise invalid("--run.clip", "must be above 0", self.clip)


class GoOnAtBatch(Callback):
    """Resume an epoch at the batch where it was stopped.

    Lightning would do it, but not when the model asked for its number of steps to plan a schedule: then the loader is
    made before the checkpoint's state of it is read, and that is never handed over.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember how far the loader was."""
        self._states = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the loader; its first batch has not been asked for yet."""
        for state in self._states:
            cast(Any, trainer.train_dataloader).load_state_dict(state)
        self._states = []


def run_callbacks(options: RunOptions, folder: Path, *, progress: bool = True) -> list[Callback]:
    """Return the callbacks of every run: best and last checkpoint, early stopping, guards, progress bar."""
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=folder,
            filename="best",
            monitor=MONITOR,
            mode="max",
            save_weights_only=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        ),
        ModelCheckpoint(
            dirpath=folder,
            filename="last",
            save_top_k=1,
            monitor=None,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
        StopGracefully(folder),
        GoOnAtBatch(),
        NonFiniteLoss(),
    ]
    if progress:
        callbacks.append(run_progress())
    if options.patience is not None:
        callbacks.append(EarlyStopping(monitor=MONITOR, mode="max", patience=options.patience))
    if options.ema_decay is not None:
        callbacks.append(average_weights(options.ema_decay))
    return callbacks


def resume_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a stopped run, or None if there is none.

    Raises:
        InputError: both checkpoints are damaged.
    """
    found: dict[Path, int] = {}
    damaged: list[str] = []
    for path in (folder / LAST, folder / INTERRUPTED):
        if path.is_file():
            try:
                found[path] = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
            except (RuntimeError, OSError, LookupError, EOFError, ValueError, pickle.UnpicklingError) as error:
                damaged.append(f"{path.name} ({str(error).partition(chr(10))[0][:80]})")
    if not found and damaged:
        msg = (
            f"--resume: every checkpoint of the run is damaged: {', '.join(damaged)}; "
            f"start again without --resume, or delete {folder} to start the same run again"
        )
        raise InputError(msg)
    return max(found, key=lambda path: found[path]) if found else None


def remove_checkpoints(folder: Path, keep: Keep = "best") -> None:
    """Remove the checkpoints of a finished run except those to keep; training state is three times the weights."""
    kept = {"best": {BEST}, "last": {BEST, LAST}, "none": set()}[keep]
    for name in {BEST, LAST, INTERRUPTED} - kept:
        (folder / name).unlink(missing_ok=True)
