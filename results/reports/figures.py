"""Fonts and files of all figures, and the figures of a run: confusion matrix, training curves, F1 of each class.

A run waits while they are drawn, so margins are computed from the widths of the names: a layout engine draws twice.
"""

import io
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from datamodules.labels import canonical
from results.statistics import confusion

FONTS = ("DejaVu Sans", "Noto Sans CJK KR", "NanumGothic")  # matplotlib draws a character in the first that has it
LONGEST_NAME = 22


@cache
def fonts() -> list[str]:
    """Return those of `FONTS` that are installed; matplotlib warns of others."""
    installed = font_manager.get_font_names()
    return [name for name in FONTS if name in installed]


def drawable(names: Sequence[str], what: str = "class", longest: int = LONGEST_NAME) -> list[str]:
    """Return names that `fonts` can draw, cut to a length that fits.

    If no font can draw a name, a Korean emotion gets its English name, any other name its number.
    """
    shown = []
    for index, name in enumerate(names, 1):
        name = unicodedata.normalize("NFC", name)
        text = name if _has_glyphs(name) else (canonical(name) or f"{what} {index}")
        shown.append(text if len(text) <= longest else f"{text[: longest - 1]}…")
    return shown


def _has_glyphs(text: str) -> bool:
    faces = [font_manager.get_font(font_manager.findfont(name)) for name in fonts()]
    return all(letter.isspace() or any(face.get_char_index(ord(letter)) for face in faces) for letter in text)


def inches(names: Sequence[str], points: float = 10) -> float:
    """Return the width of the widest name in inches, drawn in `fonts`."""
    font = font_manager.FontProperties(family=fonts(), size=points)
    widths = (text_to_path.get_text_width_height_descent(name, font, ismath=False)[0] for name in names)
    return max(widths, default=0.0) / 72


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG, compressed quickly: a few kilobytes more, in a fifth of the time."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130, pil_kwargs={"compress_level": 1})
    return drawn.getvalue()


