"""The table of images that everything else works on: one row an image, checked once, saved and loaded whole."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import InputError
from datamodules.labels import in_class_order

SPLITS = ("train", "validation", "test")
KNOWN_COLUMNS = ("path", "label", "subject", "split")
VOTES = "votes_"
_META_KEY = b"emotion_manifest"


@dataclass(frozen=True, eq=False)
class Manifest:
    """Images, their labels and what is known about them. Made by :func:`make_manifest`, which checks it.

    ``table`` has a plain row number as index and text in every column but the votes: ``path`` (with ``/``, relative
    to ``root``), ``label``, optional ``subject``, ``split`` and ``votes_<class>``; every other column is a group.
    ``""`` means not known. ``classes[i]`` is the name of the integer label i. ``notes`` say what the reader left out.
    """

    root: Path
    table: pd.DataFrame
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def labels(self) -> np.ndarray:
        """Integer labels, int64 of shape (N,)."""
        return pd.Index(self.classes).get_indexer(pd.Index(self.table["label"])).astype(np.int64)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the columns that reports may slice by."""
        return tuple(c for c in self.table if c not in KNOWN_COLUMNS and not c.startswith(VOTES))

    @cached_property
    def votes(self) -> np.ndarray | None:
        """Share of the annotators for each class, float64 of shape (N, C), rows sum to 1; None without votes."""
        if not any(str(c).startswith(VOTES) for c in self.table):
            return None
        counts = self.table.reindex(columns=[VOTES + c for c in self.classes], fill_value=0.0).to_numpy(np.float64)
        return counts / counts.sum(axis=1, keepdims=True)

    @property
    def subjects(self) -> np.ndarray | None:
        """The person or source of each row, objects of shape (N,), ``""`` where unknown; None without the column."""
        return self.table["subject"].to_numpy(object) if "subject" in self.table else None

    def file(self, row: int) -> Path:
        """Return the absolute place of an image.

        Raises:
            InputError: a symlink, which may have changed since the manifest was made, leads out of ``root``.
        """
        path = (self.root / self.table["path"].iloc[row]).resolve()
        if not path.is_relative_to(self.root.resolve()):
            msg = f"row {row}: {self.table['path'].iloc[row]!r} leads out of the images' folder {self.root} to {path}"
            raise InputError(msg)
        return path

    def fingerprint(self) -> str:
        """Return a SHA-256 of table and classes; the same wherever the images lie and whatever the set is called."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for column in sorted(self.table):
            values = self.table[column]
            numeric = str(column).startswith(VOTES)
            digest.update(f"\x1d{column}\x1d".encode())
            digest.update(values.to_numpy("<f8").tobytes() if numeric else "\x1e".join(values).encode())
        return digest.hexdigest()

    def select(self, rows: np.ndarray | list[int]) -> "Manifest":
        """Return these rows, in this order, numbered anew, with the same classes."""
        table = self.table.iloc[np.asarray(rows, dtype=np.int64)].reset_index(drop=True)
        return Manifest(self.root, table, self.classes, self.name, self.notes)

    def save(self, path: str | Path) -> Path:
        """Write the manifest to a ``.parquet`` or ``.csv`` file; a CSV gets a side-car ``<file>.json``.

        The root is kept relative when the images lie in the manifest's own folder, so that both may move together.
        """
        path = Path(path).expanduser().absolute()
        home, root = path.parent.resolve(), self.root.resolve()
        meta = {
            "classes": list(self.classes),
            "name": self.name,
            "notes": list(self.notes),
            "root": root.relative_to(home).as_posix() if root.is_relative_to(home) else str(root),
        }
        text = json.dumps(meta, ensure_ascii=False, indent=1)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            if _kind(path) == "parquet":
                arrow = pa.Table.from_pandas(self.table, preserve_index=False)
                pq.write_table(arrow.replace_schema_metadata({**arrow.schema.metadata, _META_KEY: text}), draft)
            else:
                draft.write_text(text, encoding="utf-8")
                os.replace(draft, side_car(path))
                self.table.to_csv(draft, index=False)
            os.replace(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            msg = f"cannot write the manifest {path}: {error.strerror or error}; choose a folder that you may write to"
            raise InputError(msg) from error
        return path

    @staticmethod
    def load(path: str | Path) -> "Manifest":
        """Open a saved manifest again, with its classes, name and root, and check it against the files.

        Raises:
            InputError: the file is missing, was not written by :meth:`save`, or no longer fits its images.
        """
        path = Path(path).expanduser().absolute()
        meta = saved_meta(path)
        if meta is None:
            msg = f"{path} is not a saved manifest: no classes in it or in {side_car(path).name}; read it as csv:{path}"
            raise InputError(msg)
        table = read_table(path, literal=True)
        root = path.parent / meta["root"]
        manifest = make_manifest(table, root, name=meta["name"], classes=tuple(meta["classes"]))
        return Manifest(manifest.root, manifest.table, manifest.classes, manifest.name, tuple(meta.get("notes", ())))


def _kind(path: Path) -> str:
    if path.suffix.lower() not in {".csv", ".parquet"}:
        msg = f"a manifest is a .csv or .parquet file, got {path.name!r}"
        raise InputError(msg)
    return path.suffix.lower()[1:]


def side_car(path: Path) -> Path:
    """Return the file beside a CSV manifest that keeps its classes, name and root."""
    return path.with_name(path.name + ".json")


def saved_meta(path: Path) -> dict | None:
    """Return what :meth:`Manifest.save` kept beside the table, or None when the file is some other table."""
    if not path.is_file():
        msg = f"no file {path}"
        raise InputError(msg)
    try:
        if _kind(path) == "parquet":
            text = (pq.read_schema(path).metadata or {}).get(_META_KEY)
        else:
            text = side_car(path).read_bytes() if side_car(path).is_file() else None
        meta = None if text is None else json.loads(text)
    except (ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"cannot open the manifest {path}: {error}"
        raise InputError(msg) from error
    return meta if isinstance(meta, dict) and {"classes", "name", "root"} <= set(meta) else None


def read_table(path: Path, *, columns_only: bool = False, literal: bool = False) -> pd.DataFrame:
    """Read a CSV or TSV file (as text) or a Parquet file.

    Args:
        path: the file.
        columns_only: read the header and no rows.
        literal: words such as ``NA`` and ``None`` are themselves, not missing values.
    """
    try:
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
            table = pd.DataFrame(columns=schema.names) if columns_only else pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            rows = 0 if columns_only else None
            table = pd.read_csv(
                path, dtype=str, sep=separator, encoding="utf-8-sig", nrows=rows, keep_default_na=not literal
            )
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        why = str(error) or type(error).__name__
        msg = f"cannot read the table {path}: {why}; it must be CSV (UTF-8), TSV or Parquet with a header"
        raise InputError(msg) from error
    return table


def make_manifest(
    table: pd.DataFrame,
    root: str | Path,
    *,
    name: str,
    classes: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Manifest:
    """Check a table of images and make it a manifest. Every reader ends here, so every data set obeys these rules.

    Args:
        table: columns ``path`` and ``label``, optional ``subject``, ``split``, ``votes_<class>``, and any groups.
        root: the folder that the paths are relative to; no path may leave it, not through a symlink either.
        name: what to call the data set.
        classes: the class list; by default the labels that occur, in the order of ``datamodules.labels``.
        notes: what the reader left out, for people to read.

    Raises:
        InputError: names the row and the rule.
    """
    root = Path(root).expanduser().resolve()
    for column in ("path", "label"):
        if column not in table:
            msg = f"{name}: the column {column!r} is missing; found {', '.join(map(str, table.columns)) or 'none'}"
            raise InputError(msg)
    if table.columns.has_duplicates:
        msg = f"{name}: column {table.columns[table.columns.duplicated()][0]!r} appears twice"
        raise InputError(msg)
    if table.empty:
        msg = f"{name}: no images found in {root}"
        raise InputError(msg)
    table = _as_text(table.reset_index(drop=True))
    classes = _check_labels(table, name, classes)
    _check_votes(table, name, classes)
    if "split" in table:
        _refuse(~table["split"].isin(SPLITS), table, "split", name, f"must be one of {', '.join(SPLITS)}")
    _check_paths(table, root, name)
    return Manifest(root, table, classes, name, notes)


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every column but the votes as plain text, missing values as ``""``."""
    columns: dict[str, pd.Series] = {}
    for name in map(str, table.columns):
        values = table[name]
        if name.startswith(VOTES):
            columns[name] = pd.to_numeric(values, errors="coerce").astype(np.float64)
        else:
            columns[name] = values.astype(object).where(values.notna(), "").astype(str)
    return pd.DataFrame(columns)


