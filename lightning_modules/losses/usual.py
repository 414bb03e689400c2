"""Cross-entropy and focal loss, which may weigh the classes."""

from math import inf
from typing import Literal

import torch
from torch import Tensor

from datamodules.errors import invalid
from lightning_modules.losses.base import EmotionLoss, per_class
from lightning_modules.losses.formulas import cross_entropy, focal


class CrossEntropy(EmotionLoss):
    """Cross-entropy, divided by the sum of the rows' class weights (so by B without weights), as torch does.

    A soft row weighs ``sum_c q_c w_c``, which makes a one-hot row equal to its class.
    """

    def __init__(
        self, class_weights: Literal["balanced"] | list[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        """Keep the options.

        Args:
            class_weights: one positive weight a class, or "balanced": N / (C n_c) of the training rows.
            label_smoothing: in [0, 1).
        """
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise invalid("--model.loss.label_smoothing", "must be at least 0 and below 1", label_smoothing)
        if isinstance(class_weights, list) and (not class_weights or not all(0 < w < inf for w in class_weights)):
            raise invalid("--model.loss.class_weights", "must be balanced, or finite numbers above 0", class_weights)
        self.needs_counts = class_weights == "balanced"
        self.class_weights, self.label_smoothing = class_weights, label_smoothing
        self._given = torch.tensor(class_weights) if isinstance(class_weights, list) else None

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        weights = self._weights(logits)
        losses = cross_entropy(logits, target, self.label_smoothing, weights)
        if weights is None:
            return losses, torch.ones_like(losses)
        return losses, target @ weights if target.is_floating_point() else weights[target]

    def _weights(self, logits: Tensor) -> Tensor | None:
        if self.needs_counts:
            counts = self.known_counts(logits.device)
            return counts.sum() / (len(counts) * counts)
        if self._given is not None:
            self._given = per_class(self._given, "class_weights", logits)
        return self._given


class Focal(EmotionLoss):
    """Focal loss; gamma 0 and alpha 1 are cross-entropy.

    A scalar alpha only scales the loss, and Adam takes any scale out again: it changes a run under SGD alone.
    """

    def __init__(
        self,
        alpha: float | list[float] | None = None,
        gamma: float = 2.0,
        normalisation: Literal["mean", "weights"] = "mean",
    ) -> None:
        """Keep the options.

        Args:
            alpha: one positive weight for all classes or one a class; none is 1.
            gamma: how far easy rows are turned down, at least 0.
            normalisation: "mean" divides by the number of rows (the usual), "weights" by the sum of the rows' alphas.
        """
        super().__init__()
        values = [1.0] if alpha is None else alpha if isinstance(alpha, list) else [alpha]
        if not values or not all(0 < value < inf for value in values):
            raise invalid("--model.loss.alpha", "must be above 0 and finite", alpha)
        if not 0 <= gamma < inf:
            raise invalid("--model.loss.gamma", "must be at least 0 and finite", gamma)
        self.alpha, self.gamma, self.normalisation = alpha, gamma, normalisation
        self._alpha = torch.tensor(values, dtype=torch.float32)

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        if len(self._alpha) > 1 or isinstance(self.alpha, list):
            self._alpha = per_class(self._alpha, "alpha", logits)
        elif self._alpha.device != logits.device:
            self._alpha = self._alpha.to(logits.device)
        losses = focal(logits, target, self._alpha, self.gamma)
        if self.normalisation == "mean":
            return losses, torch.ones_like(losses)
        alpha = self._alpha.expand(logits.shape[1])
        return losses, target @ alpha if target.is_floating_point() else alpha[target]
