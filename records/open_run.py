"""A run that this process is writing: its lock, spool, sender and system metrics, and what was logged before."""

import atexit
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient

from datamodules.errors import InputError
from records import store
from records.heartbeat import Heartbeat
from records.sending import Sender, log
from records.spool import Spool, write_address
from records.system import SystemMetrics

RESERVED = "SCHEDULED"  # MLflow's status of a run that was made and has not begun
LOCK_SECONDS = 10.0  # loader workers of a killed process keep its lock until they notice


class OpenRun:
    """Writes to the spool, remembers which step of which metric was logged, and starts and stops the threads.

    Notes:
        * Only `__init__` needs the store to answer, and that only when the folder has no spool of the run;
          `activate` after `close` goes on without it.
        * `reserved`: the run was made and nothing was logged to it yet.
        * One process at a time writes a run: a lock in its folder, given back when the process ends.

    Args:
        client: A client of the store.
        run_id: The run, which exists.
        folder: Local folder of the run.
        address: What `emotion sync` needs to find the store: None for the embedded one.
        send_every: Seconds between two messages to the store.
        system_metrics: Whether to log use of processors, memory, disk and GPUs.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        folder: Path,
        address: str | None,
        send_every: float,
        system_metrics: bool,
    ) -> None:
        self.client, self.run_id, self.folder, self.pid = client, run_id, folder, os.getpid()
        self._place = address or "mlruns/mlflow.db"
        self._with_system, self._guard = system_metrics, threading.Lock()
        self._system: SystemMetrics | None = None
        self._heartbeat: Heartbeat | None = None
        self._logged: dict[str, dict[int, float]] = {}
        self._params: dict[str, str] = {}
        self._status = ""
        self.ended_as = "FAILED"  # what a process that ends without a word leaves behind
        self.active = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"directory: the run writes to {folder}, which failed: {error}. Free space or choose another folder."
            raise InputError(msg) from error
        self._lock = FileLock(folder / "lock")
        self._acquire()
        self.spool = Spool(folder / "spool")
        self._sender = Sender(client, run_id, self.spool, send_every)
        write_address(self.spool, run_id, address)
        self.reserved = False
        self._recall()
        self.activate()

    def activate(self) -> None:
        """Start, or start again, writing to the run."""
        if self.active:
            return
        self._acquire()
        self.set_status("RUNNING")
        self._sender.start()
        self._heartbeat = Heartbeat(self.client, self.run_id)
        if self._with_system:
            steps = [step for key, values in self._logged.items() if key.startswith("system/") for step in values]
            self._system = SystemMetrics(self.metrics, max(steps, default=-1) + 1)
        self.active = True
        atexit.register(self._at_exit)

    def _acquire(self) -> None:
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            msg = f"run_id: run {self.run_id} is being written by another process. End it first, or start a new run."
            raise InputError(msg) from error

    def _recall(self) -> None:
        """Learn what was logged before, from the spool or, when that is gone, from the store."""
        operations = self.spool.all()
        self.reserved = [one["value"] for one in operations if one["op"] == "status"] == [RESERVED]
        for one in operations:
            if one["op"] == "metrics":
                for key, value in one["values"].items():
                    self._logged.setdefault(key, {})[one["step"]] = value
            elif one["op"] == "params":
                self._params.update(one["values"])
        if not any(one["op"] == "status" for one in operations):  # it is empty, or contains only what a report added
            run = self.client.get_run(self.run_id)
            data, self.reserved = run.data, run.info.status == RESERVED
            self._params = dict(data.params) | self._params
            for key in data.metrics:
                history = self.client.get_metric_history(self.run_id, key)
                self._logged[key] = {metric.step: metric.value for metric in history} | self._logged.get(key, {})

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """Log values, each step of a metric once; without a step a changed value takes the next one."""
        by_step: dict[int, dict[str, float]] = {}
        with self._guard:
            for key, value in values.items():
                known = self._logged.setdefault(key, {})
                at = _next_step(known, value) if step is None else step
                if at is not None and at not in known:
                    known[at] = value
                    by_step.setdefault(at, {})[key] = value
            for at, fresh in by_step.items():
                self.spool.append({"op": "metrics", "step": at, "time": _now(), "values": fresh})

    def history(self, names: Sequence[str] = ()) -> dict[str, pd.Series]:
        """Return values by step of the metrics `names`, or of all but the system's."""
        with self._guard:
            chosen = names or sorted(key for key in self._logged if not key.startswith("system/"))
            return {key: pd.Series(self._logged.get(key, {}), dtype=float, name=key).sort_index() for key in chosen}

    def params(self, values: Mapping[str, str]) -> None:
        """Log parameters; MLflow keeps the first value, so one that changed becomes a tag `resumed.<name>`."""
        new = {key: value for key, value in values.items() if key not in self._params}
        changed = {key: value for key, value in values.items() if self._params.get(key, value) != value}
        if new:
            self._params.update(new)
            self.spool.append({"op": "params", "values": new})
        if changed:
            self.tags({f"resumed.{key}": value for key, value in changed.items()})
            log.warning("The run was started with other values of: %s", ", ".join(sorted(changed)))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        self.spool.append({"op": "tags", "values": {str(key): str(value)[:5000] for key, value in values.items()}})

    def set_status(self, status: str) -> None:
        """Set the status: RUNNING, FINISHED, FAILED or KILLED."""
        if status != self._status:
            self.spool.append({"op": "status", "value": status, "time": _now()})
        self._status = status

    def close(self) -> bool:
        """Send what is left and give the run back; False when the store does not answer (the spool stays)."""
        if not self.active or self.pid != os.getpid():
            return True
        if self._system is not None:
            self._system.stop()
            self._system = None
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        sent = self._sender.drain()
        if sent:
            self.spool.clear_files()
        else:
            log.error(
                "\nThe tracking store %s does not answer. Nothing is lost: what this run logged waits in\n  %s\n"
                "When the store is back, send it with:\n  emotion sync\n",
                store.without_password(self._place),
                self.spool.folder,
            )
        self._lock.release()
        atexit.unregister(self._at_exit)
        self.active = False
        return sent

    def _at_exit(self) -> None:
        """A process that ends without `finalize` says how it ended, as far as can be known."""
        if self.active and self.pid == os.getpid():
            with contextlib.suppress(
                InputError, OSError
            ):  # the disk is full; the error that ended the run was reported
                self.set_status("FAILED" if getattr(sys, "last_value", None) is not None else self.ended_as)
            self.close()


def _next_step(known: Mapping[int, float], value: float) -> int | None:
    """Return the step of a value without one, None when the last value was the same."""
    last = max(known, default=None)
    if last is None:
        return 0
    same = known[last] == value or (math.isnan(known[last]) and math.isnan(value))
    return None if same else last + 1


def _now() -> int:
    return int(time.time() * 1000)
