"""A run that is killed, ended or interrupted goes on with --resume, in the same MLflow run, to the same numbers."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

import emotion
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.cli import run_cli
from records.runs import download, find_runs, load_table
from records.store import embedded_uri
from sweeps import cross_validation

EPOCHS = ("--trainer.max_epochs", "3")


@pytest.fixture
def whole(place: Path, one_run: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A run that nothing stopped, and its options."""
    words = (*one_run, *EPOCHS)
    assert emotion.main(["fit", *words]) == 0
    return str(find_runs().iloc[0]["run_id"]), words


def check_same(whole: str, resumed: str, epoch_in_parts: int | None = None) -> None:
    """Compare tables, curves and weights of two runs, and that the second has one value a step.

    The mean training loss of an epoch that was stopped in its middle is that of the batches after the resume.
    """
    client = MlflowClient(embedded_uri("mlruns"))
    assert client.get_run(resumed).info.status == "FINISHED"
    pd.testing.assert_frame_equal(load_table(whole, "predictions"), load_table(resumed, "predictions"))
    for name in ("train/loss", "val/loss", "val/f1_macro"):
        one, two = (
            {metric.step: metric.value for metric in client.get_metric_history(run, name)} for run in (whole, resumed)
        )
        assert set(two) == set(one)
        assert len(client.get_metric_history(resumed, name)) == len(two), name
        if name == "train/loss" and epoch_in_parts is not None:
            del one[epoch_in_parts], two[epoch_in_parts]
        assert two == pytest.approx(one, abs=1e-6), name
    weights = [torch.load(download(run, "checkpoint/best.ckpt"), weights_only=True) for run in (whole, resumed)]
    for name, tensor in weights[0]["state_dict"].items():
        assert torch.equal(tensor, weights[1]["state_dict"][name]), name


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(text):
            return
    raise AssertionError("".join(said))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill", "term", "ctrl-c"])
