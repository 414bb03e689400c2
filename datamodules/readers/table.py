"""Reader of CSV, TSV and Parquet tables of images, saved by `emotion data prepare` or written by others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import NO_EMOTION, canonical_split, in_class_order, plain
from datamodules.manifest import (
    VOTES,
    Manifest,
    file_row,
    parse_numbers,
    plain_text,
    read_table,
    saved_boxes,
    saved_meta,
)
from datamodules.readers.base import ReadOptions, finish, resolve


def apply_votes(table: pd.DataFrame, name: str, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table with labels by the votes and, for soft targets, ``votes_<class>`` columns; and what was dropped.

    With ``votes="ignore"`` the votes' columns are only removed. Otherwise the label of a row is its most frequent
    answer among the emotions. See :class:`ReadOptions` for ties and for annotators who saw no emotion.

    Raises:
        InputError: votes are wanted and there are none, or a column's name is not an emotion.
    """
    columns = [str(c) for c in table.columns if str(c).lower().startswith(VOTES)]
    if options.votes == "ignore":
        return table.drop(columns=columns), ()
    if not columns:
        msg = f"{name}: votes={options.votes} needs votes_<emotion> columns, found {', '.join(map(str, table.columns))}"
        raise InputError(msg)
    emotions, rest, names = [], [], []
    for column in columns:
        answer = column[len(VOTES) :]
        if plain(answer) in NO_EMOTION:
            rest.append(column)
            continue
        emotion = resolve(answer, options)
        if emotion is None and options.unknown_labels != "keep":
            msg = f"{name}: the votes' column {column!r} names no known emotion; give it an alias ({answer}=happy)"
            raise InputError(msg)
        emotions.append(column)
        names.append(emotion or answer)
    order = in_class_order(set(names))
    counts = np.zeros((len(table), len(order)))
    for column, emotion in zip(emotions, names, strict=True):
        counts[:, order.index(emotion)] += _numbers(table, column, name)
    none = np.stack([_numbers(table, c, name) for c in rest], axis=1).max(axis=1) if rest else np.zeros(len(table))

    best = counts.max(axis=1, initial=0.0)
    first = counts == best[:, None]  # (N, C), every emotion in first place
    meaning = {label: resolve(str(label), options) or "" for label in table["label"].unique()}
    published = table["label"].map(meaning).to_numpy(object)
    stands = first & (published[:, None] == np.array(order, dtype=object)[None, :])
    winner = np.where(stands.any(axis=1), stands.argmax(axis=1), first.argmax(axis=1))
    keep, notes = np.ones(len(table), dtype=bool), []
    for wanted, bad, reason in (
        (True, best == 0, "have no vote for an emotion"),
        (options.drop_unknown, none > best, "are unknown or not a face to most annotators"),
        (options.drop_ties, first.sum(axis=1) > 1, "share the first place among several emotions"),
    ):
        if wanted and (bad & keep).any():
            notes.append(f"{int((bad & keep).sum())} images left out: they {reason}")
            keep &= ~bad
    table = table.drop(columns=columns).assign(label=np.array(order, dtype=object)[winner])[keep].reset_index(drop=True)
    if options.votes == "soft":
        won = np.unique(winner[keep])
        for c, emotion in enumerate(order):
            if c in won:
                table[VOTES + emotion] = counts[keep, c]
            elif counts[keep, c].any():
                notes.append(f"votes for {emotion} left out: it is in first place for no image")
    return table, tuple(notes)


def _numbers(table: pd.DataFrame, column: str, name: str) -> np.ndarray:
    values = parse_numbers(table[column])[0]
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        msg = f"{name}: {file_row(bad)}: {column} must be a number not below zero, got {table[column].iloc[row]!r}"
        msg += f" for {table['path'].iloc[row]!r}"
        raise InputError(msg)
    return values.to_numpy()


