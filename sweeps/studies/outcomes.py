"""What the finished cells of a study say: numbers with intervals or spreads, each with the runs it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from records.runs import children, load_table
from sweeps.studies.by_image import LeftOut, left_out, value
from sweeps.studies.plan import ON, Choice, Metric, Protocol

CELL, SEED = "cell", "seed"  # tags of a run that a cell has finished
INNER = "inner/f1_macro"  # the best epoch's, on what is selected on
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
        """Return the best of a choice by macro F1: on the inner part, or, in the papers' protocol, on the reported one.

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
