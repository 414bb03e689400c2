"""Differences between cells on the reported images, or on a group of them, tested over images and training seeds.

With three or more seeds, both seeds and images are units of the test (`over_seeds`). With fewer, the predictions of all
seeds are stacked, with the rows of an image in one cluster: an interval or a test that resamples or exchanges whole
clusters has the mean over the seeds as its statistic, and covers only the choice of images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.groups import condition_mask
from records.bias.gaps import deal
from records.matching import matched
from records.predictions import classes_of
from records.significance import paired_permutation, seeds_t
from records.statistics import cluster_bootstrap, paired_difference, scores
from sweeps.studies.plan import ON, Metric

FEW = 3  # seeds, below which their spread says nothing
RECALL = "recall_"
_OF_CLASS = ("recall_", "f1_", "precision_")
_TIE = 1e-12
_DEALS = 9999


@dataclass(frozen=True)
class Tested:
    """A difference, second minus first, its 95 % interval, the p-value (None: nothing to test) and the test's name.

    With `by_seed`, seeds and images are both units, so the test generalises to other seeds and other images.
    """

    difference: float
    low: float
    high: float
    p_value: float | None
    name: str
    by_seed: bool = False


class LeftOut(NamedTuple):
    """Metrics of several runs on the images they share, and the same metrics without each cluster of images."""

    values: np.ndarray  # (T,) one per run
    without: np.ndarray  # (C, T) the same without each cluster


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
    return below_each_other([part_of(table, metric) for table in tables])


def below_each_other(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the prediction tables of several seeds as one, with rows of their own and clusters in common."""
    step = 1 + max((int(table["row"].max()) for table in tables if len(table)), default=0)
    return pd.concat([table.assign(row=table["row"] + step * i) for i, table in enumerate(tables)], ignore_index=True)


def left_out(tables: Sequence[pd.DataFrame], metrics: Sequence[Metric]) -> LeftOut | None:
    """Return metrics on the images that all tables share, and the same without each cluster of images.

    Args:
        tables: Prediction tables, one per run.
        metrics: Accuracy, macro F1, or recall, precision or F1 of a class, of a group or of all images; one per table.

    Returns:
        None for any other metric, or if there is no image of its group and class.
    """
    classes = [str(name) for name in classes_of(tables[0])]
    codes, count = pd.Index(classes), len(classes)
    tables = matched(tables)
    label = codes.get_indexer(pd.Index(tables[0]["label"].astype(str)))
    cluster, total = tables[0]["cluster"].to_numpy(), int(tables[0]["cluster"].max()) + 1
    values, without, used = [], [], np.zeros(total, bool)
    for table, metric in zip(tables, metrics, strict=True):
        plain, condition = split_metric(metric)
        kind, _, name = plain.partition("_") if plain.startswith(_OF_CLASS) and plain != "f1_macro" else (plain, "", "")
        if kind not in ("accuracy", "f1_macro") and name not in classes:
            return None
        inside = condition_mask(table, condition, "group") if condition else np.ones(len(table), bool)
        inside = np.asarray(inside, bool)
        if kind == "recall":
            inside = inside & (label == classes.index(name))
        if not inside.any():
            return None
        said = codes.get_indexer(pd.Index(table["predicted"].astype(str)))
        cell = (label * count + said)[inside]
        each = np.zeros((total, count * count), np.int32)
        np.add.at(each, (cluster[inside], cell), 1)
        whole = each.sum(axis=0)
        has = whole.reshape(count, count).sum(axis=1) > 0  # macro F1 of a group is over the classes that it has
        found = scores(np.concatenate([whole[None], whole - each]).reshape(-1, count, count))
        if kind == "f1_macro" and condition:
            found["f1_macro"] = found["f1"][:, has].mean(axis=1)
        value = found[kind][:, classes.index(name)] if name else found[kind]
        values.append(float(value[0]))
        without.append(value[1:])
        used[cluster[inside]] = True
    return LeftOut(np.array(values), np.stack(without, axis=1)[used])


def over_seeds(found: LeftOut) -> Tested:
    """Test a difference with seeds and images as units.

    Args:
        found: Metrics of the lower runs, one per seed, then of the higher runs of the same seeds.
    """
    seeds = len(found.values) // 2
    differences = found.values[seeds:] - found.values[:seeds]
    test, low, high = seeds_t(differences, found.without[:, seeds:] - found.without[:, :seeds])
    p_value = None if math.isnan(test.p_value) else test.p_value
    return Tested(test.difference, low, high, p_value, test.test, by_seed=True)


def paired(one: Sequence[pd.DataFrame], other: Sequence[pd.DataFrame], metric: Metric, seed: int = 0) -> Tested | None:
    """Test what `other` has more than `one`, on the same images; None where the group has none of the class.

    With three or more seeds, the seed is a unit of the test, too.

    Args:
        one: Prediction tables, one a seed.
        other: Those of the other cell, of the same seeds in the same order.
        metric: Accuracy or the recall of a class, of a group or of all.
        seed: Of the resamples.
    """
    before, after = stacked(one, metric), stacked(other, metric)
    if not len(before):
        return None
    if len(one) >= FEW and (shared := left_out([*one, *other], [metric] * 2 * len(one))):
        return over_seeds(shared)
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
    count = len(tables)
    if count >= FEW and (shared := left_out([*tables, *tables], [*[lower] * count, *[higher] * count])):
        return over_seeds(shared)
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
