"""The two tables a run leaves: what was predicted for every held-out image, and which rows played which role."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import Manifest

PREDICTIONS = "predictions"  # names of the two tables of a run
SPLIT = "split"
PROBABILITY = "prob_"
COLUMNS = ("row", "path", "content", "cluster", "subject", "fold", "label", "predicted")
SPLIT_COLUMNS = ("fold", "row", "role", "is_copy")
ROLES = ("train", "inner", "outer")
PROTOCOL = "run_protocol"  # stands in the tables of leaky runs alone; apart from any group of a manifest
HONEST = "honest"


def build_predictions(
    manifest: Manifest,
    rows: np.ndarray,
    probabilities: np.ndarray,
    *,
    fold: int,
    clusters: np.ndarray,
    contents: Sequence[str],
) -> pd.DataFrame:
    """Return the prediction table of one fold, sorted by row.

    Args:
        manifest: The images.
        rows: Manifest rows that were predicted, shape (M,); a row may not appear twice.
        probabilities: Their class probabilities, shape (M, C), in the order of `manifest.classes`.
        fold: Number of the fold in which these rows were held out.
        clusters: Cluster of every manifest row, shape (N,).
        contents: Content hash of every manifest row, length N.
    """
    rows, probabilities = np.asarray(rows, np.int64), np.asarray(probabilities, np.float64)
    shape = (len(rows), len(manifest.classes))
    if probabilities.shape != shape:
        msg = f"probabilities: one row an image and one column a class, shape {shape}, got {probabilities.shape}."
        raise InputError(msg)
    order = np.argsort(rows, kind="stable")
    rows, probabilities = rows[order], probabilities[order]
    source = manifest.table.iloc[rows].reset_index(drop=True)
    names = np.asarray(manifest.classes, dtype=object)
    table = pd.DataFrame(
        {
            "row": rows,
            "path": source["path"],
            "content": np.asarray(contents, dtype=object)[rows],
            "cluster": np.asarray(clusters, np.int64)[rows],
            "subject": source["subject"] if "subject" in source else "",
            "fold": np.int64(fold),
            "label": source["label"],
            "predicted": names[probabilities.argmax(axis=1)] if len(rows) else source["label"],
        }
    )
    scores = pd.DataFrame(probabilities, columns=[f"{PROBABILITY}{name}" for name in manifest.classes])
    groups = source[[name for name in manifest.groups if name not in table]]
    table = pd.concat([table, scores, groups], axis=1)
    check_predictions(table)
    return table


def classes_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Return the class names of a prediction table, in the order of its probability columns."""
    return tuple(
        str(name).removeprefix(PROBABILITY) for name in predictions.columns if str(name).startswith(PROBABILITY)
    )


def check_predictions(table: pd.DataFrame) -> None:
    """Raise InputError unless `table` is a prediction table with every image at most once."""
    _need_columns(table, COLUMNS, "prediction table")
    classes = classes_of(table)
    if len(classes) < 2 or not len(table):
        msg = f"prediction table: at least 2 classes and 1 image, got {len(classes)} classes and {len(table)} images."
        raise InputError(msg)
    twice = table["row"][table["row"].duplicated()]
    if len(twice):
        msg = (
            f"prediction table: an image is predicted once, {len(twice)} rows are here again, the first is row "
            f"{twice.iloc[0]}. Join the folds of one seed only, and drop what a sampler repeated."
        )
        raise InputError(msg)
    for column in ("label", "predicted"):
        unknown = sorted(set(table[column].astype(str)) - set(classes))
        if unknown:
            msg = f"prediction table: column {column} must hold class names ({', '.join(classes)}), got {unknown[:5]}."
            raise InputError(msg)
    scores = table[[f"{PROBABILITY}{name}" for name in classes]].to_numpy(np.float64)
    wrong = ~np.isfinite(scores).all(axis=1) | (scores < 0).any(axis=1) | (np.abs(scores.sum(axis=1) - 1) > 1e-3)
    if wrong.any():
        row = table["row"].to_numpy()[wrong][0]
        msg = (
            f"prediction table: probabilities must be finite and sum to 1, {wrong.sum()} images do not, "
            f"the first is row {row}. A model that diverged does this: lower the learning rate."
        )
        raise InputError(msg)


