"""Face boxes: decoding the output of an anchor-free one-class detector, overlap, and non-maximum suppression.

Raw output of the detector, float32 (B, N, 5), for images of H x W pixels, both multiples of the largest stride:

* levels follow each other in the order of ``strides``; level s has H/s x W/s cells, row by row;
* each cell gives ``(l, t, r, b, score)``. The first four are the distances from the cell's centre
  ``((column + 0.5) * s, (row + 0.5) * s)`` to the box's left, top, right and bottom edge in units of ``s``, with
  softplus or exp already applied, so that they are positive; the score is a logit.

Boxes are ``x0, y0, x1, y1`` in pixels, where the pixel of column c extends from c to c + 1.
``decode`` and ``encode`` work on numpy arrays and on torch tensors.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Array = TypeVar("Array")  # np.ndarray or torch.Tensor


def grid(height: int, width: int, strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``centres`` and ``scales`` of the cells of all levels, both float32 (N, 4).

    ``centres`` holds x, y, x, y of each cell; ``scales`` holds -s, -s, s, s, so that
    ``box = centres + scales * distances``.
    """
    centres, scales = [], []
    for stride in strides:
        x = (np.arange(width // stride, dtype=np.float32) + 0.5) * stride
        y = (np.arange(height // stride, dtype=np.float32) + 0.5) * stride
        across, down = np.meshgrid(x, y)  # (rows, columns)
        points = np.stack([across, down], -1).reshape(-1, 2)
        centres.append(np.concatenate([points, points], 1))
        scales.append(np.tile(np.array([-stride, -stride, stride, stride], np.float32), (len(points), 1)))
    return np.concatenate(centres), np.concatenate(scales)


def decode(distances: Array, centres: Array, scales: Array) -> Array:
    """Return the boxes (..., N, 4) of distances (..., N, 4) in units of the strides."""
    return centres + scales * distances  # type: ignore[operator]


def encode(boxes: Array, centres: Array, scales: Array) -> Array:
    """Return the distances (..., N, 4) of boxes (..., N, 4), one per cell; negative where the cell lies outside."""
    return (boxes - centres) / scales  # type: ignore[operator]


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (F,) of boxes (F, 4); 0 for an inverted box."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union, (A, B) within 0..1, of boxes (A, 4) and (B, 4); 0 where both are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    union = areas(first)[:, None] + areas(second)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared, dtype=np.float64), where=union > 0)


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float, most: int = 750) -> np.ndarray:
    """Return the indices of the boxes that non-maximum suppression keeps, best first.

    Args:
        boxes: (F, 4).
        scores: (F,).
        overlap: intersection over union above which the box with the lower score is removed.
        most: consider this many of the best scores.
    """
    order = np.argsort(-scores, kind="stable")[:most]
    common = overlaps(boxes[order], boxes[order]) > overlap
    alive = np.ones(len(order), bool)
    for place in range(len(order)):
        if alive[place]:
            alive[place + 1 :] &= ~common[place, place + 1 :]
    return order[alive]


def clip(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the part of each box that lies within the image."""
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
