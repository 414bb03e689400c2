"""Readers of labels in file names: a pattern given by the user, CAFE, NIMH-ChEFS, JAFFE, KDEF and RaFD.

Access to CAFE and NIMH-ChEFS is restricted and their file names differ by release, so each pattern can be replaced by
the user's (``--data cafe:FOLDER --pattern ...``); the values of its groups are still translated and the age is still
added. JAFFE, KDEF and RaFD are recognised by their file names.

CAFE (LoBue and Thrasher 2015): children of 2 to 8 years; seven expressions, most of them posed with closed and with
open mouth, disgust also with the tongue out, surprise only with open mouth. A name gives the child as sex, ancestry
and number (``F-AA-01``), and the expression as a word, followed by ``open`` where the mouth is open (``angryopen``).

NIMH-ChEFS (Egger and others 2011): 10 to 17 years; five expressions, looking at the camera or away from it. A name
gives the person as sex and number, a letter for the expression, one for the gaze, and the image's number:
``M10HS_6767.jpg`` is a boy, number 10, happy, looking straight.

JAFFE (Lyons and others 1998): ten Japanese women; person, expression and its number, and the image's number:
``KA.AN1.39.tiff`` is KA, angry.

KDEF (Lundqvist, Flykt and Oehman 1998): 70 adults, each photographed in two sessions from five angles:
``AF01ANS.JPG`` is session A, woman 01, angry, straight.

RaFD (Langner and others 2010): camera angle, person, group, gender, expression and gaze:
``Rafd090_01_Caucasian_female_angry_frontal.jpg``.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.files.image_files import IMAGE_SUFFIXES
from datamodules.labels import canonical
from datamodules.manifest import Manifest
from datamodules.readers.base import ReadOptions, finish, image_files


def pattern_looks_like(path: Path) -> bool:
    """Return False: this reader is used only with a pattern."""
    return False


def read_pattern(path: Path, options: ReadOptions, name: str) -> Manifest:
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
    """Read a folder by a pattern; `translated` turns the values of its groups in a path into columns."""
    if not path.is_dir():
        msg = f"this reader reads a folder of images, got the file {path}"
        raise InputError(msg)
    files = image_files(path)
    if not files:
        msg = f"no images found in {path}"
        raise InputError(msg)
    expression = re.compile(pattern)
    if "path" in expression.groupindex:
        msg = "pattern: a group may not be called path, that is the image's own column"
        raise InputError(msg)
    matches = [expression.search(f) for f in files]
    missed = [f for f, match in zip(files, matches, strict=True) if match is None]
    notes: tuple[str, ...] = ()
    if missed:
        msg = f"{len(missed)} of {len(files)} images do not match {pattern!r}, the first is {missed[0]!r}"
        if options.unknown_labels != "drop" or len(missed) == len(files):
            msg += "; correct the pattern, or leave such images out with --unknown-labels drop"
            raise InputError(msg)
        notes = (msg + " and were left out",)
    rows = [
        {"path": f, **translated(match.groupdict(default=""))}
        for f, match in zip(files, matches, strict=True)
        if match is not None
    ]
    return finish(pd.DataFrame(rows), path, name, options, notes)


Words = dict[str, str]


@dataclass(frozen=True)
class Naming:
    """File-name pattern of one data set.

    Attributes:
        called: Name of the reader.
        pattern: Regular expression with the named groups label and subject, and any others.
        meanings: By group, the meaning of its values; other values stay unchanged.
        defaults: By group, the value if a file name does not give it; by label where it differs.
        constant: Columns that are the same for all images, unless the pattern gives them.
    """

    called: str
    pattern: str
    meanings: dict[str, Words]
    defaults: dict[str, Words]
    constant: Words


_SEX = {"f": "female", "m": "male"}
CAFE = Naming(
    called="cafe",
    pattern=(
        r"(?i)(?<![a-z])(?P<subject>(?P<gender>[fm])[-_ ]?(?P<race>AA|AS|EA|LA|SA)[-_ ]?\d+)(?!\d)[^/]*?"
        r"(?P<label>angry|anger|disgust(?:ed)?|fear(?:ful)?|happy|neutral|sad|surprised?)"
        r"[-_ ]?(?:with)?[-_ ]?(?P<mouth>open|closed|tongue)?"
    ),
    meanings={
        "gender": _SEX,
        "race": {
            "aa": "African American",
            "as": "Asian",
            "ea": "European American",
            "la": "Latino",
            "sa": "South Asian",
        },
    },
    defaults={"mouth": {"": "closed", "surprise": "open", "surprised": "open"}},
    constant={"age": "child"},
)
NIMH = Naming(
    called="nimh",
    pattern=r"(?i)(?<![a-z])(?P<subject>(?P<gender>[fm])\d+)[-_ ]?(?P<label>[afhns])[-_ ]?(?P<gaze>[asd])(?![a-z])",
    meanings={
        "gender": _SEX,
        "label": {"a": "angry", "f": "fear", "h": "happy", "n": "neutral", "s": "sad"},
        "gaze": {"s": "direct", "d": "direct", "a": "averted"},
    },
    defaults={},
    constant={"age": "adolescent"},
)
JAFFE = Naming(
    called="jaffe",
    pattern=r"(?i)(?<![a-z])(?P<subject>[a-z]{2})\.(?P<label>an|di|fe|ha|ne|sa|su)\d*\.\d+\.",
    meanings={
        "label": {
            **{"an": "angry", "di": "disgust", "fe": "fear", "ha": "happy"},
            **{"ne": "neutral", "sa": "sad", "su": "surprise"},
        }
    },
    defaults={},
    constant={"gender": "female"},
)
KDEF = Naming(
    called="kdef",
    pattern=(
        r"(?i)(?<![a-z0-9])(?P<session>[ab])(?P<subject>(?P<gender>[fm])\d\d)(?P<label>af|an|di|ha|ne|sa|su)"
        r"(?P<angle>fl|hl|hr|fr|s)(?![a-z0-9])"
    ),
    meanings={
        "gender": _SEX,
        "label": {
            **{"af": "fear", "an": "angry", "di": "disgust", "ha": "happy"},
            **{"ne": "neutral", "sa": "sad", "su": "surprise"},
        },
        "angle": {"fl": "full left", "hl": "half left", "s": "straight", "hr": "half right", "fr": "full right"},
    },
    defaults={},
    constant={},
)
RAFD = Naming(
    called="rafd",
    pattern=(
        r"(?i)(?<![a-z])rafd(?P<angle>\d{3})_(?P<subject>\d+)_(?=(?P<age>kid_)?)(?P<race>[a-z]+)_"
        r"(?P<gender>female|male)_(?P<label>[a-z]+)_(?P<gaze>frontal|left|right)"
    ),
    meanings={"age": {"kid_": "child"}, "race": {"kid": "Caucasian"}},  # the children of RaFD are Caucasian
    defaults={"age": {"": "adult"}},
    constant={},
)

_STRAY = 0.1  # share of images with other names, up to which people are known who have one image each
RAFDB_NAME = re.compile(r"(?:train|test)_\d+(?:_aligned)?\.\w+$")  # RAF-DB: train_00001_aligned.jpg
PEOPLE = {
    "CK+": r"(?P<subject>S\d{3})_\d{3}_\d{8}(?!\d)",  # S010_004_00000017.png: person, sequence, frame
    "JAFFE": JAFFE.pattern,
    "KDEF": KDEF.pattern,
    "RaFD": RAFD.pattern,
}
"""By data set, the pattern of file names that give the person."""


def people_in_names(paths: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the data sets whose file names these are, with counts if there are others, and each image's person or "".

    None if few images have such names and no two of them one person: without people, images of one person would be
    trained and tested on, also where most images have other names.
    """
    names = [os.path.basename(path) for path in paths]
    people, counts = [""] * len(names), Counter[str]()
    for source, pattern in PEOPLE.items():
        expression = re.compile(pattern)
        for row, name in enumerate(names):
            if not people[row] and (match := expression.match(name)):
                people[row] = match["subject"].upper()
                counts[source] += 1
        if counts.total() == len(names):
            break
    others = len(names) - counts.total()
    repeated = max(Counter(filter(None, people)).values(), default=0) > 1
    if not counts or (others > _STRAY * len(names) and not repeated):
        return None
    if len(counts) == 1 and not others:
        return next(iter(counts)), people
    return " and ".join(f"{source} ({count} images)" for source, count in counts.items()), people


