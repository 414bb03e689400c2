"""Scores and intervals against scikit-learn, a plain loop, and simulated data."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from datamodules.errors import InputError
from results.reports.tables import result_text
from results.statistics import calibration, cluster_bootstrap, fold_scores, mean_and_sd, paired_difference

CLASSES = ["angry", "happy", "sad", "neutral"]
Draw = Callable[..., pd.DataFrame]


def _value(table: pd.DataFrame, metric: str, name: str = "") -> pd.Series:
    return table[(table["metric"] == metric) & (table["class"] == name)].iloc[0]


def _naive(predictions: pd.DataFrame, resamples: int, seed: int) -> np.ndarray:
    """Macro F1 of resamples drawn cluster by cluster, scored by scikit-learn."""
    generator = np.random.default_rng(seed)
    rows = {key: part.index.to_numpy() for key, part in predictions.groupby("cluster")}
    strata: dict[str, list[int]] = {}
    for key, index in rows.items():
        labels = predictions.loc[index, "label"].value_counts()
        winner = min(labels.index[labels == labels.max()], key=CLASSES.index)
        strata.setdefault(winner, []).append(key)
    found = []
    for _ in range(resamples):
        chosen = np.concatenate([rows[key] for keys in strata.values() for key in generator.choice(keys, len(keys))])
        drawn = predictions.loc[chosen]
        found.append(
            reference.f1_score(drawn["label"], drawn["predicted"], labels=CLASSES, average="macro", zero_division=0)
        )
    return np.array(found)


def test_values_equal_scikit_learn(draw_predictions: Draw) -> None:
    table = draw_predictions(300)
    found = cluster_bootstrap(table, CLASSES, resamples=100)
    true, said = table["label"], table["predicted"]
    precision, recall, f1, images = reference.precision_recall_fscore_support(true, said, labels=CLASSES)
    for i, name in enumerate(CLASSES):
        assert _value(found, "precision", name)["value"] == pytest.approx(precision[i])
        assert _value(found, "recall", name)["value"] == pytest.approx(recall[i])
        assert _value(found, "f1", name)["value"] == pytest.approx(f1[i])
        assert _value(found, "f1", name)["images"] == images[i]
    assert _value(found, "f1_macro")["value"] == pytest.approx(f1.mean())
    assert _value(found, "accuracy")["value"] == pytest.approx(reference.accuracy_score(true, said))
    expected = reference.balanced_accuracy_score(true, said)
    assert _value(found, "balanced_accuracy")["value"] == pytest.approx(expected)


def test_a_class_without_image_is_not_in_the_macro_f1(draw_predictions: Draw) -> None:
    table = draw_predictions(200)
    table = table[table["label"] != "sad"]
    found = cluster_bootstrap(table, CLASSES, resamples=100)
    assert _value(found, "f1", "sad")["value"] == 0
    assert _value(found, "f1", "sad")["clusters"] == 0
    others = [name for name in CLASSES if name != "sad"]
    expected = reference.f1_score(table["label"], table["predicted"], labels=others, average="macro", zero_division=0)
    macro = _value(found, "f1_macro")
    assert macro["value"] == pytest.approx(expected)
    assert macro["low"] <= macro["value"] <= macro["high"]
    assert fold_scores(table.assign(fold=0), CLASSES)["f1_macro"].tolist() == [pytest.approx(expected)]
    sentence = f"Macro F1 is the mean over 3 classes: {', '.join(others)}; no image is of sad."
    assert sentence in result_text(found)


def test_a_score_that_guessing_reaches_is_called_so(draw_predictions: Draw) -> None:
    sentence = "not shown to be better than guessing: answers at random"
    table = draw_predictions(200)
    assert sentence not in result_text(cluster_bootstrap(table, CLASSES, resamples=100))
    shuffled = table.assign(predicted=np.random.default_rng(0).permutation(table["predicted"].to_numpy()))
    assert sentence in result_text(cluster_bootstrap(shuffled, CLASSES, resamples=100))


def test_resamples_are_those_of_a_naive_loop(draw_predictions: Draw) -> None:
    table = draw_predictions(160, cluster_size=4)
    mixed = table.copy()
    mixed.loc[3::8, "label"] = "happy"  # clusters with two labels go by the majority
    naive = _naive(mixed, 600, seed=1)
    found = _value(cluster_bootstrap(mixed, CLASSES, resamples=20_000, seed=2), "f1_macro")
    spread = naive.std() / np.sqrt(len(naive))
    assert found["low"] == pytest.approx(np.percentile(naive, 2.5), abs=6 * spread)
    assert found["high"] == pytest.approx(np.percentile(naive, 97.5), abs=6 * spread)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    # 60 clusters of 3 images that are right or wrong together, with probability 0.7: the true accuracy.
    generator = np.random.default_rng(0)
    covered, covered_by_rows = 0, 0
    for trial in range(300):
        right = np.repeat(generator.random(60) < 0.7, 3)
        label = np.repeat(np.arange(60) % 2, 3)
        names = np.array(["angry", "happy"], dtype=object)
        table = pd.DataFrame({"label": names[label], "predicted": names[np.where(right, label, 1 - label)]})
        clustered = cluster_bootstrap(table.assign(cluster=np.arange(180) // 3), names, resamples=200, seed=trial)
        by_row = cluster_bootstrap(table.assign(cluster=np.arange(180)), names, resamples=200, seed=trial)
        low, high = _value(clustered, "accuracy")[["low", "high"]]
        covered += low <= 0.7 <= high
        low, high = _value(by_row, "accuracy")[["low", "high"]]
        covered_by_rows += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.98
    assert covered_by_rows / 300 < 0.80  # images of one cluster taken as independent flatter the result


def test_thirty_thousand_images_take_seconds_and_the_seed_decides(draw_predictions: Draw) -> None:
    table = draw_predictions(30_000, cluster_size=3)
    start = time.perf_counter()
    one = cluster_bootstrap(table, CLASSES, resamples=2000, seed=5)
    assert time.perf_counter() - start < 20
    pd.testing.assert_frame_equal(one, cluster_bootstrap(table, CLASSES, resamples=2000, seed=5))
    other = cluster_bootstrap(table, CLASSES, resamples=2000, seed=6)
    assert _value(one, "f1_macro")["low"] != _value(other, "f1_macro")["low"]


def test_classes_with_few_clusters_are_marked(draw_predictions: Draw) -> None:
    table = draw_predictions(400)
    rare = table[table["label"] == "sad"].index
    table = table.drop(rare[9:]).reset_index(drop=True)
    found = cluster_bootstrap(table, CLASSES, resamples=100)
    assert _value(found, "f1", "sad")["clusters"] == 9
    assert bool(_value(found, "f1", "sad")["few_clusters"])
    assert not _value(found, "f1", "happy")["few_clusters"]


def test_paired_difference_uses_the_same_resample_for_both(draw_predictions: Draw) -> None:
    a, b = draw_predictions(400, skill=1.0), draw_predictions(400, skill=1.3)
    same = paired_difference(a, a, CLASSES, resamples=200)
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
    forth, back = paired_difference(a, b, CLASSES, seed=3), paired_difference(b, a, CLASSES, seed=3)
    assert _value(forth, "f1_macro")["difference"] > 0
    np.testing.assert_allclose(forth["difference"], -back["difference"])
    # The two models see the same images (same seed, more skill), so the pair is more certain than two apart.
    apart = sum(
        (lambda one: (one["high"] - one["low"]) ** 2)(_value(cluster_bootstrap(t, CLASSES), "accuracy")) for t in (a, b)
    )
    paired = _value(forth, "accuracy")
    assert paired["high"] - paired["low"] < 0.8 * np.sqrt(apart)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_paired_difference_equals_a_naive_loop(draw_predictions: Draw, level: float) -> None:
    a, b = draw_predictions(300, skill=1.0), draw_predictions(300, skill=1.6)
    generator = np.random.default_rng(0)
    right = (b["predicted"] == b["label"]).to_numpy().astype(int) - (a["predicted"] == a["label"]).to_numpy()
    strata = [np.flatnonzero(a["label"] == name) for name in CLASSES]
    naive = [np.concatenate([right[generator.choice(rows, len(rows))] for rows in strata]).mean() for _ in range(4000)]
    found = _value(paired_difference(a, b, CLASSES, resamples=4000, level=level), "accuracy")
    assert found["difference"] == pytest.approx(right.mean())
    outside = 100 * (1 - level) / 2  # per cent on each side
    assert found["low"] == pytest.approx(np.percentile(naive, outside), abs=0.005)
    assert found["high"] == pytest.approx(np.percentile(naive, 100 - outside), abs=0.005)


def test_paired_difference_needs_the_same_images_and_labels(draw_predictions: Draw) -> None:
    table = draw_predictions(100)
    with pytest.raises(InputError, match="of 100 and 99 only 99 are the same"):
        paired_difference(table, table.iloc[1:], CLASSES)
    changed = table.assign(content="f" * 32)
    with pytest.raises(InputError, match="only 0 are the same by row and content"):
        paired_difference(table, changed, CLASSES)
    relabelled = table.assign(label=["sad" if one == "happy" else one for one in table["label"]])
    with pytest.raises(InputError, match="must have the same labels"):
        paired_difference(table, relabelled, CLASSES)


def test_calibration_against_references(draw_predictions: Draw) -> None:
    table = draw_predictions(500)
    probability = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
    label = np.array([CLASSES.index(name) for name in table["label"]])
    found = calibration(table, CLASSES)
    assert found["nll"] == pytest.approx(reference.log_loss(label, probability, labels=range(4)))
    brier = sum(reference.brier_score_loss(label == c, probability[:, c]) for c in range(4))
    assert found["brier"] == pytest.approx(brier)
    expected = multiclass_calibration_error(torch.tensor(probability), torch.tensor(label), 4, n_bins=15)
    assert found["calibration_error"] == pytest.approx(float(expected), abs=1e-6)


def test_a_calibration_bin_holds_its_upper_edge() -> None:
    # Bins of 1/15: 0.6 is the upper edge of the ninth, 0.65 lies in the tenth. Gaps: 0.6 - 1 and 0.65 - 0.
    table = pd.DataFrame({"label": ["a", "b"], "predicted": ["a", "a"], "prob_a": [0.6, 0.65], "prob_b": [0.4, 0.35]})
    assert calibration(table, ["a", "b"])["calibration_error"] == pytest.approx((0.4 + 0.65) / 2)


def test_folds_are_scored_one_by_one(draw_predictions: Draw) -> None:
    table = draw_predictions(300)
    found = fold_scores(table, CLASSES)
    part = table[table["fold"] == 2]
    expected = reference.f1_score(part["label"], part["predicted"], labels=CLASSES, average="macro", zero_division=0)
    assert found.loc[2, "f1_macro"] == pytest.approx(expected)
    assert mean_and_sd(found).loc["f1_macro", "sd"] == pytest.approx(np.std(found["f1_macro"], ddof=1))


def test_settings_that_mean_nothing_are_errors(draw_predictions: Draw) -> None:
    table = draw_predictions(50)
    with pytest.raises(InputError, match="resamples: must be at least 100"):
        cluster_bootstrap(table, CLASSES, resamples=10)
    with pytest.raises(InputError, match="level: must be between 0 and 1, got 95"):
        cluster_bootstrap(table, CLASSES, level=95)
    with pytest.raises(InputError, match="column label must hold some of the classes"):
        cluster_bootstrap(table, CLASSES[:2])
