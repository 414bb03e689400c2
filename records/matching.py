"""Which images two or more prediction tables share, by what is in the picture and not by where it stands."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datamodules.errors import InputError
from records.predictions import check_predictions, classes_of

SOURCE, DETECTOR = "face_source", "face_detector"  # what cutting faces writes into a manifest


def matched(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the rows of the images that all tables hold, in one order, numbered anew, with one clustering.

    An image is known by the hash of its decoded pixels and its label, so runs of different manifests can be compared
    on what they share. Tables of faces that were cut out in different ways, or not at all, are matched by the
    photograph they were cut from. Where a table holds one picture several times, those that stand in the same row of
    every table meet, as in runs of one manifest; of the rest the first meets the first of the other tables, and so on.

    Args:
        tables: Prediction tables with the same classes, in any order.

    Returns:
        One table for each, where equal positions are the same image. `cluster` is the finest clustering that is
        coarser than all of theirs; `classes_of` gives the order of the first.

    Raises:
        InputError: Other classes, no image in common, or a picture that has one label here and another there.
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
                f"{', '.join(sorted(classes_of(table)))}. Compare runs with one vocabulary."
            )
            raise InputError(msg)
    tables = [table.assign(key=_key(table, by_source)) for table in tables]
    rows = [_identity(table).set_index(["key", "label", "row"]).index for table in tables]
    same = reduce(lambda left, right: left.intersection(right), rows)
    keyed = [_keyed(table, index.isin(same)) for table, index in zip(tables, rows, strict=True)]
    shared = keyed[0].index
    for table in keyed[1:]:
        shared = shared[shared.isin(table.index)]
    if not len(shared):
        raise InputError(_why_nothing(tables))
    _refuse_other_labels(tables)
    aligned = [table.loc[shared] for table in keyed]
    together = joined([table["cluster"].to_numpy() for table in aligned])
    places = np.arange(len(shared))
    if by_source:  # for tests that pair images, the photograph is what they share
        aligned = [table.assign(content=table["key"]) for table in aligned]
    aligned = [table.drop(columns="key") for table in aligned]
    return [table.reset_index(drop=True).assign(row=places, cluster=together) for table in aligned]


def joined(clusterings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the finest clustering that is coarser than all, numbered from zero; each has shape (N,)."""
    found = np.unique(clusterings[0], return_inverse=True)[1]
    for other in clusterings[1:]:
        second = np.unique(other, return_inverse=True)[1]
        total = found.max() + second.max() + 2
        links = coo_matrix((np.ones(len(found)), (found, second + found.max() + 1)), shape=(total, total))
        found = np.unique(connected_components(links, directed=False)[1][found], return_inverse=True)[1]
    return found


def cut_differently(tables: Sequence[pd.DataFrame]) -> bool:
    """Return whether the tables are of faces cut in several ways, or of faces and whole photographs."""
    if len({_cut(table) for table in tables}) > 1:
        return True
    contents = (set(table["content"].astype(str)) for table in tables)
    return SOURCE in tables[0] and not set.intersection(*contents)  # such as one detector with two margins


def _cut(table: pd.DataFrame) -> str:
    """Return what cut a table's faces; nothing where the pictures are whole."""
    if SOURCE not in table:
        return ""
    by = table.get(DETECTOR)
    return "boxes" if by is None else " ".join(sorted(set(by.dropna().astype(str))))


def _key(table: pd.DataFrame, by_source: bool) -> pd.Series:
    return table[SOURCE if SOURCE in table else "path"].astype(str) if by_source else table["content"].astype(str)


def _identity(table: pd.DataFrame) -> pd.DataFrame:
    return table[["key", "label", "row"]].astype({"label": str})


def _keyed(table: pd.DataFrame, same_row: np.ndarray) -> pd.DataFrame:
    """Index a table by content, label and occurrence; those that stand in one row everywhere come first."""
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
    why = "They evaluated different images: compare runs on one data set and one outer split."
    if contents:
        why = f"{len(contents)} pictures are in all, with other labels. Compare runs made with one labelling."
    elif paths:
        why = (
            f"{len(paths)} paths are in all, but the pixels behind them are not the same: the files changed, or were "
            "decoded by another version of this program. Run one of them again."
        )
    return f"runs: must share images by content, none is shared. {why}"


def _refuse_other_labels(tables: Sequence[pd.DataFrame]) -> None:
    """Refuse a picture whose labels in one table are all foreign to another one that has it, too."""
    first = tables[0][["key", "label"]].astype(str).drop_duplicates()
    for table in tables[1:]:
        other = table[["key", "label"]].astype(str).drop_duplicates()
        agreeing = first.merge(other)["key"]
        differing = first.loc[first["key"].isin(other["key"]) & ~first["key"].isin(agreeing), "key"]
        if len(differing):
            msg = (
                f"runs: must have the same labels, {differing.nunique()} pictures have others. Compare runs made with "
                "one labelling of the data."
            )
            raise InputError(msg)
