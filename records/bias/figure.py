"""Accuracy of every group as bars with intervals, one panel a class, so that two groups or twelve can be read."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from records.bias.groups import Measured
from records.figures import COLOURS
from records.lettering import drawable, inches

ALL = "all classes"
MOST_DRAWN = 24  # groups; the tables hold all
_ACROSS = 4  # panels
_WIDE, _LINE = 2.6, 0.27  # inches of a panel, and of a bar
_HEAD, _TITLE, _FOOT, _SIDE = 0.75, 0.35, 0.3, 0.2


def bias_figure(measured: Measured, classes: Sequence[str]) -> Figure:
    """Return one panel for all classes and one for each: bars of accuracy (in a class: recall) with 95 % intervals.

    A group that is not ranked is drawn pale. A cell without images has no bar.

    Args:
        measured: Numbers of one grouping.
        classes: Classes in the order in which they are drawn.
    """
    groups = measured.by_group.head(MOST_DRAWN)
    names, family = drawable([str(name) for name in groups["group"]], "group")
    heads, more = drawable([ALL, *classes], "class")
    (by,), others = drawable([measured.grouping.name], "group")
    family = list(dict.fromkeys([*family, *more, *others]))
    panels = [groups.assign(value=groups["accuracy"], low=groups["accuracy_low"], high=groups["accuracy_high"])]
    for one in classes:
        part = measured.by_class[measured.by_class["class"] == one].set_index("group").loc[groups["group"]]
        part = part.assign(value=part["recall"], low=part["recall_low"], high=part["recall_high"])
        panels.append(part.assign(ranked=groups["ranked"].to_numpy()))
    across, down = min(_ACROSS, len(panels)), -(-len(panels) // _ACROSS)
    room = 0.25 + inches(names, family, 9)
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
