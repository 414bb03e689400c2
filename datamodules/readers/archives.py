"""Unpack archives of images once and safely: only into their own folder, and completely or not at all."""

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.paths import build_once, cache_root, file_hashes, path_text

SUFFIXES = (".zip", ".tgz", ".tar.gz", ".tar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LIMIT_GB = 100.0
LIMIT_VARIABLE = "EMOTION_UNPACK_LIMIT_GB"


def is_archive(path: Path) -> bool:
    """Return whether the name is that of a supported archive."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """Return a short name for a data set: the file's name without its ending, or the folder's name."""
    if path.is_dir():
        return path_text(path.name) or "images"
    ending = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), path.suffix)
    base = path_text(path.name[: len(path.name) - len(ending)])
    return base if base.lower() not in {"labels", "manifest", "index", "data"} else path_text(path.parent.name) or base


def unpacked_folder(path: Path) -> Path:
    """Return the cache folder of an archive or a CSV of pixels, named by a hash of all bytes of the file.

    Raises:
        InputError: The file cannot be read.
    """
    (content,) = file_hashes(path.parent, [path.name])
    if not content:
        msg = f"cannot read {path}; make it readable, or name another file"
        raise InputError(msg)
    return cache_root() / "unpacked" / f"{stem(path).replace('.', '_')}-{content[:16]}"


def unpack(path: Path) -> Path:
    """Unpack an archive under the cache, once, and return the folder of its content.

    For an archive whose only entry is a folder, that folder is returned. Two processes at the same time unpack once.

    Raises:
        InputError: a member that leads out of the folder or is a link or device, an archive that is broken or larger
            than the limit or the disk.
    """
    with build_once(unpacked_folder(path)) as (folder, draft):
        if draft is not None:
            try:
                _extract(path, draft)
            except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError) as error:
                # RuntimeError: an encrypted zip, or a compression that zipfile does not know.
                msg = f"cannot unpack {path} to {folder}: {str(error) or type(error).__name__}"
                raise InputError(msg) from error
    entries = [e for e in folder.iterdir() if not e.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _extract(path: Path, draft: Path) -> None:
    with tqdm(desc=f"unpacking {path.name}", unit=" files", delay=1, leave=False, disable=None) as bar:
        for parts, content in members(path, draft):
            target = draft.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            bar.update()


class Room:
    """Space that the content of a packed file may take: the limit, or the free space of the disk.

    Args:
        path: The packed file.
        draft: The folder that it is unpacked to.
    """

    def __init__(self, path: Path, draft: Path) -> None:
        self.path = path
        self.limit = float(os.environ.get(LIMIT_VARIABLE, LIMIT_GB)) * 1e9
        self.free = shutil.disk_usage(draft).free - 100e6
        self.taken = 0

    def take(self, size: int) -> None:
        """Count the bytes of one more file.

        Raises:
            InputError: All together are more than there is room for.
        """
        self.taken += size
        if self.taken > min(self.limit, self.free):
            what = f"the limit of {self.limit / 1e9:g} GB ({LIMIT_VARIABLE})"
            what = what if self.limit < self.free else "the free disk space"
            so_far = f"{self.taken / 1e9:.1f} GB so far"
            msg = f"{self.path}: unpacked it takes more than {what}, {so_far}; nothing was unpacked"
            raise InputError(msg)


def members(path: Path, draft: Path) -> Iterator[tuple[tuple[str, ...], IO[bytes]]]:
    """Yield folders and name, and content, of every file in an archive; hidden files of macOS are left out.

    Raises:
        InputError: a member that leads out of the folder, a link or a device, or more bytes than the limit or the disk
            of the folder `draft`.
    """
    room = Room(path, draft)
    for name, size, content in _members(path):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
            msg = f"{path}: the member {name!r} leads out of the archive's folder; nothing was unpacked"
            raise InputError(msg)
        if "__MACOSX" in parts or parts[-1].startswith("._"):
            continue
        room.take(size)
        yield parts, content


def _members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of every file in the archive; a link or device is refused."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = info.external_attr >> 28  # upper four bits of the Unix mode: 8 file, 4 folder, 0 not given
                if kind not in {0, 4, 8}:
                    _refuse_link(path, info.filename)
                if not info.is_dir():
                    yield _zip_name(info), info.file_size, archive.open(info)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isdir():
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    _refuse_link(path, member.name)
                else:
                    yield member.name, member.size, content


def _refuse_link(path: Path, name: str) -> None:
    msg = f"{path}: the member {name!r} is a link or a device; nothing was unpacked. Pack plain files only"
    raise InputError(msg)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the name, read as UTF-8 or Korean where the archive does not say: zipfile then assumes cp437."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    raw = info.filename.encode("cp437")
    for encoding in ("utf-8", "cp949"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return info.filename
