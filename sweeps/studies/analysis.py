"""Analysis of a study: numbers with intervals or spreads, tests of claims, and the runs they come from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
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
from results.tracking import store
from results.tracking.runs import children, load_table
from sweeps.studies.schema import LARGEST, ON, RAREST, Choice, Claim, Metric, Protocol, Scale, Study

MIN_SEEDS = 3  # for an estimate of the spread over seeds
RECALL = "recall_"
_OF_CLASS = ("recall_", "f1_", "precision_")
_TIE = 1e-12
_PERMUTATIONS = 9999


@dataclass(frozen=True)
class DifferenceTest:
    """A difference, second minus first, its 95 % interval, the p-value (None: nothing to test) and the test's name.

    With `by_seed`, seeds and images are both units, so the test generalises to other seeds and other images.
    """

    difference: float
    low: float
    high: float
    p_value: float | None
    name: str
    by_seed: bool = False


class Jackknife(NamedTuple):
    """Metrics of several runs on the images they share, and the same metrics without each cluster of images."""

    values: np.ndarray  # (T,) one per run
    without: np.ndarray  # (C, T) the same without each cluster


def split_metric(metric: Metric) -> tuple[Metric, str]:
    """Return metric and condition of, for instance, ``accuracy on age=child``; the condition is "" for all images."""
    plain, _, condition = metric.partition(ON)
    return plain, condition


def named_class(predictions: pd.DataFrame, name: str) -> str:
    """Return the class that a name in a metric stands for: `<rarest>` and `<largest>` are those of the test images.

    Of several classes with as few or as many images, the first one; a class without images does not count.
    """
    if name not in (RAREST, LARGEST):
        return name
    counts = predictions["label"].astype(str).value_counts()
    ordered = {str(each): int(counts[each]) for each in map(str, classes_of(predictions)) if each in counts}
    return (min if name == RAREST else max)(ordered, key=lambda each: ordered[each])


def part_of(predictions: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the rows of a prediction table that count for a metric: of its subgroup, and for recall of its class.

    Raises:
        InputError: The table has no such subgroup, or the metric is neither accuracy nor recall.
    """
    plain, condition = split_metric(metric)
    if condition:
        predictions = predictions[condition_mask(predictions, condition, "group")]
    if plain.startswith(RECALL):
        predictions = predictions[predictions["label"] == plain.removeprefix(RECALL)]
    elif plain != "accuracy":
        msg = f"metric: must be accuracy or recall_<class>, which are compared image by image, got {metric!r}"
        raise InputError(msg)
    return predictions


def stacked(tables: Sequence[pd.DataFrame], metric: Metric) -> pd.DataFrame:
    """Return the rows that count for a metric, of the tables of all seeds, concatenated with unique row numbers."""
    return concatenated([part_of(table, metric) for table in tables])


def concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the prediction tables of several seeds as one, with unique row numbers and common clusters."""
    step = 1 + max((int(table["row"].max()) for table in tables if len(table)), default=0)
    return pd.concat([table.assign(row=table["row"] + step * i) for i, table in enumerate(tables)], ignore_index=True)


def jackknife(tables: Sequence[pd.DataFrame], metrics: Sequence[Metric]) -> Jackknife | None:
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
        name = named_class(tables[0], name)
        if kind not in ("accuracy", "f1_macro") and name not in classes:
            return None
        inside = condition_mask(table, condition, "group") if condition else np.ones(len(table), bool)
        inside = np.asarray(inside, bool)
        if kind == "recall":
            inside = inside & (label == classes.index(name))
        if not inside.any():
            return None
        predicted = codes.get_indexer(pd.Index(table["predicted"].astype(str)))
        cell = (label * count + predicted)[inside]
        each = np.zeros((total, count * count), np.int32)
        np.add.at(each, (cluster[inside], cell), 1)
        whole = each.sum(axis=0)
        has = whole.reshape(count, count).sum(axis=1) > 0  # macro F1 averages these, also without a cluster
        by_metric = scores(np.concatenate([whole[None], whole - each]).reshape(-1, count, count), has)
        value = by_metric[kind][:, classes.index(name)] if name else by_metric[kind]
        values.append(float(value[0]))
        without.append(value[1:])
        used[cluster[inside]] = True
    return Jackknife(np.array(values), np.stack(without, axis=1)[used])


def over_seeds(metrics: Jackknife) -> DifferenceTest:
    """Test a difference with seeds and images as units.

    Args:
        metrics: Metrics of the lower runs, one per seed, then of the higher runs of the same seeds.
    """
    seeds = len(metrics.values) // 2
    differences = metrics.values[seeds:] - metrics.values[:seeds]
    test, low, high = seeds_t(differences, metrics.without[:, seeds:] - metrics.without[:, :seeds])
    p_value = None if math.isnan(test.p_value) else test.p_value
    return DifferenceTest(test.difference, low, high, p_value, test.test, by_seed=True)


def paired(
    before: Sequence[pd.DataFrame], after: Sequence[pd.DataFrame], metric: Metric, seed: int = 0
) -> DifferenceTest | None:
    """Test the difference of `after` from `before` on the same images; None if the subgroup has none of the class.

    With three or more seeds, the seed is a unit of the test, too.

    Args:
        before: Prediction tables, one per seed.
        after: Those of the other cell, of the same seeds in the same order.
        metric: Accuracy or the recall of a class, of a subgroup or of all.
        seed: Of the resamples.
    """
    old, new = stacked(before, metric), stacked(after, metric)
    if not len(old):
        return None
    if len(before) >= MIN_SEEDS and (shared := jackknife([*before, *after], [metric] * 2 * len(before))):
        return over_seeds(shared)
    classes = classes_of(old)
    test = paired_permutation(old, new, classes, metric="accuracy", seed=seed)
    table = paired_difference(old, new, classes, seed=seed)
    row = table[table["metric"] == "accuracy"].iloc[0]
    name = _image_by_image("paired", before)
    return DifferenceTest(test.difference, float(row["low"]), float(row["high"]), test.p_value, name)


def between(tables: Sequence[pd.DataFrame], lower: Metric, higher: Metric, seed: int = 0) -> DifferenceTest:
    """Test the difference between two subgroups in the same runs; their images differ.

    Subgroup names are permuted among clusters of one class. The interval combines those of the two subgroups (Zou and
    Donner 2008), which are independent.
    """
    count = len(tables)
    if count >= MIN_SEEDS and (shared := jackknife([*tables, *tables], [*[lower] * count, *[higher] * count])):
        return over_seeds(shared)
    groups = [stacked(tables, metric).assign(group=name) for name, metric in (("lower", lower), ("higher", higher))]
    both = pd.concat(groups, ignore_index=True)
    classes = classes_of(both)
    permuted = permute_groups(
        both, both["group"].to_numpy(object), ["lower", "higher"], classes, permutations=_PERMUTATIONS, seed=seed
    )
    observed, drawn = (scores(counts)["accuracy"] for counts in (permuted.observed, permuted.permuted))
    difference = float(observed[1] - observed[0])
    extreme = int((np.abs(drawn[:, 1] - drawn[:, 0]) >= abs(difference) - _TIE).sum())
    (v0, l0, h0), (v1, l1, h1) = (_interval(group, classes, seed) for group in groups)
    low = difference - float(np.hypot(v1 - l1, h0 - v0))
    high = difference + float(np.hypot(h1 - v1, v0 - l0))
    return DifferenceTest(
        difference, low, high, (extreme + 1) / (_PERMUTATIONS + 1), _image_by_image("groups permuted", tables)
    )


def value(predictions: pd.DataFrame, metric: Metric) -> tuple[float, float, float]:
    """Return a metric of a subgroup in one run, with its interval; NaN if the subgroup has none of the class."""
    plain, condition = split_metric(metric)
    if plain == "f1_macro":
        rows = predictions[condition_mask(predictions, condition, "group")]
        return _interval(rows, classes_of(rows), 0, "f1_macro")
    rows = part_of(predictions, metric)
    return _interval(rows, classes_of(rows), 0) if len(rows) else (np.nan, np.nan, np.nan)


def _interval(
    predictions: pd.DataFrame, classes: Sequence[str], seed: int, metric: Paired = "accuracy"
) -> tuple[float, float, float]:
    table = cluster_bootstrap(predictions, classes, seed=seed)
    row = table[table["metric"] == metric].iloc[0]
    return float(row["value"]), float(row["low"]), float(row["high"])


def _image_by_image(how: str, tables: Sequence[pd.DataFrame]) -> str:
    seeds = f", {len(tables)} seeds together" if len(tables) > 1 else ""
    return f"image by image, {how}{seeds}"


CELL, SEED = "cell", "seed"  # tags of a run that a cell has finished
CELL_TASK = "cell_task"  # another tag of it: how it was run, such as frozen
INNER = "val/best_f1_macro"  # of the best epoch, on the part that selects it
CURVES = "curves"
_BY_CLASS = ("f1_", "recall_", "precision_")


def best_epoch(run_id: str, metric: str) -> float:
    """Return the highest value that a run logged of a metric."""
    client = store.open_client(only_reading=True)
    return max(entry.value for entry in client.get_metric_history(run_id, metric))


@dataclass(frozen=True)
class Outcome:
    """One finished run of a cell; its tables are read on first use."""

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
        """Metrics logged in training, by name and step."""
        return load_table(self.run_id, CURVES)

    def number(self, metric: Metric) -> tuple[float, float, float]:
        """Return value, low and high of a metric; without an interval the last two are NaN.

        Raises:
            InputError: The run has no such metric.
        """
        if ON in metric:
            return value(self.predictions, metric)
        table = self.intervals
        kind, _, name = metric.partition("_") if metric.startswith(_BY_CLASS) else (metric, "", "")
        name = named_class(self.predictions, name) if name in (RAREST, LARGEST) else name
        row = table[(table["metric"] == kind) & (table["class"] == name)]
        if metric == "f1_macro":
            row = table[table["metric"] == metric]
        if len(row):
            first = row.iloc[0]
            return float(first["value"]), float(first["low"]), float(first["high"])
        if metric in self.metrics:
            return self.metrics[metric], float("nan"), float("nan")
        msg = f"metric: run {self.run_id} has no {metric!r}; it has {', '.join(sorted(self.metrics))}."
        raise InputError(msg)

    @classmethod
    def jackknife(cls, runs: Sequence["Outcome"], metrics: Sequence[Metric]) -> Jackknife | None:
        """Return metrics, one per run, with and without each cluster of the images that all runs share.

        None if a metric is not computed from predictions, such as one that was logged in training.
        """
        return jackknife([run.predictions for run in runs], metrics)


@dataclass(frozen=True)
class Number:
    """A number of a report.

    Attributes:
        value: Of one run, or the mean over several seeds.
        low: Lower end of the interval, or the smallest value of the seeds.
        high: Upper end, or the largest value.
        sd: Standard deviation over seeds; NaN for one seed.
        runs: Ids of the runs it comes from.
    """

    value: float
    low: float
    high: float
    sd: float
    runs: tuple[str, ...]


class Outcomes:
    """The finished runs of one study."""

    def __init__(self, runs: Sequence[Outcome], failed: Mapping[str, str] | None = None) -> None:
        """Group the runs by cell.

        Args:
            runs: In the order in which they were started; of a cell and seed run twice the last one counts.
            failed: Why a cell has not finished, by its name.
        """
        latest = {(run.cell, run.seed): run for run in runs}
        self._by_cell: dict[str, list[Outcome]] = {}
        for run in sorted(latest.values(), key=lambda run: run.seed):
            self._by_cell.setdefault(run.cell, []).append(run)
        self.failed = dict(failed or {})

    @classmethod
    def of_parent(
        cls, parent: str, failed: Mapping[str, str] | None = None, outcome: type[Outcome] = Outcome
    ) -> "Outcomes":
        """Return the finished cells below a study's run.

        Args:
            parent: Run id of the study.
            failed: Why a cell has not finished, by its name.
            outcome: How the numbers of a run are read.
        """
        below = children(parent)
        if f"tags.{CELL}" not in below:
            return cls([], failed)
        outcomes = []
        for row in below[below[f"tags.{CELL}"].notna() & (below["status"] == "FINISHED")].to_dict("records"):
            metrics = {str(k).removeprefix("metrics."): v for k, v in row.items() if str(k).startswith("metrics.")}
            numbers = {name: float(value) for name, value in metrics.items() if not pd.isna(value)}
            outcomes.append(outcome(row[f"tags.{CELL}"], int(row[f"tags.{SEED}"]), row["run_id"], numbers))
        return cls(outcomes, failed)

    def __len__(self) -> int:
        return sum(map(len, self._by_cell.values()))

    @property
    def runs(self) -> list[Outcome]:
        """All finished runs."""
        return [run for runs in self._by_cell.values() for run in runs]

    def of(self, cell: str) -> list[Outcome]:
        """Return the runs of a cell, by seed; none if it has not finished."""
        return self._by_cell.get(cell, [])

    def number(self, cell: str, metric: Metric, *, interval: bool = False) -> Number | None:
        """Return a metric of a cell; None if the cell has not finished.

        With one seed it has the interval over images, with several the smallest and the largest value.

        Args:
            cell: Name of the cell.
            metric: The metric.
            interval: With three or more seeds, return the 95 % interval over seeds and images instead, as of `seeds_t`.
        """
        runs = self.of(cell)
        if not runs:
            return None
        intervals = [run.number(metric) for run in runs]
        ids = tuple(run.run_id for run in runs)
        if len(intervals) == 1:
            return Number(*intervals[0], float("nan"), ids)
        values = np.array([value for value, _, _ in intervals])
        low, high = values.min(), values.max()
        if interval and len(runs) >= MIN_SEEDS and (shared := type(runs[0]).jackknife(runs, [metric] * len(runs))):
            _, low, high = seeds_t(shared.values, shared.without)
            low, high = max(low, 0.0), min(high, 1.0)
        return Number(values.mean(), low, high, values.std(ddof=1), ids)

    def choose(self, choice: Choice, protocol: Protocol) -> list[str]:
        """Return the best candidates by macro F1: on the val part, or with the papers' protocol on the test part.

        The mean is over the seeds with which all candidates have finished.

        Raises:
            InputError: A cell of the choice has not finished.
        """
        missing = [name for name, cell in choice.cells.items() if not self.of(cell)]
        seeds = set.intersection(*({run.seed for run in self.of(cell)} for cell in choice.cells.values()))
        if missing or not seeds:
            missing = missing or list(choice.cells)
            why = "; ".join(f"{name}: {self.failed.get(choice.cells[name], 'not run')}" for name in missing)
            msg = (
                "choice: every cell must have finished with one seed at least, these have not: "
                f"{why}; run the study again, which retries them"
            )
            raise InputError(msg)
        metric = INNER if protocol == "honest" else "f1_macro"
        scores = {
            name: fmean(run.number(metric)[0] for run in self.of(cell) if run.seed in seeds)
            for name, cell in choice.cells.items()
        }
        ranked = sorted(scores, key=lambda name: -scores[name])
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
class ClaimResult:
    """A claim and the result of its test.

    Attributes:
        claim: The sentence.
        higher: The number that is claimed to be higher, None if its cell has not finished.
        lower: The other number.
        difference: Higher minus lower.
        low: Lower end of its 95 % interval, NaN where there is none.
        high: Upper end.
        p_value: Two-sided, corrected by Holm's method over the claims of the study; None if nothing could be tested.
        test: Name of the test.
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


