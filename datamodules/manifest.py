"""Manifest: the checked table of images, one row per image, as object and file; and tables of face boxes."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import InputError
from datamodules.files.paths import is_guarded, on_disk, path_text, replacing
from datamodules.files.tables import read_table as read_table
from datamodules.labels import in_class_order

SPLITS = ("train", "validation", "test")
VOTES = "votes_"
SIDES = ("x0", "y0", "x1", "y1")
FACE_SOURCE = "face_source"  # column of face crops: the photograph
SET = "set"  # subgroup column of joined data sets: the data set of an image


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
    numbers = pd.to_numeric(values.where(~empty, np.nan), errors="coerce").astype(np.float64)
    return numbers, ~empty & numbers.isna()


def file_row(bad: pd.Series) -> str:
    """Return the position of the first bad row in the file, counted from 1, and the number of other bad rows."""
    more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
    return f"row {int(np.flatnonzero(bad)[0]) + 1} below the header{more}"


def as_numbers(table: pd.DataFrame, column: str, source: str) -> pd.Series:
    """Return a column as float64, NaN where a cell is empty; the table has all rows of its file in their order.

    Raises:
        InputError: A cell is not a number; the message names the first one.
    """
    numbers, bad = parse_numbers(table[column])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        path = f" for {str(table['path'].iat[row])!r}" if "path" in table else ""
        msg = f"{source}: {file_row(bad)}: {column} must be a number, got {table[column].tolist()[row]!r}{path}"
        raise InputError(msg)
    return numbers


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
    """Return the class list, given or of the labels; raise for empty or unknown labels, or fewer than two classes."""
    refuse(table["label"].str.strip() == "", table, "label", name, "may not be empty")
    class_list = classes or in_class_order(set(table["label"]))
    if len(set(class_list)) != len(class_list):
        msg = f"{name}: a class is listed twice in {', '.join(class_list)}"
        raise InputError(msg)
    refuse(~table["label"].isin(list(class_list)), table, "label", name, f"must be one of {', '.join(class_list)}")
    if len(class_list) < 2:
        msg = f"{name}: fewer than 2 classes, every image is {class_list[0]!r}; give each class its own folder or label"
        raise InputError(msg)
    return tuple(class_list)


def check_votes(table: pd.DataFrame, name: str, classes: tuple[str, ...]) -> None:
    """Convert votes to numbers, in place; raise if one is not a number, a row sums to zero, or a class is unknown."""
    columns = [c for c in table if c.startswith(VOTES)]
    if not columns:
        return
    for column in columns:
        if column[len(VOTES) :] not in classes:
            msg = f"{name}: the votes column {column!r} belongs to no class; the classes are {', '.join(classes)}"
            raise InputError(msg)
        votes, _ = parse_numbers(table[column])
        refuse(~(votes >= 0) | np.isinf(votes), table, column, name, "must be a number of at least 0")
        table[column] = votes
    total = table[columns].sum(axis=1)
    refuse(total <= 0, table.assign(votes=total), "votes", name, "must sum to more than 0")


def check_paths(table: pd.DataFrame, root: Path, name: str) -> None:
    """Raise for paths that leave the root, appear twice or are no file; lists folders instead of checking each file.

    Links are followed: they are the user's own, since archives are unpacked without links. Below the cache, where they
    are unpacked, no link may lead out of the root.
    """
    paths = table["path"]
    refuse(paths.str.strip() == "", table, "path", name, "may not be empty")
    refuse(
        paths.str.match(r"/|\\(?!x[89a-f][0-9a-f])|[A-Za-z]:[/\\]"),
        table,
        "path",
        name,
        f"must be relative to {root}, not absolute",
    )
    parts = "/" + paths + "/"
    refuse(parts.str.contains("/../", regex=False), table, "path", name, f"may not leave {root} by '..'")
    untidy = parts.str.contains("/./", regex=False) | parts.str.contains("//", regex=False)
    if untidy.any():
        table["path"] = paths = paths.where(~untidy, paths[untidy].map(os.path.normpath))
    faces = [side for side in SIDES if side in table]  # several faces of an image are rows of their own
    refuse(table.duplicated(["path", *faces]), table, "path", name, "appears twice")
    if not root.is_dir():
        msg = (
            f"{name}: the folder of the images, {root}, does not exist (if it was unpacked from an archive, read that)"
        )
        raise InputError(msg)

    guarded, inside = is_guarded(root), os.path.join(os.path.realpath(root), "")
    sought = paths.tolist()
    by_folder: dict[str, list[int]] = {}
    for row, path in enumerate(sought):
        by_folder.setdefault(os.path.dirname(path), []).append(row)
    outside, missing = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
    for folder, rows in by_folder.items():
        place = on_disk(os.path.join(root, folder))
        if guarded and not os.path.join(os.path.realpath(place), "").startswith(inside):
            outside[rows] = True
            continue
        try:
            # True: a plain file. False: a link, followed below. Anything else is not there.
            with os.scandir(place) as entries:
                files = {path_text(e.name): not e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}
        except OSError:
            files = {}
        for row in rows:
            kind = files.get(os.path.basename(sought[row]))
            if kind is None:
                missing[row] = True
            elif not kind:
                target = os.path.realpath(on_disk(os.path.join(root, sought[row])))
                outside[row] = guarded and not target.startswith(inside)
                missing[row] = not os.path.isfile(target)
    refuse(pd.Series(outside), table, "path", name, f"may not leave {root} through a symlink")
    refuse(pd.Series(missing), table, "path", name, f"must be a file in {root}, found none")


def boxes_file(manifest: Path) -> Path:
    """Return the file beside a saved manifest that holds its boxes."""
    return manifest.with_name(manifest.name + ".boxes.csv")


def check_boxes(boxes: pd.DataFrame, name: str) -> pd.DataFrame:
    """Check a table of boxes: ``path``, and ``x0``, ``y0``, ``x1``, ``y1`` in pixels of the upright image.

    Other columns (``annotator``, landmarks) stay, as numbers where all their values are.

    Raises:
        InputError: A column is missing, or a box has no area.
    """
    missing = [column for column in ("path", *SIDES) if column not in boxes]
    if missing:
        msg = f"{name}: the table of boxes lacks {', '.join(missing)}; found {', '.join(map(str, boxes.columns))}"
        raise InputError(msg)
    columns: dict[str, pd.Series] = {"path": plain_text(boxes["path"])}
    for column in boxes.columns.drop("path"):
        numbers, bad = parse_numbers(boxes[column])
        if column in SIDES and bad.any():
            row = int(np.flatnonzero(bad)[0])
            msg = f"{name}: box {row} of {boxes['path'].iloc[row]!r}: {column} must be a number, got "
            msg += f"{boxes[column].tolist()[row]!r}; correct the number, or remove the box"
            raise InputError(msg)
        columns[str(column)] = numbers if column in SIDES or numbers.notna().all() else plain_text(boxes[column])
    table = pd.DataFrame(columns).reset_index(drop=True)
    sides = table[list(SIDES)]
    empty = ~np.isfinite(sides).all(axis=1) | (table["x1"] <= table["x0"]) | (table["y1"] <= table["y0"])
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        values = ", ".join(f"{side}={table[side].iloc[row]:g}" for side in SIDES)
        rule = "x0 < x1 and y0 < y1 must hold"
        msg = f"{name}: box {row} of {table['path'].iloc[row]!r}: {rule}, got {values}; correct it or leave it out"
        raise InputError(msg)
    return table


KNOWN_COLUMNS = ("path", "label", "subject", "split")
_META_KEY = b"emotion_manifest"


@dataclass(frozen=True, eq=False)
class Manifest:
    """Table of images, labels and other columns; made by :func:`make_manifest`, which checks it.

    ``table`` has a plain row number as index and text in every column but the votes: ``path`` (with ``/``, relative
    to ``root``), ``label``, optional ``subject``, ``split`` and ``votes_<class>``; every other column is a subgroup.
    ``""`` means unknown. ``classes[i]`` is the name of the integer label i. ``notes`` say what the reader left out.
    Where images have several labelled faces, rows are faces with boxes in the columns `SIDES`, which `readers.read`
    cuts out. ``boxes``, if the data set has face boxes, has one row per box: ``path``, ``x0``, ``y0``, ``x1``, ``y1``
    in pixels of the upright image, and what else is known; see ``datamodules/face_boxes.py``. ``sets``, of joined data
    sets, has the name of each (column `SET`) and its folder below ``root``. ``detector``, of face crops, is the
    detector that found them as ``--faces`` takes it, with the whole path of its file; it may be "".
    """

    root: Path
    table: pd.DataFrame
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    boxes: pd.DataFrame | None = None
    sets: tuple[tuple[str, str], ...] = ()
    detector: str = ""

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def labels(self) -> np.ndarray:
        """Integer labels, int64 of shape (N,)."""
        return pd.Index(self.classes).get_indexer(pd.Index(self.table["label"])).astype(np.int64)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the columns that reports may slice by."""
        known = {*KNOWN_COLUMNS, *SIDES}
        return tuple(c for c in self.table if c not in known and not c.startswith(VOTES))

    @cached_property
    def votes(self) -> np.ndarray | None:
        """Share of the annotators for each class, float64 of shape (N, C), rows sum to 1; None without votes."""
        if not any(str(c).startswith(VOTES) for c in self.table):
            return None
        counts = self.table.reindex(columns=[VOTES + c for c in self.classes], fill_value=0.0).to_numpy(np.float64)
        return counts / counts.sum(axis=1, keepdims=True)

    @property
    def row_boxes(self) -> np.ndarray | None:
        """Box of each row, float64 (N, 4), NaN where it has none; None if rows are images."""
        if not set(SIDES) <= set(self.table):
            return None
        return np.stack([parse_numbers(self.table[side])[0].to_numpy() for side in SIDES], axis=1)

    @property
    def subjects(self) -> np.ndarray | None:
        """The person or source of each row, objects of shape (N,), ``""`` where unknown; None without the column."""
        return self.table["subject"].to_numpy(object) if "subject" in self.table else None

    def file(self, row: int) -> Path:
        """Return the absolute path of an image.

        Raises:
            InputError: ``root`` is in the cache, and a link, which may have changed, leads out of it.
        """
        path = on_disk(self.root / self.table["path"].iloc[row]).resolve()
        if is_guarded(self.root) and not path.is_relative_to(self.root.resolve()):
            msg = f"row {row}: {self.table['path'].iloc[row]!r} leads out of the images' folder {self.root} to {path}"
            raise InputError(msg)
        return path

    @property
    def plain_paths(self) -> pd.Series:
        """The paths, of joined sets with the name of the set in place of its folder: the same wherever the sets are."""
        paths = self.table["path"]
        for name, folder in self.sets if SET in self.table else ():  # a saved table may have been edited
            prefix = "" if folder == "." else f"{folder}/"
            inside = (self.table[SET] == name) & paths.str.startswith(prefix)
            paths = paths.where(~inside, f"{name}/" + paths.str.slice(len(prefix)))
        return paths

    def fingerprint(self) -> str:
        """Return a SHA-256 of table and classes; the folders of the sets and the name of the whole do not count."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for column in sorted(self.table):
            values = self.plain_paths if column == "path" else self.table[column]
            numeric = str(column).startswith(VOTES)
            digest.update(f"\x1d{column}\x1d".encode())
            digest.update(values.to_numpy("<f8").tobytes() if numeric else "\x1e".join(values).encode())
        return digest.hexdigest()

    def select(self, rows: np.ndarray | list[int]) -> "Manifest":
        """Return the manifest of these rows, in this order and renumbered, with the same classes."""
        table = self.table.iloc[np.asarray(rows, dtype=np.int64)].reset_index(drop=True)
        return replace(self, table=table, boxes=None).with_boxes(self.boxes)

    def with_boxes(self, boxes: pd.DataFrame | None) -> "Manifest":
        """Return the manifest with the boxes of its images.

        Raises:
            InputError: a box without area, or a column that is missing.
        """
        if boxes is None:
            return self
        if "path" in boxes:
            boxes = boxes[boxes["path"].isin(self.table["path"])]
        return replace(self, boxes=check_boxes(boxes, self.name))

    @property
    def where_note(self) -> str:
        """What a user of the saved manifest must know about the place of its images; "" if nothing."""
        if not is_guarded(self.root):
            return ""
        return (
            f"note: its images are in the cache, {path_text(self.root)}; `emotion data cache --clear all` deletes them "
            "and makes this table useless; unpack an archive yourself to keep a table of its images"
        )

    def save(self, path: str | Path) -> Path:
        """Write the manifest to a ``.parquet`` or ``.csv`` file; a CSV gets a side-car ``<file>.json``.

        Boxes go to ``<file>.boxes.csv``. The root is stored as a relative path if the images are in the manifest's
        folder, so that both can be moved together.
        """
        path = Path(path).expanduser().absolute()
        home, root = path.parent.resolve(), self.root.resolve()
        meta = {
            "classes": list(self.classes),
            "name": self.name,
            "notes": list(self.notes),
            "root": path_text(root.relative_to(home).as_posix() if root.is_relative_to(home) else root),
            **({"sets": list(map(list, self.sets))} if self.sets else {}),
            **({"detector": path_text(self.detector)} if self.detector else {}),
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
                boxes_file(path).unlink(missing_ok=True)  # of an overwritten manifest
        except OSError as error:
            msg = f"cannot write the manifest {path}: {error.strerror or error}; choose a folder that you may write to"
            raise InputError(msg) from error
        return path

    @staticmethod
    def load(path: str | Path) -> "Manifest":
        """Load a saved manifest with its classes, name and root, and check that its files exist.

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
        root = on_disk(path.parent / meta["root"])
        manifest = make_manifest(table, root, name=meta["name"], classes=tuple(meta["classes"]))
        notes = tuple(meta.get("notes", ()))
        return replace(manifest, notes=notes, **kept_of(meta)).with_boxes(saved_boxes(path))


