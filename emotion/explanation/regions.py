"""Share of importance on regions of the face: eyes, brows, between the brows, nose, mouth, and the rest.

Regions are ellipses and polygons around the five landmarks of the aligned face; their sizes are in units of the eye
distance. The region of each image pixel is looked up in the aligned frame, so that no map is resampled.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.path import Path as Polygon

EYES = 0.28  # eye distance in the frame, the unit of the sizes of regions
FRAME = np.array([[0.36, 0.42], [0.64, 0.42], [0.50, 0.58], [0.384, 0.746], [0.616, 0.746]])  # order of LANDMARKS


def alignable(landmarks: np.ndarray) -> np.ndarray:
    """Return which faces can be aligned, bool (N,): all five landmarks are known and not all are equal."""
    spread = np.ptp(landmarks.astype(np.float64), axis=1).max(axis=1) if len(landmarks) else np.zeros(0)
    return np.isfinite(landmarks).all(axis=(1, 2)) & (np.nan_to_num(spread) > 1e-6)


def similarity(points: np.ndarray, places: np.ndarray = FRAME) -> np.ndarray:
    r"""Return the least-squares similarity transform from points to places, (2, 3).

    With points as complex numbers, :math:`q = a p + b` is a rotation with scale and translation, without reflection,
    where :math:`a = \sum \overline{(p - \bar p)} (q - \bar q) / \sum |p - \bar p|^2`.

    Args:
        points: x and y, (5, 2).
        places: Their target positions, (5, 2).
    """
    p, q = (coordinates[:, 0] + 1j * coordinates[:, 1] for coordinates in (points.astype(np.float64), places))
    from_middle = p - p.mean()
    a = (from_middle.conj() * (q - q.mean())).sum() / (np.abs(from_middle) ** 2).sum()
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def transform_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Apply a transform (2, 3) to points (..., 2)."""
    return points @ transform[:, :2].T + transform[:, 2]


def in_frame(image: np.ndarray, landmarks: np.ndarray | None, side: int) -> np.ndarray:
    """Return an image (H, W) or (H, W, 3) aligned to the frame, float32 (side, side, ...); NaN outside the image.

    Args:
        image: uint8 or float.
        landmarks: Landmarks in pixels of the image, (5, 2); None: only scale the image to the frame.
        side: Side of the frame in pixels.
    """
    source = image.astype(np.float32)
    if landmarks is None:
        return cv2.resize(source, (side, side), interpolation=cv2.INTER_LINEAR)
    # OpenCV counts from the centre of the first pixel, landmarks from its corner
    corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    centre = np.array([[side, 0, -0.5], [0, side, -0.5]])
    whole = centre @ np.vstack([similarity(landmarks), [0, 0, 1]]) @ corner
    return cv2.warpAffine(
        source,
        whole,
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(np.nan,) * 4,
    )


REGIONS = ("eyes", "brows", "between the brows", "nose", "mouth", "rest")
REST = REGIONS.index("rest")


@dataclass(frozen=True)
class Shares:
    """Importance on each region, image by image; NaN if it is not defined.

    Attributes:
        share: Share of the importance, (N, R).
        area: Share of the pixels, (N, R).
        density: Share of importance over share of area, (N, R); 1 for evenly distributed importance.
    """

    share: np.ndarray
    area: np.ndarray
    density: np.ndarray


def outlines(points: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return the outlines of each region around five landmarks in the frame, each (n, 2); the rest has none."""
    right, left, nose, *corners = points
    middle = (right + left) / 2
    mouth, half = (corners[0] + corners[1]) / 2, abs(corners[1][0] - corners[0][0]) / 2 / EYES
    shapes = {
        "eyes": [_oval(eye, 0, 0, 0.29, 0.19) for eye in (right, left)],
        "brows": [_box(eye, -0.36 * out, 0.50 * out, -0.74, -0.19) for eye, out in ((right, -1), (left, 1))],
        "between the brows": [_box(middle, -0.15, 0.15, -0.70, 0.0)],
        "nose": [np.array([middle + _eyes(-0.13, 0.0), middle + _eyes(0.13, 0.0), nose + _eyes(0.30, 0.0),
                           nose + _eyes(0.20, 0.19), nose + _eyes(-0.20, 0.19), nose + _eyes(-0.30, 0.0)])],
        "mouth": [_oval(mouth, 0, 0.06, half + 0.10, 0.32)],
    }  # fmt: skip
    return shapes


def _eyes(x: float, y: float) -> np.ndarray:
    return np.array([x, y]) * EYES


def _oval(centre: np.ndarray, x: float, y: float, wide: float, high: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return centre + _eyes(x, y) + np.stack([np.cos(turn) * wide, np.sin(turn) * high], axis=1) * EYES


def _box(centre: np.ndarray, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return centre + np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) * EYES


def region_map(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the index of the region of each pixel, int (H, W); where regions overlap, the first of REGIONS counts.

    Args:
        landmarks: Landmarks in pixels, all known, (5, 2).
        height: Height of the image.
        width: Width of the image.
    """
    transform = similarity(landmarks)
    rows, columns = np.mgrid[:height, :width]
    pixels = transform_points(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1), transform)  # (H W, 2)
    regions = np.full(height * width, REST)
    shapes = outlines(transform_points(landmarks.astype(np.float64), transform))
    for number in reversed(range(REST)):
        for shape in shapes[REGIONS[number]]:
            regions[Polygon(shape).contains_points(pixels)] = number
    return regions.reshape(height, width)


def shares_of(maps: np.ndarray, landmarks: np.ndarray, *, absolute: bool = False) -> Shares:
    """Return the importance on each region.

    Args:
        maps: Signed maps, float (N, H, W).
        landmarks: Landmarks of the images, (N, 5, 2).
        absolute: Use the absolute importance; otherwise only the positive part.
    """
    count, height, width = maps.shape
    share, area = (np.full((count, len(REGIONS)), np.nan) for _ in range(2))
    weights = np.abs(maps) if absolute else np.clip(maps, 0, None)
    for i in np.flatnonzero(alignable(landmarks)):
        number = region_map(landmarks[i], height, width).ravel()
        area[i] = np.bincount(number, minlength=len(REGIONS)) / number.size
        weight = weights[i].ravel().astype(np.float64)
        if weight.sum() > 0:
            share[i] = np.bincount(number, weights=weight, minlength=len(REGIONS)) / weight.sum()
    density = np.divide(share, area, out=np.full(share.shape, np.nan), where=area > 0)
    return Shares(share, area, density)
