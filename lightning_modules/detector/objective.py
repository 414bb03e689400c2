"""What training makes small: one number a batch from raw outputs and true boxes."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from datamodules.errors import invalid
from datamodules.faces.boxes import decode
from lightning_modules.detector.assignment import assign
from lightning_modules.detector.losses import (
    giou,
    iou,
    nwd,
    quality_focal,
    repel_from_each_other,
    repel_from_neighbours,
)

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
            truth: boxes (M_i, 4) of each picture.
            centres: (N, 4) of the cells, as `datamodules.faces.boxes.grid` gives them.
            scales: (N, 4) of the cells.

        Returns:
            "loss" = "score" + 2 * "box" + repulsion * "repulsion", each a scalar. Score is summed over all cells and
            divided by the number of cells that answer for a face, over the whole batch; box is the mean over these.
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