def _refuse(bad: pd.Series, table: pd.DataFrame, column: str, name: str, rule: str) -> None:
    """Raise an error that names the first bad row, its value and how many others there are."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        value, path = table[column].iloc[row], table["path"].iloc[row]
        msg = f"{name}: row {row}{more}: {column} {rule}, got {value!r}"
        msg += "" if column == "path" else f" for {path!r}"
        raise InputError(msg)


def _check_labels(table: pd.DataFrame, name: str, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    text = table["label"].str.strip()
    _refuse((text == "") | (text.str.lower() == "nan"), table, "label", name, "may not be empty")
    found = classes or in_class_order(set(table["label"]))
    if len(set(found)) != len(found):
        msg = f"{name}: a class is listed twice in {', '.join(found)}"
        raise InputError(msg)
    _refuse(~table["label"].isin(list(found)), table, "label", name, f"must be one of {', '.join(found)}")
    if len(found) < 2:
        msg = f"{name}: fewer than 2 classes, every image is {found[0]!r}; give each class its own folder or label"
        raise InputError(msg)
    return tuple(found)


def _check_votes(table: pd.DataFrame, name: str, classes: tuple[str, ...]) -> None:
    columns = [c for c in table if c.startswith(VOTES)]
    if not columns:
        return
    for column in columns:
        if column[len(VOTES) :] not in classes:
            msg = f"{name}: {column!r} is the votes of no class; the classes are {', '.join(classes)}"
            raise InputError(msg)
        _refuse(~(table[column] >= 0) | np.isinf(table[column]), table, column, name, "must be a number not below zero")
    total = table[columns].sum(axis=1)
    _refuse(total <= 0, table.assign(votes=total), "votes", name, "must sum to more than zero")


def _check_paths(table: pd.DataFrame, root: Path, name: str) -> None:
    """Refuse paths that leave the root, appear twice or lead to no file; lists folders, which is cheaper than a stat."""
    paths = table["path"]
    _refuse(paths.str.strip() == "", table, "path", name, "may not be empty")
    _refuse(paths.str.match(r"[/\\]|[A-Za-z]:[/\\]"), table, "path", name, f"must be relative to {root}, not absolute")
    parts = "/" + paths + "/"
    _refuse(parts.str.contains("/../", regex=False), table, "path", name, f"may not leave {root} by '..'")
    untidy = parts.str.contains("/./", regex=False) | parts.str.contains("//", regex=False)
    if untidy.any():
        table["path"] = paths = paths.where(~untidy, paths[untidy].map(os.path.normpath))
    _refuse(paths.duplicated(), table, "path", name, "appears twice")
    if not root.is_dir():
        msg = f"{name}: the folder of the images, {root}, does not exist"
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
    _refuse(pd.Series(outside), table, "path", name, f"may not leave {root} through a symlink")
    _refuse(pd.Series(missing), table, "path", name, f"must be a file in {root}, found none")
