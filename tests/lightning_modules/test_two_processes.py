"""Two gloo processes give the metrics of one, each row once, and keep their weights together through a thaw."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_two_processes_are_one(tmp_path: Path) -> None:
    root = HERE.parents[1]
    path = os.pathsep.join([str(root), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for devices in (1, 2):
        command = [sys.executable, str(HERE / "two_processes.py"), str(devices), str(tmp_path)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{devices}.json").read_text()) for devices in (1, 2))
    assert one["rows"] == two["rows"] == list(range(13))
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    for left, right in zip(one["prob"], two["prob"], strict=True):
        assert left == pytest.approx(right, abs=1e-6)
    assert two["moved"] == two["layers"]
    assert two["spread"] == 0
