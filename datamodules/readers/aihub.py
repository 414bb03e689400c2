"""Reader of AI-Hub's "composite images for Korean emotion recognition": photographs, and JSON files with their labels.

Layout: `Training/[라벨]EMOIMG_기쁨_TRAIN/*.json` beside `Training/[원천]EMOIMG_기쁨_TRAIN_01/*.jpg`, or any folder that
holds both. A photograph is called `<person>_<gender>_<age>_<emotion>_<place>_<number>.jpg`.
"""

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.labels import NO_EMOTION, canonical_split, plain
from datamodules.manifest import SIDES, VOTES, Manifest
from datamodules.readers.archives import is_archive
from datamodules.readers.base import ReadOptions, finish, image_files, resolve
from datamodules.readers.table import apply_votes
from datamodules.splits.folds import divide

_ORIENTATION = 0x0112  # EXIF; 5 to 8 lie on their side
_THREADS = 8


def upright_size(file: str) -> tuple[int, int]:
    """Return width and height of the upright image, from its header; (0, 0) if it cannot be read."""
    try:
        with Image.open(file) as image:
            wide, high = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0
    return (high, wide) if turned else (wide, high)


def within_images(manifest: Manifest, boxes: pd.DataFrame, *, drop: bool) -> Manifest:
    """Return the manifest with its boxes, clipped to the upright images. Unreadable images are ignored.

    Raises:
        InputError: a box has no pixel of its image, and ``drop`` does not leave such boxes out.
    """
    paths = boxes["path"].unique()
    places = [os.path.join(manifest.root, path) for path in paths]
    with ThreadPoolExecutor(_THREADS) as pool:
        measured = pool.map(upright_size, places, chunksize=32)
        bar = tqdm(measured, "image sizes", total=len(places), unit=" files", delay=2, leave=False, disable=None)
        sizes = dict(zip(paths, bar, strict=True))
    size = np.array([sizes[path] for path in boxes["path"]], np.float64).reshape(-1, 2)
    size[size[:, 0] == 0] = np.inf
    corners = boxes[list(SIDES)].to_numpy(np.float64)
    cut = np.clip(corners, 0, np.tile(size, 2))
    gone = (cut[:, 2] <= cut[:, 0]) | (cut[:, 3] <= cut[:, 1])
    if gone.any() and not drop:
        row = int(np.flatnonzero(gone)[0])
        wide, high = size[row].astype(int)
        values = ", ".join(f"{value:g}" for value in corners[row])
        msg = (
            f"{manifest.name}: the box of annotator {boxes['annotator'].iloc[row]} lies outside of "
            f"{boxes['path'].iloc[row]!r}, which is {wide}x{high}: x0, y0, x1, y1 = {values}; correct it, or leave "
            "such boxes out with bad_records=drop (--bad-records drop)"
        )
        raise InputError(msg)
    notes = []
    if gone.any():
        notes.append(f"{int(gone.sum())} boxes left out: they lie outside of their images")
    if over := int((np.abs(cut - corners).max(1)[~gone] > 1).sum()):
        notes.append(f"{over} boxes cut at the borders of their images")
    boxes = boxes.assign(**dict(zip(SIDES, cut.T, strict=True)))[~gone]
    return replace(manifest, notes=(*manifest.notes, *notes)).with_boxes(boxes)


ANNOTATORS = ("A", "B", "C")
CORNERS = {"minX": "x0", "minY": "y0", "maxX": "x1", "maxY": "y1"}
ENCODINGS = (
    "utf-8-sig",
    "cp949",
)  # the set is UTF-8, with or without a byte-order mark; some copies were saved on Windows
GENDERS = {"남": "male", "남자": "male", "남성": "male", "여": "female", "여자": "female", "여성": "female"}
PROFESSIONS = {"전문인": "actor", "일반인": "everybody"}


