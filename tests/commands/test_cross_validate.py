"""`emotion cross-validate`: every image predicted once, folds below one parent run, and going on after a failure."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import f1_score

pytestmark = pytest.mark.usefixtures("store")
AtStep = Callable[[int, Callable[[], object]], None]
PARENT = "tags.kind = 'cross-validation'"


def by_fold(emotion: Any, parent: str) -> dict[tuple[str, str], Any]:
    return {(run.data.tags["seed"], run.data.tags["fold"]): run for run in emotion.children(parent)}


def check_each_image_once(emotion: Any, parent: str, folds: int) -> None:
    """Every image was tested in one fold, by a model that neither saw it nor was selected on it."""
    predictions = emotion.table(parent, "predictions")
    assert sorted(predictions["row"]) == list(range(len(predictions)))
    for fold in range(folds):
        test = emotion.rows(parent, "test", fold)
        assert test == set(predictions.loc[predictions["fold"] == fold, "row"])
        assert not test & (emotion.rows(parent, "train", fold) | emotion.rows(parent, "val", fold))
    assert set.union(*(emotion.rows(parent, "test", fold) for fold in range(folds))) == set(predictions["row"])


def test_two_folds_and_two_seeds_are_pooled_below_one_run(emotion: Any, cross_validated: str) -> None:
    runs = by_fold(emotion, cross_validated)
    assert sorted(runs) == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(emotion.runs()) == 5
    parent = emotion.client.get_run(cross_validated)
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["manifest"] for run in runs.values()} == {parent.data.tags["manifest"]}
    digests = {run.inputs.dataset_inputs[0].dataset.digest for run in (parent, *runs.values())}
    assert len(digests) == 1

    check_each_image_once(emotion, cross_validated, 2)
    for fold in (0, 1):  # the seeds share the folds
        ids = [runs[seed, str(fold)].info.run_id for seed in ("0", "1")]
        assert (
            emotion.rows(ids[0], "test") == emotion.rows(ids[1], "test") == emotion.rows(cross_validated, "test", fold)
        )

    predictions, metrics = emotion.table(cross_validated, "predictions"), emotion.summary(cross_validated)
    tested = pd.concat([emotion.table(runs["0", fold].info.run_id, "predictions") for fold in ("0", "1")])
    columns = ["row", "label", "predicted", *predictions.filter(like="prob_")]
    pd.testing.assert_frame_equal(
        predictions[columns].sort_values("row", ignore_index=True),
        tested[columns].sort_values("row", ignore_index=True),
    )
    score = f1_score(predictions["label"], predictions["predicted"], average="macro", zero_division=0)
    assert metrics["test/f1_macro"] == pytest.approx(score, abs=1e-6)
    folds, seeds = emotion.table(cross_validated, "folds"), emotion.table(cross_validated, "seeds")
    for row in folds.itertuples():
        run = runs[str(row.seed), str(row.fold)]
        assert row.f1_macro == pytest.approx(emotion.summary(run.info.run_id)["test/f1_macro"], abs=1e-6)
    assert metrics["folds/f1_macro_mean"] == pytest.approx(folds.loc[folds["seed"] == 0, "f1_macro"].mean())
    assert metrics["folds/f1_macro_sd"] == pytest.approx(folds.loc[folds["seed"] == 0, "f1_macro"].std(ddof=1))
    assert metrics["seeds/f1_macro_sd"] == pytest.approx(seeds["f1_macro"].std(ddof=1))
    for name in ("figures/confusion_matrix.png", "figures/f1_by_class.png", "per_class.csv"):
        kept = [path for path in Path("mlruns/artifacts", cross_validated).rglob("*") if str(path).endswith(name)]
        assert kept, name


def test_what_cross_validation_sets_cannot_be_given(emotion: Any, tiny: tuple[str, ...]) -> None:
    for option, value in (("--data.fold", "1"), ("--split", "given"), ("--data.folds", "3"), ("--data.fold_seed", "2")):
        (error,) = emotion("cross-validate", *tiny, "--folds", "2", option, value, status=1).errors
        assert f"{option}: cross-validation sets it (got {value})" in error
    for words, message in (
        (("--folds", "1"), "--folds: must be at least 2, got 1"),
        (("--seeds", "0", "0"), "--seeds: must not repeat a seed"),
        (("--resamples", "5"), "--resamples: must be at least 100"),
    ):
        (error,) = emotion("cross-validate", *tiny, *words, status=1).errors
        assert message in error
    assert emotion.runs() == []


def test_a_mistyped_cross_validation_leaves_no_folds(emotion: Any, tiny: tuple[str, ...]) -> None:
    emotion("cross-validate", *tiny, "--folds", "2", "--model.learning_rat", "1", status=1)
    assert emotion.runs() == []


@pytest.mark.slow
def test_it_goes_on_with_the_fold_that_failed(
    emotion: Any, cross_validated: str, tiny: tuple[str, ...], at_step: AtStep
) -> None:
    """The second fold fails in its second epoch; fold 0 is taken as it is, and the numbers are those of no failure."""
    whole = by_fold(emotion, cross_validated)
    ends = sorted(emotion.history(whole["0", "0"].info.run_id, "val/loss"))  # the last step of each epoch

    def fails() -> None:
        msg = "power cut"
        raise RuntimeError(msg)

    words = ("cross-validate", *tiny, "--folds", "2", "--data.cache_dir", "cache", "--run.name", "mine")
    at_step(ends[-1] + 1 + ends[0] + 1 + 2, fails)
    with pytest.raises(RuntimeError, match="power cut"):
        emotion(*words)
    parent = emotion.runs(PARENT)[0].info.run_id
    assert parent != cross_validated
    before = by_fold(emotion, parent)
    assert {fold: run.info.status for (_, fold), run in before.items()} == {"0": "FINISHED", "1": "FAILED"}

    at_step(0, fails)  # never
    (error,) = emotion(*words, "--model.dropout", "0.1", "--resume", parent, status=1).errors
    assert "other options or images" in error
    done = emotion(*words, "--resume")
    after = by_fold(emotion, parent)
    assert {at: run.info.run_id for at, run in after.items()} == {at: run.info.run_id for at, run in before.items()}
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert after["0", "0"].info.end_time == before["0", "0"].info.end_time  # not run again
    assert [run.info.status for run in emotion.runs(PARENT)] == ["FINISHED"] * 2
    assert emotion.client.get_run(parent).info.run_name == "mine"
    assert [run.info.run_name for run in after.values()] == ["mine fold 0", "mine fold 1"]
    check_each_image_once(emotion, parent, 2)
    pd.testing.assert_frame_equal(emotion.table(parent, "predictions"), emotion.table(cross_validated, "predictions"))
    assert re.search(r"macro F1 of the folds: \d\.\d+ \d\.\d+", done.out)
    assert len(list(Path("cache").rglob("meta.json"))) == 1  # one cache for all folds


def test_sigterm_between_folds_leaves_no_run_that_never_began(
    emotion: Any, tiny: tuple[str, ...], at_step: AtStep
) -> None:
    words = ("cross-validate", *tiny, "--folds", "2", "--trainer.max_epochs", "1", "--run.experiment", "elsewhere")
    before = signal.getsignal(signal.SIGTERM)
    at_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    done = emotion(*words, status=143)
    assert signal.getsignal(signal.SIGTERM) is before
    (parent,) = emotion.runs(PARENT)
    assert parent.info.status == "KILLED"
    assert done.err.count(f"--resume {parent.info.run_id}") == 1
    (first,) = emotion.children(parent.info.run_id)
    assert first.info.status == "KILLED"
    done = emotion(*words, "--resume")
    assert done.err.count(": starting (") == 1
    assert "\r" not in done.err  # no bar in a file
    below = emotion.children(parent.info.run_id)
    assert [run.info.status for run in below] == ["FINISHED"] * 2
    assert below[0].info.run_id == first.info.run_id
    assert len(emotion.runs()) == 3
    table = emotion.table(parent.info.run_id, "folds")
    for number, row in enumerate(table.itertuples(), 1):
        assert f"fold {row.fold} seed 0 ({number} of 2): macro F1 {row.f1_macro:.3f}, accuracy" in done.err
    assert np.array_equal(np.sort(table["fold"]), [0, 1])


def test_sigterm_after_the_last_fold_closes_the_parent(
    emotion: Any, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with the first figure that is drawn after both folds have finished."""
    words = ("cross-validate", *tiny, "--folds", "2", "--trainer.max_epochs", "1")
    savefig, sent = Figure.savefig, []

    def end(self: Figure, *args: Any, **options: Any) -> None:
        savefig(self, *args, **options)
        if not sent and [run.info.status for run in emotion.runs()].count("FINISHED") == 2:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Figure, "savefig", end)
    done = emotion(*words, status=None)
    assert (done.status, sent) == (143, [signal.SIGTERM]), done.err
    (parent,) = emotion.runs(PARENT)
    assert parent.info.status == "KILLED"
    assert done.err.count(f"--resume {parent.info.run_id}") == 1
    ended = {run.info.run_id: run.info.end_time for run in emotion.children(parent.info.run_id)}
    emotion(*words, "--resume")
    assert [run.info.status for run in emotion.runs()] == ["FINISHED"] * 3
    assert ended == {run.info.run_id: run.info.end_time for run in emotion.children(parent.info.run_id)}
    check_each_image_once(emotion, parent.info.run_id, 2)


