"""Metrics against scikit-learn and torchmetrics, and added up over batches and processes."""

import copy

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.utilities import dim_zero_sum

from datamodules.errors import InputError
from lightning_modules.metrics import MeanLoss, metric_collection

CLASSES = ["angry", "happy", "neutral", "sad"]


def predictions(seed: int, rows: int = 200, present: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(present, (rows,), generator=generator)
    logits = torch.randn(rows, 4, generator=generator)
    logits[torch.arange(rows), labels] += 1
    return logits.double().softmax(1), labels


@pytest.mark.parametrize("present", [4, 3])
def test_scores_are_those_of_scikit_learn(present: int) -> None:
    p, y = predictions(0, present=present)
    collection = metric_collection(CLASSES, "val/")
    for start in range(0, 200, 33):
        collection.update(p[start : start + 33], y[start : start + 33])
    found = {name: float(value) for name, value in collection.compute().items()}
    guess, true = p.argmax(1).numpy(), y.numpy()
    precision, recall, f1, _ = sk.precision_recall_fscore_support(true, guess, labels=range(4), zero_division=0)
    expected = {
        "val/f1_macro": sk.f1_score(true, guess, labels=range(present), average="macro", zero_division=0),
        "val/accuracy": sk.accuracy_score(true, guess),
        "val/balanced_accuracy": sk.recall_score(true, guess, labels=range(present), average="macro"),
        "val/nll": sk.log_loss(true, p.double().numpy(), labels=range(4)),
        "val/brier": float(((p.double().numpy() - np.eye(4)[true]) ** 2).sum(1).mean()),
        "val/calibration_error": float(MulticlassCalibrationError(4, n_bins=15, norm="l1")(p, y)),
    }
    for i, name in enumerate(CLASSES):
        expected |= {f"val/precision_{name}": precision[i], f"val/recall_{name}": recall[i], f"val/f1_{name}": f1[i]}
    assert found == pytest.approx(expected, abs=1e-6)
    assert next(iter(collection.compute())) == "val/f1_macro"


def test_a_class_without_images_is_not_in_the_macro_f1() -> None:
    collection = metric_collection(CLASSES, "val/")
    collection.update(torch.eye(4)[[0, 1, 2]], torch.tensor([0, 1, 2]))
    found = collection.compute()
    assert float(found["val/f1_macro"]) == pytest.approx(1)
    assert float(found["val/f1_sad"]) == 0
    assert float(found["val/balanced_accuracy"]) == 1


def test_a_calibration_bin_holds_its_upper_edge() -> None:
    # Bins of 1/15: 0.6 is the upper edge of the ninth, 0.65 lies in the tenth. Gaps: 0.6 - 1 and 0.65 - 0.
    collection = metric_collection(["a", "b"], "")
    collection.update(torch.tensor([[0.6, 0.4], [0.65, 0.35]], dtype=torch.float64), torch.tensor([0, 1]))
    assert float(collection.compute()["calibration_error"]) == pytest.approx((0.4 + 0.65) / 2)


def test_two_processes_add_up_to_one() -> None:
    p, y = predictions(1)
    one, first = metric_collection(CLASSES, ""), metric_collection(CLASSES, "")
    second = copy.deepcopy(first)
    one.update(p, y)
    first.update(p[::2], y[::2])
    second.update(p[1::2], y[1::2])
    for name, metric in first.items(keep_base=True):
        other = second[name]
        for state, reduction in metric._reductions.items():  # what torchmetrics applies to the gathered states
            assert reduction is dim_zero_sum
            setattr(metric, state, reduction(torch.stack([getattr(metric, state), getattr(other, state)])))
    expected = {name: float(value) for name, value in one.compute().items()}
    assert {name: float(value) for name, value in first.compute().items()} == pytest.approx(expected, abs=1e-12)


def test_mean_loss_weighs_rows_not_batches() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))
    metric.update(torch.tensor([10.0]), torch.tensor([5.0]))
    assert float(metric.compute()) == pytest.approx(2.0)


def test_a_class_called_macro_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be called 'macro'"):
        metric_collection(["macro", "micro"], "val/")
