"""How far groups are apart, and whether chance alone puts them so far apart.

Worst and best are chosen after looking, so the test chooses them anew: were the group of no matter, its name could as
well be another's, so names are dealt again to whole clusters, and the worst and best of each deal are taken. Names are
dealt among clusters of one class (that of most of their images, the first on a tie), so that a group that merely has
the harder emotions is not called worse. A cluster whose images are of several groups keeps them, and deals their names
among its images of one class. p is the share of deals whose gap is as large, the observed one among them (Phipson and
Smyth 2010).

A deal is a table of groups by kinds of clusters with given margins, which scipy draws without dealing one by one.
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
    """Images as the units that a test exchanges.

    Attributes:
        of: (N,) the unit of each image, numbered from 0: its cluster, or itself where its cluster is of several groups.
        pool: (U,) units of one pool may change places: whole clusters of the same class (that of most of their images,
            the first on a tie), or the images of one class within a cluster that is of several groups.
        first: (U,) an image of each unit.
        mixed: How many clusters are of several groups.
    """

    of: np.ndarray
    pool: np.ndarray
    first: np.ndarray
    mixed: int


def units_of(group: np.ndarray, cluster: np.ndarray, label: np.ndarray) -> Units:
    """Return what may be exchanged.

    Args:
        group: int (N,), at least one.
        cluster: (N,).
        label: int (N,) class, from 0.
    """
    cluster = np.unique(cluster, return_inverse=True)[1]
    low, high = np.full(cluster.max() + 1, group.max()), np.full(cluster.max() + 1, group.min())
    np.minimum.at(low, cluster, group)
    np.maximum.at(high, cluster, group)
    several = low < high  # (clusters,)
    apart = several[cluster]  # (N,)
    own = np.where(apart, cluster.max() + 1 + np.arange(len(cluster)), cluster)
    _, first, unit = np.unique(own, return_index=True, return_inverse=True)
    classes = int(label.max()) + 1
    counts = np.zeros((len(first), classes), np.int64)
    np.add.at(counts, (unit, label), 1)
    pool = np.where(apart[first], 1 + cluster[first], 0) * classes + counts.argmax(axis=1)
    return Units(unit, pool, first, int(several.sum()))


METRICS = ("accuracy", "f1_macro")
_TIE = 1e-12
_CELLS = 4_000_000  # of one batch of deals
_KINDS = {"best": "worst minus best", "rest": "worst minus all others"}


@dataclass(frozen=True)
class _Pool:
    """Units whose groups may be exchanged.

    Attributes:
        held: Units of each group, (G,).
        number: Units of each kind, (K,).
        counts: Flattened confusion counts of one unit of the kind, (K, C * C).
    """

    held: np.ndarray
    number: np.ndarray
    counts: np.ndarray

    def deal(self, times: int, generator: np.random.Generator) -> np.ndarray:
        """Return counts of the groups in so many deals, (times, G, C * C)."""
        drawn = random_table(self.held, self.number, seed=generator).rvs(size=times)  # (times, G, K)
        return np.asarray(drawn, np.float64) @ self.counts


@dataclass(frozen=True)
class Dealt:
    """What the groups got, as it is and in every deal.

    Attributes:
        observed: Confusion counts of the groups, (G, C, C).
        deals: Those of the deals, (P, G, C, C).
        units: What could be exchanged: clusters, and images of clusters that are of several groups.
        mixed: Clusters that are of several groups.
    """

    observed: np.ndarray
    deals: np.ndarray
    units: int
    mixed: int


def gaps(
    table: pd.DataFrame,
    measured: Sequence[Measured],
    said: Sequence[str],
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
        said: All classes that predictions are of.
        by_class: Test the recall of each class, too; that makes the family larger.
        minimum: Images a class needs in a group for that.
        permutations: Deals.
        seed: Of the deals.

    Returns:
        One row a gap: by, metric, class, gap (what is subtracted), worst, best, worst_value, other_value, difference,
        p_value, p_holm (over all rows), units, mixed. Of two groups, the best is all others, so there is one row.
    """
    if permutations < 99:
        msg = f"--permutations: at least 99, got {permutations}; 9999 is usual."
        raise InputError(msg)
    rows = []
    for one in tqdm(measured, desc="gaps", unit="grouping", disable=None, leave=False):
        ranked = one.ranked
        if len(ranked) < 2:
            continue
        dealt = deal(table, one.grouping.of(table), ranked, said, permutations=permutations, seed=seed)
        rows += [row | {"by": one.grouping.name} for row in _rows(dealt, ranked)]
        if by_class:
            rows += [row | {"by": one.grouping.name} for row in _class_rows(dealt, one, said, minimum)]
    names = ["by", "metric", "class", "gap", "worst", "best", "worst_value", "other_value", "difference", "p_value"]
    found = pd.DataFrame(rows, columns=[*names, "units", "mixed"])
    return found.assign(p_holm=holm(found["p_value"].tolist()) if len(found) else [])


