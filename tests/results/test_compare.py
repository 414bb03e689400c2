"""Comparison of runs on shared images: matching by content, corrected tests, and the command."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from emotion.cli.report import main
from results.compare import ComparedRun, compare, difference_figure, over_folds
from results.predictions import flag_protocol, join_clusterings, matched
from results.significance import holm, paired_permutation
from results.statistics import fold_scores
from results.tracking.logger import TrackingLogger

CLASSES = ["angry", "happy", "sad", "neutral"]
Draw = Callable[..., pd.DataFrame]


def test_images_are_matched_by_content_across_manifests(draw_predictions: Draw) -> None:
    a = draw_predictions(60)
    b = draw_predictions(60).iloc[::-1].iloc[:40].assign(row=range(40))  # another manifest: fewer, in another order
    one, two = matched([a, b])
    assert len(one) == 40
    assert one["content"].tolist() == two["content"].tolist()
    assert (one["row"] == two["row"]).all()


def test_duplicates_are_matched_as_often_as_both_have_them(draw_predictions: Draw) -> None:
    a = draw_predictions(20, cluster_size=4).iloc[:8].reset_index(drop=True)
    a["content"] = ["x", "x", "x", "y", "z", "z", "w", "v"]
    b = a.iloc[[0, 1, 3, 4, 6]].reset_index(drop=True)
    assert matched([a, b])[0]["content"].value_counts().to_dict() == {"x": 2, "y": 1, "z": 1, "w": 1}


def test_duplicates_of_one_manifest_meet_by_row(draw_predictions: Draw) -> None:
    a = draw_predictions(20, cluster_size=4).iloc[:4].reset_index(drop=True).assign(content="x")
    b = a.iloc[[1, 3]].reset_index(drop=True)  # another division held out two of the four
    assert [table["path"].tolist() for table in matched([a, b])] == [["1.png", "3.png"]] * 2
    moved = b.assign(row=[7, 3], path=["7.png", "3.png"])
    assert [table["path"].tolist() for table in matched([a, moved])] == [["0.png", "3.png"], ["7.png", "3.png"]]


def test_clusters_that_share_an_image_are_one() -> None:
    found = join_clusterings([np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 8]), np.array([1, 2, 3, 4, 4])])
    assert found.tolist() == [0, 0, 0, 1, 1]


def test_nothing_shared_other_labels_and_other_classes_are_errors(draw_predictions: Draw) -> None:
    a = draw_predictions(40)
    with pytest.raises(InputError, match="40 paths are in all runs, but their pixels differ"):
        matched([a, a.assign(content="f" + a["content"])])
    with pytest.raises(InputError, match="They evaluated different images"):
        matched([a, a.assign(content="f" + a["content"], path="other/" + a["path"])])
    other = a.assign(label=np.where(a.index < 3, np.where(a["label"] == "sad", "angry", "sad"), a["label"]))
    with pytest.raises(InputError, match="must have the same labels, 3 images have different ones"):
        matched([a, other])
    with pytest.raises(InputError, match="must have the same classes"):
        matched([a, a.rename(columns={"prob_sad": "prob_fear"}).replace("sad", "fear")])


def test_faces_cut_in_different_ways_meet_by_their_photograph(draw_predictions: Draw) -> None:
    whole = draw_predictions(60)
    cut = draw_predictions(60, skill=2.0).iloc[::-1].reset_index(drop=True)
    cut = cut.assign(face_source=cut["path"], face_detector="haar", row=range(60))
    cut = cut.assign(content="cut" + cut["content"], path=[f"{row:07}.jpg" for row in range(60)])
    other = cut.assign(content="x" + cut["content"], face_detector="yunet").iloc[:50]
    one, two, three = matched([whole, cut, other])
    assert len(one) == 50
    assert one["path"].tolist() == two["face_source"].tolist() == three["face_source"].tolist()
    wider = cut.assign(content="wide" + cut["content"])  # the same detector with another margin
    assert len(matched([cut, wider])[0]) == 60
    found = compare([ComparedRun("whole", whole), ComparedRun("haar", cut)], resamples=100, permutations=99)
    assert "matched by the photograph they were cut from" in found.notes[0]
    with pytest.raises(InputError, match="must share photographs, none is shared"):
        matched([whole, cut.assign(face_source="other/" + cut["face_source"])])
    other = cut.assign(label=np.where(cut.index < 3, np.where(cut["label"] == "sad", "angry", "sad"), cut["label"]))
    with pytest.raises(InputError, match="must have the same labels, 3 images"):
        matched([whole, other])


def test_every_pair_is_tested_and_the_family_corrected(draw_predictions: Draw) -> None:
    tables = {name: draw_predictions(200, skill=skill) for name, skill in (("low", 1.0), ("mid", 1.2), ("high", 1.8))}
    runs = [ComparedRun(name, table) for name, table in tables.items()]
    found = compare(runs, all_pairs=True, resamples=200, permutations=499)
    macro = found.pairs[found.pairs["metric"] == "f1_macro"]
    assert list(zip(macro["a"], macro["b"], strict=True)) == [("low", "mid"), ("low", "high"), ("mid", "high")]
    alone = [
        paired_permutation(tables[a], tables[b], CLASSES, permutations=499).p_value
        for a, b in zip(macro["a"], macro["b"], strict=True)
    ]
    np.testing.assert_allclose(macro["p_value"], alone)
    np.testing.assert_allclose(macro["p_holm"], holm(alone))
    assert set(found.pairs.loc[found.pairs["metric"] == "accuracy", "test"]) == {"McNemar, exact"}
    reference = compare(runs, resamples=200, permutations=199).pairs
    assert set(reference["a"]) == {"low"}
    together = [ComparedRun(run.name, run.predictions.assign(cluster=run.predictions["row"] // 2)) for run in runs[:2]]
    other = compare(together, resamples=200, permutations=199)
    assert set(other.pairs["test"]) == {"paired cluster permutation, macro F1", "paired cluster permutation, accuracy"}


def test_folds_are_tested_where_both_have_the_same(draw_predictions: Draw) -> None:
    def run(name: str, skill: float) -> ComparedRun:
        table = draw_predictions(200, skill=skill)
        folds = fold_scores(table, CLASSES).reset_index()
        return ComparedRun(name, table, pd.concat([folds.assign(seed=0), folds.assign(seed=1)]))

    a, b = run("a", 1.0), run("b", 2.0)
    found = over_folds(a, b)
    assert found is not None
    assert found.units == 5  # seeds on the same folds add none
    assert found.p_value < 0.1
    whole = compare([a, b], resamples=100, permutations=99)
    assert any(note.startswith("Several seeds: a, b.") for note in whole.notes)
    assert whole.pairs["fold_t"].notna().tolist() == [True, False]
    moved = ComparedRun("b", b.predictions.assign(fold=(b.predictions["fold"] + 1) % 4), b.folds)
    assert over_folds(a, moved) is None


def test_a_comparison_says_what_the_images_show(draw_predictions: Draw) -> None:
    table = draw_predictions(200)
    right = table.assign(predicted=table["label"])
    found = compare([ComparedRun("drawn", table), ComparedRun("right", right)], resamples=100, permutations=199)
    assert "These images show that right has a higher macro F1 than drawn." in found.notes
    same = compare([ComparedRun("one", table), ComparedRun("two", table)], resamples=100, permutations=199)
    assert "These images do not show a difference in macro F1 between one and two." in same.notes


def test_what_a_comparison_rests_on_is_said(draw_predictions: Draw) -> None:
    honest = ComparedRun("cost $x and $\\bad$", draw_predictions(60))
    flagged = flag_protocol(draw_predictions(80, seed=1, skill=2.0), "selected on the reported fold")
    flagged["label"] = draw_predictions(80)["label"]
    found = compare([honest, ComparedRun("other", flagged, status="FAILED")], resamples=100, permutations=99)
    assert found.images == 60
    assert "Runs with more images: other 80." in found.notes
    assert "other did not finish (FAILED)." in found.notes
    assert "Protocol of other: selected on the reported fold." in found.notes
    assert not any(note.startswith("Several seeds") for note in found.notes)
    difference_figure(found).savefig(io.BytesIO())  # a name is no formula


def test_the_command_prints_and_writes(
    mlruns: Path, draw_predictions: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = []
    for name, skill in (("plain", 1.0), ("<i>new</i>", 1.6)):
        run = TrackingLogger(run_name=name, system_metrics=False)
        run.log_table(draw_predictions(150, skill=skill), "predictions")
        run.finalize("success")
        ids.append(str(run.run_id))
    quick = ["--resamples", "100", "--permutations", "99"]
    assert main(["report", "compare", "plain", ids[1], *quick, "--out", "out"]) == 0
    assert "150 images in 150 clusters" in capsys.readouterr().out
    page = Path("out/compare.html").read_text()
    assert "<i>new" not in page
    assert f"runs/{ids[1]}" in page
    assert f"runs/{ids[0]})" in Path("out/compare.md").read_text()
    assert len(pd.read_csv("out/compare.csv")) == 2
    with pytest.raises(InputError, match="give different runs"):
        main(["report", "compare", ids[0], ids[0]])
