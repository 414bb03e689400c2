"""How much sooner two workers end a search than one, over one PostgreSQL."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.commands import run, small
from benchmarks.report import Figure, say

NAME = "two_workers"


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a server for as long as the block takes and give its address.

    Raises:
        OSError: there are no server programs, or no user whom they would serve.
    """
    try:
        found = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
    except subprocess.CalledProcessError as error:
        msg = "pg_config fails"
        raise OSError(msg) from error
    programs = Path(found)
    if not (programs / "initdb").exists():
        msg = f"no PostgreSQL server programs in {programs}"
        raise OSError(msg)
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = {"user": "postgres"}
        if subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
            msg = "PostgreSQL refuses to run as root, and there is no user postgres"
            raise OSError(msg)
    folder = Path(tempfile.mkdtemp(prefix="emotion-postgresql-"))
    try:
        folder.chmod(0o755)  # open to the server's user
        if user:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
        data = str(folder / "data")
        subprocess.run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust"], **common)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        subprocess.run([programs / "pg_ctl", "-D", data, "-o", options, "-w", "-l", folder / "log", "start"], **common)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **common)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return seconds of a search by one worker over those of the same search by two."""
    largest, folds, epochs, trials = (24, 2, 1, 1) if toy else (60, 2, 3, 6)
    with contextlib.ExitStack() as end:
        try:
            url = end.enter_context(postgresql())
        except OSError as error:
            return [Figure(NAME, None, f"not measured: {error}")]
        shared = ["search", "--space", "optimizer", "--pruner", "none", "--storage", url, *small(largest, epochs)]
        shared += ["--trials", str(trials), "--folds", str(folds)]
        took: dict[int, float] = {}
        for workers in (1, 2):
            say(f"a search of {trials} trials on PostgreSQL with {workers} worker{'s' * (workers > 1)}")
            took[workers] = run([*shared, "--name", f"of-{workers}", "--workers", str(workers)], apart=not toy)

        from benchmarks.searches import finished, opened, seconds

        inside: dict[int, float] = {}
        for workers in took:
            with opened(f"of-{workers}", url) as study:
                spans = [seconds(trial) for trial in finished(study)]
            inside[workers] = max(stop for _, stop in spans) - min(start for start, _ in spans)
    detail = {
        "one_worker_seconds": round(took[1], 1),
        "two_workers_seconds": round(took[2], 1),
        "ratio_of_trials_alone": round(inside[1] / inside[2], 2),
        "trials_alone_seconds": [round(inside[1], 1), round(inside[2], 1)],
        "setting": f"{trials} trials of {folds} folds, test_resnet at 32 px, largest class {largest}, {epochs} epochs; "
        "threads as torch chooses them; whole commands, with the start of each worker and the winner's training",
    }
    return [Figure(NAME, took[1] / took[2], "seconds of a search by one worker over those by two", detail=detail)]
