"""Reader of FER2013 and similar CSV files of pixels (`emotion,pixels,Usage`), with FER+ votes from a file beside it.

The forms of FER2013: `fer2013.csv`; the competition's `train.csv` with a `test.csv` of pixels without labels;
`icml_face_data.csv`, whose column names begin with a space; class folders below train and test, named by an emotion or
by its number. The extended CK+ set (`ckextended.csv`) has the same columns, and emotion 7 is contempt.
"""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.paths import build_once
from datamodules.labels import VOCABULARIES, canonical_split
from datamodules.manifest import VOTES, Manifest, read_table
from datamodules.readers import folder, table
from datamodules.readers.archives import unpacked_folder
from datamodules.readers.base import ReadOptions, finish
from datamodules.readers.names import first_images, unwrapped
from datamodules.readers.table import apply_votes

PIXELS_NAMES = ("fer2013.csv", "icml_face_data.csv")  # with all parts; preferred where a folder holds others, too
FERPLUS_NAME = "fer2013new.csv"
MEANINGS = {str(number): name for number, name in enumerate((*VOCABULARIES["fer2013"], "contempt"))}
_MOST_TABLES = 20  # in a folder; more are no published set, and each is opened for its header


def _columns(path: Path) -> set[str]:
    """Return the names of the columns in lower case; none if it is no CSV that can be read."""
    if path.suffix.lower() != ".csv":
        return set()
    try:
        return {str(c).strip().lower() for c in read_table(path, columns_only=True).columns}
    except InputError:
        return set()


def pixel_tables(path: Path) -> list[Path]:
    """Return the CSV files of pixels: the file itself, or those of a folder; with and without labels."""
    if not path.is_dir():
        return [path] if "pixels" in _columns(path) else []
    for name in PIXELS_NAMES:
        if (path / name).is_file():
            return [path / name]
    with os.scandir(path) as entries:
        tables = sorted(
            Path(entry.path) for entry in entries if entry.name.lower().endswith(".csv") and entry.is_file()
        )
    return [file for file in tables[:_MOST_TABLES] if "pixels" in _columns(file)]


