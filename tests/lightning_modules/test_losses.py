"""Losses against formulas written anew in NumPy, timm's and torch's own, and at the edges."""

import numpy as np
import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import InputError
from lightning_modules.losses import LDAM, BalancedSoftmax, CrossEntropy, EmotionLoss, Focal, LogitAdjustment

COUNTS = torch.tensor([100.0, 30.0, 5.0, 61.0])


def batch(seed: int = 0, rows: int = 33, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    hard = torch.randint(classes, (rows,), generator=generator)
    soft = torch.rand(rows, classes, generator=generator)
    return logits, hard, soft / soft.sum(1, keepdim=True)


def every_loss() -> list[EmotionLoss]:
    losses = [
        CrossEntropy(),
        CrossEntropy("balanced", 0.1),
        CrossEntropy([1.0, 2.0, 3.0, 4.0]),
        Focal(),
        Focal([0.1, 0.2, 0.3, 0.4], 0.5, "weights"),
        Focal(0.25, 0.0),
        LogitAdjustment(1.5),
        BalancedSoftmax(),
        LDAM(),
        LDAM(reweight_after=0.0),
    ]
    for loss in losses:
        loss.configure(COUNTS)
    return losses


def numpy_probabilities(logits: Tensor) -> np.ndarray:
    values = logits.double().numpy()
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_cross_entropy_is_torchs_and_timms() -> None:
    logits, hard, soft = batch()
    weights = [0.5, 1.0, 2.0, 4.0]
    expected = F.cross_entropy(logits, hard, weight=torch.tensor(weights), label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropy(weights, 0.1)(logits, hard), expected)
    torch.testing.assert_close(CrossEntropy(None, 0.2)(logits, hard), LabelSmoothingCrossEntropy(0.2)(logits, hard))
    torch.testing.assert_close(CrossEntropy()(logits, soft), SoftTargetCrossEntropy()(logits, soft))


@pytest.mark.parametrize("loss", [loss for loss in every_loss() if loss.takes_soft_targets], ids=repr)
def test_a_one_hot_target_is_its_class(loss: EmotionLoss) -> None:
    logits, hard, _ = batch()
    torch.testing.assert_close(loss(logits, F.one_hot(hard, 4).float()), loss(logits, hard))


def test_balanced_weights_are_rows_over_classes_times_count() -> None:
    logits, hard, _ = batch()
    loss = CrossEntropy("balanced")
    loss.configure(COUNTS)
    given = CrossEntropy([float(COUNTS.sum() / (4 * n)) for n in COUNTS])
    torch.testing.assert_close(loss(logits, hard), given(logits, hard))


@pytest.mark.parametrize("alpha", [None, 0.25, [0.1, 0.2, 0.3, 0.4]])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("normalisation", ["mean", "weights"])
def test_focal_is_the_papers_formula(alpha: float | list[float] | None, gamma: float, normalisation: str) -> None:
    logits, hard, soft = batch()
    p = numpy_probabilities(logits)
    weights = np.broadcast_to(np.asarray(1.0 if alpha is None else alpha), 4)
    terms = -weights * (1 - p) ** gamma * np.log(p)
    for target, share in ((hard, np.eye(4)[hard.numpy()]), (soft, soft.double().numpy())):
        divisor = len(p) if normalisation == "mean" else (share * weights).sum()
        result = Focal(alpha, gamma, normalisation)(logits, target)  # type: ignore[arg-type]
        assert result.item() == pytest.approx((share * terms).sum() / divisor, rel=1e-5)


def test_focal_without_alpha_and_gamma_is_cross_entropy_exactly() -> None:
    logits, hard, soft = batch()
    for target in (hard, soft):
        assert torch.equal(Focal(1.0, 0.0)(logits, target), CrossEntropy()(logits, target))


def test_logit_adjustment_and_balanced_softmax_are_the_papers_formulas() -> None:
    logits, hard, _ = batch()
    values, counts, rows = logits.double().numpy(), COUNTS.double().numpy(), np.arange(len(hard))
    adjustment, balanced = LogitAdjustment(0.7), BalancedSoftmax()
    for loss in (adjustment, balanced):
        loss.configure(COUNTS)
    powers = np.exp(values) * (counts / counts.sum()) ** 0.7
    expected = -np.log(powers[rows, hard.numpy()] / powers.sum(1)).mean()
    assert adjustment(logits, hard).item() == pytest.approx(expected, rel=1e-5)
    powers = np.exp(values) * counts
    expected = -np.log(powers[rows, hard.numpy()] / powers.sum(1)).mean()
    assert balanced(logits, hard).item() == pytest.approx(expected, rel=1e-5)


def test_ldam_is_the_papers_formula() -> None:
    _, hard, _ = batch()
    cosines = np.random.default_rng(0).uniform(-1, 1, (len(hard), 4))
    counts = COUNTS.double().numpy()
    margins = 0.5 * (1 / counts**0.25) / (1 / counts**0.25).max()
    moved, rows = cosines.copy(), np.arange(len(hard))
    moved[rows, hard.numpy()] -= margins[hard.numpy()]
    powers = np.exp(20.0 * moved)
    expected = -np.log(powers[rows, hard.numpy()] / powers.sum(1)).mean()
    loss = LDAM(0.5, 20.0)
    loss.configure(COUNTS)
    assert loss(torch.tensor(20.0 * cosines), hard).item() == pytest.approx(expected, rel=1e-4)


def test_deferred_weights_are_those_of_the_effective_number_and_of_late_epochs_of_training() -> None:
    logits, hard, _ = batch()
    loss, plain = LDAM(reweight_after=0.8, beta=0.99), LDAM()
    for each in (loss, plain):
        each.configure(COUNTS)
    early = loss(logits, hard)
    torch.testing.assert_close(early, plain(logits, hard))
    loss.progress = 0.8
    # as in the paper's code: (1 - beta) / (1 - beta^n), divided by their sum, times the number of classes
    weights = (1 - 0.99) / (1 - np.power(0.99, COUNTS.double().numpy()))
    weights = weights / weights.sum() * 4
    rows, _ = plain.rows(logits, hard)
    each_row = weights[hard.numpy()]
    expected = (rows.double().numpy() * each_row).sum() / each_row.sum()
    assert loss(logits, hard).item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected - early.item()) > 1e-3
    torch.testing.assert_close(loss.eval()(logits, hard), early)  # the val part is never weighted


