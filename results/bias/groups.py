"""Scores of each group, and of each class in each group, with intervals.

Counts come from fairlearn's MetricFrame. Accuracy, recall and precision have Wilson's interval for the effective number
of images: images of one cluster are not independent, so their number is divided by the design effect, the variance over
clusters divided by that of independent images (Kish 1965). The cluster bootstrap keeps the number of clusters of each
class, which underestimates the variance in a group with one or two clusters of a class. F1 is no proportion and has the
bootstrap interval.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count
from statsmodels.stats.proportion import proportion_confint

from datamodules.errors import InputError, did_you_mean
from results.predictions import PROBABILITY, PROTOCOL
from results.statistics import FEW_CLUSTERS, cluster_bootstrap

OTHERS = "(others)"  # the rare values that `--top` joins; shown, but not ranked


@dataclass(frozen=True)
class Cut:
    """Rule that makes groups of the values of a column.

    Attributes:
        column: Name of the column.
        edges: Ascending lower ends of bins, if its values are numbers.
        kept: Values that are groups of their own; all others are `(others)`. Empty: all.
    """

    column: str
    edges: tuple[float, ...] = ()
    kept: tuple[str, ...] = ()

    def values(self, table: pd.DataFrame) -> np.ndarray:
        """Return the group of each row as text, objects of shape (N,); "" if it is not known."""
        text = plain_values(table[self.column])
        if self.edges:
            return _binned(text, self, table)
        if self.kept:
            text = np.where((text == "") | np.isin(text, self.kept), text, OTHERS).astype(object)
        return text

    def ordered(self, values: Sequence[str]) -> list[str]:
        """Return groups in the order in which they are shown: bins and numbers ascending, text alphabetically."""
        if self.edges:
            names = _bin_names(self.edges)
            return sorted(values, key=names.index)
        return sorted(values, key=lambda value: (value == OTHERS, *_number_first(value)))


def parse_bins(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the lower bounds of the bins of each column in texts such as `age=0,10,18,60`; the last bin is open.

    Raises:
        InputError: A text has another form.
    """
    bins: dict[str, tuple[float, ...]] = {}
    for text in texts:
        column, _, ends = text.rpartition("=")
        try:
            edges = tuple(float(end) for end in ends.split(","))
        except ValueError:
            edges = ()
        if not column or not edges or not np.isfinite(edges).all() or list(edges) != sorted(set(edges)):
            msg = f"--bins: must be a column and ascending lower bounds of bins, such as age=0,10,18,60, got {text!r}."
            raise InputError(msg)
        bins[column] = edges
    return bins


def plain_values(column: pd.Series) -> np.ndarray:
    """Return a column as text in one Unicode form, without control characters; "" for missing values."""
    text = column.astype(object).where(column.notna(), "").astype(str)
    return text.map({value: clean(value).strip() for value in text.unique()}).to_numpy(object)


def clean(text: str) -> str:
    """Return a text in one Unicode form, without control characters."""
    return "".join(c if c.isprintable() else "�" for c in unicodedata.normalize("NFC", text.strip()))


def _binned(text: np.ndarray, cut: Cut, table: pd.DataFrame) -> np.ndarray:
    number = numbers(text[text != ""])
    if number is None:
        place = next(
            place
            for place, value in enumerate(text)
            if value != "" and numbers(np.array([value], dtype=object)) is None
        )
        where = f"for {table['path'].iloc[place]!r}" if "path" in table else f"in row {place + 1} of the table"
        msg = (
            f"--bins: {cut.column!r} must hold numbers, got {str(text[place])!r} {where}; leave the column out of "
            "--bins, or correct the value in the manifest."
        )
        raise InputError(msg)
    names = np.array(_bin_names(cut.edges), dtype=object)
    binned = np.full(len(text), "", dtype=object)
    binned[text != ""] = names[np.searchsorted(cut.edges, number, side="right")]
    return binned


def _bin_names(edges: tuple[float, ...]) -> list[str]:
    """Return names of the bins: below the first edge, between two, and from the last on."""
    shown = [f"{edge:g}" for edge in edges]
    between = [f"{low} to <{high}" for low, high in pairwise(shown)]
    return [f"below {shown[0]}", *between, f"{shown[-1]} and over"]


def numbers(text: np.ndarray) -> np.ndarray | None:
    """Return texts as finite numbers; None if one of them is not a number."""
    number = pd.to_numeric(pd.Series(text, dtype=object), errors="coerce").to_numpy(np.float64)
    return number if np.isfinite(number).all() else None


