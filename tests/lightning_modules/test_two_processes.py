"""Two gloo processes give the metrics of one, each row once, and keep their weights together through a thaw."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path, start_python: Callable[..., Any]) -> None:
    """Both ranks get the variables that Lightning's launcher sets, which the slow tests of `emotion fit` use."""
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        cluster = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [{**cluster, "NODE_RANK": "0", "LOCAL_RANK": str(rank)} for rank in range(2)]
    code = (HERE / "two_processes.py").read_text()
    started = [start_python(code, ["1", str(tmp_path)], environment)]
    started += [start_python(code, ["2", str(tmp_path)], environment | rank) for rank in ranks]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    one, two = (json.loads((tmp_path / f"{devices}.json").read_text()) for devices in (1, 2))
    assert one["rows"] == two["rows"] == list(range(13))
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    for left, right in zip(one["prob"], two["prob"], strict=True):
        assert left == pytest.approx(right, abs=1e-6)
    assert two["moved"] == two["layers"]
    assert two["spread"] == 0
