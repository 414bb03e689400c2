"""Groups of the training data, their correlation with accuracy, and images of several data sets."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from datamodules.errors import InputError
from datamodules.labels import canonical
from datamodules.manifest import read_table
from results.bias.groups import Grouping, Measured, plain_values
from results.predictions import check_predictions, classes_of, join_clusterings

FEWEST = 3  # groups for a correlation
_DRAWN = 9999


@dataclass(frozen=True)
class Composition:
    """Groups of the training data, and the correlation of their shares with accuracy.

    Attributes:
        by: Name of the grouping.
        table: One row per group: group, train (images, mean over folds), share (of the training images whose group is
            known), copies (of over-sampling, mean over folds), share_with_copies, images (evaluated), accuracy with
            `_low` and `_high` (NaN where none was evaluated), f1_macro, ranked.
        correlations: One row each for `rank` and `linear`: correlation of share and accuracy over the ranked groups,
            p_value, groups; empty where there are too few.
        notes: What belongs under the table.
    """

    by: str
    table: pd.DataFrame
    correlations: pd.DataFrame
    notes: tuple[str, ...]


def known_groups(
    predictions: pd.DataFrame, split: pd.DataFrame, manifest: pd.DataFrame | None, columns: Sequence[str]
) -> pd.DataFrame | None:
    """Return the group columns of every training row, index `row`; None if no table has them.

    They are in the predictions of a cross-validation, in which every image is held out once, or in the manifest.

    Raises:
        InputError: The manifest is not that of the run.
    """
    train = split.loc[split["role"] == "train", "row"].unique()
    for table in (split, predictions):
        if set(columns) <= set(table) and np.isin(train, table["row"]).all():
            return table.drop_duplicates("row").set_index("row")[list(columns)]
    if manifest is None:
        return None
    rows = predictions["row"].to_numpy()
    fits = max(rows.max(), train.max(initial=0)) < len(manifest)
    if fits:
        fits = bool((manifest["path"].to_numpy(object)[rows] == predictions["path"].to_numpy(object)).all())
    missing = [column for column in columns if column not in manifest]
    if not fits or missing:
        why = f"it has no column {missing[0]!r}" if fits else "its rows are other images than those of the run"
        msg = f"--manifest: must be the manifest of the run's data, {why}; `emotion data prepare` writes it."
        raise InputError(msg)
    return manifest[list(columns)]


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Return the table of a manifest file, with all its rows.

    Raises:
        InputError: No such file, or no table with paths.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        msg = f"--manifest: must be an existing file, got {path}; give the manifest of the run (.csv or .parquet)."
        raise InputError(msg)
    table = read_table(path)
    if "path" not in table:
        msg = f"--manifest: must have a column 'path', {path} has none; `emotion data prepare` writes a manifest."
        raise InputError(msg)
    return table


def composition(split: pd.DataFrame, known: pd.DataFrame, measured: Measured, *, seed: int = 0) -> Composition:
    """Return the number of training images of each group, with its scores.

    Args:
        split: Split table of the run, of one fold or several.
        known: What `known_groups` returned.
        measured: Scores of the groups on the held-out images.
        seed: Seed of the permutations of the correlation.
    """
    train = split[split["role"] == "train"]
    folds = split["fold"].nunique()
    copies = train["is_copy"].astype(bool).to_numpy()
    of = _of(measured.grouping, known, train["row"].to_numpy())
    images, copied = (pd.Series(of[part]).value_counts() for part in (~copies, copies))
    names = [*measured.grouping.groups]
    names += sorted(set(of) - {*names, ""})  # trained on and not evaluated
    table = pd.DataFrame({"group": names})
    table["train"] = images.reindex(names, fill_value=0).to_numpy() / folds
    table["share"] = table["train"] / max(table["train"].sum(), 1)
    table["copies"] = copied.reindex(names, fill_value=0).to_numpy() / folds
    with_copies = table["train"] + table["copies"]
    table["share_with_copies"] = with_copies / max(with_copies.sum(), 1)
    columns = ["group", "images", "accuracy", "accuracy_low", "accuracy_high", "f1_macro", "ranked"]
    table = table.merge(measured.by_group[columns], on="group", how="left")
    table["images"] = table["images"].fillna(0).astype(int)
    table["ranked"] = table["ranked"].eq(True)
    correlations, sentences = _correlations(table[table["ranked"]], seed)
    notes = [f"Training images: mean over {folds} folds."] if folds > 1 else []
    unknown = int(((of == "") & ~copies).sum() / folds)
    if unknown:
        notes.append(f"{unknown} training images are in no group, since a value is missing.")
    absent = table.loc[table["images"] == 0, "group"].tolist()
    if absent:
        notes.append(f"Trained on and not evaluated: {', '.join(absent)}.")
    return Composition(measured.grouping.name, table, correlations, (*notes, *sentences))


def _of(grouping: Grouping, known: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    chosen = np.unique(rows)
    return pd.Series(grouping.of(known.loc[chosen]), index=chosen)[rows].to_numpy(object)


def _correlations(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Return rank and linear correlation with p-values from permutations, and sentences about them."""
    columns = ["kind", "correlation", "p_value", "groups"]
    groups = len(table)
    share, accuracy = table["share"].to_numpy(np.float64), table["accuracy"].to_numpy(np.float64)
    if groups < FEWEST:
        return pd.DataFrame(columns=columns), [f"{groups} ranked groups are too few for a correlation."]
    if np.ptp(share) == 0 or np.ptp(accuracy) == 0:
        return pd.DataFrame(columns=columns), ["All shares or all accuracies are equal, so there is no correlation."]
    rows = []
    for kind, x, y in (
        ("rank", stats.rankdata(share), stats.rankdata(accuracy)),
        ("linear", share, accuracy),
    ):
        method = stats.PermutationMethod(n_resamples=_DRAWN, rng=np.random.default_rng(seed))
        test = stats.pearsonr(x, y, method=method)
        rows.append((kind, float(test.statistic), float(test.pvalue), groups))
    every = factorial(groups)
    how = "all orders of the groups" if every <= _DRAWN else f"{_DRAWN} random orders of the groups"
    basis = f"Correlation of share and accuracy over {groups} groups; p from {how}."
    if 2 / every > 0.05:
        basis += f" {groups} groups are too few: p cannot be below {2 / every:.3f}."
    return pd.DataFrame(rows, columns=columns), [basis, "A correlation over groups does not show a cause."]


