"""Cutting a face out of a picture: a square with a margin around the box, never stretched, upright on request."""

import math
from typing import Literal, get_args

import cv2
import numpy as np

from datamodules.pixels import GREY

Border = Literal["reflect", "pad"]
BORDERS: tuple[Border, ...] = get_args(Border)
CUT_VERSION = "1"
"""Version of everything this file does to pixels; crops made by another version are made anew."""

_MODES = {"reflect": cv2.BORDER_REFLECT_101, "pad": cv2.BORDER_CONSTANT}


def roll(landmarks: np.ndarray) -> float:
    """Return by how much the line between the eyes falls to the right, radians; 0 where the eyes are not known.

    Args:
        landmarks: (5, 2), the left eye in the picture first, then the right one.
    """
    across, down = (landmarks[1] - landmarks[0]).tolist()
    return math.atan2(down, across) if math.isfinite(across) and math.isfinite(down) else 0.0


def cut(
    image: np.ndarray,
    box: np.ndarray,
    size: int,
    *,
    margin: float = 0.25,
    border: Border = "reflect",
    turn: float = 0.0,
) -> np.ndarray:
    """Return the face as (size, size, 3) uint8: the square around the box's middle.

    The square's side is the box's longer side and ``margin`` of it more on each of the four sides. Shrinking averages
    the area that a pixel covers, enlarging is bilinear. Memory beyond the picture's is that of the result.

    Args:
        image: (H, W, 3) uint8.
        box: x0, y0, x1, y1 in pixels; may reach over the border.
        size: side of the result in pixels.
        margin: share of the box's longer side.
        border: what lies outside the picture: its mirror image, or grey.
        turn: the square is turned by this much around its middle, radians, clockwise in the picture; the face's
            :func:`roll` makes it upright.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(x1 - x0, y1 - y0, 1e-3) * (1 + 2 * margin)
    scale = side / size  # picture pixels for one of the result
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    if scale > 1 and not turn:  # on whole pixels a square inside the picture is shrunk exactly, without a second blur
        side = float(round(side))
        scale = side / size
        middle = np.round(middle - side / 2) + side / 2

    # the picture's part under the square, and as far inside as a mirror image outside of the border shows
    reach = side / 2 * (abs(math.cos(turn)) + abs(math.sin(turn))) + (0 if scale > 1 and not turn else 2)
    ends = [_part(x - reach, x + reach, most, scale) for x, most in zip(middle, image.shape[1::-1], strict=True)]
    (left, right), (top, bottom) = ends
    part = image[top:bottom, left:right]
    grain = np.ones(2)  # picture pixels for one of the part
    if scale > 1:
        smaller = [max(1, round(length / scale)) for length in part.shape[1::-1]]
        grain = np.array(part.shape[1::-1]) / smaller
        part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)

    # from positions in the result to positions in the part; both count from the middle of the first pixel
    turned = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    offset = turned @ np.full(2, 0.5 - size / 2) + middle - np.array([left, top])
    matrix = np.column_stack([turned / grain[:, None], offset / grain - 0.5])
    if part.shape[:2] == (size, size) and np.allclose(matrix, np.eye(2, 3), atol=1e-6):
        return np.ascontiguousarray(part)
    return cv2.warpAffine(
        part,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=_MODES[border],
        borderValue=(GREY, GREY, GREY),
    )


def _part(low: float, high: float, most: int, scale: float) -> tuple[int, int]:
    """Return the first pixel and the end of what is needed of ``most`` pixels in a row; at least one."""
    beyond = math.ceil(scale)  # the outermost pixel of the result is not doubled by the mirror
    first = low if high <= most else min(low, 2 * most - high - beyond)
    end = high if low >= 0 else max(high, beyond - low)
    start = min(max(math.floor(first), 0), most - 1)
    return start, min(max(math.ceil(end), start + 1), most)
