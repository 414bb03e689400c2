"""Images without labels, to classify: files, folders, globs, tables of paths, videos, and bytes of standard input."""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.images import decode, decode_bytes
from datamodules.manifest import plain_text, read_table, saved_meta
from datamodules.read_options import ReadOptions

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
TABLES = (".csv", ".parquet")
PATH_COLUMNS = ("path", "file", "filename", "image")


@dataclass(frozen=True)
class Photograph:
    """One image to classify.

    Attributes:
        path: As it was named; of a video the video's.
        read: Returns the pixels, uint8 (H, W, 3) RGB, or raises an InputError.
        frame: Number of the frame in its video, from 0; None for an image.
    """

    path: str
    read: Callable[[], np.ndarray]
    frame: int | None = None


def find_images(source: str, read: ReadOptions = ReadOptions()) -> list[Path]:  # noqa: B008 - frozen
    """Return the images that ``source`` names, sorted as the folder or the table has them.

    Args:
        source: an image, a folder (searched whole), a glob, or a CSV or Parquet table with a ``path`` column.
        read: how a table is read; ``path_column`` names the column of the paths.

    Raises:
        InputError: there is nothing there, or no image in it, or a path of the table leaves the table's folder.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        images = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not images:
            msg = f"--data: the folder {source} has no image ({' '.join(SUFFIXES)}); name another folder"
            raise InputError(msg)
        return images
    if not place.exists() and glob.has_magic(source):
        matches = sorted(path for path in map(Path, glob.glob(str(place), recursive=True)) if path.is_file())
        if not matches:
            raise invalid(
                "--data", "must match at least one file", source, "quote it if the shell should not expand it"
            )
        return matches
    if not place.is_file():
        msg = f"--data: {source} does not exist; give an image, a folder of images, or a CSV with a path column"
        raise InputError(msg)
    return _listed(place, read) if place.suffix.lower() in TABLES else [place]


def _listed(place: Path, read: ReadOptions) -> list[Path]:
    """Return the paths in a table."""
    try:
        table = read_table(place)
    except InputError as error:
        msg = f"--data: {error}"
        raise InputError(msg) from error
    if read.path_column is not None and read.path_column not in table:
        hint = did_you_mean(read.path_column, table) or f"it has {', '.join(map(str, table))}"
        raise invalid("--path-column", f"must be a column of {place.name}", read.path_column, hint)
    column = read.path_column or next((name for name in PATH_COLUMNS if name in table), None)
    if column is None or table.empty:
        msg = f"--data: {place} needs a column path (or --path-column NAME) and at least one row; "
        msg += f"it has {len(table)} rows of {list(table)}"
        raise InputError(msg)
    root = place.resolve().parent
    if meta := saved_meta(place):  # a manifest names its images' folder, which need not be its own
        root = (root / meta["root"]).resolve()
    names = plain_text(table[column])
    paths = [(root / name).resolve() for name in names]
    for row, path in enumerate(paths):
        if not names.iloc[row].strip():
            msg = f"--data: row {row + 1} below the header of {place} has no {column}; fill it in, or remove the row"
            raise InputError(msg)
        if not path.is_relative_to(root):
            msg = f"--data: row {row} of {place} leads out of {root}: {table[column].iloc[row]!r}; use paths below it"
            raise InputError(msg)
    return paths


def photographs(paths: Sequence[Path], every: float | None = None) -> Iterator[Photograph]:
    """Yield the images of files, and frames of those that are videos.

    Args:
        paths: Images and videos.
        every: Seconds between two frames of a video; None: 1.

    Raises:
        InputError: A video that cannot be opened, or that has no frame.
    """
    for path in paths:
        if path.suffix.lower() in VIDEOS:
            yield from _frames(path, 1.0 if every is None else every)
        else:
            yield Photograph(str(path), lambda path=path: decode(path))  # type: ignore[misc]


def from_bytes(data: bytes, name: str = "-") -> Photograph:
    """Return the image in the bytes of an image file."""
    return Photograph(name, lambda: decode_bytes(data, name))


def _frames(path: Path, every: float) -> Iterator[Photograph]:
    """Yield a frame every so many seconds; the frames between are skipped without being converted."""
    video = cv2.VideoCapture(str(path))
    try:
        rate = video.get(cv2.CAP_PROP_FPS) if video.isOpened() else 0.0
        step, count = max(1, round(every * (rate if rate > 0 else 25.0))), 0
        while video.grab():
            if count % step == 0:
                good, image = video.retrieve()
                if good:
                    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                    yield Photograph(str(path), lambda pixels=pixels: pixels, count)  # type: ignore[misc]
            count += 1
    finally:
        video.release()
    if not count:
        msg = f"--data: video {path} has no frame that OpenCV can read; convert it to MP4 with H.264, or name images"
        raise InputError(msg)
