"""Means of numbers that each image has: intervals, against zero, and between groups, all by whole clusters.

Images of one cluster (duplicates, or one person) are drawn, turned and exchanged together. Images whose number is
unknown (NaN) are left out.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix

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

    The p-value is two-sided: group membership is dealt anew to whole clusters of a stratum. A cluster with images of
    both sides or of several strata counts as one of each.

    Args:
        values: (N,).
        inside: bool (N,), the images of the group.
        cluster: (N,).
        stratum: int (N,).
        permutations: Drawn; p is at least 1 / (drawn + 1).
        resamples: Of the bootstrap, of clusters within stratum and side.
        level: Of the interval.
        seed: Of both.
    """  # noqa: E501
    usable = np.isfinite(values)
    values, inside, cluster, stratum = values[usable], inside[usable], cluster[usable], stratum[usable]
    keys = np.stack([stratum, np.unique(cluster, return_inverse=True)[1], inside.astype(np.int64)], axis=1)
    units, unit = np.unique(keys, axis=0, return_inverse=True) if len(keys) else (np.zeros((0, 3), int), keys[:, 0])
    unit = unit.ravel()
    sums, sizes = np.bincount(unit, weights=values), np.bincount(unit).astype(np.float64)
    mine, strata = units[:, 2].astype(bool), units[:, 0]
    both = [s for s in np.unique(strata) if len(np.unique(mine[strata == s])) == 2]
    used = np.isin(strata, both)
    sums, sizes, mine = sums[used], sizes[used], mine[used]
    strata = np.unique(strata[used], return_inverse=True)[1]
    images = (int(inside.sum()), int((~inside).sum()))
    if not both:
        return Difference(np.nan, np.nan, np.nan, np.nan, *images)
    total = int(strata.max()) + 1
    belongs = coo_matrix((np.ones(len(strata)), (np.arange(len(strata)), strata)), shape=(len(strata), total)).toarray()
    ones = np.ones((1, len(mine)))
    seen = float(_difference(ones * mine, ones * ~mine, sums, sizes, belongs)[0])
    generator = np.random.default_rng(seed)
    reached, counted, drawn = 0, 0, []
    for block in _blocks(permutations, len(mine)):
        dealt = np.empty((block, len(mine)), bool)
        for s in range(total):
            here = np.flatnonzero(strata == s)
            dealt[:, here] = generator.permuted(np.broadcast_to(mine[here], (block, len(here))), axis=1)
        null = _difference(dealt.astype(float), (~dealt).astype(float), sums, sizes, belongs)
        reached += int((np.abs(null) >= abs(seen) - _TIE).sum())
        counted += block
    cells = strata * 2 + mine
    for block in _blocks(resamples, len(mine)):
        times = np.zeros((block, len(mine)))
        for cell in np.unique(cells):
            here = np.flatnonzero(cells == cell)
            times[:, here] = generator.multinomial(len(here), np.full(len(here), 1 / len(here)), size=block)
        drawn.append(_difference(times * mine, times * ~mine, sums, sizes, belongs))
    single = np.bincount(cells, minlength=2 * total)
    low, high = np.percentile(np.concatenate(drawn), [50 * (1 - level), 50 * (1 + level)])
    if (single[np.unique(cells)] < 2).all():  # one cluster a side: nothing to resample
        low = high = np.nan
    return Difference(seen, float(low), float(high), (reached + 1) / (counted + 1), *images)


def _difference(
    one: np.ndarray, other: np.ndarray, sums: np.ndarray, sizes: np.ndarray, belongs: np.ndarray
) -> np.ndarray:
    """Return the weighted difference of each row of memberships (B, U)."""
    n_one, n_other = (one * sizes) @ belongs, (other * sizes) @ belongs  # (B, S)
    means = ((one * sums) @ belongs) / n_one - ((other * sums) @ belongs) / n_other
    weight = n_one * n_other / (n_one + n_other)
    return (weight * means).sum(axis=1) / weight.sum(axis=1)


def _with_number(values: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    usable = np.isfinite(values)
    return values[usable], np.asarray(cluster)[usable]


def _blocks(total: int, width: int) -> list[int]:
    size = max(1, min(total, _ROOM // max(width, 1)))
    return [min(size, total - start) for start in range(0, total, size)]
