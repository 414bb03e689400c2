"""Commands of ours run and timed as a user runs them, and what their searches and trainings leave behind."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import emotion

ROOT = Path(__file__).resolve().parent.parent
CLOCKED = '--trainer.callbacks=[{"class_path": "benchmarks.clock.Clock"}]'
TIMES = "clock.jsonl"  # in the current folder; a server of processes may know an older environment


def small(largest: int, epochs: int, ratio: int = 1) -> list[str]:
    """Return options of `emotion fit` for a training of seconds, in which what surrounds it shows."""
    return [
        *("--data", f"drawn:largest={largest},ratio={ratio},size=32", "--data.size", "32", "--data.batch_size", "32"),
        *("--model.backbone", "test_resnet", "--model.weights", "none", "--trainer.accelerator", "cpu"),
        *("--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"),
    ]


def run(words: list[str], *, apart: bool = True) -> float:
    """Run ``emotion`` with these words in the current folder and return the seconds it took.

    Args:
        words: the command and its options.
        apart: in a process of its own; False saves the imports where only the code is tried.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    start = time.perf_counter()
    if not apart:
        status, printed = emotion.main(words), "see above"
    else:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "emotion", *words]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        status, printed = done.returncode, (done.stdout + done.stderr)[-2000:]
    if status:
        msg = f"emotion {words[0]} ended with status {status}: {printed}"
        raise RuntimeError(msg)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Training:
    """When one training began and ended, in seconds of the system's clock."""

    began: float
    ended: float


def trainings() -> list[Training]:
    """Return the trainings in the current folder that were run with `CLOCKED`, in the order of their ends."""
    lines = Path(TIMES).read_text(encoding="utf-8").splitlines()
    return [Training(**json.loads(line)) for line in lines]
