"""Losses of the face detector: box distances, repulsion, score loss, and the assignment of boxes to cells.

Boxes are (..., 4): x0, y0, x1, y1 in pixels, x0 <= x1 and y0 <= y1.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import invalid
from datamodules.faces.boxes import decode

SMALL = 1e-7
NWD_CONSTANT = 12.8  # pixels; the mean side of the small objects of the paper


def area(boxes: Tensor) -> Tensor:
    """Return the area (...)."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Return the area that both cover (...)."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return intersection over union, in [0, 1]."""
    both = intersection(first, second)
    return both / (area(first) + area(second) - both).clamp(min=SMALL)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Return IoU minus the share of the enclosing box that neither covers, in (-1, 1] (arXiv 1902.09630)."""
    both = intersection(first, second)
    union = area(first) + area(second) - both
    low, high = torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).prod(-1).clamp(min=SMALL)
    return both / union.clamp(min=SMALL) - (hull - union) / hull


def nwd(first: Tensor, second: Tensor, constant: float = NWD_CONSTANT) -> Tensor:
    """Return the normalised Wasserstein distance, in (0, 1], 1 for equal boxes.

    A box is taken as a Gaussian: exp(-W / constant), W^2 = |difference of (cx, cy, w / 2, h / 2)|^2. Unlike IoU it
    falls smoothly where small boxes miss each other by a few pixels (arXiv 2110.13389).
    """
    difference = _gaussian(first) - _gaussian(second)
    distance = (difference.square().sum(-1) + SMALL).sqrt()  # the square root has no derivative at zero
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
        owner: (P,) row of ``truth`` that each prediction is assigned to.
        truth: (M, 4).
        sigma: value from which the curve is a line.
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

    ``quality`` in [0, 1] is how well the cell's box fits, 0 where there is no face. So the score also rates the box,
    which non-maximum suppression needs.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logit, quality, reduction="none")
    return (quality - logit.sigmoid()).abs().pow(beta) * cross_entropy


STRIDES = (8, 16, 32)  # pixels between the cells of each level
LARGEST = 6.0  # longer side of a level's boxes, in strides; the last level takes all that are larger
RADIUS = 1.5  # of the square of cells around a box's centre, in strides


def assign(boxes: Tensor, centres: Tensor, scales: Tensor) -> Tensor:
    """Return the box that is assigned to each cell, (N,) int64, -1 for none.

    A box belongs to the first level whose stride times ``LARGEST`` is at least its longer side. There it is assigned
    to the cells inside it that lie within ``RADIUS`` strides of its centre, and always to the cell nearest to its
    centre. If several boxes apply, the smallest is assigned. (FCOS, arXiv 1904.01355, with its centre sampling.)

    Args:
        boxes: (M, 4) x0, y0, x1, y1.
        centres: (N, 4) of the cells, as `datamodules.faces.boxes.grid` gives them.
        scales: (N, 4) of the cells.
    """
    if not len(boxes):
        return torch.full((len(centres),), -1, dtype=torch.int64, device=centres.device)
    points, strides = centres[:, None, :2], scales[:, 2]  # (N, 1, 2), (N,)
    levels = strides.unique()  # sorted
    sides = boxes[:, 2:] - boxes[:, :2]
    level = torch.searchsorted(LARGEST * levels, sides.amax(1)).clamp(max=len(levels) - 1)
    own = levels[level]  # (M,)
    away = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1)  # (N, M)
    inside = (points > boxes[:, :2]).all(-1) & (points < boxes[:, 2:]).all(-1)
    here = strides[:, None] == own
    takes = here & inside & (away < RADIUS * own)
    nearest = away.masked_fill(~here, torch.inf).argmin(0)
    takes[nearest, torch.arange(len(boxes), device=boxes.device)] = True
    area, box = sides.prod(1).expand(len(centres), -1).masked_fill(~takes, torch.inf).min(1)
    return box.masked_fill(area.isinf(), -1)


SMALL_SIDE = 32.0  # pixels; boxes below 32 x 32 count as small
BOX_WEIGHT = 2.0


@dataclass(frozen=True)
class Objective:
    """Score loss + 2 * box loss + repulsion.

    Attributes:
        nwd: Share of 1 - NWD in the box loss of small faces, the rest being 1 - GIoU; in [0, 1].
        repulsion: Weight of RepGT + RepBox, at least 0.
    """

    nwd: float = 0.5
    repulsion: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.nwd <= 1:
            raise invalid("--model.nwd", "must be in 0 to 1", self.nwd, "0 switches it off")
        if not 0 <= self.repulsion < inf:
            raise invalid("--model.repulsion", "must be at least 0 and finite", self.repulsion, "0 switches it off")

    def __call__(self, raw: Tensor, truth: list[Tensor], centres: Tensor, scales: Tensor) -> dict[str, Tensor]:
        """Return the loss and its parts.

        Args:
            raw: (B, N, 5) distances in strides and score logit.
            truth: boxes (M_i, 4) of each image.
            centres: (N, 4) of the cells, as `datamodules.faces.boxes.grid` gives them.
            scales: (N, 4) of the cells.

        Returns:
            "loss" = "score" + 2 * "box" + repulsion * "repulsion", each a scalar. Score is summed over all cells and
            divided by the number of cells with a face, over the whole batch; box is the mean over these cells.
        """
        raw = raw.float()
        quality = torch.zeros_like(raw[..., 4])  # (B, N)
        box_losses, repulsions = [], []
        for number, boxes in enumerate(truth):
            owner = assign(boxes, centres, scales)
            positive = owner >= 0
            owner = owner[positive]
            predicted = decode(raw[number, positive, :4], centres[positive], scales[positive])
            wanted = boxes[owner]  # (P, 4)
            quality[number, positive] = iou(predicted, wanted).detach()
            box_losses.append(self.box_loss(predicted, wanted))
            if self.repulsion:
                repelled = repel_from_neighbours(predicted, owner, boxes) + repel_from_each_other(predicted, owner)
                repulsions.append(repelled)
        every = torch.cat(box_losses)
        answering = max(1, len(every))
        score = quality_focal(raw[..., 4], quality).sum() / answering
        box = every.sum() / answering
        repulsion = torch.stack(repulsions).mean() if repulsions else torch.zeros_like(score)
        loss = score + BOX_WEIGHT * box + self.repulsion * repulsion
        return {"loss": loss, "score": score.detach(), "box": box.detach(), "repulsion": repulsion.detach()}

    def box_loss(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of each prediction, (P,)."""
        plain = 1 - giou(predicted, wanted)
        if not self.nwd:
            return plain
        small = (wanted[:, 2:] - wanted[:, :2]).prod(1) < SMALL_SIDE**2
        mixed = (1 - self.nwd) * plain + self.nwd * (1 - nwd(predicted, wanted))
        return torch.where(small, mixed, plain)
