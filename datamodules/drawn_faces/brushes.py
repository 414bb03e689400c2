"""Polygons, lines and ovals at sub-pixel positions, and what every painter of a head holds."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from datamodules.drawn_faces.expressions import Expression
from datamodules.drawn_faces.geometry import Pose, Shapes
from datamodules.drawn_faces.people import Person

_BITS = 4  # sub-pixel bits of cv2's fixed-point coordinates
Colour = tuple[float, float, float] | float


def fixed(points: np.ndarray) -> np.ndarray:
    """Return pixel positions as cv2's fixed-point integers."""
    return np.rint(points * (1 << _BITS)).astype(np.int32)


def colour(rgb: np.ndarray, factor: float = 1.0) -> tuple[float, float, float]:
    """Return a colour that cv2 takes, made lighter or darker."""
    r, g, b = np.clip(np.asarray(rgb) * factor, 0, 255).tolist()
    return r, g, b


def fill(canvas: np.ndarray, points: np.ndarray, ink: Colour) -> None:
    """Fill a polygon of pixel positions."""
    cv2.fillPoly(canvas, [fixed(points)], ink, cv2.LINE_AA, _BITS)


def strokes(canvas: np.ndarray, lines: np.ndarray, ink: Colour, width: float) -> None:
    """Draw many lines of equal length, (n, points, 2)."""
    cv2.polylines(canvas, list(fixed(lines)), False, ink, max(1, round(width)), cv2.LINE_AA, _BITS)


def stroke(canvas: np.ndarray, points: np.ndarray, ink: Colour, width: float, closed: bool = False) -> None:
    """Draw a line through pixel positions."""
    cv2.polylines(canvas, [fixed(points)], closed, ink, max(1, round(width)), cv2.LINE_AA, _BITS)


def shift(x: float, y: float) -> np.ndarray:
    """Return what moves points (n, 2) by x and y."""
    return np.array([x, y])


def oval(x: float, y: float, wide: float, high: float, count: int = 20) -> np.ndarray:
    """Return an ellipse as points (count, 2)."""
    return _circle(count) * (wide, high) + (x, y)


@lru_cache
def _circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


@dataclass
class Easel:
    """A canvas and the head to be painted on it."""

    canvas: np.ndarray  # (S, S, 3) uint8 RGB
    person: Person
    face: Expression
    shapes: Shapes
    pose: Pose
    light: tuple[float, float]  # direction the light comes from, length = strength
    generator: np.random.Generator

    def blend(self, points: np.ndarray, rgb: np.ndarray, share: float) -> None:
        """Fill a polygon, letting what is below show through."""
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int), 0)
        x1, y1 = np.ceil(points.max(0)).astype(int) + 1
        part = self.canvas[y0:y1, x0:x1]
        if part.size:
            over = part.copy()
            fill(over, points - np.array([x0, y0]), colour(rgb))
            part[:] = cv2.addWeighted(over, share, part, 1 - share, 0)
