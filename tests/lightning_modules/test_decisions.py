"""Decisions against MAPIE, torch and scikit-learn, against simulated truth, and with bad input."""

import json
from typing import Any

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from mapie.risk_control.fwer_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score

from datamodules.errors import InputError
from lightning_modules.config import DecisionOptions, RunOptions
from lightning_modules.decisions import (
    LEAST,
    ConformalSets,
    Decisions,
    LogitAdjustment,
    SelectiveRisk,
    Temperature,
    Thresholds,
    check_val_part,
    logarithms,
    macro_f1,
    softmax,
)

CLASSES = ("angry", "happy", "sad", "neutral", "fear")
PRIOR = np.array([0.4, 0.3, 0.15, 0.12, 0.03])
ALL = ("temperature", "tau", "thresholds")


def drawn(images: int, seed: int = 0, *, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, C) that are the true log-posteriors times `sharpness`, and labels (N,)."""
    generator = np.random.default_rng(seed)
    label = generator.choice(len(PRIOR), images, p=PRIOR)
    evidence = generator.normal(size=(images, len(PRIOR)))
    evidence[np.arange(images), label] += 1.5
    return sharpness * (1.5 * evidence + np.log(PRIOR)), label


class Prefitted(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are its input, for MAPIE."""

    def __init__(self) -> None:
        self.classes_ = np.arange(len(CLASSES))

    def fit(self, features: np.ndarray, label: np.ndarray) -> "Prefitted":
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return features

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features).argmax(axis=1)


def test_the_temperature_is_that_of_scikit_learn_and_undoes_a_sharpened_network() -> None:
    logits, label = drawn(4000, sharpness=3.0)
    probabilities = softmax(logits)
    reference = CalibratedClassifierCV(FrozenEstimator(Prefitted()), method="temperature", ensemble=False)
    reference.fit(probabilities, label)
    found = Temperature.fit(logarithms(probabilities), label)
    # log-probabilities are the logits up to a constant of each image, which no temperature sees
    assert softmax(found(logits)) == pytest.approx(reference.predict_proba(probabilities), abs=5e-4)
    assert found.temperature == pytest.approx(3.0, rel=0.05)  # the posteriors were sharpened by 3
    assert (found(logits).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_tau_is_the_best_of_its_grid_and_helps_rare_classes_of_new_images() -> None:
    logits, label = drawn(3000)
    found = LogitAdjustment.fit(logits, label)
    shares = (np.bincount(label, minlength=5) + 1) / (len(label) + 5)

    def score(tau: float) -> float:
        return float(f1_score(label, (logits - tau * np.log(shares)).argmax(axis=1), average="macro", zero_division=0))

    best = max(score(tau) for tau in np.arange(-20, 41) / 20)
    assert score(found.tau) == pytest.approx(best)
    fresh, truth = drawn(20_000, seed=1)
    before, after = macro_f1(truth, fresh.argmax(axis=1), 5), macro_f1(truth, found(fresh).argmax(axis=1), 5)
    assert found.tau > 0
    assert after > before + 0.01


def test_tau_of_a_network_without_errors_is_zero() -> None:
    label = np.arange(100) % 5
    assert LogitAdjustment.fit(9.0 * np.eye(5)[label], label).tau == 0


def test_thresholds_raise_macro_f1_and_leave_small_classes_alone() -> None:
    logits, label = drawn(1200, seed=2)
    found = Thresholds.fit(logits, label)
    assert found.fitted == tuple(np.bincount(label, minlength=5) >= LEAST)
    assert found.fitted == (True, True, True, True, False)
    assert found.thresholds[4] == 1
    score = f1_score(label, found(logits).argmax(axis=1), average="macro")
    assert score > f1_score(label, logits.argmax(axis=1), average="macro")
    for column in range(4):  # no step of the grid along one class is better
        for change in (-0.05, 0.05):
            moved = np.log(found.thresholds)
            moved[column] += change
            assert f1_score(label, (logits - moved).argmax(axis=1), average="macro") <= score + 1e-12
    assert "not fitted, fewer than 50 val images: fear" in found.text(CLASSES)


def test_the_order_of_the_classes_makes_no_difference_to_two_of_them() -> None:
    logits, label = drawn(800, seed=3)
    logits, label = logits[label < 2, :2], label[label < 2]
    one, other = Thresholds.fit(logits, label), Thresholds.fit(logits[:, ::-1], 1 - label)
    assert macro_f1(label, one(logits).argmax(axis=1), 2) == pytest.approx(
        macro_f1(1 - label, other(logits[:, ::-1]).argmax(axis=1), 2)
    )


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.99])
def test_conformal_sets_are_those_of_mapie(coverage: float) -> None:
    logits, label = drawn(700, seed=4)
    probabilities, fresh = softmax(logits), softmax(drawn(300, seed=5)[0])
    reference = SplitConformalClassifier(Prefitted(), confidence_level=coverage, conformity_score="lac", prefit=True)
    reference.conformalize(probabilities, label)
    expected = reference.predict_set(fresh)[1][:, :, 0]
    found = ConformalSets.fit(probabilities, probabilities.argmax(axis=1), label, coverage)
    assert (found.candidates(fresh, fresh.argmax(axis=1)) == expected).all()
    # as many of its own images hold their class as the quantile says, the one that is the quantile, too
    own = found.candidates(probabilities, label)[np.arange(700), label]
    assert own.sum() == np.ceil(701 * coverage)


