"""How far predicted boxes are from true ones, and how surely a cell should answer: pure functions of tensors.

Boxes are (..., 4): x0, y0, x1, y1 in pixels, x0 <= x1 and y0 <= y1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL = 1e-7
NWD_CONSTANT = 12.8  # pixels; the mean side of the small objects it was made for


def area(boxes: Tensor) -> Tensor:
    """Return the area (...)."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(one: Tensor, two: Tensor) -> Tensor:
    """Return the area that both cover (...)."""
    low, high = torch.maximum(one[..., :2], two[..., :2]), torch.minimum(one[..., 2:], two[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(one: Tensor, two: Tensor) -> Tensor:
    """Return intersection over union, in [0, 1]."""
    both = intersection(one, two)
    return both / (area(one) + area(two) - both).clamp(min=SMALL)


def giou(one: Tensor, two: Tensor) -> Tensor:
    """Return IoU minus the share of the enclosing box that neither covers, in (-1, 1] (arXiv 1902.09630)."""
    both = intersection(one, two)
    union = area(one) + area(two) - both
    low, high = torch.minimum(one[..., :2], two[..., :2]), torch.maximum(one[..., 2:], two[..., 2:])
    hull = (high - low).prod(-1).clamp(min=SMALL)
    return both / union.clamp(min=SMALL) - (hull - union) / hull


def nwd(one: Tensor, two: Tensor, constant: float = NWD_CONSTANT) -> Tensor:
    """Return the normalised Wasserstein distance, in (0, 1], 1 for equal boxes.

    A box is taken as a Gaussian: exp(-W / constant), W^2 = |difference of (cx, cy, w / 2, h / 2)|^2. Unlike IoU it
    falls smoothly where small boxes miss each other by a few pixels (arXiv 2110.13389).
    """
    difference = _gaussian(one) - _gaussian(two)
    distance = (difference.square().sum(-1) + SMALL).sqrt()  # the root has no slope at zero
    return torch.exp(-distance / constant)


def _gaussian(boxes: Tensor) -> Tensor:
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, (high - low) / 2], -1)


def smooth_ln(overlap: Tensor, sigma: float) -> Tensor:
    """Return -ln(1 - x) up to sigma, and from there on the line that touches it; x in [0, 1] (arXiv 1711.07752)."""
    curve = -torch.log((1 - overlap).clamp(min=1 - sigma))
    line = (overlap - sigma) / (1 - sigma) + curve.new_tensor(1 - sigma).log().neg()
    return torch.where(overlap <= sigma, curve, line)


def repel_from_neighbours(predicted: Tensor, owner: Tensor, truth: Tensor, sigma: float = 0.9) -> Tensor:
    """Return RepGT: how far predictions reach into the true box of another face, the one they overlap most.

    Mean over the predictions that touch another face of smooth_ln(intersection / area of that face); 0 for none.

    Args:
        predicted: (P, 4).
        owner: (P,) row of ``truth`` that each should find.
        truth: (M, 4).
        sigma: where the curve becomes a line.
    """
    if len(truth) < 2 or not len(predicted):
        return predicted.sum() * 0
    overlap = iou(predicted[:, None], truth)  # (P, M)
    overlap = overlap.scatter(1, owner[:, None], -1.0)
    most, other = overlap.max(1)
    reach = intersection(predicted, truth[other]) / area(truth[other]).clamp(min=SMALL)
    touching = most > 0
    return torch.where(touching, smooth_ln(reach, sigma), 0.0).sum() / touching.sum().clamp(min=1)


def repel_from_each_other(predicted: Tensor, owner: Tensor, sigma: float = 0.1) -> Tensor:
    """Return RepBox: how much predictions of different faces overlap each other.

    Mean of smooth_ln(IoU) over the pairs that overlap; 0 for none. Arguments as in :func:`repel_from_neighbours`.
    """
    overlap = iou(predicted[:, None], predicted)  # (P, P)
    pairs = (owner[:, None] != owner) & (overlap > 0)
    return torch.where(pairs, smooth_ln(overlap, sigma), 0.0).sum() / pairs.sum().clamp(min=1)


def quality_focal(logit: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Return |quality - p|^beta * cross-entropy(p, quality), p = sigmoid(logit): (...) (arXiv 2006.04388).

    ``quality`` in [0, 1] is how well the cell's box fits, 0 where there is no face. So a score also says how good its
    box is, which is what suppressing double boxes needs.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logit, quality, reduction="none")
    return (quality - logit.sigmoid()).abs().pow(beta) * cross_entropy
