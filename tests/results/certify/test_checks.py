"""Each check of the two tables fails by itself if what it checks is broken, whatever the other checks return."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from results.certify.checks import Line, table_lines
from results.certify.run_artifacts import RunArtifacts
from results.predictions import PROTOCOL

Draw = Callable[..., pd.DataFrame]
WELL, ONCE = "the prediction table is well formed", "every held-out image is predicted exactly once"
CONTENT = "folds are disjoint by content (equal images)"
IMAGE, CLUSTER = "folds are disjoint by image", "folds are disjoint by cluster (duplicates, people)"
SUBJECT, COPY = "folds are disjoint by subject", "no copy is outside of the train part"
SELECTION = "what is selected on is not what is reported"
HONEST_TAGS = {"protocol": "honest", "selected_on": "val part"}


def _tables(draw: Draw) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fold 0 of 100 images in 50 clusters, each a person: 20 images held out, 20 selected on, 60 and 5 copies."""
    whole = draw(100, cluster_size=2)
    whole["subject"] = "p" + whole["cluster"].astype(str)
    roles = np.array(["test", "val", "train", "train", "train"], dtype=object)
    split = pd.DataFrame({"fold": 0, "row": whole["row"], "role": roles[whole["fold"]], "is_copy": False})
    split = split.assign(content=whole["content"], cluster=whole["cluster"], subject=whole["subject"])
    copies = split[split["role"] == "train"].head(5).assign(is_copy=True)
    return whole[whole["fold"] == 0].reset_index(drop=True), pd.concat([split, copies], ignore_index=True)


def _lines(
    predictions: pd.DataFrame,
    split: pd.DataFrame,
    tags: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
) -> dict[str, Line]:
    tables = {"predictions": predictions, "split": split}
    run = RunArtifacts("0" * 32, "one", "1", "FINISHED", {**HONEST_TAGS, **(tags or {})}, params or {}, {}, tables)
    return {line.statement: line for line in table_lines(run)}


def _judge(predictions: pd.DataFrame, split: pd.DataFrame, tags: dict[str, str] | None = None) -> dict[str, str]:
    return {name: line.verdict for name, line in _lines(predictions, split, tags).items()}


def _first(split: pd.DataFrame, role: str, *, copy: bool = False) -> pd.Series:
    wanted = (split["role"] == role) & (split["is_copy"] == copy)
    return pd.Series(split.index == split.index[wanted][0], index=split.index)


def _as(role: str, other: str, *, copy: bool = False) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda split: split.assign(role=split["role"].where(~_first(split, role, copy=copy), other))


