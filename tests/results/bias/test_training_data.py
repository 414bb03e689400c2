"""Groups of the training data, their correlation with accuracy, and data sets compared on the classes they share."""

from itertools import permutations as orders
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from datamodules.errors import InputError
from results.bias.groups import Measured, groupings, measure
from results.bias.training_data import (
    RUN,
    Composition,
    composition,
    known_groups,
    one_run,
    read_manifest,
    several_runs,
    shared_only,
)

CLASSES = ("angry", "happy")


def evaluated(numbers: dict[str, tuple[int, int]], first: int = 0) -> pd.DataFrame:
    """Draw images with their groups: correct and all of each."""
    rows = [(name, "angry", "angry" if i < hits else "happy") for name, (hits, n) in numbers.items() for i in range(n)]
    table = pd.DataFrame(rows, columns=["age", "label", "predicted"])
    table["row"] = np.arange(first, first + len(table))
    return table.assign(cluster=table["row"], path=[f"{row}.png" for row in table["row"]])


def split_table(train: list[int], outer: list[int], copies: list[int], fold: int = 0) -> pd.DataFrame:
    parts = [("train", train, False), ("train", copies, True), ("test", outer, False)]
    return pd.concat(
        [pd.DataFrame({"fold": fold, "row": rows, "role": role, "is_copy": copy}) for role, rows, copy in parts]
    )


def measured(table: pd.DataFrame) -> Measured:
    return measure(table, groupings(table, ["age"])[0], CLASSES, CLASSES, resamples=100)


def composed(shares: dict[str, int], numbers: dict[str, tuple[int, int]], copies: int = 0) -> Composition:
    """Train on so many images of each group, the first of them copied, and evaluate others."""
    held = evaluated(numbers)
    trained = [name for name, number in shares.items() for _ in range(number)]
    first = len(held)
    known = pd.DataFrame({"age": [*held["age"], *trained]})
    split = split_table(list(range(first, first + len(trained))), held["row"].tolist(), [first] * copies)
    return composition(split, known, measured(held))


def test_shares_are_counted_and_copies_apart() -> None:
    found = composed({"child": 1, "adult": 9}, {"child": (15, 40), "adult": (36, 40)}, copies=10)
    table = found.table.set_index("group")
    assert table.loc["child", ["train", "share", "copies", "images"]].tolist() == [1, 0.1, 10, 40]
    assert table.loc["child", "share_with_copies"] == pytest.approx(11 / 20)
    assert table.loc["adult", ["train", "share", "copies"]].tolist() == [9, 0.9, 0]
    assert table.loc["child", "accuracy"] == pytest.approx(15 / 40)
    assert found.correlations.empty
    assert "2 ranked groups are too few for a correlation." in found.notes


def test_groups_that_were_not_trained_on_or_not_evaluated_are_shown() -> None:
    found = composed({"adult": 8, "old": 2, "": 5}, {"child": (15, 40), "adult": (36, 40)})
    table = found.table.set_index("group")
    assert table["share"].to_dict() == {"adult": 0.8, "child": 0, "old": 0.2}
    assert np.isnan(table.loc["old", "accuracy"])
    assert not table.loc["old", "ranked"]
    assert "Trained on and not evaluated: old." in found.notes
    assert "5 training images are in no group, since a value is missing." in found.notes