def deal(
    table: pd.DataFrame, of: np.ndarray, groups: Sequence[str], said: Sequence[str], *, permutations: int, seed: int
) -> Dealt:
    """Deal the names of `groups` anew; `of` holds the group of each row, and rows of no such group are left out."""
    group = pd.Index(list(groups)).get_indexer(pd.Index(of))
    inside = group >= 0
    codes = pd.Index(list(said))
    label, predicted = (codes.get_indexer(pd.Index(table[name]))[inside] for name in ("label", "predicted"))
    group, classes = group[inside], len(said)
    cell = label * classes + predicted
    units = units_of(group, table["cluster"].to_numpy()[inside], label)
    counts = np.zeros((len(units.first), classes * classes), np.int32)
    np.add.at(counts, (units.of, cell), 1)
    observed = np.zeros((len(groups), classes * classes))
    np.add.at(observed, (group, cell), 1)
    pools, fixed, moving = _pools(group[units.first], units.pool, counts, len(groups))
    largest = max((len(one.number) for one in pools), default=1)
    batch = max(1, _CELLS // (len(groups) * max(largest, classes * classes)))
    generator = np.random.default_rng(seed)
    deals = np.empty((permutations, *observed.shape), np.float32)
    for start in range(0, permutations, batch):
        times = min(batch, permutations - start)
        deals[start : start + times] = fixed + sum((one.deal(times, generator) for one in pools), np.zeros(()))
    shape = (len(groups), classes, classes)
    return Dealt(observed.reshape(shape), deals.reshape(permutations, *shape), moving, units.mixed)


def _pools(group: np.ndarray, pool: np.ndarray, counts: np.ndarray, groups: int) -> tuple[list[_Pool], np.ndarray, int]:
    """Return the pools in which an exchange changes anything, the counts of all others by group, and units in pools."""
    fixed = np.zeros((groups, counts.shape[1]))
    found, moving = [], 0
    order = np.argsort(pool, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(pool[order])) + 1):
        held = np.bincount(group[rows], minlength=groups)
        kinds, number = np.unique(counts[rows], axis=0, return_counts=True)
        if (held > 0).sum() < 2 or len(kinds) < 2:
            np.add.at(fixed, group[rows], counts[rows])
        else:
            found.append(_Pool(held, number, kinds.astype(np.float64)))
            moving += len(rows)
    return found, fixed, moving


def values(counts: np.ndarray, metric: str) -> np.ndarray:
    """Return accuracy, or macro F1 over the classes that have images, of confusion counts (..., C, C)."""
    found = scores(counts)
    if metric == "accuracy":
        return found["accuracy"]
    has = counts.sum(axis=-1) > 0
    return (found["f1"] * has).sum(axis=-1) / np.maximum(has.sum(axis=-1), 1)


def _worst_and_other(counts: np.ndarray, metric: str, other: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index and value of the worst group, and the value of the best or of all others; each of shape (...)."""
    each = values(counts, metric)  # (..., G)
    worst = each.argmin(axis=-1)
    value = each.min(axis=-1)
    if other == "best":
        return worst, value, each.max(axis=-1)
    own = np.take_along_axis(counts, worst[..., None, None, None], axis=-3).squeeze(-3)
    return worst, value, values(counts.sum(axis=-3) - own, metric)


def _rows(dealt: Dealt, groups: Sequence[str]) -> list[dict[str, object]]:
    rows = []
    for metric in METRICS:
        best = groups[int(values(dealt.observed, metric).argmax())]
        for other in ("best", "rest") if len(groups) > 2 else ("best",):
            worst, low, high = _worst_and_other(dealt.observed, metric, other)
            _, lows, highs = _worst_and_other(dealt.deals, metric, other)
            row: dict[str, object] = {"metric": metric, "class": "", "gap": _KINDS[other], "worst": groups[int(worst)]}
            row |= {"best": best if other == "best" else ""}
            rows.append(row | _judged(float(low), float(high), highs - lows, dealt))
    return rows


def _class_rows(dealt: Dealt, one: Measured, said: Sequence[str], minimum: int) -> list[dict[str, object]]:
    """Return the gaps of recall, worst minus best, of the classes that two ranked groups have enough images of."""
    rows = []
    cells = one.by_class[one.by_class["group"].isin(one.ranked)]
    for name, part in cells.groupby("class", sort=False):
        enough = part.loc[part["images"] >= minimum, "group"].tolist()
        if len(enough) < 2:
            continue
        places, number = [one.ranked.index(group) for group in enough], list(said).index(str(name))
        seen = scores(dealt.observed[places])["recall"][:, number]
        drawn = scores(dealt.deals[:, places])["recall"][..., number]  # (P, groups)
        row: dict[str, object] = {"metric": "recall", "class": name, "gap": _KINDS["best"]}
        row |= {"worst": enough[int(seen.argmin())], "best": enough[int(seen.argmax())]}
        rows.append(row | _judged(seen.min(), seen.max(), drawn.max(axis=1) - drawn.min(axis=1), dealt))
    return rows


def _judged(low: float, high: float, drawn: np.ndarray, dealt: Dealt) -> dict[str, object]:
    reached = int((drawn >= high - low - _TIE).sum())
    p_value = (reached + 1) / (len(drawn) + 1)
    found = {"worst_value": low, "other_value": high, "difference": low - high, "p_value": p_value}
    return {**found, "units": dealt.units, "mixed": dealt.mixed}
