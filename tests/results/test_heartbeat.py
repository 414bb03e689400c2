"""A run records which process writes it, and is not resumed while that process is alive."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from datamodules.errors import InputError
from results.tracking import logger
from results.tracking.logger import FRESH, TAG, TrackingLogger, refuse_written, this_process
from results.tracking.runs import run_row


def tags(**changes: Any) -> dict[str, str]:
    return {TAG: json.dumps({**this_process(), "seen": time.time(), **changes})}


def seen(run_id: str) -> float:
    return float(json.loads(run_row(run_id).get(f"tags.{TAG}", '{"seen": 0}'))["seen"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_is_tagged_while_it_is_written(
    mlruns: Path, new_logger: Callable[..., TrackingLogger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "EVERY", 0.1)
    tracker = new_logger()
    run_id = str(tracker.run_id)
    until(lambda: seen(run_id) > 0)
    first = seen(run_id)
    until(lambda: seen(run_id) > first)
    writer = json.loads(run_row(run_id)[f"tags.{TAG}"])
    assert {name: writer[name] for name in this_process()} == this_process()
    tracker.finalize("success")
    last = seen(run_id)
    time.sleep(0.3)
    assert seen(run_id) == last


def test_on_this_machine_the_process_counts_and_not_the_heartbeat() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        written = tags(pid=process.pid, started=psutil.Process(process.pid).create_time(), seen=0.0)
        with pytest.raises(
            InputError, match=rf"--resume: run abc is running on this machine \(process {process.pid}\)"
        ):
            refuse_written("abc", "RUNNING", written, "--resume")
        refuse_written("abc", "FAILED", written, "--resume")
        reused = tags(pid=process.pid, started=1.0)  # the number belongs to another process by now
        refuse_written("abc", "RUNNING", reused, "--resume")
    finally:
        process.kill()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    just_now = tags(pid=process.pid, started=psutil.Process(process.pid).create_time())
    refuse_written("abc", "RUNNING", just_now, "--resume")  # dead, and not yet waited for
    process.wait()
    refuse_written("abc", "RUNNING", just_now, "--resume")
    refuse_written("abc", "RUNNING", tags(), "--resume")  # this process
    refuse_written("abc", "RUNNING", {}, "--resume")  # of an older version


@pytest.mark.parametrize("other", [{"host": "node7"}, {"boot": "another"}, {"namespace": "pid:[1]"}])
def test_of_another_machine_the_heartbeat_counts(other: dict[str, str]) -> None:
    host = other.get("host", this_process()["host"])
    with pytest.raises(InputError, match=rf"run abc is running on {host} \(process 9\), last seen 4[0-9] s ago"):
        refuse_written("abc", "RUNNING", tags(pid=9, seen=time.time() - 40, **other), "--resume")
    refuse_written("abc", "RUNNING", tags(pid=9, seen=time.time() - FRESH - 1, **other), "--resume")
    refuse_written("abc", "KILLED", tags(pid=9, **other), "--resume")
