"""Reader of images in class folders, which may lie in folders of parts: `train/happy/1.png`.

Outer folders that only contain another folder are looked through (`archive/MyFaces/happy`,
`training_set/training_set/happy`), so a folder of folders is never taken for an emotion.
"""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import VOCABULARIES, canonical, canonical_split
from datamodules.layouts import advice
from datamodules.manifest import Manifest
from datamodules.readers.base import ReadOptions, finish, image_files, resolve
from datamodules.readers.names import RAFDB_NAME, people_in_names

RAFDB_NUMBERS = {str(number): name for number, name in enumerate(VOCABULARIES["rafdb"], 1)}


def looks_like(path: Path) -> bool:
    """Return whether the path is a folder, since any folder may have class folders."""
    return path.is_dir()


def read(path: Path, options: ReadOptions, name: str, numbers: Mapping[str, str] | None = None) -> Manifest:
    """Read images whose class folder is the label; deeper folders belong to the same class.

    The class folders are searched from the top. Folders called train, val_set, Testing and the like are parts. An
    image beside the class folders (a logo, a sample sheet) is left out and noted, as is an empty class folder, and a
    part without class folders, whose images `emotion predict` can classify. Names of files that give the person, as
    those of CK+, KDEF, JAFFE and RaFD do, are used for ``subject``; a note counts the files with other names.

    Args:
        path: The folder.
        options: How labels are named.
        name: Name of the data set.
        numbers: Meaning of class folders that are numbers; those of RAF-DB are recognised by their file names.

    Raises:
        InputError: No image anywhere, images in no class folder, part folders beside class folders, or class folders
            in several places; the message names the folder to give.
    """
    if not path.is_dir():
        msg = f"the reader 'folder' reads a folder of class folders, got the file {path}"
        raise InputError(msg)
    files = image_files(path)
    if not files:
        msg = (
            f"no images found in {path}; expected one folder per class, such as {path.name}/happy/1.jpg. {advice(path)}"
        )
        raise InputError(msg)
    if numbers is None:
        numbers = RAFDB_NUMBERS if all(RAFDB_NAME.match(os.path.basename(file)) for file in files[:20]) else {}
    tree = _tree(Counter(file.rpartition("/")[0] for file in files))
    search = _Search(path, options, numbers)
    classes = search.named(tree, "") or search.unknown(tree, "")
    if not classes:
        msg = (
            f"{len(files)} images in {path} are in no class folder, the first is {files[0]!r}; move them into one "
            f"folder per class, or give their labels in a table or by --pattern. {_above(path, options)}"
        )
        raise InputError(msg)
    table, stray = _placed(files, classes)
    left_out = {file for file in stray if any(file.startswith(f"{folder}/") for folder in search.left_out)}
    stray = [file for file in stray if file not in left_out]
    unclassified = [file for file in stray if any(file.startswith(f"{folder}/") for folder in search.parts)]
    if unclassified:
        msg = (
            f"{len(unclassified)} images in {path} are in no class folder, the first is {unclassified[0]!r}; move them "
            "into class folders"
        )
        raise InputError(msg)
    if "split" in table:
        table["split"] = table["split"].map({part: _part(part) for part in table["split"].unique()}.get)
    notes = [f"{len(stray)} images beside the class folders left out, the first is {stray[0]!r}"] if stray else []
    notes += [
        f"{sum(f.startswith(f'{key}/') for f in left_out)} images left out: {why}"
        for key, why in search.left_out.items()
    ]
    notes += [f"the class folder {folder} holds no images" for folder in search.empty_classes(classes)]
    meant = {label: numbers[label] for label, _ in classes.values() if label in numbers}
    for label in sorted(set(meant) & set(options.aliases or {})):
        del meant[label]  # the user's own meaning
    if meant:
        table["label"] = table["label"].map(lambda label: meant.get(label, label))
        notes.append("class folders that are numbers: " + ", ".join(f"{key} is {meant[key]}" for key in sorted(meant)))
    if people := people_in_names(table["path"].tolist()):
        source, table["subject"] = people
        others = int(table["subject"].eq("").sum())
        of_others = (
            f"; {others} of {len(table)} images have other names, and no person, so images of one person among them "
            "may be in several folds: give their people in the column subject of the table that `emotion data prepare "
            f"--data {_quoted(path)} --output FILE.csv` writes"
            if others
            else ""
        )
        notes.append(f"people (subject) are read from the file names, which are those of {source}{of_others}")
    if "split" not in table:
        notes += _parts_beside(path)
    return finish(table, path, name, options, tuple(notes))


