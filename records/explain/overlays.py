"""Correctly answered faces of a class and group laid on each other: what their explanations share turns dark.

As Fig. 4, 7 and 8 of the paper on data imbalance: each image marks its most important superpixels, and the shade of a
place is the share of the images that mark it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from records.explain.alignment import FRAME, in_frame, known
from records.explain.explained import Explained
from records.explain.faithfulness import clusters_of
from records.explain.ordering import marked
from records.explain.regions import outlines
from records.figures import _drawable, _inches

SIDE = 160  # pixels of a panel
EVERYBODY = ""
_PANEL, _GAP, _COUNT, _HEAD = 1.25, 0.12, 0.24, 0.85  # inches


@dataclass(frozen=True)
class Cell:
    """Images of one class and group that are laid on each other.

    Attributes:
        name: Class.
        group: Its group, "" for all together.
        rows: Rows of the table that are used.
        correct: How many were answered correctly.
        left_out: How many of these have no landmarks, and so could not be used.
        images: How many there are of the class and group.
    """

    name: str
    group: str
    rows: np.ndarray
    correct: int
    left_out: int
    images: int


@dataclass(frozen=True)
class Overlay:
    """The images of a cell in one frame.

    Attributes:
        cell: Whose.
        face: float (SIDE, SIDE) mean of the grey pictures, 0 to 1; NaN where there is none.
        marks: float (SIDE, SIDE) share of the images that mark the place; NaN where there is no image.
    """

    cell: Cell
    face: np.ndarray
    marks: np.ndarray


def cells(explained: Explained, group: np.ndarray, groups: Sequence[str], *, n: int = 10, seed: int = 0) -> list[Cell]:
    """Choose up to n correctly answered images of each class and group, at random, of different clusters first.

    Where no image at all has landmarks, images are used as they are; otherwise those without are left out.

    Args:
        explained: The images.
        group: (N,) the group of each.
        groups: Those to show.
        n: So many at most.
        seed: Of the choice.
    """
    table = explained.table
    aligned = known(explained.landmarks)
    usable = aligned if aligned.any() else np.ones(len(table), bool)
    label, cluster = table["label"].to_numpy(object), clusters_of(table)
    correct = label == table["predicted"].to_numpy(object)
    shuffled = np.random.default_rng(seed).permutation(len(table))
    found = []
    for name in explained.classes:
        for one in groups:
            inside = (label == name) & (group == one)
            rows = [row for row in shuffled if inside[row] and correct[row] and usable[row]]
            again = {
                row: [cluster[other] for other in rows[:place]].count(cluster[row]) for place, row in enumerate(rows)
            }
            chosen = np.sort(np.array(sorted(rows, key=lambda row: again[row])[:n], np.int64))
            right = inside & correct
            left_out = int((right & ~usable).sum())
            found.append(Cell(name, one, chosen, int(right.sum()), left_out, int(inside.sum())))
    return found


def overlay(explained: Explained, cell: Cell, *, top: int = 5) -> Overlay:
    """Lay the images of a cell on each other."""
    if not len(cell.rows):
        empty = np.full((SIDE, SIDE), np.nan)
        return Overlay(cell, empty, empty)
    aligned = known(explained.landmarks)
    faces, marks = [], []
    for row in cell.rows:
        landmarks = explained.landmarks[row] if aligned[row] else None
        grey = explained.images[row].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
        faces.append(in_frame(grey, landmarks, SIDE))
        marks.append(in_frame(marked(explained.maps[row], explained.segments[row], top), landmarks, SIDE))
    there = np.isfinite(faces)
    count = there.sum(axis=0)
    face = np.divide(np.nansum(faces, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    return Overlay(cell, face, np.nan_to_num(np.array(marks)).mean(axis=0))


def overlay_figure(
    drawn: Sequence[Overlay], classes: Sequence[str], groups: Sequence[str], *, n: int, title: str, faces: bool
) -> Figure:
    """Return one panel a class (row) and group (column), with the count below it: used of wanted.

    Args:
        drawn: One for each class and group.
        classes: Rows.
        groups: Columns.
        n: How many images were wanted.
        title: Heading.
        faces: Show the mean of the faces below the marks; such a figure shows people and stays with its owner.
    """
    names, fonts = _drawable(classes)
    heads, head_fonts = _drawable(groups)
    heads, turned = _fitted(heads, head_fonts)
    left = 0.3 + _inches(names, fonts)
    above = _HEAD + (0.72 * _inches(heads, head_fonts) if turned else 0.0)
    across = left + len(groups) * (_PANEL + _GAP) + 0.95
    across = max(across, left + 3.2)
    up = above + len(classes) * (_PANEL + _COUNT + _GAP) + 0.1
    figure = Figure(figsize=(across, up))
    place = {(one.cell.name, one.cell.group): one for one in drawn}
    for row, name in enumerate(classes):
        for column, group in enumerate(groups):
            x, y = left + column * (_PANEL + _GAP), up - above - row * (_PANEL + _COUNT + _GAP) - _PANEL
            axes = figure.add_axes((x / across, y / up, _PANEL / across, _PANEL / up))
            _panel(axes, place[name, group], faces)
            axes.set_xlabel(_count(place[name, group].cell, n), fontsize=8, labelpad=3)
            if column == 0:
                axes.set_ylabel(
                    names[row], rotation=0, ha="right", va="center", family=fonts, labelpad=6, parse_math=False
                )
            if row == 0 and groups[column] != EVERYBODY:
                angle: dict[str, Any] = {"rotation": 40, "ha": "left", "x": 0.3} if turned else {}
                axes.set_title(heads[column], fontsize=10, family=head_fonts, pad=5, parse_math=False, **angle)
    figure.text(0.12 / across, 1 - 0.12 / up, title, ha="left", va="top", fontsize=11, parse_math=False)
    said = "dark: what the images share"
    figure.text(0.12 / across, 1 - 0.36 / up, said, ha="left", va="top", fontsize=8)
    high = min(2.2, up - above - 0.2)
    x = left + len(groups) * (_PANEL + _GAP) + 0.08
    bar = figure.add_axes((x / across, (up - above - high) / up, 0.13 / across, high / up))
    bar.imshow(np.linspace(1, 0, 101)[:, None], cmap=_map(faces), vmin=0, vmax=1, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks([0, 0.5, 1], ["none", "half", "all"], fontsize=8)
    return figure


def _fitted(names: Sequence[str], fonts: Sequence[str]) -> tuple[list[str], bool]:
    """Return heads of columns, and whether they must be turned to stand beside each other."""
    return list(names), _inches(names, fonts) > _PANEL


def _map(faces: bool) -> str:
    return "Reds" if faces else "YlOrBr"


def _count(cell: Cell, n: int) -> str:
    return f"{len(cell.rows)} of {n}"


def _panel(axes: Axes, one: Overlay, faces: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("#eeeeee")
    axes.set_xlim(0, SIDE)
    axes.set_ylim(SIDE, 0)
    if not len(one.cell.rows):
        axes.text(0.5, 0.5, "no image" if not one.cell.images else "none correct" if not one.cell.correct else
                  "no landmarks", transform=axes.transAxes, ha="center", va="center", fontsize=8)  # fmt: skip
        return
    extent = (0, SIDE, SIDE, 0)
    if faces:
        grey = np.nan_to_num(one.face, nan=1.0)[..., None].repeat(3, axis=2)
        shade = one.marks[..., None]
        red = np.array(colormaps["Reds"](0.35 + 0.65 * one.marks))[..., :3]
        axes.imshow(grey * (1 - 0.85 * shade) + red * 0.85 * shade, extent=extent, vmin=0, vmax=1)
    else:
        axes.imshow(one.marks, cmap=_map(faces), vmin=0, vmax=1, extent=extent)
        for shapes in outlines(FRAME).values():
            for shape in shapes:
                closed = np.vstack([shape, shape[:1]]) * SIDE
                axes.plot(closed[:, 0], closed[:, 1], color="#333333", linewidth=0.5)
