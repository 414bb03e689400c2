"""Shared by all readers: read options, the image files of a folder, and canonical label names."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from datamodules.errors import InputError, nearest
from datamodules.image_files import image_files as image_files  # readers take it from here
from datamodules.labels import canonical, canonical_split, names_of_labels, plain
from datamodules.manifest import Manifest, make_manifest, plain_text
from datamodules.readers.subsets import agreed, draw_evenly, take_part

Votes = Literal["ignore", "majority", "soft"]
Unknown = Literal["error", "drop", "keep"]
Agreement = Literal["any", 2, 3]
BadRecords = Literal["error", "drop"]


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    Args:
        pattern: regular expression with named groups (``label``, and any of ``subject``, ``split`` and own groups),
            searched in each image's path; selects the reader ``pattern``.
        votes: how annotators' votes are used: ``ignore`` (keep the published label), ``majority`` (the most frequent
            answer becomes the label) or ``soft`` (the same, and the shares of the votes become the training target).
        drop_ties: with votes, leave out images with a tie for the most frequent answer. Otherwise the published label
            decides if it is among the tied ones, else the class order.
        drop_unknown: with votes, leave out images that most annotators call unknown or not a face. An image without
            any vote for an emotion is always left out.
        aliases: more names of labels, such as ``{"furious": "angry"}``; ``{"confused": "confused"}`` adds a class.
        images: folder of the images that a table names, if they lie neither beside the table nor below its folder.
        path_column: CSV column of the file; by default a column with one of the usual names.
        label_column: CSV column of the label.
        subject_column: CSV column of the person or source.
        split_column: CSV column of the given split.
        unknown_labels: ``error`` stops and lists unknown labels, ``drop`` leaves their images out, ``keep`` makes them
            classes with their own names.
        part: use this share of the images of every class (and of every part of a given split), above 0 and below 1;
            at least one of each. The same share of the same set is always the same images, and equal files are kept
            or left out together.
        agreement: use only images whose label this many annotators gave: ``3``, ``2`` (or more) or ``any``. Needs a
            data set with the answer of each annotator (AI-Hub's).
        per_class: use this many images of every class: first those that most annotators agree on, then at random. The
            same number of the same set is always the same images.
        bad_records: for a record of an annotation file that lacks a key, or has a box outside its image: ``error``
            stops and names it, ``drop`` leaves it out.
        faces: cut the faces out first, once: with ``haar``, ``yunet:FILE``, ``FILE.onnx`` (a detector trained here) or
            ``boxes`` (those of the data set). Images without a face stay whole.
        face_size: side of the face crops in pixels.
        face_margin: share of the box's longer side that is added on each side.
    """

    pattern: str | None = None
    votes: Votes = "ignore"
    drop_ties: bool = False
    drop_unknown: bool = True
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
    faces: str | None = None
    face_size: int = 500
    face_margin: float = 0.25

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("votes", self.votes, get_args(Votes)),
            ("unknown_labels", self.unknown_labels, get_args(Unknown)),
            ("agreement", self.agreement, get_args(Agreement)),
            ("bad_records", self.bad_records, get_args(BadRecords)),
        ):
            if value not in allowed:
                msg = f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}"
                raise InputError(msg)
        if self.part is not None and not 0 < self.part < 1:
            msg = f"part must be above 0 and below 1, got {self.part}; leave it out to use all images"
            raise InputError(msg)
        if self.per_class is not None and self.per_class < 1:
            msg = f"per_class must be at least 1, got {self.per_class}; leave it out to use all images"
            raise InputError(msg)
        if self.per_class is not None and self.part is not None:
            msg = f"part ({self.part}) and per_class ({self.per_class}) both say how many images to use; give one"
            raise InputError(msg)
        if not 8 <= self.face_size <= 4096 or not 0 <= self.face_margin <= 10:
            msg = f"face_size must lie in 8..4096 and face_margin in 0..10, got {self.face_size} and {self.face_margin}"
            raise InputError(msg)
        if self.drop_ties and self.votes == "ignore":
            msg = "drop_ties needs votes, which are ignored; add votes=majority or votes=soft"
            raise InputError(msg)
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                msg = f"pattern {self.pattern!r} is not a regular expression: {error}"
                raise InputError(msg) from error
            if "label" not in groups:
                msg = f"pattern {self.pattern!r} has no group named label; write it as (?P<label>...)"
                raise InputError(msg)


