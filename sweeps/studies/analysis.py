"""What the finished cells of a study say: numbers with intervals or spreads, each with the runs it came from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from scipy import stats

from datamodules.errors import InputError
from datamodules.splits.subgroups import condition_mask
from results.bias.gaps import permute_groups
from results.predictions import classes_of, matched
from results.significance import Metric as Paired
from results.significance import holm, paired_permutation, seeds_t
from results.statistics import cluster_bootstrap, paired_difference, scores
from results.tracking.runs import children, load_table
from sweeps.studies.schema import ON, Choice, Claim, Metric, Protocol, Scale, Study

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
    dealt = permute_groups(
        both, both["group"].to_numpy(object), ["lower", "higher"], classes, permutations=_DEALS, seed=seed
    )
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


CELL, SEED = "cell", "seed"  # tags of a run that a cell has finished
INNER = "val/best_f1_macro"  # the best epoch's, on what is selected on
CURVES = "curves"
_BY_CLASS = ("f1_", "recall_", "precision_")


@dataclass(frozen=True)
class Outcome:
    """One finished run of a cell; its tables are read when they are asked for."""

    cell: str
    seed: int
    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Every reported image once."""
        return load_table(self.run_id, "predictions")

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """Scores with cluster-bootstrap intervals."""
        return load_table(self.run_id, "intervals")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """By name and step, what was logged in training."""
        return load_table(self.run_id, CURVES)

    def number(self, metric: Metric) -> tuple[float, float, float]:
        """Return value, low and high; without an interval the last two are not numbers.

        Raises:
            InputError: The run has no such number.
        """
        if ON in metric:
            return value(self.predictions, metric)
        table = self.intervals
        kind, _, name = metric.partition("_") if metric.startswith(_BY_CLASS) else (metric, "", "")
        row = table[(table["metric"] == kind) & (table["class"] == name)]
        if metric == "f1_macro":
            row = table[table["metric"] == metric]
        if len(row):
            one = row.iloc[0]
            return float(one["value"]), float(one["low"]), float(one["high"])
        if metric in self.metrics:
            return self.metrics[metric], float("nan"), float("nan")
        msg = f"metric: run {self.run_id} has no {metric!r}; it has {', '.join(sorted(self.metrics))}."
        raise InputError(msg)

    @classmethod
    def left_out(cls, runs: Sequence["Outcome"], metrics: Sequence[Metric]) -> LeftOut | None:
        """Return metrics, one per run, with and without each cluster of the images that all runs share.

        None if a metric is not computed from predictions, such as one that was logged in training.
        """
        return left_out([run.predictions for run in runs], metrics)


@dataclass(frozen=True)
class Number:
    """A number of a report.

    Attributes:
        value: Of the one run, or the mean over several seeds.
        low: Lower end of the interval, or the smallest of the seeds.
        high: Upper end, or the largest.
        sd: Over seeds; not a number for one.
        runs: Ids of the runs it came from.
    """

    value: float
    low: float
    high: float
    sd: float
    runs: tuple[str, ...]


