"""Cuts faces where given boxes say they are, one picture after the other."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.faces.cut import cut
from datamodules.faces.work import QUALITY
from datamodules.manifest import Manifest
from datamodules.pixels import PIXEL_LIMIT, decode_file, fit_to_square


def write_crops(
    manifest: Manifest, boxes: np.ndarray, folder: Path, size: int, margin: float, rows: Iterable[int]
) -> None:
    """Write ``<row>.jpg`` for rows of a manifest; the whole picture where the box is not a number.

    Args:
        manifest: The pictures.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the upright picture.
        folder: Where the crops go.
        size: Side of the crops.
        margin: As :func:`~datamodules.faces.cut.cut` takes it.
        rows: Which rows, in the order they are done.

    Raises:
        InputError: A picture cannot be read.
    """
    for row in rows:
        image = decode_file(manifest.file(row), pixel_limit=PIXEL_LIMIT).image
        known = bool(np.isfinite(boxes[row]).all())
        crop = cut(image, boxes[row], size, margin=margin) if known else fit_to_square(image, size, "pad")
        Image.fromarray(crop).save(folder / f"{row:07d}.jpg", "JPEG", quality=QUALITY, subsampling=0)
