"""How the values of one column become groups: as they are, the most frequent ones, or bins of numbers."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from datamodules.errors import InputError

OTHERS = "(others)"  # what `--top` leaves over; a mixture, so it is shown and never ranked


@dataclass(frozen=True)
class Cut:
    """A column and how its values become groups.

    Attributes:
        column: Its name.
        edges: Lower ends of bins, rising, where its values are numbers.
        kept: The values that stay themselves, all others are `(others)`; empty: all.
    """

    column: str
    edges: tuple[float, ...] = ()
    kept: tuple[str, ...] = ()

    def values(self, table: pd.DataFrame) -> np.ndarray:
        """Return the group of each row as text, objects of shape (N,); "" where it is not known."""
        text = plain_values(table[self.column])
        if self.edges:
            return _binned(text, self, table)
        if self.kept:
            text = np.where((text == "") | np.isin(text, self.kept), text, OTHERS).astype(object)
        return text

    def ordered(self, values: Sequence[str]) -> list[str]:
        """Return groups in the order in which they are shown: bins as they rise, numbers, then the alphabet."""
        if self.edges:
            names = _bin_names(self.edges)
            return sorted(values, key=names.index)
        return sorted(values, key=lambda value: (value == OTHERS, *_number_first(value)))


def parse_bins(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the bins that `age=0,10,18,60` names: lower ends, of which the last bin is open above."""
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        column, _, ends = text.rpartition("=")
        try:
            edges = tuple(float(end) for end in ends.split(","))
        except ValueError:
            edges = ()
        if not column or not edges or not np.isfinite(edges).all() or list(edges) != sorted(set(edges)):
            msg = f"--bins: a column and the rising lower ends of its bins, such as age=0,10,18,60, got {text!r}."
            raise InputError(msg)
        found[column] = edges
    return found


def plain_values(column: pd.Series) -> np.ndarray:
    """Return a column as text in one Unicode form, without control characters; "" where nothing is known."""
    text = column.astype(object).where(column.notna(), "").astype(str)
    return text.map({value: clean(value).strip() for value in text.unique()}).to_numpy(object)


def clean(text: str) -> str:
    """Return a text in one Unicode form, without control characters."""
    return "".join(c if c.isprintable() else "�" for c in unicodedata.normalize("NFC", text.strip()))


def _binned(text: np.ndarray, cut: Cut, table: pd.DataFrame) -> np.ndarray:
    number = numbers(text[text != ""])
    if number is None:
        place = next(
            place
            for place, value in enumerate(text)
            if value != "" and numbers(np.array([value], dtype=object)) is None
        )
        where = f"for {table['path'].iloc[place]!r}" if "path" in table else f"in row {place + 1} of the table"
        msg = (
            f"--bins: {cut.column!r} must hold numbers, got {str(text[place])!r} {where}; leave the column out of "
            "--bins, or correct the value in the manifest."
        )
        raise InputError(msg)
    names = np.array(_bin_names(cut.edges), dtype=object)
    found = np.full(len(text), "", dtype=object)
    found[text != ""] = names[np.searchsorted(cut.edges, number, side="right")]
    return found


def _bin_names(edges: tuple[float, ...]) -> list[str]:
    """Return names of the bins: below the first edge, between two, and from the last on."""
    shown = [f"{edge:g}" for edge in edges]
    between = [f"{low} to <{high}" for low, high in pairwise(shown)]
    return [f"below {shown[0]}", *between, f"{shown[-1]} and over"]


def numbers(text: np.ndarray) -> np.ndarray | None:
    """Return texts as finite numbers; None where one of them is none."""
    number = pd.to_numeric(pd.Series(text, dtype=object), errors="coerce").to_numpy(np.float64)
    return number if np.isfinite(number).all() else None


def suggested(number: np.ndarray) -> str:
    """Return quartiles as bins, rounded so that they can be typed."""
    ends = np.percentile(number, [0, 25, 50, 75])
    return ",".join(dict.fromkeys(f"{end:.3g}" for end in ends))


def _number_first(value: str) -> tuple[bool, float, str]:
    found = re.match(r"-?\d+(?:\.\d+)?", value)
    return (found is None, float(found[0]) if found else 0.0, value)