def _part(name: str) -> str | None:
    """Return the part that a folder's name contains, also as one word of several: `seg_train`, `FER2013Test`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_a-zA-Z]+", name)
    parts = {part for word in words if (part := canonical_split(word))}
    if len(parts) != 1 or any(canonical(word) for word in words):
        return canonical_split(name)
    return canonical_split(name) or parts.pop()


def _parts(names: list[str]) -> list[str]:
    """Return the folders beside each other that are parts, not people: `Test subject 1`, `Test subject 2`."""
    parts = {name: part for name in names if (part := _part(name))}
    alike = len(parts) > 1 and len(set(parts.values())) == 1
    numbered = any(canonical_split(re.sub(r"[\W_]*\d+$", "", name)) for name in parts)  # train_1, train_2
    return [] if alike and not numbered else list(parts)


@dataclass
class _Folder:
    """A folder that has images in or below it."""

    path: str  # relative, "" for the top
    own: int = 0  # images directly in it
    below: dict[str, "_Folder"] = field(default_factory=dict)


def _tree(counts: Mapping[str, int]) -> _Folder:
    top = _Folder("")
    for folder, count in counts.items():
        node = top
        for part in folder.split("/") if folder else ():
            node = node.below.setdefault(part, _Folder(f"{node.path}/{part}" if node.path else part))
        node.own = count
    return top


Classes = dict[str, tuple[str, str]]  # class folder -> label, part ("" without parts)


@dataclass
class _Search:
    """Search of the class folders from the top; remembers what it leaves out, and the folders of parts."""

    root: Path
    options: ReadOptions
    numbers: Mapping[str, str]
    left_out: dict[str, str] = field(default_factory=dict)  # folder -> why its images are left out
    parts: list[str] = field(default_factory=list)

    def _is_class(self, name: str) -> bool:
        return name in self.numbers or resolve(name, self.options) is not None

    def named(self, node: _Folder, part: str) -> Classes:
        """Return the class folders at or below a folder whose names are known emotions; {} if there are none."""
        labels = [name for name in node.below if self._is_class(name)]
        parts = _parts([name for name in node.below if name not in labels])
        others = [name for name in node.below if name not in labels and name not in parts]
        if parts and labels:
            raise self._mixed(node, parts, labels + others)
        if len(labels) == 1 and not others:  # a wrapping folder may be called like an emotion: `content/happy`
            inner = self.named(node.below[labels[0]], part)
            if len({label for label, _ in inner.values()}) > 1:
                return inner
        if labels:
            return self._level(node, part)
        if parts:
            return self._of_parts(node, parts, others)
        by_name = {name: classes for name in others if (classes := self.named(node.below[name], part))}
        if len(by_name) > 1:
            raise self._several(node, sorted(by_name))
        for name in others:
            if by_name and name not in by_name:
                self._leave(node.below[name], "no class folders")
        return next(iter(by_name.values()), {})

    def _of_parts(self, node: _Folder, parts: list[str], others: list[str]) -> Classes:
        by_name = {name: self.named(node.below[name], name) for name in parts}
        if not any(by_name.values()):
            return {}
        if nested := [name for name in others if self.named(node.below[name], "")]:
            raise self._mixed(node, parts, nested)
        for name in (*parts, *others):
            if not by_name.get(name):
                self._leave(node.below[name], "no class folders")
        self.parts += [node.below[name].path for name in parts if by_name[name]]
        return {folder: value for classes in by_name.values() for folder, value in classes.items()}

    def unknown(self, node: _Folder, part: str) -> Classes:
        """Return the class folders where none has a name that is known; {} if nothing looks like class folders."""
        kids = list(node.below.values())
        if parts := _parts(list(node.below)):
            by_name = {name: self.unknown(node.below[name], name) for name in parts}
            if any(by_name.values()):
                self.parts += [node.below[name].path for name in by_name if by_name[name]]
                for name, kid in node.below.items():
                    if not by_name.get(name):
                        self._leave(kid, "no class folders")
            return {folder: value for classes in by_name.values() for folder, value in classes.items()}
        if len(kids) == 1 and kids[0].below:
            return self.unknown(kids[0], part)
        any_name = self.options.unknown_labels != "error"
        if len(kids) > 1 and (any_name or any(kid.own for kid in kids)):
            return self._level(node, part)
        return {}

    def _level(self, node: _Folder, part: str) -> Classes:
        """Return the folders below a folder as classes; parts may be below the classes, too: `happy/train`."""
        classes: Classes = {}
        halves = [kid.below for kid in node.below.values()]
        inner = not part and all(
            kid.own == 0 and kid.below and len(_parts(list(kid.below))) == len(kid.below) for kid in node.below.values()
        )
        for (name, kid), below in zip(node.below.items(), halves, strict=True):
            if inner:
                classes |= {half.path: (name, half_name) for half_name, half in below.items()}
            else:
                classes[kid.path] = (name, part)
        return classes

    def _leave(self, folder: _Folder, what: str) -> None:
        place = shlex.quote(str(self.root / folder.path))
        self.left_out[folder.path] = f"{folder.path} has {what}; `emotion predict RUN {place}` classifies them"

    def _mixed(self, node: _Folder, parts: list[str], others: list[str]) -> InputError:
        place = self.root / node.path
        first = shlex.quote(str(place / sorted(parts)[0]))
        msg = (
            f"{place} has split folders ({', '.join(sorted(parts))}) beside other folders "
            f"({', '.join(sorted(others)[:10])}); move one kind elsewhere, or give one folder: --data {first}"
        )
        return InputError(msg)

    def _several(self, node: _Folder, names: list[str]) -> InputError:
        place = self.root / node.path
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        msg = (
            f"{place} has class folders in several places ({listed}); give the one to read: "
            f"--data {shlex.quote(str(place / names[0]))}"
        )
        if len(names) > 2:
            msg += r", or all with --pattern '(?P<subject>[^/]+)/(?P<label>[^/]+)/[^/]+$' if these are people"
        return InputError(msg)

    def empty_classes(self, classes: Classes) -> Iterator[str]:
        """Yield the folders beside the class folders that are called like an emotion and have no images."""
        for level in sorted({folder.rpartition("/")[0] for folder in classes}):
            for folder in sorted(os.listdir(self.root / level)):
                path = f"{level}/{folder}" if level else folder
                if path not in classes and canonical(folder) and (self.root / path).is_dir():
                    if not any(other.startswith(f"{path}/") for other in classes):
                        yield path


def _placed(files: list[str], classes: Classes) -> tuple[pd.DataFrame, list[str]]:
    """Return path, label and, if there are parts, split of the images in class folders; and the other images."""
    owner: dict[str, str | None] = {}
    rows, stray = [], []
    for file in files:
        folder = file.rpartition("/")[0]
        if folder not in owner:
            above = folder
            while above and above not in classes:
                above = above.rpartition("/")[0]
            owner[folder] = above or None
        if (chosen := owner[folder]) is None:
            stray.append(file)
        else:
            rows.append((file, *classes[chosen]))
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    return (table if any(part for _, part in classes.values()) else table.drop(columns="split")), stray


def _above(path: Path, options: ReadOptions) -> str:
    """Return the advice for a folder without class folders, which may itself be one of them."""
    if resolve(path.name, options) or path.name in RAFDB_NUMBERS:
        above = path.parent.parent if _part(path.parent.name) else path.parent
        return f"{path.name} looks like one class folder of several: give the folder above, --data {_quoted(above)}"
    return advice(path)


def _parts_beside(path: Path) -> list[str]:
    """Return a note if the folder is one part of a set whose other parts lie beside it."""
    if (own := _part(path.name)) is None:
        return []
    try:
        beside = [entry.name for entry in os.scandir(path.parent) if os.path.isdir(entry.path)]
    except OSError:
        return []
    others = sorted(name for name in beside if _part(name) not in (None, own))
    if not others:
        return []
    return [
        f"only {path.name} is read; to read {', '.join(others)} beside it as another part, give --data "
        f"{_quoted(path.parent)}"
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
