"""The report of a study: our numbers beside the published ones, claims with p-values, figures, every number's runs."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.predictions import classes_of
from results.reports.figures import COLOURS, STYLES, png_of
from results.reports.pages import Image, Section, render, run_url, write_files
from results.reports.tables import SCORES, Part, interval, number, p_value, signed
from results.significance import holm
from sweeps.studies.analysis import (
    RECALL,
    Circumstances,
    Judged,
    Number,
    Outcomes,
    Tested,
    judge,
    numbers,
    paired,
)
from sweeps.studies.detection import seed_changes
from sweeps.studies.schema import ON, Changes, Entry, Metric, Picture, SeedChanges, Study, Table

CellText = tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """A whole report. Links of its tables are run ids; `experiment` is the id of their MLflow experiment."""

    title: str
    lead: tuple[str, ...]
    blocks: tuple[Section, ...]
    experiment: str


def text(value: str, *, small: bool = False) -> CellText:
    """Return a cell of plain text."""
    return (Part(value, small=small),)


def grid(columns: Sequence[str], rows: Sequence[Sequence[CellText]]) -> pd.DataFrame:
    """Return a table of cells; the first cell of a row names it."""
    return pd.DataFrame(list(rows), columns=list(columns))


def _rendered(page: Page, suffix: str) -> str:
    """Return the page as `md` or `html`, its numbers linked to their runs."""

    def linked(cell: CellText) -> CellText:
        return tuple(replace(part, link=run_url(page.experiment, part.link)) if part.link else part for part in cell)

    sections = [
        section if section.table is None else replace(section, table=section.table.map(linked))
        for section in page.blocks
    ]
    return render(f"study.{suffix}", title=page.title, lead=page.lead, sections=sections)


_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw(picture: Picture, outcomes: Outcomes, judged: Sequence[Judged]) -> bytes | None:
    """Return a figure as PNG; None when none of its cells has been finished."""
    if not any(outcomes.of(cell) for cell in picture.cells.values()):
        return None
    drawing = {"curves": _curves, "trade": _trade, "spread": _spread, "plane": _plane}.get(picture.kind)
    figure = drawing(picture, outcomes) if drawing else _differences(picture, judged)
    return png_of(figure) if figure else None


def _curves(picture: Picture, outcomes: Outcomes) -> Figure:
    """One panel a metric; colour and mark tell the cells apart, solid is training and dashed what is selected on."""
    figure = Figure(figsize=(5.2 * len(picture.metrics), 3.8), layout="constrained")
    panels = figure.subplots(1, len(picture.metrics), squeeze=False)[0]
    for axes, metric in zip(panels, picture.metrics, strict=True):
        for place, (name, cell) in enumerate(picture.cells.items()):
            for outcome in outcomes.of(cell)[:1]:
                for stage, style in (("train", "-"), ("val", "--")):
                    curve = outcome.curves[outcome.curves["name"] == f"{stage}/{metric}"].sort_values("step")
                    if len(curve):
                        epochs = np.arange(1, len(curve) + 1)
                        part = "training" if stage == "train" else "selected on"
                        colour = COLOURS[place % len(COLOURS)]
                        axes.plot(epochs, curve["value"], style, color=colour, label=f"{name}, {part}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(SCORES.get(metric, metric))
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=7)
    return figure


def _trade(picture: Picture, outcomes: Outcomes) -> Figure:
    """Scores over parameters and over FLOPs, one mark a cell."""
    costs = ("model/parameters", "model/flops")
    size = (4.6 * len(costs), 3.4 * len(picture.metrics))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(picture.metrics), len(costs), squeeze=False)
    for line, metric in zip(panels, picture.metrics, strict=True):
        for axes, cost in zip(line, costs, strict=True):
            for place, (name, cell) in enumerate(picture.cells.items()):
                at, score = outcomes.number(cell, cost), outcomes.number(cell, metric)
                if at is None or score is None:
                    continue
                colour, mark = COLOURS[place % len(COLOURS)], _MARKS[place % len(_MARKS)]
                spread = [[score.value - score.low], [score.high - score.value]]
                axes.errorbar(at.value, score.value, spread, fmt=mark, color=colour, capsize=3, label=name)
            axes.set_xscale("log")
            axes.set_xlabel("parameters" if cost.endswith("parameters") else "FLOPs of one image")
            axes.set_ylabel(SCORES.get(metric, metric))
            axes.grid(alpha=0.3, which="both")
    panels[0][0].legend(fontsize=7)
    return figure


def _spread(picture: Picture, outcomes: Outcomes) -> Figure:
    """Every repeat as a dot, their mean as a line, the published number as a cross."""
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.subplots()
    metrics = picture.metrics if len(picture.metrics) > 1 else picture.metrics * len(picture.cells)
    names = (
        list(picture.cells) if len(picture.metrics) == 1 else [metric.rpartition(" ")[2] for metric in picture.metrics]
    )
    cells = list(picture.cells.values()) * (len(metrics) // len(picture.cells))
    means = []
    for place, (cell, metric) in enumerate(zip(cells, metrics, strict=True)):
        values = [outcome.number(metric)[0] for outcome in outcomes.of(cell)]
        label = "one repeat" if place == 0 else None
        axes.plot([place] * len(values), values, "o", color=COLOURS[0], alpha=0.5, ms=5, label=label)
        means.append(float(np.mean(values)) if values else np.nan)
    axes.plot(range(len(means)), means, "-", color=COLOURS[0], lw=1.5, label="mean of the repeats")
    known = [picture.published.get(name, np.nan) for name in names]
    if not np.isnan(known).all():
        axes.plot(range(len(known)), known, "x", color=COLOURS[1], ms=8, mew=2, label="the paper's single run")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_ylabel("accuracy")
    _finish(axes)
    return figure


def _plane(picture: Picture, outcomes: Outcomes) -> Figure:
    """One metric over another: a mark a cell, with the range of its seeds or its interval; a line where both agree."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, cell) in enumerate(picture.cells.items()):
        across, up = (outcomes.number(cell, metric) for metric in picture.metrics)
        if across is None or up is None:
            continue
        reach = [[[max(0.0, axis.value - axis.low)], [max(0.0, axis.high - axis.value)]] for axis in (across, up)]
        colour, mark = COLOURS[place % len(COLOURS)], _MARKS[place % len(_MARKS)]
        axes.errorbar(across.value, up.value, reach[1], reach[0], fmt=mark, color=colour, capsize=3, ms=7, label=name)
    ends = [max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1])]
    if ends[0] < ends[1]:
        axes.plot(ends, ends, color="black", lw=0.8, ls=STYLES[1])
    axes.set_xlabel(picture.metrics[0])
    axes.set_ylabel(picture.metrics[1])
    _finish(axes)
    return figure


