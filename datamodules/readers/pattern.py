"""Reads label, subject and groups out of the images' own paths by a regular expression with named groups."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.readers.common import ReadOptions, finish, image_files


def looks_like(path: Path) -> bool:
    """Never by itself: the expression has to be given."""
    return False


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    r"""Search the pattern in each path relative to the folder, e.g. ``(?P<subject>\d+)_(?P<age>\d+)_(?P<label>\w+?)_``.

    Raises:
        InputError: no pattern, a folder without images, or images that the pattern does not match.
    """
    if options.pattern is None:
        msg = "the reader 'pattern' needs a pattern (--pattern) with a named group (?P<label>...)"
        raise InputError(msg)
    return read_matching(path, options, name, options.pattern)


def read_matching(
    path: Path,
    options: ReadOptions,
    name: str,
    pattern: str,
    translated: Callable[[dict[str, str]], dict[str, str]] = dict,
) -> Manifest:
    """Do what `read` does, with any pattern; `translated` turns what its groups found in a path into columns."""
    if not path.is_dir():
        msg = f"names are read in a folder of images, got the file {path}"
        raise InputError(msg)
    files = image_files(path)
    if not files:
        msg = f"no images found in {path}"
        raise InputError(msg)
    expression = re.compile(pattern)
    if "path" in expression.groupindex:
        msg = "pattern: a group may not be called path, that is the image's own column"
        raise InputError(msg)
    found = [expression.search(f) for f in files]
    missed = [f for f, match in zip(files, found, strict=True) if match is None]
    notes: tuple[str, ...] = ()
    if missed:
        msg = f"{len(missed)} of {len(files)} images do not match {pattern!r}, the first is {missed[0]!r}"
        if options.unknown_labels != "drop" or len(missed) == len(files):
            msg += "; mend the pattern, or leave such images out with unknown_labels=drop"
            raise InputError(msg)
        notes = (msg + " and were left out",)
    rows = [
        {"path": f, **translated(match.groupdict(default=""))}
        for f, match in zip(files, found, strict=True)
        if match is not None
    ]
    return finish(pd.DataFrame(rows), path, name, options, notes)
