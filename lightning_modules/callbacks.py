"""What watches over a training: non-finite losses, refused checkpoints, lack of memory; the average of the weights."""

import errno
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.averaging import AverageWeights

SHOWN = 16  # rows named in a message


class NonFiniteLossError(InputError):
    """The loss became infinite or not a number. The checkpoint of the last epoch is sound, the weights may not be."""


class NonFiniteLoss(Callback):
    """Stops when the loss is not finite and names the rows of the batch.

    On a CPU the batch is stopped before it changes the weights. Elsewhere asking for the value would make every step
    wait for the device, so each step's answer is fetched in the background and read one step later.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._pending: tuple[Tensor, torch.cuda.Event | None, Tensor | None, int] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier training."""
        self._rows, self._pending = None, None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Remember the rows."""
        self._rows = batch.get("row")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Read the last step's answer, ask for this one's."""
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
        """Read the last answer before a checkpoint is written."""
        self._read()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse weights that cannot be evaluated, before they are kept."""
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
    "Lower model.learning_rate, set trainer.gradient_clip_val 1.0, or, with trainer.precision 16-mixed, use bf16-mixed "
    "or 32-true; if the same rows return, look at their images"
)


def out_of_memory_message(error: BaseException, batch_size: int) -> str | None:
    """Return what to do when ``error`` says that memory ran out, else None.

    The batch size to try is the largest power of two up to half of ``batch_size``, and gradients of several batches
    are added up so that the optimizer sees about as many images a step as before.
    """
    text = str(error)
    if not (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text  # torch's allocator on a CPU
        or "MPS backend out of memory" in text
    ):
        return None
    if batch_size <= 1:
        return "out of memory with a batch of one image: lower data.size or choose a smaller model.backbone"
    smaller = 1 << ((batch_size // 2).bit_length() - 1)
    return (
        f"out of memory with data.batch_size {batch_size}: try --data.batch_size {smaller} "
        f"--trainer.accumulate_grad_batches {round(batch_size / smaller)}; if that is not enough, lower data.size or "
        "choose a smaller model.backbone"
    )


def average_weights(decay: float) -> Callback:
    """Return the callback that averages the weights with ``decay`` a step, and evaluates and saves the average."""
    return AverageWeights(decay)


class CheckedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints and sees that they were written: Lightning 2.6 swallows a PermissionError there.

    A run would go on without anything to resume from, and be evaluated with an old checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write to `path`.

        Raises:
            PermissionError: the file there is not a new one.
        """
        before = _state(path)
        super().save_checkpoint(checkpoint, path, storage_options)
        if _state(path) in (None, before):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _state(path: str | Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is written or replaced, None without a file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino
