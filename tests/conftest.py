"""Shared by every test: temporary caches and runs, no network; a PostgreSQL server; processes that start at once."""

import contextlib
import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.forkserver import ForkServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # two test processes share two cores, and sums come out the same everywhere
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

ROOT = Path(__file__).resolve().parents[1]
# what a training imports of others, which takes ten seconds; nothing of this project
STACK = (
    *("albumentations", "alembic.command", "imblearn.over_sampling", "jsonargparse", "lightning.pytorch.cli"),
    *("matplotlib.backends.backend_agg", "mlflow.store.tracking.sqlalchemy_store", "omegaconf", "optuna"),
    *("pyarrow.dataset", "timm"),
)
_environment: dict[str, str] = {}  # as it is before the first test
_frozen = 1000  # modules that were imported when old objects were last set aside
_ensure_running = ForkServer.ensure_running


def _start_with_the_stack(self: Any) -> None:
    """Start Python's fork server, one a test process, with the stack and no test's variables."""
    with mock.patch.dict(os.environ, _environment, clear=True):
        self.set_forkserver_preload(list(STACK))
        _ensure_running(self)


ForkServer.ensure_running = _start_with_the_stack  # type: ignore[method-assign]


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["EMOTION_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    _environment.update(os.environ)


_connect = sqlite3.connect


def _connect_elsewhere(database: Any, *args: Any, **options: Any) -> sqlite3.Connection:
    """Fail a test of this process that opens the runs of a developer's copy: in a fresh clone there are none."""
    if Path(str(database)).absolute() == ROOT / "mlruns" / "mlflow.db":
        # not an `Exception`, which MLflow would catch, and try again for minutes
        pytest.fail("a test opened the runs of this working copy; let it use `workplace` or another temporary folder")
    return _connect(database, *args, **options)


sqlite3.connect = sqlite3.dbapi2.connect = _connect_elsewhere  # type: ignore[assignment]  # SQLAlchemy uses the second


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where runs may be written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _old_objects_stay() -> None:
    """Keep what was imported out of the search for garbage, which Lightning makes several times a run."""
    global _frozen
    if len(sys.modules) > _frozen + 500:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


@pytest.fixture(autouse=True)
def _tables_are_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copy the empty tables of an MLflow store in SQLite; MLflow runs all its migrations, 1.5 s, for each new file."""
    utils = sys.modules.get("mlflow.store.db.utils")  # not imported for the tests that need no MLflow
    if utils is None:
        return
    make_tables = utils._initialize_tables

    def copied(engine: Any) -> None:
        path = engine.url.database
        if engine.dialect.name != "sqlite" or not path or path == ":memory:":
            make_tables(engine)
            return
        empty = tmp_path_factory.getbasetemp() / "empty-mlflow.db"
        if empty.exists():
            with sqlite3.connect(empty) as source, sqlite3.connect(path, timeout=60) as target:
                source.backup(target)
            return
        make_tables(engine)
        with sqlite3.connect(path) as source, sqlite3.connect(empty) as target:
            source.backup(target)

    monkeypatch.setattr(utils, "_initialize_tables", copied)


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or nanobind complains of objects that are left over


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and saved, but not drawn, which takes a fifth of the shortest run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    def blank(self: Any, name: Any, **_: object) -> None:
        if "draw" in vars(self.figure):  # matplotlib looks for the renderer, to cut a tight frame
            self.figure.draw(self.get_renderer())
        Image.new("RGB", self.get_width_height()).save(name, "png", compress_level=1)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", blank)


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


class Forked:
    """The part of `subprocess.Popen` that the tests use, of a process that Python's fork server starts."""

    def __init__(self, code: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        forkserver._forkserver.ensure_running()  # type: ignore[attr-defined]
        server = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
        ours, theirs = context.Pipe(duplex=False)
        request = (code, list(arguments), environment, str(Path.cwd()), theirs, server)
        self._process = context.Process(
            target=runpy.run_path, args=(str(ROOT / "tests" / "forked.py"), {"REQUEST": request}, "__forked__")
        )
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self.stdout = os.fdopen(os.dup(ours.fileno()), encoding="utf-8")
        ours.close()
        assert self.stdout.readline() == "\n", "the process did not begin"

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal that ended the process; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(sys.executable, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Read its output to the end, which comes when those that it started have closed it, too, and wait."""
        end, found = time.monotonic() + (timeout or 0), list[str]()
        reader = threading.Thread(target=lambda: found.append("" if self.stdout.closed else self.stdout.read()))
        reader.daemon = True
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(sys.executable, timeout or 0)
        self.stdout.close()
        self.wait(None if timeout is None else max(end - time.monotonic(), 1))
        return found[0], None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@pytest.fixture
def start_python() -> Iterator[Callable[..., Forked]]:
    """Starts what `python -u -c CODE ARGUMENTS` is in the current folder and a session of its own, without the wait.

    Takes code, arguments and environment. Standard error comes with the output. What still runs at the end is killed.
    """
    started: list[Forked] = []

    def start(code: str, arguments: Sequence[str], environment: dict[str, str]) -> Forked:
        started.append(Forked(code, arguments, environment))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
