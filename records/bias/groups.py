"""How good the predictions are in each group, and in each class of each group, with intervals.

Values come from fairlearn's MetricFrame. Intervals come from the cluster bootstrap within a group; where all images of
a cell are right, or all wrong, that has no width, and Wilson's interval stands instead, of as many trials as there are
clusters, since images of one cluster are not independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from records.bias.columns import Grouping
from records.statistics import FEW_CLUSTERS, cluster_bootstrap

MINIMUM = 30  # images; a smaller group is marked and never ranked
LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """One grouping and its numbers.

    Attributes:
        grouping: What the images are grouped by.
        by_group: One row a group: group, images, clusters, correct, `accuracy` and `f1_macro` with `_low` and `_high`,
            classes (that the group has images of), ranked, few_clusters.
        by_class: One row a group and class: group, class, images, clusters, correct, predicted, `recall`, `precision`
            and `f1` with `_low` and `_high` (NaN where a class has no image), few_clusters.
        unknown: Images that are in no group.
    """

    grouping: Grouping
    by_group: pd.DataFrame
    by_class: pd.DataFrame
    unknown: int

    @property
    def ranked(self) -> list[str]:
        """The groups that are compared."""
        return [str(name) for name in self.by_group.loc[self.by_group["ranked"], "group"]]


def measure(
    table: pd.DataFrame,
    grouping: Grouping,
    classes: Sequence[str],
    said: Sequence[str],
    *,
    minimum: int = MINIMUM,
    resamples: int = 2000,
    seed: int = 0,
) -> Measured:
    """Return the numbers of each group.

    Macro F1 of a group is the mean over the classes that the group has images of: a class that it lacks is neither
    right nor wrong in it. F1 of a class is twice the correct images over its images plus the times it was predicted, so
    that of a class that is never predicted is 0, and its precision is not defined (NaN).

    Args:
        table: A prediction table.
        grouping: What to group by.
        classes: Classes that count.
        said: All classes that predictions are of.
        minimum: Images that a group needs to be ranked.
        resamples: Of the cluster bootstrap.
        seed: Of the cluster bootstrap.
    """
    of = grouping.of(table)
    known = table.assign(group=of)[of != ""]
    frame = _frame(known, classes)
    by_group, by_class = [], []
    for name in grouping.groups:
        part = known[known["group"] == name]
        spread = cluster_bootstrap(part, said, resamples=resamples, level=LEVEL, seed=seed)
        value = frame.loc[name]
        held = part["label"].nunique()
        row: dict[str, object] = {"group": name, "images": len(part), "clusters": part["cluster"].nunique()}
        row |= {"correct": int((part["label"] == part["predicted"]).sum())}
        # every class counts in the bootstrap's mean, those without images as 0
        for metric, times in (("accuracy", 1.0), ("f1_macro", len(said) / held)):
            one = spread[spread["metric"] == metric].iloc[0]
            ends = _ends(value[metric], one["low"] * times, one["high"] * times, one["clusters"])
            row |= _three(metric, value[metric], ends)
        ranked = len(part) >= minimum and not grouping.is_mixture(name)
        few = row["clusters"] < FEW_CLUSTERS  # type: ignore[operator]
        by_group.append(row | {"classes": held, "ranked": ranked, "few_clusters": few})
        by_class += [_class_row(part, name, number, one, value, spread) for number, one in enumerate(classes)]
    return Measured(grouping, pd.DataFrame(by_group), pd.DataFrame(by_class), int((of == "").sum()))


def _frame(known: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return fairlearn's metrics by group: accuracy, f1_macro, and (metric, class) for each class."""

    def macro(true: np.ndarray, said: np.ndarray) -> float:
        return float(f1_score(true, said, labels=np.unique(true), average="macro", zero_division=0))

    metrics: dict[str, Callable] = {"accuracy": accuracy_score, "f1_macro": macro}
    for number in range(len(classes)):
        for name, function, empty in (
            ("recall", recall_score, np.nan),
            ("precision", precision_score, np.nan),
            ("f1", f1_score, 0.0),
        ):
            metrics[f"{name} {number}"] = _of_class(function, number, empty)
    # numbers, since a label may be any text
    codes = {one: number for number, one in enumerate(classes)}
    true, said = (
        known[column].map(lambda one: codes.get(one, len(codes))).to_numpy() for column in ("label", "predicted")
    )
    found = MetricFrame(
        metrics=metrics, y_true=true, y_pred=said, sensitive_features=known["group"].to_numpy()
    ).by_group
    return found.astype(np.float64)


def _of_class(function: Callable, number: int, empty: float) -> Callable[[np.ndarray, np.ndarray], float]:
    def metric(true: np.ndarray, said: np.ndarray) -> float:
        if number not in true:  # no image of the class
            return np.nan
        return float(function(true, said, labels=[number], average=None, zero_division=empty)[0])

    return metric


def _class_row(
    part: pd.DataFrame, group: str, number: int, name: str, value: pd.Series, spread: pd.DataFrame
) -> dict[str, object]:
    own = spread[spread["class"] == name].set_index("metric")
    inside = part["label"] == name
    images, predicted = int(inside.sum()), int((part["predicted"] == name).sum())
    correct, clusters = int((inside & (part["predicted"] == name)).sum()), int(own.loc["recall", "clusters"])
    row: dict[str, object] = {"group": group, "class": name, "images": images, "clusters": clusters}
    row |= {"correct": correct, "predicted": predicted}
    for metric in ("recall", "precision", "f1"):
        said = part.loc[part["predicted"] == name, "cluster"].nunique()
        trials = said if metric == "precision" else clusters
        ends = _ends(value[f"{metric} {number}"], own.loc[metric, "low"], own.loc[metric, "high"], trials)
        if metric == "f1" and images and not correct:  # the most correct ones there may be, over what there is
            ends = (0.0, min(1.0, 2 * images * ends[1] / (images + predicted)))
        row |= _three(metric, value[f"{metric} {number}"], ends)
    return row | {"few_clusters": clusters < FEW_CLUSTERS}


def _ends(value: float, low: float, high: float, clusters: int) -> tuple[float, float]:
    """Return an interval: the bootstrap's, or Wilson's where all or none are right and the bootstrap has no width."""
    if np.isnan(value) or not clusters:
        return np.nan, np.nan
    if value in (0, 1):
        low, high = proportion_confint(value * clusters, clusters, alpha=1 - LEVEL, method="wilson")
    return float(max(low, 0)), float(min(high, 1))


def _three(metric: str, value: float, ends: tuple[float, float]) -> dict[str, object]:
    return {metric: float(value), f"{metric}_low": ends[0], f"{metric}_high": ends[1]}
