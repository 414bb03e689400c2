"""Gaps between the scores of groups, with p-values of a permutation test.

The worst and the best group are chosen from the data, so the test chooses them again in every permutation. Under the
null hypothesis the group does not matter, so the group names of whole clusters are permuted, and the worst and the best
group of each permutation are taken. Names are permuted among clusters of one class (the class of most of their images,
the first on a tie), so that a group that has more images of difficult classes is not called worse. In a cluster whose
images are of several groups, names are permuted among its images of one class. The p-value is the share of
permutations with a gap at least as large, counting the observed one (Phipson and Smyth 2010).

A permutation is a table of groups by kinds of clusters with given margins, which scipy draws directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import random_table
from tqdm import tqdm

from datamodules.errors import InputError
from results.bias.groups import Measured
from results.significance import holm
from results.statistics import scores


@dataclass(frozen=True)
class Units:
    """Exchangeable units of a permutation test: clusters, or images within a cluster.

    Attributes:
        of: (N,) unit of each image, numbered from 0: its cluster, or the image if its cluster is of several groups.
        pool: (U,) pool of each unit; units are exchanged within a pool: whole clusters of the same class (the class of
            most of their images, the first on a tie), or the images of one class in a cluster of several groups.
        first: (U,) an image of each unit.
        mixed: Number of clusters that are of several groups.
    """

    of: np.ndarray
    pool: np.ndarray
    first: np.ndarray
    mixed: int


def units_of(group: np.ndarray, cluster: np.ndarray, label: np.ndarray) -> Units:
    """Return the exchangeable units of images.

    Args:
        group: Group of each image, int (N,), N at least 1.
        cluster: Cluster of each image, (N,).
        label: Class of each image, int (N,), from 0.
    """
    cluster = np.unique(cluster, return_inverse=True)[1]
    low, high = np.full(cluster.max() + 1, group.max()), np.full(cluster.max() + 1, group.min())
    np.minimum.at(low, cluster, group)
    np.maximum.at(high, cluster, group)
    several = low < high  # (clusters,)
    divided = several[cluster]  # (N,)
    own = np.where(divided, cluster.max() + 1 + np.arange(len(cluster)), cluster)
    _, first, unit = np.unique(own, return_index=True, return_inverse=True)
    classes = int(label.max()) + 1
    counts = np.zeros((len(first), classes), np.int64)
    np.add.at(counts, (unit, label), 1)
    pool = np.where(divided[first], 1 + cluster[first], 0) * classes + counts.argmax(axis=1)
    return Units(unit, pool, first, int(several.sum()))


METRICS = ("accuracy", "f1_macro")
_TIE = 1e-12
_CELLS = 4_000_000  # of one batch of permutations
_KINDS = {"best": "worst minus best", "rest": "worst minus all others"}


@dataclass(frozen=True)
class _Pool:
    """Units whose groups may be exchanged.

    Attributes:
        sizes: Number of units of each group, (G,).
        number: Number of units of each kind, (K,).
        counts: Flattened confusion counts of one unit of the kind, (K, C * C).
    """

    sizes: np.ndarray
    number: np.ndarray
    counts: np.ndarray

    def permute(self, times: int, generator: np.random.Generator) -> np.ndarray:
        """Return the counts of the groups in random permutations, (times, G, C * C)."""
        drawn = random_table(self.sizes, self.number, seed=generator).rvs(size=times)  # (times, G, K)
        return np.asarray(drawn, np.float64) @ self.counts


@dataclass(frozen=True)
class PermutedCounts:
    """Confusion counts of groups, observed and in every permutation.

    Attributes:
        observed: Confusion counts of the groups, (G, C, C).
        permuted: Those of the permutations, (P, G, C, C).
        units: Number of exchangeable units: clusters, and images of clusters that are of several groups.
        mixed: Number of clusters that are of several groups.
    """

    observed: np.ndarray
    permuted: np.ndarray
    units: int
    mixed: int


def gaps(
    table: pd.DataFrame,
    measured: Sequence[Measured],
    all_classes: Sequence[str],
    *,
    by_class: bool = False,
    minimum: int,
    permutations: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the gaps between the ranked groups of every grouping, with p-values.

    Args:
        table: The prediction table that was measured.
        measured: Its groupings; one with fewer than two ranked groups has no gap.
        all_classes: All classes that may be predicted.
        by_class: Also test the recall of each class; Holm's correction is then over more tests.
        minimum: Number of images that a class needs in a group for that.
        permutations: Number of permutations, at least 99.
        seed: Seed of the permutations.

    Returns:
        One row a gap: by, metric, class, gap (what is subtracted), worst, best, worst_value, other_value, difference,
        p_value, p_holm (over all rows), units, mixed. With two groups there is one row, since the best is the rest.

    Raises:
        InputError: `permutations` is below 99.
    """
    if permutations < 99:
        msg = f"--permutations: must be at least 99, got {permutations}; 9999 is usual."
        raise InputError(msg)
    rows = []
    for part in tqdm(measured, desc="gaps", unit="grouping", disable=None, leave=False):
        ranked = part.ranked
        if len(ranked) < 2:
            continue
        permuted = permute_groups(
            table, part.grouping.of(table), ranked, all_classes, permutations=permutations, seed=seed
        )
        rows += [row | {"by": part.grouping.name} for row in _rows(permuted, ranked)]
        if by_class:
            rows += [row | {"by": part.grouping.name} for row in _class_rows(permuted, part, all_classes, minimum)]
    names = ["by", "metric", "class", "gap", "worst", "best", "worst_value", "other_value", "difference", "p_value"]
    table_of_gaps = pd.DataFrame(rows, columns=[*names, "units", "mixed"])
    return table_of_gaps.assign(p_holm=holm(table_of_gaps["p_value"].tolist()) if len(table_of_gaps) else [])