def test_a_stopped_run_goes_on_in_itself(
    whole: tuple[str, tuple[str, ...]],
    slowly: Callable[..., subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
    how: signal.Signals,
) -> None:
    uninterrupted, words = whole
    process = slowly("fit", *words)
    wait_for(process, "step 10")  # in the second epoch of seven steps
    if how == signal.SIGKILL:  # while it is alive nobody may take it over
        process.send_signal(signal.SIGSTOP)
        assert emotion.main(["fit", *words, "--resume"]) == 1
        assert f"is running on this machine (process {process.pid})" in capsys.readouterr().err
    process.send_signal(how)
    said, _ = process.communicate(timeout=300)
    found = find_runs()
    stopped = str(found[found["run_id"] != uninterrupted].iloc[0]["run_id"])
    left = {path.name for path in Path("mlruns/runs", stopped).glob("*.ckpt")}
    if how == signal.SIGKILL:
        assert process.returncode == -9
        assert left == {"best.ckpt", "last.ckpt"}
    else:
        assert process.returncode == (143 if how == signal.SIGTERM else 130)
        assert found.iloc[0]["status"] == "KILLED"
        assert left == {"best.ckpt", "last.ckpt", "interrupted.ckpt"}
        assert said.count(f"--resume {stopped}") == 1
        assert "Traceback" not in said
    resumed = run_cli(["fit", *words, "--resume"]).result
    assert resumed is not None
    assert resumed.run_id == stopped
    assert len(find_runs()) == 2
    check_same(uninterrupted, stopped, epoch_in_parts=None if how == signal.SIGKILL else 13)


def test_a_run_killed_before_its_first_checkpoint_begins_again_in_itself(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = EmotionClassifier.training_step

    def fails(self: EmotionClassifier, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
        if self.global_step == 3:
            msg = "power cut"
            raise RuntimeError(msg)
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(EmotionClassifier, "training_step", fails)
        with pytest.raises(RuntimeError, match="power cut"):
            emotion.main(["fit", *one_run])
    (failed,) = find_runs().to_dict("records")
    assert failed["status"] == "FAILED"
    result = run_cli(["fit", *one_run, "--resume"]).result
    assert result is not None
    assert result.run_id == failed["run_id"]
    assert find_runs().iloc[0]["status"] == "FINISHED"


def test_resume_finds_only_a_run_of_the_same_config(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at_test(monkeypatch)
    with pytest.raises(RuntimeError, match="stopped here"):
        emotion.main(["fit", *one_run])
    monkeypatch.undo()
    monkeypatch.chdir(place)
    for other in (["--run.ema_decay", "0.9"], ["--model.learning_rate", "0.01"]):
        capsys.readouterr()
        assert emotion.main(["fit", *one_run, *other, "--resume"]) == 0
        assert "no unfinished run has this config" in capsys.readouterr().err
    assert emotion.main(["fit", *one_run, "--resume"]) == 0
    found = find_runs()
    assert len(found) == 3
    assert set(found["status"]) == {"FINISHED"}


def stop_at_test(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules import command

    def stop(*_: object) -> None:
        msg = "stopped here"
        raise RuntimeError(msg)

    monkeypatch.setattr(command, "evaluate_outer", stop)


def test_resume_passes_over_a_damaged_checkpoint(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at_test(monkeypatch)
    with pytest.raises(RuntimeError, match="stopped here"):
        emotion.main(["fit", *one_run])
    monkeypatch.undo()
    monkeypatch.chdir(place)
    run_id = str(find_runs().iloc[0]["run_id"])
    folder = Path("mlruns/runs", run_id)
    (folder / "interrupted.ckpt").write_bytes(b"half")
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[:3000])
    assert emotion.main(["fit", *one_run, "--resume"]) == 1
    assert "every checkpoint of the run is damaged: last.ckpt" in capsys.readouterr().err
    (folder / "last.ckpt").write_bytes(whole)
    assert emotion.main(["fit", *one_run, "--resume"]) == 0
    assert find_runs().iloc[0]["status"] == "FINISHED"


def run_elsewhere(run_id: str, seen: float) -> None:
    """Make a run look as if another machine were writing it."""
    client = MlflowClient(embedded_uri("mlruns"))
    client.update_run(run_id, status="RUNNING")
    writer = {"host": "node7", "boot": "other", "namespace": "", "pid": 4711, "started": 1.0, "seen": seen}
    client.set_tag(run_id, "writer", json.dumps(writer))


@pytest.mark.parametrize("resume", ["--resume", "--resume=ID"])
def test_a_run_that_goes_on_elsewhere_is_not_resumed(
    finished: str, one_run: tuple[str, ...], capsys: pytest.CaptureFixture[str], resume: str
) -> None:
    run_elsewhere(finished, time.time())
    words = ["fit", *one_run, *resume.replace("ID", finished).split("=")]
    assert emotion.main(words) == 1
    said = capsys.readouterr().err
    assert f"--resume: run {finished} is running on node7 (process 4711), last seen" in said
    assert MlflowClient(embedded_uri("mlruns")).get_run(finished).info.status == "RUNNING"


def test_a_cross_validation_that_goes_on_elsewhere_is_not_resumed(
    place: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        msg = "stopped here"
        raise RuntimeError(msg)

    monkeypatch.setattr(cross_validation, "_run_folds", stop)
    words = ["cross-validate", *tiny, "--folds", "2"]
    with pytest.raises(RuntimeError, match="stopped here"):
        emotion.main(words)
    parent = find_runs(where="tags.kind = 'cross-validation'").iloc[0]["run_id"]
    run_elsewhere(parent, time.time())
    for resume in (["--resume"], ["--resume", parent]):
        assert emotion.main([*words, *resume]) == 1
        assert f"--resume: run {parent} is running on node7 (process 4711)" in capsys.readouterr().err
    run_elsewhere(parent, time.time() - 3600)  # it died there without a word
    with pytest.raises(RuntimeError, match="stopped here"):
        emotion.main([*words, "--resume"])


def test_a_finished_run_keeps_no_training_state_and_is_not_resumed(
    finished: str, one_run: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [path.name for path in Path("mlruns/runs", finished).glob("*.ckpt")] == ["best.ckpt"]
    assert emotion.main(["fit", *one_run, "--resume", finished]) == 1
    assert f"run {finished} has finished, there is nothing to go on from" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["on_train_epoch_end", "on_test_start"])
def test_sigterm_after_the_last_batch_closes_the_run(
    place: Path,
    one_run: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    def end(self: EmotionClassifier) -> None:
        if when == "on_test_start" or self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(EmotionClassifier, when, end)
        with pytest.raises(SystemExit, match="143"):
            emotion.main(["fit", *one_run])
    (run,) = find_runs().to_dict("records")
    assert run["status"] == "KILLED"
    assert capsys.readouterr().err.count(f"--resume {run['run_id']}") == 1
    assert emotion.main(["fit", *one_run, "--resume"]) == 0
    (run,) = find_runs().to_dict("records")
    assert run["status"] == "FINISHED"
