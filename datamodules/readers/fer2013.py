"""Reader of FER2013 as published, a CSV of pixels (`emotion,pixels,Usage`), with FER+ votes from the file beside it."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.labels import VOCABULARIES
from datamodules.manifest import VOTES, Manifest, read_table
from datamodules.paths import build_once
from datamodules.readers import folder, table
from datamodules.readers.archives import unpacked_folder
from datamodules.readers.base import ReadOptions, finish
from datamodules.readers.table import apply_votes

PIXELS_NAMES = ("fer2013.csv", "icml_face_data.csv")
FERPLUS_NAME = "fer2013new.csv"


def _pixels_table(path: Path) -> Path | None:
    """Return the CSV of pixels: the file itself, or the one in a folder."""
    if path.is_dir():
        return next((path / n for n in PIXELS_NAMES if (path / n).is_file()), None)
    if path.suffix.lower() != ".csv":
        return None
    columns = {str(c).strip().lower() for c in read_table(path, columns_only=True).columns}
    return path if {"emotion", "pixels"} <= columns else None


def looks_like(path: Path) -> bool:
    """Return whether this is the published CSV of pixels, or a folder with it."""
    return _pixels_table(path) is not None


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read the CSV of pixels, or FER2013's other forms: a table of image files, or ``train/<class>/*.png``.

    The pixels are written once as PNG files under the cache, since everything else works on files.

    Raises:
        InputError: a broken row, by its line number; votes wanted without FER+'s file beside the CSV.
    """
    source = _pixels_table(path)
    if source is None:
        other = table if table.find_table(path) is not None else folder
        return other.read(path, options, name)
    place = _write_images(source)
    rows = pd.read_parquet(place / "rows.parquet")
    if options.votes != "ignore":
        rows = _add_ferplus(rows, source.parent / FERPLUS_NAME)
    rows, notes = apply_votes(rows, name, options)
    return finish(rows, place, name, options, notes)


def _write_images(source: Path) -> Path:
    with build_once(unpacked_folder(source)) as (place, draft):
        if draft is not None:
            (draft / "images").mkdir()
            _convert(source, draft).to_parquet(draft / "rows.parquet")
    return place


def _convert(source: Path, draft: Path) -> pd.DataFrame:
    """Write one PNG per row and return their table: path, label and, if given, split."""
    rows: list[dict[str, str]] = []
    try:
        with (
            pd.read_csv(source, dtype=str, keep_default_na=False, chunksize=1000) as chunks,
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
    names = VOCABULARIES["fer2013"]
    usage = chunk["usage"] if "usage" in chunk else [None] * len(chunk)
    for emotion, pixels, split in zip(chunk["emotion"], chunk["pixels"], usage, strict=True):
        row = len(rows)
        if not (emotion.isdigit() and int(emotion) < len(names)):
            msg = f"{source.name}: row {row}: emotion must be a number from 0 to 6, got {emotion!r}"
            raise InputError(msg)
        file = f"images/{row:07d}.png"
        Image.fromarray(_square(pixels, row, source)).save(draft / file)
        rows.append({"path": file, "label": names[int(emotion)]})
        if split is not None:
            rows[-1]["split"] = split


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
