"""Claims get the right test, p-values are corrected together, and a choice uses the right part."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from datamodules.errors import InputError
from results.statistics import cluster_bootstrap
from sweeps.studies.analysis import Outcome, Outcomes, evaluate_claims, jackknife, value
from sweeps.studies.schema import Choice, Claim

CLASSES = ("happy", "sad")
DIFFERS = "differs on these images for these models"
OTHER_WAY = "differs the other way on these images for these models"


def outcome(cell: str, right: float, seed: int = 0, images: int = 200, inner: float = 0, **metrics: float) -> Outcome:
    """A run that is right on the first so many of its images."""
    label = np.array(CLASSES, dtype=object)[np.arange(images) % 2]
    wrong = np.arange(images) >= right * images
    predicted = np.where(wrong, np.where(label == "happy", "sad", "happy"), label)
    table = pd.DataFrame({"row": np.arange(images), "path": [f"{row}.png" for row in range(images)]})
    table["content"] = [f"{row:04d}" for row in range(images)]
    table = table.assign(cluster=table["row"], subject="", fold=0, label=label, predicted=predicted)
    for name in CLASSES:
        table[f"prob_{name}"] = (table["predicted"] == name).astype(float)
    found = Outcome(cell, seed, f"run-{cell}-{seed}", {"val/best_f1_macro": inner, **metrics})
    found.__dict__["predictions"] = table
    found.__dict__["intervals"] = cluster_bootstrap(table, CLASSES, resamples=100)
    return found


def test_one_seed_is_compared_image_by_image() -> None:
    outcomes = Outcomes([outcome("good", 0.9), outcome("bad", 0.5), outcome("same", 0.895)])
    claims = [
        Claim("good is better", ("good", "f1_macro"), ("bad", "f1_macro")),
        Claim("bad is better", ("bad", "accuracy"), ("good", "accuracy")),
        Claim("good is better than much the same", ("good", "f1_macro"), ("same", "f1_macro")),
        Claim("good is better than what failed", ("good", "f1_macro"), ("gone", "f1_macro")),
    ]
    claim_results = evaluate_claims(claims, outcomes)
    assert [one.verdict for one in claim_results] == [DIFFERS, OTHER_WAY, "not confirmed", "not tested"]
    assert claim_results[0].difference == pytest.approx(0.4)
    assert claim_results[1].difference == pytest.approx(-0.4)
    assert claim_results[0].low < 0.4 < claim_results[0].high
    assert claim_results[0].p_value == pytest.approx(
        3 / 10_000
    )  # the smallest there is, times the three that were tested
    assert claim_results[3].p_value is None
    assert np.isnan(claim_results[3].difference)


def test_faces_cut_in_different_ways_are_compared_by_photograph() -> None:
    runs = [outcome("whole", 0.5), outcome("cut", 0.9)]
    table = runs[1].predictions
    runs[1].__dict__["predictions"] = table.assign(
        content="cut" + table["content"], face_source=table["path"], path="faces/" + table["path"], face_detector="haar"
    )
    found = evaluate_claims([Claim("faces are better", ("cut", "accuracy"), ("whole", "accuracy"))], Outcomes(runs))[0]
    assert (found.difference, found.verdict) == (pytest.approx(0.4), DIFFERS)


def by_variance(d: np.ndarray) -> tuple[float, float, float]:
    """p and 95 % interval of the mean of a table of seeds by images, both random: a two-way analysis of variance."""
    seeds, images = d.shape
    rows, columns, mean = d.mean(1, keepdims=True), d.mean(0, keepdims=True), d.mean()
    of_seeds = images * ((rows - mean) ** 2).sum() / (seeds - 1)
    of_images = seeds * ((columns - mean) ** 2).sum() / (images - 1)
    rest = ((d - rows - columns + mean) ** 2).sum() / ((seeds - 1) * (images - 1))
    shared = max(of_images - rest, 0)
    freedom = (of_seeds + shared) ** 2 / (of_seeds**2 / (seeds - 1) + shared**2 / (images - 1))
    error = np.sqrt((of_seeds + shared) / (seeds * images))
    reach = stats.t.ppf(0.975, freedom) * error
    return 2 * stats.t.sf(abs(mean) / error, freedom), mean - reach, mean + reach


def noisy(cell: str, right: float, seed: int) -> Outcome:
    """A run that is right on so many images: some are hard for every seed, and each seed has its own luck."""
    hard = np.random.default_rng(9).random(200)
    luck = np.random.default_rng([seed, len(cell)]).random(200)
    found = outcome(cell, 1.0, seed)
    table, wrong = found.predictions, 0.7 * hard + 0.3 * luck > right
    said = np.where(wrong, np.where(table["label"] == "happy", "sad", "happy"), table["label"])
    found.__dict__["predictions"] = table.assign(predicted=said)
    found.__dict__["intervals"] = cluster_bootstrap(found.predictions, CLASSES, resamples=100)
    return found


def test_from_three_seeds_on_seeds_and_images_are_units() -> None:
    rights = [(0.8, 0.55), (0.9, 0.60), (0.85, 0.62), (0.88, 0.55)]
    runs = [noisy("a", one, seed) for seed, (one, _) in enumerate(rights)]
    runs += [noisy("bb", other, seed) for seed, (_, other) in enumerate(rights)]
    found = evaluate_claims([Claim("a is better", ("a", "recall_sad"), ("bb", "recall_sad"))], Outcomes(runs))[0]
    right = [(run.predictions["predicted"] == "sad")[run.predictions["label"] == "sad"].to_numpy(float) for run in runs]
    p_value, low, high = by_variance(np.array(right[:4]) - np.array(right[4:]))
    assert found.p_value == pytest.approx(p_value)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.test == "t over 4 seeds and the images they share"
    both = evaluate_claims(
        [
            Claim("a is better", ("a", "f1_macro"), ("bb", "f1_macro")),
            Claim("a is worse", ("bb", "accuracy"), ("a", "accuracy")),
            Claim("sad is easier", ("a", "recall_sad"), ("a", "recall_happy")),
        ],
        Outcomes(runs),
    )
    assert [one.verdict for one in both] == ["confirmed", "contradicted", "not confirmed"]
    two = evaluate_claims(
        [Claim("a is better", ("a", "accuracy"), ("bb", "accuracy"))], Outcomes([*runs[:2], *runs[4:6]])
    )[0]
    assert two.test.endswith(", 2 seeds together")
    assert two.difference == pytest.approx(np.mean([rights[seed][0] - rights[seed][1] for seed in (0, 1)]), abs=0.2)
    assert two.p_value is not None
    assert two.verdict == DIFFERS


def test_a_difference_of_images_alone_is_not_confirmed() -> None:
    """Of seeds that differ by chance as much as the cells, all images together would show a difference."""
    runs = [noisy("a", one, seed) for seed, one in enumerate((0.95, 0.5, 0.9))]
    runs += [noisy("bb", other, seed) for seed, other in enumerate((0.55, 0.6, 0.65))]
    found = evaluate_claims([Claim("a is better", ("a", "accuracy"), ("bb", "accuracy"))], Outcomes(runs))[0]
    assert found.difference > 0.1
    assert found.verdict == "not confirmed"


def test_numbers_without_predictions_are_compared_by_a_paired_t_over_seeds() -> None:
    rights = [(0.8, 0.70), (0.9, 0.75), (0.85, 0.78), (0.88, 0.70)]
    runs = [outcome("a", one, seed, late=one) for seed, (one, _) in enumerate(rights)]
    runs += [outcome("b", other, seed, late=other) for seed, (_, other) in enumerate(rights)]
    claim = Claim("a is better", ("a", "late"), ("b", "late"))
    found = evaluate_claims([claim], Outcomes(runs))[0]
    reference = stats.ttest_rel(*zip(*rights, strict=True))
    assert found.p_value == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert found.verdict == DIFFERS  # the images were not drawn anew
    noted = [outcome("a", one, seed, noted=one - 0.45 - 0.05 * (seed % 2) * 2) for seed, (one, _) in enumerate(rights)]
    few = evaluate_claims([claim], Outcomes([one for one in runs if one.seed < 2]))[0]
    assert (few.p_value, few.verdict) == (None, "not tested")
    within = evaluate_claims([Claim("one metric over another", ("a", "accuracy"), ("a", "noted"))], Outcomes(noted))[0]
    assert within.test == "paired t over 4 seeds"
    assert within.difference == pytest.approx(0.5)
    alike = evaluate_claims([Claim("by the same each time", ("a", "noted"), ("a", "noted"))], Outcomes(noted))[0]
    assert alike.p_value == 1.0


def test_p_values_are_corrected_together() -> None:
    outcomes = Outcomes([outcome("a", 0.55), outcome("b", 0.51)])
    claim = Claim("a is better", ("a", "accuracy"), ("b", "accuracy"))
    alone, among = evaluate_claims([claim], outcomes)[0].p_value, evaluate_claims([claim] * 3, outcomes)[0].p_value
    assert alone is not None
    assert among == pytest.approx(min(1, 3 * alone))


def test_a_number_of_several_seeds_is_their_mean_and_of_a_repeated_run_the_last() -> None:
    outcomes = Outcomes([outcome("a", 0.1, 0), outcome("a", 0.6, 0), outcome("a", 0.8, 1)])
    number = outcomes.number("a", "accuracy")
    assert number is not None
    assert (number.value, number.low, number.high) == pytest.approx((0.7, 0.6, 0.8))
    assert number.sd == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert number.runs == ("run-a-0", "run-a-1")
    with pytest.raises(InputError, match="has no 'speed'"):
        outcomes.number("a", "speed")


def test_the_choice_looks_at_the_inner_part_unless_the_papers_protocol_is_wanted() -> None:
    runs = [
        outcome("one", 0.9, inner=0.1),
        outcome("two", 0.8, inner=0.2),
        outcome("three", 0.7, inner=0.3),
    ]
    choice = Choice({"blur": "one", "crop": "two", "zoom": "three"}, 2)
    assert Outcomes(runs).choose(choice, "honest") == ["crop", "zoom"]
    assert Outcomes(runs).choose(choice, "paper") == ["blur", "crop"]
    with pytest.raises(InputError, match="these have not: zoom: out of memory"):
        Outcomes(runs[:2], {"three": "out of memory"}).choose(choice, "honest")
    more = [*runs, outcome("one", 0.9, inner=0.9, seed=1), outcome("three", 0.9, inner=0.9, seed=1)]
    assert Outcomes(more).choose(choice, "honest") == ["crop", "zoom"]  # two has no seed 1, so seed 0 alone counts


def test_macro_f1_without_a_cluster_averages_the_same_classes() -> None:
    """The only images of a class are in one cluster: without it the class counts as 0, as in a resample."""
    table = outcome("one", 0.5, images=8).predictions.assign(cluster=[0, 1, 0, 2, 0, 3, 0, 4])
    table["predicted"] = table["label"]
    found = jackknife([table], ["f1_macro"])
    assert found is not None
    assert found.values.tolist() == [1.0]
    assert found.without[:, 0].tolist() == [0.5, 1, 1, 1, 1]  # cluster 0 has all that is happy


def test_macro_f1_of_a_group_that_lacks_a_class_has_an_interval() -> None:
    table = outcome("one", 0.8, images=200).predictions.assign(gender=["f", "m"] * 100)
    found, low, high = value(table, "f1_macro on gender=f")
    assert low < found < high
    assert found == pytest.approx(2 * 80 / (100 + 80))
