"""The cache folder, and atomic writing of files."""

import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from datamodules.errors import InputError

CACHE_BUDGET_GB = 20.0  # default of what all pixel caches together may take


def cache_root() -> Path:
    """Return the folder of everything rebuildable: ``$EMOTION_CACHE_DIR``, else ``emotion`` in the user's cache."""
    if chosen := os.environ.get("EMOTION_CACHE_DIR"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").resolve() / "emotion"


def folder_bytes(folder: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    total = 0
    for file in [folder] if folder.is_file() else folder.rglob("*"):
        with suppress(OSError):  # it was deleted meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def rename(part: Path, path: Path) -> None:
    """Rename a finished temporary file; it gets the mode of the file that it replaces, if there is one."""
    with suppress(FileNotFoundError):
        part.chmod(stat.S_IMODE(path.stat().st_mode))
    os.replace(part, path)


@contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` when the block ends without an error.

    The file has the mode that ``open`` gives a new file, or that of the file it replaces, so that a folder shared by
    several people stays readable to them. A write that fails leaves no file behind.

    Args:
        path: The file; its folder exists.
        suffix: Suffix of the temporary name, for writers that choose the format by it.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{uuid.uuid4().hex[:8]}{suffix}")
    try:
        yield part
        rename(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def build_once(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Give a temporary folder to fill, which becomes ``folder`` if all goes well; None where ``folder`` exists.

    Raises:
        InputError: the place cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if folder.is_dir():
                yield folder, None
                return
            shutil.rmtree(draft, ignore_errors=True)  # left behind by a process that was killed
            draft.mkdir()
            try:
                yield folder, draft
                os.replace(draft, folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror or error}; free disk space or set EMOTION_CACHE_DIR"
        raise InputError(msg) from error


def images_root(source: str, images: Sequence[Path]) -> Path:
    """Return the folder that contains all images: the source itself, or the deepest folder common to the images."""
    place = Path(source).expanduser()
    return place if place.is_dir() else Path(os.path.commonpath([path.absolute().parent for path in images]))
