"""The report of a study: our numbers beside the published ones, claims with p-values, figures, every number's runs."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from datamodules.places import replacing
from sweeps.studies.changes import Change, block, found_changes
from sweeps.studies.changes import rows as change_rows
from sweeps.studies.claims import Judged, judge
from sweeps.studies.numbers import Circumstances, numbers, p_text, shown, signed
from sweeps.studies.outcomes import Number, Outcomes
from sweeps.studies.page import Block, CellText, Grid, Page, Part, Shown, as_html, as_markdown, text
from sweeps.studies.pictures import draw
from sweeps.studies.plan import Entry, Study, Table

_SCALES = {
    "tiny": "Scale tiny shows that the study runs from end to end; its numbers say nothing of photographs.",
    "small": "Scale small is a smaller experiment than the published one (fewer pictures, pixels or epochs, and only "
    "backbones whose weights are installed); it can agree or disagree in direction, not in size.",
    "paper": "Scale paper follows the published protocol in data sizes, epochs and optimizer.",
}


def write_report(study: Study, outcomes: Outcomes, now: Circumstances, folder: Path) -> list[Path]:
    """Write report.md, report.html, report.csv and the figures; return their paths."""
    judged = judge(study.claims, outcomes)
    changed = [found_changes(one, outcomes) for one in study.changes]
    page = compose(study, outcomes, judged, now, changed)
    table = numbers(study, outcomes, judged, now)
    more = [row for one, found in zip(study.changes, changed, strict=True) for row in change_rows(one, found)]
    if more:
        same = {name: table[name].iloc[0] for name in ("scale", "protocol", "data")}
        table = pd.concat([table, pd.DataFrame(more).assign(**same)], ignore_index=True)
    files: dict[str, str | bytes] = {
        "report.md": as_markdown(page),
        "report.html": as_html(page),
        "report.csv": table.to_csv(index=False),
    }
    files |= {f"figures/{block.figure.file}": block.figure.png for block in page.blocks if block.figure}
    paths = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(content.encode() if isinstance(content, str) else content)
        paths.append(path)
    return paths


def compose(
    study: Study,
    outcomes: Outcomes,
    judged: Sequence[Judged],
    now: Circumstances,
    changed: Sequence[list[Change]] = (),
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
        said = [re.sub(r"[^:=]*/(?=[^/]+/?$)", "", word) for word in now.options]  # names, not where they lie
        lead.append(f"Options laid over every cell: {' '.join(said)}")
    if now.chosen:
        where = "the part selected on" if now.protocol == "honest" else "the reported part itself"
        lead.append(f"Chosen transforms, by macro F1 on {where}: {', '.join(now.chosen)}.")
        if now.protocol == "honest" and any(cell.folds for cell in study.cells if cell.chosen):
            lead.append(
                "The choice is one for all folds, made on the inner parts of all of them: an image that one fold "
                "reports took part in it in another fold, so what was chosen looks a little better than it is."
            )
    blocks = [Block(one.title, (one.note,) if one.note else (), _grid(one, outcomes)) for one in study.tables]
    blocks += [block(one, found) for one, found in zip(study.changes, changed, strict=False) if found]
    if judged:
        blocks.append(_claims(judged))
    for number, picture in enumerate(study.pictures):
        png = draw(picture, outcomes, judged)
        if png:
            file = f"{number + 1}-{picture.kind}.png"
            blocks.append(Block(picture.title, figure=Shown(file, png, f"{picture.title} ({picture.kind})")))
    if outcomes.failed:
        rows = tuple((text(name), text(reason)) for name, reason in sorted(outcomes.failed.items()))
        blocks.append(Block("Cells that failed", grid=Grid(("cell", "reason"), rows)))
    title = f"{study.name}: scale {now.scale}, protocol {protocol}, data {now.data}"
    return Page(title, tuple(lead), tuple(blocks), now.experiment)


def _reading(study: Study) -> str:
    numbers = (
        "Small print below a number: its 95 % interval (clusters of twins and people resampled within classes)"
        if len(study.seeds) == 1
        else "A number is the mean over seeds, ± their standard deviation; small print: the smallest and the largest"
    )
    return (
        f"{numbers}, and what was published, if anything; what is not run at this scale shows that alone. "
        "Numbers link to their MLflow runs, which `make ui` serves."
    )


def _grid(table: Table, outcomes: Outcomes) -> Grid:
    rows = [
        (text(name), *(_cell(entry, outcomes) if entry else text("") for entry in row))
        for name, row in table.rows.items()
    ]
    return Grid(("", *table.columns), tuple(rows))


def _cell(entry: Entry, outcomes: Outcomes) -> CellText:
    number = outcomes.number(entry.cell, entry.metric) if entry.cell else None
    published = (Part(f"paper {shown(entry.published)}", small=True),) if entry.published is not None else ()
    if number is None:
        missing = (Part("failed" if entry.cell in outcomes.failed else "not run", small=True),) if entry.cell else ()
        return (*missing, *published)
    return (*_linked(number), *published)


def _linked(number: Number) -> CellText:
    first: CellText = (Part(shown(number.value), number.runs[0]),)
    if not math.isnan(number.sd):
        others = tuple(Part(f"run {place}", run) for place, run in enumerate(number.runs[1:], start=2))
        first = (*first, Part(f"± {shown(number.sd)}"), *others)
    if math.isnan(number.low):
        return first
    return (*first, Part(f"{shown(number.low)} to {shown(number.high)}", small=True))


def _claims(judged: Sequence[Judged]) -> Block:
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
        paper = f"{shown(published[0])} and {shown(published[1])}" if published else ""
        ours = tuple(
            part
            for number, joint in ((one.higher, "and"), (one.lower, ""))
            if number
            for part in (Part(shown(number.value), number.runs[0]), *((Part(joint),) if joint else ()))
        )
        known = not math.isnan(one.difference)
        rows.append(
            (
                text(one.claim.text),
                *(text(paper),) * any_published,
                ours or text("not run"),
                text(signed(one.difference) if known else ""),
                text("" if math.isnan(one.low) else f"{signed(one.low)} to {signed(one.high)}"),
                text("" if one.p_value is None else p_text(one.p_value)),
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
    return Block("Claims", (note,), Grid(columns, tuple(rows)))


def verdict_text(one: Judged) -> str:
    """Return the verdict; where nothing is shown, which way the difference points."""
    if one.verdict in ("not confirmed", "not tested") and not math.isnan(one.difference):
        way = "as claimed" if one.difference > 0 else "the other way" if one.difference < 0 else "nowhere"
        return f"{one.verdict} (points {way})"
    return one.verdict