def evaluate_claims(claims: Sequence[Claim], outcomes: Outcomes) -> list[ClaimResult]:
    """Test every claim and correct for their number.

    Notes:
        With three or more seeds, seeds and images are both units: a t-test over the differences of the seeds, whose
        variance includes the part that comes from their common images (`results.significance.seeds_t`). With fewer,
        cells are compared image by image (cluster permutation, cluster-bootstrap interval), which covers only the
        choice of images. Numbers that were logged in training, without predictions, are compared by a paired t-test
        over seeds, which covers only the training.
    """
    tests = [_test(claim, outcomes) for claim in claims]
    raw = [test.p_value for test in tests if test and test.p_value is not None]
    corrected = iter(holm(raw).tolist() if raw else [])
    claim_results = []
    for claim, test in zip(claims, tests, strict=True):
        higher, lower = outcomes.number(*claim.higher), outcomes.number(*claim.lower)
        if test is None:
            nan = float("nan")
            test = DifferenceTest(nan, nan, nan, None, "a cell has not finished")
        p_value = None if test.p_value is None else next(corrected)
        verdict = _verdict(test, p_value)
        result = (test.difference, test.low, test.high, p_value, test.name)
        claim_results.append(ClaimResult(claim, higher, lower, *result, verdict))
    return claim_results


