"""Columns, bins and crossings: which image is in which group, and what is refused."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from results.bias.groups import OTHERS, groupings, parse_bins

Draw = Callable[..., pd.DataFrame]


@pytest.fixture
def table(draw_predictions: Draw) -> pd.DataFrame:
    drawn = draw_predictions(60)
    values = {
        "age": np.array(["10", "9", "", "60", "17.5", "-1"], dtype=object)[np.arange(60) % 6],
        "gender": np.array(["여성", "남성"], dtype=object)[np.arange(60) % 2],
        "serial": [str(i) for i in range(60)],
        "name": [f"n{min(i, 51)}" for i in range(60)],
        "nothing": "",
        "note": np.where(np.arange(60) < 30, "a\x1b[31m\nb", "  <b>c</b> "),
    }
    return drawn.assign(**values)


def test_values_are_groups_and_numbers_rise(table: pd.DataFrame) -> None:
    (age,) = groupings(table, ["age"])
    assert age.groups == ("-1", "9", "10", "17.5", "60")
    assert age.of(table)[:6].tolist() == ["10", "9", "", "60", "17.5", "-1"]


def test_bins_hold_their_lower_end_and_are_open_above_and_below(table: pd.DataFrame) -> None:
    (age,) = groupings(table, ["age"], bins=parse_bins(["age=0,10,18,60"]))
    assert age.groups == ("below 0", "0 to <10", "10 to <18", "60 and over")
    assert age.of(table)[:6].tolist() == ["10 to <18", "0 to <10", "", "60 and over", "10 to <18", "below 0"]


def test_a_crossing_is_of_the_images_whose_values_are_all_known(table: pd.DataFrame) -> None:
    (both,) = groupings(table, ["gender+age"])
    assert both.name == "gender x age"
    # row 2 has no age, and 9 is only with odd rows
    assert both.groups == ("남성 / -1", "남성 / 9", "남성 / 60", "여성 / 10", "여성 / 17.5")
    assert both.of(table)[2] == ""
    assert groupings(table, ["gender*age"]) == [both]
    crossed = groupings(table, ["gender", "age"], cross=True)
    assert [one.name for one in crossed] == ["gender", "age", "gender x age"]
    twice = groupings(table, ["age", "age"], cross=True)
    assert [one.name for one in twice] == ["age"]  # a column is not crossed with itself
    plus = table.assign(**{"gender+age": "x"})
    assert groupings(plus, ["gender+age"])[0].groups == ("x",)  # a column of that name goes first


def test_top_keeps_the_most_frequent_and_mixes_the_rest(table: pd.DataFrame) -> None:
    (name,) = groupings(table, ["name"], top=1)
    assert name.groups == ("n51", OTHERS)
    assert name.is_mixture(OTHERS)
    assert not name.is_mixture("n51")
    (crossed,) = groupings(table, ["gender+name"], top=2)
    assert [group for group in crossed.groups if crossed.is_mixture(group)] == ["남성 / (others)", "여성 / (others)"]


def test_groups_can_be_printed_and_one_unicode_form_is_one_group(table: pd.DataFrame) -> None:
    assert groupings(table, ["note"])[0].groups == ("<b>c</b>", "a�[31m�b")
    apart = table.assign(gender=["\u1102\u1161\u11b7"] * 30 + ["\ub0a8"] * 30)  # one word, as two systems write it
    assert len(groupings(apart, ["gender"])[0].groups) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"by": ["gendr"]},
            r"no column 'gendr' to group by; did you mean gender or age\? The columns are: subject, fold, age",
        ),
        ({"by": ["age+gendr"]}, "no column 'gendr'"),
        ({"by": ["label"]}, "no column 'label' to group by; the class is what is measured"),
        ({"by": ["prob_sad"]}, "no column 'prob_sad'"),
        ({"by": ["nothing"]}, "'nothing' is empty, no image has a value"),
        ({"by": ["subject"]}, "'subject' is empty"),
        (
            {"by": ["serial"]},
            r"'serial' has 60 values, at most 40 .* bins, such as --bins serial=0,14.8,29.5,44.2, or keep",
        ),
        (
            {"by": ["name"]},
            r"'name' has 52 values, .* are shown; keep the most frequent with --top 8: n51 \(9\), n0 \(1\)",
        ),
        ({"by": ["serial+fold"], "top": 39}, "serial x fold makes .* groups, at most 40"),
        ({"by": ["xyzzy"]}, r"no column 'xyzzy' to group by\. The columns are"),
        ({"by": ["label"]}, r"by; the class is what is measured in each group\. The columns are"),  # and no guess
        ({"by": ["age+age"]}, "a crossing is of different columns"),
        ({"by": ["gender"], "bins": {"gender": (0.0, 1.0)}}, r"'gender' must hold numbers, got '여성' for '.+\.png'"),
        ({"by": ["gender"], "bins": {"age": (0.0, 1.0)}}, "'age' is not among --by"),
        ({"by": ["gender"], "top": 0}, "at least 1, got 0"),
    ],
)
def test_what_cannot_be_grouped_by_is_refused(table: pd.DataFrame, options: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        groupings(table, **options)


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan"])
def test_words_that_mean_missing_elsewhere_are_groups(table: pd.DataFrame, word: str) -> None:
    worded = table.assign(race=np.where(np.arange(60) == 7, word, "asian"))
    (race,) = groupings(worded, ["race"])
    assert set(race.groups) == {word, "asian"}
    assert race.of(worded)[7] == word
    aged = table.assign(age=np.where(np.arange(60) == 7, word, table["age"]))
    (age,) = groupings(aged, ["age"])
    assert age.of(aged)[7] == word
    with pytest.raises(InputError, match=rf"'age' must hold numbers, got '{word}' for '{table['path'].iloc[7]}'"):
        groupings(aged, ["age"], bins=parse_bins(["age=0,10,18,60"]))


@pytest.mark.parametrize("text", ["age", "age=", "=1,2", "age=5,5", "age=3,1", "age=a,b", "age=0,nan", "age=0,inf"])
def test_bins_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="rising lower ends of its bins"):
        parse_bins([text])


def test_a_crossing_of_values_that_never_meet_is_refused(table: pd.DataFrame) -> None:
    half = table.assign(left=["a"] * 30 + [""] * 30, right=[""] * 30 + ["b"] * 30)
    with pytest.raises(InputError, match="no image has a value in every column of left x right"):
        groupings(half, ["left+right"])
