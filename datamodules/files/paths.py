"""Files: the cache folder, atomic writing, stored content hashes, and file names as text and on the disk."""

import codecs
import glob
import hashlib
import os
import re
import shutil
import stat
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from datamodules.errors import InputError

CACHE_BUDGET_GB = 20.0  # default of what all pixel caches together may take
SETTLED = 2.0
"""Seconds between a file's last change and its reading, so that a later change is sure to show in its times."""

_BLOCK = 1 << 20
_READERS = 8


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
    """Rename a finished temporary file or folder; it gets the mode of what it replaces, if there is something."""
    with suppress(FileNotFoundError):
        part.chmod(stat.S_IMODE(path.stat().st_mode))
    if part.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # a folder can replace only an empty one
    os.replace(part, path)


@contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` when the block ends without an error.

    The file has the mode that ``open`` gives a new file, or that of the file it replaces, so that a folder shared by
    several people stays readable to them. A write that fails leaves no file behind. The same holds for a folder, if
    the block creates one at the temporary path.

    Args:
        path: The file or folder; the folder that contains it exists.
        suffix: Suffix of the temporary name, for writers that choose the format by it.
    """
    part = path.with_name(f".{path.name[-40:]}.{os.getpid()}.{uuid.uuid4().hex[:8]}{suffix}")
    try:
        yield part
        rename(part, path)
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_drafts(path: Path) -> None:
    """Delete temporary files of ``replacing(path)`` left by killed processes; the caller holds the lock of ``path``."""
    for draft in path.parent.glob(f".{glob.escape(path.name[-40:])}.*.part"):
        remove(draft)


@contextmanager
def build_once(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield ``folder``, and a temporary folder that becomes it after the block, or None if ``folder`` exists.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if folder.is_dir():
                yield folder, None
                return
            remove_drafts(folder)
            with replacing(folder) as draft:
                draft.mkdir()
                yield folder, draft
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror or error}; free disk space or set EMOTION_CACHE_DIR"
        raise InputError(msg) from error


def images_root(source: str, images: Sequence[Path]) -> Path:
    """Return the folder that contains all images: the source itself, or the deepest folder common to the images."""
    place = on_disk(Path(source).expanduser())
    return place if place.is_dir() else Path(os.path.commonpath([path.absolute().parent for path in images]))


def file_hashes(root: Path, paths: Sequence[str]) -> list[str]:
    """Return the SHA-256 of the bytes of each file, 32 hex digits; ``""`` where a file cannot be read.

    A file is not read again while its size, inode, modification time (mtime) and change time (ctime) are the same as
    when it was last read. No program can set the ctime, so a file that is replaced under the same name is noticed even
    if its size and mtime stay the same. Files that changed a moment before they were read are read again the next
    time, since clocks of file systems are coarse.

    Args:
        root: The folder that the paths are relative to.
        paths: Files below it, as text of :func:`path_text`.
    """
    kept = cache_root() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.parquet"
    known = _load_hashes(kept)
    places = [on_disk(os.path.join(root, path)) for path in paths]
    states = [_file_state(place) for place in places]
    files = list(zip(paths, states, strict=True))
    digests = [known.get((path, state), "") if state else "" for path, state in files]
    unread = [row for row, digest in enumerate(digests) if states[row] and not digest]
    if not unread:
        return digests
    settled = (time.time() - SETTLED) * 1e9
    new: dict[tuple[str, str], str] = {}
    total = sum(int(states[row].split()[0]) for row in unread)
    with (
        tqdm(desc="reading files", total=total, unit="B", unit_scale=True, delay=2, leave=False, disable=None) as bar,
        ThreadPoolExecutor(_READERS) as readers,
    ):
        for row, digest in zip(unread, readers.map(_file_digest, (places[row] for row in unread)), strict=True):
            path, state = files[row]
            size, changed, modified = (int(number) for number in state.split()[:3])
            digests[row] = digest
            bar.update(size)
            if digest and max(changed, modified) < settled and _file_state(places[row]) == state:
                new[path, state] = digest
    if new:
        _store_hashes(kept, {**_load_hashes(kept), **new})  # another process may have stored some meanwhile
    return digests


def _file_state(path: Path) -> str:
    """Return size, ctime, mtime and inode of a file as text; "" if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return state_of(status)


def state_of(status: os.stat_result) -> str:
    """Return size, ctime, mtime and inode as text, which is another one after every change of a file."""
    return f"{status.st_size} {status.st_ctime_ns} {status.st_mtime_ns} {status.st_ino}"


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()[:32]


def _load_hashes(kept: Path) -> dict[tuple[str, str], str]:
    import pandas as pd  # processes that only decode need none

    with suppress(OSError, ValueError, KeyError):
        table = pd.read_parquet(kept)
        return dict(zip(zip(table["path"], table["state"], strict=True), table["content"], strict=True))
    return {}


def _store_hashes(kept: Path, known: dict[tuple[str, str], str]) -> None:
    import pandas as pd

    last = {path: (path, state, content) for (path, state), content in known.items()}  # the newest entry of a path
    with suppress(OSError, ValueError):  # the stored hashes only save time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as draft:
            pd.DataFrame(last.values(), columns=["path", "state", "content"]).to_parquet(draft)


_ESCAPES = re.compile(rb"\\x([89a-f][0-9a-f])")


def path_text(name: str | os.PathLike[str]) -> str:
    r"""Return a file name as text that can be stored and printed: a byte that is not UTF-8 becomes ``\xNN``.

    >>> path_text(os.fsdecode(b"caf\xe9.jpg"))
    'caf\\xe9.jpg'
    """
    text = os.fspath(name)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    return text


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Encode what a stream cannot take: bytes of file names as :func:`path_text` does, letters by their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    parts = [
        f"\\x{ord(letter) - 0xDC00:02x}"
        if 0xDC80 <= ord(letter) <= 0xDCFF
        else letter.encode("ascii", BACKSLASHES).decode()
        for letter in letters
    ]
    return "".join(parts), error.end


BACKSLASHES = "backslashreplace"
NAMES = "emotion-names"
"""Error handler of streams that print file names, which need not be UTF-8; see `codecs.register_error`."""
codecs.register_error(NAMES, _escaped)


def on_disk(path: str | os.PathLike[str]) -> Path:
    r"""Return the file or folder that a text of :func:`path_text` names; ``\xNN`` may also be letters of its name."""
    text = os.fspath(path)
    if "\\x" not in text or os.path.lexists(text):
        return Path(text)
    raw = _ESCAPES.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text))
    return Path(os.fsdecode(raw)) if os.path.lexists(raw) else Path(text)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; of a plain file the file system is not asked again.

    Unlike `entry.is_dir` this raises nothing for a link that leads to itself.
    """
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def is_guarded(root: Path) -> bool:
    """Return whether links below a folder may not lead out of it: what was unpacked from archives is in the cache.

    Links in a folder of the user's own are the user's own, and are followed.
    """
    return Path(os.path.realpath(root)).is_relative_to(cache_root())


class FileLookup:
    """Finds the files that a table or a list names, however it spells them; lists each folder once.

    Folders and files are sought by their exact names, then in Unicode's composed form (NFC: macOS decomposes the
    letters of names), then without regard to case (``.JPG`` for ``.jpg``). If several names fit, none is returned.

    Args:
        root: The folder that the names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, _Listing] = {}
        self._folders: dict[str, str | None] = {"": ""}

    def find(self, path: str) -> str | None:
        r"""Return the path as the disk spells it, relative to the root and as text; None if no file fits.

        Args:
            path: With ``/``, relative to the root. One that is absolute or has a part ``..`` is not found.
        """
        if path.startswith("/"):
            return None
        folder, _, name = path.rpartition("/")
        found = self.folder(folder)
        name = "" if found is None else self._listing(found).files.find(name) or ""
        return (f"{found}/{name}" if found else name) if name else None

    def folder(self, path: str) -> str | None:
        """Return a folder's path as the disk spells it, "" for the root; None if there is none."""
        if path not in self._folders:
            above, _, name = path.rpartition("/")
            place = self.folder(above)
            if place is not None and name not in ("", "."):
                known = None if name == ".." else self._listing(place).folders.find(name)
                place = None if known is None else f"{place}/{known}" if place else known
            self._folders[path] = place
        return self._folders[path]

    def files(self, folder: str = "") -> list[str]:
        """Return the names of the files in a folder, as text and sorted; none if there is no such folder."""
        found = self.folder(folder)
        return [] if found is None else sorted(self._listing(found).files.names)

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder, as text and sorted; none if there is no such folder."""
        found = self.folder(folder)
        return [] if found is None else sorted(self._listing(found).folders.names)

    def _listing(self, folder: str) -> "_Listing":
        if folder not in self._listings:
            self._listings[folder] = _Listing.of(on_disk(os.path.join(self.root, folder)))
        return self._listings[folder]


class _Names:
    """Names in one folder, found by any of their spellings."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)

    def find(self, name: str) -> str | None:
        if name in self.names:
            return name
        composed = unicodedata.normalize("NFC", name)
        found = self._composed.get(composed) or self._folded.get(composed.casefold())
        return found or None

    @cached_property
    def _composed(self) -> dict[str, str]:
        return self._by(lambda name: unicodedata.normalize("NFC", name))

    @cached_property
    def _folded(self) -> dict[str, str]:
        return self._by(lambda name: unicodedata.normalize("NFC", name).casefold())

    def _by(self, spelling: Callable[[str], str]) -> dict[str, str]:
        """Return the names by a spelling, "" where it fits several."""
        found: dict[str, str] = {}
        for name in self.names:
            key = spelling(name)
            found[key] = "" if key in found else name
        return found


@dataclass(frozen=True)
class _Listing:
    """Files and folders in one folder; links count as what they lead to."""

    files: _Names
    folders: _Names

    @classmethod
    def of(cls, place: Path) -> "_Listing":
        files, folders = [], []
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                with suppress(OSError):  # a link that leads to itself
                    if entry.is_dir():
                        folders.append(path_text(entry.name))
                    elif entry.is_file():
                        files.append(path_text(entry.name))
        return cls(_Names(files), _Names(folders))
