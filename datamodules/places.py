"""Where files that can be made again are kept, and how a file is written so that nobody meets half of it."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_root() -> Path:
    """Return the folder of everything rebuildable: ``$EMOTION_CACHE_DIR``, else ``emotion`` in the user's cache."""
    if chosen := os.environ.get("EMOTION_CACHE_DIR"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").resolve() / "emotion"


def rename(part: Path, path: Path) -> None:
    """Give a finished file its own name; it takes the mode of the file that it replaces, if there is one."""
    with suppress(FileNotFoundError):
        part.chmod(stat.S_IMODE(path.stat().st_mode))
    os.replace(part, path)


@contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; the file gets its own name once it is whole.

    The file has the mode that ``open`` gives a new one, or that of the file it replaces, so that a folder shared by
    several people stays readable to them. Nothing stays of a write that fails.

    Args:
        path: The file; its folder exists.
        suffix: Of the temporary name, where a writer goes by it.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{uuid.uuid4().hex[:8]}{suffix}")
    try:
        yield part
        rename(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
