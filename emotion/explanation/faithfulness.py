"""Faithfulness of explanations: deletion and insertion against baselines, known regions, agreement, groups."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from datamodules.errors import InputError
from emotion.explanation.methods import ALL_IMAGES, ExplainAgain, ExplainedImages, Probabilities, counted
from emotion.explanation.regions import REGIONS, Shares, alignable, shares_of
from emotion.explanation.superpixels import FILLS, Fill, baseline_image
from results.bias.gaps import units_of
from results.bias.groups import Grouping, groupings
from results.reports.tables import interval, signed
from results.significance import holm


def numbered(segments: np.ndarray) -> np.ndarray:
    """Return the segments of one image numbered from 0 without gaps, int (H, W)."""
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape)


def segment_sums(importance: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the importance of each segment, (S,): the sum of a map (H, W); segments are numbered without gaps."""
    return np.bincount(segments.ravel(), weights=importance.ravel().astype(np.float64))


def segment_means(importance: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the importance of each segment per pixel, (S,): the mean of a map (H, W)."""
    return segment_sums(importance, segments) / np.bincount(segments.ravel())


def descending(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the segments, the most important first; ties are in random order."""
    return np.lexsort((generator.random(len(values)), -values))


def top_superpixels(importance: np.ndarray, segments: np.ndarray, top: int) -> np.ndarray:
    """Return the pixels of the `top` segments with the highest positive importance, at most half; bool (H, W)."""
    segments = numbered(segments)
    values = segment_sums(importance, segments)
    chosen = descending(values, np.random.default_rng(0))[: max(1, min(top, len(values) // 2))]
    chosen = chosen[values[chosen] > 0]
    return np.isin(segments, chosen)


_GRID = np.linspace(0, 1, 21)
RANDOM, BLOB, OTHER = "random orders", "a centred blob", "the map of another image"
"""Baselines that the maps must beat."""


@dataclass(frozen=True)
class BaselineCurves:
    """Deletion and insertion of the same images in the order of a map that was not made for them.

    Attributes:
        name: BLOB or OTHER.
        deletion: Probability of the explained class, (n, G).
        insertion: The same, (n, G).
        deletion_area: Area under the curve, (n,); NaN where there is no other image.
        insertion_area: The same, (n,).
    """

    name: str
    deletion: np.ndarray
    insertion: np.ndarray
    deletion_area: np.ndarray
    insertion_area: np.ndarray


@dataclass(frozen=True)
class Curves:
    """Deletion and insertion curves of some images.

    Attributes:
        rows: Their rows of the table, (n,).
        fill: What replaces a removed superpixel.
        grid: Share of pixels removed (deletion) or put back (insertion), (G,).
        deletion: Probability of the explained class, (n, G).
        insertion: The same, (n, G).
        random: Deletion in random orders, averaged, (n, G); reversed, it is insertion.
        deletion_area: Area under the curve, (n,); low is good.
        insertion_area: The same, (n,); high is good.
        random_area: Areas of the random orders, (n, draws).
        baselines: Curves of the other baselines, BLOB and OTHER.
        passes: Number of images shown to the network.
    """

    rows: np.ndarray
    fill: Fill
    grid: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random: np.ndarray
    deletion_area: np.ndarray
    insertion_area: np.ndarray
    random_area: np.ndarray
    baselines: tuple[BaselineCurves, ...]
    passes: int


def other_fill(explained: ExplainedImages, requested: str = "auto") -> Fill:
    """Return a fill that the explainer did not use, so that the curves are an independent test.

    Raises:
        InputError: The requested fill is unknown, or is that of the explainer.
    """
    own = str(explained.options.get("fill", ""))
    if requested == "auto":
        return "mean" if own == "blur" else "blur"
    if requested == own:
        msg = f"fill: the curves need another fill than the explainer, got {requested} for both; use auto."
        raise InputError(msg)
    for fill in FILLS:
        if fill == requested:
            return fill
    msg = f"fill: must be one of auto, {', '.join(FILLS)}, got {requested!r}."
    raise InputError(msg)


def curves(
    explained: ExplainedImages,
    probabilities: Probabilities,
    *,
    fill: Fill = "blur",
    steps: int = 20,
    draws: int = 5,
    batch: int = 256,
    images: int = 200,
    seed: int = 0,
) -> Curves:
    """Delete and insert superpixels in the order of the maps, and of the baselines.

    The baselines are random orders; a Gaussian in the centre of the image; and the map of another image, drawn at
    random from those of another cluster, of the same explained class where there is one.

    Args:
        explained: The images and their maps.
        probabilities: The networks.
        fill: What replaces a removed superpixel.
        steps: Number of steps in which all superpixels are removed.
        draws: Random orders of an image.
        batch: Images in one pass.
        images: Maximum number of images; they are drawn at random.
        seed: Seed of that draw, and of the random orders.
    """
    for name, value in (("steps", steps), ("draws", draws), ("batch", batch), ("images", images)):
        if value < 1:
            msg = f"{name}: must be at least 1, got {value}."
            raise InputError(msg)
    rows = np.arange(len(explained))
    if len(rows) > images:
        rows = np.sort(np.random.default_rng(seed).choice(rows, images, replace=False))
    folds = explained.table["fold"].to_numpy()[rows] if "fold" in explained.table else np.zeros(len(rows))
    others = other_images(explained, seed)
    jobs = [
        _Job(explained, int(row), int(others[row]), fill, steps, draws, seed)
        for row in rows[np.argsort(folds, kind="stable")]
    ]
    for job, answer in _predicted_jobs(jobs, probabilities, batch):
        job.read(answer)
    jobs.sort(key=lambda job: job.row)
    return Curves(
        rows=rows,
        fill=fill,
        grid=_GRID,
        deletion=np.array([job.deletion for job in jobs]),
        insertion=np.array([job.insertion for job in jobs]),
        random=np.array([job.random for job in jobs]),
        deletion_area=np.array([job.deletion_area for job in jobs]),
        insertion_area=np.array([job.insertion_area for job in jobs]),
        random_area=np.array([job.random_area for job in jobs]),
        baselines=tuple(
            BaselineCurves(name, *(np.array([job.baselines[name][part] for job in jobs]) for part in range(4)))
            for name in (BLOB, OTHER)
        ),
        passes=sum(job.size for job in jobs),
    )


def other_images(explained: ExplainedImages, seed: int = 0) -> np.ndarray:
    """Return for each image the row of another one, int64 (N,); -1 where there is none.

    It is drawn at random from the images of other clusters whose map explains the same class; if there is none, from
    those of other clusters, and at last from all others.
    """
    rows, cluster = np.arange(len(explained)), clusters_of(explained.table)
    generator = np.random.default_rng([seed, 1])
    chosen = np.full(len(rows), -1, np.int64)
    for row in rows:
        apart, same = cluster != cluster[row], explained.target == explained.target[row]
        candidates = next((pool for pool in (rows[apart & same], rows[apart], rows[rows != row]) if len(pool)), None)
        if candidates is not None:
            chosen[row] = generator.choice(candidates)
    return chosen


def centred_blob(height: int, width: int) -> np.ndarray:
    """Return a Gaussian in the centre of an image, float64 (H, W); its width is a quarter of the side."""
    y, x = (np.arange(side) + 0.5 - side / 2 for side in (height, width))
    return np.exp(-((y[:, None] / height) ** 2 + (x / width) ** 2) * 8)


class _Job:
    """Curves of one image: the images to predict, and the curves from the predictions."""

    def __init__(
        self, explained: ExplainedImages, row: int, other: int, fill: Fill, steps: int, draws: int, seed: int
    ) -> None:
        self.row, self.target = row, int(explained.target[row])
        self._image = explained.images[row]
        self._segments = numbered(explained.segments[row])
        self._base = baseline_image(self._image, self._segments, fill)
        generator = np.random.default_rng([seed, row])
        maps = {"": explained.maps[row], BLOB: centred_blob(*self._segments.shape)}
        if other >= 0:
            maps[OTHER] = explained.maps[other]
        self._orders: list[np.ndarray] = []  # of each map forwards and backwards, then the random ones
        for importance in maps.values():
            order = descending(segment_means(importance, self._segments), generator)
            self._orders += [order, order[::-1]]
        self._maps = list(maps)
        self._orders += [generator.permutation(len(order)) for _ in range(draws)]
        self._cuts = np.unique(np.linspace(0, len(order), steps + 1).round().astype(int))
        self._sizes = np.bincount(self._segments.ravel())
        self.size = 2 + len(self._orders) * (len(self._cuts) - 2)
        self.deletion = self.insertion = self.random = np.zeros(len(_GRID))
        self.deletion_area = self.insertion_area = 0.0
        self.random_area = np.zeros(draws)
        nothing = np.full(len(_GRID), np.nan)
        self.baselines: dict[str, tuple[np.ndarray, np.ndarray, float, float]] = dict.fromkeys(
            (BLOB, OTHER), (nothing, nothing, np.nan, np.nan)
        )

    def images(self) -> np.ndarray:
        """Return the original, the image without any superpixel, and those between them in each order."""
        gone = [np.zeros(self._segments.shape, bool), np.ones(self._segments.shape, bool)]
        for order in self._orders:
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            gone += [rank[self._segments] < cut for cut in self._cuts[1:-1]]
        return np.where(np.stack(gone)[..., None], self._base, self._image)

    def read(self, answer: np.ndarray) -> None:
        """Compute the curves from the probabilities (size, K) of the images."""
        predicted = answer[:, self.target].astype(np.float64)
        between = predicted[2:].reshape(len(self._orders), -1)
        ends = np.broadcast_to(predicted[:2], (len(self._orders), 2))
        heights = np.concatenate([ends[:, :1], between, ends[:, 1:]], axis=1)
        share = np.stack([np.append(0, self._sizes[order].cumsum())[self._cuts] for order in self._orders])
        share = share / self._sizes.sum()
        areas = np.trapezoid(heights, share, axis=1)
        drawn = np.stack([np.interp(_GRID, x, y) for x, y in zip(share, heights, strict=True)])
        first_random = 2 * len(self._maps)
        self.random_area, self.random = areas[first_random:], drawn[first_random:].mean(axis=0)
        for place, name in enumerate(self._maps):
            forwards, backwards = 2 * place, 2 * place + 1
            # the least important go first: what is left came last, so backwards it is insertion
            found = (drawn[forwards], drawn[backwards][::-1], float(areas[forwards]), float(areas[backwards]))
            if name:
                self.baselines[name] = found
            else:
                self.deletion, self.insertion, self.deletion_area, self.insertion_area = found


def _predicted_jobs(jobs: list[_Job], probabilities: Probabilities, batch: int) -> Iterator[tuple[_Job, np.ndarray]]:
    """Predict the images of all jobs in batches; a batch may have the images of several jobs."""
    waiting: list[tuple[_Job, np.ndarray]] = []
    for job in counted(jobs, "testing the explanation, deleting and inserting"):
        waiting.append((job, job.images()))
        if sum(len(images) for _, images in waiting) >= batch or job is jobs[-1]:
            shown = np.concatenate([images for _, images in waiting])
            rows = np.concatenate([np.full(len(images), waiting_job.row, np.int64) for waiting_job, images in waiting])
            parts = [slice(start, start + batch) for start in range(0, len(shown), batch)]
            answer = np.concatenate([probabilities(shown[part], rows[part]) for part in parts])
            start = 0
            for waiting_job, images in waiting:
                yield waiting_job, answer[start : start + len(images)]
                start += len(images)
            waiting = []


_NUMBERS_AT_ONCE = 4_000_000  # random numbers in memory
_TIE = 1e-12


@dataclass(frozen=True)
class Mean:
    """A mean over images with its percentile interval; NaN if it is not defined."""

    value: float
    low: float
    high: float
    images: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """Mean of a group minus mean of the others, averaged over strata; NaN if it is not defined."""

    value: float
    low: float
    high: float
    p_value: float
    inside: int
    outside: int


def mean_interval(
    values: np.ndarray, cluster: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Mean:
    """Return the mean of values (N,) with a cluster-bootstrap interval; one cluster has no interval."""
    values, cluster = _finite(values, cluster)
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


def sign_flip_test(values: np.ndarray, cluster: np.ndarray, *, permutations: int = 9999, seed: int = 0) -> float:
    """Return the one-sided p-value of a mean above zero, by flipping the signs of whole clusters.

    All combinations of signs are used if there are at most `permutations`, otherwise a random sample of that size. NaN
    without any value.
    """
    values, cluster = _finite(values, cluster)
    if not len(values):
        return float("nan")
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], weights=values)
    count, observed = len(sums), sums.sum() - _TIE * np.abs(sums).sum()
    if 2 ** min(count, 60) <= permutations:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((signs @ sums >= observed).mean())
    generator, extreme = np.random.default_rng(seed), 0
    for block in _blocks(permutations, count):
        signs = 1 - 2 * generator.integers(2, size=(block, count), dtype=np.int8)
        extreme += int((signs @ sums >= observed).sum())
    return (extreme + 1) / (permutations + 1)


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
    r"""Test the difference between a group and the others within strata (classes), so that class shares do not matter.

    .. math:: d = \sum_s w_s (\bar v_{s,in} - \bar v_{s,out}) / \sum_s w_s, \quad w_s = n_{in} n_{out} / (n_{in} + n_{out})

    The p-value is two-sided: group membership is permuted among whole clusters of the same class; in a cluster with
    images of both sides, it is permuted among its images of one class (`results.bias.gaps`).

    Args:
        values: Values of the images, (N,).
        inside: Whether an image is of the group, bool (N,).
        cluster: Cluster of each image, (N,).
        stratum: Stratum of each image, int (N,), from 0.
        permutations: Number of permutations; p is at least 1 / (permutations + 1).
        resamples: Bootstrap resamples, of whole clusters of the same class and side.
        level: Level of the interval.
        seed: Seed of both.
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
    observed = float(_difference(_totals(values, inside, stratum), _totals(values, ~inside, stratum))[0])
    generator = np.random.default_rng(seed)

    units = units_of(inside.astype(np.int64), cluster, stratum)
    in_group = inside[units.first]
    whole = _totals_of(values, units.of, stratum)  # (2, U, S)
    movable = [np.flatnonzero(units.pool == pool) for pool in np.unique(units.pool)]
    movable = [members for members in movable if 0 < in_group[members].sum() < len(members)]
    extreme = 0
    for block in _blocks(permutations, len(in_group)):
        permuted = np.repeat(in_group[None], block, axis=0)
        for members in movable:
            permuted[:, members] = generator.permuted(permuted[:, members], axis=1)
        null = _difference(permuted.astype(float) @ whole, (~permuted).astype(float) @ whole)
        extreme += int((~(np.abs(null) < abs(observed) - _TIE)).sum())  # an undefined difference counts as extreme

    sides = [_totals_of(np.where(side, values, 0), cluster, stratum, side) for side in (inside, ~inside)]
    per = np.stack([sides[0][1].sum(axis=1) > 0, sides[1][1].sum(axis=1) > 0], axis=1) @ [1, 2]  # in, out, or both
    cells = (sides[0][1] + sides[1][1]).argmax(axis=1) * 4 + per
    resampled = []
    for block in _blocks(resamples, len(cells)):
        times = np.zeros((block, len(cells)))
        for cell in np.unique(cells):
            members = np.flatnonzero(cells == cell)
            times[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=block)
        resampled.append(_difference(times @ sides[0], times @ sides[1]))
    low = high = np.nan
    if np.bincount(cells).max() > 1:  # with one cluster per class and side there is nothing to resample
        low, high = np.nanpercentile(np.concatenate(resampled), [50 * (1 - level), 50 * (1 + level)])
    return Difference(observed, float(low), float(high), (extreme + 1) / (permutations + 1), *images)


def _totals(values: np.ndarray, chosen: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Return sums and counts of the chosen images in each stratum, (2, 1, S)."""
    return _totals_of(np.where(chosen, values, 0), np.zeros(len(values), int), stratum, chosen)


def _totals_of(
    values: np.ndarray, unit: np.ndarray, stratum: np.ndarray, counted: np.ndarray | None = None
) -> np.ndarray:
    """Return sums and counts of the images of each unit in each stratum, (2, U, S)."""
    totals = np.zeros((2, unit.max() + 1, stratum.max() + 1))
    np.add.at(totals[0], (unit, stratum), values)
    np.add.at(totals[1], (unit, stratum), 1.0 if counted is None else counted.astype(np.float64))
    return totals


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the weighted difference of means from sums and counts (2, B, S); NaN if no stratum has both."""
    (first_sum, first_count), (second_sum, second_count) = first, second
    weight = first_count * second_count / np.maximum(first_count + second_count, 1)  # 0 where a side is empty
    means = first_sum / np.maximum(first_count, 1) - second_sum / np.maximum(second_count, 1)
    total = weight.sum(axis=1)
    return np.divide((weight * means).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def _finite(values: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    usable = np.isfinite(values)
    return values[usable], np.asarray(cluster)[usable]


def _blocks(total: int, width: int) -> list[int]:
    size = max(1, min(total, _NUMBERS_AT_ONCE // max(width, 1)))
    return [min(size, total - start) for start in range(0, total, size)]


LEVEL = 0.05
RULE = (
    "An explanation holds if removing superpixels in its order lowers the probability faster, and putting them back in "
    "its order raises it faster, than in three other orders: random ones, that of a centred blob, and that of the map "
    "of another image (of the same explained class where there is one); each with p < .05 (one-sided sign-flip test "
    "over clusters of images). Otherwise it fails, and the first line says what it did not beat."
)


@dataclass(frozen=True)
class ChanceComparison:
    """Comparison of the maps with chance on one measure, over images.

    Attributes:
        name: deletion, insertion, inside or pointing.
        value: Mean of the maps.
        chance: Mean by chance.
        gain: Mean gain of the maps over chance; above 0 is good.
        p_value: One-sided p-value of a gain above 0; NaN if it is not defined.
        against: What chance is, for deletion and insertion: RANDOM, BLOB or OTHER.
    """

    name: str
    value: Mean
    chance: Mean
    gain: Mean
    p_value: float
    against: str = RANDOM

    @property
    def few(self) -> bool:
        """Whether there are too few clusters for a p-value below the level."""
        return 0.5**self.gain.clusters >= LEVEL

    @property
    def shown(self) -> bool:
        """Whether the maps are significantly better than chance."""
        return self.p_value < LEVEL  # False for NaN


def clusters_of(table: pd.DataFrame) -> np.ndarray:
    """Return the cluster of each image; if the table has none, each image is a cluster."""
    return table["cluster"].to_numpy() if "cluster" in table else np.arange(len(table))


def against_baselines(
    table: pd.DataFrame, tried: Curves, *, resamples: int = 2000, permutations: int = 9999, seed: int = 0
) -> tuple[ChanceComparison, ...]:
    """Compare deletion and insertion with those of RANDOM, BLOB and OTHER orders of the superpixels, paired by image.

    Returns:
        Deletion and insertion against each, in this order.
    """
    cluster = clusters_of(table)[tried.rows]
    random = tried.random_area.mean(axis=1)
    areas = [(RANDOM, random, random)]
    areas += [(baseline.name, baseline.deletion_area, baseline.insertion_area) for baseline in tried.baselines]
    tests = []
    for against, deletion, insertion in areas:
        gains = (
            ("deletion", tried.deletion_area, deletion, deletion - tried.deletion_area),
            ("insertion", tried.insertion_area, insertion, tried.insertion_area - insertion),
        )
        for name, value, chance, gain in gains:
            test = _compare_with_chance(
                name, value, chance, gain, cluster, resamples=resamples, permutations=permutations, seed=seed
            )
            tests.append(replace(test, against=against))
    return tuple(tests)


def against_masks(
    explained: ExplainedImages, *, resamples: int = 2000, permutations: int = 9999, seed: int = 0
) -> tuple[ChanceComparison, ChanceComparison] | None:
    """Compare the importance inside the pixels known to show the emotion with chance; None if they are unknown.

    `inside`: share of the positive importance inside over share of area, image by image; chance is 1. `pointing`
    (Zhang et al. 2016): whether the highest pixel is inside, or the share of the highest pixels on a tie; chance is the
    share of area. A map that is constant or has no positive pixel is left out.
    """
    if explained.masks is None:
        return None
    inside, pointing, area = (np.full(len(explained), np.nan) for _ in range(3))
    for i, (importance, mask) in enumerate(zip(explained.maps, explained.masks, strict=True)):
        if not mask.any():
            continue
        area[i] = mask.mean()
        if importance.max() <= max(float(importance.min()), 0.0):
            continue
        positive = np.clip(importance.astype(np.float64), 0, None)
        inside[i] = positive[mask].sum() / positive.sum() / area[i]
        pointing[i] = mask[importance == importance.max()].mean()
    cluster = clusters_of(explained.table)
    settings = {"resamples": resamples, "permutations": permutations, "seed": seed}
    no_gain = np.where(np.isfinite(inside), 1.0, np.nan)
    return (
        _compare_with_chance("inside", inside, no_gain, inside - 1, cluster, **settings),
        _compare_with_chance(
            "pointing", pointing, np.where(np.isfinite(pointing), area, np.nan), pointing - area, cluster, **settings
        ),
    )


def _compare_with_chance(
    name: str,
    value: np.ndarray,
    chance: np.ndarray,
    gain: np.ndarray,
    cluster: np.ndarray,
    *,
    resamples: int,
    permutations: int,
    seed: int,
) -> ChanceComparison:
    mean, by_chance, mean_gain = (
        mean_interval(values, cluster, resamples=resamples, seed=seed) for values in (value, chance, gain)
    )
    return ChanceComparison(
        name, mean, by_chance, mean_gain, sign_flip_test(gain, cluster, permutations=permutations, seed=seed)
    )


def verdict(tests: Sequence[ChanceComparison]) -> tuple[bool, str]:
    """Return whether an explanation holds, and the first sentence of the report.

    Args:
        tests: Result of `against_baselines`.
    """
    count = tests[0].gain.images
    images = f"{count} image{'s' if count != 1 else ''}"
    if all(test.shown for test in tests):
        gains = "; ".join(_gain_text(test) for test in tests if test.against == RANDOM)
        return True, f"HOLDS against {RANDOM}, {BLOB} and {OTHER} ({images}); gain over {RANDOM}: {gains}."
    missed = {test.against: [one for one in tests if one.against == test.against and not one.shown] for test in tests}
    gains = "; ".join(
        f"gain over {against}: {'; '.join(map(_gain_text, failed))}" for against, failed in missed.items() if failed
    )
    if tests[0].few:
        clusters = tests[0].gain.clusters
        need = math.floor(math.log(LEVEL, 0.5)) + 1
        return False, (
            f"NOT DECIDED: too few images were tried ({clusters} cluster{'s' if clusters != 1 else ''}, p < .05 needs "
            f"at least {need}); {gains}."
        )
    not_beaten = [
        f"{against} ({' and '.join(one.name for one in failed)})" for against, failed in missed.items() if failed
    ]
    listed = " and ".join(filter(None, [", ".join(not_beaten[:-1]), not_beaten[-1]]))
    return False, f"FAILS: it did not beat {listed} ({images}); {gains}."


def _gain_text(comparison: ChanceComparison) -> str:
    if math.isnan(comparison.p_value):
        return f"{comparison.name} not defined"
    p_value = "p < .001" if comparison.p_value < 0.001 else f"p = {comparison.p_value:.3f}"
    limits = interval(comparison.gain.low, comparison.gain.high, sign=True)
    return f"{comparison.name} {signed(comparison.gain.value)}{f' ({limits})' if limits else ''}, {p_value}"


def agreement(
    maps: np.ndarray, other_maps: np.ndarray, segments: np.ndarray, *, top: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Compare two sets of maps (N, H, W) by the mean importance of superpixels; by sums, large ones would agree.

    Returns:
        One row per image: `rank` (Spearman's correlation), `overlap` (share of the `top` most important superpixels
        that both have) and `chance` (the overlap of two random choices). NaN if a map is constant.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for one_map, other_map, parts in zip(maps, other_maps, segments, strict=True):
        parts = numbered(parts)
        values = [segment_means(importance, parts) for importance in (one_map, other_map)]
        count, size = len(values[0]), min(top, len(values[0]))
        if any(np.ptp(value) <= 1e-12 * np.abs(value).max() for value in values):
            rows.append((np.nan, np.nan, np.nan))
            continue
        chosen = [set(descending(value, generator)[:size].tolist()) for value in values]
        rank = float(spearmanr(*values).statistic)
        rows.append((rank, len(chosen[0] & chosen[1]) / size, size / count))
    return pd.DataFrame(rows, columns=["rank", "overlap", "chance"])


ALL_CLASSES = ""


def region_table(
    explained: ExplainedImages,
    shares: Shares,
    by: Sequence[Grouping],
    *,
    importance: str,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return share and density of importance on each region, in correctly predicted images.

    Returns:
        One row per grouping, group, class, region: `importance`, `by` and `group` ("" for all images), `class` ("" for
        all classes), `region`, `images`, `clusters`, `share`, `share_low`, `share_high`, `area`, `density`,
        `density_low`, `density_high`. Cells without images are left out.
    """
    table, cluster = explained.table, clusters_of(explained.table)
    label = table["label"].to_numpy(object)
    usable = (label == table["predicted"].to_numpy(object)) & np.isfinite(shares.share).all(axis=1)
    sets = [("", ALL_IMAGES, np.ones(len(table), bool))]
    for grouping in by:
        group = grouping.of(table)
        sets += [(grouping.name, name, group == name) for name in grouping.groups]
    rows = []
    for column, group_name, inside in sets:
        for name in (ALL_CLASSES, *explained.classes):
            chosen = usable & inside & ((label == name) | (name == ALL_CLASSES))
            if not chosen.any():
                continue
            for number, region in enumerate(REGIONS):
                row: dict[str, object] = {"importance": importance, "by": column, "group": group_name, "class": name}
                row |= {"region": region, "images": int(chosen.sum())}
                for what, values in (("share", shares.share), ("density", shares.density)):
                    mean = mean_interval(values[chosen, number], cluster[chosen], resamples=resamples, seed=seed)
                    row |= {"clusters": mean.clusters} if what == "share" else {}
                    row |= {what: mean.value, f"{what}_low": mean.low, f"{what}_high": mean.high}
                row["area"] = float(shares.area[chosen, number].mean())
                rows.append(row)
    names = ["importance", "by", "group", "class", "region", "images", "clusters", "share", "share_low", "share_high",
             "area", "density", "density_low", "density_high"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def group_table(
    explained: ExplainedImages,
    shares: Shares,
    by: Sequence[Grouping],
    *,
    permutations: int = 9999,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether density on a region differs between a group and all others, within classes.

    If there are two groups, the first is tested against the second. Images without a group are left out; the mixture of
    rare groups is not tested itself.

    Returns:
        One row per grouping, group and region: `by`, `group`, `others`, `region`, `difference`, `low`, `high`,
        `p_value`, `p_holm` (over the groups and regions of a grouping), `images`, `other_images`.
    """
    table, cluster = explained.table, clusters_of(explained.table)
    label = table["label"].to_numpy(object)
    right = label == table["predicted"].to_numpy(object)
    stratum = pd.Index(explained.classes).get_indexer(pd.Index(label))
    settings = {"permutations": permutations, "resamples": resamples, "seed": seed}
    tables = []
    for grouping in by:
        group = grouping.of(table)
        ranked = [name for name in grouping.groups if not grouping.is_mixture(name)]
        tested = ranked[:1] if len(grouping.groups) == 2 else ranked
        rows = []
        for name in tested if len(grouping.groups) > 1 else []:
            others = (
                next((other for other in grouping.groups if other != name), "")
                if len(grouping.groups) == 2
                else "others"
            )
            used = right & (group != "")
            for number, region in enumerate(REGIONS):
                result = group_difference(
                    shares.density[used, number], group[used] == name, cluster[used], stratum[used], **settings
                )
                rows.append((grouping.name, name, others, region, result.value, result.low, result.high, result.p_value,
                             np.nan, result.inside, result.outside))  # fmt: skip
        names = ["by", "group", "others", "region", "difference", "low", "high", "p_value", "p_holm", "images",
                 "other_images"]  # fmt: skip
        part = pd.DataFrame(rows, columns=names)
        defined = part["p_value"].notna()
        if defined.any():
            part.loc[defined, "p_holm"] = holm(part.loc[defined, "p_value"].tolist())
        tables.append(part)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report.

    Attributes:
        by: Columns to group images by; several are combined with `+`.
        n: Number of correctly predicted images in an overlay of a class and group.
        top: Superpixels that are marked in overlays and compared for agreement.
        fill: What replaces a removed superpixel in the curves; auto: one that the explainer did not use.
        steps: Steps of a curve.
        draws: Random orders of an image.
        curve_images: Maximum number of images with curves.
        batch: Images in one pass.
        methods: Other methods to compare with.
        seeds: Repetitions of the method with other seeds.
        resamples: Bootstrap resamples of the intervals.
        permutations: Permutations of the tests.
        seed: Seed of all random numbers of the report.
        title: Title of the report.
    """

    by: tuple[str, ...] = ()
    n: int = 10
    top: int = 5
    fill: str = "auto"
    steps: int = 20
    draws: int = 5
    curve_images: int = 200
    batch: int = 256
    methods: tuple[str, ...] = ()
    seeds: int = 2
    resamples: int = 2000
    permutations: int = 9999
    seed: int = 0
    title: str = ""


@dataclass(frozen=True)
class Measurements:
    """All measurements of a report.

    Attributes:
        by: The groupings.
        curves: Deletion and insertion curves, image by image.
        tests: Result of `against_baselines`.
        masks: `inside` and `pointing`; None if the pixels that show the emotion are unknown.
        agreements: One row a comparison: `with`, `rank`, `overlap` with `_low` and `_high`, `chance`, `images`,
            `undefined`.
        shares: Shares of the positive importance on regions.
        regions: Result of `region_table`, for positive and absolute importance.
        differences: Result of `group_table`, for the positive importance.
        images: One row per image.
    """

    by: tuple[Grouping, ...]
    curves: Curves
    tests: tuple[ChanceComparison, ...]
    masks: tuple[ChanceComparison, ChanceComparison] | None
    agreements: pd.DataFrame
    shares: Shares
    regions: pd.DataFrame
    differences: pd.DataFrame
    images: pd.DataFrame


def check(explained: ExplainedImages, options: ReportOptions) -> tuple[Grouping, ...]:
    """Validate the input of a report before anything is computed, and return the groupings.

    Raises:
        InputError: No image, maps that are not finite, an option out of range, or a column that cannot group images.
    """
    if not len(explained):
        msg = "images: must be at least one, got none; choose at least one image to explain."
        raise InputError(msg)
    if not np.isfinite(explained.maps).all():
        msg = f"maps: must be finite, those of {explained.method} are not; the training may have diverged."
        raise InputError(msg)
    least = {"n": 1, "top": 1, "steps": 1, "draws": 1, "curve_images": 1, "batch": 1, "seeds": 0}
    least |= {"resamples": 100, "permutations": 99}
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            msg = f"{name}: must be at least {lowest}, got {getattr(options, name)}."
            raise InputError(msg)
    other_fill(explained, options.fill)
    return tuple(groupings(explained.table, options.by)) if options.by else ()


def measure(
    explained: ExplainedImages, probabilities: Probabilities, explain_again: ExplainAgain, options: ReportOptions
) -> Measurements:
    """Measure the faithfulness of maps, their agreement with other methods and seeds, and their regions."""
    by = check(explained, options)
    resampling = {"resamples": options.resamples, "seed": options.seed}
    tests = {**resampling, "permutations": options.permutations}
    tried = curves(
        explained,
        probabilities,
        fill=other_fill(explained, options.fill),
        steps=options.steps,
        draws=options.draws,
        batch=options.batch,
        images=options.curve_images,
        seed=options.seed,
    )
    shares = shares_of(explained.maps, explained.landmarks)
    absolute = shares_of(explained.maps, explained.landmarks, absolute=True)
    regions = [
        region_table(explained, region_shares, by, importance=name, **resampling)
        for name, region_shares in (("positive", shares), ("absolute", absolute))
    ]
    return Measurements(
        by,
        tried,
        against_baselines(explained.table, tried, **tests),
        against_masks(explained, **tests),
        _agreements(explained, explain_again, options),
        shares,
        pd.concat(regions, ignore_index=True),
        group_table(explained, shares, by, **tests),
        _images(explained, tried, shares),
    )


def _agreements(explained: ExplainedImages, explain_again: ExplainAgain, options: ReportOptions) -> pd.DataFrame:
    """Compare maps with those of other methods, and of other seeds of the same method."""
    own = explained.options.get("seed", options.seed)
    first = own if isinstance(own, int) else 0
    comparisons = [
        (f"method {name}", name, first) for name in dict.fromkeys(options.methods) if name != explained.method
    ]
    comparisons += [(f"seed {first + step}", explained.method, first + step) for step in range(1, options.seeds + 1)]
    cluster, rows = clusters_of(explained.table), []
    for name, method, seed in comparisons:
        maps = explain_again(method, seed)
        agreements = agreement(explained.maps, maps, explained.segments, top=options.top, seed=options.seed)
        row: dict[str, object] = {"with": name}
        for what in ("rank", "overlap"):
            mean = mean_interval(agreements[what].to_numpy(), cluster, resamples=options.resamples, seed=options.seed)
            row |= {what: mean.value, f"{what}_low": mean.low, f"{what}_high": mean.high, "images": mean.images}
        row |= {"chance": float(agreements["chance"].mean()), "undefined": int(agreements["rank"].isna().sum())}
        rows.append(row)
    names = ["with", "rank", "rank_low", "rank_high", "overlap", "overlap_low", "overlap_high", "chance", "images"]
    return pd.DataFrame(rows, columns=[*names, "undefined"])


def _images(explained: ExplainedImages, tried: Curves, shares: Shares) -> pd.DataFrame:
    columns = [name for name in ("row", "path", "fold", "label", "predicted") if name in explained.table]
    table = explained.table[columns].reset_index(drop=True)
    table["explained_class"] = np.asarray(explained.classes, object)[explained.target]
    table["landmarks"] = alignable(explained.landmarks)
    curved = pd.DataFrame(
        {
            "deletion_area": tried.deletion_area,
            "insertion_area": tried.insertion_area,
            "random_area": tried.random_area.mean(axis=1),
        }
        | {
            f"{short}_{what}": getattr(baseline, what)
            for short, baseline in zip(("blob", "other_image"), tried.baselines, strict=True)
            for what in ("deletion_area", "insertion_area")
        },
        index=tried.rows,
    )
    names = [f"density {name}" for name in REGIONS]
    return pd.concat([table, curved.reindex(table.index), pd.DataFrame(shares.density, columns=names)], axis=1)


def constant_maps(maps: np.ndarray) -> int:
    """Return the number of constant maps."""
    return int((maps.max(axis=(1, 2)) <= maps.min(axis=(1, 2))).sum())


def correct_of(explained: ExplainedImages) -> Sequence[bool]:
    """Return whether each image was predicted correctly, bool (N,)."""
    return explained.table["label"].to_numpy(object) == explained.table["predicted"].to_numpy(object)
