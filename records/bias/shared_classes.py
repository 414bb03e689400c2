"""Sets whose classes differ, side by side: joined by the aliases of the labels, compared on the classes they share."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import canonical
from records.bias.cuts import plain_values
from records.matching import joined
from records.predictions import check_predictions, classes_of

RUN = "run"  # the column that tells the images of several runs apart


@dataclass(frozen=True)
class Evaluated:
    """Images, the classes that are compared on them, and what was set apart.

    Attributes:
        table: A prediction table; with several runs they have a column `run`, and clusters and rows of their own.
        classes: Classes that count. An image may be taken for a class that is not among them, which is an error
            like any other.
        said: All classes that predictions are of, those that count first.
        apart: Images of classes that only some of the sets have, one row an image; empty where all are shared.
        notes: What belongs under the tables.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    said: tuple[str, ...]
    apart: pd.DataFrame
    notes: tuple[str, ...] = ()


def one_run(predictions: pd.DataFrame) -> Evaluated:
    """Return the images of one run, all of its classes compared."""
    check_predictions(predictions)
    classes = classes_of(predictions)
    return Evaluated(predictions.reset_index(drop=True), classes, classes, predictions.iloc[:0])


def several_runs(tables: Sequence[tuple[str, pd.DataFrame]]) -> Evaluated:
    """Return the images of several runs as one table, classes under their canonical names, before any is set apart.

    Args:
        tables: Name and prediction table of each; the names differ.

    Raises:
        InputError: A run with two classes that are aliases of one emotion.
    """
    parts: list[pd.DataFrame] = []
    said: dict[str, None] = {}
    renamed: dict[str, str] = {}
    for name, predictions in tables:
        check_predictions(predictions)
        names = _canonical_names(name, classes_of(predictions))
        renamed |= {old: new for old, new in names.items() if old != new}
        said |= dict.fromkeys(names.values())
        part = predictions.drop(columns=RUN, errors="ignore")
        part = part.assign(**{RUN: name, **{key: part[key].map(names) for key in ("label", "predicted")}})
        parts.append(part.drop(columns=[column for column in part if str(column).startswith("prob_")]))
    table = pd.concat(parts, ignore_index=True)
    codes = [table.groupby([RUN, "cluster"]).ngroup().to_numpy(), pd.factorize(table["content"])[0]]
    twice = int(table.groupby("content")[RUN].nunique().gt(1).sum())
    table = table.assign(cluster=joined(codes), row=np.arange(len(table)))
    notes = []
    if renamed:
        pairs = ", ".join(f"{old} = {new}" for old, new in renamed.items())
        notes.append(f"Classes were joined by the aliases of their names: {pairs}.")
    if twice:
        notes.append(
            f"{twice} pictures are in several of the runs and count in each; on shared pictures "
            "`emotion report compare` is the sharper tool."
        )
    classes = tuple(said)
    return Evaluated(table, classes, classes, table.iloc[:0], tuple(notes))


def shared_only(found: Evaluated, column: str, minimum: int) -> Evaluated:
    """Return the images of the classes that every set has, and the others apart.

    Args:
        found: All images.
        column: Its values are the sets.
        minimum: A set with fewer images is left out altogether, since its classes are a matter of chance.

    Raises:
        InputError: No class is in every set, or fewer than two sets.
    """
    sets = plain_values(found.table[column])
    sizes = pd.Series(sets[sets != ""]).value_counts()
    large = sizes.index[sizes >= minimum]
    small = [f"{name} ({images})" for name, images in sizes.items() if name not in large]
    if len(large) < 2:
        shown = ", ".join(f"{name} ({images})" for name, images in sizes.head(8).items())
        msg = f"--sets: at least two sets of {minimum} images or more are compared, {column!r} has: {shown or 'none'}."
        raise InputError(msg)
    table = found.table[np.isin(sets, large)].reset_index(drop=True)
    held = {name: set(part["label"]) for name, part in table.groupby(plain_values(table[column]))}
    shared = tuple(one for one in found.classes if all(one in labels for labels in held.values()))
    if not shared:
        lists = "; ".join(f"{name}: {', '.join(sorted(labels))}" for name, labels in held.items())
        msg = (
            f"--sets: sets must share a class, none is in all of {column!r} ({lists}). Rename those that mean the same."
        )
        raise InputError(msg)
    inside = table["label"].isin(shared)
    notes = list(found.notes)
    if not inside.all():
        others = ", ".join(one for one in found.classes if one in set(table.loc[~inside, "label"]))
        notes.append(
            f"Only classes that every {column} has are compared ({', '.join(shared)}); {int((~inside).sum())} images "
            f"of other ones stand apart ({others})."
        )
    if small:
        notes.append(f"Left out, fewer than {minimum} images: {', '.join(small)}.")
    unknown = int((sets == "").sum())
    if unknown:
        notes.append(f"{unknown} images have no {column} and were left out.")
    said = (*shared, *(one for one in found.said if one not in shared))
    kept = table[inside].reset_index(drop=True)
    return Evaluated(kept, shared, said, table[~inside].reset_index(drop=True), tuple(notes))


def _canonical_names(run: str, classes: Sequence[str]) -> dict[str, str]:
    names = {one: canonical(one) or unicodedata.normalize("NFC", one) for one in classes}
    for new in set(names.values()):
        same = [old for old, other in names.items() if other == new]
        if len(same) > 1:
            msg = (
                f"RUN: classes {' and '.join(same)} of {run} both mean {new!r}; rename one in its data and train again."
            )
            raise InputError(msg)
    return names