def first_images(folder: Path, depth: int = 4) -> Iterator[Path]:
    """Yield images below a folder as the file system lists them, for a look at a few of their names.

    In each folder the first 2000 entries are looked at.
    """
    below = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, 2000):
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                    yield Path(entry.path)
    except OSError:
        return
    for place in sorted(below) if depth else ():
        yield from first_images(place, depth - 1)


def unwrapped(path: Path) -> list[Path]:
    """Return a path, and the folders below it as long as each holds one folder and no image."""
    places = [path]
    while places[-1].is_dir() and len(places) < 5:
        folders: list[Path] = []
        try:
            with os.scandir(places[-1]) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "__MACOSX")):
                        continue
                    if entry.is_dir():
                        folders.append(Path(entry.path))
                    if len(folders) > 1 or os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                        return places
        except OSError:
            return places
        if not folders:
            return places
        places += folders
    return places


def looks_like(path: Path) -> bool:
    """Return False: other sets have similar file names."""
    return False


def jaffe_looks_like(path: Path) -> bool:
    """Return whether the first images of a folder are named as in JAFFE."""
    return _named_like(JAFFE, path)


def kdef_looks_like(path: Path) -> bool:
    """Return whether the first images of a folder are named as in KDEF."""
    return _named_like(KDEF, path)