@dataclass
class Records:
    """Records of JSON files; ``boxes`` has one row per annotator, ``bad`` the errors of records that were left out."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # file name -> the JSON that names it


def plain_name(name: str) -> str:
    """Return a file's name without folders, in one Unicode form (macOS decomposes Hangul)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1])


def load(file: Path) -> list[Any]:
    """Return the records of one file.

    Raises:
        InputError: the file cannot be read, is cut short, or holds no list of records.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise InputError(msg) from error
    for encoding in ENCODINGS:
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        msg = f"{file} is neither UTF-8 nor CP949 text; save it as UTF-8"
        raise InputError(msg)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of {text.count(chr(10)) + 1} lines"
        msg = f"{file} is not whole JSON ({error.msg}: {where}); it is incomplete or damaged: download it again"
        raise InputError(msg) from error
    records = [content] if isinstance(content, dict) and "filename" in content else content
    if not isinstance(records, list):
        keys = ", ".join(list(content)[:8]) if isinstance(content, dict) else type(content).__name__
        msg = f"{file} must hold a list of records with the key filename, found {keys}"
        raise InputError(msg)
    return records


def take(file: Path, into: Records, *, drop: bool) -> None:
    """Add the records of a file to ``into``; raise for the first invalid record, or leave invalid ones out.

    Raises:
        InputError: a key is missing or has a wrong value, or a file is named twice.
    """
    for number, record in enumerate(load(file)):
        try:
            row, boxes = parse(record)
            if row["name"] in into.seen:
                msg = f"filename {row['name']!r} was already named by {into.seen[row['name']]}"
                raise InputError(msg)
        except InputError as error:
            msg = f"{file.name}: record {number}: {error}"
            if not drop:
                msg += "; correct it, or leave such records out with bad_records=drop (--bad-records drop)"
                raise InputError(msg) from error
            into.bad.append(msg)
            continue
        into.seen[row["name"]] = file.name
        into.rows.append(row)
        into.boxes.extend({"name": row["name"], **box} for box in boxes)


def parse(record: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # noqa: ANN401 - whatever JSON holds
    """Return the row and the boxes of one record.

    Raises:
        InputError: a key is missing or has a wrong value.
    """
    name = plain_name(_text(record, "filename"))
    answers: list[str] = []
    boxes: list[dict[str, Any]] = []
    for annotator in ANNOTATORS:
        key = f"annot_{annotator}"
        part = _get(record, key)
        answers.append(_text(part, "faceExp", f"{key}."))
        corners = _get(part, "boxes", f"{key}.")
        box = {ours: _number(corners, theirs, f"{key}.boxes.") for theirs, ours in CORNERS.items()}
        if box["x1"] <= box["x0"] or box["y1"] <= box["y0"]:
            msg = f"{key}.boxes must have minX < maxX and minY < maxY, got {corners}"
            raise InputError(msg)
        boxes.append({"annotator": annotator, **box})
    optional = {key: str(record.get(key) or "").strip() for key in ("gender", "age", "isProf", "bg_uploader")}
    row = {
        "name": name,
        "label": _text(record, "faceExp_uploader"),
        "answers": tuple(answers),
        "gender": GENDERS.get(optional["gender"], optional["gender"]),
        "age": decade(optional["age"]),
        "professional": PROFESSIONS.get(optional["isProf"], optional["isProf"]),
        "background": optional["bg_uploader"],
    }
    return row, boxes


def decade(age: str) -> str:
    """Return the age group, ``20s`` for 20, 25 and 20대; other words stay as they are."""
    digits = age.removesuffix("대").removesuffix("s")
    return f"{int(digits) // 10 * 10}s" if digits.isdecimal() else age


def _get(record: Any, key: str, inside: str = "") -> Any:  # noqa: ANN401
    if not isinstance(record, dict):
        msg = f"{inside.rstrip('.') or 'it'} must be an object with the key {key}, got {record!r:.60}"
        raise InputError(msg)
    if key not in record:
        msg = f"the key {inside}{key} is missing; found {', '.join(map(str, record)) or 'none'}"
        raise InputError(msg)
    return record[key]


def _text(record: Any, key: str, inside: str = "") -> str:  # noqa: ANN401
    value = _get(record, key, inside)
    if not isinstance(value, str) or not value.strip():
        msg = f"{inside}{key} must be a word, got {value!r:.60}"
        raise InputError(msg)
    return value.strip()


def _number(record: Any, key: str, inside: str) -> float:  # noqa: ANN401
    value = _get(record, key, inside)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        msg = f"{inside}{key} must be a number, got {value!r:.60}"
        raise InputError(msg)
    return number


SHARES = (0.8, 0.1, 0.1)  # of train, validation and test, as in the paper
_PERSON = re.compile(r"([^_]+)_[^_]+_\d+[^_]*_.")  # a person's code, gender, age, and more
_DEEP = 4  # folders below the given one in which a JSON is looked for
_HEAD = 1 << 16


def _json_files(path: Path) -> Iterator[Path]:
    """Yield the set's JSON files: the file itself, or those below a folder, hidden folders left out."""
    if path.is_file():
        yield path
        return
    for folder, folders, files in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX") if depth < _DEEP else []
        yield from (Path(folder, f) for f in sorted(files) if f.lower().endswith(".json") and not f.startswith("."))


