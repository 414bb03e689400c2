"""Folds share no row and no cluster, hold every class, and stay near their share, whatever the clusters look like."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from datamodules.errors import InputError
from datamodules.splits.folds import CellNames, Fold, given_split, hold_out, k_fold, lacking_classes, verify

CLASSES = ("angry", "happy", "sad", "surprise")


def random_images(seed: int, largest_cluster: int = 6, mixed: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and clusters of a random, imbalanced set; some clusters hold two labels."""
    generator = np.random.default_rng(seed)
    labels, clusters = [], []
    for label, groups in enumerate(generator.integers(12, 60, len(CLASSES))):
        for _ in range(groups):
            size = int(generator.integers(1, largest_cluster + 1)) if generator.random() < 0.4 else 1
            number = len(set(clusters))
            for _ in range(size):
                other = generator.random() < mixed and size > 1
                labels.append(int(generator.integers(len(CLASSES))) if other else label)
                clusters.append(number)
    order = generator.permutation(len(labels))
    names = generator.permutation(10 * len(labels))  # cluster numbers are arbitrary, not 0..G-1
    return np.array(labels)[order], names[np.array(clusters)][order]


def assert_sound(fold: Fold, labels: np.ndarray, clusters: np.ndarray) -> None:
    """Check a fold with sets only, sharing no code with the module."""
    parts = [set(part.tolist()) for part in (fold.train, fold.val, fold.test)]
    assert sum(map(len, parts)) == len(labels)
    assert set.union(*parts) == set(range(len(labels)))
    held = [{int(clusters[row]) for row in part} for part in parts]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    for part in parts:
        assert {int(labels[row]) for row in part} == set(range(len(CLASSES)))


@pytest.mark.parametrize("seed", range(40))
def test_k_fold_on_random_clusters(seed: int) -> None:
    labels, clusters = random_images(seed)
    folds = 2 + seed % 5
    made = k_fold(labels, clusters, CLASSES, folds=folds, seed=seed)
    for fold in made:
        assert_sound(fold, labels, clusters)
        assert np.all(np.diff(fold.train) > 0)
    assert sorted(np.concatenate([fold.test for fold in made]).tolist()) == list(range(len(labels)))
    for fold in made:
        expected = np.bincount(labels) / folds
        assert np.all(np.abs(np.bincount(labels[fold.test]) - expected) <= np.maximum(2.5, 0.2 * expected))


@pytest.mark.parametrize("seed", range(20))
def test_hold_out_on_random_clusters(seed: int) -> None:
    labels, clusters = random_images(seed)
    fold = hold_out(labels, clusters, CLASSES, fraction=0.25, seed=seed, inner_fraction=0.15)
    assert_sound(fold, labels, clusters)
    assert len(fold.test) / len(labels) == pytest.approx(0.25, abs=0.03)
    assert len(fold.val) / (len(labels) - len(fold.test)) == pytest.approx(0.15, abs=0.03)


def test_single_images_are_stratified_to_the_image() -> None:
    labels = np.repeat(np.arange(4), [1000, 464, 215, 100])
    for fold in k_fold(labels, np.arange(len(labels)), CLASSES, folds=5, seed=0):
        counts = np.bincount(labels[fold.test])
        assert counts[3] == 20
        assert np.all(np.abs(counts - np.bincount(labels) / 5) < 1)
        assert abs(len(fold.test) - len(labels) / 5) <= 1


def test_seed_decides() -> None:
    labels, clusters = random_images(3)
    one, same, other = (k_fold(labels, clusters, CLASSES, folds=4, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.test, b.test) and np.array_equal(a.val, b.val) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(one, other, strict=True))


def test_global_random_state_is_not_read() -> None:
    labels, clusters = random_images(4)
    np.random.seed(1)
    one = hold_out(labels, clusters, CLASSES, fraction=0.2, seed=0)
    np.random.seed(2)
    assert np.array_equal(one.train, hold_out(labels, clusters, CLASSES, fraction=0.2, seed=0).train)


def test_class_with_fewer_clusters_than_folds_is_named() -> None:
    labels = np.repeat(np.arange(4), 30)
    clusters = np.arange(120)
    clusters[90:] = 90 + np.arange(30) % 4  # thirty images of surprise, but of four people
    with pytest.raises(
        InputError, match=r"class 'surprise' has 4 clusters.*--data.folds 5 needs at least 5; ask for fewer"
    ):
        k_fold(labels, clusters, CLASSES, folds=5, seed=0)
    for fold in k_fold(labels, clusters, CLASSES, folds=4, seed=0):
        assert_sound(fold, labels, clusters)


