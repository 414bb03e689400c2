"""`emotion fit` and `cross-validate` with two processes on a CPU (gloo): one MLflow run, the numbers of one process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
ONE = ("--trainer.devices", "1", "--trainer.strategy", "auto")


def check_the_numbers_of_one(emotion: Any, run_id: str) -> None:
    """Evaluate the kept weights in one process."""
    shown = emotion("test", "--run", run_id, *ONE).out
    for name in ("test/f1_macro", "test/accuracy", "test/nll"):
        (line,) = (line for line in shown.splitlines() if f" {name} " in line)
        value = float(re.findall(r"[-+\d.e]+", line)[-1])
        assert value == pytest.approx(emotion.summary(run_id)[name], abs=1e-6), name


def test_two_processes_make_one_run_with_the_numbers_of_one(emotion: Any, tiny: tuple[str, ...]) -> None:
    words = ("fit", *tiny, "--data.folds", "4", *TWO, "--data.cache_dir", "cache")
    said = emotion.finish(emotion.start(*words))
    (run,) = emotion.runs()
    assert run.info.status == "FINISHED"
    assert said.count(f"run {run.info.run_id}") == 1
    assert len(list(Path("cache").rglob("meta.json"))) == 1
    predictions = emotion.table(run.info.run_id, "predictions")
    assert sorted(predictions["row"]) == sorted(emotion.rows(run.info.run_id, "test"))
    check_the_numbers_of_one(emotion, run.info.run_id)


SCRIPT = """
import sys
from lightning_modules.config import RunConfig
from lightning_modules.training import train

if __name__ == "__main__":
    config = RunConfig.resolve(sys.argv[1:])
    result = train(config.override({"trainer.devices": 2, "trainer.strategy": "ddp"}))
    print("finished" if result is None else f"finished {result.run_id} {len(result.predictions)}")
"""


def test_a_script_that_calls_train_trains_with_two_processes(emotion: Any, tiny: tuple[str, ...]) -> None:
    """The other process runs the script again, and keeps nothing."""
    Path("script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py", *tiny, "--data.folds", "4"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = emotion.runs()
    predictions = emotion.table(run.info.run_id, "predictions")
    said = [line for line in done.stdout.splitlines() if line.startswith("finished")]
    assert f"finished {run.info.run_id} {len(predictions)}" in said
    assert sorted(predictions["row"]) == sorted(emotion.rows(run.info.run_id, "test"))
    check_the_numbers_of_one(emotion, run.info.run_id)


def test_two_processes_cross_validate(emotion: Any, tiny: tuple[str, ...]) -> None:
    emotion.finish(emotion.start("cross-validate", *tiny, *TWO, "--folds", "2"))
    (parent,) = emotion.runs("tags.kind = 'cross-validation'")
    assert len(emotion.runs()) == 3
    folds = emotion.children(parent.info.run_id)
    assert [run.info.status for run in folds] == ["FINISHED"] * 2
    predictions = emotion.table(parent.info.run_id, "predictions")
    assert sorted(predictions["row"]) == list(range(len(predictions)))
    check_the_numbers_of_one(emotion, folds[1].info.run_id)


def test_a_killed_process_ends_the_other_and_the_run_goes_on(emotion: Any, tiny: tuple[str, ...]) -> None:
    words = ("fit", *tiny, "--data.folds", "4", *TWO)
    process = emotion.start(*words, at_step="9:wait")
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "step 9 done" in line:
            break
    else:
        raise AssertionError("".join(said))
    children = psutil.Process(process.pid).children()
    (other,) = (child for child in children if "command.py" in " ".join(child.cmdline()))
    os.kill(other.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    (stopped,) = emotion.runs()
    assert stopped.info.status != "FINISHED"

    emotion.finish(emotion.start(*words, "--resume"))
    (run,) = emotion.runs()
    assert run.info.run_id == stopped.info.run_id
    assert run.info.status == "FINISHED"
