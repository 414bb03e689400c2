"""The tables beside the crops: their manifest, every box that was found, and the photographs without a face."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.faces.boxes import clip
from datamodules.faces.detector import LANDMARKS
from datamodules.faces.work import CutOptions, Record, as_found
from datamodules.manifest import Manifest, make_manifest
from datamodules.places import replacing

COLUMNS = ("face_source", "face", "face_box", "face_score", "face_count", "face_detector", "face_size", "face_margin")
"""What the crops' manifest says beyond the photographs' own. ``face`` is face, whole or centre."""

NO_FACE_REASON = "no face found"


def write_tables(
    manifest: Manifest, records: list[Record], detector: str, output: Path, options: CutOptions
) -> Manifest:
    """Write the three tables and return the crops' manifest.

    Args:
        manifest: the photographs'.
        records: one a row of it.
        detector: its name.
        output: the crops' folder.
        options: how they were cut.

    Raises:
        InputError: there is no crop at all; the other two tables are written then, too.
    """
    _write(_boxes(records, detector), output / "boxes.csv")
    missing = _missing(manifest, records)
    _write(missing, output / "no_face.csv")
    rows = [row for row, record in enumerate(records) if record["shown"]]
    if not rows:
        msg = (
            f"{detector} found no face in any of the {len(records)} pictures; {output / 'no_face.csv'} lists them with "
            "the reason. Try another detector, or --no-face keep or centre"
        )
        raise InputError(msg)
    table = manifest.table.iloc[rows].reset_index(drop=True)
    shown = [records[row] for row in rows]
    table = table.assign(
        path=[record["crop"] for record in shown],
        face_source=[record["path"] for record in shown],
        face=[record["shown"] for record in shown],
        face_box=[" ".join(f"{value:.1f}" for value in _box(record)) for record in shown],
        face_score=["" if record["chosen"] is None else f"{_score(record):.4f}" for record in shown],
        face_count=[str(len(record["faces"])) for record in shown],
        face_detector=detector,
        face_size=str(options.size),
        face_margin=f"{options.margin:g}",
    )
    notes = [*manifest.notes, f"faces cut by {detector} from {manifest.root}"]
    if left := len(records) - len(rows):
        notes.append(f"{left} of {len(records)} pictures are left out, no_face.csv lists them with the reason")
    crops = make_manifest(table, output, name=f"{manifest.name}-faces", classes=manifest.classes, notes=tuple(notes))
    crops.save(output / "manifest.csv")
    return crops


def _box(record: Record) -> list[float]:
    """Return the chosen face's box within the picture, [] where there is none."""
    if record["chosen"] is None:
        return []
    width, height = record["size"]
    return clip(np.array(record["faces"][record["chosen"]][:4], np.float64), height, width).tolist()


def _score(record: Record) -> float:
    return float(record["faces"][record["chosen"]][4])


def _boxes(records: list[Record], detector: str) -> pd.DataFrame:
    points = [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]
    columns = ["path", "x0", "y0", "x1", "y1", "score", "chosen", *points, "detector"]
    rows = []
    for record in records:
        found = as_found(record["faces"])
        width, height = record["size"]
        boxes = clip(found.boxes, height, width)
        for number, box in enumerate(boxes.tolist()):
            known = [*box, float(found.scores[number]), int(number == record["chosen"])]
            rows.append([record["path"], *known, *found.landmarks[number].ravel().tolist(), detector])
    return pd.DataFrame(rows, columns=columns)


def _missing(manifest: Manifest, records: list[Record]) -> pd.DataFrame:
    rows = [row for row, record in enumerate(records) if not record["faces"]]
    table = manifest.table.iloc[rows].reset_index(drop=True)
    first = pd.DataFrame(
        {
            "path": table["path"],
            "reason": [records[row]["error"] or NO_FACE_REASON for row in rows],
            "used": [records[row]["shown"] or "left out" for row in rows],
        }
    )
    return pd.concat([first, table.drop(columns="path")], axis=1)


def _write(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as part:
        table.to_csv(part, index=False, float_format="%.4f")
