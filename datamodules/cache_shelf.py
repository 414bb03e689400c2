"""List and clear the cache folder."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import filelock
import pandas as pd

from datamodules.errors import InputError, invalid
from datamodules.places import cache_root, folder_bytes

VERSION = "3"
"""Layout of the files in a pixel cache's folder."""

KINDS: dict[str, str] = {
    "pixels": "decoded images, and near-duplicates found among them",
    "crops": "faces cut out while a data set is read",
    "unpacked": "unpacked archives, and images written out of a CSV of pixels",
    "drawn": "drawn faces, and drawn scenes in the layout of AI-Hub's set",
    "scenes": "drawn scenes for the face detector",
    "features": "features of frozen backbones",
    "hashes": "content hashes of files",
}
ALL = "all"
_DRAFT_SECONDS = 3600  # a file under a temporary name that is younger may still be written to

GIGABYTE = 1e9
COLUMNS = ["kind", "name", "images", "size", "fit", "gigabytes", "age", "built", "usable", "folder"]


def cache_list(root: Path | None = None) -> pd.DataFrame:
    """List the entries under the cache root, one row per entry.

    Returns:
        kind (see :data:`KINDS`), name, images, size (side in pixels), fit, gigabytes, age (such as ``3 d``), built
        (local time), usable (complete and of this version), folder.
    """
    from datamodules.pixels import DECODE_POLICY  # pulls in OpenCV, which the commands' parser does not need

    place = root or cache_root()
    found = []
    for kind, entry in _entries(place):
        try:
            meta = json.loads((entry / "meta.json").read_text()) if kind == "pixels" else {}
        except (OSError, ValueError):
            meta = {}
        of_this_version = (meta.get("version"), meta.get("policy")) == (VERSION, DECODE_POLICY)
        whole = not entry.name.startswith(".")
        changed = _changed(entry)
        found.append(
            {
                "kind": kind,
                "name": meta.get("name", entry.name),
                "images": meta.get("images"),
                "size": meta.get("size"),
                "fit": meta.get("fit"),
                "gigabytes": round(folder_bytes(entry) / GIGABYTE, 4),
                "age": _age(time.time() - changed),
                "built": meta.get("built") or time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(changed)),
                "usable": whole and (of_this_version or kind != "pixels" or entry.is_file()),
                "folder": str(entry),
            }
        )
    return pd.DataFrame(found, columns=COLUMNS)


def cache_clear(root: Path | None = None, kinds: Sequence[str] = ("pixels",)) -> int:
    """Delete the entries of some kinds (see :data:`KINDS`; ``all`` for every kind) and return the bytes freed.

    Entries that are being built are kept. A running training can still read pixels that it has mapped. Clearing pixels
    also clears the near-duplicates that were found among them and the content hashes of files.

    Raises:
        InputError: A kind is unknown, or an entry cannot be deleted.
    """
    if unknown := set(kinds) - {*KINDS, ALL}:
        raise invalid("--clear", f"must be among {', '.join(KINDS)} or {ALL}", ", ".join(sorted(unknown)))
    chosen = set(KINDS) if ALL in kinds else set(kinds)
    chosen |= {"hashes"} if "pixels" in chosen else set()
    freed = 0
    for kind, entry in _entries(root or cache_root()):
        draft = entry.name.startswith(".") and entry.is_file()
        if kind not in chosen or (draft and time.time() - _changed(entry) < _DRAFT_SECONDS):
            continue
        try:
            with ExitStack() as locks:
                for lock in _locks(entry):
                    locks.enter_context(filelock.FileLock(lock, timeout=0))
                size = folder_bytes(entry)
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                freed += size
        except filelock.Timeout:
            continue
        except FileNotFoundError:  # another process deleted it
            continue
        except OSError as error:
            msg = f"cannot delete {entry}: {error.strerror or error}; delete it as a user who has permission to"
            raise InputError(msg) from error
    return freed


def _entries(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield kind and path of everything under the cache root except locks."""
    for kind in KINDS:
        parent = root / kind
        if parent.is_dir():
            yield from ((kind, entry) for entry in sorted(parent.iterdir()) if entry.suffix != ".lock")


def _locks(entry: Path) -> list[Path]:
    """Return the locks that a writer of an entry holds; the lock of a folder of crops may be inside the folder."""
    name = entry.name.lstrip(".").partition(".")[0]
    return [lock for lock in (entry.parent / f"{name}.lock", entry / ".lock") if lock.is_file()]


def _changed(entry: Path) -> float:
    """Return when an entry was last written, in seconds since the epoch."""
    with suppress(OSError):
        return os.stat(entry).st_mtime
    return time.time()


def _age(seconds: float) -> str:
    """Return a time span in its largest unit.

    >>> _age(30), _age(5400), _age(200_000)
    ('0 min', '1 h', '2 d')
    """
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(max(seconds, 0) // 60)} min"
