"""Reading options: how a data set is read, and how commands spell these options.

Every field of `ReadOptions` is an option of every command that reads data, in a long spelling
(``--data.read.unknown_labels drop``) and a short one (``--unknown-labels drop``). Both are derived from the fields
here, so a new field needs nothing else. This module imports no pandas, since ``--help`` reads it.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from datamodules.errors import InputError, invalid

Votes = Literal["ignore", "majority", "soft"]
Unknown = Literal["error", "drop", "keep"]
Agreement = Literal["any", 2, 3]
BadRecords = Literal["error", "drop"]


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    Args:
        pattern: regular expression that is searched in each image's path, with the named group ``label``; the groups
            ``subject`` and ``split`` are optional, and others become subgroup columns. Selects the reader ``pattern``.
        votes: how annotators' votes are used: ``ignore`` (keep the published label), ``majority`` (the most frequent
            answer becomes the label) or ``soft`` (the same, and the shares of the votes become the training target).
        drop_ties: with votes, leave out images with a tie for the most frequent answer. Otherwise the published label
            decides if it is among the tied ones, else the class order.
        drop_unknown: with votes, leave out images that most annotators call unknown or not a face (to keep them:
            ``--keep-unknown``). An image without any vote for an emotion is always left out.
        classes: use only these classes, given by name or alias; images of other classes are left out.
        aliases: other names of classes, such as ``furious=angry`` (in Python ``{"furious": "angry"}``);
            ``confused=confused`` adds a class, and ``contempt=disgust`` merges one class into another.
        images: folder of the images that a table names, if they are not in the table's folder or below it.
        path_column: column of a table with the file names; by default a column with one of the usual names.
        label_column: column of a table with the label.
        subject_column: column of a table with the person or source.
        split_column: column of a table with the given split.
        unknown_labels: for labels that are not known emotions: ``error`` stops and lists them, ``drop`` leaves their
            images out, ``keep`` makes them classes with their own names.
        part: use this share of the images of every class (and of every part of a given split), above 0 and below 1;
            at least one of each. The same share of the same data always selects the same images; equal files are kept
            or left out together.
        agreement: use only images whose label this many annotators gave: ``3``, ``2`` (or more) or ``any``. Needs a
            data set with the answer of each annotator (AI-Hub's).
        per_class: use this many images of every class: first those that most annotators agree on, then at random. The
            same number always selects the same images of the same data.
        bad_records: for records of an annotation file that lack a key or have a box outside the image, for rows of a
            table that name a missing file or contradict each other, and for samples of WebDataset whose files give
            different labels: ``error`` stops and names them, ``drop`` leaves them out.
        exclude: table (CSV, TSV, JSON lines or Parquet) of images to leave out, such as the one that `emotion report
            labels --output` writes: a column ``path`` with paths as in the manifest, or else ``row`` with row numbers
            of the data read without this option. It is applied last; an unknown image is an error.
        faces: cut the faces out first, once: with ``haar``, ``yunet:FILE``, ``FILE.onnx`` (a detector trained here) or
            ``boxes`` (those of the data set). Images without a face stay whole.
        face_size: side of the face crops in pixels.
        face_margin: share of the box's longer side that is added on each side.
    """

    pattern: str | None = None
    votes: Votes = "ignore"
    drop_ties: bool = False
    drop_unknown: bool = True
    classes: list[str] | None = None
    aliases: dict[str, str] | None = None
    images: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    subject_column: str | None = None
    split_column: str | None = None
    unknown_labels: Unknown = "error"
    part: float | None = None
    agreement: Agreement = "any"
    per_class: int | None = None
    bad_records: BadRecords = "error"
    exclude: str | None = None
    faces: str | None = None
    face_size: int = 500
    face_margin: float = 0.25

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                rule = f"must be one of {', '.join(map(str, get_args(kind)))}"
                raise invalid(short_word(name), rule, getattr(self, name))
        if self.part is not None and not 0 < self.part < 1:
            raise invalid(
                "--data.read.part", "must be above 0 and below 1", self.part, "leave it out to use all images"
            )
        if self.per_class is not None and self.per_class < 1:
            raise invalid("--per-class", "must be at least 1", self.per_class, "leave it out to use all images")
        if self.per_class is not None and self.part is not None:
            msg = f"--data.read.part {self.part} and --per-class {self.per_class} both limit the number of images; "
            raise InputError(msg + "give only one")
        if not 8 <= self.face_size <= 4096:
            raise invalid("--face-size", "must be from 8 to 4096 pixels", self.face_size)
        if not 0 <= self.face_margin <= 10:
            raise invalid("--face-margin", "must be from 0 to 10", self.face_margin)
        if self.drop_ties and self.votes == "ignore":
            msg = "--drop-ties: needs votes, which are ignored; add --votes majority or --votes soft"
            raise InputError(msg)
        if self.classes is not None and len(set(self.classes)) < 2:
            raise invalid("--classes", "must name at least 2 different classes", ", ".join(self.classes) or "none")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise invalid("--pattern", f"must be a regular expression ({error})", self.pattern) from error
            if "label" not in groups:
                msg = f"--pattern: {self.pattern!r} has no group named label; write it as (?P<label>...)"
                raise InputError(msg)


