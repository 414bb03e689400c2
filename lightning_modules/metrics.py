"""Metrics of a stage: macro F1 first, then others, computed over a whole epoch and exact under DDP.

Only sums are kept (confusion matrix, sums of scores, calibration bins), so several processes give the same as one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from datamodules.errors import InputError

CALIBRATION_BINS = 15


def count_scores(confusion: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """Return scores of a confusion matrix (C, C), rows true and columns predicted.

    A precision, recall or F1 whose denominator is zero is 0 (scikit-learn's ``zero_division=0``). The macro F1 and the
    balanced accuracy average the F1 and the recall of the classes that have images: a class that a part lacks cannot be
    measured on it.
    """
    counts = confusion.to(_dtype())
    hit, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    precision, recall = _divide(hit, predicted), _divide(hit, true)
    f1 = _divide(2 * hit, true + predicted)
    scores = {
        "f1_macro": _divide(torch.where(true > 0, f1, 0.0).sum(), (true > 0).sum()),
        "accuracy": _divide(hit.sum(), true.sum()),
        "balanced_accuracy": _divide(recall.sum(), (true > 0).sum()),
    }
    for name, values in (("f1", f1), ("precision", precision), ("recall", recall)):
        scores |= {f"{name}_{label}": values[i] for i, label in enumerate(classes)}
    return scores


class ClassScores(Metric):
    """Scores that follow from the confusion matrix."""

    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.add_state("confusion", torch.zeros(len(classes), len(classes), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch: probabilities (B, C), labels int64 (B,)."""
        size = len(self.classes)
        cells = labels * size + probabilities.argmax(1)
        # scatter_add_ rather than bincount, which waits for the device and is not deterministic on CUDA
        flat = self.confusion.view(-1)
        self.confusion = flat.scatter_add(0, cells, torch.ones_like(cells)).view(size, size)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores by name."""
        return count_scores(self.confusion, self.classes)


class ProbabilityScores(Metric):
    """NLL, Brier score and calibration error of the predicted probabilities.

    ``nll`` is the mean of ``-log p_label`` (p at least 1e-12), ``brier`` the mean of ``sum_c (p_c - [c = label])^2``
    in [0, 2], ``calibration_error`` the expected calibration error over 15 equal bins of the highest probability,
    each bin open at its lower end (Guo et al. 2017, arXiv:1706.04599).
    """

    full_state_update = False
    nll: Tensor
    brier: Tensor
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.zeros((), dtype=_dtype()), dist_reduce_fx="sum")
        self.add_state("brier", torch.zeros((), dtype=_dtype()), dist_reduce_fx="sum")
        # rows, sum of confidence, number right
        self.add_state("bins", torch.zeros(3, CALIBRATION_BINS, dtype=_dtype()), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch: probabilities (B, C), labels int64 (B,)."""
        p = probabilities.to(_dtype())
        own = p.gather(1, labels[:, None])[:, 0]
        self.nll = self.nll - own.clamp_min(1e-12).log().sum()
        self.brier = self.brier + (p.square().sum(1) - 2 * own + 1).sum()
        confidence, predicted = p.max(1)
        # a NaN confidence has no bin; it goes to the first, and the NLL shows it
        index = ((confidence * CALIBRATION_BINS).ceil().nan_to_num() - 1).long().clamp(0, CALIBRATION_BINS - 1)
        values = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).to(p.dtype)])
        self.bins = self.bins.scatter_add(1, index.expand(3, -1), values)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores by name."""
        rows, confidence, right = self.bins
        total = rows.sum()
        return {
            "nll": _divide(self.nll, total),
            "brier": _divide(self.brier, total),
            "calibration_error": _divide((confidence - right).abs().sum(), total),
        }


class MeanLoss(Metric):
    """Loss of an epoch: the sum of all rows' losses over the sum of their weights, independent of the batches."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=_dtype()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=_dtype()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, weights: Tensor) -> None:
        """Add a batch: losses (B,), weights (B,)."""
        self.total = self.total + losses.detach().to(_dtype()).sum()
        self.weight = self.weight + weights.detach().to(_dtype()).sum()

    def compute(self) -> Tensor:
        """Return the quotient."""
        return _divide(self.total, self.weight)


def metric_collection(classes: Sequence[str], prefix: str) -> MetricCollection:
    """Build the collection of one stage.

    Args:
        classes: names, in the order of their labels.
        prefix: "val/" or "test/"; names are like ``val/f1_macro`` and ``val/f1_happy``.

    Raises:
        InputError: If a class is called "macro", which would hide the macro F1.
    """
    if "macro" in classes:
        msg = "a class cannot be called 'macro', the macro F1 is reported under that name: rename the class"
        raise InputError(msg)
    return MetricCollection([ClassScores(classes), ProbabilityScores()], prefix=prefix, compute_groups=False)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 / 0 = 0."""
    return torch.where(
        denominator > 0, numerator / denominator.clamp_min(1e-300 if _wide() else 1e-30), 0.0 * numerator
    )


def _wide() -> bool:
    return not torch.backends.mps.is_available()  # which has no float64


def _dtype() -> torch.dtype:
    return torch.float64 if _wide() else torch.float32
