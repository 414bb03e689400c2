"""The table of images that everything else works on: one row an image, checked once, saved and loaded whole."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import InputError
from datamodules.face_boxes import SIDES, boxes_file, check_boxes
from datamodules.manifest_checks import (
    SPLITS,
    VOTES,
    as_numbers,
    as_text,
    check_labels,
    check_paths,
    check_votes,
    refuse,
)
from datamodules.places import replacing

__all__ = [
    "KNOWN_COLUMNS",
    "SPLITS",
    "VOTES",
    "Manifest",
    "as_numbers",
    "make_manifest",
    "read_table",
    "saved_boxes",
    "saved_meta",
    "side_car",
]

KNOWN_COLUMNS = ("path", "label", "subject", "split")
_META_KEY = b"emotion_manifest"


@dataclass(frozen=True, eq=False)
class Manifest:
    """Images, their labels and what is known about them. Made by :func:`make_manifest`, which checks it.

    ``table`` has a plain row number as index and text in every column but the votes: ``path`` (with ``/``, relative
    to ``root``), ``label``, optional ``subject``, ``split`` and ``votes_<class>``; every other column is a group.
    ``""`` means not known. ``classes[i]`` is the name of the integer label i. ``notes`` say what the reader left out.
    ``boxes``, if the data set knows where faces are, has a row a box: ``path``, ``x0``, ``y0``, ``x1``, ``y1`` in
    pixels of the upright image, and what else is known; see :mod:`datamodules.face_boxes`.
    """

    root: Path
    table: pd.DataFrame
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    boxes: pd.DataFrame | None = None

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
        return Manifest(self.root, table, self.classes, self.name, self.notes).with_boxes(self.boxes)

    def with_boxes(self, boxes: pd.DataFrame | None) -> "Manifest":
        """Return the manifest with those of the boxes that are of its images.

        Raises:
            InputError: a box without area, or a column that is missing.
        """
        if boxes is None:
            return self
        if "path" in boxes:
            boxes = boxes[boxes["path"].isin(self.table["path"])]
        return replace(self, boxes=check_boxes(boxes, self.name))

    def save(self, path: str | Path) -> Path:
        """Write the manifest to a ``.parquet`` or ``.csv`` file; a CSV gets a side-car ``<file>.json``.

        Boxes go to ``<file>.boxes.csv``. The root is kept relative when the images lie in the manifest's own folder, so
        that both may move together.
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
        try:
            with replacing(path) as draft:
                if _kind(path) == "parquet":
                    arrow = pa.Table.from_pandas(self.table, preserve_index=False)
                    pq.write_table(arrow.replace_schema_metadata({**arrow.schema.metadata, _META_KEY: text}), draft)
                else:
                    with replacing(side_car(path)) as beside:
                        beside.write_text(text, encoding="utf-8")
                    self.table.to_csv(draft, index=False)
            if self.boxes is not None:
                with replacing(boxes_file(path)) as draft:
                    self.boxes.to_csv(draft, index=False)
            else:
                boxes_file(path).unlink(missing_ok=True)  # of a manifest that was written over
        except OSError as error:
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
        table = read_table(path)
        for column in [c for c in table if str(c).startswith(VOTES)]:
            table[column] = as_numbers(table, column, path.name)
        root = path.parent / meta["root"]
        manifest = make_manifest(table, root, name=meta["name"], classes=tuple(meta["classes"]))
        return replace(manifest, notes=tuple(meta.get("notes", ()))).with_boxes(saved_boxes(path))


def _kind(path: Path) -> str:
    if path.suffix.lower() not in {".csv", ".parquet"}:
        msg = f"a manifest is a .csv or .parquet file, got {path.name!r}"
        raise InputError(msg)
    return path.suffix.lower()[1:]


def side_car(path: Path) -> Path:
    """Return the file beside a CSV manifest that keeps its classes, name and root."""
    return path.with_name(path.name + ".json")


def saved_boxes(path: Path) -> pd.DataFrame | None:
    """Return the table of boxes that stands beside a saved manifest, or None."""
    file = boxes_file(path)
    if not file.is_file():
        return None
    table = read_table(file)
    for side in [side for side in SIDES if side in table]:
        table[side] = as_numbers(table, side, file.name)
    return table


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


def read_table(path: Path, *, columns_only: bool = False) -> pd.DataFrame:
    """Read a CSV or TSV file, or a Parquet file.

    Cells of a CSV or TSV file are text as written: ``NA``, ``None``, ``null`` and ``nan`` are words. Only an empty cell
    is a missing value and is read as ``""``. In a Parquet file only a null is a missing value.

    Args:
        path: the file.
        columns_only: read the header and no rows.

    Raises:
        InputError: the file is missing or cannot be read as a table.
    """
    try:
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
            table = pd.DataFrame(columns=schema.names) if columns_only else pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            rows = 0 if columns_only else None
            table = pd.read_csv(path, dtype=str, sep=separator, encoding="utf-8-sig", nrows=rows, na_filter=False)
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
    table = as_text(table.reset_index(drop=True))
    classes = check_labels(table, name, classes)
    check_votes(table, name, classes)
    if "split" in table:
        refuse(~table["split"].isin(SPLITS), table, "split", name, f"must be one of {', '.join(SPLITS)}")
    check_paths(table, root, name)
    return Manifest(root, table, classes, name, notes)