def suggested(number: np.ndarray) -> str:
    """Return quartiles as bins, rounded so that they can be typed."""
    ends = np.percentile(number, [0, 25, 50, 75])
    return ",".join(dict.fromkeys(f"{end:.3g}" for end in ends))


def _number_first(value: str) -> tuple[bool, float, str]:
    match = re.match(r"-?\d+(?:\.\d+)?", value)
    return (match is None, float(match[0]) if match else 0.0, value)


MOST_GROUPS = 40  # with more, the table is too long to read, and groups are small
_OFFERED = 8
_BETWEEN = " / "  # in the name of a group of a crossing
_NOT_GROUPS = ("row", "path", "content", "cluster", "label", "predicted", "role", "is_copy", PROTOCOL)


@dataclass(frozen=True)
class Grouping:
    """A column or a crossing of several columns, and their groups among the evaluated images.

    Attributes:
        cuts: The columns.
        groups: Names of the groups that have images, in the order in which they are shown.
    """

    cuts: tuple[Cut, ...]
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as `age` or `age x gender`."""
        return " x ".join(clean(cut.column) for cut in self.cuts)

    def of(self, table: pd.DataFrame) -> np.ndarray:
        """Return the group of each row, objects of shape (N,); "" if the value of a column is missing."""
        parts = [cut.values(table) for cut in self.cuts]
        known = np.logical_and.reduce([part != "" for part in parts])
        return np.where(known, [_BETWEEN.join(row) for row in zip(*parts, strict=True)], "").astype(object)

    def is_mixture(self, group: str) -> bool:
        """Whether a group has rare values that `--top` joined."""
        return OTHERS in group.split(_BETWEEN)


def group_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of a prediction table that images can be grouped by."""
    names = [str(name) for name in table.columns]
    return [name for name in names if name not in _NOT_GROUPS and not name.startswith(PROBABILITY)]


def groupings(
    table: pd.DataFrame,
    by: Sequence[str],
    *,
    cross: bool = False,
    bins: Mapping[str, Sequence[float]] | None = None,
    top: int | None = None,
) -> list[Grouping]:
    """Return the groupings that were requested.

    Args:
        table: A prediction table.
        by: Names of columns, or of several joined by `+` for their crossing.
        cross: Add the crossing of every two of the single columns.
        bins: Lower ends of the bins of each binned column.
        top: Number of most frequent values of each column to keep; the rest becomes `(others)`.

    Raises:
        InputError: A column that does not exist, is empty, or has too many values; bins of no such column.
    """
    specs = list(dict.fromkeys(_columns_of(table, spec) for spec in by))  # without repeated columns
    if cross:
        single = [spec[0] for spec in specs if len(spec) == 1]
        specs += combinations(single, 2)
    specs = list(dict.fromkeys(specs))
    cut: dict[str, Cut] = {}
    unused = sorted(set(bins or {}) - {column for spec in specs for column in spec})
    if unused:
        msg = f"--bins: {unused[0]!r} is not among --by ({', '.join(by)}); add it there."
        raise InputError(msg)
    if top is not None and top < 1:
        msg = f"--top: must be at least 1, the number of values to keep, got {top}."
        raise InputError(msg)
    for column in dict.fromkeys(column for spec in specs for column in spec):
        cut[column] = _cut(table, column, tuple((bins or {}).get(column, ())), top)
    return [_grouping(table, tuple(cut[column] for column in spec)) for spec in specs]


def _columns_of(table: pd.DataFrame, spec: str) -> tuple[str, ...]:
    names = group_columns(table)
    parts = [spec] if spec in names else [part.strip() for part in re.split(r"[+*]", spec)]
    by_case = {name.casefold(): name for name in reversed(names)}
    parts = [part if part in names else by_case.get(part.casefold(), part) for part in parts]
    for part in parts:
        if part in names:
            continue
        near = "" if part in _NOT_GROUPS else did_you_mean(part, names, cutoff=0.5)
        hint = f"; {near}" if near else "."
        why = "; the class is what is measured in each group" if part in ("label", "predicted") else ""
        real = [name for name in names if name not in ("subject", "fold")]
        hint += "" if real else " This data has no column that describes people: give a table with one (docs/data.md)."
        msg = f"--by: no column {part!r} to group by{why}{hint} The columns are: {', '.join(names) or 'none'}."
        raise InputError(msg)
    if len(set(parts)) < len(parts):
        msg = f"--by: must combine different columns, got {spec!r}."
        raise InputError(msg)
    return tuple(parts)


