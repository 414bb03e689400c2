"""Who was in the training data, beside how good the model is on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from datamodules.errors import InputError
from datamodules.manifest import read_table
from records.bias.columns import Grouping
from records.bias.groups import Measured

FEWEST = 3  # groups, below which a correlation says nothing at all
_DRAWN = 9999


@dataclass(frozen=True)
class Composition:
    """The groups of the training data and how they go with accuracy.

    Attributes:
        by: Name of the grouping.
        table: One row a group: group, train (images, mean over folds), share (of the training images whose group is
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
    """Return the group columns of every training row, index `row`; None where no table holds them.

    They stand in the predictions of a cross-validation, whose every image is held out once, or in the manifest.

    Raises:
        InputError: The manifest is not the one of the run.
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
        msg = f"--manifest: must be the table that the run was trained on, {why}; emotion data prepare writes it."
        raise InputError(msg)
    return manifest[list(columns)]


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Return a manifest's table, row by row as it stands.

    Raises:
        InputError: No such file, or no table with paths.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        msg = f"--manifest: no file {path}; give the table that the run was trained on (.csv or .parquet)."
        raise InputError(msg)
    table = read_table(path)
    if "path" not in table:
        msg = f"--manifest: {path} has no column 'path', so it is no manifest; emotion data prepare writes one."
        raise InputError(msg)
    return table


def composition(split: pd.DataFrame, known: pd.DataFrame, measured: Measured, *, seed: int = 0) -> Composition:
    """Return how many training images each group has, beside its numbers.

    Args:
        split: Split table of the run, of one fold or several.
        known: What `known_groups` returned.
        measured: Numbers of the groups on the images that were held out.
        seed: Of the permutations of the correlation.
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
    seen = table["train"] + table["copies"]
    table["share_with_copies"] = seen / max(seen.sum(), 1)
    told = ["group", "images", "accuracy", "accuracy_low", "accuracy_high", "f1_macro", "ranked"]
    table = table.merge(measured.by_group[told], on="group", how="left")
    table["images"] = table["images"].fillna(0).astype(int)
    table["ranked"] = table["ranked"].eq(True)
    found, said = _correlations(table[table["ranked"]], seed)
    notes = [f"Training images: mean over {folds} folds."] if folds > 1 else []
    unknown = int(((of == "") & ~copies).sum() / folds)
    if unknown:
        notes.append(f"{unknown} training images are in no group, since a value is missing.")
    absent = table.loc[table["images"] == 0, "group"].tolist()
    if absent:
        notes.append(f"Trained on and not evaluated: {', '.join(absent)}.")
    return Composition(measured.grouping.name, table, found, (*notes, *said))


def _of(grouping: Grouping, known: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    chosen = np.unique(rows)
    return pd.Series(grouping.of(known.loc[chosen]), index=chosen)[rows].to_numpy(object)


def _correlations(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Return rank and linear correlation with permutation p, and what is to be said of them."""
    columns = ["kind", "correlation", "p_value", "groups"]
    groups = len(table)
    share, accuracy = table["share"].to_numpy(np.float64), table["accuracy"].to_numpy(np.float64)
    if groups < FEWEST:
        return pd.DataFrame(columns=columns), [f"{groups} ranked groups are too few for a correlation."]
    if np.ptp(share) == 0 or np.ptp(accuracy) == 0:
        return pd.DataFrame(columns=columns), ["Shares, or accuracies, are all alike: there is no correlation."]
    rows = []
    for kind, one, two in (
        ("rank", stats.rankdata(share), stats.rankdata(accuracy)),
        ("linear", share, accuracy),
    ):
        method = stats.PermutationMethod(n_resamples=_DRAWN, rng=np.random.default_rng(seed))
        found = stats.pearsonr(one, two, method=method)
        rows.append((kind, float(found.statistic), float(found.pvalue), groups))
    every = factorial(groups)
    how = "all orders of the groups" if every <= _DRAWN else f"{_DRAWN} random orders of the groups"
    said = f"Correlation of share and accuracy over {groups} groups; p from {how}."
    if 2 / every > 0.05:
        said += f" {groups} groups are too few: p cannot fall below {2 / every:.3f}, whatever the groups are."
    return pd.DataFrame(rows, columns=columns), [said, "A correlation over groups shows no cause."]
