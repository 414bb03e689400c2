"""The second table of a data set: where faces are in its images, one row a box, since an image may hold several."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest_checks import parse_numbers, plain_text

SIDES = ("x0", "y0", "x1", "y1")


def boxes_file(manifest: Path) -> Path:
    """Return the file beside a saved manifest that holds its boxes."""
    return manifest.with_name(manifest.name + ".boxes.csv")


def check_boxes(boxes: pd.DataFrame, name: str) -> pd.DataFrame:
    """Check a table of boxes: ``path``, and ``x0``, ``y0``, ``x1``, ``y1`` in pixels of the upright image.

    Other columns (``annotator``, landmarks) stay, as numbers where all their values are.

    Raises:
        InputError: A column is missing, or a box has no area.
    """
    missing = [column for column in ("path", *SIDES) if column not in boxes]
    if missing:
        msg = f"{name}: the table of boxes lacks {', '.join(missing)}; found {', '.join(map(str, boxes.columns))}"
        raise InputError(msg)
    columns: dict[str, pd.Series] = {"path": plain_text(boxes["path"])}
    for column in boxes.columns.drop("path"):
        numbers, bad = parse_numbers(boxes[column])
        if column in SIDES and bad.any():
            row = int(np.flatnonzero(bad)[0])
            msg = f"{name}: box {row} of {boxes['path'].iloc[row]!r}: {column} must be a number, got "
            msg += f"{boxes[column].tolist()[row]!r}; correct the number, or remove the box"
            raise InputError(msg)
        columns[str(column)] = numbers if column in SIDES or numbers.notna().all() else plain_text(boxes[column])
    table = pd.DataFrame(columns).reset_index(drop=True)
    sides = table[list(SIDES)]
    empty = ~np.isfinite(sides).all(axis=1) | (table["x1"] <= table["x0"]) | (table["y1"] <= table["y0"])
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        values = ", ".join(f"{side}={table[side].iloc[row]:g}" for side in SIDES)
        rule = "x0 < x1 and y0 < y1 must hold"
        msg = f"{name}: box {row} of {table['path'].iloc[row]!r}: {rule}, got {values}; correct it or leave it out"
        raise InputError(msg)
    return table
