"""Commands about what runs left: `ui` serves MLflow's page, `sync` sends what waited."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import InputError
from records import runs, store

_HOST = "127.0.0.1"


def main(args: Sequence[str] | None = None) -> int:
    """Run `ui` or `sync`; returns the exit status.

    Raises:
        InputError: Bad input; the front door prints it.
    """
    options = _parser().parse_args(args)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emotion", description="Look at runs and send what an outage held back.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ui = commands.add_parser("ui", help="serve the MLflow page on this machine", description=_ui.__doc__)
    ui.add_argument("--port", type=int, default=5000, help="port of the page (default: %(default)s)")
    ui.add_argument("--directory", default=store.DIRECTORY, help="folder of the runs (default: %(default)s)")
    ui.set_defaults(command=_ui)
    sync = commands.add_parser("sync", help="send what waits after an outage", description=_sync.__doc__)
    sync.add_argument("--directory", default=store.DIRECTORY, help="folder of the runs (default: %(default)s)")
    sync.set_defaults(command=_sync)
    return parser


def _ui(options: argparse.Namespace) -> int:
    """Serve the MLflow page of the runs in a folder, reachable from this machine only, until Ctrl-C."""
    command = ui_command(options.directory, options.port)
    print(f"MLflow page: http://{_HOST}:{options.port}  (Ctrl-C ends it)", flush=True)
    # No telemetry, and no queue of background jobs (evaluations of language models), which would be more processes.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    previous = signal.signal(signal.SIGTERM, _stop)
    # The server starts a worker of its own: a process group ends both, however this command is ended.
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


def ui_command(directory: str | Path = store.DIRECTORY, port: int = 5000) -> list[str]:
    """Return the command that serves the page of the runs in `directory`, after checking store and port."""
    remote = os.environ.get("MLFLOW_TRACKING_URI", "")
    if remote.startswith("http"):
        msg = f"MLFLOW_TRACKING_URI: runs are on a server, its page is {store.without_password(remote)}. Open that."
        raise InputError(msg)
    if not remote:
        runs.require_store(directory)
        store.ensure_store(directory)
    if not 1 <= port <= 65535:
        msg = f"port: must lie between 1 and 65535, got {port}."
        raise InputError(msg)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left may be taken again
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            msg = f"port: {port} cannot be used ({error.strerror}). Choose another: emotion ui --port {_free_port()}"
            raise InputError(msg) from error
    artifacts = str(Path(directory).absolute() / "artifacts")
    uri = store.tracking_uri(directory)
    server = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    return [*server, "--backend-store-uri", uri, "--artifacts-destination", artifacts]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _sync(options: argparse.Namespace) -> int:
    """Send metrics, files and states that wait in the local folders of runs because their store was away."""
    outcome = runs.replay_spools(options.directory)
    if not outcome:
        print(f"Nothing waits in {Path(options.directory).absolute()}.")
    for run_id, what in outcome.items():
        print(f"{run_id}  {what}")
    return int(any(what.startswith("not sent") for what in outcome.values()))