def _again(of: str, **changes: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda split: pd.concat([split, split[_first(split, of)].assign(**changes)], ignore_index=True)


def _of(column: str, source: str, target: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Give an image of one role the cluster or subject of an image of another."""

    def edit(split: pd.DataFrame) -> pd.DataFrame:
        value = split.loc[_first(split, source), column].iloc[0]
        return split.assign(**{column: split[column].where(~_first(split, target), value)})

    return edit


SPLIT: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "test to train": (_as("test", "train"), ONCE),
    "train to test": (_as("train", "test"), ONCE),
    "another fold holds it out, too": (_again("test", fold=1), ONCE),
    "an image in two roles": (_again("train", role="val"), IMAGE),
    "an image twice": (_again("val"), IMAGE),
    "an unknown role": (_as("val", "other"), IMAGE),
    "a content across val and train": (_of("content", "train", "val"), CONTENT),
    "a content across test and train": (_of("content", "train", "test"), CONTENT),
    "another content than the predictions'": (lambda split: split.assign(content=split["content"].str[::-1]), CONTENT),
    "contents taken away": (
        lambda split: split.assign(content=split["content"].where(split["role"] != "train", "")),
        CONTENT,
    ),
    "a content in two clusters": (
        lambda split: split.assign(cluster=split["cluster"].where(split["is_copy"], split["row"] + 1000)),
        CONTENT,
    ),
    "a cluster across val and train": (_of("cluster", "train", "val"), CLUSTER),
    "a cluster across test and train": (_of("cluster", "train", "test"), CLUSTER),
    "a subject across val and train": (_of("subject", "train", "val"), SUBJECT),
    "subjects of the split taken away": (lambda split: split.assign(subject=""), SUBJECT),
    "a copy in the val part": (_as("train", "val", copy=True), COPY),
    "a copy of an test image": (_again("test", role="train", is_copy=True), COPY),
    "no val part": (lambda split: split[split["role"] != "val"], SELECTION),
    "a leaky protocol": (lambda split: split.assign(**{PROTOCOL: "duplicates and people divided"}), SELECTION),
}
PREDICTIONS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "another class said": (
        lambda table: table.assign(predicted=np.where(table.index == 3, "sad", "angry").astype(object)),
        WELL,
    ),
    "probabilities beyond 1": (lambda table: table.assign(prob_sad=table["prob_sad"] + 0.1), WELL),
    "a picture in two clusters": (lambda table: table.assign(content="same"), WELL),
    "a row twice": (lambda table: pd.concat([table, table.head(1)]), ONCE),
    "a row less": (lambda table: table.iloc[1:], ONCE),
    "another fold": (lambda table: table.assign(fold=1), ONCE),
    "another cluster": (lambda table: table.assign(cluster=table["cluster"].where(table.index != 0, 999)), CLUSTER),
    "subjects taken away": (lambda table: table.assign(subject=""), SUBJECT),
}
TAGS = {
    "protocol": ({"protocol": "selected on the reported fold"}, SELECTION),
    "selected on": ({"selected_on": "reported fold"}, SELECTION),
    "twins kept with the val part": ({"leak.leaking_val_rows": "3", "leak.dropped_val_rows": "0"}, SELECTION),
}


def test_whole_tables_hold(draw_predictions: Draw) -> None:
    assert set(_judge(*_tables(draw_predictions)).values()) == {"holds"}
    dropped = {"leak.leak": "drop_twins", "leak.leaking_val_rows": "3", "leak.dropped_val_rows": "3"}
    assert _judge(*_tables(draw_predictions), dropped)[SELECTION] == "holds"  # they were taken out


@pytest.mark.parametrize("name", SPLIT)
def test_a_changed_split_fails_its_own_line(draw_predictions: Draw, name: str) -> None:
    predictions, split = _tables(draw_predictions)
    edit, statement = SPLIT[name]
    assert _judge(predictions, edit(split))[statement] == "fails"


@pytest.mark.parametrize("name", PREDICTIONS)
def test_changed_predictions_fail_their_own_line(draw_predictions: Draw, name: str) -> None:
    predictions, split = _tables(draw_predictions)
    edit, statement = PREDICTIONS[name]
    assert _judge(edit(predictions), split)[statement] == "fails"


@pytest.mark.parametrize("name", TAGS)
def test_a_changed_tag_fails_its_own_line(draw_predictions: Draw, name: str) -> None:
    tags, statement = TAGS[name]
    assert _judge(*_tables(draw_predictions), tags)[statement] == "fails"


def test_what_is_not_in_the_tables_is_not_checkable(draw_predictions: Draw) -> None:
    predictions, split = _tables(draw_predictions)
    found = _judge(predictions.assign(subject=""), split.drop(columns=["content", "cluster", "subject"]))
    assert {found[CONTENT], found[CLUSTER], found[SUBJECT]} == {"not checkable"}


@pytest.mark.parametrize(
    ("tags", "params", "expected"),
    [
        ({"protocol": "leaky"}, {}, "protocol: leaky"),
        ({"protocol": "leaky"}, {}, "the protocol differs: tag 'leaky', predictions 'honest'"),
        ({}, {"data.protocol": "paper"}, "made with data.protocol=paper"),
        ({}, {"data.leak": "duplicates"}, "made with data.leak=duplicates"),
        ({"leak.leak": "drop_twins"}, {"data.leak": "allow"}, "data.leak is allow, recorded as drop_twins"),
        ({"leak.leaking_clusters": "3"}, {"data.leak": "allow"}, "3 clusters cross the given split"),
    ],
)
def test_selection_says_what_is_wrong(
    draw_predictions: Draw, tags: dict[str, str], params: dict[str, str], expected: str
) -> None:
    predictions, split = _tables(draw_predictions)
    line = _lines(predictions, split, tags, params)[SELECTION]
    assert line.verdict == "fails"
    assert expected in line.detail
    two_protocols = split.assign(**{PROTOCOL: np.where(split["row"] < 9, "one", "two")})
    assert _judge(predictions, two_protocols)[SELECTION] == "fails"


def test_folds_hold_every_image_out_once(draw_predictions: Draw) -> None:
    predictions, split = _tables(draw_predictions)
    second = predictions.assign(fold=1, row=predictions["row"] + 1000)
    moved = split.assign(fold=1, row=split["row"] + 1000)
    two_folds = _lines(pd.concat([predictions, second]), pd.concat([split, moved]))
    assert two_folds[ONCE].detail == "160 images are held out by no fold"
    same_folds = _lines(predictions, pd.concat([split, split.assign(fold=1)]))
    assert "20 images are held out by more than one fold" in same_folds[ONCE].detail
    several = _lines(pd.concat([predictions, second]), split)  # the split table of one of two folds
    assert several[ONCE].detail == "20 predictions are of images that their fold did not hold out"
