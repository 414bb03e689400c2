"""Tables and number formats of all reports: aligned text for a terminal, Markdown, and the cells of HTML pages.

A table is a `pandas.DataFrame` of cells. A cell is text, or a tuple of `Part` where a piece of it is a link or small.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd

from results.predictions import HONEST, protocol_of
from results.statistics import FEW_CLUSTERS, mean_and_sd

MARK = "*"
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "recall": "recall",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~])")


@dataclass(frozen=True)
class Part:
    """A piece of a table cell: its text, the address that it links to, and whether it is set in small print."""

    text: str
    link: str = ""
    small: bool = False


def parts_of(cell: str | Sequence[Part]) -> Sequence[Part]:
    """Return the pieces of a cell."""
    return (Part(cell),) if isinstance(cell, str) else cell


def number_columns(table: pd.DataFrame) -> list[bool]:
    """Return which columns hold numbers: where at least half of the cells with text begin like one."""
    columns = (table.iloc[:, place].map(_first_text) for place in range(table.shape[1]))
    return [bool(texts[texts != ""].str.match(r"(?:< )?[-+±.\d]").mean() >= 0.5) for texts in columns]


def _first_text(cell: str | Sequence[Part]) -> str:
    return next((part.text for part in parts_of(cell)), "")


def number(value: float, missing: str = "") -> str:
    """Return a number with three decimals, from 1000 on as a whole with thousands separators; NaN as `missing`."""
    if value != value:
        return missing
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def signed(value: float) -> str:
    """Return a difference with its sign and three decimals; nothing for NaN."""
    return "" if value != value else f"{value:+.3f}"


def interval(low: float, high: float, *, sign: bool = False) -> str:
    """Return an interval, as `0.400 to 0.600`; nothing where its lower bound is NaN."""
    shown = signed if sign else number
    return "" if low != low else f"{shown(low)} to {shown(high)}"


def estimate(value: float, low: float, high: float) -> str:
    """Return a value with its interval, as `0.500 (0.400 to 0.600)`; `-` stands for what is NaN."""
    return "-" if value != value else f"{number(value)} ({interval(low, high) or '-'})"


def p_value(value: float) -> str:
    """Return a p-value with three decimals, the smallest as `< .001`; nothing for NaN."""
    return "< .001" if value < 0.001 else number(value)


def percent(value: float) -> str:
    """Return a share in percent, with two decimals below 10 %."""
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def class_table(intervals: pd.DataFrame) -> pd.DataFrame:
    """Return precision, recall, F1 with its interval, images and clusters of each class, as text.

    Args:
        intervals: Result of `cluster_bootstrap`. A class with fewer than ten clusters is marked; one without images
            has no scores.
    """
    by_class = intervals[intervals["class"] != ""]
    values = by_class.pivot(index="class", columns="metric", values="value")
    return pd.DataFrame(
        {
            "class": f"{row['class']}{' ' + MARK if row['few_clusters'] and row['images'] else ''}",
            "precision": number(values.loc[row["class"], "precision"]) if row["images"] else "-",
            "recall": number(values.loc[row["class"], "recall"]) if row["images"] else "-",
            "F1": number(row["value"]) if row["images"] else "-",
            _interval_name(intervals): interval(row["low"], row["high"]) if row["images"] else "-",
            "images": str(row["images"]),
            "clusters": str(row["clusters"]),
        }
        for row in by_class[by_class["metric"] == "f1"].to_dict("records")
    )


def whole_table(intervals: pd.DataFrame, folds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return macro F1, accuracy and balanced accuracy with intervals, as text.

    Args:
        intervals: Result of `cluster_bootstrap` for all held-out images together.
        folds: Result of `fold_scores`; adds mean and standard deviation over folds when there are several.
    """
    spread = mean_and_sd(folds) if folds is not None and len(folds) > 1 else None
    rows = []
    for row in intervals[intervals["class"] == ""].to_dict("records"):
        line = {
            "score": SCORES[row["metric"]],
            "pooled" if spread is not None else "value": number(row["value"]),
            _interval_name(intervals): interval(row["low"], row["high"]),
        }
        if spread is not None and folds is not None:
            line[f"mean of {len(folds)} folds"] = number(spread.loc[row["metric"], "mean"])
            line["sd over folds"] = number(spread.loc[row["metric"], "sd"])
        rows.append(line)
    return pd.DataFrame(rows)


