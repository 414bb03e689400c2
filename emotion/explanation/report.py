"""Report of an explanation: page, figures and tables in a folder."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from emotion.explanation.faithfulness import (
    BLOB,
    RANDOM,
    RULE,
    ChanceComparison,
    Measurements,
    ReportOptions,
    constant_maps,
    correct_of,
    measure,
    verdict,
)
from emotion.explanation.methods import ALL_IMAGES, ExplainAgain, ExplainedImages, Probabilities
from emotion.explanation.overlays import Cell, choose_cells, curves_figure, overlay, overlay_figure, regions_figure
from emotion.explanation.regions import REGIONS, alignable
from results.predictions import HONEST, protocol_of
from results.reports.figures import png_of
from results.reports.pages import Image, Section, render, write_files
from results.reports.tables import interval, number, p_value, signed
from results.statistics import FEW_CLUSTERS

_FILLED = {
    "superpixel": "its mean colour",
    "mean": "the mean colour of the image",
    "blur": "the blurred image",
    "grey": "grey",
    "black": "black",
}
_MEASURES = {
    "deletion": "area under deletion (low is good)",
    "insertion": "area under insertion (high is good)",
    "inside": "importance over area, in the pixels that show the emotion",
    "pointing": "highest pixel is one that shows the emotion (pointing game)",
}


def lead(explained: ExplainedImages, options: ReportOptions) -> list[str]:
    """Return the sentences above the sections: images, method, options, and warnings."""
    classes = np.asarray(explained.classes, object)[explained.target]
    predicted = (classes == explained.table["predicted"].to_numpy(object)).all()
    of = "the predicted class" if predicted else ", ".join(dict.fromkeys(map(str, classes)))
    settings = ", ".join(f"{name} {value}" for name, value in explained.options.items() if value is not None)
    sentences = [
        f"{len(explained)} images, {int(np.sum(correct_of(explained)))} of them predicted correctly, explained by "
        f"{explained.method} for {of}" + (f" ({settings})." if settings else ".")
    ]
    protocol = protocol_of(explained.table)
    if protocol != HONEST:
        sentences.insert(0, f"Protocol of the run: {protocol}.")
    constant = constant_maps(explained.maps)
    if constant:
        sentences.append(f"{constant} of {len(explained)} maps are constant: they explain nothing.")
    return sentences


def faithfulness_section(measured: Measurements, images: Sequence[Image]) -> Section:
    """Return the section on faithfulness: deletion and insertion, and known pixels if there are masks."""
    rows = [
        {
            "what": _MEASURES[test.name],
            "against": test.against if test.name in ("deletion", "insertion") else "chance",
            "map": number(test.value.value),
            "baseline": number(test.chance.value),
            "gain": signed(test.gain.value),
            "95% interval": interval(test.gain.low, test.gain.high, sign=True),
            "p": p_value(test.p_value),
            "images": str(test.gain.images),
            "clusters": str(test.gain.clusters),
        }
        for test in (*measured.tests, *(measured.masks or ()))
    ]
    curve = measured.curves
    below = [
        f"{len(curve.rows)} images, {curve.random_area.shape[1]} random orders each, {curve.passes:,} images shown. "
        f"A removed superpixel is replaced by {_FILLED[curve.fill]}. "
        "Intervals: cluster bootstrap over images. The results hold for these images and this network, not for another "
        "training."
    ]
    if measured.masks is not None:
        below.append(
            "The pixels that show the emotion are known where faces are drawn. Their importance over area is "
            "their share of the positive importance over their share of the area; it is 1 by chance. The pointing game "
            "counts how often the highest pixel is one of them; by chance it is their share of the area."
        )
        missing = measured.tests[0].gain.images and len(measured.images) - measured.masks[0].gain.images
        if missing:
            below.append(f"{missing} of {len(measured.images)} images have no such pixels or no positive importance.")
    return Section("Is the explanation faithful?", (RULE,), pd.DataFrame(rows), tuple(images), tuple(below))


def agreement_section(measured: Measurements, method: str, top: int) -> Section:
    """Return the section on the agreement with other methods and other seeds."""
    title = "Do other methods and seeds agree?"
    if not len(measured.agreements):
        return Section(title, ("No other method or seed was compared.",))
    rows = [
        {
            "compared with": str(row["with"]),
            "rank correlation": number(row["rank"]),
            "95% interval": interval(row["rank_low"], row["rank_high"]),
            f"top {top} in common": number(row["overlap"]),
            "95% interval ": interval(row["overlap_low"], row["overlap_high"]),
            "by chance": number(row["chance"]),
            "images": str(row["images"]),
        }
        for row in measured.agreements.to_dict("records")
    ]
    below = [f"Spearman's correlation over the superpixels of an image, {method} and the other; mean over images."]
    undefined = int(measured.agreements["undefined"].max())
    if undefined:
        below.append(f"Not defined for {undefined} images, for which a map is constant.")
    return Section(title, (), pd.DataFrame(rows), (), tuple(below))


def overlay_section(
    by: str, drawn: Sequence[Cell], images: Sequence[Image], aligned: bool, options: ReportOptions
) -> Section:
    """Return the section with the overlays of a grouping."""
    each = f"each class{' and group' if by else ''}"
    text = f"Each overlay shows up to {options.n} correctly predicted images of {each}; "
    text += f"in each image, the {options.top} superpixels with the highest importance for the class are marked. "
    text += (
        "Faces are aligned by eyes, nose and mouth corners."
        if aligned
        else "No image has landmarks, so the images are not aligned."
    )
    below = []
    without = sum(cell.left_out for cell in drawn)
    if without:
        below.append(f"{without} correctly predicted images have no landmarks and are left out.")
    none = [
        f"{cell.name}{f', {cell.group}' if cell.group else ''}" for cell in drawn if cell.images and not cell.correct
    ]
    if none:
        below.append(f"No image was predicted correctly: {'; '.join(none)}.")
    if not by:
        below.append("The overlays with faces are files in this folder; the page does not contain them.")
    return Section(f"Overlays{f' by {by}' if by else ''}", (text,), None, tuple(images), tuple(below))


def terminal_lines(first: str, measured: Measurements) -> list[str]:
    """Return the lines for a terminal: the verdict, and the main numbers."""
    lines = [first]
    if measured.masks is not None:
        lines += [_masks_line(test) for test in measured.masks]
    lines += [
        f"against {row['with']}: rank correlation {number(row['rank']) or 'not defined'}, top superpixels in common "
        f"{number(row['overlap']) or 'not defined'} (chance {number(row['chance']) or 'not defined'})"
        for row in measured.agreements.to_dict("records")
    ]
    whole = measured.regions[(measured.regions[["by", "class"]] == "").all(axis=1)]
    whole = whole[(whole["importance"] == "positive") & (whole["group"] == ALL_IMAGES)]
    if len(whole):
        ranked = whole.sort_values("density", ascending=False)
        densities = ", ".join(f"{row['region']} {number(row['density'])}" for row in ranked.to_dict("records"))
        lines.append(f"density (share of importance / share of area): {densities}")
    differing = measured.differences[measured.differences["p_holm"] < 0.05] if len(measured.differences) else []
    if len(measured.differences):
        lines.append(f"group differences at p Holm < .05: {len(differing)} of {len(measured.differences)}")
    return lines


def _masks_line(test: ChanceComparison) -> str:
    if not test.gain.images:
        return f"{_MEASURES[test.name]}: not defined, since no map has a highest pixel"
    limits = "" if math.isnan(test.value.low) else f" ({interval(test.value.low, test.value.high)})"
    scores = f"{number(test.value.value)}{limits}, by chance {number(test.chance.value)}, p {p_value(test.p_value)}"
    return f"{_MEASURES[test.name]}: {scores}"


def region_sections(explained: ExplainedImages, measured: Measurements, images: dict[str, Image]) -> list[Section]:
    """Return the sections on regions of the face: all images, classes, and the groups of each grouping."""
    positive = measured.regions[measured.regions["importance"] == "positive"]
    if not len(positive):
        why = "No image has landmarks" if not alignable(explained.landmarks).any() else (
            "No correctly predicted image has landmarks and positive importance"
        )  # fmt: skip
        return [Section("Which regions are used?", (f"{why}, so nothing is known about the regions of the face.",))]
    absolute = measured.regions[measured.regions["importance"] == "absolute"]
    whole = positive[(positive["by"] == "") & (positive["class"] == "")]
    other = absolute[(absolute["by"] == "") & (absolute["class"] == "")].set_index("region")
    rows = [
        {
            "region": row["region"],
            "share of importance": number(row["share"]),
            "share of area": number(row["area"]),
            "density": number(row["density"]),
            "95% interval": interval(row["density_low"], row["density_high"]),
            "density, absolute": number(other["density"].get(row["region"], math.nan)),
        }
        for row in whole.to_dict("records")
    ]
    count, clusters = int(whole["images"].iloc[0]), int(whole["clusters"].iloc[0])
    used = (
        f"Correctly predicted images with landmarks: {count} in {clusters} clusters"
        + (f", fewer than {FEW_CLUSTERS}: the intervals are not reliable. " if clusters < FEW_CLUSTERS else ". ")
        + "Importance is the positive part of a map (absolute: positive and negative part); density is its share over "
        "the share of area, image by image; 1 means as much importance as the size of the region."
    )
    by_class = _pivot(positive[positive["by"] == ""], explained.classes)
    sections = [
        Section("Which regions are used?", (used,), pd.DataFrame(rows), _drawn(images, "")),
        Section("Density by class", (), by_class),
    ]
    for grouping in measured.by:
        name = grouping.name
        part = positive[(positive["by"] == name) & (positive["class"] == "")]
        sections.append(Section(f"Density by {name}", (), _groups(part, grouping.groups), _drawn(images, name)))
        tests = measured.differences[measured.differences["by"] == name]
        if len(tests) and tests["p_value"].notna().any():
            sections.append(Section(f"Do groups of {name} differ?", (), _tests(tests), (), _test_notes(tests)))
        else:
            text = "No two groups have correctly predicted images of the same class, so nothing can be compared."
            sections.append(Section(f"Do groups of {name} differ?", (text,)))
    return sections


def _drawn(images: dict[str, Image], by: str) -> tuple[Image, ...]:
    return (images[by],) if by in images else ()


def _pivot(part: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in classes:
        rows_of = part[part["class"] == name].set_index("region")
        if len(rows_of):
            rows.append({"class": name, "images": str(rows_of["images"].iloc[0])} | _densities(rows_of))
    return pd.DataFrame(rows)


def _groups(part: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in groups:
        rows_of = part[part["group"] == name].set_index("region")
        if len(rows_of):
            rows.append({"group": name, "images": str(rows_of["images"].iloc[0])} | _densities(rows_of))
        else:
            rows.append({"group": name, "images": "0"} | dict.fromkeys(REGIONS, ""))
    return pd.DataFrame(rows)


def _densities(rows: pd.DataFrame) -> dict[str, str]:
    densities = {}
    for region in REGIONS:
        limits = interval(rows["density_low"][region], rows["density_high"][region])
        densities[region] = number(rows["density"][region]) + (f" ({limits})" if limits else "")
    return densities


def _tests(tests: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "group": row["group"],
                "minus": row["others"],
                "region": row["region"],
                "difference": signed(row["difference"]),
                "95% interval": interval(row["low"], row["high"], sign=True),
                "p": p_value(row["p_value"]),
                "p Holm": p_value(row["p_holm"]),
                "images": f"{row['images']} / {row['other_images']}",
            }
            for row in tests.to_dict("records")
        ]
    )


def _test_notes(tests: pd.DataFrame) -> tuple[str, ...]:
    least = tests["p_holm"].min()
    return (
        "Difference of density within classes; two-sided permutation test of whole clusters within classes, corrected "
        f"by Holm over {int(tests['p_value'].notna().sum())} comparisons. "
        + (
            f"{int((tests['p_holm'] < 0.05).sum())} of them differ at p Holm < .05."
            if least < 0.05
            else "None differs at p Holm < .05; this does not prove that the groups are equal."
        ),
    )


@dataclass(frozen=True)
class Summary:
    """Summary of a report.

    Attributes:
        first: The verdict, the first line of the report.
        holds: Whether the explanation beats every baseline on both curves.
        lines: Lines for a terminal; the first is the verdict.
        numbers: Value of each metric for the run.
        files: Files that show no person.
        with_people: Files that show people; they must stay private.
    """

    first: str
    holds: bool
    lines: tuple[str, ...]
    numbers: dict[str, float]
    files: tuple[Path, ...]
    with_people: tuple[Path, ...]


def write_report(
    explained: ExplainedImages,
    probabilities: Probabilities,
    explain_again: ExplainAgain,
    folder: Path,
    options: ReportOptions,
) -> Summary:
    """Measure an explanation and write report.md, report.html, figures and tables into a folder.

    Raises:
        InputError: There is nothing to report, an option is out of range, or the folder cannot be written to.
    """
    measured = measure(explained, probabilities, explain_again, options)
    holds, first = verdict(measured.tests)
    with_people: dict[str, bytes] = {}
    sections = _sections(explained, measured, options, with_people)
    page = {
        "title": options.title or f"Explanation by {explained.method}",
        "verdict": first,
        "holds": holds,
        "lead": lead(explained, options),
        "sections": sections,
    }
    tables = {"images": measured.images, "regions": measured.regions, "region-differences": measured.differences}
    tables["agreement"] = measured.agreements
    files: dict[str, str | bytes] = {
        f"{name}.csv": table.to_csv(index=False) for name, table in tables.items() if len(table)
    }
    files |= {f"report.{suffix}": render(f"explanation.{suffix}", **page) for suffix in ("md", "html")}
    files |= {image.file: image.png for section in sections for image in section.images if image.png}
    try:
        written = write_files(folder, files)
        people = write_files(folder, with_people)
    except OSError as error:
        msg = f"--out: {folder} cannot be written to ({error.strerror or error}); choose another folder."
        raise InputError(msg) from error
    return Summary(
        first, holds, tuple(terminal_lines(first, measured)), _numbers(measured, holds), tuple(written), tuple(people)
    )


def _sections(
    explained: ExplainedImages, measured: Measurements, options: ReportOptions, with_people: dict[str, bytes]
) -> list[Section]:
    """Return the sections of the page with their figures; figures that show people go into `with_people`."""
    drawn = png_of(curves_figure(measured.curves, measured.tests))
    curves = Image("curves.png", "deletion and insertion curves of the maps and of the baselines", drawn)
    aligned = bool(alignable(explained.landmarks).any())
    overlays = []
    everybody = np.full(len(explained), ALL_IMAGES, object)
    groups_shown = [
        ("", everybody, (ALL_IMAGES,)),
        *((grouping.name, grouping.of(explained.table), grouping.groups) for grouping in measured.by),
    ]
    for by, group, groups in groups_shown:
        chosen = choose_cells(explained, group, groups, n=options.n, seed=options.seed)
        images = _overlays(explained, chosen, by, groups, options, with_people)
        overlays.append(overlay_section(by, chosen, images, aligned, options))
    regions = {}
    positive = measured.regions[measured.regions["importance"] == "positive"]
    for by, _, groups in groups_shown if len(positive) else ():
        words = f"density of importance on the regions of the face{f' by {by}' if by else ''}"
        regions[by] = Image(f"regions{_suffix(by)}.png", words, png_of(regions_figure(positive, by, groups)))
    agreed = agreement_section(measured, explained.method, options.top)
    return [faithfulness_section(measured, [curves]), agreed, *overlays, *region_sections(explained, measured, regions)]


def _overlays(
    explained: ExplainedImages,
    chosen: Sequence[Cell],
    by: str,
    groups: Sequence[str],
    options: ReportOptions,
    with_people: dict[str, bytes],
) -> list[Image]:
    """Draw the marks alone, which show no person, and the marks on mean faces, which the page does not contain."""
    labels = set(explained.table["label"])
    classes = [name for name in explained.classes if name in labels]
    drawn = [overlay(explained, cell, top=options.top) for cell in chosen if cell.name in labels]
    words = f"marked superpixels of each class{' and group' if by else ''}"
    images = []
    for name, faces in (("marks", False), ("overlays", True)):
        title = f"{explained.method}, {'faces' if faces else 'marks'}{f' by {by}' if by else ''}"
        figure = overlay_figure(drawn, classes, groups, n=options.n, title=title, faces=faces)
        file = f"{name}{_suffix(by)}.png"
        if faces:
            with_people[file] = png_of(figure)
            images.append(Image(file, f"{words}, on the mean face"))
        else:
            images.append(Image(file, words, png_of(figure)))
    return images


def _suffix(by: str) -> str:
    plain = re.sub(r"[^\w-]+", "-", by).strip("-")
    return f"-{plain}" if by else ""


def _numbers(measured: Measurements, holds: bool) -> dict[str, float]:
    """Return the metrics to store with the run; those that are not defined are left out."""
    numbers = {"explain/holds": float(holds), "explain/images": float(len(measured.images))}
    for test in (*measured.tests, *(measured.masks or ())):
        name = f"explain/{test.name}"
        if test.against != RANDOM:
            name += f"/{'blob' if test.against == BLOB else 'other_image'}"
            numbers |= {f"{name}/baseline": test.chance.value, f"{name}/better_by": test.gain.value}
            numbers |= {f"{name}/low": test.gain.low, f"{name}/high": test.gain.high, f"{name}/p": test.p_value}
            continue
        numbers |= {name: test.value.value, f"{name}/chance": test.chance.value, f"{name}/better_by": test.gain.value}
        numbers |= {f"{name}/low": test.gain.low, f"{name}/high": test.gain.high, f"{name}/p": test.p_value}
    for row in measured.agreements.to_dict("records"):
        name = f"explain/agreement/{str(row['with']).replace(' ', '_')}"
        numbers |= {f"{name}/rank": row["rank"], f"{name}/overlap": row["overlap"], f"{name}/chance": row["chance"]}
    if len(measured.regions):
        whole = measured.regions[(measured.regions[["by", "group", "class"]] == "").all(axis=1)]
        for row in whole[whole["importance"] == "positive"].to_dict("records"):
            name = f"explain/density/{row['region'].replace(' ', '_')}"
            numbers |= {name: row["density"], f"{name}/low": row["density_low"], f"{name}/high": row["density_high"]}
    return {name: float(value) for name, value in numbers.items() if not math.isnan(value)}
