"""What cells differ by on a group of the reported images: image by image, all seeds together.

The predictions of all seeds stand below each other, with the seeds' rows of an image in one cluster. So an interval or
a test that resamples or exchanges whole clusters has the mean over the seeds as its statistic, and speaks of the choice
of images; how far the seeds lie apart stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.groups import condition_mask
from records.bias.gaps import deal
from records.predictions import classes_of
from records.significance import paired_permutation
from records.statistics import cluster_bootstrap, paired_difference, scores
from sweeps.studies.plan import ON, Metric

RECALL = "recall_"
_TIE = 1e-12
_DEALS = 9999


@dataclass(frozen=True)
class Tested:
    """A difference, second minus first, its 95 % interval, the p-value (None: nothing to test) and the test's name."""

    difference: float
    low: float
    high: float
    p_value: float | None
    name: str


def split_metric(metric: Metric) -> tuple[Metric, str]:
    """Return the metric and the condition of ``accuracy on age=child``; the latter is empty for all images."""
    plain, _, condition = metric.partition(ON)
    return plain, condition


def part_of(predictions: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the rows of a prediction table that a metric is about: those of its group, and of its class for recall.

    Raises:
        InputError: The table has no such group, or a metric that is neither accuracy nor recall is asked for.
    """
    plain, condition = split_metric(metric)
    if condition:
        predictions = predictions[condition_mask(predictions, condition, "group")]
    if plain.startswith(RECALL):
        predictions = predictions[predictions["label"] == plain.removeprefix(RECALL)]
    elif plain != "accuracy":
        msg = f"metric: image by image accuracy and recall_<class> are compared, got {metric!r}"
        raise InputError(msg)
    return predictions


def stacked(tables: Sequence[pd.DataFrame], metric: Metric) -> pd.DataFrame:
    """Return what `part_of` keeps of the tables of all seeds, one below the other, with rows of their own."""
    step = 1 + max(int(table["row"].max()) for table in tables)
    parts = [part_of(table, metric) for table in tables]
    return pd.concat([part.assign(row=part["row"] + step * i) for i, part in enumerate(parts)], ignore_index=True)


def paired(one: Sequence[pd.DataFrame], other: Sequence[pd.DataFrame], metric: Metric, seed: int = 0) -> Tested | None:
    """Test what `other` has more than `one`, on the same images; None where the group has none of the class.

    Args:
        one: Prediction tables, one a seed.
        other: Those of the other cell, of the same seeds in the same order.
        metric: Accuracy or the recall of a class, of a group or of all.
        seed: Of the resamples.
    """
    before, after = stacked(one, metric), stacked(other, metric)
    if not len(before):
        return None
    classes = classes_of(before)
    found = paired_permutation(before, after, classes, metric="accuracy", seed=seed)
    table = paired_difference(before, after, classes, seed=seed)
    row = table[table["metric"] == "accuracy"].iloc[0]
    return Tested(found.difference, float(row["low"]), float(row["high"]), found.p_value, _said("paired", one))


def between(tables: Sequence[pd.DataFrame], lower: Metric, higher: Metric, seed: int = 0) -> Tested:
    """Test what one group has more than another in the same runs, whose images differ.

    Names of the groups are dealt anew among clusters of one class. The interval joins those of the two groups (Zou and
    Donner 2008), which are independent.
    """
    groups = [stacked(tables, metric).assign(group=name) for name, metric in (("lower", lower), ("higher", higher))]
    both = pd.concat(groups, ignore_index=True)
    classes = classes_of(both)
    dealt = deal(both, both["group"].to_numpy(object), ["lower", "higher"], classes, permutations=_DEALS, seed=seed)
    seen, drawn = (scores(counts)["accuracy"] for counts in (dealt.observed, dealt.deals))
    difference = float(seen[1] - seen[0])
    reached = int((np.abs(drawn[:, 1] - drawn[:, 0]) >= abs(difference) - _TIE).sum())
    (v0, l0, h0), (v1, l1, h1) = (_interval(group, classes, seed) for group in groups)
    low = difference - float(np.hypot(v1 - l1, h0 - v0))
    high = difference + float(np.hypot(h1 - v1, v0 - l0))
    return Tested(difference, low, high, (reached + 1) / (_DEALS + 1), _said("groups dealt anew", tables))


def value(predictions: pd.DataFrame, metric: Metric) -> tuple[float, float, float]:
    """Return a metric of a group in one run, with its interval; not a number where the group has none of the class."""
    plain, condition = split_metric(metric)
    if plain == "f1_macro":
        held = predictions[condition_mask(predictions, condition, "group")]
        return _macro(held)
    held = part_of(predictions, metric)
    return _interval(held, classes_of(held), 0) if len(held) else (np.nan, np.nan, np.nan)


def _macro(held: pd.DataFrame) -> tuple[float, float, float]:
    """Return macro F1 over the classes that have images here."""
    classes = [name for name in classes_of(held) if (held["label"] == name).any()]
    table = cluster_bootstrap(held, classes_of(held))
    f1 = table[(table["metric"] == "f1") & table["class"].isin(classes)]["value"].mean()
    if len(classes) == len(classes_of(held)):
        row = table[table["metric"] == "f1_macro"].iloc[0]
        return float(row["value"]), float(row["low"]), float(row["high"])
    return float(f1), np.nan, np.nan


def _interval(held: pd.DataFrame, classes: Sequence[str], seed: int) -> tuple[float, float, float]:
    table = cluster_bootstrap(held, classes, seed=seed)
    row = table[table["metric"] == "accuracy"].iloc[0]
    return float(row["value"]), float(row["low"]), float(row["high"])


def _said(how: str, tables: Sequence[pd.DataFrame]) -> str:
    seeds = f", {len(tables)} seeds together" if len(tables) > 1 else ""
    return f"image by image, {how}{seeds}"
