"""Cuts the faces out of a data set as it is read, once, so that every run and study can see them instead of scenes."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.contents import file_hashes
from datamodules.errors import InputError
from datamodules.face_boxes import SIDES
from datamodules.manifest import Manifest
from datamodules.places import build_once, cache_root

if TYPE_CHECKING:
    from datamodules.readers.common import ReadOptions

BOXES = "boxes"  # cut where the data set itself says that the face is


def cut_out(manifest: Manifest, options: "ReadOptions") -> Manifest:
    """Return the data set of the faces that a detector finds, or that the data set's own boxes hold.

    A picture without a face stays, whole and with grey beside it, so that every detector gives the same rows.

    Args:
        manifest: The photographs.
        options: ``faces`` is the detector or ``boxes``; ``face_size`` and ``face_margin`` are those of the crops.

    Raises:
        InputError: No such detector, no boxes, a box without a picture that can be read, or nothing can be written.
    """
    faces = str(options.faces)
    if faces == BOXES:
        return _by_boxes(manifest, options)
    from datamodules.faces.detector import FIND_VERSION, open_detector
    from datamodules.faces.prepare import prepare_faces
    from datamodules.faces.work import CutOptions

    cut = CutOptions(size=options.face_size, margin=options.face_margin, no_face="keep")
    folder = _folder(manifest, options, FIND_VERSION, open_detector(faces).identity, cut)
    done = prepare_faces(manifest, faces, folder, cut)
    note = f"faces cut by {faces}: found in {done.found} of {len(manifest)} pictures, the others are whole"
    return replace(done.manifest, notes=(*manifest.notes, note))


def _folder(manifest: Manifest, options: "ReadOptions", *more: object) -> Path:
    """Return the cache folder of the crops, named by a hash of all that they depend on, the photographs' bytes too.

    Args:
        manifest: The photographs; the crops are the same if they are moved to another folder.
        options: Size and margin of the crops.
        more: The detector, or the boxes.
    """
    from datamodules.faces.cut import CUT_VERSION  # pulls in OpenCV, which other readers do not need
    from datamodules.faces.work import QUALITY
    from datamodules.pixels import DECODE_POLICY

    contents = file_hashes(manifest.root, manifest.table["path"].tolist())
    made_by = (CUT_VERSION, DECODE_POLICY, QUALITY, options.face_size, options.face_margin, *more)
    made_of = hashlib.sha256(repr((manifest.fingerprint(), contents, made_by)).encode())
    return cache_root() / "crops" / made_of.hexdigest()[:24]


def median_boxes(boxes: pd.DataFrame) -> pd.DataFrame:
    """Return one box an image, by path: of annotators who differ, the middle one of every side."""
    return boxes.groupby("path", sort=False)[list(SIDES)].median()


def _by_boxes(manifest: Manifest, options: "ReadOptions") -> Manifest:
    if manifest.boxes is None:
        msg = f"{manifest.name}: faces=boxes needs a data set that brings boxes of faces; name a detector, such as haar"
        raise InputError(msg)
    from datamodules.faces.boxes_crops import write_crops

    boxes = median_boxes(manifest.boxes).reindex(manifest.table["path"])
    folder = _folder(manifest, options, BOXES, boxes.to_numpy(np.float64).tolist())
    with build_once(folder) as (place, draft):
        if draft is not None:
            bar = tqdm(range(len(manifest)), "cutting faces", unit=" files", delay=1, leave=False, disable=None)
            write_crops(manifest, boxes.to_numpy(np.float64), draft, options.face_size, options.face_margin, bar)
    names = [f"{row:07d}.jpg" for row in range(len(manifest))]
    table = manifest.table.assign(path=names, face_source=manifest.table["path"])
    missing = int(boxes["x0"].isna().sum())
    note = f"faces cut by the data set's own boxes, {missing} of {len(manifest)} pictures have none and are whole"
    return replace(manifest, root=place.resolve(), table=table, boxes=None, notes=(*manifest.notes, note))
