"""`emotion detector`: one small run from drawn scenes to a tracked run, trained on from there, and what it refuses."""

from pathlib import Path

import pytest

import emotion
from datamodules.errors import InputError
from emotion.cli.detector import main
from results.reports.run_page import REPORT
from results.tracking import store
from results.tracking.runs import download, find_runs, load_table

SCENES = "scenes:images=16,size=96,others=1"
SMALL = ["--data", SCENES, "--size", "64", "--epochs", "1", "--data.batch_size", "6", "--data.num_workers", "0"]
TINY = ["--model.backbone", "resnet10t", "--model.weights", "none", "--model.width", "8"]
FAST = ["--run.resamples", "100", "--run.accelerator", "cpu"]


def test_a_run_is_tracked_measured_and_trained_on(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emotion.main(["detector", "fit", *SMALL, *TINY, *FAST, "--model.nwd", "0.25"]) == 0
    assert "held-out images" in capsys.readouterr().out
    (run,) = find_runs().itertuples()
    assert run.status == "FINISHED"
    split, found = load_table(run.run_id, "split"), load_table(run.run_id, "detections")
    assert set(found["row"]) <= set(split.loc[split["role"] == "test", "row"])
    intervals = load_table(run.run_id, "intervals")
    assert intervals["metric"].tolist() == ["map_50", "map"]
    note = store.open_client().get_run(run.run_id).data.tags["mlflow.note.content"]
    first = f"| mAP@.5 | {intervals['value'].iloc[0]:.3f} |"
    assert first in note
    assert f"`emotion detector export {run.run_id[:8]}`" in note
    page = download(run.run_id, REPORT).read_text(encoding="utf-8")
    assert "mAP@.5" in page
    assert f"<code>emotion detector export {run.run_id[:8]}</code>" in page

    assert emotion.main(["detector", "test", "latest", "--data", SCENES, "--data.num_workers", "0", "--all"]) == 0
    assert " faces in 16 images;" in capsys.readouterr().out
    assert emotion.main(["detector", "test", "latest", "--data.num_workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert "held-out images" in shown  # of the run's own scenes
    assert SCENES.partition(":")[0] in shown

    # the network is that of the run, unasked
    assert emotion.main(["detector", "fit", "--from", run.run_id, *SMALL[:2], *SMALL[4:], *FAST]) == 0
    assert len(find_runs()) == 2
    assert emotion.main(["detector", "fit", "--from", run.run_id, *SMALL, *FAST, "--model.width", "16"]) == 1
    assert "has width 8, this run 16: leave width out" in capsys.readouterr().err

    # another division would report on what it was trained on, and its file says so as well
    other = ["--data", SCENES, "--data.fold_seed", "3", "--data.num_workers", "0"]
    file = f"mlruns/runs/{run.run_id}/best.ckpt"
    for words in (
        ["test", run.run_id, *other],
        ["test", file, *other],
        ["fit", "--from", run.run_id, *other, "--epochs", "1", *FAST],
        ["fit", "--from", file, *other, "--epochs", "1", *FAST],
    ):
        assert emotion.main(["detector", *words]) == 1
        assert "images that this run reports on (or on near-duplicates of them" in capsys.readouterr().err
    assert len(find_runs()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], r"emotion detector: must be followed by fit, test or export, got 'train'"),
        (["fit", "--model.backbon", "x"], r"--model.backbon: no such option; did you mean --model.backbone"),
        (["fit", "--epochs", "0"], r"--run.epochs: must be at least 1, got 0"),
        (["fit", "--from", "nothing.ckpt"], r"no such file: nothing.ckpt"),
        (["test"], r"emotion detector test: must be followed by a run or a .ckpt file"),
    ],
)
def test_wrong_words_are_refused(workplace: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(["detector", *words])


def test_without_words_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detector"]) == 2
    assert "must be followed by fit, test or export" in capsys.readouterr().err
    assert main(["detector", "--help"]) == 0
    assert "emotion detector <fit|test|export>" in capsys.readouterr().out
