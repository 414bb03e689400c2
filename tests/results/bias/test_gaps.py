"""Permutation test of gaps against scipy, against all permutations by hand, and under known hypotheses."""

from itertools import permutations as orders

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from datamodules.errors import InputError
from results.bias.gaps import gaps, permute_groups, values
from results.bias.groups import Measured, groupings, measure
from results.significance import holm

CLASSES = ("angry", "happy")


def drawn(
    group: np.ndarray, right: np.ndarray, *, label: np.ndarray | None = None, cluster: np.ndarray | None = None
) -> pd.DataFrame:
    """Return a prediction table of two classes."""
    label = np.zeros(len(right), int) if label is None else label
    names = np.array(CLASSES, dtype=object)
    table = pd.DataFrame({"age": np.asarray(group, dtype=object), "label": names[label]})
    table["predicted"] = names[np.where(right, label, 1 - label)]
    return table.assign(cluster=np.arange(len(right)) if cluster is None else cluster)


def measured(table: pd.DataFrame, minimum: int = 2) -> list[Measured]:
    return [measure(table, groupings(table, ["age"])[0], CLASSES, CLASSES, minimum=minimum, resamples=100)]


def gaps_of(table: pd.DataFrame, *, number: int = 4999, minimum: int = 2, by_class: bool = False) -> pd.DataFrame:
    return gaps(table, measured(table, minimum), CLASSES, minimum=minimum, permutations=number, by_class=by_class)


def spread(group: np.ndarray, right: np.ndarray) -> float:
    each = [right[group == name].mean() for name in np.unique(group)]
    return max(each) - min(each)


def below_others(group: np.ndarray, right: np.ndarray) -> float:
    worst = min(np.unique(group), key=lambda name: right[group == name].mean())
    return right[group != worst].mean() - right[group == worst].mean()


def test_p_equals_that_of_every_order() -> None:
    group, right = np.array(list("aaabbcc")), np.array([0, 0, 1, 1, 1, 0, 1], dtype=float)
    found = gaps_of(drawn(group, right == 1)).set_index(["metric", "gap"])
    for gap, statistic in (("worst minus best", spread), ("worst minus all others", below_others)):
        every = [statistic(group, right[list(order)]) for order in orders(range(7))]
        expected = np.mean(np.array(every) >= statistic(group, right) - 1e-12)
        row = found.loc[("accuracy", gap)]
        assert row["p_value"] == pytest.approx(expected, abs=0.02)
        assert row["difference"] == pytest.approx(-statistic(group, right))
    assert found.loc[("accuracy", "worst minus best"), ["worst", "best"]].tolist() == ["a", "b"]


def test_p_equals_that_of_scipy() -> None:
    generator = np.random.default_rng(4)
    group = np.repeat(np.array(list("abc")), 40)
    right = generator.random(120) < np.repeat([0.55, 0.75, 0.7], 40)
    expected = stats.permutation_test(
        (right.astype(float),), lambda x: spread(group, x), permutation_type="pairings", n_resamples=2000,
        alternative="greater", rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert gaps_of(drawn(group, right))["p_value"].iloc[0] == pytest.approx(expected, abs=0.03)


def test_whole_clusters_change_places() -> None:
    # four people of three images each: names can be dealt in 6 ways, of which 2 part them as the groups do
    group, right = np.repeat(list("ab"), 6), np.repeat([False, False, True, True], 3)
    table = drawn(group, right, cluster=np.repeat(np.arange(4), 3))
    found = gaps_of(table).iloc[0]
    assert found["units"] == 4
    assert found["p_value"] == pytest.approx(1 / 3, abs=0.02)
    assert gaps_of(table.assign(cluster=range(12)))["p_value"].iloc[0] < 0.01


def test_a_cluster_in_several_groups_deals_among_its_images() -> None:
    # each person is in both groups and is right in b alone: every pair keeps or turns, 2 of 2 ** 6 are as far apart
    group, right = np.array(list("ab") * 6), np.array([False, True] * 6)
    found = gaps_of(drawn(group, right, cluster=np.repeat(np.arange(6), 2))).iloc[0]
    assert (found["mixed"], found["units"]) == (6, 12)
    assert found["p_value"] == pytest.approx(2 / 64, abs=0.01)


def test_a_group_with_the_harder_class_is_not_called_worse() -> None:
    # in both groups one class is right in 9 of 10 images and the other in 1 of 10; a has more of the hard one
    label = np.array([1] * 20 + [0] * 40 + [1] * 40 + [0] * 20)
    right = np.concatenate([np.arange(n) % 10 < hits for n, hits in ((20, 9), (40, 1), (40, 9), (20, 1))])
    found = gaps_of(drawn(np.repeat(list("ab"), 60), right, label=label)).iloc[0]
    assert found["difference"] == pytest.approx(-16 / 60)
    assert found["p_value"] > 0.5


def test_p_is_uniform_where_groups_do_not_matter() -> None:
    generator, found = np.random.default_rng(0), []
    group = np.repeat(np.array(list("abcd")), [24, 12, 12, 12])
    cluster = np.repeat(np.arange(20), 3)
    naive = []
    for number in range(150):
        skill = np.repeat(generator.choice([0.35, 0.95], 20), 3)  # people differ, groups do not
        right = generator.random(60) < skill
        table = drawn(group, right, cluster=cluster)
        dealt = permute_groups(table, group, list("abcd"), CLASSES, permutations=199, seed=number)
        each = values(dealt.permuted, "accuracy")
        largest = each.max(axis=1) - each.min(axis=1)
        found.append((1 + (largest >= spread(group, right) - 1e-12).sum()) / 200)
        means = [right[group == name] for name in "abcd"]
        means.sort(key=np.mean)
        naive.append(
            stats.fisher_exact([[means[0].sum(), (~means[0]).sum()], [means[-1].sum(), (~means[-1]).sum()]])[1]
        )
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) < 0.1
    assert np.mean(np.array(naive) <= 0.05) > 0.2  # worst and best chosen after looking, people taken apart


