"""The table of true boxes: read, checked against its pictures, and brought to the square that a model sees."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import Manifest, as_numbers, make_manifest, read_table
from datamodules.manifest_checks import file_row, plain_text

CORNERS = ("x0", "y0", "x1", "y1")
FILES = ("boxes.csv", "boxes.parquet")  # looked for beside the pictures
_CLASSES = ("face", "no face")  # what a manifest that is made from boxes alone calls its pictures


def find_table(place: Path) -> Path | None:
    """Return the table of boxes in a folder, beside a manifest, or the file itself; None where there is none."""
    folder = place if place.is_dir() else place.parent
    if place.is_file() and place.name in FILES:
        return place
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_boxes(path: Path) -> pd.DataFrame:
    """Return ``path``, ``x0``, ``y0``, ``x1``, ``y1`` (pixels of the picture, float) and all other columns.

    A row with four empty corners says that its picture has no face.

    Raises:
        InputError: a missing file or column, a corner that is no number, or a box that is turned inside out.
    """
    if not path.is_file():
        msg = f"boxes: no file {path}; give a table with the columns path, {', '.join(CORNERS)}"
        raise InputError(msg)
    table = read_table(path).reset_index(drop=True)
    missing = [name for name in ("path", *CORNERS) if name not in table]
    if missing:
        msg = f"boxes: {path} lacks {', '.join(missing)}; it needs path, {', '.join(CORNERS)} (pixels of the picture)"
        raise InputError(msg)
    numbers = pd.DataFrame({name: as_numbers(table, name, f"boxes: {path}") for name in CORNERS})
    _refuse(np.isinf(numbers).any(axis=1), table, path, "its corners must be finite numbers")
    some = numbers.notna()
    _refuse(some.any(axis=1) & ~some.all(axis=1), table, path, "it needs all four corners, or none for no face")
    flat = (numbers["x1"] <= numbers["x0"]) | (numbers["y1"] <= numbers["y0"])
    _refuse(flat, table, path, "x0 < x1 and y0 < y1 must hold (not x, y, width, height)")
    table[list(CORNERS)] = numbers
    table["path"] = plain_text(table["path"])
    return table


def _refuse(bad: pd.Series, table: pd.DataFrame, path: Path, rule: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        corners = ", ".join(str(table[name].iat[row]) for name in CORNERS)
        msg = f"boxes: {path}: {file_row(bad)}: {rule}, got {corners} for {str(table['path'].iat[row])!r}"
        raise InputError(msg)


def manifest_of(table: pd.DataFrame, root: Path, name: str) -> Manifest:
    """Return the manifest of the pictures that a table of boxes names, with its ``subject`` and ``split`` if any."""
    rows = table.replace("", np.nan).groupby("path", sort=False).first().reset_index()  # the first that is not empty
    faces = table[CORNERS[0]].notna().groupby(table["path"], sort=False).any().to_numpy()
    kept = [column for column in ("path", "subject", "split") if column in rows]
    return make_manifest(
        rows[kept].assign(label=np.where(faces, *_CLASSES)).astype(object), root, name=name, classes=_CLASSES
    )


def boxes_by_row(table: pd.DataFrame, manifest: Manifest, sizes: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Return the boxes of each row of the manifest, float32 (M, 4), within the picture, and how many were cut.

    Args:
        table: of :func:`read_boxes`.
        manifest: the pictures; one without a row in the table has no face.
        sizes: (N, 2) width and height of each picture.

    Raises:
        InputError: a box of a picture that the manifest has not, a box that lies outside, or no box at all.
    """
    row = pd.Index(manifest.table["path"]).get_indexer(pd.Index(table["path"]))
    if (row < 0).any():
        at = int(np.flatnonzero(row < 0)[0])
        msg = (
            f"boxes: {int((row < 0).sum())} rows are of pictures that {manifest.name} has not, first row {at}, "
            f"{table['path'].iat[at]!r}; paths must be those of the manifest, relative to {manifest.root}"
        )
        raise InputError(msg)
    real = table[CORNERS[0]].notna().to_numpy()
    if not real.any():
        msg = f"boxes: {manifest.name} has no face at all ({len(manifest)} pictures); without one nothing can be learnt"
        raise InputError(msg)
    corners, row = table.loc[real, list(CORNERS)].to_numpy(np.float64), row[real]
    limit = np.tile(sizes[row], 2)  # (R, 4)
    cut = np.clip(corners, 0, limit)
    outside = ((cut[:, 2:] - cut[:, :2]) <= 0).any(1)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        wide, high = sizes[row[at]].tolist()
        msg = (
            f"boxes: {int(outside.sum())} boxes lie outside their pictures, first {corners[at].round(1).tolist()} in "
            f"{manifest.table['path'].iat[int(row[at])]!r}, which is {wide} x {high}; boxes are in pixels of the "
            "picture as it is shown (turned by its EXIF orientation)"
        )
        raise InputError(msg)
    clipped = int((cut != corners).any(1).sum())
    order = np.argsort(row, kind="stable")
    ends = np.searchsorted(row[order], np.arange(1, len(manifest)))
    return np.split(cut[order].astype(np.float32), ends), clipped


def to_square(boxes: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Return boxes (M, 4) where `datamodules.pixels.fit_to_square(..., fit="pad")` puts them in its square."""
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - wide) // 2, (size - high) // 2
    factor = np.array([wide / width, high / height] * 2, np.float32)
    return boxes * factor + np.array([left, top] * 2, np.float32)
