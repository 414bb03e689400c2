"""Which face each cell of the pyramid answers for while it learns."""

import torch
from torch import Tensor

STRIDES = (8, 16, 32)  # pixels between the cells of each level
LARGEST = 6.0  # longer side of a level's boxes, in strides; the last level takes all that are larger
RADIUS = 1.5  # of the square of cells around a box's centre, in strides


def assign(boxes: Tensor, centres: Tensor, scales: Tensor) -> Tensor:
    """Return the box that each cell answers for, (N,) int64, -1 where it answers for none.

    A box belongs to the first level whose stride, times ``LARGEST``, reaches its longer side. There it is given to the
    cells inside it that lie within ``RADIUS`` strides of its centre, and always to the cell nearest to that. Where
    boxes meet, the smaller one has the cell. (FCOS, arXiv 1904.01355, with the centre sampling of its authors.)

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