def svg_of(figure: Figure) -> str:
    """Return a figure as an SVG element for an HTML page."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


# Okabe and Ito's colours, which colour-blind readers tell apart; line styles tell them apart in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")

_SHORT = 18  # characters of a class in figures with an axis of classes
_HEAD, _GAP = 0.55, 0.25  # inches
_MAIN_SCORES = ("f1_macro", "accuracy")


def confusion_figure(predictions: pd.DataFrame, classes: Sequence[str], title: str = "") -> Figure:
    """Return the confusion matrix: rows are true classes, with counts and percentages of the row (also as colour)."""
    index = pd.Index(list(classes))
    label, predicted = (index.get_indexer(pd.Index(predictions[column])) for column in ("label", "predicted"))
    counts = confusion(label, predicted, len(classes))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (C, C)
    names = drawable(classes, longest=_SHORT)
    room = inches(names)
    cell = max(0.66, 2.6 / len(classes))
    figure, (axes,) = _framed(cell * len(classes), cell * len(classes), left=0.5 + room, bottom=0.65 + 0.65 * room)
    edges = np.arange(len(classes) + 1) - 0.5
    axes.pcolormesh(edges, edges, share, cmap="Blues", vmin=0, vmax=1)  # squares are drawn quicker than an image
    axes.invert_yaxis()
    for row in range(len(classes)):
        for column in range(len(classes)):
            ink = "white" if share[row, column] > 0.65 else "black"
            text = f"{counts[row, column]:,}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor", family=fonts())
    axes.set_yticks(range(len(classes)), names, family=fonts())
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _head(figure, title or f"Confusion matrix, {counts.sum():,} images", "shade and %: share of the true class")
    return figure


def class_figure(intervals: pd.DataFrame, title: str = "") -> Figure:
    """Return one bar per class, its F1, with the interval and the number of images; below them the macro F1.

    Args:
        intervals: What `cluster_bootstrap` returned.
        title: Heading; by default what is shown.
    """
    rows = intervals[intervals["metric"] == "f1"]
    whole = intervals[intervals["metric"] == "f1_macro"].iloc[0]
    shown = drawable(list(rows["class"]), longest=_SHORT)
    names = [
        *(f"{name}{' *' if few else ''}" for name, few in zip(shown, rows["few_clusters"], strict=True)),
        "macro F1",
    ]
    value, low, high = (np.append(rows[column].to_numpy(), whole[column]) for column in ("value", "low", "high"))
    images = [*rows["images"], whole["images"]]
    place = np.arange(len(names), dtype=float)
    place[-1] += 0.5  # set apart
    few = "* fewer than 10 clusters: the interval is not reliable" if rows["few_clusters"].any() else ""
    figure, (axes,) = _framed(5.2, 0.36 * len(names) + 0.3, left=0.3 + inches(names), bottom=0.6, right=0.5)
    axes.barh(place, value, color=[*[COLOURS[0]] * len(rows), "#666666"], height=0.62)
    reach = np.clip([value - low, high - value], 0, None)  # a percentile interval need not hold the value
    axes.errorbar(value, place, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    for at, number, upper, mean in zip(place, images, high, value, strict=True):
        axes.text(max(upper, mean) + 0.015, at, f"{mean:.2f}  (n = {number:,})", va="center", fontsize=8)
    axes.set_yticks(place, names, family=fonts())
    axes.invert_yaxis()
    axes.set_xlim(0, 1.26)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.spines["bottom"].set_bounds(0, 1)
    axes.set_xlabel(f"F1, with {intervals.attrs['level']:.0%} interval")
    axes.spines[["top", "right"]].set_visible(False)
    _head(figure, title or "F1 of each class", few)
    return figure


def curves_figure(curves: Mapping[str, pd.Series], title: str = "", mark: str = "val/f1_macro") -> Figure:
    """Return the training curves: losses above, scores below, over optimizer steps.

    Of more than six scores only macro F1, accuracy and balanced accuracy are drawn.

    Args:
        curves: Metric name -> values by step, as `TrackingLogger.history` gives them.
        title: Heading.
        mark: The metric that chose the kept checkpoint; its best step is marked when it is there.
    """
    shown = {name: curve for name, curve in curves.items() if len(curve) and _is_curve(name)}
    losses = {name: curve for name, curve in shown.items() if name.endswith("loss")}
    others = {name: curve for name, curve in shown.items() if name not in losses}
    if len(others) > len(COLOURS):
        others = {name: curve for name, curve in others.items() if name.endswith(_MAIN_SCORES)} or others
    panels = [(kind, part) for kind, part in (("loss", losses), ("score", others)) if part]
    best = int(curves[mark].idxmax()) if mark in curves and curves[mark].notna().any() else None
    key = max((inches([*part, f"best {mark}"], 8) for _, part in panels), default=0)
    across, up = 5.6, 2.5 * max(len(panels), 1)
    figure, places = _framed(across, up, left=0.75, bottom=0.55, right=0.8 + key, panels=len(panels))
    for number, (axes, (kind, part)) in enumerate(zip(places, panels, strict=True)):
        if number:
            axes.sharex(places[0])
        for i, (name, curve) in enumerate(part.items()):
            (line,) = axes.plot(curve.index, curve.to_numpy(), label=name, markersize=3.5, linewidth=1.5)
            line.set_color(COLOURS[i % len(COLOURS)])
            line.set_linestyle(STYLES[i % len(STYLES)])
            line.set_marker("o" if len(curve) <= 30 else "")
        if best is not None:
            axes.axvline(best, color="#666666", linewidth=1, linestyle=(0, (1, 2)), label=f"best {mark}")
        axes.set_ylabel(kind)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
        axes.tick_params(labelbottom=number == len(panels) - 1)
        if number == len(panels) - 1:
            axes.set_xlabel("optimizer steps")
    _head(figure, title or "Training curves")
    return figure


class _QuickFigure(Figure):
    """A figure that is saved with little effort: a few kilobytes more, in a fifth of the time."""

    def savefig(self, fname: Any, **options: Any) -> None:  # noqa: ANN401
        """Save as `Figure.savefig` does, a PNG with compression level 1 by default."""
        if str(fname).endswith(".png"):
            options.setdefault("pil_kwargs", {"compress_level": 1})
        super().savefig(fname, **options)


def risk_coverage_figure(curve: pd.DataFrame, answered: float = 1.0, title: str = "Risk by coverage") -> Figure:
    """Return the risk among the surest images over their share, and what a rule of abstention answers.

    Args:
        curve: What `results.selective.risk_coverage` returned.
        answered: Share of the images that are answered; 1 draws no mark.
        title: Heading.
    """
    figure, (axes,) = _framed(4.6, 3.0, left=0.75, bottom=0.55)
    axes.plot(curve["coverage"], curve["risk"], color=COLOURS[0], linewidth=1.5)
    if answered < 1:
        axes.axvline(answered, color="#666666", linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("coverage: share of the images, the surest first")
    axes.set_ylabel("risk: share of wrong answers")
    axes.grid(alpha=0.3)
    _head(figure, title, f"{len(curve):,} images{f'; dotted: {answered:.0%} answered' if answered < 1 else ''}")
    return figure


def _framed(
    width: float, height: float, *, left: float, bottom: float, right: float = 0.25, panels: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, one above the other, in a frame of ``width`` x ``height`` inches.

    Margins are in inches, too; a heading has room above.
    """
    across, up = left + width + right, bottom + height + _HEAD
    figure = _QuickFigure(figsize=(across, up))
    high = (height - _GAP * (panels - 1)) / panels if panels else 0
    places = [bottom + (panels - 1 - number) * (high + _GAP) for number in range(panels)]
    return figure, [figure.add_axes((left / across, low / up, width / across, high / up)) for low in places]


def _head(figure: Figure, title: str, note: str = "") -> None:
    """Write a heading, and a smaller line below it."""
    height = figure.get_figheight()
    figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=11)
    if note:
        figure.text(0.5, 1 - 0.34 / height, note, ha="center", va="top", fontsize=8)


def _is_curve(name: str) -> bool:
    """Whether a metric is a score or loss that develops, not a counter, a learning rate or the one test at the end."""
    return name not in ("epoch", "step") and not name.startswith(("test/", "system/", "lr"))
