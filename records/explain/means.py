"""Means of numbers that each image has: intervals, against zero, and between groups, all by whole clusters.

Images of one cluster (duplicates, or one person) are drawn, turned and exchanged together. Images whose number is
unknown (NaN) are left out.
"""

from dataclasses import dataclass

import numpy as np

from records.bias.units import units_of

_ROOM = 4_000_000  # numbers drawn at once
_TIE = 1e-12


@dataclass(frozen=True)
class Mean:
    """A mean over images with its percentile interval; NaN where there is none."""

    value: float
    low: float
    high: float
    images: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """Mean of a group minus that of the others, averaged over strata; NaN where it cannot be said."""

    value: float
    low: float
    high: float
    p_value: float
    inside: int
    outside: int


def mean_interval(
    values: np.ndarray, cluster: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Mean:
    """Return the mean of values (N,) with an interval from resampled clusters; one cluster has no interval."""
    values, cluster = _with_number(values, cluster)
    if not len(values):
        return Mean(np.nan, np.nan, np.nan, 0, 0)
    number = np.unique(cluster, return_inverse=True)[1]
    count = int(number.max()) + 1
    value = float(values.mean())
    if count < 2:
        return Mean(value, np.nan, np.nan, len(values), count)
    sums, sizes = np.bincount(number, weights=values), np.bincount(number)
    generator, drawn = np.random.default_rng(seed), []
    for block in _blocks(resamples, count):
        picked = generator.integers(count, size=(block, count))
        drawn.append(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1))
    low, high = np.percentile(np.concatenate(drawn), [50 * (1 - level), 50 * (1 + level)])
    return Mean(value, float(low), float(high), len(values), count)


def above_zero(values: np.ndarray, cluster: np.ndarray, *, permutations: int = 9999, seed: int = 0) -> float:
    """Return the one-sided p-value of a mean above zero, by turning the signs of whole clusters.

    All signs are taken where there are no more than `permutations`, otherwise so many drawn. NaN without any value.
    """
    values, cluster = _with_number(values, cluster)
    if not len(values):
        return float("nan")
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], weights=values)
    count, seen = len(sums), sums.sum() - _TIE * np.abs(sums).sum()
    if 2 ** min(count, 60) <= permutations:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((signs @ sums >= seen).mean())
    generator, reached = np.random.default_rng(seed), 0
    for block in _blocks(permutations, count):
        signs = 1 - 2 * generator.integers(2, size=(block, count), dtype=np.int8)
        reached += int((signs @ sums >= seen).sum())
    return (reached + 1) / (permutations + 1)


def group_difference(
    values: np.ndarray,
    inside: np.ndarray,
    cluster: np.ndarray,
    stratum: np.ndarray,
    *,
    permutations: int = 9999,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    r"""Compare a group with the others within strata (classes), so that another mix of classes makes no difference.

    .. math:: d = \sum_s w_s (\bar v_{s,in} - \bar v_{s,out}) / \sum_s w_s, \quad w_s = n_{in} n_{out} / (n_{in} + n_{out})

    The p-value is two-sided: group membership is dealt anew among whole clusters of the same class, and where a cluster
    has images of both sides, among its images of one class (`records.bias.units`).

    Args:
        values: (N,).
        inside: bool (N,), the images of the group.
        cluster: (N,).
        stratum: int (N,), from 0.
        permutations: Drawn; p is at least 1 / (drawn + 1).
        resamples: Of the bootstrap, of whole clusters of the same class and side.
        level: Of the interval.
        seed: Of both.
    """  # noqa: E501
    usable = np.isfinite(values)
    values, inside, cluster, stratum = values[usable], inside[usable], cluster[usable], stratum[usable]
    images = (int(inside.sum()), int((~inside).sum()))
    both = np.intersect1d(stratum[inside], stratum[~inside])
    used = np.isin(stratum, both)
    if not len(both):
        return Difference(np.nan, np.nan, np.nan, np.nan, *images)
    values, inside = values[used].astype(np.float64), inside[used]
    cluster = np.unique(cluster[used], return_inverse=True)[1]
    stratum = np.unique(stratum[used], return_inverse=True)[1]
    seen = float(_difference(_totals(values, inside, stratum), _totals(values, ~inside, stratum))[0])
    generator = np.random.default_rng(seed)

    units = units_of(inside.astype(np.int64), cluster, stratum)
    mine = inside[units.first]
    whole = _totals_of(values, units.of, stratum)  # (2, U, S)
    movable = [np.flatnonzero(units.pool == pool) for pool in np.unique(units.pool)]
    movable = [here for here in movable if 0 < mine[here].sum() < len(here)]
    reached = 0
    for block in _blocks(permutations, len(mine)):
        dealt = np.repeat(mine[None], block, axis=0)
        for here in movable:
            dealt[:, here] = generator.permuted(dealt[:, here], axis=1)
        null = _difference(dealt.astype(float) @ whole, (~dealt).astype(float) @ whole)
        reached += int((~(np.abs(null) < abs(seen) - _TIE)).sum())  # one that cannot be said counts as far

    sides = [_totals_of(np.where(one, values, 0), cluster, stratum, one) for one in (inside, ~inside)]
    per = np.stack([sides[0][1].sum(axis=1) > 0, sides[1][1].sum(axis=1) > 0], axis=1) @ [1, 2]  # in, out, or both
    cells = (sides[0][1] + sides[1][1]).argmax(axis=1) * 4 + per
    drawn = []
    for block in _blocks(resamples, len(cells)):
        times = np.zeros((block, len(cells)))
        for cell in np.unique(cells):
            here = np.flatnonzero(cells == cell)
            times[:, here] = generator.multinomial(len(here), np.full(len(here), 1 / len(here)), size=block)
        drawn.append(_difference(times @ sides[0], times @ sides[1]))
    low = high = np.nan
    if np.bincount(cells).max() > 1:  # one cluster a class and side: nothing to resample
        low, high = np.nanpercentile(np.concatenate(drawn), [50 * (1 - level), 50 * (1 + level)])
    return Difference(seen, float(low), float(high), (reached + 1) / (permutations + 1), *images)


def _totals(values: np.ndarray, chosen: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Return sums and numbers of the chosen images in each stratum, (2, 1, S)."""
    return _totals_of(np.where(chosen, values, 0), np.zeros(len(values), int), stratum, chosen)


def _totals_of(
    values: np.ndarray, unit: np.ndarray, stratum: np.ndarray, counted: np.ndarray | None = None
) -> np.ndarray:
    """Return sums and numbers of the images of each unit in each stratum, (2, U, S)."""
    found = np.zeros((2, unit.max() + 1, stratum.max() + 1))
    np.add.at(found[0], (unit, stratum), values)
    np.add.at(found[1], (unit, stratum), 1.0 if counted is None else counted.astype(np.float64))
    return found


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the weighted difference of means from sums and numbers (2, B, S); NaN where no stratum has both."""
    (sum_one, n_one), (sum_other, n_other) = one, other
    weight = n_one * n_other / np.maximum(n_one + n_other, 1)  # 0 where a side is empty
    means = sum_one / np.maximum(n_one, 1) - sum_other / np.maximum(n_other, 1)
    total = weight.sum(axis=1)
    return np.divide((weight * means).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def _with_number(values: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    usable = np.isfinite(values)
    return values[usable], np.asarray(cluster)[usable]


def _blocks(total: int, width: int) -> list[int]:
    size = max(1, min(total, _ROOM // max(width, 1)))
    return [min(size, total - start) for start in range(0, total, size)]