def _cut(table: pd.DataFrame, column: str, edges: tuple[float, ...], top: int | None) -> Cut:
    text = plain_values(table[column])
    counts = pd.Series(text[text != ""]).value_counts()
    if not len(counts):
        msg = f"--by: column {column!r} is empty, no image has a value. Fill it in the manifest, or choose another."
        raise InputError(msg)
    if edges:
        return Cut(column, edges)
    if top is not None and len(counts) > top:
        return Cut(column, kept=tuple(counts.index[:top]))
    if len(counts) > MOST_GROUPS:
        number = numbers(text[text != ""])
        frequent = ", ".join(f"{value} ({images})" for value, images in counts.head(_OFFERED).items())
        binned = f"cut it into bins, such as --bins {column}={suggested(number)}" if number is not None else ""
        msg = (
            f"--by: column {column!r} has {len(counts)} values, at most {MOST_GROUPS} are shown; "
            f"{binned + ', or ' if binned else ''}keep the most frequent with --top {_OFFERED}: {frequent}."
        )
        raise InputError(msg)
    return Cut(column)


def _grouping(table: pd.DataFrame, cuts: tuple[Cut, ...]) -> Grouping:
    parts = [cut.values(table) for cut in cuts]
    known = np.logical_and.reduce([part != "" for part in parts])
    places = []
    for cut, part in zip(cuts, parts, strict=True):
        order = cut.ordered([str(value) for value in set(part[known])])
        places.append([order.index(value) for value in part[known]])
    present = sorted(
        set(
            zip(
                *places, [_BETWEEN.join(row) for row in zip(*(part[known] for part in parts), strict=True)], strict=True
            )
        )
    )
    named = tuple(str(entry[-1]) for entry in present)
    name = " x ".join(cut.column for cut in cuts)
    if not named:
        msg = f"--by: no image has a value in every column of {name}. Fill them in the manifest, or choose others."
        raise InputError(msg)
    if len(named) > MOST_GROUPS:
        msg = (
            f"--by: {name} makes {len(named)} groups, at most {MOST_GROUPS} are shown; combine fewer columns, "
            "or reduce their groups with --bins or --top."
        )
        raise InputError(msg)
    return Grouping(cuts, named)


MINIMUM = 30  # images; a smaller group is marked and never ranked
LEVEL = 0.95
Ends = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """Scores of the groups of one grouping.

    Attributes:
        grouping: The grouping.
        by_group: One row per group: group, images, clusters, correct, `accuracy`, `f1_macro` with `_low` and `_high`,
            classes (number with images in the group), ranked, few_clusters.
        by_class: One row per group and class: group, class, images, clusters, correct, predicted, `recall`, `precision`
            and `f1` with `_low` and `_high` (NaN if a class has no image), few_clusters.
        unknown: Number of images in no group.
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
    all_classes: Sequence[str],
    *,
    minimum: int = MINIMUM,
    resamples: int = 2000,
    seed: int = 0,
) -> Measured:
    """Return the scores of each group.

    Macro F1 of a group is the mean over the classes that have images in the group. F1 of a class is twice the correct
    images over its images plus its predictions, so that of a class that is never predicted is 0, and its precision is
    not defined (NaN).

    Args:
        table: A prediction table.
        grouping: The grouping.
        classes: Classes that count.
        all_classes: All classes that may be predicted.
        minimum: Number of images that a group needs to be ranked.
        resamples: Number of resamples of the cluster bootstrap.
        seed: Seed of the cluster bootstrap.
    """
    of = grouping.of(table)
    known = table.assign(group=of)[of != ""]
    counts = group_counts(known, classes)
    by_group, by_class = [], []
    for name in grouping.groups:
        part, numbers = known[known["group"] == name], counts.loc[name]
        spread = cluster_bootstrap(part, all_classes, resamples=resamples, level=LEVEL, seed=seed)
        cells = []
        for number, label in enumerate(classes):
            counted = tuple(int(numbers[f"{kind} {number}"]) for kind in _KINDS)
            cells.append(_class_row(part, label, counted, spread[spread["class"] == label].set_index("metric")))
        f1 = [float(cell["f1"]) for cell in cells if cell["images"]]
        few = part["cluster"].nunique() < FEW_CLUSTERS
        row = {"group": name, "images": int(numbers["images"]), "clusters": part["cluster"].nunique()}
        row |= {"correct": int(numbers["correct"]), "classes": len(f1), "few_clusters": few}
        row |= {"ranked": len(part) >= minimum and not grouping.is_mixture(name)}
        right = (part["label"] == part["predicted"]).to_numpy()
        ends = proportion_interval(right, part["cluster"].to_numpy())
        row |= _three("accuracy", float(numbers["correct"] / numbers["images"]), ends)
        macro, drawn = float(np.mean(f1)), spread[spread["metric"] == "f1_macro"].iloc[0]
        macro_ends = _f1_ends(macro, drawn["low"], drawn["high"], ends)
        by_group.append(row | _three("f1_macro", macro, macro_ends))
        by_class += [{"group": name, **cell} for cell in cells]
    return Measured(grouping, pd.DataFrame(by_group), pd.DataFrame(by_class), int((of == "").sum()))


def group_counts(known: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return `images` and `correct` of each group, and of its n-th class `images n`, `predicted n`, `correct n`.

    Args:
        known: A prediction table with a column `group`, which is the index of the result.
        classes: The classes.
    """

    def correct(true: np.ndarray, predicted: np.ndarray) -> int:
        return int((true == predicted).sum())

    metrics: dict[str, Callable] = {"images": count, "correct": correct}
    for number in range(len(classes)):
        metrics |= {f"{kind} {number}": _counted(kind, number) for kind in _KINDS}
    codes = pd.Index(list(classes))
    # a prediction, but no label, may be of a class that does not count
    true, predicted = (codes.get_indexer(pd.Index(known[column])) for column in ("label", "predicted"))
    groups = known["group"].to_numpy(object)
    return MetricFrame(metrics=metrics, y_true=true, y_pred=predicted, sensitive_features=groups).by_group


