"""How one run begins and ends: its options, its callbacks, what stops it, and the one evaluation at its end."""

import errno
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.errors import InputError
from lightning_modules.callbacks import NonFiniteLoss, average_weights, out_of_memory_message

MONITOR = "val/f1_macro"  # of the inner split: what is selected on is never what is reported


def first_rank() -> bool:
    """Return whether this process keeps the run: alone, or rank zero of several."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


class RunOptions:
    """What a run is called, where it is kept, when it stops.

    Args:
        recipe: name shown beside the run.
        name: the run's name on the MLflow page; by default recipe, data, fold and seed.
        experiment: MLflow experiment.
        parent: run id of the parent, for the members of a cross-validation.
        resume: run id to go on with, or "auto": the newest unfinished run of the same config.
        patience: stop after this many epochs without a better inner macro F1; None: train all epochs.
        ema_decay: average the weights with this decay per step and evaluate the average; None: do not.
        evaluate: predict the outer part once at the end and write the two tables.
        resamples: bootstrap resamples of the printed intervals.
    """

    def __init__(
        self,
        recipe: str = "custom",
        name: str | None = None,
        experiment: str = "emotion",
        parent: str | None = None,
        resume: str | None = None,
        patience: int | None = None,
        ema_decay: float | None = None,
        evaluate: bool = True,
        resamples: int = 2000,
    ) -> None:
        if patience is not None and patience < 1:
            msg = f"--run.patience: at least 1 epoch, got {patience}; leave it out to train all epochs"
            raise InputError(msg)
        if ema_decay is not None and not 0 < ema_decay < 1:
            msg = f"--run.ema_decay: between 0 and 1 (such as 0.998), got {ema_decay}"
            raise InputError(msg)
        if resamples < 100:
            msg = f"--run.resamples: at least 100 for an interval (2000 is usual), got {resamples}"
            raise InputError(msg)
        self.recipe = recipe
        self.name = name
        self.experiment = experiment
        self.parent = parent
        self.resume = resume
        self.patience = patience
        self.ema_decay = ema_decay
        self.evaluate = evaluate
        self.resamples = resamples


class StopGracefully(Callback):
    """Ctrl-C ends the batch and leaves a checkpoint, a second one stops at once; SIGTERM leaves a checkpoint.

    A checkpoint is only written between batches, where weights, optimizer and counters agree.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "interrupted.ckpt"
        self._asked = False
        self._before: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nstopping after this batch; press Ctrl-C again to stop at once", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stop here when asked to; after the last batch of an epoch only when it is evaluated and kept."""
        if self._asked and not trainer.is_last_batch:
            if trainer.world_size == 1:
                trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Stop at the start of an epoch; the end of the one before has left a checkpoint."""
        if self._asked:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the evaluation."""
        if self._asked:
            raise KeyboardInterrupt

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the state on SIGTERM, which Lightning raises between batches."""
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            trainer.save_checkpoint(self.path)
        self._give_back()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


class GoOnAtBatch(Callback):
    """Takes a resumed epoch up at the batch it had reached.

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


class RunProgress(TQDMProgressBar):
    """Lightning's bar without the run's id in it."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items


def run_callbacks(options: RunOptions, folder: Path, *, progress: bool = True) -> list[Callback]:
    """Return the callbacks every run has: best and last checkpoint, early stopping, guards, progress bar."""
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
        callbacks.append(RunProgress(refresh_rate=5))
    if options.patience is not None:
        callbacks.append(EarlyStopping(monitor=MONITOR, mode="max", patience=options.patience))
    if options.ema_decay is not None:
        callbacks.append(average_weights(options.ema_decay))
    return callbacks


def resume_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint a stopped run left, or None when it had not finished an epoch.

    Raises:
        InputError: both checkpoints are damaged.
    """
    found: dict[Path, int] = {}
    damaged: list[str] = []
    for path in (folder / "last.ckpt", folder / "interrupted.ckpt"):
        if path.is_file():
            try:
                found[path] = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
            except (RuntimeError, OSError, LookupError, EOFError, ValueError, pickle.UnpicklingError) as error:
                damaged.append(f"{path.name} ({str(error).partition(chr(10))[0][:80]})")
    if not found and damaged:
        msg = (
            f"--resume: every checkpoint of the run is damaged: {', '.join(damaged)}; "
            f"start again without --resume, or delete {folder} to begin the same run anew"
        )
        raise InputError(msg)
    return max(found, key=lambda path: found[path]) if found else None


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOTDIR}


@contextmanager
def explained(batch_size: int) -> Iterator[None]:
    """Turn what commonly ends a run (memory, disk) into an error that says what to do.

    Raises:
        InputError: in place of an out-of-memory error, a full disk or an unwritable folder.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if advice := out_of_memory_message(error, batch_size):
            raise InputError(advice) from error
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):
            msg = f"mlruns: no checkpoint was written ({str(error).splitlines()[0][:80]}); is the disk full?"
            raise InputError(msg) from error
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        place = error.filename or "the runs' folder or the cache"
        msg = f"cannot write to {place}: {error.strerror or error}; free space there, then go on with --resume"
        raise InputError(msg) from error
