"""Holds annotators' boxes against the sizes of their images: none may lie outside, and what sticks out is cut off."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.face_boxes import SIDES
from datamodules.manifest import Manifest

_ORIENTATION = 0x0112  # EXIF; 5 to 8 lie on their side
_THREADS = 8


def upright_size(file: str) -> tuple[int, int]:
    """Return width and height of an image as it is looked at, by its header; (0, 0) if it cannot be read."""
    try:
        with Image.open(file) as image:
            wide, high = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0
    return (high, wide) if turned else (wide, high)


def within_images(manifest: Manifest, boxes: pd.DataFrame, *, drop: bool) -> Manifest:
    """Return the manifest with its boxes, cut at the borders of the upright images. Unreadable images are let pass.

    Raises:
        InputError: a box has no pixel of its image, and ``drop`` does not leave such boxes out.
    """
    paths = boxes["path"].unique()
    places = [os.path.join(manifest.root, path) for path in paths]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(upright_size, places, chunksize=32)
        bar = tqdm(found, "image sizes", total=len(places), unit=" files", delay=2, leave=False, disable=None)
        sizes = dict(zip(paths, bar, strict=True))
    size = np.array([sizes[path] for path in boxes["path"]], np.float64).reshape(-1, 2)
    size[size[:, 0] == 0] = np.inf
    corners = boxes[list(SIDES)].to_numpy(np.float64)
    cut = np.clip(corners, 0, np.tile(size, 2))
    gone = (cut[:, 2] <= cut[:, 0]) | (cut[:, 3] <= cut[:, 1])
    if gone.any() and not drop:
        row = int(np.flatnonzero(gone)[0])
        wide, high = size[row].astype(int)
        values = ", ".join(f"{value:g}" for value in corners[row])
        msg = (
            f"{manifest.name}: the box of annotator {boxes['annotator'].iloc[row]} lies outside of "
            f"{boxes['path'].iloc[row]!r}, which is {wide}x{high}: x0, y0, x1, y1 = {values}; correct it, or leave "
            "such boxes out with bad_records=drop (--bad-records drop)"
        )
        raise InputError(msg)
    notes = []
    if gone.any():
        notes.append(f"{int(gone.sum())} boxes left out: they lie outside of their images")
    if over := int((np.abs(cut - corners).max(1)[~gone] > 1).sum()):
        notes.append(f"{over} boxes cut at the borders of their images")
    boxes = boxes.assign(**dict(zip(SIDES, cut.T, strict=True)))[~gone]
    return replace(manifest, notes=(*manifest.notes, *notes)).with_boxes(boxes)
