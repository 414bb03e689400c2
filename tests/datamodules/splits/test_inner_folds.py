"""Inner folds: they take turns over all that is not reported, and never touch what is."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.splits.folds import Fold
from datamodules.splits.protocol import DivisionPlan


@pytest.fixture
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    labels = ["happy"] * 60 + ["sad"] * 30
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(90)], "label": labels})
    table["split"] = np.where(np.arange(90) % 5 == 0, "test", np.where(np.arange(90) % 5 == 1, "validation", "train"))
    return Manifest(tmp_path_factory.mktemp("pictures"), table, ("happy", "sad"), "made")


@pytest.fixture
def divided(manifest: Manifest) -> Callable[..., Fold]:
    clusters = np.arange(90)
    clusters[1:60:6] = clusters[0:60:6]  # pairs

    def divide(**options: object) -> Fold:
        return DivisionPlan(**options).divide(manifest, clusters).fold  # type: ignore[arg-type]

    return divide


@pytest.mark.parametrize("split", ["holdout", "folds"])
def test_inner_folds_cover_all_but_the_outer_part_once(divided: Callable[..., Fold], split: str) -> None:
    plain = divided(split=split)
    rotated = [divided(split=split, inner_folds=4, inner_fold=index) for index in range(4)]
    for fold in rotated:
        assert np.array_equal(fold.test, plain.test)
        assert not np.isin(fold.val, fold.train).any()
        assert not np.isin(fold.test, np.concatenate([fold.val, fold.train])).any()
    every = np.sort(np.concatenate([fold.val for fold in rotated]))
    assert np.array_equal(every, np.setdiff1d(np.arange(90), plain.test))


def test_a_given_validation_part_takes_its_turn(divided: Callable[..., Fold]) -> None:
    rotated = [divided(split="given", leak="drop_twins", inner_folds=3, inner_fold=index) for index in range(3)]
    plain = divided(split="given", leak="drop_twins")
    assert {tuple(fold.test) for fold in rotated} == {tuple(plain.test)}
    every = np.sort(np.concatenate([fold.val for fold in rotated]))
    assert np.array_equal(every, np.sort(np.concatenate([plain.train, plain.val])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_fold": 1}, "--data.inner_fold is 1, which needs --data.inner_folds"),
        ({"inner_folds": 1}, "inner_folds must be at least 2"),
        ({"inner_folds": 3, "inner_fold": 3}, "--data.inner_fold from 0 and below it; got 3 and 3"),
        ({"inner_folds": 3, "protocol": "paper"}, "--data.inner_folds needs --data.protocol honest"),
        ({"inner_folds": 3, "leak": "duplicates"}, "leak duplicates; leave --data.inner_folds out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DivisionPlan(**options)  # type: ignore[arg-type]