def _verdict(test: DifferenceTest, p_value: float | None) -> Verdict:
    if p_value is None:
        return "not tested"
    if p_value >= LEVEL:
        return "not confirmed"
    if test.by_seed:
        return "confirmed" if test.difference > 0 else "contradicted"
    if test.difference > 0:
        return "differs on these images for these models"
    return "differs the other way on these images for these models"


def _test(claim: Claim, outcomes: Outcomes) -> DifferenceTest | None:
    above = {run.seed: run for run in outcomes.of(claim.higher[0])}
    below = {run.seed: run for run in outcomes.of(claim.lower[0])}
    seeds = sorted(above.keys() & below.keys())
    if not seeds:
        return None
    metric = claim.higher[1]
    if len(seeds) >= MIN_SEEDS:
        runs = [*(below[seed] for seed in seeds), *(above[seed] for seed in seeds)]
        if shared := type(runs[0]).jackknife(runs, [*[claim.lower[1]] * len(seeds), *[metric] * len(seeds)]):
            return over_seeds(shared)
    if ON in metric:
        lower, higher = ([runs[seed].predictions for seed in seeds] for runs in (below, above))
        return paired(lower, higher, metric) if metric == claim.lower[1] else between(higher, claim.lower[1], metric)
    of_class = metric.startswith("f1_") and metric != "f1_macro"
    if len(seeds) < MIN_SEEDS and metric == claim.lower[1] and (metric in PAIRED or of_class):
        tables = matched([runs[seed].predictions for runs in (below, above) for seed in seeds])
        first, second = concatenated(tables[: len(seeds)]), concatenated(tables[len(seeds) :])
        classes = classes_of(first)
        table = paired_difference(first, second, classes)
        together = f", {len(seeds)} seeds together" if len(seeds) > 1 else ""
        if of_class:
            name = named_class(first, metric.removeprefix("f1_"))
            row = table[(table["metric"] == "f1") & (table["class"] == name)].iloc[0]
            how = f"interval over images{together}; a test needs {MIN_SEEDS} seeds"
            return DifferenceTest(float(row["difference"]), float(row["low"]), float(row["high"]), None, how)
        test = paired_permutation(first, second, classes, metric=cast(Paired, metric))
        row = table[(table["metric"] == metric) & (table["class"] == "")].iloc[0]
        return DifferenceTest(
            test.difference, float(row["low"]), float(row["high"]), test.p_value, test.test + together
        )
    pairs = [(above[seed].number(metric)[0], below[seed].number(claim.lower[1])[0]) for seed in seeds]
    values = np.array([higher - lower for higher, lower in pairs])
    mean, name = float(values.mean()), f"paired t over {len(seeds)} seeds"
    if len(values) < MIN_SEEDS:
        return DifferenceTest(mean, float("nan"), float("nan"), None, f"{len(seeds)} seeds are too few for a t-test")
    if np.ptp(values) < SAME:  # as accuracies of few images may be
        return DifferenceTest(mean, mean, mean, 1.0 if mean == 0 else None, f"{name}: all differences are equal")
    t_test = stats.ttest_1samp(values, 0.0)
    low, high = t_test.confidence_interval(0.95)
    return DifferenceTest(mean, float(low), float(high), float(t_test.pvalue), name)


