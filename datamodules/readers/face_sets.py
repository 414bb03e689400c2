"""Readers of published sets of faces with lists of their own: RAF-DB, AffectNet, FER+, ExpW and CK+.

Each is recognised by the name of its list or of its folders, at the given folder or a few levels below, since archives
wrap them differently. Listed images that do not exist are left out and counted; it is an error if none exists.

RAF-DB (Li, Deng and Du 2017): ``EmoLabel/list_patition_label.txt`` (spelled so) and ``Image/aligned``. AffectNet
(Mollahosseini, Hasani and Mahoor 2017): since 2021 one ``.npy`` file per value; before, two CSV lists. FER+ (Barsoum
and others 2016): the folders that its script writes. ExpW (Zhang and others 2018): ``label.lst``, one row per face. CK+
(Lucey and others 2010): sequences of frames, and one label for the last frame of some of them.
"""

import ast
import hashlib
import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.image_files import IMAGE_SUFFIXES
from datamodules.files.paths import SETTLED, cache_root, is_folder, replacing, state_of
from datamodules.labels import VOCABULARIES, canonical_split
from datamodules.manifest import VOTES, Manifest, parse_numbers, read_table, refuse
from datamodules.readers import folder
from datamodules.readers.base import ReadOptions, finish
from datamodules.readers.names import RAFDB_NAME, first_images
from datamodules.readers.table import apply_votes


