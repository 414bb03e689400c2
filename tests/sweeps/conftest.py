"""Workers as processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start_worker() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a worker of the queue: study, storage, task, settings; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(study: str, url: str, task: str, settings: dict[str, object]) -> subprocess.Popen[bytes]:
        script = ROOT / "tests" / "sweeps" / "queue_worker.py"
        new = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen([sys.executable, str(script), study, url, task, json.dumps(settings)], env=new))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
