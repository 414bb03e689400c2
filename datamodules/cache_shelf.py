"""What stands in the cache folder, what each part takes, and clearing it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import pandas as pd

from datamodules.errors import InputError
from datamodules.pixels import DECODE_POLICY
from datamodules.places import cache_root

VERSION = "3"
"""Layout of the files in a pixel cache's folder."""

KINDS = ("pixels", "unpacked", "drawn", "crops")
GIGABYTE = 1e9
COLUMNS = ["kind", "name", "images", "size", "fit", "gigabytes", "built", "usable", "folder"]


def cache_list(root: Path | None = None) -> pd.DataFrame:
    """List what stands under the cache root: kind, name, images, size, fit, gigabytes, built, usable, folder."""
    found = []
    for kind in KINDS:
        for folder in _folders(root or cache_root(), kind):
            try:
                meta = json.loads((folder / "meta.json").read_text())
            except (OSError, ValueError):
                meta = {}
            of_this_version = (meta.get("version"), meta.get("policy")) == (VERSION, DECODE_POLICY)
            found.append(
                {
                    "kind": kind,
                    "name": meta.get("name", folder.name),
                    "images": meta.get("images"),
                    "size": meta.get("size"),
                    "fit": meta.get("fit"),
                    "gigabytes": round(folder_bytes(folder) / GIGABYTE, 4),
                    "built": meta.get("built", ""),
                    "usable": kind != "pixels" or of_this_version,
                    "folder": str(folder),
                }
            )
    return pd.DataFrame(found, columns=COLUMNS)


def cache_clear(root: Path | None = None, kinds: Sequence[str] = ("pixels",)) -> int:
    """Delete what stands under ``kinds`` (pixels, unpacked, drawn, crops) and return the bytes freed.

    A cache that is being built is left alone; one that is mapped by a running training stays readable to it. With the
    pixels go the lists of near duplicates that were found in them.
    """
    if unknown := set(kinds) - set(KINDS):
        msg = f"kinds must be among {', '.join(KINDS)}, got {', '.join(sorted(unknown))}."
        raise InputError(msg)
    freed = 0
    for kind in kinds:
        for folder in _folders(root or cache_root(), kind):
            key = folder.name.lstrip(".").partition(".")[0]
            try:
                with filelock.FileLock(folder.parent / f"{key}.lock", timeout=0):
                    size = folder_bytes(folder)
                    shutil.rmtree(folder)
                    freed += size
            except filelock.Timeout:
                continue
        for found in ((root or cache_root()) / kind).glob("near-*.parquet"):
            freed += found.stat().st_size
            found.unlink()
    return freed


def folder_bytes(folder: Path) -> int:
    """Return what the files in ``folder`` take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _folders(root: Path, kind: str) -> Iterator[Path]:
    parent = root / kind
    if parent.is_dir():
        yield from sorted(entry for entry in parent.iterdir() if entry.is_dir())
