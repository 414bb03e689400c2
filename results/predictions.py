"""The two tables of a run: predictions of every held-out image, and the split into train, val and test rows."""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from datamodules.errors import InputError

if TYPE_CHECKING:
    from datamodules.manifest import Manifest  # imports pyarrow, which `emotion runs list` does not need

PREDICTIONS = "predictions"  # names of the two tables of a run
SPLIT = "split"
PROBABILITY = "prob_"
COLUMNS = ("row", "path", "content", "cluster", "subject", "fold", "label", "predicted")
SPLIT_COLUMNS = ("fold", "row", "role", "is_copy")
ROLES = ("train", "val", "test")
PROTOCOL = "run_protocol"  # column of the tables of leaky runs only; no subgroup column of a manifest
HONEST = "honest"
LAST_EPOCH = "nothing, the last epoch was used"  # tag selected_on of a run without validation


def build_predictions(
    manifest: "Manifest",
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
        msg = f"probabilities: must have a row per image, a column per class, shape {shape}, got {probabilities.shape}."
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
    """Check that a table is a prediction table with every image at most once.

    Raises:
        InputError: A column is missing, an image is there twice, or classes or probabilities are not valid.
    """
    _need_columns(table, COLUMNS, "prediction table")
    classes = classes_of(table)
    if len(classes) < 2 or not len(table):
        counts = f"{len(classes)} classes and {len(table)} images"
        msg = f"prediction table: must have at least 2 classes and 1 image, got {counts}."
        raise InputError(msg)
    twice = table["row"][table["row"].duplicated()]
    if len(twice):
        msg = (
            f"prediction table: every row must be predicted once, {len(twice)} are repeated, the first is row "
            f"{twice.iloc[0]}. Join the folds of one seed only, and drop rows that a distributed sampler repeated."
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
            f"the first is row {row}. The training may have diverged; lower the learning rate."
        )
        raise InputError(msg)


def join_folds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the out-of-fold table of a cross-validation: every image once, predicted by the fold that held it out.

    Raises:
        InputError: The folds have different classes or protocols, or an image is in several of them.
    """
    orders = {classes_of(table) for table in tables}
    if len(orders) != 1:
        msg = f"tables: the folds of a cross-validation must have the same classes, got {sorted(orders)}."
        raise InputError(msg)
    protocols = {protocol_of(table) for table in tables}
    if len(protocols) != 1:
        msg = f"tables: the folds of a cross-validation must have the same protocol, got {sorted(protocols)}."
        raise InputError(msg)
    table = pd.concat(list(tables), ignore_index=True).sort_values("row", kind="stable", ignore_index=True)
    check_predictions(table)
    return table


def flag_protocol(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return a table with the protocol of its run in a column; the table of an honest run does not change."""
    return table if protocol == HONEST else table.assign(**{PROTOCOL: protocol})


def protocol_of(table: pd.DataFrame) -> str:
    """Return the protocol of a table: `honest`, or what leaks.

    Raises:
        InputError: The table has rows of several protocols.
    """
    protocols = table[PROTOCOL].astype(str).unique().tolist() if PROTOCOL in table else [HONEST]
    if len(protocols) != 1:
        msg = f"{PROTOCOL}: a table must have one protocol, got {protocols}; tables of several cannot be joined"
        raise InputError(msg)
    return str(protocols[0])


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
        msg = f"split table: role must be one of {', '.join(ROLES)}, got {unknown[:5]}."
        raise InputError(msg)
    honest = protocol_of(table) == HONEST
    bound = table if honest else table[~table["is_copy"].astype(bool)]
    roles = bound.groupby(["fold", "row"])["role"].nunique()
    if (roles > 1).any():
        fold, row = roles.index[roles > 1][0]
        msg = f"split table: a row must have one role, row {row} has {roles.max()} in fold {fold}; the split leaks."
        raise InputError(msg)
    if "content" not in table:
        return
    both = [table] if predictions is None else [table, predictions]
    contents = pd.concat([part[["row", "content"]] for part in both]).groupby("row")["content"].nunique(dropna=False)
    if (contents != 1).any() or table["content"].isna().any():
        row = (
            contents.index[contents != 1][0] if (contents != 1).any() else table["row"][table["content"].isna()].iloc[0]
        )
        msg = (
            f"split table: a row must have one content, row {row} has several or none. The images changed during the "
            "run; start a new run."
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
        msg = f"{what}: must have the columns {', '.join(columns)}, {', '.join(missing)} missing."
        raise InputError(msg)


SOURCE, DETECTOR = "face_source", "face_detector"  # columns of a manifest of face crops


def matched(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the rows of the images that all tables have, in one order, renumbered, with one clustering.

    Images are matched by the hash of their decoded pixels and their label, so runs of different manifests can be
    compared on the images that they share. Tables of faces that were cropped in different ways, or not at all, are
    matched by their photograph. If a table has an image several times, occurrences in the same row of every table are
    matched, as in runs of one manifest; of the rest, the first matches the first of the other tables, and so on.

    Args:
        tables: Prediction tables with the same classes, in any order.

    Returns:
        One table for each; equal positions are the same image. `cluster` is the finest clustering that is coarser than
        all of theirs; the classes are in the order of the first table.

    Raises:
        InputError: The tables have different classes, share no image, or give an image different labels.
    """
    classes = classes_of(tables[0])
    tables = [table.reset_index(drop=True) for table in tables]
    for table in tables:
        check_predictions(table)
    by_source = cut_differently(tables)
    for table in tables:
        if set(classes_of(table)) != set(classes):
            msg = (
                f"runs: must have the same classes, got {', '.join(sorted(classes))} and "
                f"{', '.join(sorted(classes_of(table)))}. Compare runs with the same classes."
            )
            raise InputError(msg)
    tables = [table.assign(key=_key(table, by_source)) for table in tables]
    indices = [_identity(table).set_index(["key", "label", "row"]).index for table in tables]
    same = reduce(lambda left, right: left.intersection(right), indices)
    keyed = [_keyed(table, index.isin(same)) for table, index in zip(tables, indices, strict=True)]
    shared = keyed[0].index
    for table in keyed[1:]:
        shared = shared[shared.isin(table.index)]
    if not len(shared):
        raise InputError(_why_nothing(tables))
    _refuse_other_labels(tables)
    aligned = [table.loc[shared] for table in keyed]
    clusters = join_clusterings([table["cluster"].to_numpy() for table in aligned])
    rows = np.arange(len(shared))
    if by_source:  # tests that pair images match them by the photograph
        aligned = [table.assign(content=table["key"]) for table in aligned]
    aligned = [table.drop(columns="key") for table in aligned]
    return [table.reset_index(drop=True).assign(row=rows, cluster=clusters) for table in aligned]


def join_clusterings(clusterings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the finest clustering that is coarser than all, numbered from zero; each has shape (N,)."""
    from scipy.sparse import coo_matrix  # slow to import, and commands that only list runs import this module
    from scipy.sparse.csgraph import connected_components

    first = np.unique(clusterings[0], return_inverse=True)[1]
    for other in clusterings[1:]:
        second = np.unique(other, return_inverse=True)[1]
        total = first.max() + second.max() + 2
        links = coo_matrix((np.ones(len(first)), (first, second + first.max() + 1)), shape=(total, total))
        first = np.unique(connected_components(links, directed=False)[1][first], return_inverse=True)[1]
    return first


def cut_differently(tables: Sequence[pd.DataFrame]) -> bool:
    """Return whether the tables are of faces that were cropped in several ways, or of faces and whole photographs."""
    if len({_cut(table) for table in tables}) > 1:
        return True
    contents = (set(table["content"].astype(str)) for table in tables)
    return SOURCE in tables[0] and not set.intersection(*contents)  # such as one detector with two margins


def _cut(table: pd.DataFrame) -> str:
    """Return what cropped the faces of a table; "" if the images are whole."""
    if SOURCE not in table:
        return ""
    by = table.get(DETECTOR)
    return "boxes" if by is None else " ".join(sorted(set(by.dropna().astype(str))))


def _key(table: pd.DataFrame, by_source: bool) -> pd.Series:
    return table[SOURCE if SOURCE in table else "path"].astype(str) if by_source else table["content"].astype(str)


def _identity(table: pd.DataFrame) -> pd.DataFrame:
    return table[["key", "label", "row"]].astype({"label": str})


def _keyed(table: pd.DataFrame, same_row: np.ndarray) -> pd.DataFrame:
    """Index a table by content, label and occurrence; those that are in the same row everywhere come first."""
    known = _identity(table).assign(elsewhere=~same_row).sort_values(["elsewhere", "row"], kind="stable")
    occurrence = known.groupby(["key", "label"]).cumcount()
    keys = [known["key"], known["label"], occurrence]
    return table.loc[known.index].set_index(pd.MultiIndex.from_arrays(keys)).sort_values("row", kind="stable")


def _why_nothing(tables: Sequence[pd.DataFrame]) -> str:
    if cut_differently(tables):
        return (
            "runs: must share photographs, none is shared. Faces that were cut in different ways are matched by the "
            "path of their photograph and the label: compare runs on one data set."
        )
    paths = set.intersection(*(set(table["path"].astype(str)) for table in tables))
    contents = set.intersection(*(set(table["content"].astype(str)) for table in tables))
    why = "They evaluated different images: compare runs on one data set and one test part."
    if contents:
        why = f"{len(contents)} images are in all runs, with different labels. Compare runs with the same labels."
    elif paths:
        why = (
            f"{len(paths)} paths are in all runs, but their pixels differ: the files changed, or were "
            "decoded by another version of this program. Run one of them again."
        )
    return f"runs: must share images by content, none is shared. {why}"


def _refuse_other_labels(tables: Sequence[pd.DataFrame]) -> None:
    """Check that no image has labels in one table of which another table with that image has none.

    Raises:
        InputError: There is such an image.
    """
    first = tables[0][["key", "label"]].astype(str).drop_duplicates()
    for table in tables[1:]:
        other = table[["key", "label"]].astype(str).drop_duplicates()
        agreeing = first.merge(other)["key"]
        differing = first.loc[first["key"].isin(other["key"]) & ~first["key"].isin(agreeing), "key"]
        if len(differing):
            msg = (
                f"runs: must have the same labels, {differing.nunique()} images have different ones. Compare runs "
                "with the same labels of the data."
            )
            raise InputError(msg)
