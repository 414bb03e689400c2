"""Reads the JSON of AI-Hub's Korean set: lists of records with an uploader's label and three annotators' answers."""

import json
import math
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import InputError

ANNOTATORS = ("A", "B", "C")
CORNERS = {"minX": "x0", "minY": "y0", "maxX": "x1", "maxY": "y1"}
ENCODINGS = ("utf-8-sig", "cp949")  # the set is UTF-8, with or without a mark; some copies were saved on Windows
GENDERS = {"남": "male", "남자": "male", "남성": "male", "여": "female", "여자": "female", "여성": "female"}
PROFESSIONS = {"전문인": "actor", "일반인": "everybody"}


@dataclass
class Records:
    """What the files say, as columns; ``boxes`` has a row an annotator, ``bad`` says what was left out."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # file name -> the JSON that names it


def plain_name(name: str) -> str:
    """Return a file's name without folders, in one Unicode form (macOS takes Hangul apart)."""
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
        found = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of {text.count(chr(10)) + 1} lines"
        msg = f"{file} is not whole JSON ({error.msg}: {where}); it was cut short or damaged: fetch it again"
        raise InputError(msg) from error
    records = [found] if isinstance(found, dict) and "filename" in found else found
    if not isinstance(records, list):
        keys = ", ".join(list(found)[:8]) if isinstance(found, dict) else type(found).__name__
        msg = f"{file} must hold a list of records with the key filename, found {keys}"
        raise InputError(msg)
    return records


def take(file: Path, into: Records, *, drop: bool) -> None:
    """Add the records of a file, naming the first that breaks a rule, or leaving such records out and counting them.

    Raises:
        InputError: a key is missing or holds something else than it should, or a file is named twice.
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
        InputError: a key is missing or holds something else than it should.
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
