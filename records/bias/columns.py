"""Which images are in which group: by a column of the manifest, or by a crossing of several."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError, did_you_mean
from records.bias.cuts import OTHERS, Cut, clean, numbers, plain_values, suggested
from records.predictions import PROBABILITY, PROTOCOL

MOST_GROUPS = 40  # more are no table that anybody reads, and leave few images to each
_OFFERED = 8
_BETWEEN = " / "  # in the name of a crossing's group
_NOT_GROUPS = ("row", "path", "content", "cluster", "label", "predicted", "role", "is_copy", PROTOCOL)


@dataclass(frozen=True)
class Grouping:
    """A column, or a crossing of several, and the groups that the evaluated images make.

    Attributes:
        cuts: The columns.
        groups: Names of the groups that have images, in the order in which they are shown.
    """

    cuts: tuple[Cut, ...]
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as `age` or `age x gender`."""
        return " x ".join(clean(cut.column) for cut in self.cuts)

    def of(self, table: pd.DataFrame) -> np.ndarray:
        """Return the group of each row, objects of shape (N,); "" where one of the columns is not known."""
        parts = [cut.values(table) for cut in self.cuts]
        known = np.logical_and.reduce([part != "" for part in parts])
        return np.where(known, [_BETWEEN.join(row) for row in zip(*parts, strict=True)], "").astype(object)

    def is_mixture(self, group: str) -> bool:
        """Whether a group is what `--top` left over."""
        return OTHERS in group.split(_BETWEEN)


def group_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of a prediction table that images can be grouped by."""
    names = [str(name) for name in table.columns]
    return [name for name in names if name not in _NOT_GROUPS and not name.startswith(PROBABILITY)]


def groupings(
    table: pd.DataFrame,
    by: Sequence[str],
    *,
    cross: bool = False,
    bins: Mapping[str, Sequence[float]] | None = None,
    top: int | None = None,
) -> list[Grouping]:
    """Return what to group by, checked.

    Args:
        table: A prediction table.
        by: Names of columns, or of several joined by `+` for their crossing.
        cross: Add the crossing of every two of the single columns.
        bins: Column -> lower ends of its bins.
        top: Keep so many most frequent values of each column; the rest becomes `(others)`.

    Raises:
        InputError: A column that does not exist, is empty, or has too many values; bins of no such column.
    """
    specs = list(dict.fromkeys(_columns_of(table, one) for one in by))  # a column given twice is one
    if cross:
        single = [spec[0] for spec in specs if len(spec) == 1]
        specs += [(one, two) for i, one in enumerate(single) for two in single[i + 1 :]]
    specs = list(dict.fromkeys(specs))
    cut: dict[str, Cut] = {}
    stray = sorted(set(bins or {}) - {column for spec in specs for column in spec})
    if stray:
        msg = f"--bins: {stray[0]!r} is not among --by ({', '.join(by)}); add it there."
        raise InputError(msg)
    if top is not None and top < 1:
        msg = f"--top: keeps the most frequent values of a column, at least 1, got {top}."
        raise InputError(msg)
    for column in dict.fromkeys(column for spec in specs for column in spec):
        cut[column] = _cut(table, column, tuple((bins or {}).get(column, ())), top)
    return [_grouping(table, tuple(cut[column] for column in spec)) for spec in specs]


def _columns_of(table: pd.DataFrame, spec: str) -> tuple[str, ...]:
    names = group_columns(table)
    parts = [spec] if spec in names else [part.strip() for part in re.split(r"[+*]", spec)]
    for part in parts:
        if part in names:
            continue
        near = "" if part in _NOT_GROUPS else did_you_mean(part, names, cutoff=0.5)
        hint = f"; {near}" if near else "."
        why = "; the class is what is measured in each group" if part in ("label", "predicted") else ""
        msg = f"--by: no column {part!r} to group by{why}{hint} The columns are: {', '.join(names) or 'none'}."
        raise InputError(msg)
    if len(set(parts)) < len(parts):
        msg = f"--by: a crossing is of different columns, got {spec!r}."
        raise InputError(msg)
    return tuple(parts)


def _cut(table: pd.DataFrame, column: str, edges: tuple[float, ...], top: int | None) -> Cut:
    text = plain_values(table[column])
    counts = pd.Series(text[text != ""]).value_counts()
    if not len(counts):
        msg = f"--by: column {column!r} is empty, no image has a value. Fill it in the manifest, or choose another."
        raise InputError(msg)
    if edges:
        return Cut(column, edges)
    if top is not None and len(counts) > top:
        return Cut(column, kept=tuple(counts.index[:top]))
    if len(counts) > MOST_GROUPS:
        number = numbers(text[text != ""])
        frequent = ", ".join(f"{value} ({images})" for value, images in counts.head(_OFFERED).items())
        binned = f"cut it into bins, such as --bins {column}={suggested(number)}" if number is not None else ""
        msg = (
            f"--by: column {column!r} has {len(counts)} values, at most {MOST_GROUPS} can be told apart; "
            f"{binned + ', or ' if binned else ''}keep the most frequent with --top {_OFFERED}: {frequent}."
        )
        raise InputError(msg)
    return Cut(column)


def _grouping(table: pd.DataFrame, cuts: tuple[Cut, ...]) -> Grouping:
    parts = [cut.values(table) for cut in cuts]
    known = np.logical_and.reduce([part != "" for part in parts])
    places = []
    for cut, part in zip(cuts, parts, strict=True):
        order = cut.ordered([str(value) for value in set(part[known])])
        places.append([order.index(value) for value in part[known]])
    found = sorted(
        set(
            zip(
                *places, [_BETWEEN.join(row) for row in zip(*(part[known] for part in parts), strict=True)], strict=True
            )
        )
    )
    named = tuple(str(one[-1]) for one in found)
    name = " x ".join(cut.column for cut in cuts)
    if not named:
        msg = f"--by: no image has a value in every column of {name}. Fill them in the manifest, or choose others."
        raise InputError(msg)
    if len(named) > MOST_GROUPS:
        msg = (
            f"--by: {name} makes {len(named)} groups, at most {MOST_GROUPS} can be told apart; cross fewer columns, "
            "or make their groups fewer with --bins or --top."
        )
        raise InputError(msg)
    return Grouping(cuts, named)