def _is_ours(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    return b'"annot_A"' in head and b'"faceExp' in head


def looks_like(path: Path) -> bool:
    """Return whether this is one of the set's JSON files, or a folder with one in it or below it."""
    if path.is_file() and path.suffix.lower() != ".json":
        return False
    return any(_is_ours(file) for file in _json_files(path))


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read labels, votes, people and boxes.

    The published label is the uploader's (``faceExp_uploader``); with ``votes=majority`` or ``soft`` it is the
    annotators'. The column ``agreement`` is the number of annotators, 0 to 3, who gave that label. A split of
    8:1:1 keeps each person in one part, if the file names contain the person.

    Raises:
        InputError: a broken file or record, a box outside its image, or no image for any record.
    """
    root = path if path.is_dir() else path.parent
    records = Records()
    # A file given by the user, or named as the publisher's, is read in any case, so that its error is reported.
    present = list(_json_files(path))
    files = [file for file in present if path.is_file() or file.match("img_emotion_*.json") or _is_ours(file)]
    if not files:
        msg = f"no table of records in {path}: no JSON with annot_A, annot_B, annot_C; unpack the [라벨] archives there"
        raise InputError(msg)
    for file in tqdm(files, "reading records", unit=" files", delay=1, leave=False, disable=None):
        take(file, records, drop=options.bad_records == "drop")
    rows, notes = _with_images(records, root, options)
    if other := [file.name for file in present if file not in files]:
        notes.append(f"{len(other)} JSON files left out, they hold no annotators' answers; the first is {other[0]}")
    if records.bad:
        notes.append(f"{len(records.bad)} records left out; the first: {records.bad[0]}")
    table = _votes_table(rows, options)
    table, said = apply_votes(table, name, options)
    table["agreement"] = _agreement(table, options)
    manifest = finish(table.drop(columns="answers"), root, name, options, (*notes, *said))
    manifest = _divided(manifest)
    names = dict(zip(rows["name"], rows["path"], strict=True))
    boxes = pd.DataFrame(records.boxes)
    boxes.insert(0, "path", boxes.pop("name").map(names))
    boxes = boxes[boxes["path"].isin(manifest.table["path"])].reset_index(drop=True)
    return within_images(manifest, boxes, drop=options.bad_records == "drop")


def _with_images(records: Records, root: Path, options: ReadOptions) -> tuple[pd.DataFrame, list[str]]:
    """Return the records whose image exists, with its path and its person."""
    places: dict[str, list[str]] = {}
    for file in image_files(root, reads=(".json",)):
        places.setdefault(plain_name(file), []).append(file)
    rows: list[dict] = []
    doubled = 0
    for record in records.rows:
        here = places.get(record["name"], [])
        if len(here) > 1:
            msg = f"{root.name}: several images are called {record['name']!r}: {', '.join(here[:3])}; keep one of them"
            if options.bad_records == "error":
                raise InputError(msg)
            records.bad.append(msg)
            doubled += 1
        elif here:
            rows.append({"path": here[0], **record})
    if not rows:
        packed = next((f for f in sorted(root.rglob("*")) if is_archive(f)), None)
        hint = f"unpack {packed.name} and its like" if packed else "give the folder that holds both JSON and images"
        msg = f"none of the {len(records.rows)} images that the JSON files name is below {root}; {hint}"
        raise InputError(msg)
    notes = []
    if gone := len(records.rows) - len(rows) - doubled:
        notes.append(f"{gone} of {len(records.rows)} records left out: their images are not here")
    if spare := sum(map(len, places.values())) - len(rows):
        notes.append(f"{spare} images left out: no record names them")
    table = pd.DataFrame(rows)
    people = [match[1] if (match := _PERSON.match(name)) else "" for name in table["name"]]
    if any(people):
        table.insert(1, "subject", people)
    parts = [_published_part(path) for path in table["path"]]
    if all(parts):
        table["published_split"] = parts
    return table, notes


def _published_part(path: str) -> str:
    """Return the publisher's part of an image, from its folders (`1.Training`); empty if unknown."""
    folders = (re.sub(r"^[\d.\s]+", "", folder) for folder in path.split("/")[:-1])
    return next((part for folder in folders if (part := canonical_split(folder))), "")


def _votes_table(rows: pd.DataFrame, options: ReadOptions) -> pd.DataFrame:
    """Return the rows with a column of votes for each answer that was given, and without the records' own names."""
    table = rows.drop(columns="name")
    answers = np.array([[_meaning(answer, options) for answer in row] for row in rows["answers"]], dtype=object)
    table["answers"] = list(map(tuple, answers))
    for answer in dict.fromkeys(answers.ravel()):
        table[VOTES + answer] = (answers == answer).sum(1)
    return table


def _meaning(answer: str, options: ReadOptions) -> str:
    """Return the class an answer means, ``unknown`` for 알수없음, else the answer itself."""
    if plain(unicodedata.normalize("NFC", answer)) in ("알수없음", *NO_EMOTION):
        return NO_EMOTION[0]
    return resolve(answer, options) or answer


def _agreement(table: pd.DataFrame, options: ReadOptions) -> list[str]:
    """Return how many annotators gave the label of each row."""
    meant = {label: resolve(str(label), options) or str(label) for label in table["label"].unique()}
    pairs = zip(table["answers"], table["label"], strict=True)
    return [str(sum(answer == meant[label] for answer in answers)) for answers, label in pairs]


def _divided(manifest: Manifest) -> Manifest:
    """Return the manifest with a split of 8:1:1 by person; with a note instead if there are too few people."""
    subjects = manifest.subjects
    alone = pd.Series(np.arange(len(manifest)).astype(str))
    people = alone if subjects is None else pd.Series(subjects).where(subjects != "", "\0" + alone)
    clusters = pd.factorize(people)[0]
    try:
        part = divide(manifest.labels, clusters, manifest.classes, np.array(SHARES), 0, 1)
    except InputError:
        note = "no split of 8:1:1: too few people to put every class into every part; use folds"
        return replace(manifest, notes=(*manifest.notes, note))
    known = 0 if subjects is None else int((subjects != "").sum())
    note = f"split of 8:1:1 by person; the file names of {known} of {len(manifest)} images contain the person"
    table = manifest.table.assign(split=np.array(("train", "validation", "test"), dtype=object)[part])
    return replace(manifest, table=table, notes=(*manifest.notes, note))
