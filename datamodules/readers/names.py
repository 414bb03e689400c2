"""Readers of labels in file names: a pattern given by the user, CAFE, and NIMH-ChEFS.

Access to both sets is restricted and their file names differ by release, so each pattern can be replaced by the user's
(``--data cafe:FOLDER --pattern ...``); the values of its groups are still translated and the age is still added.

CAFE (LoBue and Thrasher 2015): children of 2 to 8 years; seven expressions, most of them posed with closed and with
open mouth, disgust also with the tongue out, surprise only with open mouth. A name gives the child as sex, ancestry
and number (``F-AA-01``), and the expression as a word, followed by ``open`` where the mouth is open (``angryopen``).

NIMH-ChEFS (Egger and others 2011): 10 to 17 years; five expressions, looking at the camera or away from it. A name
gives the person as sex and number, a letter for the expression, one for the gaze, and the image's number:
``M10HS_6767.jpg`` is a boy, number 10, happy, looking straight.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
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


def looks_like(path: Path) -> bool:
    """Return False: other sets have similar file names."""
    return False


def read_cafe(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read CAFE: label, subject, gender, race, mouth (open, closed, tongue) and age (child)."""
    return read_named(CAFE, path, options, name)


def read_nimh(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read NIMH-ChEFS: label, subject, gender, gaze (direct, averted) and age (adolescent)."""
    return read_named(NIMH, path, options, name)


def read_named(naming: Naming, path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read a folder by a set's pattern, or by the one in the options.

    Raises:
        InputError: A pattern without a subject, since then a person could stand in two folds; names that do not match.
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
