"""Accuracy of every group as bars with intervals, one panel a class, so that two groups or twelve can be read."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.labels import canonical
from records.bias.groups import Measured
from records.figures import COLOURS

ALL = "all classes"
MOST_DRAWN = 24  # groups; the tables hold all
_ACROSS = 4  # panels
_WIDE, _LINE = 2.6, 0.27  # inches of a panel, and of a bar
_HEAD, _TITLE, _FOOT, _SIDE = 0.75, 0.35, 0.3, 0.2
_LONGEST = 26
_HANGUL = 0x10FF  # above it letters are twice as wide
_KOREAN = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "UnDotum")


def bias_figure(measured: Measured, classes: Sequence[str]) -> Figure:
    """Return one panel for all classes and one for each: bars of accuracy (in a class: recall) with 95 % intervals.

    A group that is not ranked is drawn pale. A cell without images has no bar.

    Args:
        measured: Numbers of one grouping.
        classes: Classes in the order in which they are drawn.
    """
    groups = measured.by_group.head(MOST_DRAWN)
    names, family = _drawable([str(name) for name in groups["group"]], "group")
    heads, more = _drawable([ALL, *classes], "class")
    (by,), others = _drawable([measured.grouping.name], "group")
    family = list(dict.fromkeys([*family, *more, *others]))
    panels = [groups.assign(value=groups["accuracy"], low=groups["accuracy_low"], high=groups["accuracy_high"])]
    for one in classes:
        part = measured.by_class[measured.by_class["class"] == one].set_index("group").loc[groups["group"]]
        part = part.assign(value=part["recall"], low=part["recall_low"], high=part["recall_high"])
        panels.append(part.assign(ranked=groups["ranked"].to_numpy()))
    across, down = min(_ACROSS, len(panels)), -(-len(panels) // _ACROSS)
    room = 0.15 + 0.082 * max(_columns(name) for name in names)
    tall = _LINE * len(groups) + 0.12
    width = room + across * (_WIDE + _SIDE)
    height = _HEAD + down * (_TITLE + tall + _FOOT)
    figure = Figure(figsize=(width, height))
    for number, (head, panel) in enumerate(zip(heads, panels, strict=True)):
        column, row = number % across, number // across
        left, low = room + column * (_WIDE + _SIDE), height - _HEAD - row * (_TITLE + tall + _FOOT) - _TITLE - tall
        axes = figure.add_axes((left / width, low / height, _WIDE / width, tall / height))
        _bars(axes, panel, 0 if number == 0 else 1)
        axes.set_title(head, fontsize=10, loc="left", family=family, parse_math=False)
        shown = names if column == 0 else [""] * len(names)
        axes.set_yticks(range(len(names)), shown, family=family, fontsize=9, parse_math=False)
    title = f"By {by}" + (f", the first {MOST_DRAWN} groups" if len(measured.by_group) > MOST_DRAWN else "")
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=11, family=family, parse_math=False)
    said = "accuracy with 95% interval, correct / images; in a class accuracy is recall; pale: not ranked"
    if names != [str(name) for name in groups["group"]]:
        said += "; names cut or numbered as in the table"
    figure.text(0.1 / width, 1 - 0.4 / height, said, va="top", fontsize=8)
    return figure


def _bars(axes: Axes, panel: pd.DataFrame, colour: int) -> None:
    place = np.arange(len(panel))
    value, low, high = (panel[name].to_numpy(np.float64) for name in ("value", "low", "high"))
    there = np.isfinite(value)
    shades = [COLOURS[colour] if ranked else "#bbbbbb" for ranked in panel["ranked"]]
    axes.barh(place[there], value[there], color=[shades[at] for at in place[there]], height=0.66)
    reach = np.clip([value - low, high - value], 0, None)  # a percentile interval need not hold the value
    axes.errorbar(value[there], place[there], xerr=reach[:, there], fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for at, images, correct in zip(place.tolist(), panel["images"], panel["correct"], strict=True):
        ends = max(high[at], value[at]) if there[at] else 0.0
        text = f"{value[at]:.2f}  {correct}/{images}" if there[at] else "no image"
        axes.text(ends + 0.03, at, text, va="center", fontsize=7.5)
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.set_xlim(0, 1.62)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", ".5", "", "1"], fontsize=8)
    axes.spines["bottom"].set_bounds(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _drawable(names: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Return names that installed fonts can draw, cut to a length that fits, and these fonts.

    Where no font has a name, a Korean emotion gets its English name, and others their number.
    """
    fonts = ["DejaVu Sans"]
    if not all(_has(fonts[0], name) for name in names):
        fonts += _korean_font()
    shown = []
    for number, name in enumerate(names, 1):
        drawn = all(any(_has(font, one) for font in fonts) for one in name)
        text = name if drawn else (canonical(name) or f"{what} {number}")
        shown.append(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")
    return shown, fonts


@lru_cache
def _korean_font() -> list[str]:
    """Return an installed font that has Hangul, in a list; matplotlib knows those that were there when it first ran."""
    if not {entry.name for entry in font_manager.fontManager.ttflist}.intersection(_KOREAN):
        files = [name.replace(" ", "").lower() for name in _KOREAN]
        for path in font_manager.findSystemFonts():
            if Path(path).stem.lower().removesuffix("-regular") in files:
                font_manager.fontManager.addfont(path)
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [font for font in _KOREAN if font in installed][:1]


def _has(font: str, text: str) -> bool:
    face = font_manager.get_font(font_manager.findfont(font))
    return all(one.isspace() or face.get_char_index(ord(one)) for one in text)


def _columns(text: str) -> int:
    return sum(2 if ord(one) > _HANGUL else 1 for one in text)
