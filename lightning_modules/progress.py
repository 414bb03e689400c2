"""Progress of training: a bar on a terminal, else one line per stage and per epoch."""

import logging
import sys
import time
import warnings

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar


class RunProgress(TQDMProgressBar):
    """Lightning's bar without the run's id in it."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items


class EpochLines(Callback):
    """Print one line per epoch, for output that is not a terminal.

    Args:
        label: printed before each line, such as ``fold 2: ``, if several trainings print at the same time.
    """

    def __init__(self, label: str = "") -> None:
        self._label, self._start = label, time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock: an epoch that is resumed has no start of its own."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print loss, inner macro F1 and seconds."""
        if not trainer.is_global_zero:
            return
        names = {"train/loss": "loss", "val/f1_macro": "inner macro F1"}
        known = trainer.callback_metrics
        values = "".join(f"{shown} {float(known[name]):.3f}, " for name, shown in names.items() if name in known)
        seconds = time.perf_counter() - self._start
        last = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        line = f"{self._label}epoch {trainer.current_epoch + 1}{last}: {values}{seconds:.1f} s"
        print(line, file=sys.stderr, flush=True)


def has_bar() -> bool:
    """Return whether there is a terminal for a progress bar; Lightning draws it on stdout."""
    return sys.stdout.isatty()


def run_progress() -> Callback:
    """Return the bar when there is a terminal to draw it on, else the lines."""
    return RunProgress(refresh_rate=5) if has_bar() else EpochLines()


def say_stage(text: str) -> None:
    """Print which stage starts, unless a terminal shows a bar for it."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def quiet() -> None:
    """Silence messages that do not help a user: advertisements, device lists, notes on our own choices."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",  # two cores: the workers we ask for are the workers there are
        ".*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
        ".*LeafSpec.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ".*Detected call of `lr_scheduler.step\\(\\)` before.*",
        ".*find_unused_parameters.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.formatwarning = _note


def _note(message: Warning | str, *_: object, **__: object) -> str:
    """Format a warning for users, without the path of a source file."""
    return f"note: {message}\n"