@dataclass(frozen=True)
class RunContext:
    """How a study was run.

    Attributes:
        scale: tiny, small or paper.
        protocol: honest, or paper (selected on the test part).
        data: Name of the data set.
        options: The user's options, as words of a command line.
        experiment: Id of the MLflow experiment.
        parent: Run id of the study.
        chosen: Transforms that the study's choice selected.
    """

    scale: Scale
    protocol: Protocol
    data: str
    options: tuple[str, ...]
    experiment: str
    parent: str
    chosen: tuple[str, ...] = ()


def numbers(
    study: Study, outcomes: Outcomes, claim_results: Sequence[ClaimResult], context: RunContext
) -> pd.DataFrame:
    """Return every number of the report, one per row, with its runs."""
    rows = []
    for table in study.tables:
        for name, entries in table.rows.items():
            for column, entry in zip(table.columns, entries, strict=True):
                if entry is None:
                    continue
                number = outcomes.number(entry.cell, entry.metric, interval=table.intervals) if entry.cell else None
                ours = number or Number(math.nan, math.nan, math.nan, math.nan, ())
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
    for result in claim_results:
        ends = [number for number in (result.higher, result.lower) if number]
        published = result.claim.published
        rows.append(
            {
                "part": "claims",
                "row": result.claim.text,
                "column": result.verdict,
                "cell": f"{result.claim.higher[0]} - {result.claim.lower[0]}",
                "metric": result.claim.higher[1],
                "value": result.difference,
                "low": result.low,
                "high": result.high,
                "p": result.p_value,
                "published": published[0] - published[1] if published else None,
                "runs": " ".join(run for number in ends for run in number.runs),
            }
        )
    return pd.DataFrame(rows).assign(scale=context.scale, protocol=context.protocol, data=context.data)
