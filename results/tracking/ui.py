"""Serve the MLflow page of the runs in a folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import InputError
from results.tracking import runs, store

HOST = "127.0.0.1"


def ui_command(directory: str | Path = store.DIRECTORY, port: int = 5000) -> list[str]:
    """Return the command that serves the page of the runs in `directory`.

    Raises:
        InputError: The runs are on a server, there are none, or the port cannot be used.
    """
    remote = os.environ.get("MLFLOW_TRACKING_URI", "")
    if remote.startswith("http"):
        msg = f"MLFLOW_TRACKING_URI: runs are on a server; open its page {store.without_password(remote)}"
        raise InputError(msg)
    if not remote:
        runs.require_store(directory)
        store.ensure_store(directory)
    if not 1 <= port <= 65535:
        msg = f"--port: must be from 1 to 65535, got {port}"
        raise InputError(msg)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just released may be used
        try:
            probe.bind((HOST, port))
        except OSError as error:
            msg = f"--port: {port} cannot be used ({error.strerror}); choose another: emotion ui --port {_free_port()}"
            raise InputError(msg) from error
    artifacts = str(Path(directory).absolute() / "artifacts")
    uri = store.tracking_uri(directory)
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return [*server, "--backend-store-uri", uri, "--artifacts-destination", artifacts]


def serve(command: Sequence[str]) -> int:
    """Run the command of `ui_command` until it ends, Ctrl-C or SIGTERM; return its exit status, 0 if it is stopped."""
    # No telemetry, and no queue of background jobs (evaluations of language models), which would be more processes.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    previous = signal.signal(signal.SIGTERM, _stop)
    # The server starts a worker process: a process group ends both, however this command ends.
    server = subprocess.Popen(command, env={**os.environ, **quiet}, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