def test_the_risk_threshold_is_that_of_mapie() -> None:
    logits, label = drawn(900, seed=6)
    probabilities = softmax(logits)
    predicted, stated = probabilities.argmax(axis=1), 0.2
    found = SelectiveRisk.fit(probabilities, predicted, label, stated)
    confidence, wrong = probabilities.max(axis=1), predicted != label
    ordered = np.sort(confidence)[::-1]
    numbers = np.unique(np.linspace(33, 900, 101).astype(int))  # 3 times the least number that can pass: 11
    values = [ordered[number] if number < 900 else 0.0 for number in numbers]
    errors = np.array([wrong[confidence > value].mean() for value in values])
    answered = np.array([(confidence > value).sum() for value in values])
    tails = compute_hoeffding_bentkus_p_value(errors, answered, stated, binary=True)[:, 0]
    passed = control_fwer(tails, 0.1, "fixed_sequence")
    assert 0 < passed[-1] < 100
    assert found.threshold == values[passed[-1]]


def test_the_surest_images_must_pass_before_others_are_looked_at() -> None:
    confidence = np.linspace(0.99, 0.6, 400)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    label = np.zeros(400, int)
    label[:60:2] = 1  # of the surest 60 every second one is wrong, of all 400 less than a tenth
    with pytest.raises(
        InputError,
        match=r"--risk: cannot be guaranteed, since 17 of the 33 most confident predictions are wrong, got 0\.2",
    ):
        SelectiveRisk.fit(probabilities, np.zeros(400, int), label, 0.2)
    label = label[::-1]  # now they are the least sure ones
    found = SelectiveRisk.fit(probabilities, np.zeros(400, int), label, 0.2)
    assert found.candidates(probabilities, np.zeros(400, int)).any(axis=1).all()


def test_what_the_risk_rule_promises_holds_for_new_images() -> None:
    fresh, truth = drawn(40_000, seed=7)
    confidence, wrong = softmax(fresh).max(axis=1), fresh.argmax(axis=1) != truth
    broken, coverages = 0, []
    for seed in range(200):
        logits, label = drawn(400, seed=100 + seed)
        rule = SelectiveRisk.fit(softmax(logits), logits.argmax(axis=1), label, 0.2)
        answered = confidence > rule.threshold
        coverages.append(answered.mean())
        broken += wrong[answered].mean() > 0.2
    assert broken <= 30  # 20 of 200 are expected at most; more than 30 then have a chance of 1 %
    assert 0.3 < np.mean(coverages) < 0.95


