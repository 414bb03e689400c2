"""Every number of a study's report as a table, the circumstances it came about in, and how numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sweeps.studies.claims import Judged
from sweeps.studies.outcomes import Number, Outcomes
from sweeps.studies.plan import Protocol, Scale, Study


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
