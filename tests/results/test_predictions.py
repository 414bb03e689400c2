"""Prediction and split tables: correct ones are built, and wrong ones are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.manifest import Manifest, make_manifest
from results.predictions import (
    build_predictions,
    check_predictions,
    check_split,
    classes_of,
    flag_protocol,
    join_folds,
    protocol_of,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        Image.new("L", (4, 4), i).save(tmp_path / name)
    table = pd.DataFrame(
        {"path": names, "label": ["happy", "sad"] * 3, "subject": list("aabbcc"), "race": list("xyxyxy")}
    )
    return make_manifest(table, tmp_path, name="tiny", classes=("happy", "sad"))


def _build(manifest: Manifest, rows: list[int], fold: int = 0) -> pd.DataFrame:
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])[: len(rows)]
    return build_predictions(
        manifest,
        np.array(rows),
        probability,
        fold=fold,
        clusters=np.array([7, 7, 8, 8, 9, 9]),
        contents=[c * 32 for c in "abcdef"],
    )


def test_rows_are_sorted_and_everything_stands_beside_its_image(manifest: Manifest) -> None:
    table = _build(manifest, [5, 1, 2])
    assert table["row"].tolist() == [1, 2, 5]
    assert table["path"].tolist() == ["1.png", "2.png", "5.png"]
    assert table["label"].tolist() == ["sad", "happy", "sad"]
    assert table["predicted"].tolist() == ["sad", "happy", "happy"]
    assert table["prob_happy"].tolist() == [0.2, 0.6, 0.9]
    assert table["cluster"].tolist() == [7, 8, 9]
    assert table["content"].str[0].tolist() == ["b", "c", "f"]
    assert table["subject"].tolist() == ["a", "b", "c"]
    assert table["race"].tolist() == ["y", "x", "y"]
    assert classes_of(table) == ("happy", "sad")


def test_folds_join_to_every_image_once(manifest: Manifest) -> None:
    joined = join_folds([_build(manifest, [0, 1, 2]), _build(manifest, [5, 4, 3], fold=1)])
    assert joined["row"].tolist() == list(range(6))
    assert joined["fold"].tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="every row must be predicted once, 1 are repeated, the first is row 2"):
        join_folds([_build(manifest, [0, 1, 2]), _build(manifest, [2, 4, 3], fold=1)])


def test_wrong_tables_are_refused(manifest: Manifest, draw_predictions: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(InputError, match=r"shape \(2, 2\), got \(2, 3\)"):
        build_predictions(manifest, np.arange(2), np.ones((2, 3)), fold=0, clusters=np.arange(6), contents=["a"] * 6)
    bad = np.array([[0.5, 0.5], [np.nan, 1]])
    with pytest.raises(InputError, match=r"must be finite and sum to 1, 1 images do not, the first is row 1"):
        build_predictions(manifest, np.arange(2), bad, fold=0, clusters=np.arange(6), contents=["a"] * 6)
    table = draw_predictions(20)
    with pytest.raises(InputError, match="content missing"):
        check_predictions(table.drop(columns="content"))
    with pytest.raises(InputError, match=r"column predicted must hold class names .* got \['joy'\]"):
        check_predictions(table.assign(predicted="joy"))
    with pytest.raises(InputError, match="got 4 classes and 0 images"):
        check_predictions(table.iloc[:0])


def _split(rows: list[int], roles: str, copies: list[int]) -> pd.DataFrame:
    names = {"t": "train", "i": "val", "o": "test"}
    is_copy = np.isin(np.arange(len(rows)), copies)
    return pd.DataFrame({"fold": 2, "row": rows, "role": [names[one] for one in roles], "is_copy": is_copy})


def test_a_split_table_that_leaks_is_refused() -> None:
    check_split(_split([0, 1, 1, 0, 2, 3, 4], "ttttioo", [2, 3]))
    leaking = _split([0, 1, 1, 0, 2, 1, 4], "ttttioo", [2, 3])
    with pytest.raises(InputError, match="row 1 has 2 in fold 2"):
        check_split(leaking)
    with pytest.raises(InputError, match="role must be one of train, val, test, got"):
        check_split(leaking.assign(role="reported"))
    with pytest.raises(InputError, match="is_copy missing"):
        check_split(leaking.drop(columns="is_copy"))


def test_equal_images_have_one_role_and_are_those_of_the_predictions(manifest: Manifest) -> None:
    split = _split([0, 1, 1, 0, 2, 3, 4], "ttttioo", [2, 3])
    split["content"] = [c * 32 for c in "abbacde"]
    predictions = _build(manifest, [3, 4], fold=2)
    check_split(split, predictions)
    twins = split.assign(content=[c * 32 for c in "abbacae"])
    with pytest.raises(InputError, match=r"equal images have one role in a fold, rows \[0, 3\] have several in fold 2"):
        check_split(twins)
    check_split(flag_protocol(twins, "duplicates divided"))
    for changed, row in ((split, 3), (twins, 3), (split.assign(content=[*split["content"][:6], None]), 4)):
        with pytest.raises(InputError, match=f"row {row} has several or none"):
            check_split(changed, predictions.assign(content=["x" * 32, "e" * 32]) if changed is split else predictions)
    with pytest.raises(InputError, match="row 0 has several or none"):
        check_split(split.assign(content=[c * 32 for c in "abbdcde"]))


def test_copies_may_cross_parts_in_a_leaky_protocol_alone_and_originals_in_none() -> None:
    crossing = _split([0, 1, 4, 2, 3, 4, 0], "tttiooo", [2, 6])  # a copy of row 4 is trained on, one of row 0 set aside
    check_split(flag_protocol(crossing, "over-sampled first"))
    with pytest.raises(InputError, match="row 0 has 2 in fold 2"):
        check_split(crossing)
    with pytest.raises(InputError, match="row 4 has 2 in fold 2"):
        check_split(flag_protocol(crossing.assign(is_copy=False).iloc[:-1], "over-sampled first"))


def test_folds_carry_their_protocol_and_do_not_mix(manifest: Manifest) -> None:
    first, second = _build(manifest, [0, 1, 2]), _build(manifest, [5, 4, 3], fold=1)
    assert protocol_of(join_folds([first, second])) == "honest"
    leaky = [flag_protocol(table, "selected on what is reported") for table in (first, second)]
    assert protocol_of(join_folds(leaky)) == "selected on what is reported"
    with pytest.raises(InputError, match=r"the same protocol, got \['honest', 'selected on what is reported'\]"):
        join_folds([first, leaky[1]])
    with pytest.raises(InputError, match="a table must have one protocol, got"):
        protocol_of(pd.concat([first, leaky[1]]))
