"""Decode all images in parallel into the file of the pixel cache.

The processes are spawned and import this file, so it does not import slow packages that they do not need (pandas).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.images import GREY_SIDE, Fit, content_hash, decode_file, fit_to_square, grey_plane
from datamodules.files.paths import on_disk

CHUNK = 32
FEW = 512  # below this, starting processes costs more than it saves


class Record(NamedTuple):
    """One image's row in the index of a cache; see `datamodules.files.images.Decoded`."""

    path: str
    content: str
    width: int
    height: int
    bytes: int
    format: str
    error: str
    bits: int = 8
    reduced: int = 1


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows for one process."""

    root: Path
    first: int
    paths: list[str]
    size: int
    fit: Fit
    pixel_limit: int
    target: Path | None


def decode_all(
    root: Path,
    paths: list[str],
    *,
    size: int,
    fit: Fit,
    pixel_limit: int,
    target: Path | None,
    greys: Path,
    pool: ProcessPoolExecutor | None,
) -> list[Record]:
    """Decode ``paths`` below ``root``; return the index. Pixels go to ``target``, the grey planes to ``greys``."""
    if target is not None:
        with open(target, "wb") as file:
            file.truncate(len(paths) * size * size * 3)
    chunks = [
        Chunk(root, first, paths[first : first + CHUNK], size, fit, pixel_limit, target)
        for first in range(0, len(paths), CHUNK)
    ]
    records: list[Record] = []
    bar = tqdm(total=len(paths), desc="Decoding images", unit="", delay=1, disable=None)
    with bar, open(greys, "wb") as file:
        for part, small in _results(chunks, pool):
            file.write(small.data)
            records.extend(part)
            bar.update(len(part))
    return records


def _results(chunks: list[Chunk], pool: ProcessPoolExecutor | None) -> Iterator[tuple[list[Record], np.ndarray]]:
    if pool is None:
        yield from map(_decode_chunk, chunks)
        return
    try:
        yield from pool.map(_decode_chunk, chunks)
    except BrokenProcessPool as error:
        msg = (
            "A process that decodes images was killed, most often because memory ran out. "
            "Use fewer workers, or a lower pixel_limit."
        )
        raise InputError(msg) from error


def _decode_chunk(chunk: Chunk) -> tuple[list[Record], np.ndarray]:
    """Decode one chunk. Pixels are written with pwrite, which raises on a full disk; writing to a map would crash."""
    records = []
    greys = np.zeros((len(chunk.paths), GREY_SIDE, GREY_SIDE), dtype=np.uint8)
    pixels = np.zeros((len(chunk.paths), chunk.size, chunk.size, 3), dtype=np.uint8)
    for place, path in enumerate(chunk.paths):
        file = on_disk(chunk.root / path)
        try:
            size = file.stat().st_size
            decoded = decode_file(file, pixel_limit=chunk.pixel_limit)
        except (InputError, OSError) as error:
            size = file.stat().st_size if file.is_file() else 0
            records.append(Record(path, "", 0, 0, size, "", str(error)))
            continue
        image, known = decoded.image, (decoded.format, "", decoded.bits, decoded.reduced)
        records.append(Record(path, content_hash(image), decoded.width, decoded.height, size, *known))
        greys[place] = grey_plane(image)
        pixels[place] = fit_to_square(image, chunk.size, chunk.fit)
    if chunk.target is not None:
        handle = os.open(chunk.target, os.O_WRONLY)
        try:
            rest = pixels.data.cast("B")
            place = chunk.first * chunk.size * chunk.size * 3
            while rest:
                written = os.pwrite(handle, rest, place)
                rest, place = rest[written:], place + written
        finally:
            os.close(handle)
    return records, greys
