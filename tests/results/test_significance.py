"""Paired tests against independent references, and their rate of false positives."""

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from datamodules.errors import InputError
from results.significance import corrected_t, exchange_test, holm, mcnemar, paired_permutation, seeds_t

CLASSES = ["angry", "happy", "sad", "neutral"]
Draw = Callable[..., pd.DataFrame]


def _enumerated(a: pd.DataFrame, b: pd.DataFrame, accuracy: bool) -> float:
    """p-value over every exchange of whole clusters, scored by scikit-learn."""
    truth, clusters = a["label"], a["cluster"].to_numpy()

    def score(said: np.ndarray) -> float:
        if accuracy:
            return float(accuracy_score(truth, said))
        return float(f1_score(truth, said, labels=CLASSES, average="macro", zero_division=0))

    said_a, said_b = a["predicted"].to_numpy(object), b["predicted"].to_numpy(object)
    found = []
    for coins in itertools.product([False, True], repeat=len(set(clusters))):
        swap = np.array(coins)[clusters]
        found.append(abs(score(np.where(swap, said_a, said_b)) - score(np.where(swap, said_b, said_a))))
    return float(np.mean(np.array(found) >= found[0] - 1e-12))


@pytest.mark.parametrize("metric", ["f1_macro", "accuracy"])
def test_permutation_equals_all_exchanges_scored_by_scikit_learn(draw_predictions: Draw, metric: str) -> None:
    a, b = draw_predictions(27, skill=0.6, cluster_size=3), draw_predictions(27, skill=1.4, cluster_size=3)
    expected = _enumerated(a, b, metric == "accuracy")
    found = paired_permutation(a, b, CLASSES, metric=metric, permutations=600)  # 2 ** 9 exchanges
    assert 0.01 < expected < 0.9
    assert found.p_value == pytest.approx(expected)
    assert found.units == 9
    drawn = paired_permutation(a, b, CLASSES, metric=metric, permutations=400)  # fewer than there are: a draw
    assert drawn.p_value == pytest.approx(expected, abs=4 * np.sqrt(expected / 400))


def test_permutation_is_symmetric_and_knows_equal_models(draw_predictions: Draw) -> None:
    a, b = draw_predictions(300, skill=1.0), draw_predictions(300, skill=1.6)
    forth, back = paired_permutation(a, b, CLASSES), paired_permutation(b, a, CLASSES)
    assert forth.difference == -back.difference
    assert forth.difference > 0.05
    assert forth.p_value == back.p_value < 0.01
    same = paired_permutation(a, a, CLASSES)
    assert (same.p_value, same.difference, same.differing) == (1.0, 0.0, 0)


def test_a_drawn_p_is_never_zero(draw_predictions: Draw) -> None:
    a, b = draw_predictions(400, skill=-2.0), draw_predictions(400, skill=4.0)
    assert paired_permutation(a, b, CLASSES, permutations=199).p_value == 1 / 200


def test_error_rates_where_the_models_are_alike() -> None:
    # Clusters of three images that are right or wrong together, classes of 5, 25, 10 and 10 clusters.
    generator = np.random.default_rng(0)
    runs, found = 300, {"macro": 0, "accuracy": 0, "by image": 0}
    for _ in range(runs):
        label = np.repeat(generator.choice(4, 50, p=[0.1, 0.5, 0.2, 0.2]), 3)
        wrong = [(label + np.repeat(generator.integers(1, 4, 50), 3)) % 4 for _ in range(2)]
        a, b = (np.where(np.repeat(generator.random(50) < 0.6, 3), label, one) for one in wrong)
        clusters, alone = np.arange(150) // 3, np.arange(150)
        found["macro"] += exchange_test(clusters, label, a, b, 4, permutations=199).p_value <= 0.05
        found["accuracy"] += (
            exchange_test(clusters, label, a, b, 4, metric="accuracy", permutations=199).p_value <= 0.05
        )
        found["by image"] += exchange_test(alone, label, a, b, 4, permutations=199).p_value <= 0.05
    assert 0.015 <= found["macro"] / runs <= 0.09  # 0.05, give or take three standard errors
    assert found["accuracy"] / runs <= 0.09
    assert found["by image"] / runs > 0.15  # images of one cluster taken as independent find what is not there


