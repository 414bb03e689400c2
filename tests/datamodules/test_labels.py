"""Names of emotions in English, in Korean and as data sets write them."""

import unicodedata

import pytest

from datamodules.labels import ALIASES, CANONICAL, VOCABULARIES, canonical, canonical_split, in_class_order, plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("angry", "angry"),
        ("Anger", "angry"),
        (" 분 노 ", "angry"),
        (unicodedata.normalize("NFD", "슬픔"), "sad"),
        ("HAPPINESS", "happy"),
        ("기쁨", "happy"),
        ("no_expression", "expressionless"),
        ("당황", "embarrassed"),
        ("confused", None),
        ("", None),
    ],
)
def test_canonical_ignores_case_space_and_unicode_form(text: str, expected: str | None) -> None:
    assert canonical(text) == expected


def test_no_alias_means_two_classes() -> None:
    owners: dict[str, str] = {}
    for name, aliases in ALIASES.items():
        for alias in (name, *aliases):
            assert owners.setdefault(plain(alias), name) == name
    assert set(owners.values()) == set(CANONICAL)


def test_vocabularies_are_canonical_and_the_korean_seven_are_reached_by_their_names() -> None:
    for names in VOCABULARIES.values():
        assert [canonical(n) for n in names] == list(names)
    korean = ("기쁨", "분노", "슬픔", "불안", "당황", "상처", "중립")
    expected = ("happy", "angry", "sad", "anxious", "embarrassed", "hurt", "neutral")
    assert tuple(canonical(n) for n in korean) == expected


def test_fer2013_integers_are_the_class_order() -> None:
    assert in_class_order(set(VOCABULARIES["fer2013"])) == VOCABULARIES["fer2013"]
    assert in_class_order({"zeal", "contempt", "apathy", "angry"}) == ("angry", "contempt", "apathy", "zeal")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Training", "train"), ("PublicTest", "validation"), ("PrivateTest", "test"), ("val", "validation"), ("x", None)],
)
def test_published_split_names(text: str, expected: str | None) -> None:
    assert canonical_split(text) == expected
