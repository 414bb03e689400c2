"""Subgroup expressions: `age`, `age=child`, `age!=child`, `age+gender`; and the cells of label and subgroup.

A missing value matches neither side of a condition, and is a subgroup of its own where subgroups are listed.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError, did_you_mean
from datamodules.manifest import KNOWN_COLUMNS, VOTES, Manifest, plain_text

UNKNOWN = "not known"
OTHERS = "others"
MOST_VALUES = 50  # more are names or measurements, not groups


@dataclass(frozen=True, eq=False)
class Cells:
    """Rows by label and group.

    Attributes:
        of: (N,) int64, the cell of each row; cells without rows have no number.
        names: Names of the cells, such as `fear, age child`.
        empty: Names of the combinations of a label and a value without rows.
    """

    of: np.ndarray
    names: tuple[str, ...]
    empty: tuple[str, ...]


def condition_mask(table: pd.DataFrame, condition: str, option: str) -> np.ndarray:
    """Return (N,) bool: the rows of which ``column=value``, ``column=one|other`` or ``column!=value`` is known to hold.

    Args:
        table: Table with the subgroup columns as text, such as that of a manifest or of predictions.
        condition: A condition of this form.
        option: Name of the option, for the message.

    Raises:
        InputError: It is not of this form, there is no such column (the nearest is named), or no such value.
    """
    column, negated, wanted = _parts(condition, option)
    values = _column(table, column, option)
    known = sorted(set(values) - {""})
    missing = [value for value in wanted if value not in known]
    if missing:
        msg = f"{option}: {column} has no value {missing[0]!r} here, it has {', '.join(known[:20])}; got {condition!r}"
        raise InputError(msg)
    matches = np.isin(values, wanted)
    return (~matches & (values != "")) if negated else matches


def opposite(condition: str) -> str:
    """Return the condition of the other rows with a known value."""
    return condition.replace("!=", "=", 1) if "!=" in condition else condition.replace("=", "!=", 1)


def group_values(table: pd.DataFrame, words: str, option: str) -> np.ndarray:
    """Return the group of each row, (N,) objects, by a column, a condition, or several of these joined by ``+``.

    Raises:
        InputError: No such column, one that is empty, or one of more than 50 values.
    """
    parts = [words] if words in table else words.split("+")
    values = [_group_part(table, part, option) for part in parts]
    return np.array([", ".join(row) for row in zip(*values, strict=True)], dtype=object)


def cells(manifest: Manifest, words: str, option: str) -> Cells:
    """Return the cells of label and group of a manifest's rows."""
    groups = group_values(manifest.table, words, option)
    values, number = np.unique(groups.astype(str), return_inverse=True)
    flat = manifest.labels * len(values) + number
    present, of = np.unique(flat, return_inverse=True)
    everything = [f"{label}, {value}" for label in manifest.classes for value in values]
    absent = np.setdiff1d(np.arange(len(everything)), present)
    return Cells(
        of.astype(np.int64), tuple(everything[i] for i in present), tuple(everything[i] for i in absent.tolist())
    )


def _group_part(table: pd.DataFrame, part: str, option: str) -> list[str]:
    if "=" in part and part not in table:
        column, negated, wanted = _parts(part, option)
        matches = condition_mask(table, part, option) != negated  # whether it is one of the values that are named
        known = _column(table, column, option) != ""
        inside, outside = f"{column} {'|'.join(wanted)}", f"{column} {OTHERS}"
        return [
            f"{column} {UNKNOWN}" if not known_value else inside if match else outside
            for known_value, match in zip(known, matches, strict=True)
        ]
    values = _column(table, part, option)
    several = sorted(set(values))
    if len(several) > MOST_VALUES:
        msg = (
            f"{option}: {part} has {len(several)} values, such as {', '.join(map(repr, several[:3]))}; a group column "
            f"has at most {MOST_VALUES}. Put them into ranges, or name some of them: {part}=ONE|OTHER"
        )
        raise InputError(msg)
    return [f"{part} {value or UNKNOWN}" for value in values]


def _parts(condition: str, option: str) -> tuple[str, bool, list[str]]:
    """Return column, whether it is negated, and values."""
    column, equals, text = condition.partition("=")
    negated = column.endswith("!")
    wanted = [value.strip() for value in text.split("|")]
    if not equals or not all(wanted) or not column.rstrip("!").strip():
        msg = f"{option}: must be column=value, column=one|other or column!=value, such as age=child; got {condition!r}"
        raise InputError(msg)
    return column.rstrip("!").strip(), negated, wanted


def _column(table: pd.DataFrame, column: str, option: str) -> np.ndarray:
    """Return a group column as text, (N,) objects."""
    column = column.strip()
    there = [str(c) for c in table if c not in KNOWN_COLUMNS and not str(c).startswith(VOTES)]
    if column not in there:
        hint = did_you_mean(column, there, cutoff=0.5) or f"there are {', '.join(there) or 'none'}"
        msg = f"{option}: no group column is called {column!r}; {hint}"
        raise InputError(msg)
    values = plain_text(table[column]).str.strip().to_numpy(object)
    if not (values != "").any():
        msg = f"{option}: the column {column} is empty in every row; name another, or fill it"
        raise InputError(msg)
    return values
