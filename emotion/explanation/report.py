"""The report of an explanation, written into a folder: page, figures and tables."""

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datamodules.errors import InputError
from datamodules.paths import replacing
from emotion.explanation.faithfulness import (
    RULE,
    Better,
    Found,
    ReportOptions,
    constant_maps,
    correct_of,
    measure,
    number,
    signed,
    span,
    verdict,
)
from emotion.explanation.methods import EVERYBODY, ExplainAgain, Explained, Probabilities
from emotion.explanation.overlays import Cell, cells, curves_figure, overlay, overlay_figure, regions_figure
from emotion.explanation.regions import REGIONS, known
from results.bias.report import p_text
from results.predictions import HONEST, protocol_of
from results.reports.pages import page, table_html, write_text
from results.reports.tables import as_markdown as table_markdown
from results.statistics import FEW_CLUSTERS

_DPI = 130
_IMG = "<style>img { max-width: 100%; height: auto; }</style>"


@dataclass(frozen=True)
class Shown:
    """A figure that was written: its file, what it shows in words, and whether it shows people."""

    file: Path
    words: str
    people: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    text: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    figures: tuple[Shown, ...] = ()
    below: tuple[str, ...] = ()


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG under a temporary name, then give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=_DPI, pil_kwargs={"compress_level": 1})  # quick, a few kilobytes more
    return path


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, whole or not at all."""
    return write_text(path, table.to_csv(index=False))


def markdown(title: str, first: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as Markdown; the verdict is its first line."""
    parts = [f"**{_plain(first)}**", f"# {_plain(title)}", *map(_plain, lead)]
    for one in sections:
        parts += [f"## {_plain(one.title)}", *map(_plain, one.text)]
        if one.table is not None and len(one.table):
            parts.append(table_markdown(one.table.map(lambda cell: _plain(str(cell)))))
        parts += [f"![{_plain(shown.words)}](<{shown.file.name}>)" for shown in one.figures]
        parts += map(_plain, one.below)
    return "\n\n".join(parts) + "\n"