class Outcomes:
    """The finished runs of one study."""

    def __init__(self, found: Sequence[Outcome], failed: Mapping[str, str] | None = None) -> None:
        """Take the runs.

        Args:
            found: In the order in which they were started; of a cell and seed run twice the last one counts.
            failed: Why a cell has not been finished, by its name.
        """
        latest = {(one.cell, one.seed): one for one in found}
        self._by_cell: dict[str, list[Outcome]] = {}
        for one in sorted(latest.values(), key=lambda one: one.seed):
            self._by_cell.setdefault(one.cell, []).append(one)
        self.failed = dict(failed or {})

    @classmethod
    def of_parent(cls, parent: str, failed: Mapping[str, str] | None = None) -> "Outcomes":
        """Read the finished cells under a study's run."""
        found = children(parent)
        if f"tags.{CELL}" not in found:
            return cls([], failed)
        outcomes = []
        for row in found[found[f"tags.{CELL}"].notna() & (found["status"] == "FINISHED")].to_dict("records"):
            metrics = {str(k).removeprefix("metrics."): v for k, v in row.items() if str(k).startswith("metrics.")}
            numbers = {name: float(value) for name, value in metrics.items() if not pd.isna(value)}
            outcomes.append(Outcome(row[f"tags.{CELL}"], int(row[f"tags.{SEED}"]), row["run_id"], numbers))
        return cls(outcomes, failed)

    def __len__(self) -> int:
        return sum(map(len, self._by_cell.values()))

    @property
    def runs(self) -> list[Outcome]:
        """All finished runs."""
        return [run for runs in self._by_cell.values() for run in runs]

    def of(self, cell: str) -> list[Outcome]:
        """Return the runs of a cell, by seed; none when it has not been finished."""
        return self._by_cell.get(cell, [])

    def number(self, cell: str, metric: Metric) -> Number | None:
        """Return a number of a cell; None when it has not been finished.

        With one seed it has the interval over images, with several the smallest and the largest.
        """
        runs = self.of(cell)
        if not runs:
            return None
        found = [one.number(metric) for one in runs]
        ids = tuple(one.run_id for one in runs)
        if len(found) == 1:
            return Number(*found[0], float("nan"), ids)
        values = np.array([value for value, _, _ in found])
        return Number(values.mean(), values.min(), values.max(), values.std(ddof=1), ids)

    def choose(self, choice: Choice, protocol: Protocol) -> list[str]:
        """Return the best of a choice by macro F1: on the val part, or, in the papers' protocol, on the reported one.

        Raises:
            InputError: A cell of the choice has not been finished.
        """
        metric = INNER if protocol == "honest" else "f1_macro"
        numbers = {name: self.number(cell, metric) for name, cell in choice.cells.items()}
        missing = [name for name, number in numbers.items() if number is None]
        if missing:
            why = "; ".join(f"{name}: {self.failed.get(choice.cells[name], 'not run')}" for name in missing)
            msg = f"choice: each cell must have finished, not so {why}. Run the study again: what failed is tried anew."
            raise InputError(msg)
        ranked = sorted(numbers, key=lambda name: -numbers[name].value)  # type: ignore[union-attr] # none is missing
        return sorted(ranked[: choice.count], key=list(choice.cells).index)


LEVEL = 0.05
SAME = 1e-9  # differences of sums in another order
PAIRED = ("f1_macro", "accuracy")
Verdict = Literal[
    "confirmed",
    "contradicted",
    "differs on these images for these models",
    "differs the other way on these images for these models",
    "not confirmed",
    "not tested",
]


@dataclass(frozen=True)
class Judged:
    """A claim and what was found.

    Attributes:
        claim: The sentence.
        higher: The number that is said to be higher, None when its cell has not been finished.
        lower: The other.
        difference: Higher minus lower.
        low: Lower end of its 95 % interval, not a number where there is none.
        high: Upper end.
        p_value: Two-sided, corrected by Holm's method over the claims of the study; None where nothing could be tested.
        test: What was tested.
        verdict: At p < .05 confirmed or contradicted, if seeds and images are both units of the test; if only one of
            them is, only that these models differ on these images. At p >= .05 not confirmed.
    """

    claim: Claim
    higher: Number | None
    lower: Number | None
    difference: float
    low: float
    high: float
    p_value: float | None
    test: str
    verdict: Verdict


def judge(claims: Sequence[Claim], outcomes: Outcomes) -> list[Judged]:
    """Test every claim and correct for their number.

    Notes:
        With three or more seeds, seeds and images are both units: a t-test over the differences of the seeds, whose
        variance includes the part that comes from their common images (`results.significance.seeds_t`). With fewer,
        cells are compared image by image (cluster permutation, cluster-bootstrap interval), which covers only the
        choice of images. Numbers that were logged in training, without predictions, are compared by a paired t-test
        over seeds, which covers only the training.
    """
    tests = [_test(claim, outcomes) for claim in claims]
    raw = [one.p_value for one in tests if one and one.p_value is not None]
    corrected = iter(holm(raw).tolist() if raw else [])
    judged = []
    for claim, test in zip(claims, tests, strict=True):
        higher, lower = outcomes.number(*claim.higher), outcomes.number(*claim.lower)
        if test is None:
            nan = float("nan")
            test = Tested(nan, nan, nan, None, "a cell has not been finished")
        p_value = None if test.p_value is None else next(corrected)
        verdict = _verdict(test, p_value)
        found = (test.difference, test.low, test.high, p_value, test.name)
        judged.append(Judged(claim, higher, lower, *found, verdict))
    return judged


def _verdict(test: Tested, p_value: float | None) -> Verdict:
    if p_value is None:
        return "not tested"
    if p_value >= LEVEL:
        return "not confirmed"
    if test.by_seed:
        return "confirmed" if test.difference > 0 else "contradicted"
    if test.difference > 0:
        return "differs on these images for these models"
    return "differs the other way on these images for these models"


