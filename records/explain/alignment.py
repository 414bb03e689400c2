"""Faces laid on each other: the turn, scale and shift that bring five landmarks to their places in one frame.

The frame is a square of side 1, x to the right and y down. Its five places have the proportions of a frontal face (as
the 112-pixel template of ArcFace, Deng et al. 2019), small enough that brow and chin fit in.
"""

import cv2
import numpy as np

EYES = 0.28  # distance of the eyes in the frame; sizes of regions are given in it
FRAME = np.array([[0.36, 0.42], [0.64, 0.42], [0.50, 0.58], [0.384, 0.746], [0.616, 0.746]])  # order of LANDMARKS


def known(landmarks: np.ndarray) -> np.ndarray:
    """Return which faces can be aligned, bool (N,): all five points known, and not all in one place."""
    spread = np.ptp(landmarks.astype(np.float64), axis=1).max(axis=1) if len(landmarks) else np.zeros(0)
    return np.isfinite(landmarks).all(axis=(1, 2)) & (np.nan_to_num(spread) > 1e-6)


def similarity(points: np.ndarray, places: np.ndarray = FRAME) -> np.ndarray:
    r"""Return the similarity transform that brings points nearest to their places, (2, 3).

    Points are complex numbers, so that :math:`q = a p + b` is a turn with scale and a shift, never a mirror; least
    squares give :math:`a = \sum \overline{(p - \bar p)} (q - \bar q) / \sum |p - \bar p|^2`.

    Args:
        points: (5, 2) x and y.
        places: (5, 2) where they belong.
    """
    p, q = (one[:, 0] + 1j * one[:, 1] for one in (points.astype(np.float64), places))
    from_middle = p - p.mean()
    a = (from_middle.conj() * (q - q.mean())).sum() / (np.abs(from_middle) ** 2).sum()
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def moved(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Return points (..., 2) after a transform (2, 3)."""
    return points @ transform[:, :2].T + transform[:, 2]


def in_frame(picture: np.ndarray, landmarks: np.ndarray | None, side: int) -> np.ndarray:
    """Return a picture (H, W) or (H, W, 3) as it lies in the frame, float32 (side, side, ...); NaN outside of it.

    Args:
        picture: uint8 or float.
        landmarks: (5, 2) in its pixels; None only scales it to the frame.
        side: Pixels of the frame.
    """
    source = picture.astype(np.float32)
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
