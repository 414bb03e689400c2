"""What is known of the faces that are explained: landmarks, and on drawn faces the pixels that carry the emotion."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.drawn_faces import draw, parse_spec
from datamodules.faces.choose import choose
from datamodules.faces.detector import LANDMARKS, Detector
from datamodules.manifest import Manifest
from datamodules.pixels import Fit, fit_to_square

CARRIERS = ("eyes", "brows", "nose", "mouth")
"""What moves when a drawn face shows an emotion."""

_COLUMNS = [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]  # as seen in the picture: left is the right eye


def onto_square(points: np.ndarray, height: int, width: int, size: int, fit: Fit) -> np.ndarray:
    """Return where points of a picture are once `fit_to_square` has made it square.

    Args:
        points: float (..., 2) x, y in the picture, counted from the corner of its first pixel, as boxes are.
        height: of the picture.
        width: of the picture.
        size: side of the square.
        fit: as in `fit_to_square`.
    """
    box, place = np.array([width, height], float), np.zeros(2)
    corner = np.zeros(2)
    inner = np.array([size, size], float)
    if fit == "crop":
        side = min(height, width)
        corner = np.array([(width - side) // 2, (height - side) // 2], float)
        box = np.array([side, side], float)
    elif fit == "pad":
        scale = size / max(height, width)
        inner = np.array([max(1, round(width * scale)), max(1, round(height * scale))], float)
        place = (size - inner) // 2
    return (points - corner) * inner / box + place


def known_landmarks(
    manifest: Manifest, rows: np.ndarray, shapes: list[tuple[int, int]], size: int, fit: Fit
) -> np.ndarray:
    """Return the landmarks that the data's own table of faces tells, float32 (N, 5, 2); NaN where it tells none.

    Args:
        manifest: The data.
        rows: Rows of it.
        shapes: Height and width of each picture.
        size: Side of what the network sees.
        fit: How a picture is made square.
    """
    found = np.full((len(rows), len(LANDMARKS), 2), np.nan, np.float32)
    boxes = manifest.boxes
    if boxes is None or not set(_COLUMNS) <= set(boxes):
        return found
    if "chosen" in boxes:
        boxes = boxes[pd.to_numeric(boxes["chosen"]) == 1]
    boxes = boxes.drop_duplicates("path", keep=False).set_index("path")  # of several faces none is known to be meant
    points = boxes[_COLUMNS].apply(pd.to_numeric, errors="coerce").reindex(manifest.table["path"].iloc[rows])
    for number, (one, (height, width)) in enumerate(zip(points.to_numpy(np.float64), shapes, strict=True)):
        found[number] = onto_square(one.reshape(-1, 2), height, width, size, fit)
    return found


def found_landmarks(detector: Detector, image: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Return the landmarks of the largest face of a picture, float32 (5, 2) in what the network sees; NaN without."""
    faces = detector.detect([image])[0]
    height, width = image.shape[:2]
    number = choose(faces, height, width)
    if number is None:
        return np.full((len(LANDMARKS), 2), np.nan, np.float32)
    return onto_square(faces.landmarks[number].astype(np.float64), height, width, size, fit).astype(np.float32)


def carriers(source: str, manifest: Manifest, rows: np.ndarray, size: int, fit: Fit) -> np.ndarray | None:
    """Return the pixels that carry the emotion, bool (N, size, size), of drawn faces; None of any other data.

    Args:
        source: The data as it is named.
        manifest: The data.
        rows: Rows of it.
        size: Side of what the network sees.
        fit: How a picture is made square.
    """
    if source != "drawn" and not source.startswith("drawn:"):
        return None
    spec = parse_spec(source)
    masks = np.zeros((len(rows), size, size), bool)
    for number, path in enumerate(manifest.table["path"].iloc[rows]):
        drawn = draw(spec, int(Path(path).stem)).masks  # a set may leave rows out, its files keep their numbers
        whole = np.logical_or.reduce([drawn[name] for name in CARRIERS])
        masks[number] = fit_to_square(np.repeat(whole[..., None], 3, 2).astype(np.uint8) * 255, size, fit)[..., 0] > 127
    return masks
