"""Label errors: planted ones come first, the table has its columns, and tables that do not cover the images fail."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.readers import ReadOptions
from results.label_errors import (
    COLUMNS,
    annotators_labels,
    counts_table,
    find_label_errors,
    label_errors_of,
    precision_table,
    require_cover,
)
from results.run_images import DataOptions
from results.tracking.logger import TrackingLogger

Draw = Callable[..., pd.DataFrame]


def planted(draw_predictions: Draw, share: float = 0.08) -> tuple[pd.DataFrame, set[int]]:
    """A skilled network, and the labels of some images exchanged; return the table and their rows."""
    table = draw_predictions(400, skill=4.0)
    rows = np.random.default_rng(1).choice(len(table), int(share * len(table)), replace=False)
    classes = sorted(set(table["label"]))
    for row in rows:
        label = table.loc[row, "label"]
        table.loc[row, "label"] = classes[(classes.index(label) + 1) % len(classes)]
    return table, set(rows.tolist())


def test_exchanged_labels_are_the_most_doubtful(draw_predictions: Draw) -> None:
    table, wrong = planted(draw_predictions)
    found = find_label_errors(table)
    first = found.ranked.head(len(wrong))
    assert len(set(first["row"]) & wrong) > 0.85 * len(wrong)
    assert tuple(found.table.columns) == COLUMNS
    assert 0.5 * len(wrong) < len(found.table) < 2 * len(wrong)
    scores = found.table["score"].to_numpy()
    assert (np.diff(scores) >= 0).all()
    assert 0 <= scores.min() <= scores.max() <= 1
    assert (found.table["suggested"] != found.table["label"]).all()
    original = draw_predictions(400, skill=4.0)["label"]
    right = found.table[found.table["row"].isin(wrong)]
    assert (right["suggested"] == original[right["row"]].to_numpy()).mean() > 0.9
    assert len(found.ranked) == len(table)


def test_the_score_is_the_normalised_margin(draw_predictions: Draw) -> None:
    table = draw_predictions(60)
    found = find_label_errors(table).ranked.set_index("row")
    for row in table.to_dict("records"):
        own = row[f"prob_{row['label']}"]
        best = max(value for name, value in row.items() if name.startswith("prob_") and name != f"prob_{row['label']}")
        assert found.loc[row["row"], "score"] == pytest.approx((own - best + 1) / 2)


def test_a_class_without_images_is_not_suggested(draw_predictions: Draw) -> None:
    table = draw_predictions(200)
    table = table[table["label"] != "sad"].reset_index(drop=True)
    found = find_label_errors(table)
    assert "sad" not in set(found.ranked["suggested"])
    assert found.notes == ("No image is of sad, so these classes are not suggested.",)
    with pytest.raises(InputError, match="at least 2 classes must have images, only happy has"):
        find_label_errors(table[table["label"] == "happy"])


def test_counts_by_class(draw_predictions: Draw) -> None:
    table, _ = planted(draw_predictions)
    found = find_label_errors(table)
    counts = counts_table(found)
    assert counts["images"].astype(int).sum() == 400
    assert counts["doubtful"].astype(int).sum() == len(found.table)


def test_tables_that_do_not_cover_the_images_are_refused(draw_predictions: Draw) -> None:
    table = draw_predictions(20)
    split = pd.DataFrame({"row": np.arange(20), "role": "test"})
    require_cover(table, split)
    with pytest.raises(InputError, match=r"2 of 20 images were not, such as rows 3, 7; choose an `emotion cross-val"):
        require_cover(table[~table["row"].isin([3, 7])], split)
    with pytest.raises(InputError, match=r"different images: 1 predicted rows, such as 19, are in no part"):
        require_cover(table, split.iloc[:-1])


def test_a_run_that_held_out_a_part_only_is_refused(
    mlruns: Path, new_logger: Callable[..., TrackingLogger], draw_predictions: Draw
) -> None:
    table = draw_predictions(30)
    split = pd.DataFrame({"fold": 0, "row": np.arange(30), "role": "test", "is_copy": False})
    logger = new_logger(run_name="whole")
    logger.log_table(table, "predictions")
    logger.log_table(split, "split")
    logger.finalize()
    found, predictions = label_errors_of(str(logger.run_id))
    assert len(found.ranked) == len(predictions) == 30
    leaky = new_logger(run_name="leaky")
    leaky.log_table(table.assign(run_protocol="duplicates"), "predictions")
    leaky.log_table(split, "split")
    leaky.finalize()
    assert "Protocol of the run: duplicates" in label_errors_of(str(leaky.run_id))[0].notes[0]
    part = new_logger(run_name="part")
    part.log_table(table.iloc[:10], "predictions")
    part.log_table(split, "split")
    part.finalize()
    with pytest.raises(InputError, match="20 of 30 images were not"):
        label_errors_of(str(part.run_id))
    empty = new_logger(run_name="empty")
    empty.finalize()
    with pytest.raises(InputError, match=r"has no table of predictions; choose a finished `emotion fit`"):
        label_errors_of(str(empty.run_id))


# --- annotators -------------------------------------------------------------------------------------------------------


@pytest.fixture
def voted(tmp_path: Path) -> DataOptions:
    """Six images with ten votes each: three labels stand, one is wrong, one is unknown, one has no vote."""
    rows = [
        ("a.png", "happy", 9, 1, 0),
        ("b.png", "sad", 1, 8, 1),
        ("c.png", "happy", 5, 5, 0),  # a tie, in which the published label stands
        ("d.png", "sad", 7, 3, 0),
        ("e.png", "happy", 3, 1, 6),
        ("f.png", "happy", 0, 0, 10),
    ]
    table = pd.DataFrame(rows, columns=["path", "label", "votes_happy", "votes_sad", "votes_unknown"])
    for path in table["path"]:
        (tmp_path / path).write_bytes(path.encode())
    table.to_csv(tmp_path / "t.csv", index=False)
    table.drop(columns=["votes_happy", "votes_sad", "votes_unknown"]).to_csv(tmp_path / "plain.csv", index=False)
    return DataOptions(str(tmp_path / "t.csv"), ReadOptions(part=0.5), None)


def test_precision_against_annotators_by_hand(voted: DataOptions) -> None:
    annotators = annotators_labels(voted)
    answers = {"a.png": "happy", "b.png": "sad", "c.png": "happy", "d.png": "happy", "e.png": "happy"}
    assert annotators["answer"].to_dict() == answers
    assert annotators["unclear"].to_dict() == {name: name == "e.png" for name in annotators.index}
    names = ["d.png", "f.png", "a.png", "e.png", "b.png", "c.png"]
    labels = dict(zip("abcdef", ["happy", "sad", "happy", "sad", "happy", "happy"], strict=True))
    ranked = pd.DataFrame({"path": names, "label": [labels[name[0]] for name in names]})
    found = find_label_errors(_six())
    found = type(found)(ranked, found.classes)
    precision, about = precision_table(found, annotators, first=(1, 2, 50))
    assert precision["first"].tolist() == [1, 2, 6]
    assert precision["other_emotion"].tolist() == pytest.approx([1, 1 / 2, 1 / 6])
    assert precision["unclear"].tolist() == pytest.approx([0, 1 / 2, 2 / 6])
    assert precision["wrong"].tolist() == pytest.approx([1, 1, 3 / 6])
    with pytest.raises(InputError, match="--votes: the data set with the votes has none of the run's images"):
        precision_table(found, annotators.rename(index="other/{}".format))
    assert about.startswith("6 images; annotators give 1 of them another emotion, and call 2 unknown")


def _six() -> pd.DataFrame:
    table = pd.DataFrame({"row": range(6), "path": "x", "content": "x", "cluster": range(6), "subject": "", "fold": 0})
    table["label"] = table["predicted"] = ["happy", "sad"] * 3
    return table.assign(prob_happy=[0.9, 0.1] * 3, prob_sad=[0.1, 0.9] * 3)


def test_a_set_without_votes_cannot_be_compared(voted: DataOptions) -> None:
    plain = DataOptions(voted.source.replace("t.csv", "plain.csv"), ReadOptions(), None)
    with pytest.raises(InputError, match="votes"):
        annotators_labels(plain)
    with pytest.raises(InputError, match="--votes: cannot match faces that were cut out by haar"):
        annotators_labels(DataOptions(voted.source, ReadOptions(faces="haar"), None))