_KINDS = ("images", "predicted", "correct")


def _counted(kind: str, number: int) -> Callable[[np.ndarray, np.ndarray], int]:
    def counted(true: np.ndarray, predicted: np.ndarray) -> int:
        of_class, as_class = np.asarray(true) == number, np.asarray(predicted) == number
        return int({"images": of_class, "predicted": as_class, "correct": of_class & as_class}[kind].sum())

    return counted


def _class_row(part: pd.DataFrame, name: str, counted: tuple[int, ...], spread: pd.DataFrame) -> dict[str, Any]:
    images, predicted, correct = counted
    of_class, as_class = (part[part[column] == name] for column in ("label", "predicted"))
    clusters = of_class["cluster"].nunique()
    row: dict[str, Any] = {"class": name, "images": images, "clusters": clusters}
    row |= {"correct": correct, "predicted": predicted, "few_clusters": clusters < FEW_CLUSTERS}
    if not images:
        return row | {key: np.nan for metric in ("recall", "precision", "f1") for key in _three(metric, 0, (0, 0))}
    ends = proportion_interval((of_class["predicted"] == name).to_numpy(), of_class["cluster"].to_numpy())
    row |= _three("recall", correct / images, ends)
    precision_ends = proportion_interval((as_class["label"] == name).to_numpy(), as_class["cluster"].to_numpy())
    row |= _three("precision", correct / predicted if predicted else np.nan, precision_ends)
    f1 = 2 * correct / (images + predicted)
    # no image correct: the upper end follows from recall; all correct: the lower one from recall and precision
    limits = (min(ends[0], precision_ends[0]), min(1.0, 2 * images * ends[1] / (images + predicted)))
    return row | _three("f1", f1, _f1_ends(f1, spread.loc["f1", "low"], spread.loc["f1", "high"], limits))


def proportion_interval(right: np.ndarray, cluster: np.ndarray) -> Ends:
    r"""Return Wilson's 95 % interval of the share of correct images, bool (N,) in clusters, with :math:`n / d` trials.

    .. math:: d = \frac{m}{m - 1} \frac{\sum_j (y_j - \hat p n_j)^2}{n \hat p (1 - \hat p)}, \quad d \ge 1

    over m clusters with :math:`y_j` correct of :math:`n_j` images. Independent images have d = 1. If all or none are
    correct, or with one cluster, d cannot be estimated, and the trials are the clusters. NaN without images.
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
    """Return the bootstrap interval; if F1 is 0 or 1, the limits; NaN if nothing varied."""
    if value in (0, 1):
        return (0.0, limits[1]) if value == 0 else (limits[0], 1.0)
    return (float(low), min(float(high), 1.0)) if high > low else (np.nan, np.nan)


def _three(metric: str, value: float, ends: Ends) -> dict[str, float]:
    return {metric: value, f"{metric}_low": ends[0], f"{metric}_high": ends[1]}
