"""The figures of a study: curves over epochs, scores over cost, spread over repeats, differences with intervals."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from records.figures import COLOURS, STYLES
from sweeps.studies.claims import Judged
from sweeps.studies.outcomes import Outcomes
from sweeps.studies.plan import Picture

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SAID = {"f1_macro": "macro F1", "accuracy": "accuracy", "model/flops": "FLOPs a picture", "train/loss": "loss"}


def draw(picture: Picture, outcomes: Outcomes, judged: Sequence[Judged]) -> bytes | None:
    """Return a figure as PNG; None when none of its cells has been finished."""
    if not any(outcomes.of(cell) for cell in picture.cells.values()):
        return None
    drawing = {"curves": _curves, "trade": _trade, "spread": _spread, "plane": _plane}.get(picture.kind)
    figure = drawing(picture, outcomes) if drawing else _differences(picture, judged)
    if figure is None:
        return None
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130)
    return written.getvalue()


def _curves(picture: Picture, outcomes: Outcomes) -> Figure:
    """One panel a metric; colour and mark tell the cells apart, solid is training and dashed what is selected on."""
    figure = Figure(figsize=(5.2 * len(picture.metrics), 3.8), layout="constrained")
    panels = figure.subplots(1, len(picture.metrics), squeeze=False)[0]
    for axes, metric in zip(panels, picture.metrics, strict=True):
        for number, (name, cell) in enumerate(picture.cells.items()):
            for one in outcomes.of(cell)[:1]:
                for stage, style in (("train", "-"), ("val", "--")):
                    curve = one.curves[one.curves["name"] == f"{stage}/{metric}"].sort_values("step")
                    if len(curve):
                        epochs = np.arange(1, len(curve) + 1)
                        said = "training" if stage == "train" else "selected on"
                        colour = COLOURS[number % len(COLOURS)]
                        axes.plot(epochs, curve["value"], style, color=colour, label=f"{name}, {said}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(_SAID.get(metric, metric))
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=7)
    return figure


def _trade(picture: Picture, outcomes: Outcomes) -> Figure:
    """Scores over parameters and over FLOPs, one mark a cell."""
    costs = ("model/parameters", "model/flops")
    size = (4.6 * len(costs), 3.4 * len(picture.metrics))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(picture.metrics), len(costs), squeeze=False)
    for line, metric in zip(panels, picture.metrics, strict=True):
        for axes, cost in zip(line, costs, strict=True):
            for number, (name, cell) in enumerate(picture.cells.items()):
                at, score = outcomes.number(cell, cost), outcomes.number(cell, metric)
                if at is None or score is None:
                    continue
                colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
                spread = [[score.value - score.low], [score.high - score.value]]
                axes.errorbar(at.value, score.value, spread, fmt=mark, color=colour, capsize=3, label=name)
            axes.set_xscale("log")
            axes.set_xlabel("parameters" if cost.endswith("parameters") else "FLOPs of one picture")
            axes.set_ylabel(_SAID.get(metric, metric))
            axes.grid(alpha=0.3, which="both")
    panels[0][0].legend(fontsize=7)
    return figure


def _spread(picture: Picture, outcomes: Outcomes) -> Figure:
    """Every repeat as a dot, their mean as a line, the published number as a cross."""
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.subplots()
    metrics = picture.metrics if len(picture.metrics) > 1 else picture.metrics * len(picture.cells)
    names = list(picture.cells) if len(picture.metrics) == 1 else [one.rpartition(" ")[2] for one in picture.metrics]
    cells = list(picture.cells.values()) * (len(metrics) // len(picture.cells))
    means = []
    for place, (cell, metric) in enumerate(zip(cells, metrics, strict=True)):
        values = [one.number(metric)[0] for one in outcomes.of(cell)]
        label = "one repeat" if place == 0 else None
        axes.plot([place] * len(values), values, "o", color=COLOURS[0], alpha=0.5, ms=5, label=label)
        means.append(float(np.mean(values)) if values else np.nan)
    axes.plot(range(len(means)), means, "-", color=COLOURS[0], lw=1.5, label="mean of the repeats")
    known = [picture.published.get(name, np.nan) for name in names]
    if not np.isnan(known).all():
        axes.plot(range(len(known)), known, "x", color=COLOURS[1], ms=8, mew=2, label="the paper's single run")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_ylabel("accuracy")
    _finish(axes)
    return figure


def _plane(picture: Picture, outcomes: Outcomes) -> Figure:
    """One metric over another: a mark a cell, with the range of its seeds or its interval; a line where both agree."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, cell) in enumerate(picture.cells.items()):
        across, up = (outcomes.number(cell, metric) for metric in picture.metrics)
        if across is None or up is None:
            continue
        reach = [[[max(0.0, one.value - one.low)], [max(0.0, one.high - one.value)]] for one in (across, up)]
        colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
        axes.errorbar(across.value, up.value, reach[1], reach[0], fmt=mark, color=colour, capsize=3, ms=7, label=name)
    ends = [max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1])]
    if ends[0] < ends[1]:
        axes.plot(ends, ends, color="black", lw=0.8, ls=STYLES[1])
    axes.set_xlabel(picture.metrics[0])
    axes.set_ylabel(picture.metrics[1])
    _finish(axes)
    return figure


def _differences(picture: Picture, judged: Sequence[Judged]) -> Figure | None:
    """One line a claim: the difference and its interval against zero."""
    shown = [one for one in judged if one.claim.higher[0] in picture.cells.values()]
    shown = [one for one in shown if one.claim.higher[1] in picture.metrics and not np.isnan(one.difference)]
    if not shown:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(shown)):
        ends = [[max(0.0, one.difference - one.low)], [max(0.0, one.high - one.difference)]]
        drawn = None if np.isnan(one.low) else ends
        differs = one.verdict == "differs on these images for these models"
        sure = one.verdict == "confirmed" or differs
        colour, mark = COLOURS[1 if sure else 0], "D" if differs else "s" if sure else "o"
        axes.errorbar(one.difference, place, xerr=drawn, fmt=mark, color=colour, capsize=3)
    axes.axvline(0, color="black", lw=1, ls=STYLES[1])
    axes.set_yticks(range(len(shown)), [one.claim.text for one in reversed(shown)], fontsize=8)
    said = "difference with its 95 % interval; at p < .05 square: confirmed, diamond: these models on these images"
    axes.set_xlabel(said, loc="right", fontsize=8)
    axes.grid(alpha=0.3, axis="x")
    return figure


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