def finish(
    table: pd.DataFrame,
    root: Path,
    name: str,
    options: ReadOptions,
    notes: tuple[str, ...] = (),
) -> Manifest:
    """Return the manifest of a table, with canonical names of labels and splits; the last call of every reader."""
    if "label" in table and len(table):
        table, said = _name_labels(table, name, options)
        notes = (*notes, *said)
    if "split" in table:
        parts = {s: canonical_split(str(s)) or s for s in table["split"].unique()}
        table = table.assign(split=table["split"].map(lambda s: parts.get(s, s)))
    if options.agreement != "any":
        table, said = agreed(table, options.agreement, name)
        notes = (*notes, *said)
    manifest = make_manifest(table, root, name=name, notes=notes)
    if options.per_class is not None:
        return draw_evenly(manifest, options.per_class)
    return manifest if options.part is None else take_part(manifest, options.part)


def resolve(label: str, options: ReadOptions) -> str | None:
    """Return the class that a label means, the user's own aliases first, or None."""
    for alias, meaning in (options.aliases or {}).items():
        if plain(alias) == plain(label):
            return canonical(meaning) or meaning.strip()
    return canonical(label)


def _name_labels(table: pd.DataFrame, name: str, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    raw = plain_text(table["label"]).str.strip()
    names: dict[str, str] = {}
    unknown: list[str] = []
    for label in raw.unique():
        known = resolve(label, options)
        if known is None and label and options.unknown_labels != "keep":
            unknown.append(label)
        names[label] = known or label  # an empty label stays empty, and make_manifest names its row
    table = table.assign(label=raw.map(names))
    if not unknown:
        return table, ()
    counts = raw[raw.isin(unknown)].value_counts()
    listed = ", ".join(f"{label!r} ({count})" for label, count in counts.head(20).items())
    listed += f" and {len(counts) - 20} more" if len(counts) > 20 else ""
    if options.unknown_labels == "drop":
        kept = table[~raw.isin(unknown)].reset_index(drop=True)
        return kept, (f"{len(table) - len(kept)} images left out, their labels are unknown: {listed}",)
    if counts.index.str.fullmatch(r"-?[0-9]+(\.0)?").all():
        raise InputError(_numbers_need_names(counts, name))
    msg = (
        f"{name}: unknown labels (images): {listed}. {_meaning_of(counts.index.tolist())}, "
        "or choose --unknown-labels drop or keep (in training: --data.read.unknown_labels)"
    )
    raise InputError(msg)


def _numbers_need_names(counts: pd.Series, name: str) -> str:
    """Return the error of labels that are numbers: which there are, and how to say what each means."""
    found = sorted(counts.index, key=float)
    listed = ", ".join(f"{number} ({counts[number]})" for number in found[:20])
    words = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
    example = " ".join(f"--alias {number}={word}" for number, word in zip(found, words, strict=False))
    return (
        f"{name}: the labels are the numbers (images) {listed}. Numbers name no emotion: say what each means in this "
        f"data set, such as {example}; or whose numbers they are: --data fer2013:PATH (0 is angry), rafdb:PATH (1 is "
        "surprise) or affectnet:PATH (0 is neutral)"
    )


def _meaning_of(unknown: list[str]) -> str:
    """Return the advice for labels that are no known class."""
    for label in unknown:
        if near := nearest(label, names_of_labels(), n=1, cutoff=0.6):
            meant = canonical(near[0])
            alias = shlex.quote(f"{label}={meant}")
            return f"Did you mean {meant} for {label!r}? Give their meaning (aliases, --alias {alias})"
    return f"Give their meaning (aliases, --alias {shlex.quote(f'{unknown[0]}=happy')})"
