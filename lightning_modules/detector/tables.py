"""The tables a detector's run leaves, and the way back from them to average precisions, without its pictures."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from datamodules.faces.boxes_data import BoxesDataModule
from datamodules.faces.boxes_table import CORNERS
from lightning_modules.detector.precision import Picture, match

Found = dict[int, tuple[np.ndarray, np.ndarray]]  # row -> boxes (F, 4) in the square, scores (F,)


def pictures_of(found: Found, data: BoxesDataModule) -> list[Picture]:
    """Match boxes and scores of rows with the truth, in the order of the rows."""
    return [match(*found[row], data.boxes[row]) for row in sorted(found)]


def detection_table(found: Found, data: BoxesDataModule) -> pd.DataFrame:
    """Return row, path, score, x0, y0, x1, y1 (pixels of the square) of every box that was found."""
    paths = data.manifest.table["path"]
    rows = [
        {"row": row, "path": paths.iat[row], "score": score, **dict(zip(CORNERS, box, strict=True))}
        for row, (boxes, scores) in sorted(found.items())
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["row", "path", "score", *CORNERS])


def truth_table(data: BoxesDataModule, rows: Iterable[int]) -> pd.DataFrame:
    """Return row, path, x0, y0, x1, y1 (pixels of the square) of every true box of some rows.

    A picture without a face has one line without corners, so that the table names every picture.
    """
    paths = data.manifest.table["path"]
    lines = [
        {"row": row, "path": paths.iat[row], **dict(zip(CORNERS, box, strict=True))}
        for row in sorted(map(int, rows))
        for box in (data.boxes[row].tolist() or [[np.nan] * 4])
    ]
    return pd.DataFrame(lines, columns=["row", "path", *CORNERS])


def matched(detections: pd.DataFrame, truth: pd.DataFrame) -> list[Picture]:
    """Return the pictures that two tables of one set of rows stand for, as :func:`pictures_of` does."""
    boxes = {row: group for row, group in detections.groupby("row")}
    nothing = detections.iloc[:0]
    pictures = []
    for row, faces in truth.groupby("row"):
        found = boxes.get(row, nothing)
        true = faces.loc[faces[CORNERS[0]].notna(), list(CORNERS)].to_numpy(np.float32)
        corners = found[list(CORNERS)].to_numpy(np.float32).reshape(-1, 4)
        pictures.append(match(corners, found["score"].to_numpy(np.float32), true))
    return pictures
