"""Serve the MLflow page of the runs in a folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from datamodules.errors import InputError
from results.tracking import runs, store
from results.tracking.views import Page, experiment_pages

HOST = "127.0.0.1"
STARTUP = 120.0  # seconds that the server may take to start


def ui_pages(directory: str | Path = store.DIRECTORY, port: int = 5000) -> list[Page]:
    """Store the views of all experiments, and return the pages of the one with the newest run, the first to open.

    Args:
        directory: Folder of the runs.
        port: Port of the server.
    """
    client = store.open_client(directory)
    ids = {str(one.experiment_id) for one in client.search_experiments(max_results=1000)}
    pages = {key: experiment_pages(client, key) for key in sorted(ids)}
    newest = client.search_runs(list(pages), max_results=1)
    chosen = str(newest[0].info.experiment_id) if newest else next(iter(pages))
    return [Page(f"http://{HOST}:{port}{page.address}", page.about) for page in pages[chosen]]


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
    server += ["--uvicorn-opts", "--log-level warning"]  # without a line for each request
    return [*server, "--backend-store-uri", uri, "--artifacts-destination", artifacts]


def has_display() -> bool:
    """Whether a browser that is started here has a screen; without one it would take over the terminal."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_when_ready(address: str, port: int, opener: Callable[[str], object] = webbrowser.open) -> threading.Thread:
    """Open an address in the browser as soon as the server at the port answers; return the thread that waits."""

    def wait() -> None:
        end = time.monotonic() + STARTUP
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2).close()
                opener(address)
                return
            time.sleep(0.5)

    waiting = threading.Thread(target=wait, name="browser", daemon=True)
    waiting.start()
    return waiting


def serve(command: Sequence[str]) -> int:
    """Run the command of `ui_command` until it ends, Ctrl-C or SIGTERM; return its exit status, 0 if it is stopped."""
    # No telemetry, and no queue of background jobs (evaluations of language models), which would be more processes.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # MLflow uses a part of Starlette that will be removed, which no user of ours can change
    quiet["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:starlette.middleware"]))
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