def _differences(picture: Picture, judged: Sequence[Judged]) -> Figure | None:
    """One line a claim: the difference and its interval against zero."""
    shown = [one for one in judged if one.claim.higher[0] in picture.cells.values()]
    shown = [one for one in shown if one.claim.higher[1] in picture.metrics and not np.isnan(one.difference)]
    if not shown:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(shown)):
        ends = [[max(0.0, one.difference - one.low)], [max(0.0, one.high - one.difference)]]
        drawn = None if np.isnan(one.low) else ends
        differs = one.verdict == "differs on these images for these models"
        sure = one.verdict == "confirmed" or differs
        colour, mark = COLOURS[1 if sure else 0], "D" if differs else "s" if sure else "o"
        axes.errorbar(one.difference, place, xerr=drawn, fmt=mark, color=colour, capsize=3)
    axes.axvline(0, color="black", lw=1, ls=STYLES[1])
    axes.set_yticks(range(len(shown)), [one.claim.text for one in reversed(shown)], fontsize=8)
    label = "difference with its 95 % interval; at p < .05 square: confirmed, diamond: these models on these images"
    axes.set_xlabel(label, loc="right", fontsize=8)
    axes.grid(alpha=0.3, axis="x")
    return figure


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


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


def block(changes: Changes, found: Sequence[Change]) -> Section:
    """Return the table: a row a class, a column a cell."""
    names = list(dict.fromkeys(one.name for one in found))
    columns = list(changes.after)
    rows = []
    for name in names:
        of = {one.column: one for one in found if one.name == name}
        first = of[columns[0]]
        before: CellText = _number(first.before)
        if first.published:
            before = (*before, _paper(first.published[0]))
        rows.append((text(name), before, *(_changed(of[column]) for column in columns)))
    note = (
        f"The group {changes.on} of the reported images. For each class the share of correct answers: before, after "
        "and the difference, with its 95 % interval and p. With three or more seeds, seeds and images are both units "
        "of the test; with fewer, only the images are. p is corrected by Holm's method over the whole table; ! marks "
        "p < .05."
    )
    return Section(changes.title, (note, *filter(None, [changes.note])), grid(("", "before", *columns), rows))


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
            "runs": " ".join(run for result in (one.after, one.before) if result for run in result.runs),
        }
        for one in found
    ]


def seed_block(changes: SeedChanges, found: pd.DataFrame) -> Section:
    """Return a table of differences by seed: a row a set of images, seed and metric."""
    names = ("", "metric", "held-out images", "faces", "before", "after", "difference", "95 % interval", "p")
    rows: list[tuple[CellText, ...]] = [
        (
            text(f"{row.pictures}, seed {row.seed}"),
            text(changes.metrics[row.metric]),
            text(str(row.held_out)),
            text(str(row.faces)),
            (Part(number(row.before), row.run_before),),
            (Part(number(row.after), row.run_after),),
            text(signed(row.difference)),
            text(interval(row.low, row.high, sign=True)),
            text(p_value(row.p)),
        )
        for row in found.itertuples()
    ]
    note = (
        "Intervals: held-out images drawn anew 1,000 times, the same ones before and after. p: at random, images "
        "swap what was found before and after, 1,000 times; not corrected for the number of lines."
    )
    return Section(changes.title, (note,), grid(names, rows))


