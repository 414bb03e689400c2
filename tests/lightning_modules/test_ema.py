"""The weight average against a plain loop, through validation, checkpoints, interruption and resuming."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_task import Killed, StopAfter, TinyTask, classifier, trainer
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.callbacks import AverageWeights, WeightAverage
from lightning_modules.classifier import EmotionClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Recorder(pl.Callback):
    """Averages the weights again, in double precision, and notes what validation sees."""

    def __init__(self, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.mean: dict[str, Tensor] = {}
        self.validated: list[Tensor] = []
        self.raw: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.mean = {name: value.double() for name, value in pl_module.state_dict().items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.raw = {name: value.clone() for name, value in pl_module.state_dict().items()}
        for name, value in self.raw.items():
            kept = value.is_floating_point()
            self.mean[name] = decay * self.mean[name] + (1 - decay) * value if kept else value.double()
        self.updates += 1

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.validated.append(pl_module.state_dict()["head.1.weight"].clone())


def close(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(state) == list(expected)
    for name, value in state.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-4, atol=1e-5, msg=name)


def test_the_average_is_evaluated_saved_and_left_as_the_model(tmp_path: Path) -> None:
    record = Recorder(0.5)
    best = ModelCheckpoint(tmp_path, "best", monitor="val/loss", save_weights_only=True)
    last = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True)
    model = classifier(learning_rate=3e-3)
    fit = trainer(2, callbacks=[AverageWeights(0.5), record, best, last], enable_checkpointing=True)
    fit.fit(model, datamodule=TinyTask())
    assert not torch.equal(record.raw["head.1.weight"], record.mean["head.1.weight"].float())
    torch.testing.assert_close(record.validated[-1].double(), record.mean["head.1.weight"], rtol=1e-4, atol=1e-5)
    close(model.state_dict(), record.mean)
    resumable = torch.load(tmp_path / "last.ckpt", weights_only=True)
    close(resumable["state_dict"], record.mean)
    close(resumable["weights_behind_average"], record.raw)
    # the best epoch may be the first; written with save_weights_only, it must hold an average all the same
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["head.1.weight"]
    assert any(torch.equal(kept, seen) for seen in record.validated)
    # testing a checkpoint after the fit tests the average too
    fit.test(model, datamodule=TinyTask(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True, verbose=False)
    close(model.state_dict(), record.mean)
    close(EmotionClassifier.from_checkpoint(tmp_path / "last.ckpt").state_dict(), record.mean)


def test_a_resumed_average_goes_on(tmp_path: Path) -> None:
    whole = classifier()
    trainer(4, callbacks=[AverageWeights(0.9)]).fit(whole, datamodule=TinyTask())
    stop = StopAfter(2, tmp_path / "half.ckpt")
    with pytest.raises(Killed):
        trainer(4, callbacks=[AverageWeights(0.9), stop]).fit(classifier(), datamodule=TinyTask())
    for callbacks, same in (([AverageWeights(0.9)], True), ([], False)):
        second = classifier()
        fit = trainer(4, callbacks=callbacks)
        fit.fit(second, datamodule=TinyTask(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
        pairs = zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs) == same


def test_an_interrupted_validation_leaves_weights_and_average_in_place(tmp_path: Path) -> None:
    class Interrupt(pl.Callback):
        def on_validation_batch_end(self, *_: object) -> None:
            raise Killed

        def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
            trainer.save_checkpoint(tmp_path / "interrupted.ckpt")

    record = Recorder(0.5)
    # the one that saves comes first, while average and weights are still exchanged
    fit = trainer(1, callbacks=[Interrupt(), AverageWeights(0.5), record])
    model = classifier()
    with pytest.raises(Killed):
        fit.fit(model, datamodule=TinyTask())
    saved = torch.load(tmp_path / "interrupted.ckpt", weights_only=True)
    close(saved["state_dict"], record.mean)
    close(saved["weights_behind_average"], record.raw)
    close(model.state_dict(), record.raw)


def test_several_batches_a_step_are_averaged_once_a_step() -> None:
    average = AverageWeights(0.9)
    trainer(2, callbacks=[average], accumulate_grad_batches=3).fit(classifier(), datamodule=TinyTask())
    assert average.average.updates == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(("warmup", "first"), [(2, 1 / 2), (10, 1 / 10)])
def test_the_warm_up_sets_how_soon_the_first_weights_are_forgotten(warmup: int, first: float) -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    average = WeightAverage(0.999, warmup)
    average.start(layer)
    layer.weight.data.fill_(0.0)
    shares = []
    for _ in range(3):
        average.update()
        shares.append(float(average.state()["weight"]))
    expected = [first, first * 2 / (1 + warmup), first * 2 / (1 + warmup) * 3 / (2 + warmup)]
    assert shares == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_out_of_range_is_an_error(decay: float) -> None:
    with pytest.raises(InputError, match=r"--run.ema_decay: must be between 0 and 1"):
        AverageWeights(decay)
