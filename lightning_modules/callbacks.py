"""Callbacks and checkpoints of a run: guards, progress, graceful stop, and the point where a stopped run resumes."""

import errno
import logging
import os
import pickle
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from datamodules.errors import InputError, invalid
from lightning_modules.config import EMA_WARMUP, MONITOR, Keep, RunOptions

RAW_KEY = "weights_behind_average"  # where a checkpoint that can be resumed keeps the weights themselves
UPDATES_KEY = "average_updates"


class WeightAverage:
    """Moving average of a module's tensors, which can be swapped with them.

    The decay of update n is ``min(decay, (1 + n) / (warmup + n))``, so that the first steps soon lose their weight: as
    long as ``decay`` is not reached, the average covers about the last ``1 / (warmup - 1)`` of the steps so far.
    Integer tensors are copied.
    """

    def __init__(self, decay: float, warmup: int = EMA_WARMUP) -> None:
        self.decay, self.warmup, self.updates, self.swapped = decay, warmup, 0, False
        self.loaded: dict[str, Tensor] | None = None
        self.names: list[str] = []
        self.live: list[Tensor] = []
        self.mean: list[Tensor] = []

    @torch.no_grad()
    def start(self, module: nn.Module) -> None:
        """Start from the module's tensors, on their final device, or from a loaded average."""
        state = module.state_dict()  # shares its memory with the module
        self.names, self.live = list(state), list(state.values())
        self.mean = [value.clone() for value in (self.loaded or state).values()]
        self.mean = [m.to(value.device) for m, value in zip(self.mean, self.live, strict=True)]
        self.loaded, self.swapped = None, False

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        decay = min(self.decay, (1 + self.updates) / (self.warmup + self.updates))
        pairs = list(zip(self.mean, self.live, strict=True))
        floats = [(m, value) for m, value in pairs if m.is_floating_point()]
        move = get_ema_multi_avg_fn(decay)
        move([m for m, _ in floats], [value for _, value in floats], self.updates)
        for m, value in pairs:
            if not m.is_floating_point():
                m.copy_(value)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Swap average and weights."""
        for m, value in zip(self.mean, self.live, strict=True):
            kept = value.clone()
            value.copy_(m)
            m.copy_(kept)
        self.swapped = not self.swapped

    def state(self) -> dict[str, Tensor]:
        """Return the average as a state dict."""
        return dict(zip(self.names, self.live if self.swapped else self.mean, strict=True))

    def raw(self) -> dict[str, Tensor]:
        """Return the weights as a state dict."""
        return dict(zip(self.names, self.mean if self.swapped else self.live, strict=True))

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Store the average as the model of a checkpoint; one with training state keeps the raw weights, too."""
        if not self.names:
            return
        checkpoint["state_dict"] = self.state()
        if "optimizer_states" in checkpoint:
            checkpoint[RAW_KEY], checkpoint[UPDATES_KEY] = self.raw(), self.updates

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Load the average of a checkpoint, if it has one."""
        if RAW_KEY in checkpoint:
            self.loaded, self.updates = checkpoint["state_dict"], checkpoint[UPDATES_KEY]


class Averaged(Protocol):
    """A module that saves its average, see `EmotionClassifier.on_save_checkpoint`."""

    average: WeightAverage | None


class AverageWeights(Callback):
    """Update ``pl_module.average`` during training, and evaluate it in place of the weights."""

    def __init__(self, decay: float = 0.998, warmup: int = EMA_WARMUP) -> None:
        if not 0 < decay < 1:
            raise invalid("--run.ema_decay", "must be between 0 and 1, such as 0.998", decay)
        self.decay, self.warmup = decay, warmup
        self.average = WeightAverage(decay, warmup)
        self._seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average before a checkpoint is loaded."""
        if stage == "fit":
            self.average = WeightAverage(self.decay, self.warmup)
            cast(Averaged, pl_module).average = self.average

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the step at which a resumed run continues."""
        self._seen = trainer.global_step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the average, now that the weights are loaded and on their device."""
        self.average.start(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Update the average once per optimizer step, however many batches it took."""
        if trainer.global_step > self._seen:
            self._seen = trainer.global_step
            self.average.update()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in place of the weights."""
        if trainer.state.fn == TrainerFn.FITTING and not self.average.swapped:
            self.average.swap()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back after a validation that was interrupted."""
        self._restore()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the average the weights of the model."""
        pl_module.load_state_dict(self.average.state())
        cast(Averaged, pl_module).average = None

    def _restore(self) -> None:
        if self.average.swapped:
            self.average.swap()


BEST, LAST = "best.ckpt", "last.ckpt"
SHOWN = 16  # rows named in a message


class NonFiniteLossError(InputError):
    """The loss became infinite or NaN. The checkpoint of the last epoch is valid, the current weights may not be."""


class NonFiniteLoss(Callback):
    """Stop training when the loss is not finite, and name the rows of the batch.

    On a CPU training stops before the batch changes the weights. On other devices reading the value would make every
    step wait, so the value of each step is copied in the background and read one step later.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._pending: tuple[Tensor, torch.cuda.Event | None, Tensor | None, int] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the state of an earlier training."""
        self._rows, self._pending = None, None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Store the rows of the batch."""
        self._rows = batch.get("row")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss of the last step, and start copying that of this step."""
        self._read()
        finite = torch.isfinite(loss.detach())
        if finite.device.type == "cuda":
            answer = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(finite, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
            self._pending = (answer, ready, self._rows, trainer.global_step)
            return
        self._pending = (finite, None, self._rows, trainer.global_step)
        if finite.device.type == "cpu":
            self._read()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the last loss before a checkpoint is written."""
        self._read()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise if the weights have no finite validation loss, before they are saved."""
        self._read()
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not torch.isfinite(loss):
            msg = f"val/loss is {float(loss)} after step {trainer.global_step}: {ADVICE}"
            raise NonFiniteLossError(msg)

    def _read(self) -> None:
        if self._pending is None:
            return
        answer, ready, rows, step = self._pending
        self._pending = None
        if ready is not None:
            ready.synchronize()
        if bool(answer):
            return
        names = [] if rows is None else rows.tolist()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        listed = f"{', '.join(map(str, names[:SHOWN]))}{more}" if names else "unknown"
        msg = f"the loss is not finite at step {step}; rows of the manifest in this batch: {listed}. {ADVICE}"
        raise NonFiniteLossError(msg)


ADVICE = (
    "Lower --model.learning_rate (and --model.sam_radius where it is used), give --trainer.gradient_clip_val 1.0, or, "
    "with --trainer.precision 16-mixed, choose bf16-mixed or 32-true; if the same rows are named again, check their "
    "images"
)


def out_of_memory_message(error: BaseException, batch_size: int, *, accumulates: bool = True) -> str | None:
    """Return what to do when ``error`` says that memory ran out, else None.

    The batch size to try is the largest power of two up to half of ``batch_size``, and gradients of several batches
    are added up so that the optimizer sees about as many images per step as before.

    Args:
        error: What was raised.
        batch_size: Images in a batch; at least 2 are needed.
        accumulates: Whether gradients may be added up, which sharpness-aware steps cannot.
    """
    text = str(error)
    if not (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text  # torch's allocator on a CPU
        or "MPS backend out of memory" in text
    ):
        return None
    if batch_size < 4:
        return f"out of memory with a batch of {batch_size}: lower --data.size or choose a smaller --model.backbone"
    smaller = 1 << ((batch_size // 2).bit_length() - 1)
    added = f" --trainer.accumulate_grad_batches {round(batch_size / smaller)}" if accumulates else ""
    return (
        f"out of memory with --data.batch_size {batch_size}: try --data.batch_size {smaller}{added}; if that is not "
        "enough, lower --data.size or choose a smaller --model.backbone"
    )


def killed_worker_message(error: BaseException) -> str | None:
    """Return what to do if the system killed a loading process; None for any other error."""
    cause: BaseException | None = error
    while cause is not None and "DataLoader worker" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    how = re.search(r"killed by signal: (.*?)\.", str(cause))
    if how is not None and how[1] == "Killed":
        return (
            "a loading process was killed, most likely because memory ran out: lower --data.num_workers (0 uses none) "
            "or --data.batch_size"
        )
    if (how is not None and how[1] == "Bus error") or "shared memory" in str(cause):
        return (
            "a loading process was killed (Bus error), since the shared memory (/dev/shm) is full: give "
            "--data.num_workers 0, or more shared memory (docker run --shm-size 8g)"
        )
    return (
        f"a loading process ended unexpectedly ({str(cause).splitlines()[0][:120]}); give --data.num_workers 0 "
        "to see the error itself"
    )


class CheckedCheckpointIO(TorchCheckpointIO):
    """Write checkpoints and check that they were written, since Lightning 2.6 ignores a PermissionError.

    A run would continue without a checkpoint to resume from, and be evaluated with an old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write to `path`.

        Raises:
            PermissionError: the file was not written.
        """
        before = _state(path)
        super().save_checkpoint(checkpoint, path, storage_options)
        if _state(path) in (None, before):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _state(path: str | Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is written or replaced, None without a file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


class RunProgress(TQDMProgressBar):
    """Lightning's progress bar without the run id."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics that are shown behind the bar."""
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
        """Store the time, since a resumed epoch has no start."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the time."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print loss, val macro F1 and seconds."""
        if not trainer.is_global_zero:
            return
        names = {"train/loss": "loss", "val/f1_macro": "val macro F1"}
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
    """Return a progress bar if there is a terminal, else one line per epoch."""
    return RunProgress(refresh_rate=5) if has_bar() else EpochLines()


def print_stage(text: str) -> None:
    """Print which stage starts, unless a terminal shows a progress bar for it."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def quiet() -> None:
    """Silence messages that do not help a user: advertisements, device lists, notes on choices made here."""
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
        ".*could not find the monitored key in the returned metrics.*",  # no validation; the run says so itself
        ".*ReduceLROnPlateau conditioned on metric .* which is not available but strict.*",  # not in every epoch
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.formatwarning = _note


def _note(message: Warning | str, *_: object, **__: object) -> str:
    """Format a warning for users, without the path of a source file."""
    return f"note: {message}\n"


INTERRUPTED = "interrupted.ckpt"


class _Sigterm:
    """Handler of SIGTERM: ends the process as Ctrl-C would, so that its runs are closed; during training it waits.

    During training, Lightning's own handler raises between two batches, and calls this one, too.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start a training: SIGTERM waits from here on."""
        self.pid, self.requested, self.waits = os.getpid(), False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.pid != os.getpid():  # a forked worker of a loader ends as usual
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self.requested:  # a second one must not stop the closing of the runs
            self.requested = True
            if not self.waits:
                raise SystemExit(143)

    def training_ended(self) -> None:
        """End the waiting; raise if SIGTERM came after the last batch."""
        self.waits = False
        if self.requested:
            raise SystemExit(143)


_sigterm = _Sigterm()


@contextmanager
def sigterm_ends() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit(143)` within the block; nested uses have no effect."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is _sigterm:
        yield
        return
    _sigterm.begin()
    signal.signal(signal.SIGTERM, _sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def how_it_ended(error: BaseException) -> str:
    """Return the status of a tracked run that an error has ended."""
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


class StopGracefully(Callback):
    """Graceful stop by Ctrl-C or SIGTERM: finish the step, save a checkpoint, end; a second Ctrl-C stops at once.

    A checkpoint is only written between steps, where weights, optimizer and counters agree: not between batches whose
    gradients are added up, and not inside a validation, which is finished. Under several processes SIGTERM is left to
    Lightning, and no checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INTERRUPTED
        self._interrupted = False  # by Ctrl-C
        self._requested: BaseException | None = None
        self._before: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle Ctrl-C, which only the main thread may; SIGTERM waits for the end of a step from here on."""
        _sigterm.waits = True
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._requested = KeyboardInterrupt()
        print("\nstopping after this batch; press Ctrl-C again to stop at once", flush=True)

    def _take_sigterm(self, trainer: Trainer) -> None:
        """Take a SIGTERM over from Lightning, which would raise at once, also in the middle of a validation."""
        if trainer.received_sigterm and trainer.world_size == 1:
            trainer._signal_connector.received_sigterm = False
            self._requested = SystemExit(143)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stop if requested; after the last batch of an epoch only once the epoch is evaluated and saved."""
        self._take_sigterm(trainer)
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        if self._requested and not trainer.is_last_batch and not loop._should_accumulate():
            if fetcher is not None and loop._should_check_val_fx(fetcher):
                return  # resumed from here, the run would skip the validation that follows this batch
            if trainer.world_size == 1:
                trainer.save_checkpoint(self.path)
            raise self._requested

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Finish the validation before a stop: a run that was resumed inside it would never select that epoch."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._take_sigterm(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Stop at the start of an epoch if requested; the previous epoch has saved a checkpoint."""
        if self._requested and batch_idx == 0:
            raise self._requested

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the evaluation."""
        if self._requested:
            raise self._requested

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state where Lightning raises for SIGTERM, between batches."""
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            if not trainer.validating and not trainer.fit_loop.epoch_loop._should_accumulate():
                trainer.save_checkpoint(self.path)
        _sigterm.waits = False
        self._restore_handler()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handler of Ctrl-C, and end here if SIGTERM came after the last batch."""
        self._restore_handler()
        _sigterm.training_ended()

    def _restore_handler(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


class StopEarly(EarlyStopping):
    """Lightning's early stopping; a resumed run that had stopped early does not train another epoch."""

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint, which is that of Lightning's class."""
        return f"EarlyStopping{ {'monitor': self.monitor, 'mode': self.mode}!r}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a run whose patience had ended before it was interrupted."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOTDIR}


@contextmanager
def explained(batch_size: int, *, accumulates: bool = True) -> Iterator[None]:
    """Turn common failures of a run (memory, disk, loading processes) into an error that says what to do.

    Args:
        batch_size: Images in a batch.
        accumulates: Whether gradients of several batches may be added up.

    Raises:
        InputError: in place of an out-of-memory error, a killed loading process, a full disk or an unwritable folder.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if advice := out_of_memory_message(error, batch_size, accumulates=accumulates):
            raise InputError(advice) from error
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):
            msg = f"mlruns: no checkpoint was written ({str(error).splitlines()[0][:80]}); is the disk full?"
            raise InputError(msg) from error
        if advice := killed_worker_message(error):
            raise InputError(advice) from error
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        place = error.filename or "the runs' folder or the cache"
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        advice = "let this user write there" if refused else "free space there"
        msg = f"cannot write to {place}: {error.strerror or error}; {advice}, then continue with --resume"
        raise InputError(msg) from error


def first_rank() -> bool:
    """Return whether this process writes the run: the only one, or rank zero of several."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


class ResumeAtBatch(Callback):
    """Resume an epoch at the batch where it was stopped.

    Lightning does this itself, except if the model asked for the number of steps to plan a schedule: then the loader
    is created before its state is read from the checkpoint, and never receives it.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the position of the loader."""
        self._states = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the position to the loader, before its first batch."""
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
        ResumeAtBatch(),
        NonFiniteLoss(),
    ]
    if progress:
        callbacks.append(run_progress())
    if options.patience is not None:
        # not strict: a run that ends by max_steps or max_time before its first validation has nothing to look at
        callbacks.append(StopEarly(monitor=MONITOR, mode="max", patience=options.patience, strict=False))
    if options.ema_decay is not None:
        callbacks.append(AverageWeights(options.ema_decay, options.ema_warmup))
    return [*callbacks, StopGracefully(folder)]  # after the others have done what belongs to a step


def resume_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a stopped run, or None if there is none.

    Raises:
        InputError: both checkpoints are damaged.
    """
    steps: dict[Path, int] = {}
    damaged: list[str] = []
    for path in (folder / LAST, folder / INTERRUPTED):
        if path.is_file():
            try:
                steps[path] = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
            except (RuntimeError, OSError, LookupError, EOFError, ValueError, pickle.UnpicklingError) as error:
                damaged.append(f"{path.name} ({str(error).partition(chr(10))[0][:80]})")
    if not steps and damaged:
        msg = (
            f"--resume: every checkpoint of the run is damaged: {', '.join(damaged)}; "
            f"start again without --resume, or delete {folder} to start the same run again"
        )
        raise InputError(msg)
    return max(steps, key=lambda path: steps[path]) if steps else None


def remove_checkpoints(folder: Path, keep: Keep = "best") -> None:
    """Remove the checkpoints of a finished run except those to keep; a training state is twice as large as weights."""
    kept = {"best": {BEST}, "last": {BEST, LAST}, "none": set()}[keep]
    for name in {BEST, LAST, INTERRUPTED} - kept:
        (folder / name).unlink(missing_ok=True)