LONG = "--data.read."  # before a field's name
Form = Literal["value", "flag", "list", "names"]  # list: several words; names: NAME=CLASS, several times


@dataclass(frozen=True)
class Spelling:
    """How commands spell one field of `ReadOptions`.

    Attributes:
        name: the field.
        words: short spellings, the usual one first.
        form: what follows a short spelling.
        sets: value that a flag sets, as text.
        choices: the allowed values, as text; empty if any value is allowed.
        about: what the option does, from the docstring of `ReadOptions`.
        default: the field's default.
    """

    name: str
    words: tuple[str, ...]
    form: Form
    sets: str
    choices: tuple[str, ...]
    about: str
    default: object

    @property
    def long(self) -> str:
        """The long spelling."""
        return LONG + self.name

    @property
    def metavar(self) -> str:
        """What stands for the value in a help text."""
        if self.choices:
            return "|".join(self.choices)
        usual = {"names": "NAME=CLASS", "list": "CLASS"}.get(self.form, self.name.rpartition("_")[2].upper())
        return {"images": "DIR", "exclude": "FILE", "part": "SHARE", "per_class": "N", "faces": "DETECTOR"}.get(
            self.name, usual
        )

    def read(self, texts: Sequence[str]) -> Any:  # noqa: ANN401 - the value of any field
        """Return the value of the words after an option; a plain text is checked by `ReadOptions`.

        Raises:
            InputError: a name without a class.
        """
        if self.form not in ("list", "names"):
            return texts[0]
        if len(texts) == 1 and (texts[0].strip()[:1] in ("[", "{") or texts[0] == "null"):
            try:
                return yaml.safe_load(texts[0])
            except yaml.YAMLError as error:
                raise invalid(self.words[0], "must be readable as YAML", texts[0]) from error
        if self.form == "list":
            names = texts[0].split(",") if len(texts) == 1 else texts
            return [name.strip() for name in names if name.strip()]
        pairs = {}
        for text in texts:
            name, sign, meaning = text.partition("=")
            if not (name and sign and meaning):
                raise invalid(self.words[0], "must be NAME=CLASS, such as furious=angry", text)
            pairs[name] = meaning
        return pairs


@functools.cache
def spellings() -> dict[str, Spelling]:
    """Return the spellings of every field of `ReadOptions`, by its name."""
    about, hints = _documented(), get_type_hints(ReadOptions)
    return {field.name: _spelling(field.name, hints[field.name], field.default, about) for field in fields(ReadOptions)}


def _spelling(name: str, hint: Any, default: object, about: dict[str, str]) -> Spelling:  # noqa: ANN401 - a type
    kinds = [kind for kind in (get_args(hint) if get_origin(hint) is not Literal else (hint,)) if kind is not NoneType]
    kind = kinds[0] if kinds and get_origin(hint) not in (list, dict) else hint
    word = f"--{name.replace('_', '-')}"
    form: Form = "value"
    words: tuple[str, ...] = (word,)
    sets = ""
    if kind is bool:
        form, sets = "flag", "false" if default is True else "true"
        if default is True:  # what is done by default is turned off: drop_unknown by --keep-unknown
            words = (word.replace("--drop-", "--keep-") if "--drop-" in word else f"--no-{word[2:]}",)
    elif get_origin(kind) is list:
        form = "list"
    elif get_origin(kind) is dict:
        form, words = "names", ("--alias", word)
    choices = tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
    return Spelling(name, words, form, sets, choices, about.get(name, ""), default)


def _documented() -> dict[str, str]:
    """Return the description of each field in the docstring of `ReadOptions`."""
    section = (ReadOptions.__doc__ or "").partition("Args:\n")[2]
    entries = re.split(r"^ {8}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.replace("``", "").split()) for name, text in zip(entries[::2], entries[1::2], strict=True)
    }


def as_words(options: ReadOptions) -> list[str]:
    """Return the command-line words of the options that are not at their defaults, as ``--data.read.votes=soft``."""
    given = {name: getattr(options, name) for name in spellings()}
    changed = {name: value for name, value in given.items() if value != spellings()[name].default}
    texts = {n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in changed.items()}
    return [f"{spellings()[name].long}={text}" for name, text in texts.items()]


def short_word(name: str) -> str:
    """Return the usual short spelling of a field, such as ``--alias`` of ``aliases``."""
    return spellings()[name].words[0]


@functools.cache
def short_words() -> dict[str, Spelling]:
    """Return the spelling of each short word; ``--per-class`` and ``--per_class`` are the same word."""
    dashed = {word: spelling for spelling in spellings().values() for word in spelling.words}
    return dashed | {f"--{word[2:].replace('-', '_')}": spelling for word, spelling in dashed.items()}
