"""Losses: a pure function for each, and a module that holds its options.

Every function returns a loss for each row, so that the mean over an epoch is exact, however the rows are
distributed over batches and processes. A target is an integer class (B,) or a probability for every class (B, C).
"""

from abc import ABC, abstractmethod
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import InputError, invalid

__all__ = [
    "LDAM",
    "BalancedSoftmax",
    "CrossEntropy",
    "EmotionLoss",
    "Focal",
    "LogitAdjustment",
    "soft_targets_refused",
]

BETA = 0.9999  # of the effective number of rows


class EmotionLoss(nn.Module, ABC):
    """Base class of losses: ``rows`` returns numerators and denominators, ``forward`` their quotient over the batch.

    Notes:
        Tensors that depend on the class counts are plain attributes, neither parameters nor buffers: they are known
        only once the data is read, and belong in no checkpoint and in no weight average.
    """

    needs_normalised_head = False
    needs_counts = False
    takes_soft_targets = True
    scale = 1.0  # of the normalised head, where one is needed

    def __init__(self) -> None:
        super().__init__()
        self.counts: Tensor | None = None
        self.progress = 0.0  # share of the run's steps that are done, which the classifier sets

    def configure(self, class_counts: Tensor) -> None:
        """Set the number of rows of each class in one epoch of training, copies included: (C,)."""
        counts = torch.as_tensor(class_counts).float()
        if self.needs_counts and (counts <= 0).any():
            empty = torch.nonzero(counts <= 0)[:, 0].tolist()
            msg = f"loss {type(self).__name__} needs training rows of every class; classes number {empty} have none"
            raise InputError(msg)
        self.counts = counts

    def known_counts(self, device: torch.device) -> Tensor:
        """Return the class counts on ``device``, where they stay, so that no step copies them again."""
        if self.counts is None:
            msg = f"loss {type(self).__name__} needs the class counts of the training rows: call configure(counts)"
            raise InputError(msg)
        if self.counts.device != device:
            self.counts = self.counts.to(device)
        return self.counts

    @abstractmethod
    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B,) losses and (B,) weights; the loss of any set of rows is sum over sum."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of ``logits`` (B, C) and ``target``, int64 (B,) or float (B, C)."""
        losses, weights = self.checked_rows(logits, target)
        return losses.sum() / weights.sum()

    def checked_rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Like ``rows``, in float32 whatever the precision of the run, refusing soft targets where they make no sense.

        Raises:
            InputError: If the target is soft and the loss is defined for classes only.
        """
        if target.is_floating_point():
            if not self.takes_soft_targets:
                raise InputError(soft_targets_refused(self))
            target = target.float()
        return self.rows(logits.float(), target)


def soft_targets_refused(loss: EmotionLoss) -> str:
    """Return the message for a loss that got probabilities instead of classes."""
    return (
        f"loss {type(loss).__name__} needs one class per image and cannot take soft targets: "
        "leave --model.mixup, --model.cutmix, --votes soft and --run.teacher out, or choose CrossEntropy, Focal, "
        "LogitAdjustment or BalancedSoftmax"
    )


def per_class(values: Tensor, name: str, logits: Tensor) -> Tensor:
    """Return ``values`` on the device of ``logits`` (B, C), refusing a list that is not C long."""
    if len(values) != logits.shape[1]:
        raise invalid(f"--model.loss.{name}", f"needs one value for each of {logits.shape[1]} classes", len(values))
    return values if values.device == logits.device else values.to(logits.device)


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Return ``-sum_c w_c q_c log p_c`` of each row, ``q`` being the target smoothed towards the uniform distribution.

    Args:
        logits: (B, C).
        target: int64 (B,) or float (B, C) with rows that sum to 1.
        smoothing: share of the target that is spread over all classes, in [0, 1).
        weights: (C,) weight of each class.

    Returns:
        (B,) losses, not divided by any weight.
    """
    return F.cross_entropy(logits, target, weight=weights, label_smoothing=smoothing, reduction="none")


def focal(logits: Tensor, target: Tensor, alpha: Tensor | float = 1.0, gamma: float = 2.0) -> Tensor:
    """Return ``-sum_c q_c alpha_c (1 - p_c)^gamma log p_c`` of each row (Lin et al. 2017, arXiv:1708.02002).

    ``1 - p_c`` is taken as the probability of all other classes in log space, so neither the value nor the gradient
    turns non-finite where a probability rounds to one.

    Args:
        logits: (B, C).
        target: int64 (B,) or float (B, C).
        alpha: one weight, or (C,) a weight of each class.
        gamma: at least 0; at 0 with alpha 1 this is cross-entropy.
    """
    classes = logits.shape[1]
    factor = torch.as_tensor(alpha, dtype=logits.dtype, device=logits.device).expand(classes)
    if gamma == 0:
        rows = F.log_softmax(logits, dim=1) * factor
        return -(rows * target).sum(1) if target.is_floating_point() else -rows.gather(1, target[:, None])[:, 0]
    total = torch.logsumexp(logits, dim=1, keepdim=True)  # (B, 1)
    if target.is_floating_point():
        # the other classes of every class: (B, C, C), small for the handful of emotions
        diagonal = torch.eye(classes, dtype=torch.bool, device=logits.device)
        others = torch.logsumexp(logits[:, None, :].masked_fill(diagonal, -torch.inf), dim=2)  # (B, C)
        return -(target * factor * torch.exp(gamma * (others - total)) * (logits - total)).sum(1)
    column = target[:, None]
    others = torch.logsumexp(logits.scatter(1, column, -torch.inf), dim=1)  # (B,)
    log_p = (logits.gather(1, column) - total)[:, 0]
    return -factor[target] * torch.exp(gamma * (others - total[:, 0])) * log_p


