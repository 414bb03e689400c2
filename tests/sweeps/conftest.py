"""A PostgreSQL server for tests of several workers, and workers as processes of their own."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _programs() -> Path | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        folder = Path(
            subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        )
        return folder if (folder / "initdb").exists() else None
    return None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Address of a running PostgreSQL server, ended with the tests."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs here (pg_config --bindir)")
    root = os.geteuid() == 0  # the server refuses to run as root
    if root and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    user = {"user": "postgres"} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="emotion-postgresql-"))  # pytest's own folders are closed to other users
    folder.chmod(0o755)
    if root:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
    data = str(folder / "data")
    subprocess.run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], **common)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run([programs / "pg_ctl", "-D", data, "-o", options, "-w", "-l", folder / "log", "start"], **common)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **common)
        shutil.rmtree(folder, ignore_errors=True)


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