def test_error_rate_of_mcnemar(draw_predictions: Draw) -> None:
    tables = [draw_predictions(80, seed=seed) for seed in range(60)]
    for table in tables:  # a new draw of what is said, with the same truth
        table["label"] = tables[0]["label"]
    rate = [mcnemar(a, b, CLASSES).p_value <= 0.05 for a, b in itertools.pairwise(tables)]  # type: ignore[union-attr]
    assert np.mean(rate) <= 0.12  # exact, so rather below 0.05; 59 pairs


def test_permutation_finds_a_difference_that_is_there(draw_predictions: Draw) -> None:
    pairs = [(draw_predictions(200, seed=s, skill=1.0), draw_predictions(200, seed=s, skill=1.5)) for s in range(12)]
    assert sum(paired_permutation(a, b, CLASSES, permutations=199).p_value <= 0.05 for a, b in pairs) >= 10


def test_mcnemar_is_a_sign_test_and_refuses_clusters(draw_predictions: Draw) -> None:
    a, b = draw_predictions(200, skill=1.0), draw_predictions(200, skill=1.3)
    gained = int(((b["predicted"] == b["label"]) & (a["predicted"] != a["label"])).sum())
    lost = int(((b["predicted"] != b["label"]) & (a["predicted"] == a["label"])).sum())
    found = mcnemar(a, b, CLASSES)
    assert found is not None
    assert found.p_value == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert found.difference == pytest.approx((gained - lost) / 200)
    assert found.differing == gained + lost
    same = mcnemar(a, a, CLASSES)
    assert same is not None
    assert same.p_value == 1
    assert mcnemar(a.assign(cluster=a["row"] // 2), b, CLASSES) is None


def test_corrected_t_against_scipy_and_the_published_variance() -> None:
    values = np.array([0.03, -0.01, 0.02, 0.05, 0.01])
    plain = stats.ttest_1samp(values, 0)
    t = plain.statistic * np.sqrt((1 / 5) / (1 / 5 + 1 / 4))  # the same t, its variance blown up
    found = corrected_t(values, 1 / 4)
    assert found.p_value == pytest.approx(2 * stats.t.cdf(-abs(t), 4))
    assert found.p_value > plain.pvalue
    assert found.difference == pytest.approx(0.02)


def test_corrected_t_says_nothing_without_spread() -> None:
    assert np.isnan(corrected_t([0.1, 0.1, 0.1], 0.5).p_value)
    assert corrected_t([0.0, 0.0], 1.0).p_value == 1


def test_corrected_t_keeps_its_level_in_repeated_cross_validation() -> None:
    # Two nearest-mean classifiers, each on one of two equally good features: neither is better.
    generator, runs, corrected, plain = np.random.default_rng(1), 300, 0, 0
    for _ in range(runs):
        label = np.repeat([0, 1], 30)
        features = generator.normal(size=(60, 2)) + label[:, None]
        differences = []
        for _ in range(3):
            fold = generator.permutation(60) % 5
            for k in range(5):
                train, test = fold != k, fold == k
                cut = sum(features[train & (label == c)].mean(axis=0) for c in (0, 1)) / 2
                right = ((features[test] > cut) == label[test][:, None]).mean(axis=0)
                differences.append(right[1] - right[0])
        corrected += corrected_t(differences, 1 / 4).p_value <= 0.05
        plain += stats.ttest_1samp(differences, 0).pvalue <= 0.05
    assert corrected / runs <= 0.10
    assert plain / runs > 0.15


def test_holm_against_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(holm(values), [0.03, 0.06, 0.06, 0.02])  # times 3, then 1 and 2 monotone, times 4
    monkeypatch.setattr("gc.collect", int)  # statsmodels calls it every time, which is slow with much in memory
    generator = np.random.default_rng(2)
    families = np.array([holm(generator.random(6)).min() <= 0.05 for _ in range(1000)])
    assert 0.03 <= families.mean() <= 0.07  # some error in the whole family


def test_what_gives_no_p_value_is_an_error(draw_predictions: Draw) -> None:
    table = draw_predictions(50)
    with pytest.raises(InputError, match="permutations: must be at least 99, got 10"):
        paired_permutation(table, table, CLASSES, permutations=10)
    with pytest.raises(InputError, match="metric: must be f1_macro or accuracy, got 'f1'"):
        paired_permutation(table, table, CLASSES, metric="f1")
    with pytest.raises(InputError, match="classes: must name every class"):
        paired_permutation(table, table, CLASSES[:2])
    with pytest.raises(InputError, match="differences: must be at least 2 finite numbers"):
        corrected_t([0.1], 0.25)
    with pytest.raises(InputError, match="ratio: must be above 0"):
        corrected_t([0.1, 0.2], 0)
    with pytest.raises(InputError, match="p_values: must be at least one"):
        holm([])
    with pytest.raises(InputError, match="p_values: must be at least one, each between 0 and 1"):
        holm([0.1, float("nan")])


def without_each(d: np.ndarray) -> np.ndarray:
    """Return the means of a table of seeds by images without each image."""
    return (d.sum(axis=1, keepdims=True) - d).T / (d.shape[1] - 1)


@pytest.mark.parametrize(
    ("of_seeds", "of_images", "images"), [(0.0, 1.0, 30), (0.2, 1.0, 30), (1.0, 0.5, 30), (0.2, 0.0, 30), (0.0, 1.0, 8)]
)
def test_five_percent_of_true_nulls_are_called_different_when_seeds_share_their_images(
    of_seeds: float, of_images: float, images: int
) -> None:
    """The plain t over seeds, and the test over images of all seeds together, each call far more in one of them.

    Eight stands for clusters of eight people: strata of one or two clusters each would call 12 % different.
    """
    generator, times, seeds = np.random.default_rng(0), 1500, 3
    called = over_seeds = over_images = 0
    for _ in range(times):
        d = of_seeds * generator.normal(size=(seeds, 1)) + of_images * generator.normal(size=(1, images))
        d += generator.normal(size=(seeds, images))
        called += seeds_t(d.mean(axis=1), without_each(d))[0].p_value < 0.05
        over_seeds += stats.ttest_1samp(d.mean(axis=1), 0).pvalue < 0.05
        over_images += stats.ttest_1samp(d.mean(axis=0), 0).pvalue < 0.05
    assert 0.035 < called / times < 0.075  # two standard errors are .011
    if (of_seeds, of_images, images) == (0.0, 1.0, 30):
        assert over_seeds / times > 0.12
    if of_seeds == 1.0:
        assert over_images / times > 0.3


def test_the_t_over_seeds_and_images_by_hand() -> None:
    d = np.array([[0.0, 0.5, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.5, 0.5, 0.0]])
    found, low, high = seeds_t(d.mean(axis=1), without_each(d))
    own = d.mean(axis=1).var(ddof=1) / 3
    covariance = np.cov(d) / 4  # of means of four images
    shared = (covariance.sum() - np.trace(covariance)) / 6
    freedom = (own + shared) ** 2 / (own**2 / 2 + shared**2 / 3)
    t = stats.t(freedom)
    assert found.difference == pytest.approx(0.5)
    assert found.p_value == pytest.approx(2 * t.sf(0.5 / np.sqrt(own + shared)))
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * t.ppf(0.975) * np.sqrt(own + shared))


def test_seeds_and_images_that_all_say_the_same() -> None:
    alike = np.full(3, 0.25)
    found, low, high = seeds_t(alike, np.full((5, 3), 0.25))
    assert np.isnan(found.p_value)
    assert (low, high) == (0.25, 0.25)
    assert seeds_t(alike * 0, np.zeros((5, 3)))[0].p_value == 1
    with pytest.raises(InputError, match="at least 2 seeds with all clusters"):
        seeds_t(alike[:1], np.zeros((5, 1)))
