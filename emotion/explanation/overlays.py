"""Overlays of the explanations of correctly predicted faces, for each class and group.

As in Fig. 4, 7 and 8 of the paper on data imbalance: the most important superpixels of each image are marked, and the
shade of a pixel is the share of the images in which it is marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotion.explanation.faithfulness import RANDOM, ChanceComparison, Curves, clusters_of, top_superpixels
from emotion.explanation.methods import ALL_IMAGES, ExplainedImages
from emotion.explanation.regions import FRAME, REGIONS, alignable, in_frame, outlines
from results.reports.figures import COLOURS, STYLES, drawable, fonts, inches

SIDE = 160  # pixels of a panel
_PANEL, _GAP, _COUNT, _HEAD = 1.25, 0.12, 0.24, 0.85  # inches


@dataclass(frozen=True)
class Cell:
    """Images of one class and group in an overlay.

    Attributes:
        name: The class.
        group: The group; "" for all images.
        rows: Rows of the table that are used.
        correct: Number of correctly predicted images.
        left_out: Number of these that are left out, since they have no landmarks.
        images: Number of images of the class and group.
    """

    name: str
    group: str
    rows: np.ndarray
    correct: int
    left_out: int
    images: int


@dataclass(frozen=True)
class Overlay:
    """The mean image of a cell, and the share of images in which each pixel is marked.

    Attributes:
        cell: The cell.
        face: Mean of the grey images, 0 to 1, float (SIDE, SIDE); NaN where there is none.
        marks: Share of the images in which the pixel is marked, float (SIDE, SIDE); NaN if there is no image.
        aligned: Whether the faces are aligned by their landmarks.
    """

    cell: Cell
    face: np.ndarray
    marks: np.ndarray
    aligned: bool


def choose_cells(
    explained: ExplainedImages, group: np.ndarray, groups: Sequence[str], *, n: int = 10, seed: int = 0
) -> list[Cell]:
    """Choose up to n correctly predicted images of each class and group, at random, of different clusters first.

    Images without landmarks are left out, unless no image has landmarks.

    Args:
        explained: The images.
        group: Group of each image, (N,).
        groups: Groups to show.
        n: Maximum number of images.
        seed: Seed of the choice.
    """
    table = explained.table
    aligned = alignable(explained.landmarks)
    usable = aligned if aligned.any() else np.ones(len(table), bool)
    label, cluster = table["label"].to_numpy(object), clusters_of(table)
    correct = label == table["predicted"].to_numpy(object)
    shuffled = np.random.default_rng(seed).permutation(len(table))
    chosen_cells = []
    for name in explained.classes:
        for value in groups:
            inside = (label == name) & (group == value)
            rows = shuffled[(inside & correct & usable)[shuffled]]
            repeats = pd.Series(cluster[rows]).groupby(cluster[rows]).cumcount().to_numpy()
            chosen = np.sort(rows[np.argsort(repeats, kind="stable")[:n]])
            right = inside & correct
            left_out = int((right & ~usable).sum())
            chosen_cells.append(Cell(name, value, chosen, int(right.sum()), left_out, int(inside.sum())))
    return chosen_cells


def overlay(explained: ExplainedImages, cell: Cell, *, top: int = 5) -> Overlay:
    """Return the overlay of a cell."""
    if not len(cell.rows):
        empty = np.full((SIDE, SIDE), np.nan)
        return Overlay(cell, empty, empty, False)
    aligned = alignable(explained.landmarks)
    faces, marks = [], []
    for row in cell.rows:
        landmarks = explained.landmarks[row] if aligned[row] else None
        grey = explained.images[row].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
        faces.append(in_frame(grey, landmarks, SIDE))
        marks.append(in_frame(top_superpixels(explained.maps[row], explained.segments[row], top), landmarks, SIDE))
    known_pixels = np.isfinite(faces)
    count = known_pixels.sum(axis=0)
    face = np.divide(np.nansum(faces, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    return Overlay(cell, face, np.nan_to_num(np.array(marks)).mean(axis=0), bool(aligned[cell.rows].all()))


def overlay_figure(
    drawn: Sequence[Overlay], classes: Sequence[str], groups: Sequence[str], *, n: int, title: str, faces: bool
) -> Figure:
    """Return a figure with one panel per class (row) and group (column), and the number of images below each.

    Without groups the classes are in one row.

    Args:
        drawn: One overlay for each class and group.
        classes: Classes to show.
        groups: Groups to show.
        n: Requested number of images.
        title: Heading.
        faces: Draw the mean of the faces under the marks; such a figure shows people and must stay private.
    """
    together = tuple(groups) == (ALL_IMAGES,)
    lines = [""] if together else list(classes)
    columns = list(classes) if together else list(groups)
    names = drawable(lines)
    heads = drawable(columns, "class" if together else "group")
    turned = inches(heads) > _PANEL
    left = 0.2 + (0.1 + inches(names) if not together else 0.0)
    above = _HEAD + (0.66 * inches(heads) if turned else 0.0)
    beyond = 0.75 * inches(heads[-1:]) - 0.5 if turned else 0.0  # a rotated last head extends beyond its panel
    across = max(left + len(columns) * (_PANEL + _GAP) + max(0.75, beyond), 0.3 + inches([title], 11))
    up = above + len(lines) * (_PANEL + _COUNT + _GAP) + 0.05
    figure = Figure(figsize=(across, up))
    place = {(panel.cell.name, panel.cell.group): panel for panel in drawn}
    for row, line in enumerate(lines):
        for column, head in enumerate(columns):
            panel = place[(head, ALL_IMAGES) if together else (line, head)]
            x, y = left + column * (_PANEL + _GAP), up - above - row * (_PANEL + _COUNT + _GAP) - _PANEL
            axes = figure.add_axes((x / across, y / up, _PANEL / across, _PANEL / up))
            _panel(axes, panel, faces)
            axes.set_xlabel(f"{len(panel.cell.rows)} of {n}", fontsize=8, labelpad=3)
            if column == 0 and not together:
                alignment: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center", "labelpad": 6}
                axes.set_ylabel(names[row], family=fonts(), parse_math=False, **alignment)
            if row == 0:
                rotation: dict[str, Any] = (
                    {"rotation": 40, "ha": "left", "x": 0.35, "rotation_mode": "anchor"} if turned else {}
                )
                axes.set_title(heads[column], fontsize=10, family=fonts(), pad=5, parse_math=False, **rotation)
    figure.text(0.12 / across, 1 - 0.1 / up, title, va="top", fontsize=11, family=fonts(), parse_math=False)
    figure.text(0.12 / across, 1 - 0.34 / up, "dark: marked in many images", va="top", fontsize=8)
    high = min(2.2, up - above - 0.45)
    x = left + len(columns) * (_PANEL + _GAP)
    bar = figure.add_axes((x / across, (up - above - high) / up, 0.12 / across, high / up))
    bar.imshow(np.linspace(1, 0, 101)[:, None], cmap=_map(faces), vmin=0, vmax=1, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks([0, 0.5, 1], ["none", "half", "all"], fontsize=8)
    return figure


def _map(faces: bool) -> str:
    return "Reds" if faces else "YlOrBr"


def _panel(axes: Axes, panel: Overlay, faces: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("#eeeeee")
    axes.set_xlim(0, SIDE)
    axes.set_ylim(SIDE, 0)
    cell = panel.cell
    if not len(cell.rows):
        why = "no image" if not cell.images else "none correct" if not cell.correct else "no landmarks"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=8)
        return
    extent = (0, SIDE, SIDE, 0)
    if faces:
        grey = np.nan_to_num(panel.face, nan=1.0)[..., None].repeat(3, axis=2)
        shade = 0.85 * panel.marks[..., None]
        red = colormaps["Reds"](0.35 + 0.65 * panel.marks)[..., :3]
        axes.imshow(np.clip(grey * (1 - shade) + red * shade, 0, 1), extent=extent)
        return
    axes.imshow(panel.marks, cmap=_map(faces), vmin=0, vmax=1, extent=extent)
    if panel.aligned:
        for shape in (shape for shapes in outlines(FRAME).values() for shape in shapes):
            closed = np.vstack([shape, shape[:1]]) * SIDE
            axes.plot(closed[:, 0], closed[:, 1], color="#333333", linewidth=0.5)


def curves_figure(tried: Curves, tests: Sequence[ChanceComparison]) -> Figure:
    """Return both curves and those of the baselines, mean over images; the band is one standard error.

    Args:
        tried: The curves.
        tests: Result of `against_baselines`.
    """
    figure = Figure(figsize=(8.6, 3.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("deletion", "insertion"), strict=True):
        curves = {"map": getattr(tried, name)}
        areas = {"map": next(test.value.value for test in tests if test.name == name)}
        curves[RANDOM] = tried.random if name == "deletion" else tried.random[:, ::-1]
        curves |= {baseline.name: getattr(baseline, name) for baseline in tried.baselines}
        areas |= {test.against: test.chance.value for test in tests if test.name == name}
        for number, (label, values) in enumerate(curves.items()):
            values = values[np.isfinite(values).all(axis=1)]
            if not len(values):
                continue
            mean = values.mean(axis=0)
            spread = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(mean))
            colour, style = COLOURS[(1, 0, 2, 3)[number]], STYLES[number]
            axes.plot(tried.grid, mean, style, color=colour, label=f"{label}, area {areas[label]:.3f}")
            axes.fill_between(tried.grid, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(f"{name.capitalize()} ({'low' if name == 'deletion' else 'high'} is good)", fontsize=10)
        axes.set_xlabel(f"share of pixels {'removed' if name == 'deletion' else 'put back'}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("probability of the explained class")
    return figure


def regions_figure(table: pd.DataFrame, by: str, groups: Sequence[str]) -> Figure:
    """Return the density of importance on each region for each group, over all classes, with intervals.

    Args:
        table: Result of `region_table`.
        by: The grouping; "" for all images.
        groups: Its groups.
    """
    shown = table[(table["by"] == by) & (table["class"] == "")]
    groups = [group for group in groups if (shown["group"] == group).any()]
    names = drawable([group or "all" for group in groups], "group")
    key = inches(names, 8) + 1.3 if by else 0.3
    high = max(2.4, len(REGIONS) * (0.24 + 0.15 * len(groups)))
    left, right = 0.35 + inches(REGIONS), 0.25
    across, up = left + 4.6 + key + right, high + 0.95
    figure = Figure(figsize=(across, up))
    axes = figure.add_axes((left / across, 0.6 / up, 4.6 / across, high / up))
    step = 0.72 / max(len(groups), 1)
    marks = ("o", "s", "^", "D", "v", "P", "X", "*")
    for number, (group, name) in enumerate(zip(groups, names, strict=True)):
        rows = shown[shown["group"] == group].set_index("region").reindex(REGIONS)
        value, low, end = (rows[column].to_numpy(np.float64) for column in ("density", "density_low", "density_high"))
        place = np.arange(len(REGIONS)) + (number - (len(groups) - 1) / 2) * step
        reach = np.nan_to_num(np.clip([value - low, end - value], 0, None))
        axes.errorbar(value, place, xerr=reach, fmt=marks[number % len(marks)], color=COLOURS[number % len(COLOURS)],
                      capsize=2, markersize=5, label=f"{name} (n = {int(rows['images'].max()):,})")  # fmt: skip
    axes.axvline(1, color="#666666", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(REGIONS)), REGIONS)
    axes.set_ylim(len(REGIONS) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("density: share of importance / share of area")
    axes.spines[["top", "right"]].set_visible(False)
    if by:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, prop={"family": fonts(), "size": 8}
        )
        figure.text(0.12 / across, 1 - 0.1 / up, f"by {by}", va="top", fontsize=10, family=fonts(), parse_math=False)
    return figure
