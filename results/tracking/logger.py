"""Lightning logger for MLflow that writes to a local queue and sends it in the background."""

import atexit
import contextlib
import functools
import getpass
import hashlib
import json
import math
import os
import shutil
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
import psutil
from filelock import FileLock, Timeout
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from results.tracking import store
from results.tracking.environment import SystemMetrics, environment
from results.tracking.offline import Sender, Spool, log, send_all, write_address
from results.tracking.runs import require_active

TAG = "writer"
EVERY = 30.0  # seconds between two heartbeats
FRESH = 120.0  # seconds without a heartbeat after which a process counts as dead; clocks may differ by a minute


class Heartbeat:
    """Thread that renews the heartbeat tag of the run that this process writes.

    It writes to the store and not to the spool, since a late heartbeat is useless. It has its own thread, since the
    upload of a large file would delay it.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; if it is waiting for the store, it ends when the request does."""
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
    """Check that no other process is writing a run that is to be resumed or deleted.

    On this machine the process is looked up, so a run can be resumed as soon as its process has ended. On another
    machine the last heartbeat decides.

    Args:
        run_id: The run.
        status: Its status; only a run with status RUNNING has a process.
        tags: Its tags.
        option: The option that names the run, for the message.

    Raises:
        InputError: Its process is alive, or its last heartbeat is recent.
    """
    try:
        writer = dict(json.loads(tags[TAG]))
        pid, started, seen = int(writer["pid"]), float(writer["started"]), float(writer["seen"])
    except (LookupError, ValueError, TypeError):  # not started, or by an older version
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


RESERVED = "SCHEDULED"  # MLflow's status of a run that was created and not started
LOCK_SECONDS = 10.0  # loader workers of a killed process keep its lock until they notice


class OpenRun:
    """Open run: writes to the spool, knows the logged steps of each metric, and starts and stops the threads.

    Notes:
        * Only `__init__` needs the store, and only if the folder has no spool of the run; `activate` after `close` does
          not need it.
        * `reserved`: the run was created and nothing was logged to it.
        * One process at a time writes a run: it locks a file in the folder of the run.

    Args:
        client: A client of the store.
        run_id: An existing run.
        folder: Local folder of the run.
        address: Tracking URI for `emotion sync`; None for the embedded store.
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
        self.ended_as = "FAILED"  # status if the process ends without calling finalize
        self.active = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"directory: writing to {folder} failed: {error}; free disk space or choose another folder"
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
        """Start or resume writing to the run."""
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
            msg = f"run_id: run {self.run_id} is being written by another process; end it first, or start a new run"
            raise InputError(msg) from error

    def _recall(self) -> None:
        """Read what was logged before, from the spool or, if there is none, from the store."""
        operations = self.spool.all()
        statuses = [operation["value"] for operation in operations if operation["op"] == "status"]
        self.reserved = statuses == [RESERVED]
        for operation in operations:
            if operation["op"] == "metrics":
                for key, value in operation["values"].items():
                    self._logged.setdefault(key, {})[operation["step"]] = value
            elif operation["op"] == "params":
                self._params.update(operation["values"])
        if not statuses:  # the spool is empty, or contains only what a report added
            run = self.client.get_run(self.run_id)
            data, self.reserved = run.data, run.info.status == RESERVED
            self._params = dict(data.params) | self._params
            for key in data.metrics:
                history = self.client.get_metric_history(self.run_id, key)
                self._logged[key] = {metric.step: metric.value for metric in history} | self._logged.get(key, {})

    def metrics(self, values: Mapping[str, float], step: int | None, dataset: tuple[str, str] | None = None) -> None:
        """Log values, each step of a metric once; without a step, a changed value gets the next step.

        With a data set (name, digest) they are also scores of the run's LoggedModel on it.
        """
        of_model = {"dataset": list(dataset)} if dataset is not None else {}
        by_step: dict[int, dict[str, float]] = {}
        with self._guard:
            for key, value in values.items():
                known = self._logged.setdefault(key, {})
                new_step = _next_step(known, value) if step is None else step
                if new_step is not None and new_step not in known:
                    known[new_step] = value
                    by_step.setdefault(new_step, {})[key] = value
            for new_step, new_values in by_step.items():
                self.spool.append({"op": "metrics", "step": new_step, "time": _now(), "values": new_values} | of_model)

    def history(self, names: Sequence[str] = ()) -> dict[str, pd.Series]:
        """Return values by step of the metrics `names`, or of all but the system metrics."""
        with self._guard:
            chosen = names or sorted(key for key in self._logged if not key.startswith("system/"))
            return {key: pd.Series(self._logged.get(key, {}), dtype=float, name=key).sort_index() for key in chosen}

    def params(self, values: Mapping[str, str]) -> None:
        """Log parameters; MLflow keeps the first value, so a changed parameter becomes a tag `resumed.<name>`."""
        new = {key: value for key, value in values.items() if key not in self._params}
        changed = {key: value for key, value in values.items() if self._params.get(key, value) != value}
        if new:
            self._params.update(new)
            self.spool.append({"op": "params", "values": new})
        if changed:
            self.tags({f"resumed.{key}": value for key, value in changed.items()})
            log.warning("resumed with other values of options that change no result: %s", ", ".join(sorted(changed)))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        self.spool.append({"op": "tags", "values": {str(key): str(value)[:5000] for key, value in values.items()}})

    def set_status(self, status: str) -> None:
        """Set the status: RUNNING, FINISHED, FAILED or KILLED."""
        if status != self._status:
            self.spool.append({"op": "status", "value": status, "time": _now()})
        self._status = status

    def close(self) -> bool:
        """Send what is left and release the run; False if the store does not answer (the spool stays)."""
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
                "\nThe tracking store %s does not answer. Nothing is lost: the entries of this run wait in\n  %s\n"
                "When the store answers again, send them with:\n  emotion sync\n",
                store.without_password(self._place),
                self.spool.folder,
            )
        self._lock.release()
        atexit.unregister(self._at_exit)
        self.active = False
        return sent

    def _at_exit(self) -> None:
        """Log the status of a process that ends without `finalize`."""
        if self.active and self.pid == os.getpid():
            with contextlib.suppress(InputError, OSError):  # a full disk; that error was reported
                self.set_status("FAILED" if getattr(sys, "last_value", None) is not None else self.ended_as)
            self.close()


def _next_step(known: Mapping[int, float], value: float) -> int | None:
    """Return the step of a value that was logged without a step, None if the last value is the same."""
    last = max(known, default=None)
    if last is None:
        return 0
    same = known[last] == value or (math.isnan(known[last]) and math.isnan(value))
    return None if same else last + 1


def _now() -> int:
    return int(time.time() * 1000)


_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _timed(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Add the duration of a log call to `logger.seconds`; on other ranks than zero, log nothing."""

    @functools.wraps(method)
    def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        logger: Any = args[0]
        if not _first_rank():
            return None  # type: ignore[return-value]
        logger.open()
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            logger.seconds += time.perf_counter() - start

    return timed