def test_the_correlation_is_scipys_over_ranked_groups() -> None:
    numbers = {"a": (10, 40), "b": (30, 40), "c": (24, 40), "d": (36, 40), "e": (32, 40), "tiny": (0, 5)}
    shares = {"a": 1, "b": 10, "c": 20, "d": 30, "e": 39, "tiny": 90}
    found = composed(shares, numbers)
    x, y = [shares[name] for name in "abcde"], [numbers[name][0] for name in "abcde"]
    rows = found.correlations.set_index("kind")
    assert rows["groups"].tolist() == [5, 5]
    assert rows.loc["rank", "correlation"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rows.loc["linear", "correlation"] == pytest.approx(stats.pearsonr(x, y).statistic)
    every = np.array([stats.spearmanr(x, order).statistic for order in orders(y)])
    upper = (every >= rows.loc["rank", "correlation"] - 1e-12).mean()
    assert rows.loc["rank", "p_value"] == pytest.approx(2 * upper)
    assert any(
        note.startswith("Correlation of share and accuracy over 5 groups; p from all orders") for note in found.notes
    )


def test_few_groups_and_equal_shares_are_said() -> None:
    numbers = {"a": (10, 40), "b": (30, 40), "c": (35, 40), "d": (38, 40)}
    four = composed({"a": 1, "b": 2, "c": 3, "d": 4}, numbers)
    assert four.correlations["p_value"].iloc[0] == pytest.approx(2 / 24)
    assert any("4 groups are too few: p cannot be below 0.083" in note for note in four.notes)
    equal = composed(dict.fromkeys("abcd", 3), numbers)
    assert equal.correlations.empty
    assert "All shares or all accuracies are equal, so there is no correlation." in equal.notes


def test_folds_are_averaged() -> None:
    table = evaluated({"child": (15, 30), "adult": (30, 60)})
    rows = np.arange(90)
    folds = [
        split_table(rows[rows % 3 != fold].tolist(), rows[rows % 3 == fold].tolist(), [0] * fold, fold)
        for fold in range(3)
    ]
    split = pd.concat(folds)
    known = known_groups(table, split, None, ["age"])  # every image was held out once
    assert known is not None
    found = composition(split, known, measured(table))
    child = found.table.set_index("group").loc["child"]
    assert child[["train", "share", "copies"]].tolist() == pytest.approx([20, 1 / 3, 1])
    assert "Training images: mean over 3 folds." in found.notes


def test_groups_of_training_rows_come_from_the_manifest_or_are_not_known(tmp_path: Path) -> None:
    held = evaluated({"child": (5, 10)}, first=5)
    split = split_table(list(range(5)), held["row"].tolist(), [])
    assert known_groups(held, split, None, ["age"]) is None
    manifest = pd.DataFrame({"path": [f"{row}.png" for row in range(15)], "label": "angry", "age": ["adult"] * 15})
    manifest.to_csv(tmp_path / "m.csv", index=False)
    read = read_manifest(tmp_path / "m.csv")
    known = known_groups(held, split, read, ["age"])
    assert known is not None
    assert known.loc[[0, 4], "age"].tolist() == ["adult", "adult"]
    in_split = split.assign(age="old")
    assert known_groups(held, in_split, read, ["age"]).loc[0, "age"] == "old"  # type: ignore[union-attr]
    with pytest.raises(InputError, match="its rows are other images than those of the run"):
        known_groups(held, split, read.iloc[::-1].reset_index(drop=True), ["age"])
    with pytest.raises(InputError, match="its rows are other images"):
        known_groups(held, split, read.iloc[:8], ["age"])
    with pytest.raises(InputError, match="it has no column 'age'"):
        known_groups(held, split, read.drop(columns="age"), ["age"])


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be an existing file"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="must have a column 'path'"):
        read_manifest(tmp_path / "other.csv")


def predictions(
    classes: list[str], labels: list[str], said: list[str], start: int = 0, **columns: object
) -> pd.DataFrame:
    table = pd.DataFrame({"row": range(len(labels)), "label": labels, "predicted": said})
    table["path"] = [f"{i}.png" for i in table["row"]]
    table["content"] = [f"c{start + i}" for i in table["row"]]
    table = table.assign(cluster=table["row"] // 2, subject="", fold=0, **columns)
    for name in classes:
        table[f"prob_{name}"] = np.where(table["predicted"] == name, 1.0, 0.0)
    return table


CAFE = predictions(
    ["angry", "disgust", "happy"], ["angry"] * 4 + ["disgust"] * 2 + ["happy"] * 4, ["angry", "disgust"] * 5
)
NIMH = predictions(["기쁨", "분노"], ["분노"] * 6 + ["기쁨"] * 4, ["기쁨", "분노"] * 5, start=100)


def test_runs_are_joined_by_the_aliases_of_their_labels() -> None:
    found = several_runs([("CAFE", CAFE), ("NIMH", NIMH)])
    assert found.classes == ("angry", "disgust", "happy")
    counts = found.table.groupby([RUN, "label"]).size()
    assert counts.to_dict() == {
        ("CAFE", "angry"): 4, ("CAFE", "disgust"): 2, ("CAFE", "happy"): 4, ("NIMH", "angry"): 6, ("NIMH", "happy"): 4,
    }  # fmt: skip
    assert "Classes were joined by the aliases of their names: 기쁨 = happy, 분노 = angry." in found.notes
    assert found.table["row"].is_unique
    assert found.table["cluster"].nunique() == 10  # those of both runs have the same numbers


def test_only_shared_classes_are_compared_and_a_foreign_answer_is_wrong() -> None:
    found = shared_only(several_runs([("CAFE", CAFE), ("NIMH", NIMH)]), RUN, minimum=5)
    assert found.classes == ("angry", "happy")
    assert found.predicted_classes == ("angry", "happy", "disgust")
    assert set(found.table["label"]) == {"angry", "happy"}
    assert (found.table["predicted"] == "disgust").sum() == 4
    assert found.unshared["label"].tolist() == ["disgust"] * 2
    assert any("2 images of other classes are shown separately (disgust)" in note for note in found.notes)


def test_a_column_can_be_the_sets_and_small_ones_are_left_out() -> None:
    source = ["x"] * 4 + [""] * 2 + ["x"] * 3 + ["y"]
    whole = one_run(CAFE.assign(source=source))
    with pytest.raises(InputError, match=r"at least two sets of 5 images or more, 'source' has: x \(7\), y \(1\)"):
        shared_only(whole, "source", minimum=5)
    found = shared_only(whole, "source", minimum=1)
    assert found.classes == ("happy",)
    assert "2 images have no source and were left out." in found.notes
    apart = one_run(CAFE.assign(source=["x"] * 4 + ["y"] * 6))
    with pytest.raises(
        InputError, match=r"sets must share a class, no class is in all .* \(x: angry; y: disgust, happy\)"
    ):
        shared_only(apart, "source", minimum=1)
    small = shared_only(one_run(CAFE.assign(source=[*(["x", "y"] * 5)[:9], "z"])), "source", minimum=4)
    assert "Left out, fewer than 4 images: z (1)." in small.notes


def test_images_in_several_runs_are_one_cluster() -> None:
    found = several_runs([("a", CAFE), ("b", CAFE)])
    assert found.table["cluster"].nunique() == 5
    assert any("10 images are in several of the runs" in note for note in found.notes)


def test_two_classes_that_mean_one_emotion_are_refused() -> None:
    table = predictions(["mad", "rage"], ["mad", "rage"], ["mad", "mad"])
    with pytest.raises(InputError, match="classes mad and rage of odd both mean 'angry'"):
        several_runs([("odd", table), ("CAFE", CAFE)])
