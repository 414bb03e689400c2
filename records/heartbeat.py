"""Which process writes a run, and when it was last alive: a tag of the run, so that no two machines write one run."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from datamodules.errors import InputError

TAG = "writer"
EVERY = 30.0  # seconds between two heartbeats
FRESH = 120.0  # seconds after which a process that is not heard of counts as dead; clocks may differ by a minute


class Heartbeat:
    """A thread that keeps the tag of a run that this process writes fresh.

    It writes to the store itself and not to the spool: a heartbeat that could not be sent is of no use later. It has a
    thread of its own, since the upload of a large file would hold it up.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that waits for a store that is away is left to end by itself."""
        self._ending.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        me = this_process()
        while True:
            with contextlib.suppress(Exception):  # the store is away; the sender says so
                self._client.set_tag(self._run_id, TAG, json.dumps({**me, "seen": round(time.time(), 1)}))
            if self._ending.wait(EVERY):
                return


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others: machine, its boot, its table of processes, number and start."""
    return {**_machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _machine() -> dict[str, str]:
    boot, namespace = "", ""
    with contextlib.suppress(OSError):  # Linux; containers share a boot and may share a name, not their processes
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot or str(int(psutil.boot_time())), "namespace": namespace}


def refuse_written(run_id: str, status: str, tags: Mapping[str, str], option: str) -> None:
    """Refuse to go on with a run that another process is writing.

    On this machine the process itself is looked for, so a run can be taken over as soon as its process has ended. Of
    another machine only the heartbeat is known.

    Args:
        run_id: The run.
        status: Its status; only one that is RUNNING has a process.
        tags: Its tags.
        option: What asks to go on with it.

    Raises:
        InputError: Its process is alive, or was alive a short time ago.
    """
    try:
        writer = dict(json.loads(tags[TAG]))
        pid, started, seen = int(writer["pid"]), float(writer["started"]), float(writer["seen"])
    except (LookupError, ValueError, TypeError):  # begun by an older version, or not begun
        return
    if status != "RUNNING":
        return
    machine = _machine()
    if all(writer.get(name) == value for name, value in machine.items()):
        if pid != os.getpid() and _alive(pid, started):
            msg = f"{option}: run {run_id} is running on this machine (process {pid}); end that first"
            raise InputError(msg)
        return
    age = time.time() - seen
    if age < FRESH:
        msg = (
            f"{option}: run {run_id} is running on {writer.get('host')} (process {pid}), last seen {max(age, 0):.0f} s "
            f"ago; end it there first, or wait until it has not been seen for {FRESH:.0f} s"
        )
        raise InputError(msg)


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 2.0
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