def seed_rows(found: pd.DataFrame) -> list[dict[str, object]]:
    """Return the table of differences by seed for the report's file of numbers."""
    return [
        {
            "part": "after - before",
            "row": f"{row.pictures}, seed {row.seed}",
            "metric": row.metric,
            "value": row.difference,
            "low": row.low,
            "high": row.high,
            "p": row.p,
            "runs": f"{row.run_before} {row.run_after}",
            "before": row.before,
            "after": row.after,
            "held_out": row.held_out,
            "faces": row.faces,
        }
        for row in found.itertuples()
    ]


def _number(result: Number | None) -> CellText:
    return (Part(number(result.value, "-"), result.runs[0]),) if result else text("not run", small=True)


def _paper(value: float) -> Part:
    return Part(f"paper {number(value)}", small=True)


def _changed(one: Change) -> CellText:
    if one.tested is None or one.after is None:
        return text("not run", small=True)
    chance = one.tested.p_value
    sure = chance is not None and chance < 0.05
    parts = [*_number(one.after), Part(f"{'!' if sure else ''}{signed(one.tested.difference)}")]
    parts.append(Part(interval(one.tested.low, one.tested.high, sign=True), small=True))
    if chance is not None:
        parts.append(Part(f"p {p_value(chance)}", small=True))
    if one.published:
        paper = f"paper {number(one.published[1])} ({signed(one.published[1] - one.published[0])})"
        parts.append(Part(paper, small=True))
    return tuple(parts)


_SCALES = {
    "tiny": "Scale tiny shows that the study runs from end to end; its numbers say nothing of photographs.",
    "small": "Scale small is a smaller experiment than the published one (fewer images, pixels or epochs, and only "
    "backbones whose weights are installed); it can agree or disagree in direction, not in size.",
    "paper": "Scale paper follows the published protocol in data sizes, epochs and optimizer.",
}


def write_report(study: Study, outcomes: Outcomes, now: Circumstances, folder: Path) -> list[Path]:
    """Write report.md, report.html, report.csv and the figures into a folder; return their paths."""
    judged = judge(study.claims, outcomes)
    changed = [found_changes(one, outcomes) for one in study.changes]
    by_seed = [seed_changes(one, outcomes) for one in study.seed_changes]
    page = compose(study, outcomes, judged, now, changed, by_seed)
    table = numbers(study, outcomes, judged, now)
    more = [row for one, found in zip(study.changes, changed, strict=True) for row in rows(one, found)]
    more += [row for found in by_seed for row in seed_rows(found)]
    if more:
        same = {name: table[name].iloc[0] for name in ("scale", "protocol", "data")}
        table = pd.concat([table, pd.DataFrame(more).assign(**same)], ignore_index=True)
    files: dict[str, str | bytes] = {
        "report.md": _rendered(page, "md"),
        "report.html": _rendered(page, "html"),
        "report.csv": table.to_csv(index=False),
    }
    files |= {image.file: image.png for section in page.blocks for image in section.images}
    return write_files(folder, files)


