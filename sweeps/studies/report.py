"""Report of a study: numbers beside published ones, claims with p-values, figures, and links to runs."""

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
    MIN_SEEDS,
    RECALL,
    ClaimResult,
    DifferenceTest,
    Number,
    Outcomes,
    RunContext,
    evaluate_claims,
    named_class,
    numbers,
    paired,
)
from sweeps.studies.detection import seed_changes
from sweeps.studies.schema import (
    LARGEST,
    ON,
    RAREST,
    Changes,
    Entry,
    FigureSpec,
    Metric,
    SeedChanges,
    Study,
    Table,
)

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


def draw(spec: FigureSpec, outcomes: Outcomes, claim_results: Sequence[ClaimResult]) -> bytes | None:
    """Return a figure as PNG; None if none of its cells has finished."""
    if not any(outcomes.of(cell) for cell in spec.cells.values()):
        return None
    drawing = {"curves": _curves, "trade": _trade, "spread": _spread, "plane": _plane}.get(spec.kind)
    figure = drawing(spec, outcomes) if drawing else _differences(spec, claim_results)
    return png_of(figure) if figure else None


def _curves(spec: FigureSpec, outcomes: Outcomes) -> Figure:
    """Draw one panel per metric; solid lines are the train part, dashed lines the part that selects the epoch."""
    figure = Figure(figsize=(5.2 * len(spec.metrics), 3.8), layout="constrained")
    panels = figure.subplots(1, len(spec.metrics), squeeze=False)[0]
    for axes, metric in zip(panels, spec.metrics, strict=True):
        for place, (name, cell) in enumerate(spec.cells.items()):
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


def _trade(spec: FigureSpec, outcomes: Outcomes) -> Figure:
    """Draw scores over parameters and over FLOPs, one mark per cell."""
    costs = ("model/parameters", "model/flops")
    size = (4.6 * len(costs), 3.4 * len(spec.metrics))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(spec.metrics), len(costs), squeeze=False)
    for line, metric in zip(panels, spec.metrics, strict=True):
        for axes, cost in zip(line, costs, strict=True):
            for place, (name, cell) in enumerate(spec.cells.items()):
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