def html(title: str, first: str, holds: bool, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as one page; figures without people stand in it, the others are files beside it."""
    parts = [_IMG, f'<p class="{"holds" if holds else "fails"}">{escape(first)}</p>', *_paragraphs(lead)]
    for one in sections:
        parts += [f"<h2>{escape(one.title)}</h2>", *_paragraphs(one.text)]
        if one.table is not None and len(one.table):
            parts.append(table_html(one.table))
        parts += [f'<p><img alt="{escape(shown.words)}" src="{_source(shown)}"></p>' for shown in one.figures]
        parts += _paragraphs(one.below)
    return page(title, parts)


def _source(shown: Shown) -> str:
    if shown.people:
        return escape(shown.file.name)
    return f"data:image/png;base64,{base64.b64encode(shown.file.read_bytes()).decode()}"


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _plain(text: str) -> str:
    for mark in "\\<>[]_`":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


_BY_CHANCE = {"deletion": "random", "insertion": "random", "inside": "chance", "pointing": "chance"}
_FILLED = {
    "superpixel": "its mean colour",
    "mean": "the mean colour of the image",
    "blur": "the image out of focus",
    "grey": "grey",
    "black": "black",
}
_SAID = {
    "deletion": "area under deletion (low is good)",
    "insertion": "area under insertion (high is good)",
    "inside": "importance inside / area inside",
    "pointing": "highest pixel inside (pointing game)",
}


def lead(explained: Explained, options: ReportOptions) -> list[str]:
    """Return what was explained."""
    classes = np.asarray(explained.classes, object)[explained.target]
    predicted = (classes == explained.table["predicted"].to_numpy(object)).all()
    of = "the predicted class" if predicted else ", ".join(dict.fromkeys(map(str, classes)))
    settings = ", ".join(f"{name} {value}" for name, value in explained.options.items() if value is not None)
    found = [
        f"{len(explained)} images, {int(np.sum(correct_of(explained)))} of them answered correctly, explained by "
        f"{explained.method} for {of}" + (f" ({settings})." if settings else ".")
    ]
    protocol = protocol_of(explained.table)
    if protocol != HONEST:
        found.insert(0, f"Protocol of the run: {protocol}.")
    constant = constant_maps(explained.maps)
    if constant:
        found.append(f"{constant} of {len(explained)} maps say the same of every pixel: they explain nothing.")
    return found


def truth_section(found: Found, figures: Sequence[Shown]) -> Section:
    """Return whether the explanation is true."""
    tried = [found.deletion, found.insertion, *(found.masks or ())]
    rows = [
        {
            "what": _SAID[one.name],
            "map": number(one.value.value),
            "chance": number(one.chance.value),
            "gain": signed(one.gain.value),
            "95% interval": span(one.gain.low, one.gain.high, sign=True),
            "p": p_text(one.p_value),
            "images": str(one.gain.images),
            "clusters": str(one.gain.clusters),
        }
        for one in tried
    ]
    curve = found.curves
    below = [
        f"{len(curve.rows)} images, {curve.random_area.shape[1]} random orders each, {curve.passes:,} images shown. "
        f"Where a superpixel is gone stands {_FILLED[curve.fill]}. "
        "Intervals: resampled clusters of images. All are of these images and this network, not of another training."
    ]
    if found.masks is not None:
        below.append(
            "Inside: the pixels that are known to carry the emotion. Importance is the positive part of a map; its "
            "share inside over the share of area, 1 by chance. The pointing game counts how often the highest pixel "
            "lies inside, by chance the share of area."
        )
        missing = found.deletion.gain.images and len(found.images) - found.masks[0].gain.images
        if missing:
            below.append(f"{missing} of {len(found.images)} images have no such pixels or no positive importance.")
    return Section("Is the explanation true?", (RULE,), pd.DataFrame(rows), tuple(figures), tuple(below))


def agreement_section(found: Found, method: str, top: int) -> Section:
    """Return whether others say the same."""
    title = "Do other methods and seeds say the same?"
    if not len(found.agreements):
        return Section(title, ("No other method and no other seed was asked for.",))
    rows = [
        {
            "compared with": str(row["with"]),
            "rank correlation": number(row["rank"]),
            "95% interval": span(row["rank_low"], row["rank_high"]),
            f"top {top} in common": number(row["overlap"]),
            "95% interval ": span(row["overlap_low"], row["overlap_high"]),
            "by chance": number(row["chance"]),
            "images": str(row["images"]),
        }
        for row in found.agreements.to_dict("records")
    ]
    below = [f"Spearman's correlation over the superpixels of an image, {method} against the other; mean over images."]
    undefined = int(found.agreements["undefined"].max())
    if undefined:
        below.append(f"Not defined for {undefined} images, of which a map says the same of every superpixel.")
    return Section(title, (), pd.DataFrame(rows), (), tuple(below))


def overlay_section(
    by: str, drawn: Sequence[Cell], figures: Sequence[Shown], aligned: bool, options: ReportOptions
) -> Section:
    """Return the overlays of a grouping."""
    each = f"each class{' and group' if by else ''}"
    said = f"Up to {options.n} correctly answered images of {each} are laid on each other; "
    said += f"each marks the {options.top} superpixels that speak most for the class. "
    said += (
        "Faces are turned, scaled and shifted so that eyes, nose and corners of the mouth meet."
        if aligned
        else "No image has landmarks, so images are laid on each other as they are."
    )
    below = []
    without = sum(cell.left_out for cell in drawn)
    if without:
        below.append(f"{without} correctly answered images have no landmarks and are left out.")
    none = [
        f"{cell.name}{f', {cell.group}' if cell.group else ''}" for cell in drawn if cell.images and not cell.correct
    ]
    if none:
        below.append(f"No image was answered correctly: {'; '.join(none)}.")
    if not by:
        below.append("The images with faces stay in this folder and are not part of the page.")
    return Section(f"What is shared{f', by {by}' if by else ''}", (said,), None, tuple(figures), tuple(below))


def terminal(first: str, found: Found) -> list[str]:
    """Return the few lines that a terminal shows: the verdict, and the main numbers."""
    lines = [first]
    if found.masks is not None:
        lines += [_masks_line(one) for one in found.masks]
    lines += [
        f"against {row['with']}: rank correlation {number(row['rank']) or 'not defined'}, top superpixels in common "
        f"{number(row['overlap']) or 'not defined'} (chance {number(row['chance']) or 'not defined'})"
        for row in found.agreements.to_dict("records")
    ]
    whole = found.regions[(found.regions[["by", "class"]] == "").all(axis=1)]
    whole = whole[(whole["importance"] == "positive") & (whole["group"] == EVERYBODY)]
    if len(whole):
        ranked = whole.sort_values("density", ascending=False)
        said = ", ".join(f"{row['region']} {number(row['density'])}" for row in ranked.to_dict("records"))
        lines.append(f"density (share of importance / share of area): {said}")
    differing = found.differences[found.differences["p_holm"] < 0.05] if len(found.differences) else []
    if len(found.differences):
        lines.append(f"group differences at p Holm < .05: {len(differing)} of {len(found.differences)}")
    return lines


def _masks_line(one: Better) -> str:
    if not one.gain.images:
        return f"{_SAID[one.name]}: not defined, no map has a highest place"
    limits = "" if math.isnan(one.value.low) else f" ({span(one.value.low, one.value.high)})"
    said = f"{number(one.value.value)}{limits}, by chance {number(one.chance.value)}, p {p_text(one.p_value)}"
    return f"{_SAID[one.name]}: {said}"


def region_sections(explained: Explained, found: Found, figures: dict[str, Shown]) -> list[Section]:
    """Return where the importance lies: all images, and each grouping."""
    positive = found.regions[found.regions["importance"] == "positive"]
    if not len(positive):
        why = "No image has landmarks" if not known(explained.landmarks).any() else (
            "No correctly answered image has landmarks and positive importance"
        )  # fmt: skip
        return [Section("Where does it look?", (f"{why}, so nothing can be said of eyes, brows, nose and mouth.",))]
    absolute = found.regions[found.regions["importance"] == "absolute"]
    whole = positive[(positive["by"] == "") & (positive["class"] == "")]
    other = absolute[(absolute["by"] == "") & (absolute["class"] == "")].set_index("region")
    rows = [
        {
            "region": row["region"],
            "share of importance": number(row["share"]),
            "share of area": number(row["area"]),
            "density": number(row["density"]),
            "95% interval": span(row["density_low"], row["density_high"]),
            "density, absolute": number(other["density"].get(row["region"], math.nan)),
        }
        for row in whole.to_dict("records")
    ]
    images, clusters = int(whole["images"].iloc[0]), int(whole["clusters"].iloc[0])
    used = (
        f"Correctly answered images with landmarks: {images} in {clusters} clusters"
        + (f", fewer than {FEW_CLUSTERS}: the intervals say little. " if clusters < FEW_CLUSTERS else ". ")
        + "Importance is the positive part of a map (absolute: with what speaks against the class, too); density is "
        "its share over the share of area, image by image, and 1 where a region weighs as much as its size."
    )
    shown = (figures[""],) if "" in figures else ()
    by_class = _pivot(positive[positive["by"] == ""], explained.classes)
    found_sections = [
        Section("Where does it look?", (used,), pd.DataFrame(rows), shown),
        Section("Density by class", (), by_class),
    ]
    for one in found.by:
        part = positive[(positive["by"] == one.name) & (positive["class"] == "")]
        shown = (figures[one.name],) if one.name in figures else ()
        found_sections.append(Section(f"Density by {one.name}", (), _groups(part, one.groups), shown))
        tests = found.differences[found.differences["by"] == one.name]
        if len(tests) and tests["p_value"].notna().any():
            found_sections.append(
                Section(f"Do groups of {one.name} differ?", (), _tests(tests), (), _test_notes(tests))
            )
        else:
            text = "No two groups have correctly answered images of the same class, so nothing can be compared."
            found_sections.append(Section(f"Do groups of {one.name} differ?", (text,)))
    return found_sections


def _pivot(part: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in classes:
        one = part[part["class"] == name].set_index("region")
        if len(one):
            rows.append({"class": name, "images": str(one["images"].iloc[0])} | _densities(one))
    return pd.DataFrame(rows)


def _groups(part: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in groups:
        one = part[part["group"] == name].set_index("region")
        if len(one):
            rows.append({"group": name, "images": str(one["images"].iloc[0])} | _densities(one))
        else:
            rows.append({"group": name, "images": "0"} | dict.fromkeys(REGIONS, ""))
    return pd.DataFrame(rows)


def _densities(one: pd.DataFrame) -> dict[str, str]:
    return {
        region: f"{number(one['density'][region])} ({span(one['density_low'][region], one['density_high'][region])})"
        if not math.isnan(one["density_low"][region])
        else number(one["density"][region])
        for region in REGIONS
    }


def _tests(tests: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "group": row["group"],
                "minus": row["others"],
                "region": row["region"],
                "difference": signed(row["difference"]),
                "95% interval": span(row["low"], row["high"], sign=True),
                "p": p_text(row["p_value"]),
                "p Holm": p_text(row["p_holm"]),
                "images": f"{row['images']} / {row['other_images']}",
            }
            for row in tests.to_dict("records")
        ]
    )


def _test_notes(tests: pd.DataFrame) -> tuple[str, ...]:
    least = tests["p_holm"].min()
    return (
        "Difference of density within classes; two-sided permutation of whole clusters within classes, corrected by "
        f"Holm over {int(tests['p_value'].notna().sum())} comparisons. "
        + (
            f"{int((tests['p_holm'] < 0.05).sum())} of them differ at p Holm < .05."
            if least < 0.05
            else "None differs at p Holm < .05; that is no proof that the groups are alike."
        ),
    )


@dataclass(frozen=True)
class Summary:
    """What a report says, in short.

    Attributes:
        first: The verdict, which is the first line of the report.
        holds: Whether the explanation beats the random baseline on both curves.
        lines: For a terminal; the verdict is the first.
        numbers: Name -> value, fit to be metrics of a run.
        files: What was written and shows no person.
        images: What was written and shows people: never to be sent anywhere.
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
