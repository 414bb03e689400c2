"""The classifier in whole small trainings: schedules, mixing, freezing, checkpoints, predictions, the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_task import CLASSES, SMALL, Killed, Squares, StopAfter, TinyTask, classifier, trainer
from torch.nn import functional as F

from datamodules.errors import InputError
from lightning_modules.backbones import NormalisedHead
from lightning_modules.classifier import EmotionClassifier, progressive_side
from lightning_modules.export import export_onnx
from lightning_modules.losses import LDAM, BalancedSoftmax, CrossEntropy, Focal, LogitAdjustment
from lightning_modules.predictor import Trained

pytestmark = [
    # the tests keep no worker processes for 24 images
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    # Lightning 2.6 with torch 2.15
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


MOVES = ((0, 0), (0, 3), (0, -3), (3, 0), (-3, 0))  # down and to the right, in pixels


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmotionClassifier, Path, dict[str, Any]]:
    """One training that others look at: model, checkpoint and the metrics of its last epoch."""
    model = classifier(loss=Focal([1.0, 2.0, 1.0], 1.0), learning_rate=3e-3, flip_at_test=True)
    fit = trainer(4)
    fit.fit(model, datamodule=TinyTask())
    path = tmp_path_factory.mktemp("run") / "model.ckpt"
    fit.save_checkpoint(path)
    return model.eval(), path, dict(fit.callback_metrics)


def images(rows: int = 4) -> torch.Tensor:
    return torch.stack([Squares(rows)[row]["image"] for row in range(rows)])


def test_training_learns_and_reports(trained: tuple[EmotionClassifier, Path, dict[str, Any]]) -> None:
    metrics = trained[2]
    assert metrics["train/loss"] < 0.9
    assert {"val/loss", "val/f1_macro", "val/f1_sad", "val/recall_happy", "val/calibration_error"} <= set(metrics)


def test_a_checkpoint_opens_without_running_code_and_rebuilds_the_model(
    trained: tuple[EmotionClassifier, Path, dict[str, Any]],
) -> None:
    model, path, _ = trained
    assert torch.load(path, weights_only=True)["optimizer_states"]
    again = EmotionClassifier.from_checkpoint(path, CLASSES)
    assert not again.training
    assert again.classes == CLASSES
    assert torch.equal(again.probabilities(images()), model.probabilities(images()))


def test_probabilities_average_logits_with_the_mirrored_image(
    trained: tuple[EmotionClassifier, Path, dict[str, Any]],
) -> None:
    model = trained[0]
    with torch.inference_mode():
        logits = (model(images()) + model(images().flip(3))) / 2
        torch.testing.assert_close(model.probabilities(images()), logits.softmax(1))


@pytest.mark.parametrize("flip", [False, True])
def test_views_at_test_are_averaged_and_kept_in_the_checkpoint(tmp_path: Path, flip: bool) -> None:
    model = classifier(shift_at_test=0.1, flip_at_test=flip, stem_stride=1)
    fit = trainer()
    fit.fit(model, datamodule=TinyTask())
    fit.save_checkpoint(tmp_path / "model.ckpt")
    model = EmotionClassifier.from_checkpoint(tmp_path / "model.ckpt")
    padded = np.pad(images().numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")  # a tenth of 32 pixels
    views = [padded[..., 3 - down : 35 - down, 3 - right : 35 - right] for down, right in MOVES]
    views += [view[..., ::-1] for view in views] if flip else []
    with torch.inference_mode():
        logits = torch.stack([model(torch.tensor(view.copy())) for view in views]).mean(0)
        torch.testing.assert_close(model.probabilities(images()), logits.softmax(1))
        assert not torch.allclose(model.probabilities(images()), model(images()).softmax(1))
    trainer().test(model, datamodule=TinyTask(), verbose=False)
    assert model.test_predictions is not None
    np.testing.assert_allclose(model.test_predictions["prob"], model.probabilities(images(14)).detach(), atol=1e-5)


def test_progressive_images_grow_to_the_full_size() -> None:
    assert [progressive_side(epoch, 6, 24, 48) for epoch in range(6)] == [24, 30, 36, 42, 48, 48]
    assert [progressive_side(epoch, 1, 24, 48) for epoch in range(1)] == [24]
    seen: dict[int, set[int]] = {}
    model = classifier(progressive_from=16)
    model.backbone.register_forward_pre_hook(
        lambda module, inputs: (
            seen.setdefault(model.current_epoch, set()).add(inputs[0].shape[-1]) if module.training else None
        )
    )
    trainer(3).fit(model, datamodule=TinyTask())
    assert seen == {0: {16}, 1: {24}, 2: {32}}


def test_the_last_epochs_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(cutmix=1.0, unmixed_epochs=2)
    mixed: list[int] = []
    mix = model.mixing.__call__

    def record(images: torch.Tensor, target: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        mixed.append(model.current_epoch)
        return mix(images, target, seed)

    monkeypatch.setattr(type(model.mixing), "__call__", lambda self, *arguments: record(*arguments))
    trainer(3).fit(model, datamodule=TinyTask())
    assert set(mixed) == {0}


def test_test_predictions_hold_every_row_once(trained: tuple[EmotionClassifier, Path, dict[str, Any]]) -> None:
    model = EmotionClassifier.from_checkpoint(trained[1])
    test = trainer()
    (metrics,) = test.test(model, datamodule=TinyTask(), verbose=False)
    found = model.test_predictions
    assert found is not None
    assert found["row"].tolist() == list(range(14))
    assert found["label"].tolist() == [row % 3 for row in range(14)]
    np.testing.assert_allclose(found["prob"], model.probabilities(images(14)).detach(), atol=1e-5)
    expected = F.nll_loss(torch.tensor(found["prob"]).log(), torch.tensor(found["label"]))
    assert metrics["test/nll"] == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["test/loss"] == pytest.approx(expected.item(), abs=1e-5)
    parts = trainer().predict(model, datamodule=TinyTask())
    assert parts is not None
    np.testing.assert_allclose(torch.cat([part["prob"] for part in parts]), found["prob"], atol=1e-6)  # type: ignore[index]


def test_normalisation_is_the_backbones() -> None:
    model = EmotionClassifier(CLASSES, backbone="tf_efficientnet_lite0", weights="none")
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert model.normalise(image).flatten().tolist() == [-1.0, 1.0] * 3
    assert torch.equal(model.normalise(image), model.normalise(image.float()))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam", "schedule": "cosine", "warmup": 0.3, "mixup": 0.2, "cutmix": 1.0},
        {"optimizer": "sgd", "schedule": "plateau", "warmup": 0.3, "head": "dense_dense", "dropout": 0.2},
        {"schedule": "one_cycle", "warmup": 0.3, "loss": LDAM(), "drop_path": 0.1},
        {"schedule": "one_cycle", "loss": BalancedSoftmax(), "cutmix": 1.0, "channels_last": False},
        {"loss": LogitAdjustment(), "freeze": "all"},
        {"schedule": "one_cycle", "layer_decay": 0.7, "stem_stride": 1},
        {"schedule": "cosine", "sam_radius": 0.05, "mixup": 0.2},
        {"loss": CrossEntropy("balanced", 0.1), "head": "normalised"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_options_train(options: dict[str, Any]) -> None:
    model = classifier(**options)
    fit = trainer(2)
    fit.fit(model, datamodule=TinyTask())
    assert torch.isfinite(fit.callback_metrics["train/loss"])


def test_a_soft_target_in_the_batch_is_what_the_loss_sees() -> None:
    model = classifier().eval()
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    batch = {"image": images(2), "label": torch.tensor([0, 2]), "row": torch.tensor([0, 1]), "target": soft}
    model._evaluate(batch, "val")
    expected = F.cross_entropy(model(images(2)), soft)
    assert float(model.val_loss.compute()) == pytest.approx(expected.item(), rel=1e-5)


def test_ldam_brings_its_head_and_a_rebuilt_model_keeps_it(tmp_path: Path) -> None:
    model = classifier(loss=LDAM(scale=12.0))
    head = model.head[1]
    assert isinstance(head, NormalisedHead)
    assert head.scale == 12.0
    fit = trainer()
    fit.fit(model, datamodule=TinyTask())
    fit.save_checkpoint(tmp_path / "model.ckpt")
    again = EmotionClassifier.from_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(again(images()), model.eval()(images()))
    assert again(images()).abs().max() <= 12.0


def test_the_loss_knows_how_far_the_training_is() -> None:
    class Recorder(CrossEntropy):
        def rows(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if self.training:
                seen.append(self.progress)
            return super().rows(logits, target)

    seen: list[float] = []
    trainer(2).fit(classifier(loss=Recorder()), datamodule=TinyTask())
    assert seen == [step / len(seen) for step in range(len(seen))]


@pytest.mark.parametrize(
    ("options", "head"),
    [
        ({}, ("linear", None, None)),
        ({"head": "dense_dense"}, ("dense_dense", 256, None)),
        ({"head": "dense_dense", "head_width": 5}, ("dense_dense", 5, None)),
        ({"head": "normalised"}, ("normalised", None, 30.0)),
        ({"head": "normalised", "head_scale": 7.0}, ("normalised", None, 7.0)),
    ],
)
def test_a_checkpoint_keeps_the_options_of_its_head_alone(options: dict[str, Any], head: tuple[Any, ...]) -> None:
    model = classifier(**options)
    assert tuple(model.plain[name] for name in ("head", "head_width", "head_scale")) == head
    if head[1]:
        assert model.head[0].out_features == head[1]
    if head[2]:
        assert model.head[1].scale == head[2]


def test_a_checkpoint_that_wrote_down_the_options_of_every_head_opens(tmp_path: Path) -> None:
    model = classifier()
    fit = trainer()
    fit.fit(model, datamodule=TinyTask())
    model.plain |= {"head_width": 256, "head_scale": 30.0}
    fit.save_checkpoint(tmp_path / "old.ckpt")
    again = EmotionClassifier.from_checkpoint(tmp_path / "old.ckpt")
    assert torch.equal(again(images()), model.eval()(images()))
    trainer(2).fit(classifier(), datamodule=TinyTask(), ckpt_path=tmp_path / "old.ckpt", weights_only=True)


def test_mixing_is_linear_in_pixels_and_targets_and_repeats_with_its_seed() -> None:
    model = classifier(mixup=1.0)
    pixels, target = torch.rand(5, 3, 8, 8), torch.eye(3)[[0, 1, 2, 0, 1]]
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    mixed, shares = model.mixing(pixels.clone(), target, seed=3)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr]
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    assert torch.equal(mixed[4], pixels[4])  # the odd one out
    assert torch.equal(shares[4], target[4])
    share = float(shares[0, 0])  # row 0 is mixed with row 3, both of class 0; rows 1 and 2 differ
    assert share == pytest.approx(1.0)
    share = float(shares[1, 1])
    assert 0 < share < 1
    torch.testing.assert_close(mixed[1], share * pixels[1] + (1 - share) * pixels[2])
    again, same = model.mixing(pixels.clone(), target, seed=3)
    assert torch.equal(again, mixed)
    assert torch.equal(same, shares)


def test_a_frozen_backbone_keeps_weights_and_statistics_until_it_thaws() -> None:
    model = classifier(freeze="all", thaw_after_epochs=1, learning_rate=1e-2)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    fit = trainer(1)
    fit.fit(model, datamodule=TinyTask())
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    model = classifier(freeze="all", thaw_after_epochs=1, learning_rate=1e-2)
    trainer(2).fit(model, datamodule=TinyTask())
    after = model.backbone.state_dict()
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert not unchanged


def test_weight_decay_spares_biases_and_norms() -> None:
    model = classifier(weight_decay=0.1)
    fit = trainer()
    fit.fit(model, datamodule=TinyTask())
    (optimizer,) = fit.optimizers
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_a_resumed_run_ends_where_the_unbroken_one_does(tmp_path: Path) -> None:
    options = {"schedule": "one_cycle", "warmup": 0.3, "mixup": 0.4, "unmixed_epochs": 1, "progressive_from": 16}
    whole = classifier(**options)
    trainer(4).fit(whole, datamodule=TinyTask())
    with pytest.raises(Killed):
        trainer(4, callbacks=[StopAfter(2, tmp_path / "half.ckpt")]).fit(classifier(**options), datamodule=TinyTask())
    second = classifier(**options)
    trainer(4).fit(second, datamodule=TinyTask(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": LDAM(), "mixup": 0.2}, "LDAM needs one class per image and cannot take soft targets"),
        ({"loss": LDAM(), "head": "dense_dense"}, "head is dense_dense, but the loss needs a normalised head"),
        (
            {"head_width": 64},
            "--model.head_width is 64, which only --model.head dense_dense uses, but the head is linear",
        ),
        ({"head_width": 64, "loss": LDAM()}, "--model.head_width is 64, which only --model.head dense_dense uses"),
        (
            {"head_scale": 30.0},
            "--model.head_scale is 30.0, which only --model.head normalised uses, but the head is linear",
        ),
        ({"head_scale": 30.0, "loss": LDAM(scale=12.0)}, "head_scale is 30.0, but the loss has its own, 12.0"),
        ({"head": "dense_dense", "head_width": 0}, "--model.head_width: must be at least 1, got 0"),
        ({"head": "normalised", "head_scale": 0.0}, r"--model.head_scale: must be above 0 and finite, got 0\.0"),
        ({"mixup": -1.0}, "--model.mixup: must be at least 0 and finite, got -1.0"),
        ({"dropout": 1.0}, r"--model.dropout: must be at least 0 and below 1, got 1.0"),
        ({"learning_rate": 0.0}, "--model.learning_rate: must be above 0"),
        ({"thaw_after_epochs": 2}, "--model.thaw_after_epochs: needs --model.freeze all"),
        ({"layer_decay": 0.0}, "--model.layer_decay: must be above 0 and at most 1"),
        ({"layer_decay": 0.9, "freeze": "all"}, "--model.layer_decay: must be 1 with --model.freeze all"),
        ({"unmixed_epochs": 1}, "--model.unmixed_epochs: must be 0 without --model.mixup and --model.cutmix"),
        ({"unmixed_epochs": -1, "mixup": 0.2}, "--model.unmixed_epochs: must be at least 0"),
        ({"progressive_from": 4}, "--model.progressive_from: must be at least 8 pixels"),
        ({"sam_radius": -0.1}, "--model.sam_radius: must be at least 0 and finite"),
        ({"shift_at_test": 0.3}, r"--model.shift_at_test: must be a share of the side, in 0 to 0\.25"),
        ({"classes": ["sad"]}, "classes must be at least two different names"),
        ({"classes": ["sad", "sad"]}, "classes must be at least two different names"),
    ],
)
def test_options_that_do_not_go_together_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EmotionClassifier(**({"classes": CLASSES} | SMALL | options))


def test_a_schedule_with_an_end_needs_one() -> None:
    with pytest.raises(InputError, match=r"schedule 'cosine' with warmup 0\.0 needs an end"):
        trainer(-1, max_steps=-1).fit(classifier(schedule="cosine"), datamodule=TinyTask())


def test_a_loss_that_needs_counts_says_so() -> None:
    task = TinyTask()
    with pytest.raises(InputError, match="BalancedSoftmax needs the class counts"):
        trainer().fit(classifier(loss=BalancedSoftmax()), task.train_dataloader(), task.val_dataloader())


def test_a_resumed_one_cycle_cannot_change_its_length(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trainer(4, callbacks=[StopAfter(2, tmp_path / "half.ckpt")]).fit(
            classifier(schedule="one_cycle"), datamodule=TinyTask()
        )
    with pytest.raises(InputError, match="planned for 12 steps and now has 18"):
        trainer(6).fit(
            classifier(schedule="one_cycle"), datamodule=TinyTask(), ckpt_path=tmp_path / "half.ckpt", weights_only=True
        )


@pytest.mark.slow  # the ONNX exporter takes ten seconds
@pytest.mark.filterwarnings("ignore")  # the exporter's, of its own deprecations
def test_the_views_are_part_of_an_exported_model(tmp_path: Path) -> None:
    model = classifier(backbone="test_resnet", flip_at_test=True, shift_at_test=0.1, stem_stride=1, size=32).eval()
    export_onnx(Trained(model, model.classes, 32, "crop"), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"image": images().numpy()})
    np.testing.assert_allclose(answers, model.probabilities(images()).detach(), atol=1e-4)
