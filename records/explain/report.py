"""The report of an explanation, written into a folder: page, figures and tables."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.errors import InputError
from records.explain.alignment import known
from records.explain.drawings import curves_figure, regions_figure
from records.explain.explained import EVERYBODY, ExplainAgain, Explained, Probabilities
from records.explain.faithfulness import verdict
from records.explain.measures import Found, ReportOptions, measure
from records.explain.overlays import Cell, cells, overlay, overlay_figure
from records.explain.page import Section, Shown, html, markdown, write_csv, write_figure
from records.explain.region_sections import region_sections
from records.explain.sections import (
    agreement_section,
    lead,
    overlay_section,
    terminal,
    truth_section,
)
from records.pages import write_text

__all__ = ["ReportOptions", "Summary", "write_report"]


@dataclass(frozen=True)
class Summary:
    """What a report says, in short.

    Attributes:
        first: The verdict, which is the first line of the report.
        holds: Whether the explanation beats the random baseline on both curves.
        lines: For a terminal; the verdict is the first.
        numbers: Name -> value, fit to be metrics of a run.
        files: What was written and shows no person.
        pictures: What was written and shows people: never to be sent anywhere.
    """

    first: str
    holds: bool
    lines: tuple[str, ...]
    numbers: dict[str, float]
    files: tuple[Path, ...]
    pictures: tuple[Path, ...]


def write_report(
    explained: Explained,
    probabilities: Probabilities,
    explain_again: ExplainAgain,
    folder: Path,
    options: ReportOptions,
) -> Summary:
    """Measure an explanation and write report.md, report.html, figures and tables into a folder.

    Raises:
        InputError: Nothing to report, an option out of range, or a folder that cannot be written to.
    """
    found = measure(explained, probabilities, explain_again, options)
    holds, first = verdict(found.deletion, found.insertion)
    try:
        files, figures, sections = _written(explained, found, folder, options)
        title = options.title or f"Where the classifier looks: {explained.method}"
        said = lead(explained, options)
        files.append(write_text(folder / "report.md", markdown(title, first, said, sections)))
        files.append(write_text(folder / "report.html", html(title, first, holds, said, sections)))
    except OSError as error:
        msg = f"--out: {folder} cannot be written to ({error.strerror or error}); choose another folder."
        raise InputError(msg) from error
    files += [shown.file for shown in figures if not shown.people]
    pictures = tuple(shown.file for shown in figures if shown.people)
    return Summary(first, holds, tuple(terminal(first, found)), _numbers(found, holds), tuple(files), pictures)


def _written(
    explained: Explained, found: Found, folder: Path, options: ReportOptions
) -> tuple[list[Path], list[Shown], list[Section]]:
    """Write tables and figures; return both, and the sections of the page."""
    tables = {"images": found.images, "regions": found.regions, "region-differences": found.differences}
    tables["agreement"] = found.agreements
    files = [write_csv(table, folder / f"{name}.csv") for name, table in tables.items() if len(table)]
    drawn = write_figure(curves_figure(found.curves, found.deletion, found.insertion), folder / "curves.png")
    truth = Shown(drawn, "deletion and insertion curves of the maps and of random orders")
    figures = [truth]
    overlays = []
    everybody = np.full(len(explained), EVERYBODY, object)
    wanted = [("", everybody, (EVERYBODY,)), *((one.name, one.of(explained.table), one.groups) for one in found.by)]
    for by, group, groups in wanted:
        chosen = cells(explained, group, groups, n=options.n, seed=options.seed)
        shown = _overlays(explained, chosen, by, groups, folder, options)
        figures += shown
        overlays.append(overlay_section(by, chosen, shown, bool(known(explained.landmarks).any()), options))
    regions = {}
    positive = found.regions[found.regions["importance"] == "positive"]
    for by, _, groups in wanted if len(positive) else ():
        figure = regions_figure(positive, by, groups)
        file = write_figure(figure, folder / f"regions{_suffix(by)}.png")
        regions[by] = Shown(file, f"density of importance on the regions of the face{f' by {by}' if by else ''}")
    figures += regions.values()
    agreed = agreement_section(found, explained.method, options.top)
    sections = [truth_section(found, [truth]), agreed, *overlays, *region_sections(explained, found, regions)]
    return files, figures, sections


def _overlays(
    explained: Explained, chosen: Sequence[Cell], by: str, groups: Sequence[str], folder: Path, options: ReportOptions
) -> list[Shown]:
    """Draw the marks alone, which show no person, and the marks on the mean faces."""
    there = set(explained.table["label"])
    classes = [name for name in explained.classes if name in there]
    drawn = [overlay(explained, cell, top=options.top) for cell in chosen if cell.name in there]
    found = []
    for name, faces in (("marks", False), ("overlays", True)):
        title = f"{explained.method}, {'faces' if faces else 'marks'}{f' by {by}' if by else ''}"
        figure = overlay_figure(drawn, classes, groups, n=options.n, title=title, faces=faces)
        file = write_figure(figure, folder / f"{name}{_suffix(by)}.png")
        words = f"what the explanations of each class{' and group' if by else ''} share"
        found.append(Shown(file, f"{words}{', on the mean of the faces' if faces else ''}", people=faces))
    return found


def _suffix(by: str) -> str:
    plain = re.sub(r"[^\w-]+", "-", by).strip("-")
    return f"-{plain}" if by else ""


def _numbers(found: Found, holds: bool) -> dict[str, float]:
    """Return what a run keeps as metrics; what is not defined is left out."""
    numbers = {"explain/holds": float(holds), "explain/images": float(len(found.images))}
    for one in (found.deletion, found.insertion, *(found.masks or ())):
        name = f"explain/{one.name}"
        numbers |= {name: one.value.value, f"{name}/chance": one.chance.value, f"{name}/better_by": one.gain.value}
        numbers |= {f"{name}/low": one.gain.low, f"{name}/high": one.gain.high, f"{name}/p": one.p_value}
    for row in found.agreements.to_dict("records"):
        name = f"explain/agreement/{str(row['with']).replace(' ', '_')}"
        numbers |= {f"{name}/rank": row["rank"], f"{name}/overlap": row["overlap"], f"{name}/chance": row["chance"]}
    if len(found.regions):
        whole = found.regions[(found.regions[["by", "group", "class"]] == "").all(axis=1)]
        for row in whole[whole["importance"] == "positive"].to_dict("records"):
            name = f"explain/density/{row['region'].replace(' ', '_')}"
            numbers |= {name: row["density"], f"{name}/low": row["density_low"], f"{name}/high": row["density_high"]}
    return {name: float(value) for name, value in numbers.items() if not math.isnan(value)}
