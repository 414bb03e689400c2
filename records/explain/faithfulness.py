"""Whether an explanation is true: better than chance at deleting and inserting, and inside what is known to matter."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from records.explain.curves import Curves
from records.explain.explained import Explained
from records.explain.means import Mean, above_zero, mean_interval

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
    span = "" if math.isnan(one.gain.low) else f" ({one.gain.low:+.3f} to {one.gain.high:+.3f})"
    return f"{one.name} {one.gain.value:+.3f}{span}, {p_value}"
