"""Groups of images, their scores against scikit-learn and hand-worked cases, and the intervals on simulated data."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
from statsmodels.stats.proportion import proportion_confint

from datamodules.errors import InputError
from results.bias.groups import OTHERS, Measured, groupings, measure, parse_bins, proportion_interval

CLASSES = ("angry", "happy", "sad", "neutral")
Draw = Callable[..., pd.DataFrame]


def measured(table: pd.DataFrame, by: str = "age", **options: int) -> Measured:
    return measure(table, groupings(table, [by])[0], CLASSES, CLASSES, **{"resamples": 100, **options})


def cells(*rows: tuple[str, str, str, int]) -> pd.DataFrame:
    """Draw images, each a cluster: group, label, predicted, how many."""
    drawn = [row[:3] for row in rows for _ in range(row[3])]
    table = pd.DataFrame(drawn, columns=["age", "label", "predicted"])
    return table.assign(cluster=range(len(table)), row=range(len(table)))


def test_values_equal_scikit_learn(draw_predictions: Draw) -> None:
    table = draw_predictions(300, cluster_size=2).assign(age=np.array(["old", "young", "mid"])[np.arange(300) // 7 % 3])
    found = measured(table)
    for name, part in table.groupby("age"):
        row = found.by_group.set_index("group").loc[name]
        true, said = part["label"], part["predicted"]
        assert row["images"] == len(part)
        assert row["clusters"] == part["cluster"].nunique()
        assert row["accuracy"] == pytest.approx(reference.accuracy_score(true, said))
        assert row["f1_macro"] == pytest.approx(reference.f1_score(true, said, average="macro", labels=true.unique()))
        each = found.by_class[found.by_class["group"] == name].set_index("class").loc[list(CLASSES)]
        expected = reference.precision_recall_fscore_support(true, said, labels=CLASSES, zero_division=np.nan)
        for column, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
            np.testing.assert_allclose(each[column].astype(float), values)
        matrix = reference.confusion_matrix(true, said, labels=CLASSES)
        assert each["correct"].tolist() == matrix.diagonal().tolist()
        assert each["predicted"].tolist() == matrix.sum(axis=0).tolist()


def test_small_groups_and_groups_of_one_image_are_not_ranked() -> None:
    table = cells(("a", "sad", "sad", 30), ("b", "sad", "sad", 28), ("b", "sad", "happy", 1), ("c", "happy", "sad", 1))
    found = measured(table)
    assert found.ranked == ["a"]
    rows = found.by_group.set_index("group")
    assert rows["few_clusters"].tolist() == [False, False, True]
    # Wilson: with one trial the interval of 0 of 1 is 0 to z^2 / (1 + z^2)
    z = 1.959964
    assert (rows.loc["c", "accuracy_low"], rows.loc["c", "accuracy_high"]) == pytest.approx((0, z**2 / (1 + z**2)))
    assert rows.loc["a", "accuracy_low"] == pytest.approx(30 / (30 + z**2))
    assert measured(table, minimum=29).ranked == ["a", "b"]


def test_a_class_never_predicted_has_f1_zero_and_no_precision() -> None:
    table = cells(
        ("a", "sad", "happy", 6), ("a", "happy", "happy", 14), ("b", "happy", "happy", 5), ("b", "happy", "sad", 5)
    )
    found = measured(table)
    sad = found.by_class.set_index(["group", "class"]).loc[("a", "sad")]
    assert (sad["recall"], sad["f1"], sad["predicted"], sad["correct"]) == (0, 0, 0, 0)
    assert np.isnan(sad["precision"])
    low, high = proportion_confint(0, 6, method="wilson")
    assert (sad["recall_low"], sad["recall_high"]) == pytest.approx((low, high))
    assert sad["f1_high"] == pytest.approx(min(1, 2 * high))  # 2 * 6 * high / (6 images + 0 predictions)
    # happy: 2 * 14 / (14 + 20)
    assert found.by_group.loc[0, "f1_macro"] == pytest.approx((0 + 28 / 34) / 2)


def test_macro_f1_is_over_the_classes_a_group_has() -> None:
    table = cells(("b", "happy", "happy", 5), ("b", "happy", "sad", 5), ("a", "sad", "sad", 3))
    found = measured(table)
    b = found.by_group.set_index("group").loc["b"]
    assert b["classes"] == 1
    assert b["f1_macro"] == pytest.approx(2 * 5 / (10 + 5))
    assert b["f1_macro_low"] < b["f1_macro"] < b["f1_macro_high"] <= 1
    lacking = found.by_class.set_index(["group", "class"]).loc[("b", "sad")]
    assert (lacking["images"], lacking["predicted"]) == (0, 5)
    assert lacking[["recall", "precision", "f1", "recall_low", "f1_high"]].isna().all()


def test_images_without_a_value_are_counted_and_in_no_group() -> None:
    found = measured(cells(("a", "sad", "sad", 3), ("", "sad", "happy", 4)))
    assert found.unknown == 4
    assert found.by_group["images"].tolist() == [3]


def test_independent_images_have_the_plain_interval_and_twins_count_once() -> None:
    right = np.arange(40) < 30
    assert proportion_interval(right, np.arange(40)) == pytest.approx(proportion_confint(30, 40, method="wilson"))
    # pairs that agree: 20 trials but for m / (m - 1)
    found = proportion_interval(np.repeat(np.arange(20) < 15, 2), np.repeat(np.arange(20), 2))
    assert found == pytest.approx(proportion_confint(15 * 19 / 20, 19, method="wilson"))
    # in pairs that disagree images say more than independent ones; that is not relied on
    assert proportion_interval(np.arange(40) % 2 == 0, np.arange(40) // 2) == pytest.approx(
        proportion_confint(20, 40, method="wilson")
    )
    assert proportion_interval(np.ones(8, bool), np.zeros(8)) == pytest.approx(
        proportion_confint(1, 1, method="wilson")
    )


def test_the_interval_of_accuracy_covers_the_truth_in_clusters() -> None:
    generator, covered = np.random.default_rng(0), []
    for _ in range(400):
        skill = generator.beta(2.25, 0.75, size=12)  # of twelve people, 0.75 on average
        right = generator.random(60) < np.repeat(skill, 5)
        low, high = proportion_interval(right, np.repeat(np.arange(12), 5))
        covered.append(low <= 0.75 <= high)
    assert 0.9 < np.mean(covered) < 0.99
    naive = proportion_confint(45, 60, method="wilson")
    assert high - low > naive[1] - naive[0]


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
        ({"by": ["age+age"]}, "must combine different columns"),
        ({"by": ["gender"], "bins": {"gender": (0.0, 1.0)}}, r"'gender' must hold numbers, got '여성' for '.+\.png'"),
        ({"by": ["gender"], "bins": {"age": (0.0, 1.0)}}, "'age' is not among --by"),
        ({"by": ["gender"], "top": 0}, "--top: must be at least 1, .* got 0"),
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
    with pytest.raises(InputError, match="ascending lower bounds of bins"):
        parse_bins([text])


def test_a_crossing_of_values_that_never_meet_is_refused(table: pd.DataFrame) -> None:
    half = table.assign(left=["a"] * 30 + [""] * 30, right=[""] * 30 + ["b"] * 30)
    with pytest.raises(InputError, match="no image has a value in every column of left x right"):
        groupings(half, ["left+right"])
