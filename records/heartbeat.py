"""Heartbeat of a run: a tag with the process that writes it and the last sign of life, so that no two write it."""

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
FRESH = 120.0  # seconds without a heartbeat after which a process counts as dead; clocks may differ by a minute


class Heartbeat:
    """A thread that renews the heartbeat tag of the run that this process writes.

    It writes to the store itself and not to the spool: a heartbeat that could not be sent is of no use later. It is a
    separate thread, since the upload of a large file would delay it.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; if it waits for a store that does not answer, it ends by itself later."""
        self._ending.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        me = this_process()
        while True:
            with contextlib.suppress(Exception):  # the store does not answer; the sender reports it
                self._client.set_tag(self._run_id, TAG, json.dumps({**me, "seen": round(time.time(), 1)}))
            if self._ending.wait(EVERY):
                return


def this_process() -> dict[str, Any]:
    """Identify this process: the machine, its boot and process namespace, and the process's number and start."""
    return {**_machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _machine() -> dict[str, str]:
    boot, namespace = "", ""
    with contextlib.suppress(OSError):  # Linux; containers share a boot, may share a name, and do not share processes
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot or str(int(psutil.boot_time())), "namespace": namespace}


def refuse_written(run_id: str, status: str, tags: Mapping[str, str], option: str) -> None:
    """Refuse to go on with a run that another process is writing.

    On this machine the process itself is looked up, so a run can be resumed as soon as its process has ended. For
    another machine only the heartbeat is known.

    Args:
        run_id: The run.
        status: Its status; only one that is RUNNING has a process.
        tags: Its tags.
        option: The option that asks to resume it, for the message.

    Raises:
        InputError: Its process is alive, or its last heartbeat is recent.
    """
    try:
        writer = dict(json.loads(tags[TAG]))
        pid, started, seen = int(writer["pid"]), float(writer["started"]), float(writer["seen"])
    except (LookupError, ValueError, TypeError):  # started by an older version, or not started
        return
    if status != "RUNNING":
        return
    machine = _machine()
    if all(writer.get(name) == value for name, value in machine.items()):
        if pid != os.getpid() and _alive(pid, started):
            msg = f"{option}: run {run_id} is running on this machine (process {pid}); end that process first"
            raise InputError(msg)
        return
    age = time.time() - seen
    if age < FRESH:
        msg = (
            f"{option}: run {run_id} is running on {writer.get('host')} (process {pid}), last seen {max(age, 0):.0f} s "
            f"ago; end that process first, or wait until it has not been seen for {FRESH:.0f} s"
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
