"""`emotion fit --trainer.devices 2` on a CPU: one MLflow run, the numbers of one process, resuming, a dead process."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import emotion
from records.runs import children, find_runs, load_table

pytestmark = pytest.mark.slow
Start = Callable[..., subprocess.Popen[str]]
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def finish(process: subprocess.Popen[str], seconds: float = 400) -> str:
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, said[-4000:]
    return said


def test_two_processes_make_one_run_with_the_numbers_of_one(
    place: Path, one_run: tuple[str, ...], start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    said = finish(start("fit", *one_run, *TWO, "--data.cache_dir", "cache"))
    (run,) = find_runs().to_dict("records")
    assert run["status"] == "FINISHED"
    assert said.count(f"run {run['run_id']}") == 1
    assert len(list(Path("cache").rglob("meta.json"))) == 1
    assert [path.name for path in Path("mlruns/runs").iterdir()] == [run["run_id"]]
    table = load_table(run["run_id"], "predictions")
    split = load_table(run["run_id"], "split")
    assert set(table["row"]) == set(split.loc[split["role"] == "outer", "row"])

    capsys.readouterr()
    one_process = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    assert emotion.main(["test", "--run", run["run_id"], *one_process]) == 0
    shown = capsys.readouterr().out
    for name in ("test/f1_macro", "test/accuracy", "test/nll"):
        (line,) = (line for line in shown.splitlines() if f" {name} " in line)
        assert float(re.findall(r"[-+\d.e]+", line)[-1]) == pytest.approx(run[f"metrics.{name}"], abs=1e-6)


def test_a_killed_rank_ends_the_other_and_the_run_goes_on(
    place: Path, one_run: tuple[str, ...], slowly: Callable[..., subprocess.Popen[str]], start: Start
) -> None:
    words = ("fit", *one_run, *TWO)
    process = slowly(*words)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "step 9" in line:
            break
    else:
        raise AssertionError("".join(said))
    (other,) = (child for child in psutil.Process(process.pid).children() if "emotion.py" in " ".join(child.cmdline()))
    os.kill(other.pid, signal.SIGKILL)
    began = time.monotonic()
    process.communicate(timeout=120)
    assert time.monotonic() - began < 120
    assert process.returncode != 0
    (stopped,) = find_runs().to_dict("records")
    assert stopped["status"] != "FINISHED"

    finish(start(*words, "--resume"))
    (run,) = find_runs().to_dict("records")
    assert run["run_id"] == stopped["run_id"]
    assert run["status"] == "FINISHED"


def test_two_processes_cross_validate(place: Path, tiny: tuple[str, ...], start: Start) -> None:
    finish(start("cross-validate", *tiny, *TWO, "--folds", "2"))
    (parent,) = find_runs(where="tags.kind = 'cross-validation'").to_dict("records")
    assert len(find_runs()) == 3
    assert list(children(parent["run_id"])["status"]) == ["FINISHED"] * 2
    table = load_table(parent["run_id"], "predictions")
    assert np.array_equal(np.sort(table["row"]), np.arange(len(table)))