def _test(claim: Claim, outcomes: Outcomes) -> Tested | None:
    above = {one.seed: one for one in outcomes.of(claim.higher[0])}
    below = {one.seed: one for one in outcomes.of(claim.lower[0])}
    seeds = sorted(above.keys() & below.keys())
    if not seeds:
        return None
    metric = claim.higher[1]
    if len(seeds) >= FEW:
        runs = [*(below[seed] for seed in seeds), *(above[seed] for seed in seeds)]
        if shared := type(runs[0]).left_out(runs, [*[claim.lower[1]] * len(seeds), *[metric] * len(seeds)]):
            return over_seeds(shared)
    if ON in metric:
        one, other = ([runs[seed].predictions for seed in seeds] for runs in (below, above))
        return paired(one, other, metric) if metric == claim.lower[1] else between(other, claim.lower[1], metric)
    if len(seeds) < FEW and metric == claim.lower[1] and metric in PAIRED:
        tables = matched([runs[seed].predictions for runs in (below, above) for seed in seeds])
        one, other = below_each_other(tables[: len(seeds)]), below_each_other(tables[len(seeds) :])
        classes = classes_of(one)
        found = paired_permutation(one, other, classes, metric=cast(Paired, metric))
        table = paired_difference(one, other, classes)
        row = table[(table["metric"] == metric) & (table["class"] == "")].iloc[0]
        together = f", {len(seeds)} seeds together" if len(seeds) > 1 else ""
        return Tested(found.difference, float(row["low"]), float(row["high"]), found.p_value, found.test + together)
    pairs = [(above[seed].number(metric)[0], below[seed].number(claim.lower[1])[0]) for seed in seeds]
    values = np.array([one - other for one, other in pairs])
    mean, name = float(values.mean()), f"paired t over {len(seeds)} seeds"
    if len(values) < FEW:
        return Tested(mean, float("nan"), float("nan"), None, f"{len(seeds)} seeds are too few for a t-test")
    if np.ptp(values) < SAME:  # as accuracies of few images may be
        return Tested(mean, mean, mean, 1.0 if mean == 0 else None, f"{name}: all differ alike")
    found_t = stats.ttest_1samp(values, 0.0)
    low, high = found_t.confidence_interval(0.95)
    return Tested(mean, float(low), float(high), float(found_t.pvalue), name)


@dataclass(frozen=True)
class Circumstances:
    """Under which a study was run.

    Attributes:
        scale: tiny, small or paper.
        protocol: honest, or paper (selected on the reported part).
        data: Name of the data set.
        options: Words that were laid over every cell.
        experiment: Id under which MLflow shows the runs.
        parent: Run id of the study.
        chosen: Transforms that were chosen, where a study chooses.
    """

    scale: Scale
    protocol: Protocol
    data: str
    options: tuple[str, ...]
    experiment: str
    parent: str
    chosen: tuple[str, ...] = ()


def numbers(study: Study, outcomes: Outcomes, judged: Sequence[Judged], now: Circumstances) -> pd.DataFrame:
    """Return every number of the report, one a row, with its runs."""
    rows = []
    for table in study.tables:
        for name, entries in table.rows.items():
            for column, entry in zip(table.columns, entries, strict=True):
                if entry is None:
                    continue
                found = outcomes.number(entry.cell, entry.metric) if entry.cell else None
                ours = found or Number(math.nan, math.nan, math.nan, math.nan, ())
                rows.append(
                    {
                        "part": table.title,
                        "row": name,
                        "column": column,
                        "cell": entry.cell,
                        "metric": entry.metric,
                        "value": ours.value,
                        "low": ours.low,
                        "high": ours.high,
                        "sd": ours.sd,
                        "published": entry.published,
                        "runs": " ".join(ours.runs),
                    }
                )
    for one in judged:
        ends = [number for number in (one.higher, one.lower) if number]
        published = one.claim.published
        rows.append(
            {
                "part": "claims",
                "row": one.claim.text,
                "column": one.verdict,
                "cell": f"{one.claim.higher[0]} - {one.claim.lower[0]}",
                "metric": one.claim.higher[1],
                "value": one.difference,
                "low": one.low,
                "high": one.high,
                "p": one.p_value,
                "published": published[0] - published[1] if published else None,
                "runs": " ".join(run for number in ends for run in number.runs),
            }
        )
    return pd.DataFrame(rows).assign(scale=now.scale, protocol=now.protocol, data=now.data)


def shown(value: float) -> str:
    """Return a score with three digits, a count with its thousands."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.3f}"


def p_text(value: float) -> str:
    """Return a p-value, the smallest as a bound."""
    return "< .001" if value < 0.001 else f"{value:.3f}"
