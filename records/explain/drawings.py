"""The figures of an explanation that show no person: deletion and insertion curves, and density on regions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from records.explain.curves import Curves
from records.explain.faithfulness import Better
from records.explain.regions import REGIONS
from records.figures import COLOURS
from records.lettering import PLAIN, drawable, inches


def curves_figure(found: Curves, deletion: Better, insertion: Better) -> Figure:
    """Return both curves beside those of random orders, mean over images; the band is one standard error."""
    figure = Figure(figsize=(8.6, 3.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    sides = (
        ("Deletion (low is good)", "taken away", found.deletion, found.random, deletion),
        ("Insertion (high is good)", "put back", found.insertion, found.random[:, ::-1], insertion),
    )
    for axes, (title, what, ours, random, better) in zip(panels, sides, strict=True):
        for name, values, colour, style in (("map", ours, COLOURS[1], "-"), ("random", random, COLOURS[0], "--")):
            mean = values.mean(axis=0)
            spread = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(mean))
            area = better.value.value if name == "map" else better.chance.value
            axes.plot(found.grid, mean, style, color=colour, label=f"{name}, area {area:.3f}")
            axes.fill_between(found.grid, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"share of pixels {what}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("probability of the explained class")
    return figure


def regions_figure(table: pd.DataFrame, by: str, groups: Sequence[str]) -> Figure:
    """Return density on each region for each group, all classes together, with intervals.

    Args:
        table: What `region_table` gave.
        by: The grouping; "" for all images together.
        groups: Its groups.
    """
    shown = table[(table["by"] == by) & (table["class"] == "")]
    groups = [group for group in groups if (shown["group"] == group).any()]
    names, fonts = drawable([group or "all" for group in groups], "group")
    key = inches(names, fonts, 8) + 1.3 if by else 0.3
    high = max(2.4, len(REGIONS) * (0.24 + 0.15 * len(groups)))
    left, right = 0.35 + inches(REGIONS, [PLAIN], 10), 0.25
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
            loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, prop={"family": fonts, "size": 8}
        )
        figure.text(
            0.12 / across, 1 - 0.1 / up, f"by {by}", va="top", fontsize=10, family=drawable([by])[1], parse_math=False
        )
    return figure