def test_what_conformal_sets_promise_holds_for_new_images() -> None:
    fresh, truth = drawn(40_000, seed=8)
    probabilities, held = softmax(fresh), []
    for seed in range(100):
        logits, label = drawn(200, seed=300 + seed)
        rule = ConformalSets.fit(softmax(logits), logits.argmax(axis=1), label, 0.9)
        held.append(rule.candidates(probabilities, truth)[np.arange(len(truth)), truth].mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.012)


@pytest.mark.parametrize("options", [{}, {"risk": 0.3}, {"coverage": 0.9}])
def test_decisions_survive_being_stored(options: dict[str, float]) -> None:
    logits, label = drawn(800)
    probabilities = softmax(logits)
    fitted = Decisions.fit(probabilities, label, CLASSES, DecisionOptions(ALL, **options))
    again = Decisions.read(json.loads(json.dumps(fitted.state())), CLASSES, "a file")
    assert again == fitted
    first = fitted.decide(fitted.calibrated(probabilities))
    assert (again.decide(again.calibrated(probabilities)).unsure == first.unsure).all()
    assert first.unsure.any() == bool(options)
    assert len(fitted.lines()) == 3 + len(options)


def test_a_rule_is_fitted_on_clusters_that_fitted_nothing_else() -> None:
    logits, label = drawn(600)
    logits, label = np.repeat(logits, 2, axis=0), np.repeat(label, 2)
    clusters = np.repeat(np.arange(600), 2)
    fitted = Decisions.fit(softmax(logits), label, CLASSES, DecisionOptions(("temperature",), 0.3), clusters)
    assert fitted.rule is not None
    assert (fitted.images, fitted.rule.images) == (600, 600)  # of 1200
    alone = Decisions.fit(softmax(logits), label, CLASSES, DecisionOptions((), 0.3), clusters)
    assert alone.rule is not None
    assert alone.rule.images == 1200
    # which images those are: a copy in the other half would have been a different temperature
    halves = [
        Decisions.fit(softmax(logits[half::2]), label[half::2], CLASSES, DecisionOptions(("temperature",), 0.3))
        for half in (0, 1)
    ]
    found = [each.steps[0].temperature for each in (*halves, fitted)]  # type: ignore[attr-defined]
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)


def test_an_answer_needs_the_decided_class_alone_in_its_set() -> None:
    adjusted = Decisions(
        ("a", "b"), (Thresholds((4.0, 1.0), (True, True)),), ConformalSets(coverage=0.9, threshold=0.6, images=9)
    )
    found = adjusted.decide(np.array([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.2, 0.8]]))
    assert found.predicted.tolist() == [0, 1, 1, 1]
    assert found.unsure.tolist() == [False, True, True, False]  # the set {a}, and the decision b; an empty set


def test_a_val_part_with_one_class_or_fewer_images_than_classes_is_refused() -> None:
    probabilities = softmax(drawn(40)[0])
    with pytest.raises(InputError, match="must have images of at least 2 classes, got 'happy'; train with a larger"):
        Decisions.fit(probabilities, np.ones(40, int), CLASSES, DecisionOptions(("tau",)))
    with pytest.raises(InputError, match=r"at least as many images as there are classes \(5\), got 4"):
        Decisions.fit(probabilities[:4], np.arange(4), CLASSES, DecisionOptions(("tau",)))
    with pytest.raises(InputError, match=r"at least as many images as there are classes \(5\), got 3"):  # a half
        Decisions.fit(probabilities[:6], np.array([0, 1, 2, 3, 4, 0]), CLASSES, DecisionOptions(("tau",), None, 0.6))


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    logits, label = drawn(60)
    probabilities = softmax(logits)
    probabilities[7, 2] = np.nan
    with pytest.raises(InputError, match="no finite probabilities for 1 of 60 images of the val part"):
        Decisions.fit(probabilities, label, CLASSES, DecisionOptions(("temperature",)))


