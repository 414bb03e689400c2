"""Reads AI-Hub's "composite images for Korean emotion recognition": photographs, and JSON files with their labels.

Layout: `Training/[라벨]EMOIMG_기쁨_TRAIN/*.json` beside `Training/[원천]EMOIMG_기쁨_TRAIN_01/*.jpg`, or any folder that
holds both. A photograph is called `<person>_<gender>_<age>_<emotion>_<place>_<number>.jpg`.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.labels import NO_EMOTION, canonical_split, plain
from datamodules.manifest import VOTES, Manifest
from datamodules.readers.aihub_boxes import within_images
from datamodules.readers.aihub_records import Records, plain_name, take
from datamodules.readers.common import ReadOptions, finish, image_files, resolve
from datamodules.readers.unpack import is_archive
from datamodules.readers.votes import apply_votes
from datamodules.stratification import divide

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
    annotators'. The column ``agreement`` is the number of annotators, 0 to 3, who gave the label that counts. A split
    of 8:1:1 is made over whole people, as far as file names tell people.

    Raises:
        InputError: a broken file or record, a box outside its image, or no image for any record.
    """
    root = path if path.is_dir() else path.parent
    found = Records()
    # A file that the user or the publisher named so is read whatever it looks like, for its error to say what is wrong.
    present = list(_json_files(path))
    files = [file for file in present if path.is_file() or file.match("img_emotion_*.json") or _is_ours(file)]
    if not files:
        msg = f"no table of records in {path}: no JSON with annot_A, annot_B, annot_C; unpack the [라벨] archives there"
        raise InputError(msg)
    for file in tqdm(files, "reading records", unit=" files", delay=1, leave=False, disable=None):
        take(file, found, drop=options.bad_records == "drop")
    rows, notes = _with_images(found, root, options)
    if other := [file.name for file in present if file not in files]:
        notes.append(f"{len(other)} JSON files left out, they hold no annotators' answers; the first is {other[0]}")
    if found.bad:
        notes.append(f"{len(found.bad)} records left out; the first: {found.bad[0]}")
    table = _votes_table(rows, options)
    table, said = apply_votes(table, name, options)
    table["agreement"] = _agreement(table, options)
    manifest = finish(table.drop(columns="answers"), root, name, options, (*notes, *said))
    manifest = _divided(manifest)
    names = dict(zip(rows["name"], rows["path"], strict=True))
    boxes = pd.DataFrame(found.boxes)
    boxes.insert(0, "path", boxes.pop("name").map(names))
    boxes = boxes[boxes["path"].isin(manifest.table["path"])].reset_index(drop=True)
    return within_images(manifest, boxes, drop=options.bad_records == "drop")


def _with_images(found: Records, root: Path, options: ReadOptions) -> tuple[pd.DataFrame, list[str]]:
    """Return the records whose image is there, with its path and its person."""
    places: dict[str, list[str]] = {}
    for file in image_files(root):
        places.setdefault(plain_name(file), []).append(file)
    rows: list[dict] = []
    doubled = 0
    for record in found.rows:
        here = places.get(record["name"], [])
        if len(here) > 1:
            msg = f"{root.name}: several images are called {record['name']!r}: {', '.join(here[:3])}; keep one of them"
            if options.bad_records == "error":
                raise InputError(msg)
            found.bad.append(msg)
            doubled += 1
        elif here:
            rows.append({"path": here[0], **record})
    if not rows:
        packed = next((f for f in sorted(root.rglob("*")) if is_archive(f)), None)
        hint = f"unpack {packed.name} and its like" if packed else "give the folder that holds both JSON and images"
        msg = f"none of the {len(found.rows)} images that the JSON files name is below {root}; {hint}"
        raise InputError(msg)
    notes = []
    if gone := len(found.rows) - len(rows) - doubled:
        notes.append(f"{gone} of {len(found.rows)} records left out: their images are not here")
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
    """Return the part that the publisher put an image into, by its folders (`1.Training`), or nothing."""
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
    """Give the manifest a split of 8:1:1 over whole people; where people are too few, leave it out and say so."""
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
    note = f"split of 8:1:1 by person; the file names of {known} of {len(manifest)} images tell the person"
    table = manifest.table.assign(split=np.array(("train", "validation", "test"), dtype=object)[part])
    return replace(manifest, table=table, notes=(*manifest.notes, note))
