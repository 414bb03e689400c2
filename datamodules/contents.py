"""Content hashes of files, stored between runs so that unchanged files are not read again."""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from datamodules.paths import cache_root, replacing

SETTLED = 2.0
"""Seconds between a file's last change and its reading, so that a later change is sure to show in its times."""

_BLOCK = 1 << 20
_READERS = 8


def file_hashes(root: Path, paths: Sequence[str]) -> list[str]:
    """Return the SHA-256 of the bytes of each file, 32 hex digits; ``""`` where a file cannot be read.

    A file is not read again while its size, inode, modification time (mtime) and change time (ctime) are the same as
    when it was last read. No program can set the ctime, so a file that is replaced under the same name is noticed even
    if its size and mtime stay the same. Files that changed a moment before they were read are read again the next
    time, since clocks of file systems are coarse.

    Args:
        root: The folder that the paths are relative to.
        paths: Files below it.
    """
    kept = cache_root() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.parquet"
    known = _load(kept)
    states = [_state(root / path) for path in paths]
    asked = list(zip(paths, states, strict=True))
    found = [known.get((path, state), "") if state else "" for path, state in asked]
    unread = [row for row, digest in enumerate(found) if states[row] and not digest]
    if not unread:
        return found
    settled = (time.time() - SETTLED) * 1e9
    new: dict[tuple[str, str], str] = {}
    total = sum(int(states[row].split()[0]) for row in unread)
    with (
        tqdm(desc="reading files", total=total, unit="B", unit_scale=True, delay=2, leave=False, disable=None) as bar,
        ThreadPoolExecutor(_READERS) as readers,
    ):
        for row, digest in zip(unread, readers.map(_digest, (root / paths[row] for row in unread)), strict=True):
            path, state = asked[row]
            size, changed, modified = (int(number) for number in state.split()[:3])
            found[row] = digest
            bar.update(size)
            if digest and max(changed, modified) < settled and _state(root / path) == state:
                new[path, state] = digest
    if new:
        _store(kept, {**_load(kept), **new})  # another process may have stored some meanwhile
    return found


def _state(path: Path) -> str:
    """Return size, ctime, mtime and inode of a file as text; "" if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_ctime_ns} {found.st_mtime_ns} {found.st_ino}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()[:32]


def _load(kept: Path) -> dict[tuple[str, str], str]:
    with suppress(OSError, ValueError, KeyError):
        table = pd.read_parquet(kept)
        return dict(zip(zip(table["path"], table["state"], strict=True), table["content"], strict=True))
    return {}


def _store(kept: Path, known: dict[tuple[str, str], str]) -> None:
    last = {path: (path, state, content) for (path, state), content in known.items()}  # the newest entry of a path
    with suppress(OSError, ValueError):  # the stored hashes only save time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as draft:
            pd.DataFrame(last.values(), columns=["path", "state", "content"]).to_parquet(draft)
