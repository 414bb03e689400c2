"""Exponential moving average of the weights, which is evaluated and saved in place of the weights.

Lightning's own EMAWeightAveraging (2.6) is not used. It leaves the average out of checkpoints written with
``save_weights_only``, tests the raw weights when a checkpoint is loaded after ``fit``, swaps average and
weights in a checkpoint if it is interrupted during validation, and keeps the average on the CPU of a GPU run.
"""

from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from datamodules.errors import invalid

RAW_KEY = "weights_behind_average"  # where a checkpoint that can be resumed keeps the weights themselves
UPDATES_KEY = "average_updates"


class WeightAverage:
    """Moving average of a module's tensors, which can be swapped with them.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``, so that the first steps soon lose their weight.
    Integer tensors are copied.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.updates, self.swapped = decay, 0, False
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
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
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

    def __init__(self, decay: float = 0.998) -> None:
        if not 0 < decay < 1:
            raise invalid("--run.ema_decay", "must be between 0 and 1, such as 0.998", decay)
        self.decay = decay
        self.average = WeightAverage(decay)
        self._seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average before a checkpoint is loaded."""
        if stage == "fit":
            self.average = WeightAverage(self.decay)
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
