"""Find the files that a table of images names: beside it, in the one folder that holds them, or in a given folder.

No file is opened, and every folder is listed once, so that half a million names take one system call per folder.
"""

import os
import posixpath
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from datamodules.errors import InputError, invalid
from datamodules.files.image_files import IMAGE_SUFFIXES
from datamodules.files.paths import FileLookup
from datamodules.labels import canonical_split

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:/")
_FOLDERS = 100_000  # maximum number of folders searched below a table
_SHOWN = 3

Key = TypeVar("Key", str, int)


@dataclass(frozen=True)
class Located:
    """Files that a table names.

    Attributes:
        root: The folder that the paths are relative to.
        paths: One per name, with ``/``; None where no file fits.
        note: How the names were matched, in one sentence; "" if all are exact.
        missing: Which names were not found and what to do, in one or two sentences; "" if all were found.
    """

    root: Path
    paths: list[str | None]
    note: str
    missing: str


def locate(names: Sequence[str], home: Path, *, images: Path | None = None, part: str = "") -> Located:
    """Find the files that names refer to, all of them within ``home``, or within ``images`` if it is given.

    Names are tried as written, then in the one subfolder that contains all of them, then both ways without the leading
    folders that all names share. Last, names without folders may lie in several subfolders if exactly one file has each
    name. Within a folder a name is compared as by `FileLookup` of `datamodules.files.paths`, then without its ending or
    leading zeros, and only where exactly one file fits.

    Args:
        names: File names, relative or absolute.
        home: The folder of the table.
        images: The folder of the images, if it is not ``home``.
        part: ``train``, ``validation`` or ``test``: of several folders that hold all names, the one of this part.

    Raises:
        InputError: A name is a URL, names lead out of the folder, or several folders contain all of them.
    """
    root = (home if images is None else images).resolve()
    if images is not None and not root.is_dir():
        raise invalid(
            "--images", "must be a folder", str(images), "give the folder to which the names in the table are relative"
        )
    tree, targets = _Tree(root), _Names(_relative(names, home, images))
    best = _Match([None] * targets.count)
    beside = 0
    for drop in range(targets.shared + 1):
        match = targets.match(tree, drop, "")
        beside += match.n_found
        if match.n_found < targets.count:
            best = max(best, match, key=lambda match: match.n_found)
            match = _holder(tree, targets, drop, part)
        if match.n_found == targets.count:
            return Located(root, match.paths, match.note(targets), "")
        best = max(best, match, key=lambda match: match.n_found)
    if len(targets.rows) == 1 and not beside:
        match = _scattered(tree, targets)
        if match.n_found == targets.count:
            return Located(root, match.paths, match.note(targets), "")
        best.several += match.several
    return Located(root, best.paths, best.note(targets), _missing(names, best, root, images))


def _relative(names: Sequence[str], home: Path, images: Path | None) -> list[str]:
    """Return the names, normalised, relative to the root; those that lead out of the root are refused."""
    root = home if images is None else images
    addresses = [name for name in names if _ADDRESS.match(name)]
    if addresses:
        msg = (
            f"{len(addresses)} of {len(names)} names are URLs, the first is {addresses[0]!r}; download the images "
            "first, then give the column of their file names as --path-column, and their folder as --images DIR"
        )
        raise InputError(msg)
    starts = _starts(root)
    tidy: list[str] = []
    outside: list[str] = []
    climbing = False
    for name in names:
        path = name
        if "\\" in path:  # tables written on Windows
            path = _BACKSLASH.sub("/", path)
        if path.startswith("/") or _DRIVE.match(path):
            start = next((start for start in starts if path.startswith(start)), None)
            if start is not None:
                path = path[len(start) :]
            elif os.path.exists(path):  # elsewhere on this machine: no file here may stand for it
                outside.append(path)
            path = path.lstrip("/")
        if "./" in path or "//" in path:
            path = posixpath.normpath(path)
            climbing = climbing or path.startswith("../")
        tidy.append(path)
    if climbing:  # the names are relative to the folder of the table
        places = [posixpath.normpath(f"{home.absolute()}/{path}") for path in tidy]
        start = next((start for start in starts if all(place.startswith(start) for place in places)), None)
        if start is None and images is None:
            outside += places
        tidy = [re.sub(r"^(\.\./)+", "", path) if start is None else place[len(start) :]
                for path, place in zip(tidy, places, strict=True)]  # fmt: skip
    if outside:
        folder = os.path.commonpath([posixpath.dirname(path) for path in outside])
        first = next(path for path in outside if not path.startswith(starts[0]))
        count = sum(not path.startswith(starts[0]) for path in outside)
        msg = (
            f"{count} of {len(names)} names lead out of {root}, the first to {first!r}; give the folder of "
            f"the images with --images {shlex.quote(folder)}"
        )
        raise InputError(msg)
    return tidy


def _starts(root: Path) -> list[str]:
    """Return how absolute paths below a folder begin: as the folder is named, and without links."""
    return [f"{place}/" for place in dict.fromkeys((str(root.absolute()), str(root.resolve())))]