def adjusted(logits: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Return ``logits + tau log prior``, the priors being the classes' shares of ``counts`` (C,)."""
    return logits + tau * torch.log(counts / counts.sum())


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    r"""Return class weights by the effective number of rows: :math:`w_c \propto (1 - \beta) / (1 - \beta^{n_c})`.

    Their mean is 1 (Cui et al. 2019, arXiv:1901.05555). Beta 0 weighs all classes alike; near 1 the weights approach
    :math:`1 / n_c`.

    Args:
        counts: (C,) rows of each class.
        beta: in [0, 1).
    """
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


def ldam(logits: Tensor, target: Tensor, margins: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of each row, with a margin taken off its own class (Cao et al. 2019, arXiv:1906.07413).

    Args:
        logits: (B, C) scaled cosines, ``scale * cos``.
        target: int64 (B,).
        margins: (C,) in units of the cosine.
        scale: the head's scale.
    """
    handicap = F.one_hot(target, logits.shape[1]).to(logits.dtype) * (scale * margins)
    return F.cross_entropy(logits - handicap, target, reduction="none")


class CrossEntropy(EmotionLoss):
    """Cross-entropy, divided by the sum of the rows' class weights (so by B without weights), as torch does.

    A soft row weighs ``sum_c q_c w_c``, which makes a one-hot row equal to its class.
    """

    def __init__(
        self, class_weights: Literal["balanced"] | list[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        """Keep the options.

        Args:
            class_weights: one positive weight per class, or "balanced": N / (C n_c) of the training rows.
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

    A scalar alpha only scales the loss, to which Adam is invariant: it changes a run only with SGD.
    """

    def __init__(
        self,
        alpha: float | list[float] | None = None,
        gamma: float = 2.0,
        normalisation: Literal["mean", "weights"] = "mean",
    ) -> None:
        """Keep the options.

        Args:
            alpha: one positive weight for all classes, or one per class; None: 1.
            gamma: how strongly easy rows are down-weighted, at least 0.
            normalisation: "mean" divides by the number of rows (usual), "weights" by the sum of the rows' alphas.
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


class LogitAdjustment(EmotionLoss):
    """Cross-entropy of ``logits + tau log prior`` (Menon et al. 2021, arXiv:2007.07314), divided by the rows.

    The priors are those of the rows trained on, copies included; predictions use the plain logits.
    """

    needs_counts = True

    def __init__(self, tau: float = 1.0, label_smoothing: float = 0.0) -> None:
        """Keep the options.

        Args:
            tau: strength of the adjustment, at least 0; 0 is cross-entropy.
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
    """Cross-entropy of a softmax weighted by the class counts (Ren et al. 2020, arXiv:2007.10740).

    The same as logit adjustment with tau 1; kept under its own name since papers compare both. Divided by the rows.
    """

    needs_counts = True

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        losses = cross_entropy(adjusted(logits, self.known_counts(logits.device)), target)
        return losses, torch.ones_like(losses)


class LDAM(EmotionLoss):
    """Label-distribution-aware margins, ``n_c^(-1/4)`` scaled to ``max_margin``, divided by the rows.

    Margins are in units of the cosine, so the classifier uses a normalised head with the same ``scale``.

    Deferred re-weighting weighs the rows by their classes in the last steps only, and divides by the sum of the
    weights; rows of the val and test part are never weighted, so that the losses of all epochs are comparable.
    """

    needs_normalised_head = True
    needs_counts = True
    takes_soft_targets = False

    def __init__(
        self,
        max_margin: float = 0.5,
        scale: float = 30.0,
        reweight_after: float | None = None,
        beta: float = BETA,
    ) -> None:
        """Keep the options.

        Args:
            max_margin: margin of the rarest class, above 0 and below 2.
            scale: factor of the cosines, above 0.
            reweight_after: deferred re-weighting: after this share of the steps, in [0, 1), weigh rows by the effective
                number of their class; 0.8 is usual. None: never.
            beta: of the effective number, in [0, 1); the nearer to 1, the more rare classes weigh.
        """
        super().__init__()
        if not 0 < max_margin < 2:
            raise invalid("--model.loss.max_margin", "must be above 0 and below 2", max_margin)
        if not 0 < scale < inf:
            raise invalid("--model.loss.scale", "must be above 0 and finite", scale)
        if reweight_after is not None and not 0 <= reweight_after < 1:
            raise invalid("--model.loss.reweight_after", "must be at least 0 and below 1", reweight_after)
        if not 0 <= beta < 1:
            raise invalid("--model.loss.beta", "must be at least 0 and below 1", beta, f"{BETA} is usual")
        if beta != BETA and reweight_after is None:
            msg = f"--model.loss.beta is {beta}, which only --model.loss.reweight_after uses; give it as well"
            raise InputError(msg)
        self.max_margin, self.scale, self.reweight_after, self.beta = max_margin, scale, reweight_after, beta

    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmotionLoss.rows`."""
        counts = self.known_counts(logits.device)
        margins = counts**-0.25
        margins = margins * (self.max_margin / margins.max())
        losses = ldam(logits, target, margins, self.scale)
        if self.reweight_after is None or not self.training or self.progress < self.reweight_after:
            return losses, torch.ones_like(losses)
        weights = effective_weights(counts, self.beta)[target]
        return losses * weights, weights
