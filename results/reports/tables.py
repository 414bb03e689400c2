"""Results as people read them: aligned text for a terminal, Markdown for a page."""

import unicodedata

import pandas as pd

from results.predictions import HONEST, protocol_of
from results.statistics import FEW_CLUSTERS, mean_and_sd

MARK = "*"
_WHOLE = {"f1_macro": "macro F1", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


def class_table(intervals: pd.DataFrame) -> pd.DataFrame:
    """Return precision, recall, F1 with its interval, images and clusters of each class, as text.

    Args:
        intervals: What `cluster_bootstrap` returned. A class with fewer than ten clusters is marked.
    """
    span = _span_name(intervals)
    by_class = intervals[intervals["class"] != ""]
    values = by_class.pivot(index="class", columns="metric", values="value")
    rows = []
    for _, one in by_class[by_class["metric"] == "f1"].iterrows():
        name = one["class"]
        rows.append(
            {
                "class": f"{name}{' ' + MARK if one['few_clusters'] else ''}",
                "precision": _number(values.loc[name, "precision"]),
                "recall": _number(values.loc[name, "recall"]),
                "F1": _number(one["value"]),
                span: _span(one["low"], one["high"]),
                "images": str(one["images"]),
                "clusters": str(one["clusters"]),
            }
        )
    return pd.DataFrame(rows)


def whole_table(intervals: pd.DataFrame, folds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return macro F1, accuracy and balanced accuracy with intervals, as text.

    Args:
        intervals: What `cluster_bootstrap` returned for all held-out images together.
        folds: What `fold_scores` returned; adds mean and standard deviation over folds when there are several.
    """
    span = _span_name(intervals)
    spread = mean_and_sd(folds) if folds is not None and len(folds) > 1 else None
    rows = []
    for _, one in intervals[intervals["class"] == ""].iterrows():
        row = {
            "score": _WHOLE[one["metric"]],
            "pooled" if spread is not None else "value": _number(one["value"]),
            span: _span(one["low"], one["high"]),
        }
        if spread is not None and folds is not None:
            mean, sd = spread.loc[one["metric"], ["mean", "sd"]]
            row[f"mean of {len(folds)} folds"] = _number(mean)
            row["sd over folds"] = _number(sd)
        rows.append(row)
    return pd.DataFrame(rows)


def notes(intervals: pd.DataFrame) -> list[str]:
    """Return the sentences that belong under the tables."""
    level, resamples = intervals.attrs["level"], intervals.attrs["resamples"]
    whole = intervals[intervals["class"] == ""].iloc[0]
    found = [
        f"{whole['images']} images in {whole['clusters']} clusters (of duplicates, or of one person). "
        f"Intervals: {level:.0%}, {resamples} resamples of clusters within each class; they cover the choice of "
        "test images, not the seed of the training."
    ]
    few = intervals.loc[(intervals["metric"] == "f1") & intervals["few_clusters"], "class"]
    if len(few):
        names = ", ".join(few)
        found.append(f"{MARK} fewer than {FEW_CLUSTERS} clusters, the interval says little: {names}.")
    return found


def result_text(intervals: pd.DataFrame, folds: pd.DataFrame | None = None, *, markdown: bool = False) -> str:
    """Return both tables and their notes, ready to print or to put on a page; a leaky protocol stands above them."""
    draw = as_markdown if markdown else as_text
    protocol = protocol_of(intervals)
    head = [] if protocol == HONEST else [f"protocol: {protocol}"]
    parts = [*head, draw(class_table(intervals)), draw(whole_table(intervals, folds)), *notes(intervals)]
    return "\n\n".join(parts) + "\n"


def as_text(table: pd.DataFrame) -> str:
    """Return a table of text with aligned columns: the first to the left, the others to the right."""
    cells = _cells(table)
    widths = [max(_width(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(_pad(row[i], width, i > 0) for i, width in enumerate(widths)) for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:]])


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    cells = [[cell.replace("|", "\\|").replace(MARK, f"\\{MARK}") for cell in row] for row in _cells(table)]
    rule = ["---", *["---:"] * (len(cells[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])


def _cells(table: pd.DataFrame) -> list[list[str]]:
    return [[str(name) for name in table.columns], *[[str(cell) for cell in row] for row in table.to_numpy(object)]]


def _number(value: float) -> str:
    return f"{value:.3f}"


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _span_name(table: pd.DataFrame) -> str:
    return f"{table.attrs['level']:.0%} interval"


def _width(text: str) -> int:
    """Return the columns a terminal gives `text`: Hangul takes two a character."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
