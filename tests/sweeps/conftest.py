"""Worker processes for the tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "sweeps" / "queue_worker.py"


@pytest.fixture(autouse=True)
def _not_drawn(blank_figures: None) -> None:
    """The figures of runs are blank."""


@pytest.fixture
def start_worker(start_python: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Starts a worker of the queue: study, storage, task, settings; what still runs at the end is killed.

    With `fresh` it is a new interpreter, as a user starts it, and not forked after the imports.
    """
    started: list[Any] = []

    def begin(study: str, url: str, task: str, settings: dict[str, object], *, fresh: bool = False) -> Any:
        new = {**os.environ, "PYTHONPATH": f"{ROOT}:{SCRIPT.parent}"}
        words = (study, url, task, json.dumps(settings))
        if fresh:
            started.append(subprocess.Popen([sys.executable, str(SCRIPT), *words], env=new))
        else:
            started.append(start_python(SCRIPT.read_text(), words, new))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
