"""Over-sampling draws from the training rows only, up to what was asked, and marks its copies."""

import numpy as np
import pytest

from datamodules.errors import InputError
from datamodules.sampling import doubled, each_once, oversample

LABELS = np.repeat([0, 1, 2], [200, 60, 10])
TRAIN = np.sort(np.random.default_rng(0).permutation(270)[:180])


@pytest.mark.parametrize(
    ("n_min", "target"), [(50, 50), (1_000, 1_000), ("max", None), (0.5, 0.5), (1.0, 1.0), (None, 0), (2, 0)]
)
def test_every_class_has_at_least_n_min(n_min: int | float | str | None, target: float | None) -> None:
    before = np.bincount(LABELS[TRAIN], minlength=3)
    goal = before.max() if target is None else target if target > 1 else round(target * before.max())
    draws = oversample(LABELS, TRAIN, n_min, seed=3)
    np.testing.assert_array_equal(draws.counts(LABELS, 3), np.maximum(before, goal))


@pytest.mark.parametrize(("fraction", "images"), [(0.5, 4), (0.4, 3), (0.7, 5)])
def test_a_fraction_is_rounded_to_the_nearest_image(fraction: float, images: int) -> None:
    labels = np.repeat([0, 1], [7, 1])  # of 7: 3.5, 2.8 and 4.9
    assert oversample(labels, np.arange(8), fraction, seed=0).counts(labels, 2).tolist() == [7, images]


def test_copies_are_of_training_rows_and_marked() -> None:
    draws = oversample(LABELS, TRAIN, "max", seed=3)
    np.testing.assert_array_equal(draws.rows[~draws.is_copy], TRAIN)  # originals are all kept, once, in order
    assert draws.is_copy.sum() == len(draws) - len(TRAIN) > 0
    assert np.isin(draws.rows[draws.is_copy], TRAIN).all()
    assert draws.rows.dtype == np.int64
    assert draws.is_copy.dtype == bool


def test_each_row_of_a_small_class_has_its_chance() -> None:
    draws = oversample(LABELS, TRAIN, 500, seed=0)
    rare = TRAIN[LABELS[TRAIN] == 2]
    repeats = np.array([(draws.rows == row).sum() for row in rare])
    # 500 draws over the rare rows: uniform, so within five standard deviations of the mean
    assert np.abs(repeats - 500 / len(rare)).max() < 5 * np.sqrt(500 / len(rare))


def test_seed_decides() -> None:
    one, same, other = (oversample(LABELS, TRAIN, "max", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.rows, same.rows)
    assert (one.rows != other.rows).any()


@pytest.mark.parametrize("n_min", [-1, 0, 1, 0.0, 1.5, -0.5, float("nan"), "all", True])
def test_n_min_is_checked(n_min: object) -> None:
    with pytest.raises(InputError, match=r"--data.n_min: must be at least 2 images"):
        oversample(LABELS, TRAIN, n_min, seed=0)  # type: ignore[arg-type]


def test_doubled() -> None:
    draws = doubled(TRAIN)
    np.testing.assert_array_equal(draws.rows[~draws.is_copy], TRAIN)
    np.testing.assert_array_equal(draws.rows[draws.is_copy], TRAIN)


def test_as_they_are() -> None:
    draws = each_once(TRAIN)
    np.testing.assert_array_equal(draws.rows, TRAIN)
    assert not draws.is_copy.any()
