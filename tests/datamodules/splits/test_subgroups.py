"""Groups in words, cells of label and group, and runs that learn from one group, rehearse others or balance between."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.sampling import oversample
from datamodules.splits.protocol import DivisionPlan, GroupPlan
from datamodules.splits.subgroups import cells, condition_mask, group_values, opposite

LABELS = ("happy", "sad")


def manifest(rows: list[tuple[str, str]], **columns: list[str]) -> Manifest:
    """A manifest without files: label and age of each row."""
    table = pd.DataFrame(rows, columns=["label", "age"]).assign(**columns)
    table.insert(0, "path", [f"{row}.png" for row in range(len(table))])
    return Manifest(Path(), table, LABELS, "made")


def many(numbers: dict[tuple[str, str], int]) -> Manifest:
    return manifest([key for key, count in numbers.items() for _ in range(count)])


UNEVEN = many(
    {("happy", "child"): 6, ("happy", "adult"): 60, ("sad", "child"): 12, ("sad", "adult"): 30, ("sad", ""): 4}
)


def test_words_say_which_rows() -> None:
    table = manifest([("happy", "child"), ("sad", "adult"), ("sad", ""), ("happy", "old")]).table
    for words, held in (
        ("age=child", [1, 0, 0, 0]),
        ("age=child|old", [1, 0, 0, 1]),
        ("age!=child", [0, 1, 0, 1]),  # one whose age is not known is of neither side
        (" age = child ", [1, 0, 0, 0]),
    ):
        assert condition_mask(table, words, "train_on").tolist() == [bool(one) for one in held], words
    assert opposite("age=child") == "age!=child"
    assert opposite("age!=child") == "age=child"
    assert group_values(table, "age=child", "o").tolist() == [
        "age child", "age others", "age not known", "age others",
    ]  # fmt: skip
    table["sex"] = ["f", "m", "f", ""]
    assert group_values(table, "age+sex", "o")[0] == "age child, sex f"
    assert group_values(table, "age+sex", "o")[3] == "age old, sex not known"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("aeg=child", "train_on: no group column is called 'aeg'; did you mean age?"),
        ("split=train", "no group column is called 'split'; there are age, note"),
        ("age=infant", r"age has no value 'infant' here, it has adult, child; got 'age=infant'"),
        ("age", "must be column=value, column=one|other or column!=value"),
        ("age=", "must be column=value"),
        ("note=a", "the column note is empty in every row"),
    ],
)
def test_words_that_say_nothing_are_told(words: str, told: str) -> None:
    table = manifest([("happy", "child"), ("sad", "adult")], note=["", ""]).table
    with pytest.raises(InputError, match=told.replace("|", r"\|")):
        condition_mask(table, words, "train_on")


def test_a_column_of_names_is_no_group() -> None:
    people = manifest([("happy", f"{row}") for row in range(51)])
    with pytest.raises(InputError, match=r"balance_by: age has 51 values, such as .* a group column has at most 50"):
        cells(people, "age", "balance_by")
    assert len(cells(people, "age=7", "balance_by").names) == 2  # one of them against the rest is a group


def test_cells_are_filled_up_as_classes_are() -> None:
    train = np.sort(np.random.default_rng(0).permutation(len(UNEVEN))[:100])
    found = cells(UNEVEN, "age", "balance_by")
    assert found.empty == ("happy, age not known",)  # said, not invented
    before = np.bincount(found.of[train], minlength=5)
    draws = oversample(found.of, train, "max", seed=1)
    np.testing.assert_array_equal(draws.counts(found.of, 5), np.full(5, before.max()))
    np.testing.assert_array_equal(draws.rows[~draws.is_copy], train)
    assert np.isin(draws.rows[draws.is_copy], train).all()
    np.testing.assert_array_equal(oversample(found.of, train, 20, seed=1).counts(found.of, 5), np.maximum(before, 20))


def test_empty_cells_are_told_and_stay_empty() -> None:
    plan = GroupPlan(balance_by="age")
    train = np.flatnonzero((UNEVEN.table["age"] != "child") | (UNEVEN.table["label"] != "happy"))
    with pytest.warns(UserWarning, match="no training image is of happy, age child; happy, age not known; these cells"):
        balanced = plan.balanced(UNEVEN, train)
    draws = oversample(balanced, train, "max", seed=0)
    assert not ((UNEVEN.table["age"] == "child") & (UNEVEN.table["label"] == "happy")).to_numpy()[draws.rows].any()
    assert GroupPlan().balanced(UNEVEN, train) is UNEVEN.labels


def divided(**options: object) -> EmotionDataModule:
    data = EmotionDataModule(split="holdout", **options)  # type: ignore[arg-type]
    contents = [f"{row:016x}" for row in range(len(UNEVEN))]
    cache = SimpleNamespace(index=pd.DataFrame({"content": contents}))  # there are no files
    data.__dict__ |= {"manifest": UNEVEN, "clusters": np.arange(len(UNEVEN)), "cache": cache}
    return data


def test_one_group_is_learnt_from_and_all_are_reported() -> None:
    child = (UNEVEN.table["age"] == "child").to_numpy()
    known = (UNEVEN.table["age"] != "").to_numpy()
    common: dict[str, object] = {"stratify_by": "age=child", "holdout_fraction": 0.3, "inner_fraction": 0.3}
    whole, only, without = (divided(train_on=on, **common) for on in (None, "age=child", "age!=child"))
    for data in (only, without):
        np.testing.assert_array_equal(data.fold_rows.test, whole.fold_rows.test)
        table = data.split_table()
        assert set(table.loc[table["role"] == "train", "row"]) == set(data.fold_rows.train)
    np.testing.assert_array_equal(only.fold_rows.train, whole.fold_rows.train[child[whole.fold_rows.train]])
    np.testing.assert_array_equal(only.fold_rows.val, whole.fold_rows.val[child[whole.fold_rows.val]])
    rest = whole.fold_rows.train
    np.testing.assert_array_equal(without.fold_rows.train, rest[(~child & known)[rest]])
    assert only.selected_on.size
    assert child[only.selected_on].all()
    shares = [child[rows].mean() for rows in (whole.fold_rows.train, whole.fold_rows.test)]
    assert abs(shares[0] - shares[1]) < 0.05  # divided evenly
    papers = divided(train_on="age=child", protocol="paper", stratify_by="age=child", holdout_fraction=0.3)
    assert child[papers.selected_on].all()
    assert not child[papers.fold_rows.test].all()


def test_a_share_of_the_others_is_rehearsed() -> None:
    common: dict[str, object] = {"stratify_by": "age=child", "train_on": "age=child", "inner_fraction": 0.3}
    whole = divided(**{**common, "train_on": None})
    for share in (0.25, 0.5):
        data = divided(rehearsal=share, **common)
        age = UNEVEN.table["age"].to_numpy(object)[data.fold_rows.train]
        assert np.mean(age == "adult") == pytest.approx(share, abs=0.03)
        assert np.isin(data.fold_rows.train, whole.fold_rows.train).all()
        assert len(np.unique(data.fold_rows.train)) == len(data.fold_rows.train)
        assert (UNEVEN.table["age"].to_numpy(object)[data.selected_on] == "child").all()
    one, again, other = (divided(rehearsal=0.5, seed=seed, **common).fold_rows.train for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    with pytest.raises(InputError, match=r"rehearsal 0.9 with \d+ rows of age=child needs \d+ other .* at most 0.\d+"):
        _ = divided(rehearsal=0.9, **common).fold_rows


def test_copies_of_cells_stay_in_the_training_fold() -> None:
    data = divided(balance_by="age=child", n_min="max", stratify_by="age=child")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no happy one of unknown age
        draws = data.draws
    of = cells(UNEVEN, "age=child", "").of
    seen = np.bincount(of[draws.rows])
    assert len(set(seen.tolist())) == 1
    assert np.isin(draws.rows, data.fold_rows.train).all()
    assert draws.is_copy.sum() == len(draws) - len(data.fold_rows.train) > 0
    table = data.split_table()
    assert set(table.loc[table["is_copy"], "role"]) == {"train"}


def test_a_group_without_a_class_in_its_part_is_told() -> None:
    few = many({("happy", "child"): 2, ("happy", "adult"): 30, ("sad", "child"): 30, ("sad", "adult"): 30})
    data = EmotionDataModule(split="holdout", train_on="age=child")
    data.__dict__ |= {"manifest": few, "clusters": np.arange(len(few))}
    with pytest.raises(InputError, match=r"train_on age=child: the val part .* no row of class happy; divide"):
        _ = data.fold_rows
    with pytest.raises(InputError, match=r"class 'happy, age child' has 2 clusters .* needs at least 3"):
        DivisionPlan(split="holdout", stratify_by="age=child").divide(few, np.arange(len(few)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"balance_by": "age"}, "--data.balance_by age: without --data.n_min nothing is over-sampled"),
        ({"rehearsal": 0.5}, "--data.rehearsal 0.5: without --data.train_on no image is left out"),
        ({"rehearsal": 1.0, "train_on": "age=child"}, "at least 0 and below 1, got 1.0"),
        (
            {"balance_by": "age", "n_min": 5, "leak": "oversample_first"},
            "leave --data.balance_by and --data.train_on out",
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        EmotionDataModule(**options)  # type: ignore[arg-type]
