"""What each loss computes, as pure functions of logits and targets that give one loss a row."""

import torch
from torch import Tensor
from torch.nn import functional as F


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


def ldam(logits: Tensor, target: Tensor, margins: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of each row after its own class gave up a margin (Cao et al. 2019, arXiv:1906.07413).

    Args:
        logits: (B, C) scaled cosines, ``scale * cos``.
        target: int64 (B,).
        margins: (C,) in units of the cosine.
        scale: the head's scale.
    """
    handicap = F.one_hot(target, logits.shape[1]).to(logits.dtype) * (scale * margins)
    return F.cross_entropy(logits - handicap, target, reduction="none")