def join_folds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the out-of-fold table of a cross-validation: every image once, from the fold that held it out."""
    orders = {classes_of(table) for table in tables}
    if len(orders) != 1:
        msg = f"tables: the folds of one cross-validation have the same classes, got {sorted(orders)}."
        raise InputError(msg)
    protocols = {protocol_of(table) for table in tables}
    if len(protocols) != 1:
        msg = f"tables: the folds of one cross-validation have the same protocol, got {sorted(protocols)}."
        raise InputError(msg)
    table = pd.concat(list(tables), ignore_index=True).sort_values("row", kind="stable", ignore_index=True)
    check_predictions(table)
    return table


def flag_protocol(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return a table that carries the protocol of its run; that of an honest run is returned as it is."""
    return table if protocol == HONEST else table.assign(**{PROTOCOL: protocol})


def protocol_of(table: pd.DataFrame) -> str:
    """Return the protocol that a table carries: `honest`, or in what it leaks."""
    found = table[PROTOCOL].astype(str).unique().tolist() if PROTOCOL in table else [HONEST]
    if len(found) != 1:
        msg = f"{PROTOCOL}: a table is of one protocol, got {found}; tables of different ones cannot be joined."
        raise InputError(msg)
    return str(found[0])


def check_split(table: pd.DataFrame, predictions: pd.DataFrame | None = None) -> None:
    """Check a split table: known roles, one role per row and content in a fold, and one content per row.

    In a leaky protocol equal images may be in several parts, and copies that were made before the division may be in
    any part; originals still have one role. Tables of older runs have no column `content`.

    Args:
        table: The split table.
        predictions: The prediction table of the same run; its rows must have the same contents.

    Raises:
        InputError: A rule is broken; the message names the first row.
    """
    _need_columns(table, SPLIT_COLUMNS, "split table")
    unknown = sorted(set(table["role"].astype(str)) - set(ROLES))
    if unknown:
        msg = f"split table: role is one of {', '.join(ROLES)}, got {unknown[:5]}."
        raise InputError(msg)
    honest = protocol_of(table) == HONEST
    bound = table if honest else table[~table["is_copy"].astype(bool)]
    roles = bound.groupby(["fold", "row"])["role"].nunique()
    if (roles > 1).any():
        fold, row = roles.index[roles > 1][0]
        msg = f"split table: a row has one role in a fold, row {row} has {roles.max()} in fold {fold}. The split leaks."
        raise InputError(msg)
    if "content" not in table:
        return
    both = [table] if predictions is None else [table, predictions]
    contents = pd.concat([one[["row", "content"]] for one in both]).groupby("row")["content"].nunique(dropna=False)
    if (contents != 1).any() or table["content"].isna().any():
        row = (
            contents.index[contents != 1][0] if (contents != 1).any() else table["row"][table["content"].isna()].iloc[0]
        )
        msg = (
            f"split table: a row is one image, row {row} has several contents or none. The images changed during the "
            "run: start a new run."
        )
        raise InputError(msg)
    roles = table.groupby(["fold", "content"])["role"].nunique()
    if honest and (roles > 1).any():
        fold, content = roles.index[roles > 1][0]
        rows = sorted(table["row"][(table["fold"] == fold) & (table["content"] == content)].unique().tolist())
        msg = f"split table: equal images have one role in a fold, rows {rows[:5]} have several in fold {fold}. The "
        raise InputError(msg + "split leaks.")


def _need_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        msg = f"{what}: needs the columns {', '.join(columns)}; {', '.join(missing)} missing."
        raise InputError(msg)
