"""Takes the same number of images of every class, those that annotators agree on first."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.manifest_checks import parse_numbers, refuse


def agreed(table: pd.DataFrame, least: int, name: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows whose label at least so many annotators gave, by the column ``agreement``; and what was left out.

    Raises:
        InputError: no such column, or no row that is left.
    """
    if "agreement" not in table:
        msg = f"{name}: agreement={least} needs to know how many annotators gave the label; leave agreement out"
        raise InputError(msg)
    number = _agreement(table, name)
    kept = (number >= least).to_numpy(bool)
    if not kept.any():
        counts = ", ".join(f"{int(n)} on {c} images" for n, c in number.value_counts().sort_index().items())
        msg = f"{name}: no image whose label {least} annotators gave ({counts} agree); lower agreement to 2 or any"
        raise InputError(msg)
    if kept.all():
        return table, ()
    note = f"{int((~kept).sum())} images left out: fewer than {least} annotators gave their label"
    return table[kept].reset_index(drop=True), (note,)


def draw_evenly(manifest: Manifest, per_class: int) -> Manifest:
    """Return ``per_class`` images of every class, in the order of the table.

    Notes:
        * Where the column ``agreement`` is known, images with more of it come first.
        * Within the same agreement a hash of the file's name decides, so that the same set always gives the same
          images, wherever it lies and in whatever order it is read.
        * A class with fewer images gives all it has, and a note says so.
    """
    names = manifest.table["path"].str.rsplit("/", n=1).str[-1]
    drawn = np.array([hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in names])
    level = np.zeros(len(manifest))
    if "agreement" in manifest.table:
        level = _agreement(manifest.table, manifest.name).fillna(0).to_numpy(np.float64)
    order = np.lexsort((drawn, -level))
    kept: list[np.ndarray] = []
    notes = [f"{per_class} images of every class used, those that most annotators agree on first"]
    for index, label in enumerate(manifest.classes):
        rows = order[manifest.labels[order] == index][:per_class]
        kept.append(rows)
        if len(rows) < per_class:
            notes.append(f"class {label} has only {len(rows)} images, fewer than per_class={per_class}")
    part = manifest.select(np.sort(np.concatenate(kept)))
    return replace(part, notes=(*manifest.notes, *notes))


def _agreement(table: pd.DataFrame, name: str) -> pd.Series:
    """Return how many annotators gave each label, NaN where the cell is empty."""
    number, bad = parse_numbers(table["agreement"])
    refuse(bad, table, "agreement", name, "must be a number")
    return number
