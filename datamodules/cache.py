"""The pixel cache: every image decoded once, kept in one file that all folds, trials and workers map."""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import pandas as pd

from datamodules.cache_build import CHUNK, FEW, Record, decode_all
from datamodules.errors import InputError, invalid
from datamodules.files.images import (
    DECODE_POLICY,
    FITS,
    GREY_SIDE,
    Fit,
    decode,
    decoding,
    default_pixel_limit,
    fit_to_square,
)
from datamodules.files.paths import (
    CACHE_BUDGET_GB,
    cache_root,
    file_hashes,
    folder_bytes,
    on_disk,
    path_text,
    remove,
    remove_drafts,
    replacing,
)
from datamodules.manifest import Manifest
from datamodules.processes import cores, processes

VERSION = "4"
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
    place = root or cache_root()
    rows = []
    for kind, entry in _entries(place):
        try:
            meta = json.loads((entry / "meta.json").read_text()) if kind == "pixels" else {}
        except (OSError, ValueError):
            meta = {}
        of_this_version = (meta.get("version"), meta.get("policy")) == (VERSION, DECODE_POLICY)
        whole = not entry.name.startswith(".")
        changed = _changed(entry)
        rows.append(
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
    return pd.DataFrame(rows, columns=COLUMNS)


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


@dataclass(frozen=True)
class PixelCache:
    """Decoded images of a manifest, memory-mapped and opened on first use; rows are those of the manifest.

    Only its few fields are pickled, so a spawned worker opens the same file instead of receiving a copy.
    """

    directory: Path
    root: Path
    size: int
    fit: Fit
    pixel_limit: int

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Settings, time and versions of the build."""
        return json.loads((self.directory / "meta.json").read_text())

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per image: path, content (hash or ""), bytes, error ("" = readable), and fields of `Decoded`."""
        return pd.read_parquet(self.directory / "index.parquet")

    @cached_property
    def greys(self) -> np.ndarray:
        """The whole images as (N, 48, 48) uint8 grey, mapped read-only; the same for every size and fit."""
        shape = (self.meta["images"], GREY_SIDE, GREY_SIDE)
        return np.asarray(np.memmap(self.directory / "greys.bin", dtype=np.uint8, mode="r", shape=shape))

    @cached_property
    def pixels(self) -> np.ndarray | None:
        """The images as (N, size, size, 3) uint8, mapped read-only, or None if they exceed the budget."""
        if not self.meta["pixels"]:
            return None
        shape = (self.meta["images"], self.size, self.size, 3)
        return np.memmap(self.directory / "pixels.bin", dtype=np.uint8, mode="r", shape=shape)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return (B, size, size, 3) uint8 of ``rows``: from the map, or decoded on the spot if there is none."""
        wanted = np.asarray(rows, dtype=np.int64)
        if self.pixels is not None:
            return np.asarray(self.pixels)[wanted]
        images = np.empty((len(wanted), self.size, self.size, 3), dtype=np.uint8)
        paths = self.index["path"]
        for place, row in enumerate(wanted):
            full = decode(on_disk(self.root / paths.iat[row]), pixel_limit=self.pixel_limit)
            images[place] = fit_to_square(full, self.size, self.fit)
        return images

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def build_cache(
    manifest: Manifest,
    size: int,
    *,
    fit: Fit = "crop",
    directory: Path | None = None,
    budget_gb: float = CACHE_BUDGET_GB,
    on_full: Literal["decode", "error"] = "decode",
    workers: int | None = None,
    pixel_limit: int | None = None,
) -> PixelCache:
    """Return the cache of ``manifest`` at ``size``, built first if it does not exist.

    A second process waits for the first one's build. Unreadable files do not stop the build: their row has the error.

    Args:
        manifest: The images; the cache is of its rows, in its order.
        size: Side of the square in pixels.
        fit: How an image is made square, see :func:`~datamodules.files.images.fit_to_square`.
        directory: Folder of caches; default ``pixels`` under :func:`~datamodules.files.paths.cache_root`.
        budget_gb: Limit of all pixel caches in ``directory`` together, in gigabytes.
        on_full: If budget or disk is too small: decode each image whenever it is read, or raise.
        workers: Decoding processes; default one per core, none for a few images.
        pixel_limit: Images with more pixels are decoded smaller or are errors; default
            `datamodules.files.images.default_pixel_limit`.

    Raises:
        InputError: A bad argument, a full disk or budget with ``on_full="error"``, or a folder that cannot be written.
    """
    if size < 1:
        raise invalid("--size", "must be at least 1 pixel", size)
    if not budget_gb >= 0:
        raise invalid("--budget-gb", "must be at least 0", budget_gb)
    if fit not in FITS:
        raise invalid("--fit", f"must be one of {', '.join(FITS)}", fit)
    pixel_limit = default_pixel_limit() if pixel_limit is None else pixel_limit
    parent = Path(directory) if directory is not None else cache_root() / "pixels"
    paths = [str(path) for path in manifest.table["path"]]
    key = _key(manifest.root, paths, size, fit, pixel_limit)
    final = parent / key
    cache = PixelCache(final, manifest.root, size, fit, pixel_limit)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(parent / f"{key}.lock")
        with lock:
            state = _state(final, len(paths))
            if state == "whole":
                return cache
            room = _room(parent, len(paths) * (size**2 * 3 + GREY_SIDE**2), budget_gb, on_full)
            if state == "index" and not room:
                return cache
        if workers is None:
            workers = 0 if len(paths) < FEW else min(cores(), -(-len(paths) // CHUNK))
        with processes(workers) as pool, lock:
            state = _state(final, len(paths))  # another process may have been faster
            if state == "nothing" or (room and state == "index"):
                _build(cache, paths, manifest.name, room, pool)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        msg = f"The cache folder {parent} cannot be written: {error}. Set EMOTION_CACHE_DIR to a writable folder."
        raise InputError(msg) from error
    except OSError as error:
        msg = (
            f"Building the pixel cache in {parent} failed: {error}. Free disk space, or set EMOTION_CACHE_DIR to "
            "another folder."
        )
        raise InputError(msg) from error
    return cache


def decoding_notes(cache: PixelCache) -> list[str]:
    """Return notes on images that were decoded with fewer bits or fewer pixels than their files have."""
    lines = []
    few, smaller = cache.index["bits"].between(9, 15), cache.index["reduced"] > 1
    if few.any():
        used = " or ".join(str(bits) for bits in sorted(set(cache.index["bits"][few])))
        lines.append(f"{int(few.sum()):,} images of 16 bits use {used} of them; the upper 8 of the used bits are kept")
    if smaller.any():
        lines.append(
            f"{int(smaller.sum()):,} images have more than {cache.pixel_limit:,} pixels and were decoded smaller; "
            "--data.pixel_limit (in other commands --pixel-limit) raises the limit"
        )
    return lines


def _key(root: Path, paths: list[str], size: int, fit: str, pixel_limit: int) -> str:
    digest = hashlib.sha256(repr((VERSION, decoding(pixel_limit), str(root), size, fit)).encode())
    for path, content in zip(paths, file_hashes(root, paths), strict=True):
        digest.update(f"{path}\0{content or 'unreadable'}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def _state(final: Path, images: int) -> Literal["whole", "index", "nothing"]:
    """Return what the folder contains: a complete cache of this version, one without pixels, or nothing usable."""
    try:
        meta = json.loads((final / "meta.json").read_text())
        if (meta["version"], meta["policy"], meta["images"]) != (VERSION, DECODE_POLICY, images):
            return "nothing"
        if len(pd.read_parquet(final / "index.parquet", columns=["error"])) != images:
            return "nothing"
        if (final / "greys.bin").stat().st_size != images * GREY_SIDE**2:
            return "nothing"
        if not meta["pixels"]:
            return "index"
        return "whole" if (final / "pixels.bin").stat().st_size == meta["pixel_bytes"] else "nothing"
    except (OSError, ValueError, KeyError):
        return "nothing"


def _build(cache: PixelCache, paths: list[str], name: str, keep: bool, pool: ProcessPoolExecutor | None) -> None:
    final = cache.directory
    remove(final)  # before the new one takes its space
    remove_drafts(final)
    with replacing(final) as work:
        work.mkdir()
        records = decode_all(
            cache.root,
            paths,
            size=cache.size,
            fit=cache.fit,
            pixel_limit=cache.pixel_limit,
            target=work / "pixels.bin" if keep else None,
            greys=work / "greys.bin",
            pool=pool,
        )
        index = pd.DataFrame(records, columns=list(Record._fields))
        index.to_parquet(work / "index.parquet")
        meta = {
            "version": VERSION,
            "policy": DECODE_POLICY,
            "name": name,
            "root": path_text(cache.root),
            "size": cache.size,
            "fit": cache.fit,
            "images": len(paths),
            "unreadable": int((index["error"] != "").sum()),
            "pixels": keep,
            "pixel_bytes": len(paths) * cache.size**2 * 3,
            "built": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        (work / "meta.json").write_text(json.dumps(meta, indent=1))


def _room(parent: Path, need: int, budget_gb: float, on_full: str) -> bool:
    """Return whether the pixels fit into budget and disk; if not, warn or raise."""
    used = sum(folder_bytes(folder) for folder in parent.iterdir() if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if used + need <= budget_gb * GIGABYTE and need < 0.95 * free:
        return True
    msg = (
        f"The pixel cache needs {need / GIGABYTE:.2f} GB; the budget is {budget_gb:g}, of which {used / GIGABYTE:.2f} "
        f"GB are taken; {parent} has {free / GIGABYTE:.1f} GB free. Raise --budget-gb (in training "
        "--data.cache_budget_gb), choose a smaller size, or free space with `emotion data cache --clear`."
    )
    if on_full == "error":
        raise InputError(msg)
    warnings.warn(f"{msg} Until then every image is decoded each time it is read, which is slow.", stacklevel=3)
    return False
