"""What ends a run early: Ctrl-C, SIGTERM, no memory, no room on the disk; and what is said of it."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.errors import InputError
from lightning_modules.callbacks import out_of_memory_message

INTERRUPTED = "interrupted.ckpt"


class _Sigterm:
    """Handles SIGTERM: ends the process as Ctrl-C would, so that its runs are closed; during training it waits.

    While a model trains, Lightning raises between two batches, and asks this handler, too.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self.pid, self.asked, self.waits = os.getpid(), False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.pid != os.getpid():  # a loader's worker that was forked ends as it always did
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self.asked:  # a second one must not stop the closing of the runs
            self.asked = True
            if not self.waits:
                raise SystemExit(143)

    def training_ended(self) -> None:
        """Wait no longer; raise when SIGTERM came after the last batch."""
        self.waits = False
        if self.asked:
            raise SystemExit(143)


_sigterm = _Sigterm()


@contextmanager
def sigterm_ends() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit(143)` inside; one inside another does nothing."""
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
    """Return what a tracked run is told of the error that ended it."""
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


class StopGracefully(Callback):
    """Ctrl-C ends the batch and leaves a checkpoint, a second one stops at once; SIGTERM leaves a checkpoint.

    A checkpoint is only written between batches, where weights, optimizer and counters agree.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INTERRUPTED
        self._asked = False
        self._before: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C, which only the main thread may; SIGTERM waits for the end of a batch from here on."""
        _sigterm.waits = True
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
        _sigterm.waits = False
        self._give_back()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give Ctrl-C back, and end here when SIGTERM came after the last batch."""
        self._give_back()
        _sigterm.training_ended()

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


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
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        advice = "let this user write there" if refused else "free space there"
        msg = f"cannot write to {place}: {error.strerror or error}; {advice}, then go on with --resume"
        raise InputError(msg) from error