_BACKSLASH = re.compile(r"\\(?!x[89a-f][0-9a-f])")
r"""A separator of folders; ``\xe9`` is a byte of a name that is not UTF-8, see `datamodules.files.paths.path_text`."""


class _Names:
    """Names, by their folders."""

    def __init__(self, names: list[str]) -> None:
        self.count = len(names)
        self.base: list[str] = [""] * len(names)
        self.rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            folder, _, self.base[row] = name.rpartition("/")
            self.rows.setdefault(folder, []).append(row)
        parts = [folder.split("/") if folder else [] for folder in self.rows]
        alike = (len(set(level)) == 1 for level in zip(*parts, strict=False))
        self.shared = sum(1 for _ in takewhile(bool, alike))  # folders that all names begin with
        self.parts = dict(zip(self.rows, parts, strict=True))
        sample = list(self.rows.items())[:: max(1, len(self.rows) // 3)]
        self.probes = [(folder, rows[place]) for folder, rows in sample for place in (0, len(rows) // 2, -1)]

    def folder(self, folder: str, drop: int, add: str) -> str:
        """Return where to look for the names of a folder."""
        return "/".join(filter(None, [add, *self.parts[folder][drop:]]))

    def match(self, tree: "_Tree", drop: int, add: str) -> "_Match":
        """Return which names are found without their first ``drop`` folders, below the folder ``add``."""
        match = _Match([None] * self.count, drop, add)
        for written, rows in self.rows.items():
            sought = self.folder(written, drop, add)
            folder = tree.folder(sought)
            if folder is None:
                continue
            files, prefix = tree.files(folder), f"{folder}/" if folder else ""
            for row in rows:
                base = self.base[row]
                if base in files:
                    match.paths[row] = prefix + base
                    continue
                fitting, way = tree.fitting(folder, base)
                if len(fitting) == 1:
                    match.paths[row] = prefix + fitting[0]
                    match.ways[way] += 1
                    if _form(fitting[0]) != _form(base):  # else both look the same
                        match.examples.setdefault(way, f"{fitting[0]} for {base}")
                elif fitting:
                    match.several.append((base, fitting))
            if folder != sought:
                match.ways[f"in folders spelt differently ({folder} for {sought})"] += len(rows)
        match.n_found = sum(path is not None for path in match.paths)
        return match


@dataclass
class _Match:
    """Files of names without their first ``drop`` folders, below the folder ``add``."""

    paths: list[str | None]
    drop: int = 0
    add: str = ""
    n_found: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    several: list[tuple[str, list[str]]] = field(default_factory=list)

    def note(self, names: _Names) -> str:
        """Return how the names were matched, in one sentence; "" if all are exact."""
        shown = {way: f" ({example})" for way, example in self.examples.items()}
        texts = [f"{count} names {way}{shown.get(way, '')}" for way, count in self.ways.most_common()]
        if self.drop:
            first = "/".join(next(iter(names.parts.values()))[: self.drop])
            texts.append(f"names used without {first}/ at their start")
        if self.add:
            texts.append(f"images found in {self.add}/")
        return "; ".join(texts)


class _Tree:
    """Folders below a root, each listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lookup = FileLookup(root)
        self._files: dict[str, set[str]] = {}
        self._keys: dict[str, tuple[dict[str, list[str]], dict[int, list[str]]]] = {}

    def folder(self, path: str) -> str | None:
        """Return a folder's path as the disk spells it; None if there is none."""
        return self._lookup.folder(path)

    def files(self, folder: str) -> set[str]:
        """Return the names of the files in a folder."""
        if folder not in self._files:
            self._files[folder] = set(self._lookup.files(folder))
        return self._files[folder]

    def fitting(self, folder: str, name: str) -> tuple[list[str], str]:
        """Return the files that a name may mean if none has exactly this name, and how they differ from it."""
        path = self._lookup.find(f"{folder}/{name}" if folder else name)
        if path is not None:
            base = path.rpartition("/")[2]
            return [base], "in another Unicode form" if _form(base) == _form(name) else "in another case"
        if (bare := name.strip()) != name:
            return (
                ([bare], "without the spaces around them") if bare in self.files(folder) else self.fitting(folder, bare)
            )
        by_stem, by_number = self._keys_of(folder)
        folded = _case(name)
        if files := by_stem.get(folded):
            return files, f"completed with {os.path.splitext(files[0])[1]}"
        if number := re.fullmatch(r"([0-9]+)(?:\.0+)?", folded):
            files = by_number.get(int(number[1]), [])
            return files, f"completed with {os.path.splitext(files[0])[1]}, ignoring leading zeros" if files else ""
        stem, ending = os.path.splitext(folded)
        return (by_stem.get(stem, []) if ending in IMAGE_SUFFIXES else []), "with another ending"

    def has(self, folder: str, name: str) -> bool:
        """Return whether a name may mean some file of a folder."""
        place = self.folder(folder)
        return place is not None and (name in self.files(place) or bool(self.fitting(place, name)[0]))

    @cached_property
    def below(self) -> list[str]:
        """All folders below the root, nearest first; hidden ones and links are left out."""
        folders = [""]
        for folder in folders:
            for name in self._lookup.folders(folder):
                place = f"{folder}/{name}".lstrip("/")
                hidden = name.startswith(".") or name == "__MACOSX"
                if len(folders) < _FOLDERS and not hidden and not os.path.islink(os.path.join(self.root, place)):
                    folders.append(place)
        return folders[1:]

    def _keys_of(self, folder: str) -> tuple[dict[str, list[str]], dict[int, list[str]]]:
        """Return the image files of a folder by their stem, and by the value of stems that are numbers."""
        if folder not in self._keys:
            images = [
                name for name in sorted(self.files(folder)) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
            ]
            numbers = [name for name in images if re.fullmatch(r"[0-9]+", os.path.splitext(name)[0])]
            self._keys[folder] = (
                _grouped(images, lambda name: _case(os.path.splitext(name)[0])),
                _grouped(numbers, lambda name: int(os.path.splitext(name)[0])),
            )
        return self._keys[folder]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _case(name: str) -> str:
    return _form(name).casefold()


def _grouped(names: Iterable[str], key: Callable[[str], Key]) -> dict[Key, list[str]]:
    groups: dict[Key, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _holder(tree: _Tree, names: _Names, drop: int, part: str) -> _Match:
    """Return the match in the one subfolder that contains all names, else in the one that contains most of them.

    Raises:
        InputError: Several folders contain all names.
    """
    best = _Match([None] * names.count)
    probes = [(names.folder(folder, drop, ""), names.base[row]) for folder, row in names.probes]
    holders: list[_Match] = []
    for add in tree.below:
        if not any(tree.has(f"{add}/{folder}".rstrip("/"), base) for folder, base in probes):
            continue
        match = names.match(tree, drop, add)
        if match.n_found == names.count:
            holders.append(match)
        best = max(best, match, key=lambda match: match.n_found)
    if len(holders) > 1 and part:
        holders = [match for match in holders if part in map(canonical_split, match.add.split("/"))] or holders
    if len(holders) > 1:
        listed = ", ".join(f"{match.add}/" for match in holders[:_SHOWN])
        choice = shlex.quote(f"{tree.root}/{holders[0].add}")
        msg = (
            f"{len(holders)} folders of {tree.root} contain all files of the table: {listed}; "
            f"choose one, such as --images {choice}"
        )
        raise InputError(msg)
    return holders[0] if holders else best


def _scattered(tree: _Tree, names: _Names) -> _Match:
    """Return the names that exactly one file in all subfolders has."""
    places: dict[str, list[str]] = {}
    for folder in tree.below:
        for file in tree.files(folder):
            places.setdefault(_form(file), []).append(f"{folder}/{file}")
    match = _Match([None] * names.count)
    for row, base in enumerate(names.base):
        files = places.get(_form(base), [])
        if len(files) == 1:
            match.paths[row] = files[0]
        elif files:
            match.several.append((base, sorted(files)))
    match.n_found = sum(path is not None for path in match.paths)
    folders = len({posixpath.dirname(path) for path in match.paths if path is not None})
    match.ways[f"found in {folders} subfolders"] = match.n_found
    return match


def _missing(names: Sequence[str], best: _Match, root: Path, images: Path | None) -> str:
    """Return how many names were not found, the first of them, where they were sought, and what to do."""
    missing = [name for name, path in zip(names, best.paths, strict=True) if path is None]
    first = ", ".join(repr(name) for name in missing[:_SHOWN])
    where = f"{root}/{best.add}" if best.n_found and best.add else f"{root} and its subfolders"
    msg = f"{len(missing)} of {len(names)} names are not found, the first: {first}; looked in {where}"
    if best.several:
        name, fitting = best.several[0]
        return f"{msg}. Several files fit {name!r}: {', '.join(fitting[:_SHOWN])}; write the full name in the table"
    if len(missing) < len(names):
        return f"{msg}; leave such rows out with --bad-records drop, or give another folder with --images DIR"
    if images is not None:
        return f"{msg}; give another folder with --images DIR, or correct the names"
    beside = _beside(missing[0], root)
    return f"{msg}; give the folder of the images with --images {'DIR' if beside is None else shlex.quote(str(beside))}"


def _beside(name: str, root: Path) -> Path | None:
    """Return the folder beside the root that holds a name, if there is one."""
    if name.startswith("/") or ".." in name:
        return None
    try:
        folders = sorted(folder for folder in root.parent.iterdir() if folder.is_dir() and folder != root)
    except OSError:
        return None
    names = _Names([_BACKSLASH.sub("/", name)])
    for folder in folders[:1000]:
        tree = _Tree(folder)
        if any(names.match(tree, drop, "").n_found for drop in range(names.shared + 1)):
            return folder
    return None