def _spread(spec: FigureSpec, outcomes: Outcomes) -> Figure:
    """Draw every repetition as a dot, their mean as a line, the published number as a cross."""
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.subplots()
    metrics = spec.metrics if len(spec.metrics) > 1 else spec.metrics * len(spec.cells)
    names = list(spec.cells) if len(spec.metrics) == 1 else [metric.rpartition(" ")[2] for metric in spec.metrics]
    cells = list(spec.cells.values()) * (len(metrics) // len(spec.cells))
    means = []
    for place, (cell, metric) in enumerate(zip(cells, metrics, strict=True)):
        values = [outcome.number(metric)[0] for outcome in outcomes.of(cell)]
        label = "one repetition" if place == 0 else None
        axes.plot([place] * len(values), values, "o", color=COLOURS[0], alpha=0.5, ms=5, label=label)
        means.append(float(np.mean(values)) if values else np.nan)
    axes.plot(range(len(means)), means, "-", color=COLOURS[0], lw=1.5, label="mean of the repetitions")
    known = [spec.published.get(name, np.nan) for name in names]
    if not np.isnan(known).all():
        axes.plot(range(len(known)), known, "x", color=COLOURS[1], ms=8, mew=2, label="the paper's single run")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_ylabel("accuracy")
    _finish(axes)
    return figure


def _plane(spec: FigureSpec, outcomes: Outcomes) -> Figure:
    """Draw one metric over another: a mark per cell, with the range of its seeds or its interval, and the diagonal."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, cell) in enumerate(spec.cells.items()):
        across, up = (outcomes.number(cell, metric) for metric in spec.metrics)
        if across is None or up is None:
            continue
        reach = [[[max(0.0, axis.value - axis.low)], [max(0.0, axis.high - axis.value)]] for axis in (across, up)]
        colour, mark = COLOURS[place % len(COLOURS)], _MARKS[place % len(_MARKS)]
        axes.errorbar(across.value, up.value, reach[1], reach[0], fmt=mark, color=colour, capsize=3, ms=7, label=name)
    ends = [max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1])]
    if ends[0] < ends[1]:
        axes.plot(ends, ends, color="black", lw=0.8, ls=STYLES[1])
    axes.set_xlabel(spec.metrics[0])
    axes.set_ylabel(spec.metrics[1])
    _finish(axes)
    return figure


def _differences(spec: FigureSpec, claim_results: Sequence[ClaimResult]) -> Figure | None:
    """Draw one line per claim: the difference and its interval."""
    shown = [result for result in claim_results if result.claim.higher[0] in spec.cells.values()]
    shown = [result for result in shown if result.claim.higher[1] in spec.metrics and not np.isnan(result.difference)]
    if not shown:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(reversed(shown)):
        ends = [[max(0.0, result.difference - result.low)], [max(0.0, result.high - result.difference)]]
        drawn = None if np.isnan(result.low) else ends
        differs = result.verdict == "differs on these images for these models"
        significant = result.verdict == "confirmed" or differs
        colour, mark = COLOURS[1 if significant else 0], "D" if differs else "s" if significant else "o"
        axes.errorbar(result.difference, place, xerr=drawn, fmt=mark, color=colour, capsize=3)
    axes.axvline(0, color="black", lw=1, ls=STYLES[1])
    axes.set_yticks(range(len(shown)), [result.claim.text for result in reversed(shown)], fontsize=8)
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
    tested: DifferenceTest | None
    published: tuple[float, float] | None


def compute_changes(changes: Changes, outcomes: Outcomes) -> list[Change]:
    """Return the numbers of a table, row by row; none if the cell before has not finished."""
    runs = outcomes.of(changes.before)
    if not runs:
        return []
    classes = [str(name) for name in classes_of(runs[0].predictions)]
    rows = [(ALL, f"accuracy{ON}{changes.on}"), *((name, f"{RECALL}{name}{ON}{changes.on}") for name in classes)]
    rows_found = []
    for name, metric in rows:
        for place, (column, cell) in enumerate(changes.after.items()):
            published = changes.published.get("" if name == ALL else name) if place == 0 else None
            before, after = outcomes.number(changes.before, metric), outcomes.number(cell, metric)
            tested = _tested(changes.before, cell, metric, outcomes)
            rows_found.append(Change(name, metric, column, cell, before, after, tested, published))
    return _corrected(
        [change for change in rows_found if change.before is not None and not math.isnan(change.before.value)]
    )


def _tested(before: str, after: str, metric: Metric, outcomes: Outcomes) -> DifferenceTest | None:
    first, second = ({run.seed: run.predictions for run in outcomes.of(cell)} for cell in (before, after))
    seeds = sorted(first.keys() & second.keys())
    return paired([first[seed] for seed in seeds], [second[seed] for seed in seeds], metric) if seeds else None


def _corrected(entries: list[Change]) -> list[Change]:
    raw = [change.tested.p_value for change in entries if change.tested and change.tested.p_value is not None]
    values = iter(holm(raw).tolist() if raw else [])
    return [
        replace(change, tested=replace(change.tested, p_value=next(values)))
        if change.tested and change.tested.p_value is not None
        else change
        for change in entries
    ]


def block(changes: Changes, entries: Sequence[Change]) -> Section:
    """Return the table: a row per class, a column per cell."""
    names = list(dict.fromkeys(change.name for change in entries))
    columns = list(changes.after)
    rows = []
    for name in names:
        of = {change.column: change for change in entries if change.name == name}
        first = of[columns[0]]
        before: CellText = _number(first.before)
        if first.published:
            before = (*before, _paper(first.published[0]))
        rows.append((text(name), before, *(_changed(of[column]) for column in columns)))
    note = (
        f"Test images of the group {changes.on}. For each class the share of correct predictions: before, after "
        "and the difference, with its 95 % interval and p. With three or more seeds, seeds and images are both units "
        "of the test; with fewer, only the images are. p is corrected by Holm's method over the whole table; ! marks "
        "p < .05."
    )
    return Section(changes.title, (note, *filter(None, [changes.note])), grid(("", "before", *columns), rows))


def rows(changes: Changes, entries: Sequence[Change]) -> list[dict[str, object]]:
    """Return the table for the report's file of numbers."""
    return [
        {
            "part": changes.title,
            "row": change.name,
            "column": change.column,
            "cell": f"{change.cell} - {changes.before}",
            "metric": change.metric,
            "value": change.tested.difference if change.tested else math.nan,
            "low": change.tested.low if change.tested else math.nan,
            "high": change.tested.high if change.tested else math.nan,
            "p": change.tested.p_value if change.tested else None,
            "published": change.published[1] - change.published[0] if change.published else None,
            "runs": " ".join(run for result in (change.after, change.before) if result for run in result.runs),
        }
        for change in entries
    ]


def seed_block(changes: SeedChanges, table: pd.DataFrame) -> Section:
    """Return a table of differences by seed: a row a set of images, seed and metric."""
    names = ("", "metric", "held-out images", "faces", "before", "after", "difference", "95 % interval", "p")
    rows: list[tuple[CellText, ...]] = [
        (
            text(f"{row.images}, seed {row.seed}"),
            text(changes.metrics[row.metric]),
            text(str(row.held_out)),
            text(str(row.faces)),
            (Part(number(row.before), row.run_before),),
            (Part(number(row.after), row.run_after),),
            text(signed(row.difference)),
            text(interval(row.low, row.high, sign=True)),
            text(p_value(row.p)),
        )
        for row in table.itertuples()
    ]
    note = (
        "Intervals: 1,000 bootstrap resamples of the held-out images, the same before and after. p: 1,000 random "
        "permutations, in which images exchange the detections before and after; not corrected for the number of rows."
    )
    return Section(changes.title, (note,), grid(names, rows))


def seed_rows(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the table of differences by seed for the report's file of numbers."""
    return [
        {
            "part": "after - before",
            "row": f"{row.images}, seed {row.seed}",
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
        for row in table.itertuples()
    ]


def _number(result: Number | None) -> CellText:
    return (Part(number(result.value, "-"), result.runs[0]),) if result else text("not run", small=True)


def _paper(value: float) -> Part:
    return Part(f"paper {number(value)}", small=True)


def _changed(change: Change) -> CellText:
    if change.tested is None or change.after is None:
        return text("not run", small=True)
    chance = change.tested.p_value
    significant = chance is not None and chance < 0.05
    parts = [*_number(change.after), Part(f"{'!' if significant else ''}{signed(change.tested.difference)}")]
    parts.append(Part(interval(change.tested.low, change.tested.high, sign=True), small=True))
    if chance is not None:
        parts.append(Part(f"p {p_value(chance)}", small=True))
    if change.published:
        paper = f"paper {number(change.published[1])} ({signed(change.published[1] - change.published[0])})"
        parts.append(Part(paper, small=True))
    return tuple(parts)


_SCALES = {
    "tiny": "Scale tiny shows that the study runs from end to end; its numbers do not apply to photographs.",
    "small": "Scale small is a smaller experiment than the published one (fewer images, pixels or epochs, and only "
    "backbones whose weights are installed); it can agree or disagree in direction, not in size.",
    "paper": "Scale paper follows the published protocol in data sizes, epochs and optimizer.",
}


def write_report(study: Study, outcomes: Outcomes, context: RunContext, folder: Path) -> list[Path]:
    """Write report.md, report.html, report.csv and the figures into a folder; return their paths."""
    claim_results = evaluate_claims(study.claims, outcomes)
    by_class = [compute_changes(changes, outcomes) for changes in study.changes]
    by_seed = [seed_changes(changes, outcomes) for changes in study.seed_changes]
    page = compose(study, outcomes, claim_results, context, by_class, by_seed)
    table = numbers(study, outcomes, claim_results, context)
    more = [row for changes, entries in zip(study.changes, by_class, strict=True) for row in rows(changes, entries)]
    more += [row for entries in by_seed for row in seed_rows(entries)]
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
    claim_results: Sequence[ClaimResult],
    context: RunContext,
    by_class: Sequence[list[Change]] = (),
    by_seed: Sequence[pd.DataFrame] = (),
) -> Page:
    """Return the page; its first line states scale and protocol."""
    protocol = {"honest": "honest", "paper": "of the papers (selected and reported on the same part)"}[context.protocol]
    if study.name == "leakage":
        protocol = "each of those compared"
    done = sum(bool(outcomes.of(cell.name)) for cell in study.cells)
    lead = [
        f"{study.about[0].upper()}{study.about[1:]}. Source: {study.source}.",
        _SCALES[context.scale],
        f"{done} of {len(study.cells)} cells finished, {len(outcomes)} runs, seeds {', '.join(map(str, study.seeds))}.",
        *study.notes,
        _reading(study),
    ]
    lead += _named_classes(study, outcomes)
    if context.options:
        options = [re.sub(r"[^:=]*/(?=[^/]+/?$)", "", word) for word in context.options]  # names without their folders
        lead.append(f"Options of every cell: {' '.join(options)}")
    if context.chosen:
        where = "the val part" if context.protocol == "honest" else "the test part itself"
        lead.append(f"Chosen transforms, by macro F1 on {where}: {', '.join(context.chosen)}.")
        if context.protocol == "honest" and any(cell.folds for cell in study.cells if cell.chosen):
            lead.append(
                "The choice is the same for all folds and uses the val parts of all folds: test images of one fold "
                "are in the val part of another, so the chosen transforms look slightly better than they are."
            )
    blocks = [Section(one.title, (one.note,) if one.note else (), _grid(one, outcomes)) for one in study.tables]
    blocks += [block(one, entries) for one, entries in zip(study.changes, by_class, strict=False) if entries]
    blocks += [
        seed_block(one, entries) for one, entries in zip(study.seed_changes, by_seed, strict=False) if len(entries)
    ]
    if claim_results:
        blocks.append(_claims(claim_results))
    for place, spec in enumerate(study.figures, 1):
        png = draw(spec, outcomes, claim_results)
        if png:
            image = Image(f"figures/{place}-{spec.kind}.png", f"{spec.title} ({spec.kind})", png)
            blocks.append(Section(spec.title, images=(image,)))
    if outcomes.failed:
        rows = [(text(name), text(reason)) for name, reason in sorted(outcomes.failed.items())]
        blocks.append(Section("Cells that failed", table=grid(("cell", "reason"), rows)))
    title = f"{study.name}: scale {context.scale}, protocol {protocol}, data {context.data}"
    return Page(title, tuple(lead), tuple(blocks), context.experiment)


def _reading(study: Study) -> str:
    seeds = len(study.seeds)
    over_seeds = "A number is the mean over seeds, ± their standard deviation; small print: "
    spread = "the 95 % interval over seeds and images" if _intervals(study) else "the smallest and the largest"
    numbers = (
        "Small print below a number: its 95 % interval (bootstrap of clusters within classes)"
        if seeds == 1
        else over_seeds + spread
    )
    return (
        f"{numbers}, and the published number, if any; entries that are not run at this scale show only that. "
        "Numbers link to their MLflow runs, which `make ui` serves."
    )


def _named_classes(study: Study, outcomes: Outcomes) -> list[str]:
    """Return a sentence that names the rarest and the largest class, if the study's metrics are about them."""
    metrics = [entry.metric for table in study.tables for row in table.rows.values() for entry in row if entry]
    if not outcomes.runs or not any(name in metric for metric in metrics for name in (RAREST, LARGEST)):
        return []
    table = outcomes.runs[0].predictions
    rarest, largest = (named_class(table, name) for name in (RAREST, LARGEST))
    images = table["label"].astype(str).value_counts()
    return [
        f"The rarest class is {rarest} ({images[rarest]:,} of {len(table):,} test images), the largest {largest} "
        f"({images[largest]:,})."
    ]


def _intervals(study: Study) -> bool:
    return len(study.seeds) >= MIN_SEEDS and any(table.intervals for table in study.tables)


def _grid(table: Table, outcomes: Outcomes) -> pd.DataFrame:
    rows = [
        (text(name), *(_cell(entry, outcomes, interval=table.intervals) if entry else text("") for entry in row))
        for name, row in table.rows.items()
    ]
    return grid(("", *table.columns), rows)


def _cell(entry: Entry, outcomes: Outcomes, *, interval: bool = False) -> CellText:
    result = outcomes.number(entry.cell, entry.metric, interval=interval) if entry.cell else None
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


def _claims(claim_results: Sequence[ClaimResult]) -> Section:
    any_published = any(result.claim.published for result in claim_results)
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
    for result in claim_results:
        published = result.claim.published
        paper = f"{number(published[0])} and {number(published[1])}" if published else ""
        ours = tuple(
            part
            for result, joint in ((result.higher, "and"), (result.lower, ""))
            if result
            for part in (*_number(result), *((Part(joint),) if joint else ()))
        )
        rows.append(
            (
                text(result.claim.text),
                *(text(paper),) * any_published,
                ours or text("not run"),
                text(signed(result.difference)),
                text(interval(result.low, result.high, sign=True)),
                text("" if result.p_value is None else p_value(result.p_value)),
                text(result.test, small=True),
                text(verdict_text(result)),
            )
        )
    always = ("confirmed", "not confirmed", "contradicted", "not tested")
    kinds = [*always, *sorted({result.verdict for result in claim_results} - set(always))]
    count = ", ".join(f"{kind} {sum(result.verdict == kind for result in claim_results)}" for kind in kinds)
    note = (
        f"Of {len(claim_results)} claims: {count}. A claim is confirmed or contradicted when p < .05 after Holm's "
        "correction, in a test over three or more training seeds and their common images. With fewer seeds, or for a "
        "number that was logged without predictions, p < .05 only means that these models differ on these images; "
        "models of other seeds may not."
    )
    return Section("Claims", (note,), grid(columns, rows))


def verdict_text(result: ClaimResult) -> str:
    """Return the verdict; if it is open, with the direction of the difference."""
    if result.verdict in ("not confirmed", "not tested") and not math.isnan(result.difference):
        way = "as claimed" if result.difference > 0 else "the other way" if result.difference < 0 else "nowhere"
        return f"{result.verdict} (points {way})"
    return result.verdict