def test_as_many_unequal_clusters_as_folds() -> None:
    sizes = np.array([100, 1, 1, 1, 1])
    labels = np.concatenate([np.repeat([0, 1, 2], 50), np.full(104, 3)])
    clusters = np.concatenate([np.arange(150), 150 + np.repeat(np.arange(5), sizes)])
    for seed in range(10):
        for fold in k_fold(labels, clusters, CLASSES, folds=5, seed=seed):
            assert_sound(fold, labels, clusters)


@pytest.mark.parametrize("seed", range(5))
def test_a_large_cluster_leaves_all_folds_their_share(seed: int) -> None:
    # Each class has one cluster of 20 images and 20 of two: three folds of 20 exist, if the large one is placed first.
    sizes = np.tile(np.repeat([20, 2], [1, 20]), len(CLASSES))
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(CLASSES)), 60)
    for fold in k_fold(labels, clusters, CLASSES, folds=3, seed=seed):
        assert np.bincount(labels[fold.test]).tolist() == [20] * len(CLASSES)


def test_people_who_show_every_class() -> None:
    clusters = np.repeat(np.arange(10), 40)
    labels = np.tile(np.arange(4), 100)
    for fold in k_fold(labels, clusters, CLASSES, folds=5, seed=0):
        assert_sound(fold, labels, clusters)
        assert len(set(clusters[fold.test].tolist())) == 2


def test_clusters_of_two_labels_that_cannot_be_divided() -> None:
    labels, clusters = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(InputError, match="cannot be put into each of 2 parts"):
        k_fold(labels, clusters, CLASSES[:3], folds=2, seed=0, inner_fraction=0)


@pytest.mark.parametrize(
    ("folds", "fraction", "message"), [(1, 0.1, "--data.folds: must be at least 2, got 1"), (3, 1.0, "inner_")]
)
def test_k_fold_arguments(folds: int, fraction: float, message: str) -> None:
    labels, clusters = random_images(0)
    with pytest.raises(InputError, match=message):
        k_fold(labels, clusters, CLASSES, folds=folds, seed=0, inner_fraction=fraction)


def test_labels_must_fit_classes() -> None:
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.1, got 0\.\.2"):
        hold_out(np.array([0, 1, 2]), np.arange(3), CLASSES[:2], fraction=0.5, seed=0)


def test_inner_fraction_zero_leaves_inner_empty() -> None:
    labels, clusters = random_images(0)
    fold = hold_out(labels, clusters, CLASSES, fraction=0.2, seed=0, inner_fraction=0)
    assert len(fold.val) == 0
    assert len(fold.train) + len(fold.test) == len(labels)