def permute_groups(
    table: pd.DataFrame,
    of: np.ndarray,
    groups: Sequence[str],
    all_classes: Sequence[str],
    *,
    permutations: int,
    seed: int,
) -> PermutedCounts:
    """Permute the names of groups.

    Args:
        table: A prediction table.
        of: Group of each row, (N,); rows of other groups are left out.
        groups: Names of the groups.
        all_classes: All classes that may be predicted.
        permutations: Number of permutations.
        seed: Seed of the permutations.
    """
    group = pd.Index(list(groups)).get_indexer(pd.Index(of))
    inside = group >= 0
    codes = pd.Index(list(all_classes))
    label, predicted = (codes.get_indexer(pd.Index(table[name]))[inside] for name in ("label", "predicted"))
    group, classes = group[inside], len(all_classes)
    cell = label * classes + predicted
    units = units_of(group, table["cluster"].to_numpy()[inside], label)
    counts = np.zeros((len(units.first), classes * classes), np.int32)
    np.add.at(counts, (units.of, cell), 1)
    observed = np.zeros((len(groups), classes * classes))
    np.add.at(observed, (group, cell), 1)
    pools, fixed, moving = _pools(group[units.first], units.pool, counts, len(groups))
    largest = max((len(each.number) for each in pools), default=1)
    batch = max(1, _CELLS // (len(groups) * max(largest, classes * classes)))
    generator = np.random.default_rng(seed)
    permuted = np.empty((permutations, *observed.shape), np.float32)
    for start in range(0, permutations, batch):
        times = min(batch, permutations - start)
        permuted[start : start + times] = fixed + sum((each.permute(times, generator) for each in pools), np.zeros(()))
    shape = (len(groups), classes, classes)
    return PermutedCounts(observed.reshape(shape), permuted.reshape(permutations, *shape), moving, units.mixed)


def _pools(group: np.ndarray, pool: np.ndarray, counts: np.ndarray, groups: int) -> tuple[list[_Pool], np.ndarray, int]:
    """Return the pools in which an exchange changes counts, the counts of other units by group, and units in pools."""
    fixed = np.zeros((groups, counts.shape[1]))
    pools, moving = [], 0
    order = np.argsort(pool, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(pool[order])) + 1):
        sizes = np.bincount(group[rows], minlength=groups)
        kinds, number = np.unique(counts[rows], axis=0, return_counts=True)
        if (sizes > 0).sum() < 2 or len(kinds) < 2:
            np.add.at(fixed, group[rows], counts[rows])
        else:
            pools.append(_Pool(sizes, number, kinds.astype(np.float64)))
            moving += len(rows)
    return pools, fixed, moving


def values(counts: np.ndarray, metric: str) -> np.ndarray:
    """Return accuracy, or macro F1 over the classes that have images, of confusion counts (..., C, C)."""
    return scores(counts)[metric]


def _worst_and_other(counts: np.ndarray, metric: str, other: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index and value of the worst group, and the value of the best or of all others; each of shape (...)."""
    each = values(counts, metric)  # (..., G)
    worst = each.argmin(axis=-1)
    value = each.min(axis=-1)
    if other == "best":
        return worst, value, each.max(axis=-1)
    own = np.take_along_axis(counts, worst[..., None, None, None], axis=-3).squeeze(-3)
    return worst, value, values(counts.sum(axis=-3) - own, metric)


def _rows(permuted: PermutedCounts, groups: Sequence[str]) -> list[dict[str, object]]:
    rows = []
    for metric in METRICS:
        best = groups[int(values(permuted.observed, metric).argmax())]
        for other in ("best", "rest") if len(groups) > 2 else ("best",):
            worst, low, high = _worst_and_other(permuted.observed, metric, other)
            _, lows, highs = _worst_and_other(permuted.permuted, metric, other)
            row: dict[str, object] = {"metric": metric, "class": "", "gap": _KINDS[other], "worst": groups[int(worst)]}
            row |= {"best": best if other == "best" else ""}
            rows.append(row | _tested(float(low), float(high), highs - lows, permuted))
    return rows


def _class_rows(
    permuted: PermutedCounts, measured: Measured, all_classes: Sequence[str], minimum: int
) -> list[dict[str, object]]:
    """Return the gaps of recall, worst minus best, of classes with enough images in two ranked groups."""
    rows = []
    cells = measured.by_class[measured.by_class["group"].isin(measured.ranked)]
    for name, part in cells.groupby("class", sort=False):
        enough = part.loc[part["images"] >= minimum, "group"].tolist()
        if len(enough) < 2:
            continue
        places, number = [measured.ranked.index(group) for group in enough], list(all_classes).index(str(name))
        observed = scores(permuted.observed[places])["recall"][:, number]
        drawn = scores(permuted.permuted[:, places])["recall"][..., number]  # (P, groups)
        row: dict[str, object] = {"metric": "recall", "class": name, "gap": _KINDS["best"]}
        row |= {"worst": enough[int(observed.argmin())], "best": enough[int(observed.argmax())]}
        rows.append(row | _tested(observed.min(), observed.max(), drawn.max(axis=1) - drawn.min(axis=1), permuted))
    return rows


def _tested(low: float, high: float, drawn: np.ndarray, permuted: PermutedCounts) -> dict[str, object]:
    extreme = int((drawn >= high - low - _TIE).sum())
    p_value = (extreme + 1) / (len(drawn) + 1)
    result = {"worst_value": low, "other_value": high, "difference": low - high, "p_value": p_value}
    return {**result, "units": permuted.units, "mixed": permuted.mixed}
