"""Numbers of groups against scikit-learn and hand-worked cases; intervals against simulated data."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
from statsmodels.stats.proportion import proportion_confint

from results.bias.groups import Measured, groupings, measure, proportion_interval

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
