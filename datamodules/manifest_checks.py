"""The rules that every table of images obeys; an error names the first row that breaks one."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import in_class_order

SPLITS = ("train", "validation", "test")
VOTES = "votes_"


def plain_text(values: pd.Series) -> pd.Series:
    """Return a column as plain text; only nulls are missing values and become ``""``."""
    return values.astype(object).where(values.notna(), "").astype(str)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every column but the votes as plain text, missing values as ``""``."""
    text = {
        str(name): table[name] if str(name).startswith(VOTES) else plain_text(table[name]) for name in table.columns
    }
    return pd.DataFrame(text)


def parse_numbers(values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return a column as float64, and a mask of the cells that are neither a number nor missing (empty, or a null).

    The text ``nan`` is not a number: a missing value is an empty cell.
    """
    empty = values.isna() | (plain_text(values).str.strip() == "")
    found = pd.to_numeric(values.where(~empty, np.nan), errors="coerce").astype(np.float64)
    return found, ~empty & found.isna()


def file_row(bad: pd.Series) -> str:
    """Describe the first bad row by its place in the file, counted from 1, and say how many more there are."""
    more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
    return f"row {int(np.flatnonzero(bad)[0]) + 1} below the header{more}"


def as_numbers(table: pd.DataFrame, column: str, source: str) -> pd.Series:
    """Return a column as float64, NaN where a cell is empty; the table has all rows of its file in their order.

    Raises:
        InputError: A cell is not a number; the message names the first one.
    """
    found, bad = parse_numbers(table[column])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        path = f" for {str(table['path'].iat[row])!r}" if "path" in table else ""
        msg = f"{source}: {file_row(bad)}: {column} must be a number, got {table[column].tolist()[row]!r}{path}"
        raise InputError(msg)
    return found


def refuse(bad: pd.Series, table: pd.DataFrame, column: str, name: str, rule: str) -> None:
    """Raise an error that names the first bad row, its value and how many others there are."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        value, path = table[column].tolist()[row], table["path"].iloc[row]
        msg = f"{name}: row {row}{more}: {column} {rule}, got {value!r}"
        msg += "" if column == "path" else f" for {path!r}"
        raise InputError(msg)


def check_labels(table: pd.DataFrame, name: str, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class list, given or of the labels that occur. Refuse empty and foreign labels, and one class."""
    refuse(table["label"].str.strip() == "", table, "label", name, "may not be empty")
    found = classes or in_class_order(set(table["label"]))
    if len(set(found)) != len(found):
        msg = f"{name}: a class is listed twice in {', '.join(found)}"
        raise InputError(msg)
    refuse(~table["label"].isin(list(found)), table, "label", name, f"must be one of {', '.join(found)}")
    if len(found) < 2:
        msg = f"{name}: fewer than 2 classes, every image is {found[0]!r}; give each class its own folder or label"
        raise InputError(msg)
    return tuple(found)


def check_votes(table: pd.DataFrame, name: str, classes: tuple[str, ...]) -> None:
    """Convert votes to numbers, in place; raise if one is not a number, a row sums to zero, or a class is unknown."""
    columns = [c for c in table if c.startswith(VOTES)]
    if not columns:
        return
    for column in columns:
        if column[len(VOTES) :] not in classes:
            msg = f"{name}: {column!r} is the votes of no class; the classes are {', '.join(classes)}"
            raise InputError(msg)
        votes, _ = parse_numbers(table[column])
        refuse(~(votes >= 0) | np.isinf(votes), table, column, name, "must be a number not below zero")
        table[column] = votes
    total = table[columns].sum(axis=1)
    refuse(total <= 0, table.assign(votes=total), "votes", name, "must sum to more than zero")


def check_paths(table: pd.DataFrame, root: Path, name: str) -> None:
    """Refuse paths that leave the root, appear twice or lead to no file, listing folders instead of asking per file."""
    paths = table["path"]
    refuse(paths.str.strip() == "", table, "path", name, "may not be empty")
    refuse(paths.str.match(r"[/\\]|[A-Za-z]:[/\\]"), table, "path", name, f"must be relative to {root}, not absolute")
    parts = "/" + paths + "/"
    refuse(parts.str.contains("/../", regex=False), table, "path", name, f"may not leave {root} by '..'")
    untidy = parts.str.contains("/./", regex=False) | parts.str.contains("//", regex=False)
    if untidy.any():
        table["path"] = paths = paths.where(~untidy, paths[untidy].map(os.path.normpath))
    refuse(paths.duplicated(), table, "path", name, "appears twice")
    if not root.is_dir():
        msg = f"{name}: the folder of the images, {root}, does not exist (unpacked from an archive? open that anew)"
        raise InputError(msg)

    inside = os.path.join(os.path.realpath(root), "")
    sought = paths.tolist()
    by_folder: dict[str, list[int]] = {}
    for row, path in enumerate(sought):
        by_folder.setdefault(os.path.dirname(path), []).append(row)
    outside, missing = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
    for folder, rows in by_folder.items():
        place = os.path.join(root, folder)
        if not os.path.join(os.path.realpath(place), "").startswith(inside):
            outside[rows] = True
            continue
        try:
            # True: a plain file. False: a link, followed below. Anything else is not there.
            with os.scandir(place) as entries:
                files = {e.name: not e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}
        except OSError:
            files = {}
        for row in rows:
            kind = files.get(os.path.basename(sought[row]))
            if kind is None:
                missing[row] = True
            elif not kind:
                target = os.path.realpath(os.path.join(root, sought[row]))
                outside[row] = not target.startswith(inside)
                missing[row] = not os.path.isfile(target)
    refuse(pd.Series(outside), table, "path", name, f"may not leave {root} through a symlink")
    refuse(pd.Series(missing), table, "path", name, f"must be a file in {root}, found none")