def test_a_gap_that_is_there_is_found_and_holm_is_over_all() -> None:
    generator = np.random.default_rng(2)
    group = np.repeat(np.array(list("abc")), 60)
    label = np.tile([0, 1], 90)
    table = drawn(group, generator.random(180) < np.repeat([0.5, 0.9, 0.9], 60), label=label)
    found = gaps_of(table, number=999, by_class=True, minimum=30)
    assert len(found) == 6  # two scores, each against the best and the others, and two classes
    assert found["worst"].tolist() == ["a"] * 6
    assert (found["p_value"].iloc[:4] <= 0.01).all()
    np.testing.assert_allclose(found["p_holm"], holm(found["p_value"].tolist()))
    recall = found[found["metric"] == "recall"].set_index("class")
    each = [((table["predicted"] == "happy") & (table["label"] == "happy"))[group == name].sum() / 30 for name in "abc"]
    assert recall.loc["happy", "difference"] == pytest.approx(min(each) - max(each))


def test_small_groups_are_in_no_gap() -> None:
    group = np.array(["a"] * 30 + ["b"] * 30 + ["tiny"] * 29)
    right = np.array([True] * 25 + [False] * 5 + [True] * 20 + [False] * 10 + [False] * 29)
    found = gaps_of(drawn(group, right), minimum=30)
    assert found["worst"].unique().tolist() == ["b"]
    assert len(found) == 2  # of two groups the best is all others
    assert found["other_value"].iloc[0] == pytest.approx(25 / 30)
    assert gaps_of(drawn(group, right), minimum=31).empty


def test_where_nothing_can_change_places_p_is_one() -> None:
    found = gaps_of(drawn(np.repeat(list("ab"), 10), np.ones(20, bool)))
    assert found[["difference", "p_value", "units"]].iloc[0].tolist() == [0, 1, 0]
    # each group has a class of its own
    label = np.repeat([0, 1], 10)
    apart = gaps_of(drawn(np.repeat(list("ab"), 10), np.arange(20) > 12, label=label))
    assert apart["p_value"].iloc[0] == 1


def test_batches_are_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    group, right = np.array(list("abc") * 20), np.arange(60) % 7 < 4
    monkeypatch.setattr("results.bias.gaps._CELLS", 500)
    table = drawn(group, right, label=np.arange(60) % 2)
    dealt = permute_groups(table, group, list("abc"), CLASSES, permutations=120, seed=0)
    assert dealt.permuted.shape == (120, 3, 2, 2)
    # every deal has the images of each class and group, and the hits of each class
    np.testing.assert_array_equal(dealt.permuted.sum(axis=1), np.broadcast_to(dealt.observed.sum(axis=0), (120, 2, 2)))
    np.testing.assert_array_equal(dealt.permuted.sum(axis=3), np.broadcast_to(dealt.observed.sum(axis=2), (120, 3, 2)))
    assert len(np.unique(values(dealt.permuted, "accuracy"), axis=0)) > 20


def test_too_few_permutations_are_refused() -> None:
    with pytest.raises(InputError, match="at least 99, got 9"):
        gaps_of(drawn(np.repeat(list("ab"), 10), np.ones(20, bool)), number=9)
