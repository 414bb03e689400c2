"""Emotions as facial action units: prototypes, confusions between classes, and simulated annotators' votes.

The prototypes follow P. Ekman and W. Friesen's Facial Action Coding System (EMFACS table); numbers are strengths from
0 to 1. A drawn expression is a prototype times a strength, moved towards a class it is often mistaken for.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import numpy as np

from datamodules.errors import InputError, did_you_mean

# name of the movement, action unit
UNITS = (
    "inner_brow",  # AU1
    "outer_brow",  # AU2
    "frown",  # AU4
    "lid_raise",  # AU5
    "cheek",  # AU6
    "lid_tight",  # AU7
    "nose_wrinkle",  # AU9
    "upper_lip",  # AU10
    "smile_left",  # AU12, left in the image
    "smile_right",
    "corner_down",  # AU15
    "chin",  # AU17
    "stretch",  # AU20
    "lip_tight",  # AU23
    "part",  # AU25
    "jaw",  # AU26
    "droop",  # AU43, partly
)

# Each class has variants, for people smile with and without teeth. {unit: strength}; "smile" stands for both sides.
PROTOTYPES: dict[str, tuple[dict[str, float], ...]] = {
    "neutral": ({},),
    "happy": (
        {"cheek": 0.8, "smile": 1.0, "part": 0.9, "lid_tight": 0.2},
        {"cheek": 0.6, "smile": 0.9},
        {"cheek": 1.0, "smile": 1.0, "part": 1.0, "jaw": 0.45, "lid_tight": 0.4},
    ),
    "sad": (
        {"inner_brow": 1.0, "frown": 0.4, "corner_down": 0.9, "chin": 0.4, "droop": 0.5},
        {"inner_brow": 0.8, "corner_down": 1.0, "chin": 0.8, "droop": 0.2, "lid_tight": 0.2},
    ),
    "surprise": (
        {"inner_brow": 1.0, "outer_brow": 1.0, "lid_raise": 0.9, "part": 0.8, "jaw": 0.9},
        {"inner_brow": 0.9, "outer_brow": 1.0, "lid_raise": 0.7, "part": 0.7, "jaw": 0.4},
    ),
    "fear": (
        {
            "inner_brow": 1.0,
            "outer_brow": 0.4,
            "frown": 0.7,
            "lid_raise": 1.0,
            "stretch": 1.0,
            "part": 0.7,
            "jaw": 0.15,
        },
        {"inner_brow": 0.9, "outer_brow": 0.5, "frown": 0.6, "lid_raise": 0.9, "stretch": 0.6, "part": 0.8, "jaw": 0.5},
    ),
    "disgust": (
        {"nose_wrinkle": 1.0, "upper_lip": 0.9, "frown": 0.6, "lid_tight": 0.5, "cheek": 0.4, "corner_down": 0.3},
        {"nose_wrinkle": 0.9, "upper_lip": 1.0, "frown": 0.5, "part": 0.7, "corner_down": 0.5, "lid_tight": 0.6},
    ),
    "angry": (
        {"frown": 1.0, "lid_tight": 0.5, "lid_raise": 0.3, "lip_tight": 1.0, "corner_down": 0.3, "chin": 0.3},
        {"frown": 1.0, "lid_raise": 0.5, "lid_tight": 0.4, "part": 0.9, "jaw": 0.3, "upper_lip": 0.35, "stretch": 0.3},
    ),
    "contempt": (
        {"smile_right": 0.9, "lid_tight": 0.25, "lip_tight": 0.2, "droop": 0.2},
        {"smile_right": 0.8, "upper_lip": 0.25, "outer_brow": 0.3, "droop": 0.3},
    ),
    # Not in EMFACS; they stand for three of the classes of the Korean sets (불안, 당황, 상처), which people mistake for
    # each other and for sadness.
    "anxious": (
        {"inner_brow": 0.8, "frown": 0.6, "lid_raise": 0.5, "stretch": 0.4, "lip_tight": 0.5},
        {"inner_brow": 0.9, "frown": 0.5, "lid_raise": 0.6, "stretch": 0.6, "part": 0.5},
    ),
    "embarrassed": (
        {"outer_brow": 0.9, "inner_brow": 0.6, "lid_raise": 0.3, "part": 0.7, "jaw": 0.3, "smile": 0.3},
        {"outer_brow": 0.7, "inner_brow": 0.5, "smile": 0.5, "lip_tight": 0.7, "chin": 0.3, "droop": 0.2},
    ),
    "hurt": (
        {"inner_brow": 1.0, "frown": 0.8, "corner_down": 0.6, "chin": 1.0, "lid_tight": 0.5},
        {
            "inner_brow": 0.9,
            "frown": 0.6,
            "corner_down": 0.6,
            "stretch": 0.3,
            "lip_tight": 0.8,
            "chin": 0.6,
            "droop": 0.6,
        },
    ),
}

MISTAKEN_FOR: dict[str, tuple[str, ...]] = {
    "neutral": ("sad", "contempt", "angry"),
    "happy": ("contempt", "surprise", "neutral"),
    "sad": ("neutral", "fear"),
    "surprise": ("fear", "happy"),
    "fear": ("surprise", "sad"),
    "disgust": ("angry", "sad"),
    "angry": ("disgust", "neutral"),
    "contempt": ("neutral", "happy", "disgust"),
    "anxious": ("hurt", "embarrassed", "sad"),
    "embarrassed": ("anxious", "happy", "neutral"),
    "hurt": ("sad", "anxious"),
}
_PERCEPTION = 0.40  # spread of what annotators take for the same expression
_EXPECTED = 0.5  # bias of annotators towards a neutral face


def _vector(units: dict[str, float]) -> np.ndarray:
    both = units.get("smile", 0.0)
    return np.array([units.get(name, both if name.startswith("smile_") else 0.0) for name in UNITS])


_VECTORS = {name: np.stack([_vector(units) for units in variants]) for name, variants in PROTOTYPES.items()}
_LEFT, _RIGHT = UNITS.index("smile_left"), UNITS.index("smile_right")


@dataclass(frozen=True)
class Expression:
    """Strengths of the movements, (17,) in the order of ``UNITS``, and of the whole expression."""

    units: np.ndarray
    strength: float

    def __getitem__(self, name: str) -> float:
        return float(self.units[UNITS.index(name)])


def _swapped(units: np.ndarray) -> np.ndarray:
    mirrored = units.copy()
    mirrored[..., [_LEFT, _RIGHT]] = units[..., [_RIGHT, _LEFT]]
    return mirrored


def express(generator: np.random.Generator, emotion: str, confusion: float) -> Expression:
    """Draw an expression of an emotion; at confusion 0 it is a strong prototype with little variation."""
    variants = _VECTORS[emotion]
    other = MISTAKEN_FOR[emotion][int(generator.integers(len(MISTAKEN_FOR[emotion])))]
    toward = _VECTORS[other][int(generator.integers(len(_VECTORS[other])))]
    strength = 1 - confusion * 0.85 * generator.beta(1.6, 1.6)
    mix = 0.65 * confusion * generator.beta(1.2, 2.5)
    spread = 0.06 + 0.12 * confusion
    units = (1 - mix) * strength * variants[int(generator.integers(len(variants)))] + mix * toward
    units = np.clip(units + spread * generator.standard_normal(len(UNITS)), 0, 1.15)
    # A random asymmetry of the smile would look like contempt, so it is removed.
    if emotion != "contempt":
        units[[_LEFT, _RIGHT]] = units[[_LEFT, _RIGHT]].mean() + 0.03 * generator.standard_normal(2)
    elif generator.random() < 0.5:
        units = _swapped(units)
    return Expression(np.maximum(units, 0), float(strength))


def vote(
    generator: np.random.Generator, expression: Expression, classes: tuple[str, ...], annotators: int
) -> np.ndarray:
    """Return the votes of each class, int64 (C,): the nearer an expression is to a class, the more vote for it."""
    nearness = np.empty(len(classes))
    for index, name in enumerate(classes):
        variants = np.concatenate([_VECTORS[name], _swapped(_VECTORS[name])])
        strengths = np.array([0.55, 0.75, 1.0])[:, None, None] if name != "neutral" else np.ones((1, 1, 1))
        distance = ((expression.units - strengths * variants) ** 2).sum(-1).min()
        nearness[index] = -distance / (2 * _PERCEPTION**2)
    # People expect a neutral face: movements within the random variation do not change their vote.
    nearness[[name == "neutral" for name in classes]] += _EXPECTED
    likely = np.exp(nearness - nearness.max())
    return generator.multinomial(annotators, likely / likely.sum()).astype(np.int64)


EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
Spec = TypeVar("Spec")
DRAWING_VERSION = 1  # increased whenever the same seed would give other pixels, so that stored files are written again


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
            children are new to a model trained on adults.
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
        """Return a hash, 16 hexadecimal digits, of the fields and the version of the drawing."""
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