def _kind(path: Path) -> str:
    if path.suffix.lower() not in {".csv", ".parquet"}:
        msg = f"a manifest is a .csv or .parquet file, got {path.name!r}"
        raise InputError(msg)
    return path.suffix.lower()[1:]


def side_car(path: Path) -> Path:
    """Return the path of the JSON file beside a CSV manifest, which holds its classes, name and root."""
    return path.with_name(path.name + ".json")


def saved_boxes(path: Path) -> pd.DataFrame | None:
    """Return the table of boxes beside a saved manifest, or None."""
    file = boxes_file(path)
    if not file.is_file():
        return None
    table = read_table(file)
    for side in [side for side in SIDES if side in table]:
        table[side] = as_numbers(table, side, file.name)
    return table


def saved_meta(path: Path) -> dict | None:
    """Return the metadata that :meth:`Manifest.save` stored with the table, or None for any other table."""
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


def kept_of(meta: dict) -> dict[str, Any]:
    """Return `Manifest.sets` and `Manifest.detector` of a saved manifest, which reading options do not change."""
    sets = tuple((str(name), str(folder)) for name, folder in meta.get("sets", ()))
    return {"sets": sets, "detector": str(meta.get("detector", ""))}


def make_manifest(
    table: pd.DataFrame,
    root: str | Path,
    *,
    name: str,
    classes: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Manifest:
    """Return the manifest of a table of images after checking it; every reader ends with this call.

    Args:
        table: columns ``path`` and ``label``, optional ``subject``, ``split``, ``votes_<class>``, and any groups; with
            ``x0``, ``y0``, ``x1``, ``y1``, the box of a face in pixels of the upright image, a row is a face.
        root: the folder that the paths are relative to; no path may leave it, not through a symlink either.
        name: name of the data set.
        classes: the class list; by default the labels that occur, in the order of ``datamodules.labels``.
        notes: what the reader left out, in sentences.

    Raises:
        InputError: a rule is broken; the message names the row and the rule.
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
    if "subject" in table:  # spaces would make two people of one, or one person of all images without
        table["subject"] = table["subject"].str.strip()
    classes = check_labels(table, name, classes)
    check_votes(table, name, classes)
    if "split" in table:
        refuse(~table["split"].isin(SPLITS), table, "split", name, f"must be one of {', '.join(SPLITS)}")
    check_paths(table, root, name)
    if set(SIDES) <= set(table):
        boxes = table[["path", *SIDES]]
        check_boxes(boxes[(boxes[list(SIDES)] != "").any(axis=1)], name)
    return Manifest(root, table, classes, name, notes)


FILES = ("boxes.csv", "boxes.parquet")  # looked for beside the images
_CLASSES = ("face", "no face")  # classes of a manifest that is made from boxes alone


def find_table(place: Path) -> Path | None:
    """Return the table of boxes in a folder, beside a manifest, or the file itself; None if there is none."""
    folder = place if place.is_dir() else place.parent
    if place.is_file() and place.name in FILES:
        return place
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_boxes(path: Path) -> pd.DataFrame:
    """Return ``path``, ``x0``, ``y0``, ``x1``, ``y1`` (pixels of the image, float) and all other columns.

    An image without a face has a row with four empty corners.

    Raises:
        InputError: a missing file or column, a corner that is no number, or an inverted box.
    """
    if not path.is_file():
        msg = f"boxes: no file {path}; give a table with the columns path, {', '.join(SIDES)}"
        raise InputError(msg)
    table = read_table(path).reset_index(drop=True)
    missing = [name for name in ("path", *SIDES) if name not in table]
    if missing:
        msg = f"boxes: {path} lacks {', '.join(missing)}; it needs path, {', '.join(SIDES)} (pixels of the image)"
        raise InputError(msg)
    numbers = pd.DataFrame({name: as_numbers(table, name, f"boxes: {path}") for name in SIDES})
    _refuse(np.isinf(numbers).any(axis=1), table, path, "its corners must be finite numbers")
    some = numbers.notna()
    _refuse(some.any(axis=1) & ~some.all(axis=1), table, path, "it needs all four corners, or none for no face")
    flat = (numbers["x1"] <= numbers["x0"]) | (numbers["y1"] <= numbers["y0"])
    _refuse(flat, table, path, "x0 < x1 and y0 < y1 must hold (not x, y, width, height)")
    table[list(SIDES)] = numbers
    table["path"] = plain_text(table["path"])
    return table


def _refuse(bad: pd.Series, table: pd.DataFrame, path: Path, rule: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        corners = ", ".join(str(table[name].iat[row]) for name in SIDES)
        msg = f"boxes: {path}: {file_row(bad)}: {rule}, got {corners} for {str(table['path'].iat[row])!r}"
        raise InputError(msg)


def manifest_of(table: pd.DataFrame, root: Path, name: str) -> Manifest:
    """Return the manifest of the images that a table of boxes names, with its ``subject`` and ``split`` if any."""
    rows = table.replace("", np.nan).groupby("path", sort=False).first().reset_index()  # the first that is not empty
    faces = table[SIDES[0]].notna().groupby(table["path"], sort=False).any().to_numpy()
    kept = [column for column in ("path", "subject", "split") if column in rows]
    return make_manifest(
        rows[kept].assign(label=np.where(faces, *_CLASSES)).astype(object), root, name=name, classes=_CLASSES
    )


def boxes_by_row(table: pd.DataFrame, manifest: Manifest, sizes: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Return the boxes of each row of the manifest, float32 (M, 4), within the image, and how many were clipped.

    Args:
        table: of :func:`read_boxes`.
        manifest: the images; one without a row in the table has no face.
        sizes: (N, 2) width and height of each image.

    Raises:
        InputError: a box of an image that is not in the manifest, a box outside its image, or no box at all.
    """
    row = pd.Index(manifest.table["path"]).get_indexer(pd.Index(table["path"]))
    if (row < 0).any():
        at = int(np.flatnonzero(row < 0)[0])
        msg = (
            f"boxes: {int((row < 0).sum())} rows name images that are not in {manifest.name}, first row {at}, "
            f"{table['path'].iat[at]!r}; paths must be those of the manifest, relative to {manifest.root}"
        )
        raise InputError(msg)
    real = table[SIDES[0]].notna().to_numpy()
    if not real.any():
        msg = f"boxes: {manifest.name} has no face at all ({len(manifest)} images); training needs at least one"
        raise InputError(msg)
    corners, row = table.loc[real, list(SIDES)].to_numpy(np.float64), row[real]
    limit = np.tile(sizes[row], 2)  # (R, 4)
    cut = np.clip(corners, 0, limit)
    outside = ((cut[:, 2:] - cut[:, :2]) <= 0).any(1)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        wide, high = sizes[row[at]].tolist()
        msg = (
            f"boxes: {int(outside.sum())} boxes lie outside their images, first {corners[at].round(1).tolist()} in "
            f"{manifest.table['path'].iat[int(row[at])]!r}, which is {wide} x {high}; boxes are in pixels of the "
            "image as it is shown (turned by its EXIF orientation)"
        )
        raise InputError(msg)
    clipped = int((cut != corners).any(1).sum())
    order = np.argsort(row, kind="stable")
    ends = np.searchsorted(row[order], np.arange(1, len(manifest)))
    return np.split(cut[order].astype(np.float32), ends), clipped


def to_square(boxes: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Return boxes (M, 4) where `datamodules.files.images.fit_to_square(..., fit="pad")` puts them in its square."""
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - wide) // 2, (size - high) // 2
    factor = np.array([wide / width, high / height] * 2, np.float32)
    return boxes * factor + np.array([left, top] * 2, np.float32)