def rafd_looks_like(path: Path) -> bool:
    """Return whether the first images of a folder are named as in RaFD."""
    return _named_like(RAFD, path)


def _named_like(naming: Naming, path: Path) -> bool:
    """Return whether the first images match; not below class folders, which the reader `folder` reads."""
    if not path.is_dir():
        return False
    first = list(islice(first_images(path), 20))
    expression = re.compile(naming.pattern)
    return bool(first) and all(
        expression.match(file.name) and not any(canonical(part) for part in file.relative_to(path).parts[:-1])
        for file in first
    )


def read_cafe(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read CAFE: label, subject, gender, race, mouth (open, closed, tongue) and age (child)."""
    return read_named(CAFE, path, options, name)


def read_nimh(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read NIMH-ChEFS: label, subject, gender, gaze (direct, averted) and age (adolescent)."""
    return read_named(NIMH, path, options, name)


def read_jaffe(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read JAFFE: label, subject and gender (female)."""
    return read_named(JAFFE, path, options, name)


def read_kdef(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read KDEF: label, subject, gender, session (A, B) and angle (full left, half left, straight ...)."""
    return read_named(KDEF, path, options, name)


def read_rafd(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read RaFD: label, subject, gender, race, age (adult, child), angle (000 to 180) and gaze."""
    return read_named(RAFD, path, options, name)


def read_named(naming: Naming, path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read a folder by a set's pattern, or by the one in the options.

    Raises:
        InputError: A pattern without a subject, since then a person could be in two folds; names that do not match.
    """
    chosen = options.pattern or naming.pattern
    if "subject" not in re.compile(chosen).groupindex:
        msg = (
            f"pattern {chosen!r} has no group named subject; the images of a person of this set must stay in one "
            "fold: write it as (?P<subject>...)"
        )
        raise InputError(msg)

    def translated(groups: Words) -> Words:
        known = {key: value or _default(naming, key, groups) for key, value in groups.items()}
        columns = {key: naming.meanings.get(key, {}).get(value.lower(), value) for key, value in known.items()}
        columns["subject"] = re.sub(r"[-_ ]", "", columns["subject"]).upper()  # F-AA-01 and F_AA_01 are one child
        return naming.constant | columns

    try:
        return read_matching(path, options, name, chosen, translated)
    except InputError as error:
        if "do not match" not in str(error) or options.pattern is not None:
            raise
        msg = f"{naming.called}: {error}; if this release names its files differently, give its pattern with --pattern"
        raise InputError(msg) from error


def _default(naming: Naming, group: str, groups: Words) -> str:
    meant = naming.defaults.get(group, {})
    return meant.get(groups.get("label", "").lower(), meant.get("", ""))