@pytest.mark.parametrize("loss", every_loss(), ids=repr)
@pytest.mark.parametrize("size", [0.0, 50.0, 1e4, 1e30])
def test_value_and_gradient_stay_finite_for_extreme_logits(loss: EmotionLoss, size: float) -> None:
    logits = size * torch.tensor([[1.0, -1, -1, -1], [-1, 1, -1, -1], [1, 1, 1, 1], [-1, -1, 1, 1]])
    targets = [torch.tensor([0, 0, 2, 1])]
    if loss.takes_soft_targets:
        targets.append(torch.full((4, 4), 0.25))
    for target in targets:
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        assert torch.isfinite(value)
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("loss", every_loss(), ids=repr)
def test_the_loss_of_an_epoch_does_not_depend_on_its_batches(loss: EmotionLoss) -> None:
    logits, hard, _ = batch()
    parts = [loss.checked_rows(logits[i : i + 7], hard[i : i + 7]) for i in range(0, 33, 7)]
    total = sum(losses.sum() for losses, _ in parts) / sum(weights.sum() for _, weights in parts)
    torch.testing.assert_close(total, loss(logits, hard))


def test_half_precision_logits_are_counted_in_single() -> None:
    logits, hard, _ = batch()
    assert Focal()(logits.bfloat16(), hard).dtype == torch.float32


@pytest.mark.parametrize("loss", every_loss(), ids=repr)
def test_no_loss_adds_to_a_checkpoint_or_an_average(loss: EmotionLoss) -> None:
    assert not loss.state_dict()
    assert not list(loss.buffers())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Focal(gamma=-1), "--model.loss.gamma: must be at least 0 and finite, got -1"),
        (lambda: Focal(alpha=[1.0, 0.0]), "--model.loss.alpha: must be above 0"),
        (lambda: CrossEntropy(label_smoothing=1.0), r"--model.loss.label_smoothing: must be at least 0 and below 1"),
        (lambda: CrossEntropy([1.0, -1.0]), "--model.loss.class_weights: must be balanced, or finite numbers above 0"),
        (lambda: LogitAdjustment(-0.1), "--model.loss.tau: must be at least 0"),
        (lambda: LDAM(max_margin=0), "--model.loss.max_margin: must be above 0"),
        (lambda: LDAM(scale=0), "--model.loss.scale: must be above 0"),
        (lambda: LDAM(reweight_after=1.0), "--model.loss.reweight_after: must be at least 0 and below 1, got 1.0"),
        (lambda: LDAM(reweight_after=0.5, beta=1.0), "--model.loss.beta: must be at least 0 and below 1, got 1.0"),
        (lambda: LDAM(beta=0.9), "which only --model.loss.reweight_after uses"),
        (
            lambda: Focal(alpha=[1.0, 2.0])(*batch()[:2]),
            "--model.loss.alpha: needs one value for each of 4 classes, got 2",
        ),
        (lambda: LDAM()(batch()[0], batch()[2]), "LDAM needs one class per image"),
        (lambda: BalancedSoftmax()(*batch()[:2]), "BalancedSoftmax needs the class counts"),
        (lambda: LDAM().configure(torch.tensor([3, 0, 2])), r"classes number \[1\] have none"),
    ],
)
def test_options_that_cannot_be_used_are_errors(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()  # type: ignore[operator]
