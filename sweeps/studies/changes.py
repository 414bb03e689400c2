"""What was won and what was forgotten: every class before and after, with paired intervals and p-values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from records.predictions import classes_of
from records.significance import holm
from sweeps.studies.by_image import RECALL, Tested, paired
from sweeps.studies.numbers import p_text, shown, signed
from sweeps.studies.outcomes import Number, Outcomes
from sweeps.studies.page import Block, CellText, Grid, Part, text
from sweeps.studies.plan import ON, Changes, Metric

ALL = "all together"


@dataclass(frozen=True)
class Change:
    """One number of a table of changes.

    Attributes:
        name: The class, or `all together`.
        metric: Accuracy, or recall of the class, of the group.
        column: Name of what is compared, and its cell.
        cell: That cell.
        before: Of the cell that all are compared with.
        after: Of this cell.
        tested: The difference, with a p-value that is corrected over the table; None where they share no seed.
        published: Before and after, if published.
    """

    name: str
    metric: Metric
    column: str
    cell: str
    before: Number | None
    after: Number | None
    tested: Tested | None
    published: tuple[float, float] | None


def found_changes(changes: Changes, outcomes: Outcomes) -> list[Change]:
    """Return the numbers of a table, row by row; none as long as the cell before has not finished."""
    runs = outcomes.of(changes.before)
    if not runs:
        return []
    classes = [str(name) for name in classes_of(runs[0].predictions)]
    rows = [(ALL, f"accuracy{ON}{changes.on}"), *((name, f"{RECALL}{name}{ON}{changes.on}") for name in classes)]
    found = []
    for name, metric in rows:
        for place, (column, cell) in enumerate(changes.after.items()):
            published = changes.published.get("" if name == ALL else name) if place == 0 else None
            before, after = outcomes.number(changes.before, metric), outcomes.number(cell, metric)
            tested = _tested(changes.before, cell, metric, outcomes)
            found.append(Change(name, metric, column, cell, before, after, tested, published))
    return _corrected([one for one in found if one.before is not None and not math.isnan(one.before.value)])


def _tested(before: str, after: str, metric: Metric, outcomes: Outcomes) -> Tested | None:
    one, other = ({run.seed: run.predictions for run in outcomes.of(cell)} for cell in (before, after))
    seeds = sorted(one.keys() & other.keys())
    return paired([one[seed] for seed in seeds], [other[seed] for seed in seeds], metric) if seeds else None


def _corrected(found: list[Change]) -> list[Change]:
    raw = [one.tested.p_value for one in found if one.tested and one.tested.p_value is not None]
    values = iter(holm(raw).tolist() if raw else [])
    return [
        replace(one, tested=replace(one.tested, p_value=next(values)))
        if one.tested and one.tested.p_value is not None
        else one
        for one in found
    ]


def block(changes: Changes, found: Sequence[Change]) -> Block:
    """Return the table: a row a class, a column a cell."""
    names = list(dict.fromkeys(one.name for one in found))
    columns = list(changes.after)
    rows = []
    for name in names:
        of = {one.column: one for one in found if one.name == name}
        first = of[columns[0]]
        before: CellText = _number(first.before)
        if first.published:
            before = (*before, Part(f"paper {shown(first.published[0])}", small=True))
        rows.append((text(name), before, *(_changed(of[column]) for column in columns)))
    said = (
        f"The group {changes.on} of the reported images. For each class the share of correct answers: before, after "
        "and the difference, with its 95 % interval and p. With three or more seeds, seeds and images are both units "
        "of the test; with fewer, only the images are. p is corrected by Holm's method over the whole table; ! marks "
        "p < .05."
    )
    return Block(changes.title, (said, *filter(None, [changes.note])), Grid(("", "before", *columns), tuple(rows)))


def rows(changes: Changes, found: Sequence[Change]) -> list[dict[str, object]]:
    """Return the table for the report's file of numbers."""
    return [
        {
            "part": changes.title,
            "row": one.name,
            "column": one.column,
            "cell": f"{one.cell} - {changes.before}",
            "metric": one.metric,
            "value": one.tested.difference if one.tested else math.nan,
            "low": one.tested.low if one.tested else math.nan,
            "high": one.tested.high if one.tested else math.nan,
            "p": one.tested.p_value if one.tested else None,
            "published": one.published[1] - one.published[0] if one.published else None,
            "runs": " ".join(run for number in (one.after, one.before) if number for run in number.runs),
        }
        for one in found
    ]


def _number(number: Number | None) -> CellText:
    return (Part(shown(number.value), number.runs[0]),) if number else text("not run", small=True)


def _changed(one: Change) -> CellText:
    if one.tested is None or one.after is None:
        return text("not run", small=True)
    p_value = one.tested.p_value
    sure = p_value is not None and p_value < 0.05
    parts = [*_number(one.after), Part(f"{'!' if sure else ''}{signed(one.tested.difference)}")]
    parts.append(Part(f"{signed(one.tested.low)} to {signed(one.tested.high)}", small=True))
    if p_value is not None:
        parts.append(Part(f"p {p_text(p_value)}", small=True))
    if one.published:
        paper = f"paper {shown(one.published[1])} ({signed(one.published[1] - one.published[0])})"
        parts.append(Part(paper, small=True))
    return tuple(parts)
