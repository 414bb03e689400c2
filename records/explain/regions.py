"""How much of an explanation lies on eyes, brows, between the brows, nose, mouth, and on the rest of the picture.

Regions are ellipses and polygons around a face's own five landmarks after alignment, with sizes in distances of the
eyes. Pixels of the picture are looked up in the frame, so that no map is resampled.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.path import Path as Polygon

from records.explain.alignment import EYES, known, moved, similarity

REGIONS = ("eyes", "brows", "between the brows", "nose", "mouth", "rest")
REST = REGIONS.index("rest")


@dataclass(frozen=True)
class Shares:
    """What lies on each region, image by image; NaN where it cannot be said.

    Attributes:
        share: (N, R) of the importance.
        area: (N, R) of the pixels.
        density: (N, R) share of importance over share of area; 1 says as much as the region's size.
    """

    share: np.ndarray
    area: np.ndarray
    density: np.ndarray


def outlines(points: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return the outline of each region around five points in the frame, each (n, 2); the rest has none."""
    right, left, nose, *corners = points
    middle = (right + left) / 2
    mouth, half = (corners[0] + corners[1]) / 2, abs(corners[1][0] - corners[0][0]) / 2 / EYES
    found = {
        "eyes": [_oval(eye, 0, 0, 0.29, 0.19) for eye in (right, left)],
        "brows": [_box(eye, -0.36 * out, 0.50 * out, -0.74, -0.19) for eye, out in ((right, -1), (left, 1))],
        "between the brows": [_box(middle, -0.15, 0.15, -0.70, 0.0)],
        "nose": [np.array([middle + _eyes(-0.13, 0.0), middle + _eyes(0.13, 0.0), nose + _eyes(0.30, 0.0),
                           nose + _eyes(0.20, 0.19), nose + _eyes(-0.20, 0.19), nose + _eyes(-0.30, 0.0)])],
        "mouth": [_oval(mouth, 0, 0.06, half + 0.10, 0.32)],
    }  # fmt: skip
    return found


def _eyes(x: float, y: float) -> np.ndarray:
    return np.array([x, y]) * EYES


def _oval(centre: np.ndarray, x: float, y: float, wide: float, high: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return centre + _eyes(x, y) + np.stack([np.cos(turn) * wide, np.sin(turn) * high], axis=1) * EYES


def _box(centre: np.ndarray, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return centre + np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) * EYES


def region_map(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the number of the region of each pixel, int (H, W); where two overlap, the first of REGIONS counts.

    Args:
        landmarks: (5, 2) in pixels, all known.
        height: Of the picture.
        width: Of the picture.
    """
    transform = similarity(landmarks)
    rows, columns = np.mgrid[:height, :width]
    pixels = moved(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1), transform)  # (H W, 2)
    found = np.full(height * width, REST)
    shapes = outlines(moved(landmarks.astype(np.float64), transform))
    for number in reversed(range(REST)):
        for shape in shapes[REGIONS[number]]:
            found[Polygon(shape).contains_points(pixels)] = number
    return found.reshape(height, width)


def shares_of(maps: np.ndarray, landmarks: np.ndarray, *, absolute: bool = False) -> Shares:
    """Return what lies on each region.

    Args:
        maps: float (N, H, W), signed.
        landmarks: (N, 5, 2).
        absolute: Count what speaks against the class, too; otherwise only the positive part.
    """
    count, height, width = maps.shape
    share, area = (np.full((count, len(REGIONS)), np.nan) for _ in range(2))
    weights = np.abs(maps) if absolute else np.clip(maps, 0, None)
    for i in np.flatnonzero(known(landmarks)):
        number = region_map(landmarks[i], height, width).ravel()
        area[i] = np.bincount(number, minlength=len(REGIONS)) / number.size
        weight = weights[i].ravel().astype(np.float64)
        if weight.sum() > 0:
            share[i] = np.bincount(number, weights=weight, minlength=len(REGIONS)) / weight.sum()
    density = np.divide(share, area, out=np.full(share.shape, np.nan), where=area > 0)
    return Shares(share, area, density)
