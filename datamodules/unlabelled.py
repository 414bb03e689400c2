"""Images without labels, to classify: files, folders, globs, tables of paths, videos, and bytes of standard input."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.files.image_files import (
    SYSTEM_FILES,
    SYSTEM_FOLDERS,
    ImageListing,
    LeftOut,
    collect_left_out,
    image_files,
    pass_on,
    why_left_out,
)
from datamodules.files.images import Decoded, decode_bytes, decode_file
from datamodules.files.lookup import locate
from datamodules.files.paths import on_disk, path_text
from datamodules.files.tables import PATH_COLUMNS, WORKBOOKS
from datamodules.files.tables import SUFFIXES as TABLE_SUFFIXES
from datamodules.manifest import plain_text, read_table, saved_meta
from datamodules.read_options import ReadOptions

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
TABLES = (*TABLE_SUFFIXES, *WORKBOOKS)


@dataclass(frozen=True)
class Photograph:
    """One image to classify.

    Attributes:
        path: As it was named; of a video the video's.
        open: Returns the decoded image, or raises an InputError.
        frame: Number of the frame in its video, from 0; None for an image.
    """

    path: str
    open: Callable[[], Decoded]
    frame: int | None = None

    def read(self) -> np.ndarray:
        """Return the pixels, uint8 (H, W, 3) RGB.

        Raises:
            InputError: The image cannot be read.
        """
        return self.open().image


def find_images(source: str, read: ReadOptions = ReadOptions()) -> list[Path]:  # noqa: B008 - frozen
    """Return the images that ``source`` names, sorted as the folder or the table has them.

    Folders are read as the readers of training do, by `datamodules.files.image_files`; what is left out in a folder or
    of the matches of a glob is seen by `collect_left_out` there.

    Args:
        source: an image, a video, a folder (searched whole), a glob of these, or a CSV, TSV or Parquet table with a
            ``path`` column.
        read: how a table is read: ``path_column`` names the column of the paths, ``images`` the folder of the images.

    Raises:
        InputError: there is nothing there, or no image in it, or a path of the table leaves the table's folder.
    """
    place = on_disk(Path(source).expanduser())
    if place.is_dir():
        with collect_left_out() as left_out:
            images = _in_folder(place)
        pass_on(left_out)
        if not images:
            what = left_out.line or "it is empty"
            msg = f"--data: the folder {path_text(source)} has no image ({what}); name another folder"
            raise InputError(msg)
        return images
    if not place.exists() and glob.has_magic(source):
        return _matching(source, str(place))
    if not place.is_file():
        msg = f"--data: {path_text(source)} does not exist; give an image, a folder, or a CSV with a path column"
        raise InputError(msg)
    return _listed(place, read) if place.suffix.lower() in TABLES else [place]


def _in_folder(folder: Path) -> list[Path]:
    return [on_disk(os.path.join(folder, name)) for name in image_files(folder)]


def _matching(source: str, pattern: str) -> list[Path]:
    """Return the images and videos among the matches of a glob, and the images in the folders among them."""
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not matches:
        raise invalid("--data", "must match at least one file", source, "quote it if the shell should not expand it")
    found: dict[Path, None] = {}  # a set in order: a recursive glob matches a folder and what is in it
    left_out = LeftOut()
    for match in matches:
        if match.is_dir():
            if "**" not in pattern and match.name not in SYSTEM_FOLDERS:
                with collect_left_out() as inside:
                    found |= dict.fromkeys(_in_folder(match))
                left_out.listings |= inside.listings
        elif not SYSTEM_FOLDERS.isdisjoint(match.parts) or match.name.lower() in SYSTEM_FILES:
            continue
        elif match.suffix.lower() in VIDEOS or (why := why_left_out(match)) is None:
            found[match] = None
        else:
            left_out.listings.setdefault(Path(source), ImageListing()).left_out[match.suffix.lower(), why] += 1
    pass_on(left_out)
    if not found:
        msg = f"--data: no image or video matches {path_text(source)} ({left_out.line}); name other files"
        raise InputError(msg)
    return list(found)


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
    lower = {str(name).strip().lower(): name for name in reversed(list(table.columns))}
    column = read.path_column or next((lower[name] for name in PATH_COLUMNS if name in lower), None)
    if column is None or table.empty:
        msg = f"--data: {place} needs a column path (or --path-column NAME) and at least one row; "
        msg += f"it has {len(table)} rows of {list(table)}"
        raise InputError(msg)
    root = place.resolve().parent
    meta = saved_meta(place) if place.suffix.lower() in (".csv", ".parquet") else None
    if meta:  # a manifest names its images' folder, which need not be its own
        root = on_disk(root / meta["root"]).resolve()
    names = plain_text(table[column])
    for row, name in enumerate(names):
        if not name.strip():
            msg = f"--data: row {row + 1} below the header of {place} has no {column}; fill it in, or remove the row"
            raise InputError(msg)
    return _located(names.tolist(), root, place, read.images)


def _located(names: list[str], root: Path, place: Path, images: str | None = None) -> list[Path]:
    """Return the files that a table names; a name that is not found stays, and is reported when it is read."""
    try:
        located = locate(names, root, images=None if images is None else Path(images).expanduser())
    except InputError as error:
        msg = f"--data: {place}: {error}"
        raise InputError(msg) from error
    paths = [name if path is None else path for name, path in zip(names, located.paths, strict=True)]
    return [on_disk(os.path.normpath(located.root / path)) for path in paths]


def photographs(
    paths: Sequence[Path], every: float | None = None, pixel_limit: int | None = None
) -> Iterator[Photograph]:
    """Yield the images of files, and frames of those that are videos.

    Args:
        paths: Images and videos.
        every: Seconds between two frames of a video; None: 1.
        pixel_limit: As :func:`datamodules.files.images.decode` takes it.

    Raises:
        InputError: A video that cannot be opened, or that has no frame.
    """
    for path in paths:
        if path.suffix.lower() in VIDEOS:
            yield from _frames(path, 1.0 if every is None else every)
        else:
            yield Photograph(path_text(path), lambda path=path: decode_file(path, pixel_limit=pixel_limit))  # type: ignore[misc]


def from_bytes(data: bytes, name: str = "-", pixel_limit: int | None = None) -> Photograph:
    """Return the image in the bytes of an image file."""
    return Photograph(name, lambda: decode_bytes(data, name, pixel_limit=pixel_limit))


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
                    pixels = Decoded(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), "", image.shape[1], image.shape[0])
                    yield Photograph(path_text(path), lambda pixels=pixels: pixels, count)  # type: ignore[misc]
            count += 1
    finally:
        video.release()
    if not count:

        def unreadable() -> Decoded:
            msg = f"video {path} has no frame that OpenCV can read; convert it to MP4 with H.264, or name images"
            raise InputError(msg)

        yield Photograph(path_text(path), unreadable)