def notes(intervals: pd.DataFrame) -> list[str]:
    """Return the sentences below the tables."""
    level, resamples = intervals.attrs["level"], intervals.attrs["resamples"]
    whole = intervals[intervals["class"] == ""].iloc[0]
    sentences = [
        f"{whole['images']} images in {whole['clusters']} clusters (of duplicates, or of one person). "
        f"Intervals: {level:.0%}, {resamples} resamples of clusters within each class; they reflect the sample "
        "of test images, not the training seed."
    ]
    sentences.append(macro_classes(intervals))
    macro = intervals[(intervals["class"] == "") & (intervals["metric"] == "f1_macro")].iloc[0]
    classes = int(((intervals["metric"] == "f1") & (intervals["images"] > 0)).sum())
    # answers drawn with the shares of the classes have in each class an F1 of its share, so the mean is 1 / classes
    if classes > 1 and macro["low"] <= 1 / classes:
        sentences.append(
            f"This is not shown to be better than guessing: answers at random, with the shares of the classes, reach a "
            f"macro F1 of about 1/{classes} = {number(1 / classes)}."
        )
    few = intervals.loc[(intervals["metric"] == "f1") & intervals["few_clusters"] & (intervals["images"] > 0), "class"]
    if len(few):
        names = ", ".join(few)
        sentences.append(f"{MARK} fewer than {FEW_CLUSTERS} clusters, the interval is not reliable: {names}.")
    return sentences


def macro_classes(intervals: pd.DataFrame) -> str:
    """Return the sentence that names the classes of the macro F1: those that have images.

    Args:
        intervals: Result of `cluster_bootstrap`.
    """
    by_class = intervals[intervals["metric"] == "f1"]
    there, absent = (by_class.loc[(by_class["images"] > 0) == has, "class"].tolist() for has in (True, False))
    without = f"; no image is of {', '.join(absent)}" if absent else ""
    return f"Macro F1 is the mean over {len(there)} classes: {', '.join(there)}{without}."


def result_text(intervals: pd.DataFrame, folds: pd.DataFrame | None = None, *, markdown: bool = False) -> str:
    """Return both tables and their notes, for a terminal or as Markdown; a leaky protocol is named above them."""
    draw, write = (as_markdown, escape_markdown) if markdown else (as_text, str)
    protocol = protocol_of(intervals)
    head = [] if protocol == HONEST else [f"protocol: {protocol}"]
    tables = [draw(class_table(intervals)), draw(whole_table(intervals, folds))]
    return "\n\n".join([*map(write, head), *tables, *map(write, notes(intervals))]) + "\n"


def as_text(table: pd.DataFrame) -> str:
    """Return a table of text with aligned columns: the first to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (table.columns, *table.to_numpy(object))]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_pad(row[i], width, i > 0) for i, width in enumerate(widths)) for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:]])


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, its text escaped."""
    head = [escape_markdown(str(name)) for name in table.columns]
    rule = ["---", *["---:"] * (len(head) - 1)]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.to_numpy(object)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _markdown_cell(cell: str | Sequence[Part]) -> str:
    written = ((escape_markdown(part.text), part.link) for part in parts_of(cell))
    return " ".join(f"[{text}]({escape_link(link)})" if link else text for text, link in written)


def escape_markdown(text: str) -> str:
    """Return a text on one line in which Markdown and HTML read no markup."""
    return _MARKDOWN.sub(r"\\\1", html.escape(text, quote=False)).replace("\n", " ")


def escape_link(address: str) -> str:
    """Return an address that may stand between the parentheses of a Markdown link."""
    return quote(address, safe="/:#?&=%@+,;~")


def _interval_name(intervals: pd.DataFrame) -> str:
    return f"{intervals.attrs['level']:.0%} interval"


def _width(text: str) -> int:
    """Return the columns a terminal gives `text`: Hangul takes two per character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
