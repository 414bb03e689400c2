"""Losses that know how often each class occurs, and make up for it."""

from math import inf

import torch
from torch import Tensor

from datamodules.errors import invalid
from lightning_modules.losses.base import EmotionLoss
from lightning_modules.losses.formulas import adjusted, cross_entropy, ldam


class LogitAdjustment(EmotionLoss):
    """Cross-entropy of ``logits + tau log prior`` (Menon et al. 2021, arXiv:2007.07314), divided by the rows.

    The priors are those of the rows trained on, copies included; predictions use the plain logits.
    """

    needs_counts = True

    def __init__(self, tau: float = 1.0, label_smoothing: float = 0.0) -> None:
        """Keep the options.

        Args:
            tau: strength, at least 0; 0 is cross-entropy.
            label_smoothing: in [0, 1).
        """
        super().__init__()
        if not 0 <= tau < inf:
            raise invalid("--model.loss.tau", "must be at least 0 and finite", tau)
        if not 0 <= label_smoothing < 1:
            raise invalid("--model.loss.label_smoothing", "must be at least 0 and below 1", label_smoothing)
        self.tau, self.label_smoothing = tau, label_smoothing

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        shifted = adjusted(logits, self.known_counts(logits.device), self.tau)
        losses = cross_entropy(shifted, target, self.label_smoothing)
        return losses, torch.ones_like(losses)


class BalancedSoftmax(EmotionLoss):
    """Cross-entropy of a softmax whose terms count as often as their class (Ren et al. 2020, arXiv:2007.10740).

    The same as logit adjustment with tau 1; kept under its own name since papers compare both. Divided by the rows.
    """

    needs_counts = True

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        losses = cross_entropy(adjusted(logits, self.known_counts(logits.device)), target)
        return losses, torch.ones_like(losses)


class LDAM(EmotionLoss):
    """Label-distribution-aware margins, ``n_c^(-1/4)`` scaled to ``max_margin``, divided by the rows.

    Margins are angles' cosines, so the classifier gives this loss a normalised head with the same ``scale``.
    """

    needs_normalised_head = True
    needs_counts = True
    takes_soft_targets = False

    def __init__(self, max_margin: float = 0.5, scale: float = 30.0) -> None:
        """Keep the options.

        Args:
            max_margin: margin of the rarest class, above 0 and below 2.
            scale: what the cosines are multiplied by, above 0.
        """
        super().__init__()
        if not 0 < max_margin < 2:
            raise invalid("--model.loss.max_margin", "must be above 0 and below 2", max_margin)
        if not 0 < scale < inf:
            raise invalid("--model.loss.scale", "must be above 0 and finite", scale)
        self.max_margin, self.scale = max_margin, scale

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        margins = self.known_counts(logits.device) ** -0.25
        margins = margins * (self.max_margin / margins.max())
        losses = ldam(logits, target, margins, self.scale)
        return losses, torch.ones_like(losses)