def looks_like(path: Path) -> bool:
    """Return whether this is a CSV of pixels, or a folder with one."""
    return bool(pixel_tables(path))


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read CSV files of pixels, or FER2013's other forms: a table of image files, or ``train/<class>/*.png``.

    The pixels are written once as PNG files under the cache, since everything else works on files. A table without
    labels beside a labelled one is left out and noted.

    Raises:
        InputError: A broken row, by its line number; only tables without labels; votes wanted without FER+'s file
            beside the CSV.
    """
    found = pixel_tables(path)
    if not found:
        if table.find_table(path) is not None:
            return table.read(path, replace(options, aliases=MEANINGS | (options.aliases or {})), name)
        return folder.read(path, options, name, MEANINGS)
    labelled = [file for file in found if "emotion" in _columns(file)]
    if not labelled:
        msg = (
            f"{', '.join(file.name for file in found)} has pixels but no column emotion, so it cannot be trained on; "
            "give the table with labels, such as train.csv, or classify it with `emotion predict RUN "
            f"{shlex.quote(str(found[0]))}`"
        )
        raise InputError(msg)
    parts = [canonical_split(file.stem) for file in labelled]
    if len(labelled) > 1 and (None in parts or len(set(parts)) < len(parts)):
        listed = ", ".join(file.name for file in labelled)
        first = shlex.quote(str(labelled[0]))
        msg = f"{path} holds several tables of pixels ({listed}); name the one to read, such as --data {first}"
        raise InputError(msg)
    notes = [
        f"{file.name} left out: it has no labels; `emotion predict RUN {shlex.quote(str(file))}` classifies its images"
        for file in found
        if file not in labelled
    ]
    tables = []
    for file, part in zip(labelled, parts, strict=True):
        place = _write_images(file)
        rows = pd.read_parquet(place / "rows.parquet")
        if options.votes != "ignore":
            rows = _add_ferplus(rows, file.parent / FERPLUS_NAME)
        if len(labelled) > 1:
            rows = rows.assign(path=place.name + "/" + rows["path"], split=part)
        tables.append(rows)
    rows = pd.concat(tables, ignore_index=True)
    root = place if len(labelled) == 1 else place.parent
    unnamed = {number: meaning for number, meaning in MEANINGS.items() if number not in (options.aliases or {})}
    if contempt := int((rows["label"] == "7").sum() if "7" in unnamed else 0):
        notes.append(f"emotion 7 is read as contempt, as in the extended CK+ set: {contempt} images")
    rows["label"] = rows["label"].map(lambda number: unnamed.get(number, number))
    rows, more = apply_votes(rows, name, options)
    return finish(rows, root, name, options, (*notes, *more))


def pixel_images(path: Path) -> list[Path]:
    """Return the images of a CSV of pixels, in the order of its rows; [] if it is none. Labels are not needed.

    Of a folder without images, those of its tables without labels; of all its tables if each has labels. Folders that
    only wrap are looked through.

    Raises:
        InputError: A broken row.
    """
    if path.is_dir() and next(first_images(path), None) is not None:
        return []
    found = next((tables for place in unwrapped(path) if (tables := pixel_tables(place))), [])
    unlabelled = [file for file in found if "emotion" not in _columns(file)]
    places = [_write_images(file) for file in unlabelled or found]
    return [place / row for place in places for row in pd.read_parquet(place / "rows.parquet")["path"]]


def _write_images(source: Path) -> Path:
    made = unpacked_folder(source)
    with build_once(made.with_name(f"{made.name}-pixels")) as (place, draft):
        if draft is not None:
            (draft / "images").mkdir()
            _convert(source, draft).to_parquet(draft / "rows.parquet")
    return place


def _convert(source: Path, draft: Path) -> pd.DataFrame:
    """Write one PNG per row and return their table: path and, if given, label (as written) and split."""
    rows: list[dict[str, str]] = []
    try:
        with (
            pd.read_csv(source, dtype=str, keep_default_na=False, chunksize=1000, encoding="utf-8-sig") as chunks,
            tqdm(desc=f"images of {source.name}", unit=" images", delay=1, leave=False, disable=None) as bar,
        ):
            for chunk in chunks:
                _write_chunk(chunk.rename(columns=lambda c: str(c).strip().lower()), rows, draft, source)
                bar.update(len(chunk))
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"cannot read {source}: {error}"
        raise InputError(msg) from error
    if not rows:
        msg = f"{source} has a header and no rows"
        raise InputError(msg)
    return pd.DataFrame(rows)


def _write_chunk(chunk: pd.DataFrame, rows: list[dict[str, str]], draft: Path, source: Path) -> None:
    given = [name for name in ("emotion", "usage") if name in chunk]
    for pixels, *values in zip(chunk["pixels"], *(chunk[name].str.strip() for name in given), strict=True):
        row = len(rows)
        cells = dict(zip(given, values, strict=True))
        if cells.get("emotion") == "":
            msg = f"{source.name}: row {row}: emotion must be a number from 0 to 6 or a name, got ''"
            raise InputError(msg)
        file = f"images/{row:07d}.png"
        Image.fromarray(_square(pixels, row, source)).save(draft / file)
        rows.append({"path": file})
        if "emotion" in cells:
            rows[-1]["label"] = cells["emotion"]
        if "usage" in cells:
            rows[-1]["split"] = cells["usage"]


def _square(pixels: str, row: int, source: Path) -> np.ndarray:
    """Return one grey image, uint8 (side, side), from numbers with spaces between."""
    try:
        values = np.array(pixels.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        values = np.array([], dtype=np.int64)
    side = int(np.sqrt(len(values)))
    if side < 2 or side * side != len(values) or values.min() < 0 or values.max() > 255:
        msg = (
            f"{source.name}: row {row}: pixels must be a square of numbers from 0 to 255 (48 x 48 = 2304 of them), "
            f"got {len(pixels.split())} values beginning {pixels[:30]!r}"
        )
        raise InputError(msg)
    return values.astype(np.uint8).reshape(side, side)


def _add_ferplus(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add FER+'s votes, published as a table with the rows of FER2013 in the same order."""
    if not path.is_file():
        msg = f"votes need FER+'s table {path.name} beside the CSV of pixels, in {path.parent}"
        raise InputError(msg)
    votes = read_table(path)
    if len(votes) != len(table):
        msg = f"{path.name} has {len(votes)} rows and FER2013 {len(table)}; both must list the same images in one order"
        raise InputError(msg)
    for column in votes.columns:
        if str(column).strip().lower() not in {"usage", "image name"}:
            table[VOTES + str(column).strip()] = votes[column].to_numpy()
    return table