RUN = "run"  # column with the run of each image


@dataclass(frozen=True)
class EvaluatedImages:
    """Images, the classes that are compared, and the images of other classes.

    Attributes:
        table: A prediction table; with several runs it has a column `run`, and new numbers of clusters and rows.
        classes: Classes that are compared. A prediction of any other class is an error.
        predicted_classes: All classes that may be predicted, the compared ones first.
        unshared: Images of classes that only some of the sets have, one row per image; empty if all are shared.
        notes: Sentences below the tables.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    predicted_classes: tuple[str, ...]
    unshared: pd.DataFrame
    notes: tuple[str, ...] = ()


def one_run(predictions: pd.DataFrame) -> EvaluatedImages:
    """Return the images of one run; all of its classes are compared."""
    check_predictions(predictions)
    classes = classes_of(predictions)
    return EvaluatedImages(predictions.reset_index(drop=True), classes, classes, predictions.iloc[:0])


def several_runs(tables: Sequence[tuple[str, pd.DataFrame]]) -> EvaluatedImages:
    """Return the images of several runs as one table, with the canonical names of classes.

    Args:
        tables: Name and prediction table of each; the names differ.

    Raises:
        InputError: A run with two classes that are aliases of one emotion.
    """
    parts: list[pd.DataFrame] = []
    classes: dict[str, None] = {}
    renamed: dict[str, str] = {}
    for name, predictions in tables:
        check_predictions(predictions)
        names = _canonical_names(name, classes_of(predictions))
        renamed |= {old: new for old, new in names.items() if old != new}
        classes |= dict.fromkeys(names.values())
        part = predictions.drop(columns=RUN, errors="ignore")
        part = part.assign(**{RUN: name, **{key: part[key].map(names) for key in ("label", "predicted")}})
        parts.append(part.drop(columns=[column for column in part if str(column).startswith("prob_")]))
    table = pd.concat(parts, ignore_index=True)
    codes = [table.groupby([RUN, "cluster"]).ngroup().to_numpy(), pd.factorize(table["content"])[0]]
    twice = int(table.groupby("content")[RUN].nunique().gt(1).sum())
    table = table.assign(cluster=join_clusterings(codes), row=np.arange(len(table)))
    notes = []
    if renamed:
        pairs = ", ".join(f"{old} = {new}" for old, new in renamed.items())
        notes.append(f"Classes were joined by the aliases of their names: {pairs}.")
    if twice:
        notes.append(
            f"{twice} images are in several of the runs and count in each; to compare runs on shared images use "
            "`emotion report compare`, which is more precise."
        )
    return EvaluatedImages(table, tuple(classes), tuple(classes), table.iloc[:0], tuple(notes))


def shared_only(images: EvaluatedImages, column: str, minimum: int) -> EvaluatedImages:
    """Return the images of the classes that every set has, and separately those of other classes.

    Args:
        images: All images.
        column: Its values are the sets.
        minimum: A set with fewer images is left out.

    Raises:
        InputError: No class is in every set, or fewer than two sets.
    """
    sets = plain_values(images.table[column])
    sizes = pd.Series(sets[sets != ""]).value_counts()
    large = sizes.index[sizes >= minimum]
    small = [f"{name} ({count})" for name, count in sizes.items() if name not in large]
    if len(large) < 2:
        shown = ", ".join(f"{name} ({count})" for name, count in sizes.head(8).items())
        msg = f"--sets: needs at least two sets of {minimum} images or more, {column!r} has: {shown or 'none'}."
        raise InputError(msg)
    table = images.table[np.isin(sets, large)].reset_index(drop=True)
    labels_of = {name: set(part["label"]) for name, part in table.groupby(plain_values(table[column]))}
    shared = tuple(name for name in images.classes if all(name in labels for labels in labels_of.values()))
    if not shared:
        lists = "; ".join(f"{name}: {', '.join(sorted(labels))}" for name, labels in labels_of.items())
        msg = f"--sets: sets must share a class, no class is in all of {column!r} ({lists}). Rename equal classes."
        raise InputError(msg)
    inside = table["label"].isin(shared)
    notes = list(images.notes)
    if not inside.all():
        others = ", ".join(name for name in images.classes if name in set(table.loc[~inside, "label"]))
        notes.append(
            f"Only classes that every {column} has are compared ({', '.join(shared)}); {int((~inside).sum())} images "
            f"of other classes are shown separately ({others})."
        )
    if small:
        notes.append(f"Left out, fewer than {minimum} images: {', '.join(small)}.")
    unknown = int((sets == "").sum())
    if unknown:
        notes.append(f"{unknown} images have no {column} and were left out.")
    predicted = (*shared, *(name for name in images.predicted_classes if name not in shared))
    compared = table[inside].reset_index(drop=True)
    return EvaluatedImages(compared, shared, predicted, table[~inside].reset_index(drop=True), tuple(notes))


def _canonical_names(run: str, classes: Sequence[str]) -> dict[str, str]:
    names = {name: canonical(name) or unicodedata.normalize("NFC", name) for name in classes}
    for new in set(names.values()):
        same = [old for old, other in names.items() if other == new]
        if len(same) > 1:
            msg = (
                f"RUN: classes {' and '.join(same)} of {run} both mean {new!r}; rename one in its data and train again."
            )
            raise InputError(msg)
    return names