def test_decisions_of_other_classes_and_damaged_ones_are_refused() -> None:
    logits, label = drawn(300)
    state = Decisions.fit(softmax(logits), label, CLASSES, DecisionOptions(ALL)).state()
    others = (*CLASSES[1:], CLASSES[0])
    with pytest.raises(InputError, match=r"x\.ckpt: its decisions are for the classes angry, happy"):
        Decisions.read(state, others, "x.ckpt")
    assert Decisions.read(None, CLASSES, "x.ckpt") is None
    for damage in (
        {"steps": {"temperature": {"temperature": float("nan")}}},
        {"steps": {"thresholds": {"thresholds": [1.0, 2.0], "fitted": [True, True]}}},
        {"steps": {"unknown": {}}},
        {"rule": {"risk": {}}},
        {"steps": 3},
    ):
        with pytest.raises(InputError, match=r"x\.ckpt: its decisions are damaged; calibrate the run again"):
            Decisions.read(state | damage, CLASSES, "x.ckpt")


def test_a_promise_that_cannot_be_kept_is_refused() -> None:
    logits, label = drawn(300)
    probabilities = softmax(logits)
    with pytest.raises(InputError, match="--risk: needs at least 691 images to be fitted on, of which there are 300"):
        Decisions.fit(probabilities, label, CLASSES, DecisionOptions((), 0.01))
    shuffled = np.random.default_rng(0).permutation(label)
    with pytest.raises(
        InputError, match=r"--risk: cannot be guaranteed, since .* of the 66 most confident predictions are wrong"
    ):
        Decisions.fit(probabilities, shuffled, CLASSES, DecisionOptions((), 0.1))
    with pytest.raises(InputError, match="--coverage: needs at least 999 images to be fitted on"):
        Decisions.fit(probabilities, label, CLASSES, DecisionOptions((), None, 0.999))
    with pytest.raises(InputError, match="--risk: needs at least 67 images to be fitted on, of which there are 60"):
        check_val_part(label[:120], CLASSES, DecisionOptions(("temperature",), 0.1))  # half of them fit the rule
    check_val_part(label[:134], CLASSES, DecisionOptions(("temperature",), 0.1))
    with pytest.raises(InputError, match="--coverage: needs at least 9 images to be fitted on"):
        Decisions.fit(probabilities[:8], label[:8], CLASSES, DecisionOptions((), None, 0.9))
    Decisions.fit(probabilities[:9], label[:9], CLASSES, DecisionOptions((), None, 0.9))
    names = (*CLASSES[:4], "unsure")
    with pytest.raises(InputError, match="no class may be called 'unsure'"):
        Decisions.fit(probabilities, label, names, DecisionOptions((), None, 0.9))


def test_a_network_without_a_mistake_answers_all_images() -> None:
    label = np.arange(600) % 5
    sure = np.eye(5)[label]  # all equally confident: no image is strictly above another
    decisions = Decisions.fit(sure, label, CLASSES, DecisionOptions((), 0.05))
    assert not decisions.decide(sure).unsure.any()
    wrong = np.where(np.arange(600) < 200, (label + 1) % 5, label)
    with pytest.raises(InputError, match="cannot be guaranteed, since 200 of the 600 most confident predictions"):
        Decisions.fit(sure, wrong, CLASSES, DecisionOptions((), 0.05))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"decisions": ["temprature"]}, "--run.decisions: must be some of temperature, tau, thresholds, got"),
        ({"risk": 0.0}, "--run.risk: must be between 0 and 1"),
        ({"coverage": 1.0}, "--run.coverage: must be between 0 and 1"),
        ({"coverage": float("nan")}, "--run.coverage: must be between 0 and 1"),
        ({"risk": 0.1, "coverage": 0.9}, "--run.coverage: cannot be given with --run.risk"),
        ({"decisions": ["tau"], "keep": "none"}, "--run.keep: must be best or last with --run.decisions"),
    ],
)
def test_options_of_a_run_are_checked(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        RunOptions(**options)


def test_steps_come_in_their_order_and_none_by_default() -> None:
    assert not RunOptions().decides
    assert RunOptions(decisions=["thresholds", "temperature"]).decides.steps == ("temperature", "thresholds")