def test_a_named_run_is_not_resumed_where_there_are_no_runs(emotion: Any, tiny: tuple[str, ...]) -> None:
    for command in (("fit", *tiny), ("cross-validate", *tiny, "--folds", "2")):
        (error,) = emotion(*command, "--resume", "0123abcd", status=1).errors
        assert "0123abcd" in error
        assert not list(Path().rglob("*.ckpt"))


@pytest.mark.slow
def test_recipe_k_emotionnet_cross_validates_on_whole_scenes_and_is_exported(emotion: Any) -> None:
    scenes = "scenes:images=42,size=96,others=0,distractors=0,classes=happy+sad+angry"
    words = (
        *("--recipe", "k-emotionnet", "--data", scenes, "--data.size", "32", "--data.batch_size", "16"),
        *("--folds", "2", "--resamples", "100"),
        *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    )
    emotion("cross-validate", *words)
    assert len(emotion.runs()) == 3
    (parent,) = emotion.runs(PARENT)
    member = emotion.children(parent.info.run_id)[0].info.run_id
    done = emotion("export", member, "--format", "onnx", "--output", "model.onnx")
    assert emotion.client.get_run(member).data.tags["backbone"] == "k_emotionnet"
    assert "classes: angry, happy, sad" in done.err
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": np.zeros((2, 3, 32, 32), np.uint8)})
    assert answer.sum(1) == pytest.approx(1.0, abs=1e-5)