def _first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (0, None)


class TrackingLogger(Logger):
    """Logger of one MLflow run; an outage of the tracking store neither stops the training nor loses an entry.

    Notes:
        * Every log call writes to `run_folder/spool` and returns; a thread sends. What could not be sent is sent when
          the store answers again, at the end, when the run is resumed, or by `emotion sync`, and only once.
        * A metric has one value per step. A step that was logged before (a resumed run repeats some) does not change.
        * Only rank zero writes. Other ranks create no run and no folder.
        * `seconds` is the duration of all log calls in the threads that made them, without opening the run.

    Args:
        experiment: Name under which runs are grouped.
        run_name: Name of a new run; by default MLflow chooses one.
        run_id: An existing run to resume.
        parent_run_id: Parent of a new run.
        tags: More tags of a new run.
        tracking_uri: The store; by default $MLFLOW_TRACKING_URI, or the embedded store in `directory`.
        directory: Folder of the embedded store, and of the local folder of every run.
        system_metrics: Whether to log the use of processors, memory, disk and GPUs every ten seconds.
        send_every: Seconds between two requests to the store.
    """

    def __init__(
        self,
        experiment: str = "emotion",
        run_name: str | None = None,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        tags: dict[str, str] | None = None,
        tracking_uri: str | None = None,
        directory: str = store.DIRECTORY,
        system_metrics: bool = True,
        send_every: float = 2.0,
    ) -> None:
        super().__init__()
        self._experiment_name, self._run_name, self._run_id = experiment, run_name, run_id
        self._parent_run_id, self._tags = parent_run_id, dict(tags or {})
        self._directory = Path(directory).absolute()  # the current folder may change while it trains
        self._uri = tracking_uri or store.tracking_uri(self._directory)
        self._system_metrics, self._send_every = system_metrics, send_every
        self._open: OpenRun | None = None
        self.seconds = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open run; the other process opens it again."""
        self.close()
        return {**self.__dict__, "_open": None}

    # ---- opening and closing

    def open(self) -> OpenRun:
        """Create or resume the run; log calls do this themselves.

        The store must answer for a new run, and for a run without a spool in its folder.

        Raises:
            InputError: The store does not answer, the run does not exist, or another process is writing it.
        """
        if self._open is None or self._open.pid != os.getpid():
            is_new = self._run_id is None
            client = self._reach()
            if is_new:
                self._run_id = self._new_run(client)
            run = OpenRun(
                client, str(self._run_id), self.run_folder, self._address, self._send_every, self._system_metrics
            )
            self._open = run
            if is_new or run.reserved:
                named = {"mlflow.runName": self._run_name} if self._run_name else {}
                run.tags({**self._tags, **named})  # also in the spool, which is read while the store does not answer
                self._log_environment(run)
        self._open.activate()
        return self._open

    def reserve(self) -> str:
        """Create the run without starting it, and return its id; a logger of that id can start without the store.

        Until then its status is SCHEDULED.
        """
        client = store.open_client(self._directory, self._uri)
        self._run_id = self._new_run(client)
        spool = Spool(self.run_folder / "spool")
        write_address(spool, self._run_id, self._address)
        spool.append({"op": "status", "value": RESERVED, "time": int(time.time() * 1000)})
        send_all(client, self._run_id, spool)
        return self._run_id

    def withdraw(self) -> None:
        """Delete a reserved run that was never started; a run that was started stays."""
        if Spool.state(self.run_folder / "spool")[0] == RESERVED:
            store.open_client(self._directory, self._uri).delete_run(str(self._run_id))
            shutil.rmtree(self.run_folder, ignore_errors=True)

    def _reach(self) -> MlflowClient:
        """Return a client; if the store does not answer, only for a run with a spool in its folder."""
        try:
            client = store.open_client(self._directory, self._uri)
        except InputError:
            if self._run_id is None or not Spool.state(self.run_folder / "spool")[0]:
                raise
            log.warning("The tracking store does not answer; entries of run %s wait in its folder.", self._run_id)
            return MlflowClient(self._uri)
        if self._run_id is not None:
            self._require_run(client)
        return client

    @property
    def _address(self) -> str | None:
        """Tracking URI for `emotion sync`; None for the embedded store."""
        return None if self._uri == store.embedded_uri(self._directory) else store.without_password(self._uri)

    def close(self) -> bool:
        """Send what is left without changing the status of the run; False if the store does not answer."""
        return self._open is None or self._open.close()

    def _new_run(self, client: MlflowClient) -> str:
        experiment = store.experiment_id(client, self._experiment_name, self._directory, self._uri)
        tags = {"mlflow.source.name": "emotion", "mlflow.source.type": "LOCAL", **self._tags}
        if self._parent_run_id:
            tags["mlflow.parentRunId"] = self._parent_run_id
        try:
            tags["mlflow.user"] = getpass.getuser()
        except (OSError, KeyError):  # a container may run a user id that has no name
            tags["mlflow.user"] = "unknown"
        try:
            return str(client.create_run(experiment, tags=tags, run_name=self._run_name).info.run_id)
        except MlflowException as error:
            if refused := store.login_message(error, self._uri):  # one who may read, and not write
                raise InputError(refused) from error
            raise

    def _require_run(self, client: MlflowClient) -> None:
        try:
            run = client.get_run(str(self._run_id))
        except MlflowException as error:
            msg = (
                f"run_id: no run {self._run_id!r} in {store.without_password(self._uri)}. "
                "List the runs with `emotion runs list`."
            )
            raise InputError(msg) from error
        require_active(client, run)

    @staticmethod
    def _log_environment(run: OpenRun) -> None:
        entries = environment()
        tags = {key: value for key, value in entries.items() if not key.startswith("version_")}
        run.tags(tags | {"mlflow.source.git.commit": entries["git_commit"]})
        path = run.spool.new_file("environment.json")
        path.write_text(json.dumps(entries, indent=2) + "\n")
        run.spool.append_file(path, "environment.json")

    # ---- the interface of Lightning's loggers

    @property
    def name(self) -> str:
        """Empty, so that checkpoints are written to `<save_dir>/<version>`, the folder of the run."""
        return ""

    @property
    def version(self) -> str | None:
        """The run id."""
        return self.run_id

    @property
    def save_dir(self) -> str:
        """Folder that contains the local folders of all runs."""
        return str(self._directory / "runs")

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """MLflow client of the run; reading it does not restart a run that has ended."""
        run = self._open if self._open is not None and self._open.pid == os.getpid() else self.open()
        return run.client

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; only rank zero knows the id of a new run."""
        if self._run_id is None and _first_rank():
            self.open()
        return self._run_id

    @property
    def run_folder(self) -> Path:
        """Local folder of the run, with spool and checkpoints."""
        if self.run_id is None:
            msg = "run_folder: only rank zero knows the run; read it there, or broadcast it"
            raise InputError(msg)
        return self._directory / "runs" / str(self._run_id)

    @_timed
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values at `step`; without a step they are a summary, and a changed value gets the next step."""
        self.open().metrics({store.clean_name(key): float(value) for key, value in metrics.items()}, step)

    @_timed
    def log_model_scores(self, scores: Mapping[str, float], evaluated: Sequence[str] | None = None) -> None:
        """Log summary metrics, also as scores of a model on the run's data set, which MLflow's page Models lists.

        A metric that the run has already keeps its value, and becomes a score with it.

        Args:
            scores: Names and values.
            evaluated: Ids of the runs whose models were evaluated; by default the model is the run's own.
        """
        run = self.open()
        operations = run.spool.all()
        if not any(operation["op"] == "model" for operation in operations):
            run.spool.append({"op": "model", "of": None if evaluated is None else list(evaluated)})
        datasets = [(entry["name"], entry["digest"]) for entry in operations if entry["op"] == "dataset"]
        dataset = datasets[-1] if datasets else None
        new = {store.clean_name(key): float(value) for key, value in scores.items()}
        for operation in operations if dataset is not None else ():
            if operation["op"] == "metrics" and "dataset" not in operation:
                known = {key: value for key, value in operation["values"].items() if key in new}
                if known:  # sent again with the same time, which changes nothing in the run
                    run.spool.append(operation | {"values": known, "dataset": dataset})
        logged = run.history()
        run.metrics({key: value for key, value in new.items() if key not in logged}, None, dataset)

    def history(self, *names: str) -> dict[str, pd.Series]:
        """Return the values by step of the metrics `names`, by default of all but the system metrics.

        They come from memory, so they are complete also while the store does not answer.
        """
        return {} if self._open is None else self._open.history(names)

    @_timed
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log parameters under dotted names; one that a resumed run changes becomes a tag `resumed.<name>`."""
        self.open().params(store.flatten(vars(params) if isinstance(params, Namespace) else params))

    def finalize(self, status: str = "success") -> None:
        """End the run: success, failed or interrupted. Lightning calls this after `fit` and after `test`."""
        if status not in _STATUS:
            msg = f"status: must be one of {', '.join(_STATUS)}, got {status!r}"
            raise InputError(msg)
        if self._open is None or (not self._open.active and self._open.ended_as == _STATUS[status]):
            return  # nothing was logged (since)
        self._end(_STATUS[status])

    @_timed
    def _end(self, status: str) -> None:
        run = self.open()
        run.ended_as = status
        run.set_status(status)
        run.close()

    # ---- other records of a run

    @property
    def title(self) -> str:
        """Name of the run, else its id."""
        return self._run_name or str(self._run_id)

    @property
    def tags(self) -> dict[str, str]:
        """The tags that were given to this logger, at first or since."""
        return dict(self._tags)

    @_timed
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""
        self._tags |= {str(name): str(value) for name, value in tags.items()}
        self.open().tags(tags)

    @_timed
    def log_dataset(
        self,
        name: str,
        source: str,
        digest: str,
        *,
        context: str = "training",
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Log the data set of the run, and its name as the tag `data`.

        MLflow keeps 36 characters of `digest`, the profile all of them.
        """
        origin = json.dumps({"uri": source}, ensure_ascii=False)
        described = json.dumps({**(profile or {}), "digest": digest}, ensure_ascii=False, default=str)
        entry = {"name": name[:500], "digest": digest[:36], "source": origin, "profile": described, "context": context}
        self.open().spool.append({"op": "dataset", **entry})
        self.set_tags({"data": name})

    @_timed
    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Copy a file into the run's artifacts under `folder`."""
        path = Path(path)
        if not path.is_file():
            msg = f"path: must be an existing file, got {path}"
            raise InputError(msg)
        self.open().spool.copy_file(path, f"{folder.strip('/')}/{path.name}" if folder else path.name)

    @_timed
    def log_text(self, text: str, name: str) -> None:
        """Log `text` as the artifact `name`, for instance `config.yaml`."""
        self._write(name, lambda path: path.write_text(text, encoding="utf-8"))

    @_timed
    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Log a table as `tables/<name>.parquet`, and its SHA-256 as a tag; `load_table` reads it."""

        def write(path: Path) -> None:
            store.write_table(table, path)
            self.open().tags({f"sha256.{store.clean_name(name)}": hashlib.sha256(path.read_bytes()).hexdigest()})

        self._write(f"tables/{name}.parquet", write)

    @_timed
    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure as `figures/<name>.png`."""
        self._write(f"figures/{name}.png", lambda path: figure.savefig(path, dpi=150))

    def _write(self, artifact: str, write: Callable[[Path], Any]) -> None:
        spool = self.open().spool
        path = spool.new_file(artifact)
        write(path)
        spool.append_file(path, artifact)
