"""Sets with other classes: joined by aliases, compared on what they share, the rest apart."""

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from results.bias.training_data import RUN, one_run, several_runs, shared_only


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
    assert found.apart["label"].tolist() == ["disgust"] * 2
    assert any("2 images of other ones stand apart (disgust)" in note for note in found.notes)


def test_a_column_can_be_the_sets_and_small_ones_are_left_out() -> None:
    source = ["x"] * 4 + [""] * 2 + ["x"] * 3 + ["y"]
    whole = one_run(CAFE.assign(source=source))
    with pytest.raises(
        InputError, match=r"at least two sets of 5 images or more are compared, 'source' has: x \(7\), y \(1\)"
    ):
        shared_only(whole, "source", minimum=5)
    found = shared_only(whole, "source", minimum=1)
    assert found.classes == ("happy",)
    assert "2 images have no source and were left out." in found.notes
    apart = one_run(CAFE.assign(source=["x"] * 4 + ["y"] * 6))
    with pytest.raises(InputError, match=r"sets must share a class, none is in all .* \(x: angry; y: disgust, happy\)"):
        shared_only(apart, "source", minimum=1)
    small = shared_only(one_run(CAFE.assign(source=[*(["x", "y"] * 5)[:9], "z"])), "source", minimum=4)
    assert "Left out, fewer than 4 images: z (1)." in small.notes


def test_pictures_in_several_runs_are_one_cluster() -> None:
    found = several_runs([("a", CAFE), ("b", CAFE)])
    assert found.table["cluster"].nunique() == 5
    assert any("10 images are in several of the runs" in note for note in found.notes)


def test_two_classes_that_mean_one_emotion_are_refused() -> None:
    table = predictions(["mad", "rage"], ["mad", "rage"], ["mad", "mad"])
    with pytest.raises(InputError, match="classes mad and rage of odd both mean 'angry'"):
        several_runs([("odd", table), ("CAFE", CAFE)])
