"""Average precision of boxes with an interval: resampling pictures needs it thousands of times, so not torchmetrics'.

The numbers are COCO's, which the tests hold against torchmetrics and against cases worked out by hand.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.faces.boxes import overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_SAME = 1e-12  # differences of sums in another order


class Picture(NamedTuple):
    """What is needed of one picture, whatever others it is counted with."""

    scores: np.ndarray  # (F,)
    hits: np.ndarray  # (10, F) bool: the box is that of a face no better box has, at each threshold
    faces: int


def match(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> Picture:
    """Give each true box (M, 4) to the surest box (F, 4) that overlaps it enough: best overlap among the free ones."""
    order = np.argsort(-scores, kind="stable")
    common = overlaps(boxes[order], truth)  # (F, M)
    hits = np.zeros((len(THRESHOLDS), len(order)), bool)
    if len(truth):
        for at, threshold in enumerate(THRESHOLDS):
            free = np.ones(len(truth), bool)
            for place, row in enumerate(common):
                best = int(np.where(free, row, -1.0).argmax())
                if free[best] and row[best] >= threshold:
                    hits[at, place], free[best] = True, False
    return Picture(scores[order], hits, len(truth))


def average_precision(pictures: list[Picture]) -> np.ndarray:
    """Return the average precision (10,) at each overlap of THRESHOLDS; NaN where no picture has a face.

    Precision at a recall is the best at that recall or beyond; it is averaged over 101 recalls from 0 to 1.
    """
    faces = sum(picture.faces for picture in pictures)
    if not faces:
        return np.full(len(THRESHOLDS), np.nan)
    order = np.argsort(-np.concatenate([picture.scores for picture in pictures]), kind="stable")
    hits = np.concatenate([picture.hits for picture in pictures], axis=1)[:, order].cumsum(1)  # (10, F)
    recall = hits / faces
    precision = hits / np.arange(1, hits.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # beyond the highest recall
    at = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])  # (10, 101)
    return np.take_along_axis(precision, at, axis=1).mean(1)


def intervals(pictures: list[Picture], *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return ``metric`` (map_50, map), ``value``, ``low``, ``high``: 95 % percentile bootstrap over pictures."""
    values = _pair(average_precision(pictures))
    drawn = np.array(list(_resampled([pictures], resamples, seed)))[:, 0]  # (R, 2)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return pd.DataFrame({"metric": ["map_50", "map"], "value": values, "low": low, "high": high})


def difference(before: list[Picture], after: list[Picture], *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return after - before as :func:`intervals` does, the same pictures drawn for both, in the same order.

    Raises:
        InputError: the two are not of the same pictures.
    """
    if [picture.faces for picture in before] != [picture.faces for picture in after]:
        msg = f"before and after must be of the same pictures, got {len(before)} and {len(after)} of other faces"
        raise InputError(msg)
    values = _pair(average_precision(after)) - _pair(average_precision(before))
    drawn = np.array(list(_resampled([before, after], resamples, seed)))  # (R, 2, 2)
    low, high = np.nanquantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975], axis=0)
    return pd.DataFrame({"metric": ["map_50", "map"], "value": values, "low": low, "high": high})


def permutation(before: list[Picture], after: list[Picture], *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Return the two-sided p-values (2,) of map_50 and map: at random, pictures swap what was found before and after.

    Raises:
        InputError: the two are not of the same pictures.
    """
    seen = np.abs(difference(before, after, resamples=1)["value"].to_numpy())
    generator = np.random.default_rng(seed)
    as_far = np.ones(2)  # what was seen is one of the possible ways
    for _ in range(resamples):
        swaps = generator.random(len(before)) < 0.5
        one, other = (
            [pair[int(swap) ^ side] for pair, swap in zip(zip(before, after, strict=True), swaps, strict=True)]
            for side in (0, 1)
        )
        drawn = _pair(average_precision(other)) - _pair(average_precision(one))
        as_far += np.abs(drawn) >= seen - _SAME
    return as_far / (resamples + 1)


def _pair(precisions: np.ndarray) -> np.ndarray:
    return np.array([precisions[0], precisions.mean()])


def _resampled(sets: list[list[Picture]], resamples: int, seed: int) -> Iterator[list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        rows = generator.integers(len(sets[0]), size=len(sets[0]))
        yield [_pair(average_precision([pictures[row] for row in rows])) for pictures in sets]
