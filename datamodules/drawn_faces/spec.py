"""What a set of drawn faces is: how many of each class, how alike, by whom, how large."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import numpy as np

from datamodules.errors import InputError, did_you_mean

EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
Spec = TypeVar("Spec")
DRAWING_VERSION = 1  # raised whenever the same seed would give other pixels, so that written files are made anew


@dataclass(frozen=True)
class DrawnFaces:
    """A set of drawn faces; the same fields give the same pixels.

    Attributes:
        largest: Images of the first class.
        ratio: Images of the first class over images of the last; the sizes between fall geometrically.
        size: Side of the square images, 32 to 512.
        seed: Seed of people, expressions and scenes.
        subjects: Number of people who share the images; None draws every image of another person, with no
            ``subject`` column.
        annotators: Votes for each image; 0 leaves the vote columns out.
        confusion: 0 draws clear expressions; 1 draws faint ones, mixed with those of the class they are mistaken for.
        childlike: How far children differ from adults in proportions, 0 to 2.5; above 1 more than is natural, so that
            a model that never saw children meets something new.
        classes: Classes from the most to the least frequent.
    """

    largest: int = 1000
    ratio: float = 10.0
    size: int = 64
    seed: int = 0
    subjects: int | None = None
    annotators: int = 10
    confusion: float = 0.5
    childlike: float = 1.0
    classes: tuple[str, ...] = EMOTIONS

    def __post_init__(self) -> None:
        rules = (
            (self.largest >= 1, "largest must be at least 1", self.largest),
            (1 <= self.ratio < inf, "ratio must be at least 1 and finite", self.ratio),
            (32 <= self.size <= 512, "size must lie in 32..512", self.size),
            (self.seed >= 0, "seed must be at least 0", self.seed),
            (self.subjects is None or self.subjects >= 1, "subjects must be at least 1", self.subjects),
            (self.annotators >= 0, "annotators must be at least 0", self.annotators),
            (0 <= self.confusion <= 1, "confusion must lie in 0..1", self.confusion),
            (0 <= self.childlike <= 2.5, "childlike must lie in 0..2.5", self.childlike),
            (len(self.classes) >= 2, "classes must name at least 2 classes", self.classes),
            (len(set(self.classes)) == len(self.classes), "classes must differ", self.classes),
            (set(self.classes) <= set(EMOTIONS), f"classes must be among {', '.join(EMOTIONS)}", self.classes),
        )
        for holds, rule, value in rules:
            if not holds:
                msg = f"--data drawn: {rule}, got {value}"
                raise InputError(msg)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class, int64 (C,), at least 1 each."""
        falling = self.ratio ** -(np.arange(len(self.classes)) / (len(self.classes) - 1))
        return np.maximum(np.rint(self.largest * falling), 1).astype(np.int64)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def label_of(self, row: int) -> str:
        """Return the class of a row; rows of a class follow each other."""
        if not 0 <= row < len(self):
            msg = f"row must lie in 0..{len(self) - 1}, got {row}"
            raise InputError(msg)
        return self.classes[int(np.searchsorted(self.counts.cumsum(), row, side="right"))]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that stand for the fields and the version of the drawing."""
        fields = json.dumps([DRAWING_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]


def parse_spec(text: str) -> DrawnFaces:
    """Return the set that ``largest=1000,ratio=10,seed=0`` describes; classes are joined by ``+``.

    Raises:
        InputError: If a key is unknown or a value does not fit.
    """
    return parse_fields(DrawnFaces, text.removeprefix("drawn").removeprefix(":"), "drawn")


def parse_fields(kind: type[Spec], text: str, called: str) -> Spec:
    """Return the set, of any kind, that ``key=value,key=value`` describes.

    Raises:
        InputError: If a key is unknown or a value does not fit.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in known:
            hint = did_you_mean(key, known, n=1)
            msg = f"--data {called}: unknown key {key!r}, expected {', '.join(known)} as key=value"
            raise InputError(f"{msg}; {hint}" if hint else msg)
        try:
            if key == "classes":
                values[key] = tuple(value.split("+"))
            elif known[key].type is float:
                values[key] = float(value)
            else:
                values[key] = None if key == "subjects" and value.lower() == "none" else int(value)
        except ValueError:
            msg = f"--data {called}: {key} must be a number, got {value!r}"
            raise InputError(msg) from None
    return kind(**values)