def _folders(path: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and those below it, level by level, at most 200; hidden ones are left out."""
    level, seen = [path] if path.is_dir() else [], 0
    for _ in range(depth + 1):
        below: list[Path] = []
        for place in level:
            yield place
            seen += 1
            if seen >= 200:
                return
            try:
                with os.scandir(place) as entries:
                    below += [
                        Path(entry.path)
                        for entry in islice(entries, 2000)  # folders of images hold no lists
                        if not entry.name.startswith((".", "__MACOSX")) and is_folder(entry)
                    ]
            except OSError:
                continue
        level = sorted(below)


def _find(path: Path, *names: str, depth: int = 2) -> Path | None:
    """Return the first file or folder of one of these names at or below a folder."""
    return next((place / name for place in _folders(path, depth) for name in names if (place / name).exists()), None)


def _below(place: Path, root: Path) -> str:
    """Return what stands before the names of files in a folder, relative to the root: ``images/``, or "" for it."""
    below = place.relative_to(root).as_posix()
    return "" if below == "." else f"{below}/"


def _present(rows: pd.DataFrame, root: Path, list_name: str, hint: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows whose file exists, and a note of the others; folders are listed once each.

    Raises:
        InputError: No row has a file.
    """
    listed: dict[str, set[str]] = {}
    exists = np.zeros(len(rows), dtype=bool)
    for row, path in enumerate(rows["path"]):
        place, _, file = path.rpartition("/")
        if place not in listed:
            try:
                listed[place] = set(os.listdir(root / place))
            except OSError:
                listed[place] = set()
        exists[row] = file in listed[place]
    if exists.all():
        return rows, ()
    first = rows["path"].iloc[int(np.flatnonzero(~exists)[0])]
    if not exists.any():
        msg = f"none of the {len(rows)} images of {list_name} exists, the first is {root / first}; {hint}"
        raise InputError(msg)
    note = f"{int((~exists).sum())} rows of {list_name} left out: their images do not exist, the first is {first!r}"
    return rows[exists].reset_index(drop=True), (note,)


# RAF-DB

_RAFDB_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_RAFDB_GENDER = {"0": "male", "1": "female", "2": ""}
_RAFDB_RACE = {"0": "Caucasian", "1": "African-American", "2": "Asian"}
_RAFDB_AGE = {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"}


def rafdb_looks_like(path: Path) -> bool:
    """Return whether this is RAF-DB with its list, or class folders 1 to 7 with RAF-DB's file names."""
    return path.is_dir() and (_rafdb_list(path) is not None or _rafdb_folders(path))


def _rafdb_list(path: Path) -> Path | None:
    return next((file for name in _RAFDB_LISTS if (file := _find(path, f"EmoLabel/{name}", name))), None)


def _rafdb_folders(path: Path) -> bool:
    """Return whether the first images are called as RAF-DB's and lie in folders called 1 to 7."""
    first = [file for file, _ in zip(first_images(path), range(10), strict=False)]
    return bool(first) and all(
        RAFDB_NAME.match(file.name) and file.parent.name in folder.RAFDB_NUMBERS for file in first
    )


def read_rafdb(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read RAF-DB: label, given split, and gender, race and age where the folder of annotations is there.

    Raises:
        InputError: A line of the list that is not ``train_00001.jpg 5``, or no images beside the list.
    """
    source = _rafdb_list(path) if path.is_dir() else None
    if source is None:
        return folder.read(path, options, name, folder.RAFDB_NUMBERS)
    text = source.read_text(encoding="utf-8-sig", errors="replace")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.fullmatch(r"((train|test)\w*)(?:\.\w+)?[\s,]+([1-7])", line.strip())
        if match:
            rows.append((match[1], match[3], match[2]))
        elif line.strip():
            msg = f"{source.name}: line {number}: must be an image and a number from 1 to 7, got {line.strip()[:60]!r}"
            raise InputError(msg)
    table = pd.DataFrame(rows, columns=["file", "label", "split"])
    home = source.parent.parent if source.parent.name == "EmoLabel" else source.parent
    if not home.is_relative_to(path):
        above = shlex.quote(str(home))
        msg = f"{path} contains the list of RAF-DB but not its images; give the folder above, --data {above}"
        raise InputError(msg)
    images, ending = _rafdb_images(home, path, table["file"].iloc[0] if len(table) else "")
    table["path"] = _below(images, path) + table["file"] + ending
    hint = f"unpack aligned.zip there, or give the folder that holds both {source.name} and the images"
    table, notes = _present(table, path, source.name, hint)
    table = _rafdb_people(table, home / "Annotation" / "manual")
    aliases = options.aliases or {}
    table["label"] = table["label"].map(lambda label: label if label in aliases else folder.RAFDB_NUMBERS[label])
    return finish(table.drop(columns="file"), path, name, options, notes)


def _rafdb_images(home: Path, path: Path, first: str) -> tuple[Path, str]:
    """Return the folder of the images and what follows an image's name there: ``_aligned.jpg`` or ``.jpg``."""
    places = [home / "Image" / "aligned", home / "aligned", home / "Image" / "original", home / "original"]
    places += [place for base in (home, path) for place in _folders(base, 2)]
    for place in places:
        for ending in ("_aligned.jpg", ".jpg", "_aligned.png", ".png"):
            if first and (place / f"{first}{ending}").is_file():
                return place, ending
    return home / "Image" / "aligned", "_aligned.jpg"


def _rafdb_people(table: pd.DataFrame, annotations: Path) -> pd.DataFrame:
    """Add gender, race and age, lines 6 to 8 of ``train_00001_manu_attri.txt``; unchanged without such files."""
    if not annotations.is_dir():
        return table
    rows = []
    for file in tqdm(table["file"], "annotations", unit=" files", delay=2, leave=False, disable=None):
        try:
            lines = (annotations / f"{file}_manu_attri.txt").read_text(encoding="ascii", errors="replace").split("\n")
        except OSError:
            lines = []
        gender, race, age = ([line.strip() for line in lines[5:8]] + ["", "", ""])[:3]
        rows.append((_RAFDB_GENDER.get(gender, ""), _RAFDB_RACE.get(race, ""), _RAFDB_AGE.get(age, "")))
    return pd.concat([table, pd.DataFrame(rows, columns=["gender", "race", "age"])], axis=1)


# AffectNet

_AFFECTNET = {str(number): name for number, name in enumerate(VOCABULARIES["affectnet"])}
_NO_EMOTION = {"8": "none", "9": "uncertain", "10": "no face"}
_AFFECTNET_LISTS = ("training.csv", "validation.csv", "automatically_annotated.csv")


def affectnet_looks_like(path: Path) -> bool:
    """Return whether this is a folder with images and annotations as .npy files, or one of AffectNet's older lists."""
    return bool(_affectnet_parts(path)) or bool(_affectnet_lists(path))


def _affectnet_parts(path: Path) -> list[Path]:
    """Return the folders that hold ``images`` and ``annotations`` with files ``<number>_exp.npy``."""
    return [place for place in _folders(path, 2) if (place / "images").is_dir() and _has_npy(place / "annotations")]


def _has_npy(annotations: Path) -> bool:
    try:
        with os.scandir(annotations) as entries:
            return any(entry.name.endswith("_exp.npy") for entry, _ in zip(entries, range(200), strict=False))
    except OSError:
        return False


def _affectnet_lists(path: Path) -> list[Path]:
    if path.is_file():
        files = [path] if path.suffix.lower() == ".csv" else []
    else:
        files = [place / name for place in _folders(path, 2) for name in _AFFECTNET_LISTS if (place / name).is_file()]
    columns = {"subdirectory_filepath", "expression"}
    try:
        return [f for f in files if columns <= {str(c).strip().lower() for c in read_table(f, columns_only=True)}]
    except InputError:
        return []


def read_affectnet(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read AffectNet: label, given split, valence and arousal; of the older lists also the boxes of the faces.

    Annotations that are no emotion (none, uncertain, no face) are left out and counted.

    Raises:
        InputError: An annotation that is not a number from 0 to 10, or no image of a list.
    """
    if parts := _affectnet_parts(path):
        return _read_affectnet_npy(path, parts, options, name)
    if lists := _affectnet_lists(path):
        return _read_affectnet_lists(path, lists, options, name)
    return folder.read(path, options, name, _AFFECTNET)


def _read_affectnet_npy(root: Path, parts: list[Path], options: ReadOptions, name: str) -> Manifest:
    tables, notes = [], []
    for part in parts:
        names = (os.path.splitext(file) for file in sorted(os.listdir(part / "images")))
        images = {stem: stem + ending for stem, ending in names if ending.lower() in IMAGE_SUFFIXES and stem[0] != "."}
        states, changed, now = dict[str, str](), 0, time.time()
        with os.scandir(part / "annotations") as files:
            for entry in files:
                if entry.name.endswith(("_exp.npy", "_val.npy", "_aro.npy")):
                    status = entry.stat()
                    states[entry.name] = state_of(status)
                    changed = max(changed, status.st_ctime_ns, status.st_mtime_ns)
        settled = changed < (now - SETTLED) * 1e9
        labelled = sorted(file[: -len("_exp.npy")] for file in states if file.endswith("_exp.npy"))
        both = [stem for stem in labelled if stem in images]
        for count, what, why in (
            (len(labelled) - len(both), "annotations", "they have no image"),
            (len(images) - len(both), "images", "they have no annotation (_exp.npy)"),
        ):
            if count:
                notes.append(f"{count} {what} of {part.name} left out: {why}")
        table = _annotations(part / "annotations", both, states, keep=settled)
        table["path"] = [images[stem] for stem in both]
        table["path"] = _below(part / "images", root) + table["path"]
        if len(parts) > 1 or part != root:  # images beside the parts are in none
            table["split"] = "" if part == root else canonical_split(part.name) or part.name
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if "split" in table and (table["split"].map(canonical_split).isna().any() or len(parts) < 2):
        table = table.drop(columns="split")
    table, more = _affectnet_emotions(table, options)
    return finish(table, root, name, options, (*notes, *more))


def _annotations(place: Path, stems: Sequence[str], states: dict[str, str], *, keep: bool) -> pd.DataFrame:
    """Return label, valence and arousal of images, read from one small file each and, with `keep`, only once."""
    digest = hashlib.sha256(repr((str(place), list(stems))).encode())
    for file in sorted(states):
        digest.update(f"{file} {states[file]}".encode("utf-8", "surrogateescape"))
    stored = cache_root() / "hashes" / f"annotations-{digest.hexdigest()[:24]}.parquet"
    try:
        return pd.read_parquet(stored)
    except (OSError, ValueError):
        pass
    columns: dict[str, list[str]] = {}
    for column, ending in (("label", "_exp"), ("valence", "_val"), ("arousal", "_aro")):
        if ending != "_exp" and not any(f"{stem}{ending}.npy" in states for stem in stems[:100]):
            continue
        bar = tqdm(stems, f"reading {column}", unit=" files", delay=2, leave=False, disable=None)
        columns[column] = [
            _npy_value(os.path.join(place, f"{stem}{ending}.npy")) if f"{stem}{ending}.npy" in states else ""
            for stem in bar
        ]
    table = pd.DataFrame(columns, dtype=object)
    if not keep:  # a file that changed a moment ago may change again without a trace, see `file_hashes`
        return table
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with replacing(stored) as draft:
            table.to_parquet(draft)
    except OSError:
        pass  # the stored table only saves time
    return table


_MOST_BYTES = 2000  # of an annotation, which has 130 to 150


def _npy_value(path: str) -> str:
    """Return the one value of a small .npy file as text; the format is read here, since np.load takes 10 times as long.

    Raises:
        InputError: Not one text or number; objects (pickles) are never loaded.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES)
        begin = 12 if data[6:7] >= b"\x02" else 10
        end = begin + int.from_bytes(data[8:begin], "little")
        if data[:6] != b"\x93NUMPY" or len(data) < end:
            raise ValueError
        value = np.frombuffer(data, _npy_type(data[begin:end]), 1, end)[0]
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, OSError) as error:
        msg = f"{path}: must hold one text or number, saved by numpy; copy it again, or remove it"
        raise InputError(msg) from error
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.strip()


@lru_cache
def _npy_type(header: bytes) -> np.dtype:
    """Return the type in the header of a .npy file that has exactly one value."""
    fields = ast.literal_eval(header.decode("latin1"))
    dtype = np.dtype(fields["descr"])
    if dtype.kind not in "USfiu" or int(np.prod(fields["shape"])) != 1:
        raise ValueError
    return dtype


def _affectnet_emotions(table: pd.DataFrame, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table with names for AffectNet's numbers, without those that are no emotion, and notes."""
    numbers, bad = parse_numbers(table["label"])
    bad |= ~numbers.between(0, 10) | (numbers % 1 != 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        msg = f"expression must be a whole number from 0 to 10, got {table['label'].iloc[row]!r} for "
        msg += f"{table['path'].iloc[row]!r} ({int(bad.sum())} such rows); correct it"
        raise InputError(msg)
    text = numbers.astype(np.int64).astype(str)
    none = text.isin(list(_NO_EMOTION))
    counts = ", ".join(f"{_NO_EMOTION[key]} {count}" for key, count in text[none].value_counts().items())
    notes = (f"{int(none.sum())} images left out: their annotation is not an emotion ({counts})",) if none.any() else ()
    aliases = options.aliases or {}
    named = text.map(lambda number: number if number in aliases else _AFFECTNET.get(number, number))
    return table.assign(label=named)[~none].reset_index(drop=True), notes


def _read_affectnet_lists(path: Path, lists: list[Path], options: ReadOptions, name: str) -> Manifest:
    root = path if path.is_dir() else path.parent
    tables = []
    for file in lists:
        table = read_table(file).rename(columns=lambda c: str(c).strip().lower())
        table = table.rename(columns={"subdirectory_filepath": "path", "expression": "label"})
        tables.append(table.assign(split=canonical_split(file.stem) or "train"))
    table = pd.concat(tables, ignore_index=True)
    table["path"] = table["path"].str.replace("\\", "/", regex=False)
    below = _affectnet_images(root, lists[0].parent, table["path"].head(20).tolist())
    table["path"] = below + table["path"]
    repeated = table["path"].duplicated()
    notes = (f"{int(repeated.sum())} rows left out: their image is already listed",) if repeated.any() else ()
    table = table[~repeated].reset_index(drop=True)
    table, more = _affectnet_emotions(table, options)
    hint = "give the folder that holds both the lists and Manually_Annotated_Images"
    table, missing = _present(table, root, " and ".join(sorted({file.name for file in lists})), hint)
    boxes = None
    sides = ["face_x", "face_y", "face_width", "face_height"]
    if set(sides) <= set(table):
        x, y, width, height = (parse_numbers(table[side])[0] for side in sides)
        boxes = pd.DataFrame({"path": table["path"], "x0": x, "y0": y, "x1": x + width, "y1": y + height})
        boxes = boxes[(width > 0) & (height > 0)].reset_index(drop=True)
    if len(lists) < 2:
        table = table.drop(columns="split")
    columns = [column for column in ("path", "label", "split", "valence", "arousal") if column in table]
    manifest = finish(table[columns], root, name, options, (*notes, *more, *missing))
    return manifest.with_boxes(boxes if boxes is not None and len(boxes) else None)


def _affectnet_images(root: Path, home: Path, first: Sequence[str]) -> str:
    """Return the folder, relative to the root and with its slash, in which the first images of a list are."""
    places = [place for base in {root, home} for place in _folders(base, 2)]
    best = max(places, key=lambda place: sum((place / file).is_file() for file in first), default=root)
    if not any((best / file).is_file() for file in first):
        best = next((place for place in places if place.name.lower() == "manually_annotated_images"), root)
    return _below(best, root)


# FER+

_FERPLUS = {"FER2013Train": "train", "FER2013Valid": "validation", "FER2013Test": "test"}
_ANSWERS = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()


def ferplus_looks_like(path: Path) -> bool:
    """Return whether the folders FER2013Train, FER2013Valid and FER2013Test of FER+'s script are here, with labels."""
    return bool(_ferplus_folders(path))


def _ferplus_folders(path: Path) -> list[Path]:
    return [place for place in _folders(path, 3) if place.name in _FERPLUS and (place / "label.csv").is_file()]


def read_ferplus(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read FER+: the label is what most of ten annotators answered, also without ``votes``; the split is given.

    Raises:
        InputError: A row without image, box and ten votes, or a list without its images.
    """
    folders = _ferplus_folders(path)
    if not folders:
        msg = f"no images of FER+ in {path}: no folder FER2013Train, FER2013Valid or FER2013Test contains label.csv"
        raise InputError(msg)
    tables = []
    for place in folders:
        source = place / "label.csv"
        try:
            table = pd.read_csv(source, header=None, dtype=str, na_filter=False, encoding="utf-8-sig")
        except (ValueError, OSError) as error:
            msg = f"cannot read {source}: {error}; run FER+'s generate_training_data.py again"
            raise InputError(msg) from error
        if table.shape[1] != 2 + len(_ANSWERS):
            msg = f"{source}: must have 12 columns without a header (image, box, ten votes), got {table.shape[1]}"
            raise InputError(msg)
        table.columns = pd.Index(["file", "box", *(VOTES + answer for answer in _ANSWERS)])
        table = table[table["file"].str.contains(".", regex=False)]  # not a header that somebody added
        table["path"] = _below(place, path) + table["file"]
        tables.append(table.assign(label="", split=_FERPLUS[place.name]).drop(columns=["file", "box"]))
    table = pd.concat(tables, ignore_index=True)
    if len(folders) < 2:
        table = table.drop(columns="split")
    hint = (
        "FER+ publishes only the votes: write the images with its generate_training_data.py, or give fer2013.csv with "
        "fer2013new.csv beside it and --votes majority"
    )
    table, missing = _present(table, path, "label.csv", hint)
    voting = options if options.votes != "ignore" else replace(options, votes="majority")
    table, notes = apply_votes(table, name, voting)
    if options.votes == "ignore":
        notes = (
            "labels are the majority of ten annotators' votes; --votes soft trains on the shares of the votes",
            *notes,
        )
    return finish(table, path, name, options, (*missing, *notes))


# ExpW

_EXPW = {str(number): name for number, name in enumerate(VOCABULARIES["fer2013"])}  # the same order as FER2013
_EXPW_COLUMNS = ("image", "face", "y0", "x0", "x1", "y1", "confidence", "label")


def expw_looks_like(path: Path) -> bool:
    """Return whether the list label.lst is here and its first line has ExpW's eight columns."""
    source = _expw_list(path)
    if source is None:
        return False
    with open(source, encoding="utf-8", errors="replace") as file:
        return len(file.readline().split()) == len(_EXPW_COLUMNS)


def _expw_list(path: Path) -> Path | None:
    if path.is_file():
        return path if path.name == "label.lst" else None
    return _find(path, "label.lst")


def read_expw(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read ExpW: one row per face, with its box; the photograph is the subject, so its faces share a part.

    Raises:
        InputError: A line that is not eight values, a box without area, a label that is not 0 to 6, or no image.
    """
    source = _expw_list(path)
    if source is None:
        msg = f"no images of ExpW in {path}: give the folder that holds label.lst and origin/"
        raise InputError(msg)
    root = path if path.is_dir() else path.parent
    table = _expw_rows(source)
    notes: list[str] = []
    numbers = table[["x0", "y0", "x1", "y1"]].apply(pd.to_numeric, errors="coerce")
    bad = ~((numbers["x1"] > numbers["x0"]) & (numbers["y1"] > numbers["y0"])) | ~table["label"].isin(list(_EXPW))
    if bad.any():
        row = table.iloc[int(np.flatnonzero(bad)[0])]
        rule = "needs left < right, top < bottom and a label from 0 to 6"
        count, problem = int(bad.sum()), f"a face {rule}, the first is {' '.join(row)!r}"
        if options.bad_records != "drop":
            msg = f"{count} rows of {source.name}: {problem}; correct them, or leave them out with --bad-records drop"
            raise InputError(msg)
        notes.append(f"{count} rows of {source.name} left out: {problem}")
        table, numbers = table[~bad].reset_index(drop=True), numbers[~bad].reset_index(drop=True)
    below = _expw_images(root, source.parent, table["image"].head(20).tolist())
    table["path"] = below + table["image"]
    leads_out = ("/" + table["path"] + "/").str.contains("/../", regex=False) | table["path"].str.startswith("/")
    refuse(leads_out, table, "path", source.name, f"may not lead out of {root}")
    rows = pd.concat([table[["path", "label", "confidence"]], numbers], axis=1)
    rows, missing = _present(rows, root, source.name, "unpack the images (origin/) beside label.lst")
    aliases = options.aliases or {}
    rows["label"] = rows["label"].map(lambda label: label if label in aliases else _EXPW[label])
    rows["subject"] = rows["path"]  # faces of one photograph stay in one part
    return finish(rows, root, name, options, (*notes, *missing))


def _expw_rows(source: Path) -> pd.DataFrame:
    rows = []
    with open(source, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            cells = line.split()
            if len(cells) == len(_EXPW_COLUMNS):
                rows.append(cells)
            elif cells:
                msg = f"{source.name}: line {number}: must have {len(_EXPW_COLUMNS)} values, got {line.strip()[:80]!r}"
                raise InputError(msg)
    if not rows:
        msg = f"{source} has no rows"
        raise InputError(msg)
    return pd.DataFrame(rows, columns=list(_EXPW_COLUMNS))


def _expw_images(root: Path, home: Path, first: Sequence[str]) -> str:
    places = [place for base in dict.fromkeys((home, root)) for place in _folders(base, 2)]
    for place in places:
        if any((place / file).is_file() for file in first):
            return _below(place, root)
    return "origin/"


# CK+

_CKPLUS = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")  # by number, from 0


def ckplus_looks_like(path: Path) -> bool:
    """Return whether the tree of CK+'s sequences is here, or its tree of labels."""
    images, labels = _ckplus_trees(path)
    return images is not None and labels is not None


def _ckplus_trees(path: Path) -> tuple[Path | None, Path | None]:
    """Return the folders of the images and of the labels, which are two archives of CK+; None where one is missing."""
    images = path if path.name == "cohn-kanade-images" else _find(path, "cohn-kanade-images")
    labels = _find(path, "Emotion", "emotion")
    if labels is not None and not any(re.fullmatch(r"S\d{3}", place.name) for place in _folders(labels, 1)):
        nested = _find(labels, "Emotion", "emotion")
        labels = nested if nested is not None and nested != labels else None
    return images, labels


def read_ckplus(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read CK+: the last frame of each labelled sequence, with its person (S005) as the subject.

    Sequences without a label are counted. The first frames, which are neutral, are not read, since the set does not
    say where the expression begins.

    Raises:
        InputError: Images or labels are not there, or a label that is not a number from 0 to 7.
    """
    images, labels = _ckplus_trees(path)
    if images is None or labels is None:
        missing, archive = (
            ("cohn-kanade-images", "extended-cohn-kanade-images.zip")
            if images is None
            else ("Emotion", "Emotion_labels.zip")
        )
        above = path.parent / missing
        hint = (
            f"give the folder above, --data {shlex.quote(str(path.parent))}" if above.is_dir() else f"unpack {archive}"
        )
        msg = (
            f"no images of CK+: the folders cohn-kanade-images and Emotion are needed, {path} has no {missing}; {hint}"
        )
        raise InputError(msg)
    rows, labelled, incomplete = [], set[str](), []
    files = sorted(labels.glob("S*/*/*_emotion.txt"))
    for file in tqdm(files, "reading labels", unit=" files", delay=2, leave=False, disable=None):
        text = file.read_text(encoding="ascii", errors="replace").strip()
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if number not in range(len(_CKPLUS)):
            msg = f"{file}: must be a number from 0 to 7, got {text[:40]!r}; correct it, or remove the file"
            raise InputError(msg)
        sequence = f"{file.parent.parent.name}/{file.parent.name}"
        frame = images / sequence / f"{file.name.removesuffix('_emotion.txt')}.png"
        if not frame.is_file():  # a copy in another format, or cut short
            frames = sorted(first_images(images / sequence, 0))
            if not frames:
                incomplete.append(sequence)
                continue
            frame = frames[-1]
        labelled.add(sequence)
        label = str(int(number)) if str(int(number)) in (options.aliases or {}) else _CKPLUS[int(number)]
        rows.append({"path": frame.relative_to(path).as_posix(), "label": label, "subject": file.parent.parent.name})
    if not rows:
        msg = f"no label of CK+ in {labels} belongs to a frame in {images}; unpack both archives completely"
        raise InputError(msg)
    every = {f"{place.parent.name}/{place.name}" for place in images.glob("S*/*") if place.is_dir()}
    notes = ["the last frame of each labelled sequence is read"]
    if rest := len(every - labelled - set(incomplete)):
        notes.append(f"{rest} sequences left out: they have no label")
    if incomplete:
        notes.append(f"{len(incomplete)} labels left out: their frames do not exist, the first is {incomplete[0]}")
    return finish(pd.DataFrame(rows), path, name, options, tuple(notes))