def compose(
    study: Study,
    outcomes: Outcomes,
    judged: Sequence[Judged],
    now: Circumstances,
    changed: Sequence[list[Change]] = (),
    by_seed: Sequence[pd.DataFrame] = (),
) -> Page:
    """Return the page; its first line states scale and protocol."""
    protocol = {"honest": "honest", "paper": "of the papers (selected and reported on the same part)"}[now.protocol]
    if study.name == "leakage":
        protocol = "each of those compared"
    done = sum(bool(outcomes.of(cell.name)) for cell in study.cells)
    lead = [
        f"{study.about[0].upper()}{study.about[1:]}. Source: {study.source}.",
        _SCALES[now.scale],
        f"{done} of {len(study.cells)} cells finished, {len(outcomes)} runs, seeds {', '.join(map(str, study.seeds))}.",
        *study.notes,
        _reading(study),
    ]
    if now.options:
        options = [re.sub(r"[^:=]*/(?=[^/]+/?$)", "", word) for word in now.options]  # names without their folders
        lead.append(f"Options laid over every cell: {' '.join(options)}")
    if now.chosen:
        where = "the part selected on" if now.protocol == "honest" else "the reported part itself"
        lead.append(f"Chosen transforms, by macro F1 on {where}: {', '.join(now.chosen)}.")
        if now.protocol == "honest" and any(cell.folds for cell in study.cells if cell.chosen):
            lead.append(
                "The choice is one for all folds, made on the val parts of all of them: an image that one fold "
                "reports took part in it in another fold, so what was chosen looks a little better than it is."
            )
    blocks = [Section(one.title, (one.note,) if one.note else (), _grid(one, outcomes)) for one in study.tables]
    blocks += [block(one, found) for one, found in zip(study.changes, changed, strict=False) if found]
    blocks += [seed_block(one, found) for one, found in zip(study.seed_changes, by_seed, strict=False) if len(found)]
    if judged:
        blocks.append(_claims(judged))
    for place, picture in enumerate(study.pictures, 1):
        png = draw(picture, outcomes, judged)
        if png:
            image = Image(f"figures/{place}-{picture.kind}.png", f"{picture.title} ({picture.kind})", png)
            blocks.append(Section(picture.title, images=(image,)))
    if outcomes.failed:
        rows = [(text(name), text(reason)) for name, reason in sorted(outcomes.failed.items())]
        blocks.append(Section("Cells that failed", table=grid(("cell", "reason"), rows)))
    title = f"{study.name}: scale {now.scale}, protocol {protocol}, data {now.data}"
    return Page(title, tuple(lead), tuple(blocks), now.experiment)


def _reading(study: Study) -> str:
    numbers = (
        "Small print below a number: its 95 % interval (clusters of duplicates and people resampled within classes)"
        if len(study.seeds) == 1
        else "A number is the mean over seeds, ± their standard deviation; small print: the smallest and the largest"
    )
    return (
        f"{numbers}, and what was published, if anything; what is not run at this scale shows that alone. "
        "Numbers link to their MLflow runs, which `make ui` serves."
    )


def _grid(table: Table, outcomes: Outcomes) -> pd.DataFrame:
    rows = [
        (text(name), *(_cell(entry, outcomes) if entry else text("") for entry in row))
        for name, row in table.rows.items()
    ]
    return grid(("", *table.columns), rows)


def _cell(entry: Entry, outcomes: Outcomes) -> CellText:
    result = outcomes.number(entry.cell, entry.metric) if entry.cell else None
    published = (_paper(entry.published),) if entry.published is not None else ()
    if result is None:
        missing = (Part("failed" if entry.cell in outcomes.failed else "not run", small=True),) if entry.cell else ()
        return (*missing, *published)
    return (*_linked(result), *published)


def _linked(result: Number) -> CellText:
    parts = _number(result)
    if not math.isnan(result.sd):
        others = tuple(Part(f"run {place}", run) for place, run in enumerate(result.runs[1:], start=2))
        parts = (*parts, Part(f"± {number(result.sd)}"), *others)
    return parts if math.isnan(result.low) else (*parts, Part(interval(result.low, result.high), small=True))


def _claims(judged: Sequence[Judged]) -> Section:
    any_published = any(one.claim.published for one in judged)
    columns = (
        "claim",
        *("published",) * any_published,
        "ours",
        "difference",
        "95 % interval",
        "p (Holm)",
        "test",
        "verdict",
    )
    rows = []
    for one in judged:
        published = one.claim.published
        paper = f"{number(published[0])} and {number(published[1])}" if published else ""
        ours = tuple(
            part
            for result, joint in ((one.higher, "and"), (one.lower, ""))
            if result
            for part in (*_number(result), *((Part(joint),) if joint else ()))
        )
        rows.append(
            (
                text(one.claim.text),
                *(text(paper),) * any_published,
                ours or text("not run"),
                text(signed(one.difference)),
                text(interval(one.low, one.high, sign=True)),
                text("" if one.p_value is None else p_value(one.p_value)),
                text(one.test, small=True),
                text(verdict_text(one)),
            )
        )
    always = ("confirmed", "not confirmed", "contradicted", "not tested")
    kinds = [*always, *sorted({one.verdict for one in judged} - set(always))]
    count = ", ".join(f"{kind} {sum(one.verdict == kind for one in judged)}" for kind in kinds)
    note = (
        f"Of {len(judged)} claims: {count}. A claim is confirmed or contradicted when p < .05 after Holm's correction, "
        "in a test over three or more training seeds and the images they share. With fewer seeds, or for a number that "
        "was logged without predictions, p < .05 says only that these models differ on these images; models of other "
        "seeds may not."
    )
    return Section("Claims", (note,), grid(columns, rows))


def verdict_text(one: Judged) -> str:
    """Return the verdict; where nothing is shown, which way the difference points."""
    if one.verdict in ("not confirmed", "not tested") and not math.isnan(one.difference):
        way = "as claimed" if one.difference > 0 else "the other way" if one.difference < 0 else "nowhere"
        return f"{one.verdict} (points {way})"
    return one.verdict