SUFFIXES = (".csv", ".tsv", ".parquet")
# Preferred first where a folder holds several tables.
USUAL_NAMES = ("manifest.parquet", "manifest.csv", "labels.csv", "labels.parquet", "labels.tsv")
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img", "image name"),
    "label": ("label", "emotion", "expression", "class", "category"),
    "subject": ("subject", "subject_id", "person", "person_id", "identity", "participant"),
    "split": ("split", "usage", "set", "subset"),
}


def find_table(path: Path) -> Path | None:
    """Return the table that describes the images of a folder (or the file itself), None if there is none.

    Raises:
        InputError: several tables and no usual name among them.
    """
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES else None
    for usual in USUAL_NAMES:
        if (path / usual).is_file():
            return path / usual
    tables = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()) if path.is_dir() else []
    tables = [t for t in tables if _describes_images(t)]  # class folders may have some other table beside them
    if len(tables) > 1:
        msg = f"{path} holds several tables ({', '.join(t.name for t in tables[:5])}); name the one to read"
        raise InputError(msg)
    return tables[0] if tables else None


def _describes_images(table: Path) -> bool:
    columns = {str(c).strip().lower() for c in read_table(table, columns_only=True).columns}
    return all(columns & set(COLUMN_NAMES[ours]) for ours in ("path", "label"))


def looks_like(path: Path) -> bool:
    """Return whether this is a table, or a folder with one in it."""
    return find_table(path) is not None


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read the table; paths are relative to its folder, or to the root stored in a saved manifest.

    A saved manifest is read as it was saved; options given with it are applied again.
    """
    table_path = find_table(path)
    if table_path is None:
        msg = f"no table (.csv, .tsv, .parquet) at {path}"
        raise InputError(msg)
    meta = saved_meta(table_path) if table_path.suffix.lower() != ".tsv" else None
    if meta is not None and replace(options, classes=None) == ReadOptions():
        return Manifest.load(table_path)
    root = table_path.parent / meta["root"] if meta is not None else table_path.parent
    name = meta["name"] if meta is not None else name
    table = name_columns(read_table(table_path), options, table_path)
    table["path"] = table["path"].str.replace("\\", "/", regex=False)  # tables written on Windows
    table, notes = apply_votes(table, name, options)
    return finish(table, root, name, options, notes).with_boxes(saved_boxes(table_path))


def name_columns(table: pd.DataFrame, options: ReadOptions, source: Path) -> pd.DataFrame:
    """Rename the columns for file, label, subject and split to standard names; all others stay, as subgroups.

    Raises:
        InputError: no column for the file or the label, or a column that an option names is not there.
    """
    table = table.rename(columns=lambda c: str(c).strip())
    lower = {c.lower(): c for c in reversed(list(table.columns))}
    chosen = {
        "path": options.path_column,
        "label": options.label_column,
        "subject": options.subject_column,
        "split": options.split_column,
    }
    renamed: dict[str, str] = {}
    for ours, wanted in chosen.items():
        if wanted is not None and wanted not in table:
            msg = f"{source.name}: the column {wanted!r} ({ours}_column) is missing; found {', '.join(table.columns)}"
            raise InputError(msg)
        theirs = wanted or next((lower[n] for n in COLUMN_NAMES[ours] if n in lower), None)
        if theirs is None and ours == "label" and options.votes != "ignore":
            table = table.assign(label="")  # the votes give it
            continue
        if theirs is None and ours in {"path", "label"}:
            msg = (
                f"{source.name}: the column {ours!r} is missing (or {', '.join(COLUMN_NAMES[ours][1:])}); "
                f"found {', '.join(table.columns)}; name it with --{ours}-column NAME"
            )
            raise InputError(msg)
        # `set` and `subset` may mean anything: they are a split only if every value says so.
        loose = ours == "split" and wanted is None and theirs is not None and theirs.lower() in {"set", "subset"}
        if theirs is None or (loose and not table[theirs].map(lambda s: canonical_split(str(s))).notna().all()):
            continue
        renamed[theirs] = ours
    taken = [c for c in table if c in renamed.values() and c not in renamed]
    table = table.rename(columns={c: f"{c}_column" for c in taken}).rename(columns=renamed)
    for ours in ("path", "label"):
        table[ours] = plain_text(table[ours])
    return table
