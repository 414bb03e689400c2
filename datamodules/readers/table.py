"""Reader of tables of images (CSV, TSV, JSON lines, Parquet), saved by `emotion data prepare` or written by others."""

import os
import posixpath
import re
import shlex
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.files.lookup import locate
from datamodules.files.paths import is_folder, on_disk
from datamodules.files.tables import PATH_COLUMNS, SUFFIXES, WORKBOOKS, embedded_image_column, has_no_header, read_table
from datamodules.labels import NO_EMOTION, canonical, canonical_split, in_class_order, plain
from datamodules.manifest import (
    SIDES,
    VOTES,
    Manifest,
    as_numbers,
    file_row,
    kept_of,
    parse_numbers,
    plain_text,
    refuse,
    saved_boxes,
    saved_meta,
)
from datamodules.readers.base import ReadOptions, finish, resolve


def apply_votes(table: pd.DataFrame, name: str, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table with labels by the votes and, for soft targets, ``votes_<class>`` columns; and what was dropped.

    With ``votes="ignore"`` the votes' columns are only removed. Otherwise the label of a row is its most frequent
    answer among the emotions. See :class:`ReadOptions` for ties and for annotators who saw no emotion.

    Raises:
        InputError: votes are requested and there are none, or a column's name is not an emotion.
    """
    columns = [str(c) for c in table.columns if str(c).lower().startswith(VOTES)]
    if options.votes == "ignore":
        return table.drop(columns=columns), ()
    if not columns:
        msg = (
            f"{name}: --votes {options.votes} needs votes_<emotion> columns, found {', '.join(map(str, table.columns))}"
        )
        raise InputError(msg)
    emotions, rest, names = [], [], []
    for column in columns:
        answer = column[len(VOTES) :]
        if plain(answer) in NO_EMOTION:
            rest.append(column)
            continue
        emotion = resolve(answer, options)
        if emotion is None and options.unknown_labels != "keep":
            alias = shlex.quote(f"{answer}=happy")
            msg = f"{name}: the votes' column {column!r} names no known emotion; name one, such as --alias {alias}"
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
    for enabled, bad, reason in (
        (True, best == 0, "have no vote for an emotion"),
        (options.drop_unknown, none > best, "are unknown or not a face to most annotators"),
        (options.drop_ties, first.sum(axis=1) > 1, "share the first place among several emotions"),
    ):
        if enabled and (bad & keep).any():
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
        msg = f"{name}: {file_row(bad)}: {column} must be a number of at least 0, got {table[column].iloc[row]!r}"
        msg += f" for {table['path'].iloc[row]!r}"
        raise InputError(msg)
    return values.to_numpy()


# Preferred first where a folder holds several tables.
USUAL_NAMES = ("manifest.parquet", "manifest.csv", "labels.csv", "labels.parquet", "labels.tsv")
IMAGE_FOLDER = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face
_MOST_TABLES = 50  # in a folder, which are opened for their headers
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "path": PATH_COLUMNS,
    "label": ("label", "emotion", "expression", "class", "category", "labels", "emotions", "emotion_label"),
    "subject": ("subject", "subject_id", "person", "person_id", "identity", "participant"),
    "split": ("split", "usage", "set", "subset"),
}
ANNOTATION_FOLDERS = frozenset(
    ("annotation", "annotations", "label", "labels", "csv", "csvs", "table", "tables", "meta", "metadata", "lists")
)
_FERPLUS = "fer2013new.csv"  # votes for the rows of another table, in the columns of emotions


def find_table(path: Path) -> Path | None:
    """Return the first table of :func:`find_tables`, None if there is none."""
    return next(iter(find_tables(path)), None)


def find_tables(path: Path) -> dict[Path, str]:
    """Return the tables that describe the images of a folder (or the file itself), and the part that each is.

    In a folder this is the table of a usual name, else the only table with a file and a label column, else one table a
    part (``train.csv`` and ``test.csv``, or ``train/metadata.csv``), else that in a folder such as ``annotations/``.
    The part is "" unless there is one table a part.

    Raises:
        InputError: several tables and no usual name among them, or an Excel workbook.
    """
    if path.is_file():
        if path.suffix.lower() in WORKBOOKS:
            msg = f"{path} is a workbook; save it as CSV (in Excel: Save As, CSV UTF-8) and give that file"
            raise InputError(msg)
        return {path: ""} if path.suffix.lower() in SUFFIXES else {}
    if not path.is_dir():
        return {}
    usual = next((path / name for name in USUAL_NAMES if (path / name).is_file()), None)
    if usual is not None and _describes_images(usual):
        return {usual: ""}
    if tables := _tables_in(path):
        return {tables[0]: ""} if len(tables) == 1 else _one_per_part(path, tables)
    with os.scandir(path) as entries:
        folders = sorted(Path(e.path) for e in entries if not e.name.startswith(".") and is_folder(e))
    parts = {folder: part for folder in folders if (part := canonical_split(folder.name))}
    by_part = {inner[0]: part for folder, part in parts.items() if len(inner := _tables_in(folder)) == 1}
    if by_part:
        return by_part
    annotations = [folder for folder in folders if folder.name.lower() in ANNOTATION_FOLDERS]
    tables = [table for folder in annotations for table in _tables_in(folder)]
    if usual is not None and not tables and not folders:
        return {usual: ""}  # the error of reading it names the missing columns
    return dict.fromkeys(tables, "") if len(tables) < 2 else _one_per_part(path, tables)


def _tables_in(folder: Path) -> list[Path]:
    """Return the tables in a folder that describe images; of several, only that of a usual name if there is one."""
    # class folders may have other tables beside them
    tables = [table for table in _table_files(folder) if _describes_images(table)]
    usual = [table for name in (*USUAL_NAMES, *IMAGE_FOLDER) for table in tables if table.name == name]
    return usual[:1] or tables


def _table_files(folder: Path) -> list[Path]:
    """Return the tables in a folder, sorted; where each image may have a file of its own, only the largest ones."""
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    tables = sorted(path for path in paths if path.is_file())
    if len(tables) <= _MOST_TABLES:
        return tables
    usual = {*USUAL_NAMES, *IMAGE_FOLDER}
    largest = sorted(tables, key=lambda table: (table.name not in usual, -table.stat().st_size))
    return sorted(largest[:_MOST_TABLES])


def _describes_images(table: Path) -> bool:
    if table.name.startswith(".") or table.name == _FERPLUS:
        return False
    try:
        names = [str(c) for c in read_table(table, columns_only=True).columns]
    except InputError:  # not a table
        return False
    columns = {name.strip().lower() for name in names}
    votes = sum(canonical(name) is not None for name in names) > 1
    return bool(columns & set(COLUMN_NAMES["path"]) and (columns & set(COLUMN_NAMES["label"]) or votes))


def _one_per_part(path: Path, tables: list[Path]) -> dict[Path, str]:
    parts = {table: part_of(table.stem) for table in tables}
    if all(parts.values()) and len(set(parts.values())) == len(parts):
        return parts
    listed = ", ".join(table.relative_to(path).as_posix() for table in tables[:5])
    msg = f"{path} holds several tables ({listed}); name the one to read, such as --data {shlex.quote(str(tables[0]))}"
    raise InputError(msg)


def part_of(name: str) -> str:
    """Return the part in a file's name: ``train`` for ``train_labels`` and ``train-00000-of-00002``, else ""."""
    parts = {part for word in re.split(r"[^A-Za-z]+", name) if (part := canonical_split(word))}
    return parts.pop() if len(parts) == 1 else ""


def looks_like(path: Path) -> bool:
    """Return whether this is a table, or a folder with one in it."""
    return bool(find_tables(path))


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read the table; its files lie below its folder, in ``images``, or in the root stored in a saved manifest.

    A saved manifest is read as it was saved; options given with it are applied again. Where several rows have the same
    file and boxes of their own, each row is a face.

    Raises:
        InputError: no table, a column that is missing, files that are not found, or rows that contradict each other.
    """
    tables = find_tables(path)
    if not tables:
        msg = f"no table ({', '.join(SUFFIXES)}) at {path}"
        raise InputError(msg)
    first = next(iter(tables))
    meta = saved_meta(first) if first.suffix.lower() in (".csv", ".parquet") else None
    plain = ReadOptions()
    later = ("classes", "exclude", "faces", "face_size", "face_margin")  # applied to any manifest, by `readers.read`
    if meta is not None and replace(options, **{name: getattr(plain, name) for name in later}) == plain:
        return Manifest.load(first)
    root = path if path.is_dir() else path.parent
    if meta is not None:
        root, name = on_disk(first.parent / meta["root"]), meta["name"]
    parts = [_rows(table, part, root, options, saved=meta is not None) for table, part in tables.items()]
    rows = pd.concat([table for table, _, _ in parts], ignore_index=True) if len(parts) > 1 else parts[0][0]
    notes = [note for _, _, part_notes in parts for note in part_notes]
    if len(parts) > 1:
        rows = rows.fillna("")
        notes.insert(0, f"read from {', '.join(table.relative_to(path).as_posix() for table in tables)}")
    notes += _unlabelled_beside(path, tables)
    rows, repeat_notes = _merge_repeated(rows, options, first.name)
    rows, vote_notes = apply_votes(rows, name, options)
    notes += [*repeat_notes, *vote_notes]
    boxes = saved_boxes(first)
    if set(SIDES) <= set(rows) and not rows["path"].duplicated().any():  # a face an image, which faces=boxes cuts out
        boxes = rows.loc[(rows[list(SIDES)] != "").any(axis=1), ["path", *SIDES]]
        rows = rows.drop(columns=list(SIDES))
        notes.append("the table has face boxes; --data.read.faces boxes cuts the faces out")
    manifest = finish(rows, parts[0][1], name, options, tuple(notes)).with_boxes(boxes)
    return manifest if meta is None or options.images else replace(manifest, **kept_of(meta))


def _rows(
    file: Path, part: str, root: Path, options: ReadOptions, *, saved: bool
) -> tuple[pd.DataFrame, Path, list[str]]:
    """Return the rows of one table with standard columns, the root that their paths are relative to, and notes."""
    if column := embedded_image_column(file):
        source = shlex.quote(f"shards:{file}")
        msg = f"{file.name} holds the images themselves, in the column {column!r}; give it as --data {source}"
        raise InputError(msg)
    table = read_table(file)
    notes: list[str] = []
    if not saved:
        table, notes = _labels_from_emotions(table, options, file)
    table = name_columns(table, options, file)
    if table.empty:
        msg = f"{file.name} has a header and no rows: no images found"
        raise InputError(msg)
    refuse(table["path"].str.strip() == "", table, "path", file.name, "may not be empty")
    if not saved:
        table, box_notes = _face_columns(table)
        notes += box_notes
    if part and "split" not in table:
        table["split"] = part
    names = table["path"].tolist()
    home = root if saved else file.parent
    if home != root:  # a table in a folder of its own, such as annotations/
        below = home.relative_to(root).as_posix()
        names = [posixpath.normpath(f"{below}/{name}") if name.startswith("../") else name for name in names]
        home = root
    try:
        located = locate(names, home, images=Path(options.images).expanduser() if options.images else None, part=part)
    except InputError as error:
        msg = f"{file.name}: {error}"
        raise InputError(msg) from error
    if located.missing:
        if options.bad_records == "error" or not any(located.paths):
            msg = f"{file.name}: {located.missing}"
            raise InputError(msg)
        notes.append(f"{located.paths.count(None)} rows of {file.name} left out: their files are not found")
    if located.note:
        notes.append(f"{file.name}: {located.note}")
    table["path"] = located.paths
    return table[table["path"].notna()].reset_index(drop=True), located.root, notes


def _unlabelled_beside(path: Path, tables: Collection[Path]) -> list[str]:
    """Return a note for each table beside the labelled ones that names files and has no label."""
    if not path.is_dir():
        return []
    notes = []
    for file in (file for file in _table_files(path) if file not in tables):
        with suppress(InputError):
            names = {str(c).strip().lower() for c in read_table(file, columns_only=True).columns}
            if names & set(PATH_COLUMNS) and not names & {*COLUMN_NAMES["label"], *SIDES}:
                command = f"emotion predict RUN {shlex.quote(str(file))}"
                notes.append(f"{file.name} left out: it has no label; `{command}` classifies its images")
    return notes


def _merge_repeated(table: pd.DataFrame, options: ReadOptions, source: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with one row per file (and box); rows that repeat one are left out if they say the same.

    Raises:
        InputError: rows of one file have several labels, parts, persons or counts of votes.
    """
    key = ["path", *(side for side in SIDES if side in table)]
    again = table.duplicated(key, keep=False)
    if not again.any():
        return table, []
    rows = table[again]
    meaning = {label: resolve(label, options) or plain(label) for label in rows["label"].unique()}
    faces = rows.groupby(key, sort=False).ngroup()
    conflicting = np.zeros(len(rows), dtype=bool)
    votes = [c for c in rows if options.votes != "ignore" and str(c).lower().startswith(VOTES)]
    for column, values in (
        ("label", rows["label"].map(meaning)),
        *((c, rows[c]) for c in ("split", "subject", *votes) if c in rows),
    ):
        differs = (values.groupby(faces).transform("nunique") > 1).to_numpy()
        if differs.any() and options.bad_records == "error":
            shown = [
                f"{path!r} ({', '.join(dict.fromkeys(map(str, group)))})"
                for path, group in rows[differs].groupby("path", sort=False)[column]
            ]
            more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
            msg = (
                f"{source}: {len(shown)} files have rows that differ in {column}: {', '.join(shown[:3])}{more}; "
                "keep one row per file, or leave such files out with --bad-records drop"
            )
            raise InputError(msg)
        conflicting |= differs
    remaining = table.drop(index=rows.index[conflicting]).drop_duplicates(key)
    notes = (
        [f"{int(conflicting.sum())} rows left out: rows of the same file contradict each other"]
        if conflicting.any()
        else []
    )
    if repeated := len(table) - int(conflicting.sum()) - len(remaining):
        others = [name for name in rows if name not in (*key, "label", "split", "subject", *votes)]
        differ = [name for name in others if (rows[name].groupby(faces).transform("nunique") > 1).any()]
        first = f"; of {', '.join(differ)}, in which some of them differ, the first value is kept" if differ else ""
        notes.append(f"{repeated} rows left out: they repeat the file and the label of another row{first}")
    return remaining.reset_index(drop=True), notes


def _labels_from_emotions(table: pd.DataFrame, options: ReadOptions, source: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with a label, if it has none and columns that are named as emotions: one-hot, shares or votes.

    With votes these columns become ``votes_<emotion>``; else the largest of a row is its label.

    Raises:
        InputError: a value is no number, or two emotions share the largest value of a row.
    """
    names = {str(c).strip().lower() for c in table}
    emotions = [c for c in table if resolve(str(c), options) is not None]
    has_label = names & set(COLUMN_NAMES["label"]) or any(name.startswith(VOTES) for name in names)
    if options.label_column is not None or has_label or len(emotions) < 2:
        return table, []
    rest = [c for c in table if plain(str(c)) in NO_EMOTION]
    if options.votes != "ignore":
        return table.rename(columns={c: f"{VOTES}{str(c).strip()}" for c in (*emotions, *rest)}), []
    values = np.stack([as_numbers(table, c, source.name).fillna(0).to_numpy() for c in emotions], axis=1)  # (N, C)
    best = values.max(axis=1, initial=-np.inf)
    shared = pd.Series(((values == best[:, None]).sum(axis=1) > 1) | (best <= 0))
    listed = ", ".join(map(str, emotions))
    if shared.any():
        row = int(np.flatnonzero(shared)[0])
        numbers = ", ".join(f"{value:g}" for value in values[row])
        msg = (
            f"{source.name}: {file_row(shared)}: the columns {listed} give no single label, got {numbers}; leave such "
            "images out with --votes majority --drop-ties, or name a column of labels with --label-column"
        )
        raise InputError(msg)
    label = np.array([str(c).strip() for c in emotions], dtype=object)[values.argmax(axis=1)] if len(table) else []
    return table.drop(columns=[*emotions, *rest]).assign(label=label), [
        f"labels are the largest of the columns {listed}"
    ]


_CORNERS = (SIDES, ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"), ("x1", "y1", "x2", "y2"))
_SIZES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
_BEFORE = re.compile("^(facebox|boundingbox|bbox|box|face)(?=.)")


def _face_columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with face boxes in the columns of `SIDES`, where it has them as corners or as sizes.

    An empty cell, or a box without width and height, is no face. Notes say what is not used.
    """
    named: dict[str, dict[str, str]] = {}
    for column in table:
        short = plain(str(column))
        before = _BEFORE.match(short)
        named.setdefault(before[0] if before else "", {})[short[len(before[0]) if before else 0 :]] = str(column)
    for names in named.values():
        for sides in (*_CORNERS, *_SIZES):
            if not set(sides) <= set(names):
                continue
            columns = [names[side] for side in sides]
            cells = [parse_numbers(table[column]) for column in columns]
            if any(bad.any() for _, bad in cells):
                break
            boxes = np.stack([values.to_numpy() for values, _ in cells], axis=1)  # (N, 4)
            if sides in _SIZES:
                boxes[:, 2:] += boxes[:, :2]
            has_box = np.isfinite(boxes).all(axis=1)
            if not has_box.any():
                break
            if (boxes[has_box] <= 1).all():
                listed = ", ".join(columns)
                note = f"the columns {listed} are not used as face boxes: they must be pixels, and no value is above 1"
                return table, [note]
            boxes[has_box & (boxes[:, 2:] <= boxes[:, :2]).all(axis=1)] = np.nan
            table = table.drop(columns=columns)
            return table.assign(**{side: _cells(boxes[:, i]) for i, side in enumerate(SIDES)}), []
    return table, []


def _cells(values: np.ndarray) -> list[str]:
    return [f"{value:.10g}" if np.isfinite(value) else "" for value in values]


def name_columns(table: pd.DataFrame, options: ReadOptions, source: Path) -> pd.DataFrame:
    """Rename the columns for file, label, subject and split to standard names; all others stay, as subgroups.

    Raises:
        InputError: no column for the file or the label, or a column that an option names is missing.
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
    for standard, requested in chosen.items():
        if requested is not None and requested not in table:
            present = ", ".join(table.columns)
            msg = f"{source.name}: the column {requested!r} (--{standard}-column) is missing; found {present}"
            raise InputError(msg)
        column = requested or next((lower[n] for n in COLUMN_NAMES[standard] if n in lower), None)
        if column is None and standard == "label" and options.votes != "ignore":
            table = table.assign(label="")  # the votes give it
            continue
        if column is None and standard in {"path", "label"}:
            raise InputError(_lacks(standard, table, source))
        # `set` and `subset` may mean anything: they are a split only if every value says so.
        loose = standard == "split" and requested is None and column is not None and column.lower() in {"set", "subset"}
        if column is None or (loose and not table[column].map(lambda s: canonical_split(str(s))).notna().all()):
            continue
        renamed[column] = standard
    taken = [c for c in table if c in renamed.values() and c not in renamed]
    table = table.rename(columns={c: f"{c}_column" for c in taken}).rename(columns=renamed)
    for standard in ("path", "label"):
        table[standard] = plain_text(table[standard])
    return table


def _lacks(standard: str, table: pd.DataFrame, source: Path) -> str:
    """Return the error message for a table without a column of files or labels."""
    columns = ", ".join(table.columns)
    if has_no_header(table, source.parent):
        names = ["path", "label", *(f"column{number}" for number in range(3, len(table.columns) + 1))]
        return (
            f"{source.name} has no header: its first line is {columns!r:.200}; add a line above that names the "
            f"columns, such as {','.join(names[: len(table.columns)])}"
        )
    if "pixels" in table:
        pixels = shlex.quote(f"fer2013:{source}")
        return f"{source.name} has pixels in place of files (columns {columns:.200}); give it as --data {pixels}"
    return (
        f"{source.name}: the column {standard!r} is missing (or {', '.join(COLUMN_NAMES[standard][1:])}); "
        f"found {columns:.500}; give its name as --{standard}-column NAME"
    )