def leaking_split() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 240 images; rows 0..2 of training are near-duplicates of rows 200, 201 (test) and 160 (validation)."""
    labels = np.tile(np.arange(4), 60)
    clusters = np.arange(240)
    clusters[[200, 201, 160]] = [0, 1, 2]
    split = np.array(["train"] * 160 + ["validation"] * 40 + ["test"] * 40, dtype=object)
    return labels, clusters, split


def test_given_split_that_leaks_is_an_error() -> None:
    labels, clusters, split = leaking_split()
    with pytest.raises(InputError, match=r"3 clusters.*3 training rows, 2 test rows.*--drop-twins.*--allow-leak"):
        given_split(labels, clusters, CLASSES, split, outer="test", seed=0)


def test_drop_twins_leaves_the_reported_part_whole() -> None:
    labels, clusters, split = leaking_split()
    fold, record = given_split(labels, clusters, CLASSES, split, outer="test", leak="drop_twins", seed=0)
    assert fold.test.tolist() == list(range(200, 240))
    assert fold.val.tolist() == list(range(160, 200))  # the given validation part selects
    assert fold.train.tolist() == list(range(3, 160))
    assert record["dropped_rows"] == 3
    assert record["leaking_clusters"] == 3
    assert record["leak"] == "drop_twins"


def test_validation_as_outer_draws_the_inner_part_from_training() -> None:
    labels, clusters, split = leaking_split()
    fold, record = given_split(labels, clusters, CLASSES, split, outer="validation", leak="drop_twins", seed=0)
    assert fold.test.tolist() == list(range(160, 200))
    assert set(fold.val.tolist()) < set(range(160))
    assert len(fold.val) == 16
    assert 2 not in fold.train
    assert record["dropped_rows"] == 1
    assert record["unused_rows"] == 40


def test_allowed_leak_is_recorded_and_drops_nothing() -> None:
    labels, clusters, split = leaking_split()
    fold, record = given_split(labels, clusters, CLASSES, split, outer="test", leak="allow", seed=0)
    assert len(fold.train) == 160
    assert (record["leak"], record["leaking_train_rows"], record["dropped_rows"]) == ("allow", 3, 0)


def test_sound_split_needs_no_choice() -> None:
    labels, _, split = leaking_split()
    _, record = given_split(labels, np.arange(240), CLASSES, split, outer="test", seed=0)
    assert record["leaking_clusters"] == 0


def test_given_split_without_the_outer_part() -> None:
    labels, clusters, split = leaking_split()
    split[split == "test"] = "train"
    with pytest.raises(InputError, match=r"no row is test \(train 200, validation 40, test 0\)"):
        given_split(labels, clusters, CLASSES, split, outer="test", seed=0)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_given_part_may_lack_a_class(part: str) -> None:
    labels, _, split = leaking_split()
    split[(split == part) & (labels == 2)] = "train"
    fold, _ = given_split(labels, np.arange(240), CLASSES, split, outer="test", seed=0)
    rows = fold.test if part == "test" else fold.val
    assert len(rows)
    assert lacking_classes(labels[rows], len(CLASSES)) == [2]
    assert lacking_classes(labels[fold.train], len(CLASSES)) == []


def test_a_class_that_training_lacks_is_refused_with_a_way_out() -> None:
    labels, _, split = leaking_split()
    split[(split == "train") & (labels == 2)] = "test"
    others = " ".join(name for name in CLASSES if name != "sad")
    with pytest.raises(InputError, match=rf"the train part .* has no image of sad .*--alias sad=.*--classes {others}"):
        given_split(labels, np.arange(240), CLASSES, split, outer="test", seed=0)


def test_too_few_clusters_name_the_options_that_merge_or_leave_out() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2])
    with pytest.raises(InputError, match="--alias 'very sad=happy', or leave it out with --classes happy fear"):
        k_fold(labels, np.arange(21), ["happy", "fear", "very sad"], folds=5, seed=0)
    with pytest.raises(InputError, match=r"or leave --data\.stratify_by out"):
        k_fold(labels, np.arange(21), CellNames(["a, x", "b, x", "c, x"]), folds=5, seed=0)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(k_fold, folds=3), id="folds"),
        pytest.param(partial(hold_out, fraction=0.3), id="holdout"),
        pytest.param(partial(given_split, split=["train"] * 32 + ["test"] * 16, outer="test"), id="given"),
    ],
)
def test_a_division_that_tears_clusters_apart_is_refused(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., object]
) -> None:
    def torn(labels: np.ndarray, clusters: np.ndarray, classes: object, shares: np.ndarray, *_: object) -> np.ndarray:
        return np.arange(len(labels)) // len(CLASSES) % len(shares)

    monkeypatch.setattr("datamodules.splits.folds.divide", torn)
    labels, clusters = np.tile(np.arange(len(CLASSES)), 12), np.arange(48) // 8
    with pytest.raises(InputError, match=r"fold 0: \d+ clusters are both in train and (val|test)"):
        make(labels, clusters, CLASSES, seed=0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 1, 2, 3], [3, 4, 5], [6, 7]), "1 rows are in two parts"),
        (([0, 1, 2], [4, 5], [6, 7]), "parts hold 7 rows"),
        (([0, 1, 4], [2, 3, 5], [6, 7]), "1 clusters are both in train and val"),
        (([0, 1, 2, 3], [4, 6], [5, 7]), "val part .* has no image of class 1"),
        (([0, 1, 2, 3], [4, 5], [6, 8]), r"rows must lie in 0\.\.7"),
    ],
)
def test_verify_finds_what_is_wrong(parts: tuple[list[int], ...], message: str) -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    clusters = np.array([0, 1, 2, 3, 2, 5, 6, 7]) if "clusters" in message else np.arange(8)
    with pytest.raises(InputError, match=message):
        verify(Fold(0, *(np.array(part) for part in parts)), labels, clusters, 2)
