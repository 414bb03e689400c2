"""`emotion fit --resume`: a run that was killed, ended or interrupted goes on in itself, to the same numbers."""

import errno
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from torch.optim.optimizer import register_optimizer_step_post_hook

pytestmark = pytest.mark.usefixtures("store")
AtStep = Callable[[int, Callable[[], object]], None]
MIDDLE = 10  # step in the second epoch, which has seven
LAST = 14


@pytest.fixture(scope="session")
def words(tiny: tuple[str, ...]) -> tuple[str, ...]:
    """The command whose run `fitted` is."""
    return ("fit", *tiny, "--data.folds", "4")


def failing(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def newest(emotion: Any) -> Any:
    return emotion.runs()[0]


def checkpoints(run_id: str) -> set[str]:
    """Return the names of a run's checkpoints that are outside its artifacts."""
    found = (path for path in Path("mlruns").rglob("*.ckpt") if run_id in path.parts and "artifacts" not in path.parts)
    return {path.name for path in found}


def check_same(emotion: Any, whole: str, resumed: str, *, epoch_in_parts: bool = False) -> None:
    """Compare tables, curves and weights of two runs.

    The mean training loss of an epoch that was stopped in its middle is that of the batches after the resume.
    """
    assert emotion.client.get_run(resumed).info.status == "FINISHED"
    for name in ("predictions", "split", "intervals"):
        pd.testing.assert_frame_equal(emotion.table(whole, name), emotion.table(resumed, name))
    for name in ("train/loss", "val/loss", "val/f1_macro"):
        expected, found = (emotion.history(run, name) for run in (whole, resumed))
        assert set(found) == set(expected), name
        if name == "train/loss" and epoch_in_parts:
            del expected[max(expected)], found[max(found)]
        assert found == pytest.approx(expected, abs=1e-6), name
    weights = [torch.load(emotion.artifact(run, "best.ckpt"), weights_only=True) for run in (whole, resumed)]
    for name, tensor in weights[0]["state_dict"].items():
        assert torch.equal(tensor, weights[1]["state_dict"][name]), name


def test_a_killed_run_goes_on_in_itself(emotion: Any, fitted: str, words: tuple[str, ...]) -> None:
    """It is ended by kill -9 in the second epoch, and goes on from the end of the first."""
    emotion.finish(emotion.start(*words, at_step=f"{MIDDLE}:SIGKILL", fresh=True), status=-signal.SIGKILL)
    killed = newest(emotion).info.run_id
    assert killed != fitted
    assert checkpoints(killed) == {"best.ckpt", "last.ckpt"}
    assert emotion.client.get_run(killed).info.status == "RUNNING"
    emotion(*words, "--resume")
    assert len(emotion.runs()) == 2
    check_same(emotion, fitted, killed)
    assert checkpoints(killed) == checkpoints(fitted) == {"best.ckpt"}


@pytest.mark.parametrize(("ends", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "ctrl-c"])
def test_an_interrupted_run_goes_on_from_the_middle_of_an_epoch(
    emotion: Any, fitted: str, words: tuple[str, ...], at_step: AtStep, ends: signal.Signals, status: int
) -> None:
    at_step(MIDDLE, lambda: os.kill(os.getpid(), ends))
    done = emotion(*words, status=status)
    stopped = newest(emotion)
    run_id = stopped.info.run_id
    assert stopped.info.status == "KILLED"
    assert checkpoints(run_id) == {"best.ckpt", "last.ckpt", "interrupted.ckpt"}
    assert done.err.count(f"--resume {run_id}") == 1
    assert "Traceback" not in done.err
    steps: list[int] = []
    at_step(LAST - MIDDLE, lambda: steps.append(1))
    emotion(*words, "--resume", run_id)
    assert steps == [1]
    assert len(emotion.runs()) == 2
    check_same(emotion, fitted, run_id, epoch_in_parts=True)


def test_sigterm_to_all_processes_lets_the_loaders_finish(
    emotion: Any, words: tuple[str, ...], at_step: AtStep
) -> None:
    """A service manager or a batch system may send it to all of them, and the loading processes come first here."""
    loading = (*words, "--data.num_workers", "1")

    def end() -> None:
        for process in [*loaders(), os.getpid()]:
            os.kill(process, signal.SIGTERM)
        time.sleep(0.5)  # in which a loading process would end, and this one would learn of it

    at_step(MIDDLE, end)
    emotion(*loading, status=143)
    stopped = newest(emotion)
    assert stopped.info.status == "KILLED"
    assert "interrupted.ckpt" in checkpoints(stopped.info.run_id)
    assert not loaders()


def loaders() -> list[int]:
    """Process numbers of the loading processes of this one."""
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def test_sigterm_in_a_validation_lets_it_end(
    emotion: Any, fitted: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the first of several batches of the first validation."""
    few = (*words, "--data.eval_batch_size", "4")
    started: list[int] = []

    def end(*_: object, **__: object) -> None:
        started.append(1)
        if len(started) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LightningModule, "on_validation_batch_start", end)
        emotion(*few, status=143)
    assert len(started) > 1
    stopped = newest(emotion).info.run_id
    assert "interrupted.ckpt" not in checkpoints(stopped)  # the epoch is whole
    emotion(*few, "--resume")
    check_same(emotion, fitted, stopped)


def test_a_frozen_backbone_stays_frozen_after_a_stop(emotion: Any, words: tuple[str, ...], at_step: AtStep) -> None:
    frozen = (*words, "--model.freeze", "all")
    emotion(*frozen)
    whole = newest(emotion).info.run_id
    at_step(MIDDLE, lambda: os.kill(os.getpid(), signal.SIGINT))
    emotion(*frozen, status=130)
    emotion(*frozen, "--resume")
    check_same(emotion, whole, newest(emotion).info.run_id, epoch_in_parts=True)


@pytest.mark.parametrize("when", ["last step", "evaluation"])
def test_sigterm_after_the_last_batch_closes_the_run(
    emotion: Any, fitted: str, words: tuple[str, ...], at_step: AtStep, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        if when == "last step":
            at_step(LAST, end)
        else:
            patch.setattr(LightningModule, "on_test_start", end)
        done = emotion(*words, status=143)
    stopped = newest(emotion)
    assert stopped.info.status == "KILLED"
    assert done.err.count(f"--resume {stopped.info.run_id}") == 1
    emotion(*words, "--resume")
    check_same(emotion, fitted, stopped.info.run_id, epoch_in_parts=when == "last step")


def test_a_run_killed_before_its_first_checkpoint_begins_again_in_itself(
    emotion: Any, fitted: str, words: tuple[str, ...], at_step: AtStep
) -> None:
    """A run with one other option finds nothing to go on from, and begins anew."""
    at_step(3, failing(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        emotion(*words)
    failed = newest(emotion)
    assert failed.info.status == "FAILED"
    assert checkpoints(failed.info.run_id) == set()

    for other in (("--model.learning_rate", "0.01"), ("--run.ema_decay", "0.9")):
        done = emotion(*words, *other, "--run.evaluate", "false", "--resume")
        assert "no unfinished run has this config" in done.err
        assert newest(emotion).info.run_id != failed.info.run_id
        assert emotion.client.get_run(failed.info.run_id).info.status == "FAILED"

    emotion(*words, "--resume")
    assert len(emotion.runs()) == 4
    check_same(emotion, fitted, failed.info.run_id)


def test_a_damaged_checkpoint_is_passed_over(
    emotion: Any, fitted: str, words: tuple[str, ...], at_step: AtStep
) -> None:
    at_step(MIDDLE, failing(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        emotion(*words)
    run_id = newest(emotion).info.run_id
    (last,) = (path for path in Path("mlruns").rglob("last.ckpt") if run_id in path.parts)
    last.with_name("interrupted.ckpt").write_bytes(b"half")
    whole = last.read_bytes()
    last.write_bytes(whole[:3000])
    (error,) = emotion(*words, "--resume", status=1).errors
    assert "every checkpoint of the run is damaged: last.ckpt" in error
    last.write_bytes(whole)
    emotion(*words, "--resume")
    check_same(emotion, fitted, run_id)


def test_a_finished_run_is_not_resumed(emotion: Any, fitted: str, words: tuple[str, ...]) -> None:
    before = emotion.client.get_run(fitted).info.end_time
    (error,) = emotion(*words, "--resume", fitted, status=1).errors
    assert f"run {fitted} has finished, so there is nothing to resume" in error
    assert emotion.client.get_run(fitted).info.end_time == before
    assert len(emotion.runs()) == 1


def test_resuming_where_there_are_no_runs_begins_one(emotion: Any, store: Path, words: tuple[str, ...]) -> None:
    shutil.rmtree(store)
    done = emotion(*words, "--trainer.max_epochs", "1", "--run.evaluate", "false", "--resume")
    assert "a new run starts" in done.err
    assert [run.info.status for run in emotion.runs()] == ["FINISHED"]


def test_images_that_changed_since_are_noticed(
    emotion: Any, faces: Path, words: tuple[str, ...], at_step: AtStep
) -> None:
    own = (*words, "--data", str(faces))
    at_step(1, failing(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        emotion(*own)
    run_id = newest(emotion).info.run_id
    at_step(0, failing(RuntimeError("never")))
    picture = next((faces / "sad").iterdir())
    picture.with_name("added.png").write_bytes(picture.read_bytes())
    (error,) = emotion(*own, "--resume", run_id, status=1).errors
    assert re.search(r"changed since run .* began", error)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["device", "host"])
def test_out_of_memory_names_the_batch_size_to_try(
    emotion: Any, words: tuple[str, ...], at_step: AtStep, error: BaseException
) -> None:
    at_step(8, failing(error))  # in the second epoch: there is a checkpoint to go on from
    done = emotion(*words, status=1)
    assert "error: out of memory with --data.batch_size 32: try --data.batch_size 16" in done.err
    assert "--resume" in done.err
    assert newest(emotion).info.status == "FAILED"


def test_a_loss_that_is_not_finite_stops_the_run(emotion: Any, words: tuple[str, ...]) -> None:
    (error,) = emotion(*words, "--model.learning_rate", "1e30", status=1).errors
    assert "not finite" in error or "val/loss is" in error
    assert "Lower --model.learning_rate" in error
    assert newest(emotion).info.status == "FAILED"


def test_a_loss_that_is_not_a_number_names_the_images(emotion: Any, fitted: str, words: tuple[str, ...]) -> None:
    """The weights are spoilt after the eighth step, so the loss of the ninth is no number."""
    done = itertools.count(1)

    def spoil(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if next(done) == 8:
            optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))

    hook = register_optimizer_step_post_hook(spoil)
    try:
        (error,) = emotion(*words, status=1).errors
    finally:
        hook.remove()
    found = re.search(r"the loss is not finite at step 8; rows of the manifest in this batch: ([\d, ]+)", error)
    assert found
    rows = {int(row) for row in found[1].split(", ")}
    assert len(rows) > 3
    assert rows <= emotion.rows(fitted, "train")
    assert newest(emotion).info.status == "FAILED"


def test_any_other_error_keeps_its_trace(emotion: Any, words: tuple[str, ...], at_step: AtStep) -> None:
    at_step(1, failing(FileNotFoundError(errno.ENOENT, "No such file or directory", "face.png")))
    with pytest.raises(FileNotFoundError, match=r"face\.png"):
        emotion(*words)
    assert newest(emotion).info.status == "FAILED"


def written_elsewhere(emotion: Any, run_id: str, seen: float) -> None:
    """Make a run look as if another machine were writing it."""
    emotion.client.update_run(run_id, status="RUNNING")
    writer = {"host": "node7", "boot": "other", "namespace": "", "pid": 4711, "started": 1.0, "seen": seen}
    emotion.client.set_tag(run_id, "writer", json.dumps(writer))


def test_a_run_that_another_machine_writes_is_not_resumed(emotion: Any, fitted: str, words: tuple[str, ...]) -> None:
    written_elsewhere(emotion, fitted, time.time())
    for resume in (["--resume"], ["--resume", fitted]):
        (error,) = emotion(*words, *resume, status=1).errors
        assert f"--resume: run {fitted} is running on node7 (process 4711), last seen" in error
    assert emotion.client.get_run(fitted).info.status == "RUNNING"


def test_a_cross_validation_that_another_machine_writes_is_not_resumed(
    emotion: Any, cross_validated: str, tiny: tuple[str, ...]
) -> None:
    words = ("cross-validate", *tiny, "--folds", "2", "--seeds", "0", "1")
    written_elsewhere(emotion, cross_validated, time.time())
    for resume in (["--resume"], ["--resume", cross_validated]):
        (error,) = emotion(*words, *resume, status=1).errors
        assert f"--resume: run {cross_validated} is running on node7 (process 4711)" in error
    written_elsewhere(emotion, cross_validated, time.time() - 3600)  # it died there without a word
    emotion(*words, "--resume")
    assert emotion.client.get_run(cross_validated).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_whose_process_is_alive_on_this_machine_is_not_resumed(emotion: Any, words: tuple[str, ...]) -> None:
    process = emotion.start(*words, at_step=f"{MIDDLE}:SIGSTOP")
    for line in process.stdout:
        if line.startswith(f"step {MIDDLE} done"):
            break
    (error,) = emotion(*words, "--resume", status=1).errors
    assert f"is running on this machine (process {process.pid})" in error
    process.kill()
    process.communicate()
    emotion(*words, "--resume")
    assert [run.info.status for run in emotion.runs()] == ["FINISHED"]
