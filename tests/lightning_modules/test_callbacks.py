"""Non-finite losses stop with their rows, and running out of memory says what to try."""

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from tiny_task import TinyTask, classifier, trainer
from torch import Tensor

from lightning_modules.callbacks import (
    NonFiniteLoss,
    NonFiniteLossError,
    StopEarly,
    out_of_memory_message,
    run_callbacks,
)
from lightning_modules.config import RunOptions
from lightning_modules.losses import CrossEntropy

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Breaks(CrossEntropy):
    """Is not finite from its n-th batch of training on."""

    def __init__(self, batch: int, value: float) -> None:
        super().__init__()
        self.left, self.value = batch, value

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.left -= 1
        return super().forward(logits, target) * (self.value if self.left < 0 else 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change_and_names_its_rows(value: float) -> None:
    model = classifier(loss=Breaks(1, value))
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 1; .*: 8, 9, 10, 11, 12, 13, 14, 15\. Lower"):
        trainer(2, callbacks=[NonFiniteLoss()]).fit(model, datamodule=TinyTask())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_many_rows_are_not_all_listed() -> None:
    with pytest.raises(NonFiniteLossError, match=r": 0, 1, .*, 15 and 8 more\."):
        trainer(1, callbacks=[NonFiniteLoss()]).fit(
            classifier(loss=Breaks(0, float("nan"))), datamodule=TinyTask(batch=24)
        )


def test_weights_that_cannot_be_evaluated_stop_before_they_are_kept() -> None:
    class Poison(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            return

        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match="val/loss is nan after step 3"):
        trainer(1, callbacks=[NonFiniteLoss(), Poison()]).fit(classifier(), datamodule=TinyTask())


@pytest.mark.parametrize(
    ("error", "size", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 128, "--data.batch_size 64 --trainer.accumulate_grad_batches 2"),
        (MemoryError(), 100, "--data.batch_size 32 --trainer.accumulate_grad_batches 3"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3, "batch of 3: lower --data.size"),
        (RuntimeError("MPS backend out of memory (MPS allocated"), 1, "lower --data.size or choose a smaller"),
    ],
)
def test_out_of_memory_says_which_batch_size_to_try(error: BaseException, size: int, message: str) -> None:
    advice = out_of_memory_message(error, size)
    assert advice is not None
    assert message in advice


def test_with_sharpness_aware_steps_no_gradients_are_added_up() -> None:
    advice = out_of_memory_message(MemoryError(), 100, accumulates=False)
    assert advice is not None
    assert "--data.batch_size 32;" in advice


class PressCtrlC(pl.Callback):
    """Sends SIGINT in one batch of training."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: object, number: int) -> None:
        if number == self.batch:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_step_and_the_average(tmp_path: Path) -> None:
    """Four batches, of which two make a step; it is pressed in the first."""
    options = RunOptions(ema_decay=0.9)
    callbacks = [*run_callbacks(options, tmp_path, progress=False), PressCtrlC(0)]
    with pytest.raises(SystemExit, match="1"):  # Lightning's answer to Ctrl-C
        trainer(1, callbacks=callbacks, accumulate_grad_batches=2, enable_checkpointing=True).fit(
            classifier(), datamodule=TinyTask(32)
        )
    state = torch.load(tmp_path / "interrupted.ckpt", weights_only=True)
    assert state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 2
    assert state["global_step"] == state["average_updates"] == 1


def test_a_stop_waits_for_the_validation_that_follows_its_batch(tmp_path: Path) -> None:
    """Four batches with a validation after every second; Ctrl-C in the second."""
    validated: list[int] = []

    class Count(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            validated.append(trainer.global_step)

    callbacks = [*run_callbacks(RunOptions(), tmp_path, progress=False), PressCtrlC(1), Count()]
    with pytest.raises(SystemExit, match="1"):
        trainer(1, callbacks=callbacks, val_check_interval=2, enable_checkpointing=True).fit(
            classifier(), datamodule=TinyTask(32)
        )
    assert validated == [2]
    assert torch.load(tmp_path / "interrupted.ckpt", weights_only=True)["global_step"] == 3


def test_early_stopping_is_stored_under_the_name_of_lightnings_class() -> None:
    ours, theirs = (kind(monitor="x", mode="max", patience=1) for kind in (StopEarly, EarlyStopping))
    assert ours.state_key == theirs.state_key


def test_a_run_that_had_stopped_early_trains_no_further_epoch() -> None:
    stop, run = StopEarly("val/f1_macro", patience=2), trainer(3)
    stop.wait_count = 1
    stop.on_train_start(run, classifier())
    assert not run.should_stop
    stop.wait_count = 2
    stop.on_train_start(run, classifier())
    assert run.should_stop


def test_the_training_loss_of_sharpness_aware_steps_is_that_of_the_model() -> None:
    losses = []
    for radius in (0.0, 0.5):
        run = trainer(1)
        run.fit(classifier(sam_radius=radius, learning_rate=1e-9, warmup=0.0), datamodule=TinyTask())
        losses.append(float(run.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_other_errors_are_not_taken_for_memory() -> None:
    assert out_of_memory_message(RuntimeError("shapes do not match"), 64) is None
