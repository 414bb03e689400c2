"""Emotion names: one canonical name for each, and its aliases in published data sets."""

import re
import unicodedata

# Canonical name -> what published data sets, papers and people write instead. The order is the order of the
# classes in every manifest: FER2013's integers first (0 angry ... 6 neutral), so that its numbers stay its numbers.
ALIASES: dict[str, tuple[str, ...]] = {
    "angry": ("anger", "mad", "rage", "분노", "화남", "화"),
    "disgust": ("disgusted", "disgusting", "혐오", "역겨움"),
    "fear": ("afraid", "fearful", "scared", "공포", "두려움"),
    "happy": ("happiness", "joy", "joyful", "smile", "smiling", "기쁨", "행복", "즐거움"),
    "sad": ("sadness", "unhappy", "슬픔"),
    "surprise": ("surprised", "suprise", "astonished", "놀람", "놀라움"),
    "neutral": ("neutrality", "normal", "calm", "중립", "평온"),
    "contempt": ("contemptuous", "scorn", "경멸"),
    "anxious": ("anxiety", "worried", "불안"),
    "embarrassed": ("embarrass", "embarrassment", "flustered", "당황"),
    "hurt": ("pain", "wounded", "상처"),
    "expressionless": ("no expression", "blank", "무표정"),
    "amusement": ("amused", "재미"),
    "awe": ("awed", "경외", "경외감"),
    "contentment": ("content", "만족"),
    "excitement": ("excited", "흥분", "신남"),
}
CANONICAL: tuple[str, ...] = tuple(ALIASES)

# The class lists of the published data sets. FER2013's is in the order of its integers 0..6.
VOCABULARIES: dict[str, tuple[str, ...]] = {
    "fer2013": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    "rafdb": ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"),  # its numbers begin with 1
    "affectnet": ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"),
}

# Annotators' answers that are not an emotion; FER+ writes them as `unknown` and `NF` (not a face).
NO_EMOTION: tuple[str, ...] = ("unknown", "nf")

SPLIT_ALIASES: dict[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
    "학습": "train",
    "훈련": "train",
    "검증": "validation",
    "시험": "test",
    "테스트": "test",
}
# Words that people add to the name of a part: test_set, train_images, TrainData. At both ends of a name.
_FILLERS = r"data|sets?|images?|imgs?|faces?|folder|split|crops?|cropped|aligned|samples?"
_FILLER = re.compile(rf"^(?:\d+[.)]?|(?:{_FILLERS})[.]?)|[.]?(?:{_FILLERS})$")


def plain(text: str) -> str:
    """Return ``text`` without case, spaces, ``-`` and ``_``, in one Unicode form (macOS decomposes Hangul)."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if not c.isspace() and c not in "-_")


_LOOKUP: dict[str, str] = {plain(name): canon for canon, names in ALIASES.items() for name in (canon, *names)}


def canonical(label: str) -> str | None:
    """Return the canonical name of an emotion, or None if it is unknown; a number before the name does not count.

    >>> canonical("Anger"), canonical("분노"), canonical("0_angry"), canonical("confused")
    ('angry', 'angry', 'angry', None)
    """
    text = plain(label)
    return _LOOKUP.get(text) or _LOOKUP.get(text.lstrip("0123456789").lstrip(".)"))


def canonical_split(name: str) -> str | None:
    """Return ``train``, ``validation`` or ``test`` for the name of a part, else None.

    >>> canonical_split("PublicTest"), canonical_split("Train_Set"), canonical_split("x")
    ('validation', 'train', None)
    """
    text = plain(name)
    while text not in SPLIT_ALIASES:
        shorter = _FILLER.sub("", text, count=1)
        if shorter == text:
            return None
        text = shorter
    return SPLIT_ALIASES[text]


def names_of_labels() -> tuple[str, ...]:
    """Return every name that `canonical` knows, the canonical ones first."""
    return (*CANONICAL, *(name for names in ALIASES.values() for name in names))


def in_class_order(labels: set[str]) -> tuple[str, ...]:
    """Return the labels in class order: canonical names in the order above, then all others alphabetically."""
    return tuple(sorted(labels, key=lambda name: (CANONICAL.index(name) if name in ALIASES else len(CANONICAL), name)))
