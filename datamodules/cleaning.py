"""Chooses which rows of a data set are worth keeping after an audit; no image is touched."""

import numpy as np
import pandas as pd

from datamodules.audit import Audit
from datamodules.errors import InputError
from datamodules.manifest import Manifest


def clean(manifest: Manifest, found: Audit) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows worth keeping, int64 sorted, and how many rows were left out for each reason.

    Of equal pictures one is kept: of the label that most of them bear (of none if labels tie), in the part that is
    reported rather than in training. Near duplicates and a person's images stay, since folds keep them together,
    unless they stand in two given splits: then they leave training, or validation for test.
    """
    count = len(manifest)
    reason = np.full(count, "", object)
    for kind in ("unreadable", "constant"):
        for rows in found.of(kind):
            reason[rows] = kind
    label = manifest.table["label"].to_numpy(object)
    rank = np.zeros(count, np.int64)
    if "split" in manifest.table:
        rank = manifest.table["split"].map({"test": 0, "validation": 1}).fillna(2).to_numpy(np.int64)
    for rows in found.of("exact duplicates"):
        open_rows = [row for row in rows if not reason[row]]
        if not open_rows:
            continue
        votes = pd.Series(label[open_rows]).value_counts()
        if len(votes) > 1 and votes.iloc[0] == votes.iloc[1]:
            reason[open_rows] = "one picture under two labels, none in the majority"
            continue
        # Whatever label wins, the picture stays in the part that is reported first.
        winners = [row for row in open_rows if label[row] == votes.index[0]]
        keep = min(winners, key=lambda row: (rank[row], row))
        for row in open_rows:
            if row != keep:
                reason[row] = "exact duplicate" if label[row] == votes.index[0] else "label of the minority"
    if "split" in manifest.table:
        for rows in found.of("across splits"):
            _leave(rows, reason, rank, "twin in a part that is reported")
        for rows in found.of("person across splits"):
            _leave(rows, reason, rank, "person in a part that is reported")
    kept = np.flatnonzero(reason == "")
    missing = sorted(set(manifest.table["label"]) - set(label[kept]))
    if missing:
        msg = f"fix would leave no image of class {', '.join(missing)}; mend the labels first (--table lists them)"
        raise InputError(msg)
    why, times = np.unique(reason[reason != ""].astype(str), return_counts=True)
    return kept, dict(zip(why.tolist(), times.tolist(), strict=True))


def _leave(rows: list[int], reason: np.ndarray, rank: np.ndarray, why: str) -> None:
    """Leave out those of ``rows`` that do not stand in the part that is reported first; changes ``reason``."""
    left = [row for row in rows if not reason[row]]
    best = min((rank[row] for row in left), default=0)
    for row in left:
        if rank[row] > best:
            reason[row] = why
