"""Whether an explanation is true: better than chance at deleting and inserting, and inside what is known to matter."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm import tqdm

from datamodules.errors import InputError
from emotion.explanation.methods import EVERYBODY, ExplainAgain, Explained, Probabilities
from emotion.explanation.regions import REGIONS, Shares, known, shares_of
from emotion.explanation.superpixels import FILLS, Fill, filled
from results.bias.gaps import units_of
from results.bias.groups import Grouping, groupings
from results.reports.tables import interval, signed
from results.significance import holm


def numbered(segments: np.ndarray) -> np.ndarray:
    """Return the segments of one image numbered from 0 without gaps, int (H, W)."""
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape)


def segment_sums(picture: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the sum of a map (H, W) over each segment, (S,): its importance; segments are numbered without gaps."""
    return np.bincount(segments.ravel(), weights=picture.ravel().astype(np.float64))


def segment_means(picture: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the mean of a map (H, W) over each segment, (S,): its importance for its size."""
    return segment_sums(picture, segments) / np.bincount(segments.ravel())


def descending(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the segments from the most important on; equal ones in random order, so that no order is made up."""
    return np.lexsort((generator.random(len(values)), -values))


def marked(picture: np.ndarray, segments: np.ndarray, top: int) -> np.ndarray:
    """Return the pixels of the `top` segments that speak most for the class, bool (H, W), at most half of them."""
    segments = numbered(segments)
    values = segment_sums(picture, segments)
    chosen = descending(values, np.random.default_rng(0))[: max(1, min(top, len(values) // 2))]
    chosen = chosen[values[chosen] > 0]
    return np.isin(segments, chosen)


_GRID = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Curves:
    """Curves of the images that were tried.

    Attributes:
        rows: (n,) their rows of the table.
        fill: What stands where a superpixel went.
        grid: (G,) share of pixels that went (deletion) or came (insertion).
        deletion: (n, G) probability of the explained class.
        insertion: (n, G).
        random: (n, G) deletion in random orders, averaged; read backwards it is insertion.
        deletion_area: (n,) area under the curve; low is good.
        insertion_area: (n,) high is good.
        random_area: (n, draws).
        passes: Images shown to the network.
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
    passes: int


def other_fill(explained: Explained, wanted: str = "auto") -> Fill:
    """Return a fill that the explainer did not use itself, so that the curves do not repeat its own question.

    Raises:
        InputError: The one wanted is unknown, or the explainer's own.
    """
    own = str(explained.options.get("fill", ""))
    if wanted == "auto":
        return "mean" if own == "blur" else "blur"
    if wanted == own:
        msg = f"fill: curves need another fill than the explainer's own, got {wanted} for both; take auto."
        raise InputError(msg)
    for fill in FILLS:
        if fill == wanted:
            return fill
    msg = f"fill: one of auto, {', '.join(FILLS)}, got {wanted!r}."
    raise InputError(msg)


def curves(
    explained: Explained,
    probabilities: Probabilities,
    *,
    fill: Fill = "blur",
    steps: int = 20,
    draws: int = 5,
    batch: int = 256,
    images: int = 200,
    seed: int = 0,
) -> Curves:
    """Delete and insert superpixels in the order of the maps and in random orders.

    Args:
        explained: The images and their maps.
        probabilities: The networks.
        fill: What stands where a superpixel went.
        steps: In how many steps all superpixels go.
        draws: Random orders an image.
        batch: Images shown at once.
        images: At most so many are tried, drawn at random.
        seed: Of that draw, and of the random orders.
    """
    for name, value in (("steps", steps), ("draws", draws), ("batch", batch), ("images", images)):
        if value < 1:
            msg = f"{name}: must be at least 1, got {value}."
            raise InputError(msg)
    rows = np.arange(len(explained))
    if len(rows) > images:
        rows = np.sort(np.random.default_rng(seed).choice(rows, images, replace=False))
    folds = explained.table["fold"].to_numpy()[rows] if "fold" in explained.table else np.zeros(len(rows))
    jobs = [_Job(explained, int(row), fill, steps, draws, seed) for row in rows[np.argsort(folds, kind="stable")]]
    for job, answer in _answered(jobs, probabilities, batch):
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
        passes=sum(job.size for job in jobs),
    )


class _Job:
    """One image: the images to show, and the curves that the answers make."""

    def __init__(self, explained: Explained, row: int, fill: Fill, steps: int, draws: int, seed: int) -> None:
        self.row, self.target = row, int(explained.target[row])
        self._image = explained.images[row]
        self._segments = numbered(explained.segments[row])
        self._base = filled(self._image, self._segments, fill)
        generator = np.random.default_rng([seed, row])
        order = descending(segment_means(explained.maps[row], self._segments), generator)
        self._orders = [order, order[::-1], *(generator.permutation(len(order)) for _ in range(draws))]
        self._cuts = np.unique(np.linspace(0, len(order), steps + 1).round().astype(int))
        self._sizes = np.bincount(self._segments.ravel())
        self.size = 2 + len(self._orders) * (len(self._cuts) - 2)
        self.deletion = self.insertion = self.random = np.zeros(len(_GRID))
        self.deletion_area = self.insertion_area = 0.0
        self.random_area = np.zeros(draws)

    def pictures(self) -> np.ndarray:
        """Return the whole image, the empty one, then those of each order between them."""
        gone = [np.zeros(self._segments.shape, bool), np.ones(self._segments.shape, bool)]
        for order in self._orders:
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            gone += [rank[self._segments] < cut for cut in self._cuts[1:-1]]
        return np.where(np.stack(gone)[..., None], self._base, self._image)

    def read(self, answer: np.ndarray) -> None:
        """Take the probabilities (size, K) of the images."""
        said = answer[:, self.target].astype(np.float64)
        between = said[2:].reshape(len(self._orders), -1)
        ends = np.broadcast_to(said[:2], (len(self._orders), 2))
        heights = np.concatenate([ends[:, :1], between, ends[:, 1:]], axis=1)
        share = np.stack([np.append(0, self._sizes[order].cumsum())[self._cuts] for order in self._orders])
        share = share / self._sizes.sum()
        areas = np.trapezoid(heights, share, axis=1)
        drawn = np.stack([np.interp(_GRID, x, y) for x, y in zip(share, heights, strict=True)])
        self.deletion_area, self.insertion_area, self.random_area = float(areas[0]), float(areas[1]), areas[2:]
        # the least important go first: what is left came last, so backwards it is insertion
        self.deletion, self.insertion, self.random = drawn[0], drawn[1][::-1], drawn[2:].mean(axis=0)


def _answered(jobs: list[_Job], probabilities: Probabilities, batch: int) -> Iterator[tuple[_Job, np.ndarray]]:
    """Show the images of all jobs in batches; a batch may hold several images."""
    waiting: list[tuple[_Job, np.ndarray]] = []
    for job in tqdm(jobs, desc="deleting and inserting", unit="image", disable=None):
        waiting.append((job, job.pictures()))
        if sum(len(pictures) for _, pictures in waiting) >= batch or job is jobs[-1]:
            shown = np.concatenate([pictures for _, pictures in waiting])
            rows = np.concatenate([np.full(len(pictures), one.row, np.int64) for one, pictures in waiting])
            parts = [slice(start, start + batch) for start in range(0, len(shown), batch)]
            answer = np.concatenate([probabilities(shown[part], rows[part]) for part in parts])
            start = 0
            for one, pictures in waiting:
                yield one, answer[start : start + len(pictures)]
                start += len(pictures)
            waiting = []


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
    has images of both sides, among its images of one class (`results.bias.gaps`).

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


LEVEL = 0.05
RULE = (
    "An explanation holds if superpixels taken away in its order lower the probability faster than in random orders, "
    "and superpixels put back in its order raise it faster, each with p < .05 (one-sided, whole clusters of images "
    "turned); if either is not shown, it fails."
)


@dataclass(frozen=True)
class Better:
    """By how much the maps do better than chance in one respect, over images.

    Attributes:
        name: deletion, insertion, inside or pointing.
        value: Mean of the maps.
        chance: Mean of what chance gives.
        gain: Mean of what the maps do better; above 0 is good.
        p_value: One-sided, of a gain above 0; NaN where nothing can be said.
        few: So few clusters that no p below .05 is possible.
    """

    name: str
    value: Mean
    chance: Mean
    gain: Mean
    p_value: float

    @property
    def few(self) -> bool:
        """Whether so few clusters are there that no p-value can be below the level."""
        return 0.5**self.gain.clusters >= LEVEL

    @property
    def shown(self) -> bool:
        """Whether the maps are better than chance."""
        return self.p_value < LEVEL  # False for NaN


def clusters_of(table: pd.DataFrame) -> np.ndarray:
    """Return the cluster of each image; each its own where the table tells none."""
    return table["cluster"].to_numpy() if "cluster" in table else np.arange(len(table))


def against_random(
    table: pd.DataFrame, found: Curves, *, resamples: int = 2000, permutations: int = 9999, seed: int = 0
) -> tuple[Better, Better]:
    """Return deletion and insertion against random orders of the same superpixels, paired by image."""
    cluster = clusters_of(table)[found.rows]
    random = found.random_area.mean(axis=1)
    settings = {"resamples": resamples, "permutations": permutations, "seed": seed}
    return (
        _better("deletion", found.deletion_area, random, random - found.deletion_area, cluster, **settings),
        _better("insertion", found.insertion_area, random, found.insertion_area - random, cluster, **settings),
    )


def against_masks(
    explained: Explained, *, resamples: int = 2000, permutations: int = 9999, seed: int = 0
) -> tuple[Better, Better] | None:
    """Return how much lies inside the pixels known to carry the emotion; None where they are unknown.

    `inside`: share of the positive importance inside over share of area, image by image; chance is 1. `pointing`
    (Zhang et al. 2016): whether the highest pixel lies inside, or the share of them where several are equally high;
    chance is the share of area. A map without a positive pixel, or the same everywhere, says nothing.
    """
    if explained.masks is None:
        return None
    inside, pointing, area = (np.full(len(explained), np.nan) for _ in range(3))
    for i, (one, mask) in enumerate(zip(explained.maps, explained.masks, strict=True)):
        if not mask.any():
            continue
        area[i] = mask.mean()
        if one.max() <= max(float(one.min()), 0.0):
            continue
        positive = np.clip(one.astype(np.float64), 0, None)
        inside[i] = positive[mask].sum() / positive.sum() / area[i]
        pointing[i] = mask[one == one.max()].mean()
    cluster = clusters_of(explained.table)
    settings = {"resamples": resamples, "permutations": permutations, "seed": seed}
    ones = np.where(np.isfinite(inside), 1.0, np.nan)
    return (
        _better("inside", inside, ones, inside - 1, cluster, **settings),
        _better(
            "pointing", pointing, np.where(np.isfinite(pointing), area, np.nan), pointing - area, cluster, **settings
        ),
    )


def _better(
    name: str,
    value: np.ndarray,
    chance: np.ndarray,
    gain: np.ndarray,
    cluster: np.ndarray,
    *,
    resamples: int,
    permutations: int,
    seed: int,
) -> Better:
    mean, by_chance, better = (
        mean_interval(one, cluster, resamples=resamples, seed=seed) for one in (value, chance, gain)
    )
    return Better(name, mean, by_chance, better, above_zero(gain, cluster, permutations=permutations, seed=seed))


def verdict(deletion: Better, insertion: Better) -> tuple[bool, str]:
    """Return whether an explanation holds, and the sentence that a report begins with."""
    said = {one.name: _said(one) for one in (deletion, insertion)}
    images = f"{deletion.gain.images} image{'s' if deletion.gain.images != 1 else ''}"
    if deletion.shown and insertion.shown:
        return True, f"HOLDS against random superpixels ({images}); gain: {said['deletion']}; {said['insertion']}."
    if deletion.few:
        count = deletion.gain.clusters
        need = math.floor(math.log(LEVEL, 0.5)) + 1
        return False, (
            f"FAILS the random baseline, for too few images were tried ({count} cluster{'s' if count != 1 else ''}, "
            f"p < .05 needs at least {need}); gain: {said['deletion']}; {said['insertion']}."
        )
    failed = " and ".join(one.name for one in (deletion, insertion) if not one.shown)
    return False, (
        f"FAILS the random baseline: {failed} not better than random superpixels ({images}); gain: "
        f"{said['deletion']}; {said['insertion']}."
    )


def _said(one: Better) -> str:
    p_value = "p < .001" if one.p_value < 0.001 else f"p = {one.p_value:.3f}"
    limits = interval(one.gain.low, one.gain.high, sign=True)
    return f"{one.name} {signed(one.gain.value)}{f' ({limits})' if limits else ''}, {p_value}"


def agreement(one: np.ndarray, two: np.ndarray, segments: np.ndarray, *, top: int = 5, seed: int = 0) -> pd.DataFrame:
    """Compare maps (N, H, W) by what they say of each superpixel, for its size: by sums large ones alone would agree.

    Returns:
        One row an image: `rank` (Spearman's correlation), `overlap` (share of the `top` most important superpixels
        that both name) and `chance` (the overlap of two random choices). NaN where a map says the same of all of them.
    """
    generator = np.random.default_rng(seed)
    found = []
    for first, second, parts in zip(one, two, segments, strict=True):
        parts = numbered(parts)
        values = [segment_means(picture, parts) for picture in (first, second)]
        count, size = len(values[0]), min(top, len(values[0]))
        if any(np.ptp(value) <= 1e-12 * np.abs(value).max() for value in values):
            found.append((np.nan, np.nan, np.nan))
            continue
        chosen = [set(descending(value, generator)[:size].tolist()) for value in values]
        rank = float(spearmanr(*values).statistic)
        found.append((rank, len(chosen[0] & chosen[1]) / size, size / count))
    return pd.DataFrame(found, columns=["rank", "overlap", "chance"])


ALL_CLASSES = ""


def region_table(
    explained: Explained,
    shares: Shares,
    by: Sequence[Grouping],
    *,
    importance: str,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what lies on each region in correctly answered images.

    Returns:
        One row a grouping, group, class and region: `importance`, `by` and `group` ("" for all images), `class` ("" for
        all classes), `region`, `images`, `clusters`, `share`, `share_low`, `share_high`, `area`, `density`,
        `density_low`, `density_high`. Cells without any image are left out.
    """
    table, cluster = explained.table, clusters_of(explained.table)
    label = table["label"].to_numpy(object)
    usable = (label == table["predicted"].to_numpy(object)) & np.isfinite(shares.share).all(axis=1)
    sets = [("", EVERYBODY, np.ones(len(table), bool))]
    for one in by:
        group = one.of(table)
        sets += [(one.name, name, group == name) for name in one.groups]
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
    explained: Explained,
    shares: Shares,
    by: Sequence[Grouping],
    *,
    permutations: int = 9999,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether density on a region differs between a group and all others, within classes.

    Of two groups, the first is tested against the second. Images of no known group are left out, and so is a mixture of
    rare groups as a group of its own.

    Returns:
        One row a grouping, group and region: `by`, `group`, `others`, `region`, `difference`, `low`, `high`,
        `p_value`, `p_holm` (over the groups and regions of a grouping), `images`, `other_images`.
    """
    table, cluster = explained.table, clusters_of(explained.table)
    label = table["label"].to_numpy(object)
    right = label == table["predicted"].to_numpy(object)
    stratum = pd.Index(explained.classes).get_indexer(pd.Index(label))
    settings = {"permutations": permutations, "resamples": resamples, "seed": seed}
    found = []
    for one in by:
        group = one.of(table)
        ranked = [name for name in one.groups if not one.is_mixture(name)]
        tested = ranked[:1] if len(one.groups) == 2 else ranked
        rows = []
        for name in tested if len(one.groups) > 1 else []:
            others = next((other for other in one.groups if other != name), "") if len(one.groups) == 2 else "others"
            used = right & (group != "")
            for number, region in enumerate(REGIONS):
                answer = group_difference(
                    shares.density[used, number], group[used] == name, cluster[used], stratum[used], **settings
                )
                rows.append((one.name, name, others, region, answer.value, answer.low, answer.high, answer.p_value,
                             np.nan, answer.inside, answer.outside))  # fmt: skip
        names = ["by", "group", "others", "region", "difference", "low", "high", "p_value", "p_holm", "images",
                 "other_images"]  # fmt: skip
        part = pd.DataFrame(rows, columns=names)
        said = part["p_value"].notna()
        if said.any():
            part.loc[said, "p_holm"] = holm(part.loc[said, "p_value"].tolist())
        found.append(part)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows and how it is computed.

    Attributes:
        by: Columns of the table, or several joined by `+` for their crossing, that images are grouped by.
        n: Correctly answered images that are laid on each other, for each class and group.
        top: Superpixels that an image marks in the overlays, and that agreement compares.
        fill: What stands where a superpixel went in the curves; auto takes one that the explainer did not use.
        steps: Steps of a curve.
        draws: Random orders an image.
        curve_images: At most so many images get curves.
        batch: Images shown to the network at once.
        methods: Other methods to compare with.
        seeds: How often the method is repeated with another seed.
        resamples: Of the intervals.
        permutations: Of the tests.
        seed: Of everything drawn here.
        title: Of the report.
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
class Found:
    """What was measured.

    Attributes:
        by: The groupings.
        curves: Deletion and insertion, image by image.
        deletion: Against random orders.
        insertion: Against random orders.
        masks: `inside` and `pointing`, where it is known what matters.
        agreements: One row a comparison: `with`, `rank`, `overlap` with `_low` and `_high`, `chance`, `images`,
            `undefined`.
        shares: On regions, of the positive importance.
        regions: What `region_table` gave, for positive and absolute importance.
        differences: What `group_table` gave for the positive importance.
        images: One row an image.
    """

    by: tuple[Grouping, ...]
    curves: Curves
    deletion: Better
    insertion: Better
    masks: tuple[Better, Better] | None
    agreements: pd.DataFrame
    shares: Shares
    regions: pd.DataFrame
    differences: pd.DataFrame
    images: pd.DataFrame


def check(explained: Explained, options: ReportOptions) -> tuple[Grouping, ...]:
    """Return the groupings; what cannot be reported is refused before anything is computed.

    Raises:
        InputError: No image, maps that are not finite, an option out of range, or a column that cannot group.
    """
    if not len(explained):
        msg = "images: nothing was explained, so there is nothing to report; choose at least one image."
        raise InputError(msg)
    if not np.isfinite(explained.maps).all():
        msg = f"maps: must be finite, those of {explained.method} are not; a network that diverged does this."
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
    explained: Explained, probabilities: Probabilities, explain_again: ExplainAgain, options: ReportOptions
) -> Found:
    """Measure whether maps are true, stable and agreed on, and where they lie."""
    by = check(explained, options)
    drawn = {"resamples": options.resamples, "seed": options.seed}
    tests = {**drawn, "permutations": options.permutations}
    found = curves(
        explained,
        probabilities,
        fill=other_fill(explained, options.fill),
        steps=options.steps,
        draws=options.draws,
        batch=options.batch,
        images=options.curve_images,
        seed=options.seed,
    )
    deletion, insertion = against_random(explained.table, found, **tests)
    shares = shares_of(explained.maps, explained.landmarks)
    absolute = shares_of(explained.maps, explained.landmarks, absolute=True)
    regions = [
        region_table(explained, one, by, importance=name, **drawn)
        for name, one in (("positive", shares), ("absolute", absolute))
    ]
    return Found(
        by,
        found,
        deletion,
        insertion,
        against_masks(explained, **tests),
        _agreements(explained, explain_again, options),
        shares,
        pd.concat(regions, ignore_index=True),
        group_table(explained, shares, by, **tests),
        _images(explained, found, shares),
    )


def _agreements(explained: Explained, explain_again: ExplainAgain, options: ReportOptions) -> pd.DataFrame:
    """Compare with other methods, and with other seeds of the same method."""
    own = explained.options.get("seed", 0)
    first = own if isinstance(own, int) else 0
    asked = [(f"method {name}", name, first) for name in dict.fromkeys(options.methods) if name != explained.method]
    asked += [(f"seed {first + step}", explained.method, first + step) for step in range(1, options.seeds + 1)]
    cluster, rows = clusters_of(explained.table), []
    for said, method, seed in asked:
        maps = explain_again(method, seed)
        found = agreement(explained.maps, maps, explained.segments, top=options.top, seed=options.seed)
        row: dict[str, object] = {"with": said}
        for what in ("rank", "overlap"):
            mean = mean_interval(found[what].to_numpy(), cluster, resamples=options.resamples, seed=options.seed)
            row |= {what: mean.value, f"{what}_low": mean.low, f"{what}_high": mean.high, "images": mean.images}
        row |= {"chance": float(found["chance"].mean()), "undefined": int(found["rank"].isna().sum())}
        rows.append(row)
    names = ["with", "rank", "rank_low", "rank_high", "overlap", "overlap_low", "overlap_high", "chance", "images"]
    return pd.DataFrame(rows, columns=[*names, "undefined"])


def _images(explained: Explained, found: Curves, shares: Shares) -> pd.DataFrame:
    kept = [name for name in ("row", "path", "fold", "label", "predicted") if name in explained.table]
    table = explained.table[kept].reset_index(drop=True)
    table["explained_class"] = np.asarray(explained.classes, object)[explained.target]
    table["landmarks"] = known(explained.landmarks)
    curved = pd.DataFrame(
        {
            "deletion_area": found.deletion_area,
            "insertion_area": found.insertion_area,
            "random_area": found.random_area.mean(axis=1),
        },
        index=found.rows,
    )
    names = [f"density {name}" for name in REGIONS]
    return pd.concat([table, curved.reindex(table.index), pd.DataFrame(shares.density, columns=names)], axis=1)


def constant_maps(maps: np.ndarray) -> int:
    """Return how many maps say the same everywhere."""
    return int((maps.max(axis=(1, 2)) <= maps.min(axis=(1, 2))).sum())


def correct_of(explained: Explained) -> Sequence[bool]:
    """Return whether each image was answered correctly, bool (N,)."""
    return explained.table["label"].to_numpy(object) == explained.table["predicted"].to_numpy(object)
