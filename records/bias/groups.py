"""How good the predictions are in each group, and in each class of each group, with intervals.

Counts come from fairlearn's MetricFrame. Accuracy, recall and precision get Wilson's interval with as many trials as
the images are worth: images of one cluster are not independent, so their number is divided by the design effect, the
variance over clusters beside that of independent images (Kish 1965). The cluster bootstrap keeps the number of
clusters of each class, and in a group of few clusters, one or two of a class, that leaves too little to vary. F1 is no
proportion and gets the bootstrap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count
from statsmodels.stats.proportion import proportion_confint

from records.bias.columns import Grouping
from records.statistics import FEW_CLUSTERS, cluster_bootstrap

MINIMUM = 30  # images; a smaller group is marked and never ranked
LEVEL = 0.95
Ends = tuple[float, float]


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
    counts = group_counts(known, classes)
    by_group, by_class = [], []
    for name in grouping.groups:
        part, numbers = known[known["group"] == name], counts.loc[name]
        spread = cluster_bootstrap(part, said, resamples=resamples, level=LEVEL, seed=seed)
        cells = []
        for place, one in enumerate(classes):
            held = tuple(int(numbers[f"{kind} {place}"]) for kind in _KINDS)
            cells.append(_class_row(part, one, held, spread[spread["class"] == one].set_index("metric")))
        f1 = [float(cell["f1"]) for cell in cells if cell["images"]]
        few = part["cluster"].nunique() < FEW_CLUSTERS
        row = {"group": name, "images": int(numbers["images"]), "clusters": part["cluster"].nunique()}
        row |= {"correct": int(numbers["correct"]), "classes": len(f1), "few_clusters": few}
        row |= {"ranked": len(part) >= minimum and not grouping.is_mixture(name)}
        right = (part["label"] == part["predicted"]).to_numpy()
        ends = proportion_interval(right, part["cluster"].to_numpy())
        row |= _three("accuracy", float(numbers["correct"] / numbers["images"]), ends)
        macro, one = float(np.mean(f1)), spread[spread["metric"] == "f1_macro"].iloc[0]
        times = len(said) / len(f1)  # every class counts in the bootstrap's mean, those without images as 0
        by_group.append(row | _three("f1_macro", macro, _f1_ends(macro, one["low"] * times, one["high"] * times, ends)))
        by_class += [{"group": name, **cell} for cell in cells]
    return Measured(grouping, pd.DataFrame(by_group), pd.DataFrame(by_class), int((of == "").sum()))


def group_counts(known: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return images and correct ones of each group, and of its n-th class `images n`, `predicted n`, `correct n`.

    Args:
        known: A prediction table with a column `group`, which is the index of what is returned.
        classes: The classes.
    """

    def correct(true: np.ndarray, said: np.ndarray) -> int:
        return int((true == said).sum())

    metrics: dict[str, Callable] = {"images": count, "correct": correct}
    for number in range(len(classes)):
        metrics |= {f"{kind} {number}": _counted(kind, number) for kind in _KINDS}
    codes = pd.Index(list(classes))
    # an image may be taken for a class that does not count; its label may not be one
    true, said = (codes.get_indexer(pd.Index(known[column])) for column in ("label", "predicted"))
    groups = known["group"].to_numpy(object)
    return MetricFrame(metrics=metrics, y_true=true, y_pred=said, sensitive_features=groups).by_group


_KINDS = ("images", "predicted", "correct")


def _counted(kind: str, number: int) -> Callable[[np.ndarray, np.ndarray], int]:
    def counted(true: np.ndarray, said: np.ndarray) -> int:
        right, taken = np.asarray(true) == number, np.asarray(said) == number
        return int({"images": right, "predicted": taken, "correct": right & taken}[kind].sum())

    return counted


def _class_row(part: pd.DataFrame, name: str, held: tuple[int, ...], spread: pd.DataFrame) -> dict[str, Any]:
    images, predicted, correct = held
    inside, taken = (part[part[column] == name] for column in ("label", "predicted"))
    clusters = inside["cluster"].nunique()
    row: dict[str, Any] = {"class": name, "images": images, "clusters": clusters}
    row |= {"correct": correct, "predicted": predicted, "few_clusters": clusters < FEW_CLUSTERS}
    if not images:
        return row | {key: np.nan for metric in ("recall", "precision", "f1") for key in _three(metric, 0, (0, 0))}
    ends = proportion_interval((inside["predicted"] == name).to_numpy(), inside["cluster"].to_numpy())
    row |= _three("recall", correct / images, ends)
    sure = proportion_interval((taken["label"] == name).to_numpy(), taken["cluster"].to_numpy())
    row |= _three("precision", correct / predicted if predicted else np.nan, sure)
    f1 = 2 * correct / (images + predicted)
    # no image right: at most as many as recall allows; all right: at least what recall and precision allow
    limits = (min(ends[0], sure[0]), min(1.0, 2 * images * ends[1] / (images + predicted)))
    return row | _three("f1", f1, _f1_ends(f1, spread.loc["f1", "low"], spread.loc["f1", "high"], limits))


def proportion_interval(right: np.ndarray, cluster: np.ndarray) -> Ends:
    r"""Return Wilson's 95 % interval of a share, (N,) yes or no in clusters, with :math:`n / d` trials.

    .. math:: d = \frac{m}{m - 1} \frac{\sum_j (y_j - \hat p n_j)^2}{n \hat p (1 - \hat p)}, \quad d \ge 1

    over m clusters with :math:`y_j` of :math:`n_j`. Independent images have d = 1. Where all or none are right, or in
    one cluster, d cannot be estimated, and there are as many trials as clusters. NaN without images.
    """
    images = len(right)
    if not images:
        return np.nan, np.nan
    places = np.unique(cluster, return_inverse=True)[1]
    sizes, yes = np.bincount(places), np.bincount(places, weights=right)
    clusters, share = len(sizes), float(np.mean(right))
    trials = float(images)
    if clusters < images:
        trials = float(clusters)
        if clusters > 1 and 0 < share < 1:
            spread = clusters / (clusters - 1) * float(((yes - share * sizes) ** 2).sum())
            trials = images / max(1.0, spread / (images * share * (1 - share)))
    low, high = proportion_confint(share * trials, trials, alpha=1 - LEVEL, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)


def _f1_ends(value: float, low: float, high: float, limits: Ends) -> Ends:
    """Return the bootstrap's interval; where F1 is 0 or 1 the limits; NaN where nothing varied."""
    if value in (0, 1):
        return (0.0, limits[1]) if value == 0 else (limits[0], 1.0)
    return (float(low), min(float(high), 1.0)) if high > low else (np.nan, np.nan)


def _three(metric: str, value: float, ends: Ends) -> dict[str, float]:
    return {metric: value, f"{metric}_low": ends[0], f"{metric}_high": ends[1]}
