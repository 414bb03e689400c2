"""The logger of a run: writes to the run's own spool at once, and to MLflow in the background."""

import atexit
import functools
import getpass
import json
import math
import os
import re
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
from filelock import FileLock, Timeout
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from records import store
from records.environment import environment
from records.runs import children, download, find_run, find_runs, load_table, replay_spools, run_config
from records.sending import Sender, log
from records.spool import Spool
from records.store import ensure_store, tracking_uri
from records.system import SystemMetrics

__all__ = [
    "TrackingLogger",
    "children",
    "download",
    "ensure_store",
    "find_run",
    "find_runs",
    "load_table",
    "replay_spools",
    "run_config",
    "tracking_uri",
]

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_LONGEST_VALUE = 6000  # of a parameter, in MLflow
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _timed(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Add the time a log call takes in the calling thread to `logger.seconds`; other ranks log nothing."""

    @functools.wraps(method)
    def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        logger: Any = args[0]
        if rank_zero_only.rank not in (0, None):
            return None  # type: ignore[return-value]
        logger.open()
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            logger.seconds += time.perf_counter() - start

    return timed


class TrackingLogger(Logger):
    """One MLflow run that outlives an outage of its store.

    Notes:
        * Every log call writes to `run_folder/spool` and returns; a thread sends. What could not be sent is sent when
          the store answers again, at the end, when the run is resumed, or by `emotion sync`: nothing lost or doubled.
        * A metric has one value a step. A step that was logged before (a resumed run does some again) is left as it is.
        * Only rank zero writes. Other ranks make no run and no folder.
        * `seconds` is the time that log calls took in the thread that made them.

    Args:
        experiment: Name under which runs are grouped.
        run_name: Readable name of a new run; MLflow invents one when None.
        run_id: An existing run to go on with.
        parent_run_id: The run this one is part of.
        tags: More tags of a new run.
        tracking_uri: Address of the store; None is $MLFLOW_TRACKING_URI, or else the embedded one in `directory`.
        directory: Folder of the embedded store, and of the local folder of every run.
        system_metrics: Whether to log use of processors, memory, disk and GPUs every ten seconds.
        send_every: Seconds between two messages to the store.
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
        self._with_system_metrics, self._send_every = system_metrics, send_every
        self._forget()
        self.seconds = 0.0

    def _forget(self) -> None:
        """Set the state of a logger that is not open in this process."""
        self._client: MlflowClient | None = None
        self._pid = 0
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._lock: FileLock | None = None
        self._system: SystemMetrics | None = None
        self._logged: dict[str, dict[int, float]] = {}
        self._params: dict[str, str] = {}
        self._status = ""
        self._last_status = "FAILED"  # of a process that ends without a word
        self._guard = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open run behind when the logger travels to another process, which opens it itself."""
        self.close()
        unwanted = {"_client", "_spool", "_sender", "_lock", "_system", "_guard"}
        return {key: value for key, value in self.__dict__.items() if key not in unwanted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    # ---- opening and closing

    def open(self) -> None:
        """Make the run, or go on with it; does nothing when it is open. Log calls do this themselves."""
        if self._sender is not None and self._pid == os.getpid():
            return
        self._forget()
        client = store.open_client(self._directory, self._uri)
        resumed = self._run_id is not None
        if resumed:
            known = self._known_run(client).data.params
        else:
            self._run_id, known = self._new_run(client), {}
        self._lock = FileLock(self.run_folder / "lock")
        self.run_folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=10)
        except Timeout as error:
            msg = f"run_id: run {self._run_id} is being written by another process. End it first, or start a new run."
            raise InputError(msg) from error
        self._spool = Spool(self.run_folder / "spool")
        self._note_address()
        self._recall(client, known)
        self._client, self._pid = client, os.getpid()
        self._sender = Sender(client, str(self._run_id), self._spool, self._send_every)
        self._set_status("RUNNING")
        if not resumed:
            self._log_environment()
        self._sender.start()
        if self._with_system_metrics:
            first = max(
                (step for key in self._logged if key.startswith("system/") for step in self._logged[key]), default=-1
            )
            self._system = SystemMetrics(self._write_metrics, first + 1)
        atexit.register(self._at_exit)

    def _new_run(self, client: MlflowClient) -> str:
        experiment = store.experiment_id(client, self._experiment_name, self._directory, self._uri)
        tags = {"mlflow.source.name": "emotion", "mlflow.source.type": "LOCAL", **self._tags}
        if self._parent_run_id:
            tags["mlflow.parentRunId"] = self._parent_run_id
        try:
            tags["mlflow.user"] = getpass.getuser()
        except (OSError, KeyError):  # a container may run a user id that has no name
            tags["mlflow.user"] = "unknown"
        return str(client.create_run(experiment, tags=tags, run_name=self._run_name).info.run_id)

    def _known_run(self, client: MlflowClient) -> Any:  # noqa: ANN401 - mlflow.entities.Run carries no types
        try:
            return client.get_run(str(self._run_id))
        except MlflowException as error:
            msg = (
                f"run_id: no run {self._run_id!r} in {store.without_password(self._uri)}. "
                "Look it up on the page that `emotion ui` serves."
            )
            raise InputError(msg) from error

    def _note_address(self) -> None:
        """Write where the spool belongs, for `emotion sync`; a password stays out of the file."""
        embedded = self._uri == store.embedded_uri(self._directory)
        address = {"run_id": self._run_id, "tracking_uri": None if embedded else store.without_password(self._uri)}
        (self.run_folder / "spool" / "address.json").write_text(json.dumps(address))

    def _recall(self, client: MlflowClient, known: dict[str, str]) -> None:
        """Learn what was logged before, from the spool or, when that is gone, from the store."""
        assert self._spool is not None
        self._params = dict(known)
        operations = self._spool.all()
        for one in operations:
            if one["op"] == "metrics":
                for key, value in one["values"].items():
                    self._logged.setdefault(key, {})[one["step"]] = value
            elif one["op"] == "params":
                self._params.update(one["values"])
        if not operations:
            for key in client.get_run(str(self._run_id)).data.metrics:
                history = client.get_metric_history(str(self._run_id), key)
                self._logged[key] = {metric.step: metric.value for metric in history}

    def _log_environment(self) -> None:
        assert self._spool is not None
        found = environment()
        tags = {key: value for key, value in found.items() if not key.startswith("version_")}
        tags["mlflow.source.git.commit"] = found["git_commit"]
        self._spool.append({"op": "tags", "values": tags})
        path = self._spool.new_file("environment.json")
        path.write_text(json.dumps(found, indent=2) + "\n")
        self._spool.append_file(path, "environment.json")

    def _set_status(self, status: str) -> None:
        assert self._spool is not None
        if status != self._status:
            self._spool.append({"op": "status", "value": status, "time": int(time.time() * 1000)})
        self._status = status

    def close(self) -> bool:
        """Send what is left and let the run go without touching its status; False when the store does not answer."""
        if self._sender is None or self._pid != os.getpid():
            return True
        if self._system is not None:
            self._system.stop()
            self._system = None
        sent = self._sender.drain()
        if sent and self._spool is not None:
            self._spool.clear_files()
        if not sent:
            log.error(
                "\nThe tracking store %s does not answer. Nothing is lost: what this run logged waits in\n  %s\n"
                "When the store is back, send it with:\n  emotion sync\n",
                store.without_password(self._uri),
                self.run_folder / "spool",
            )
        if self._lock is not None:
            self._lock.release()
        atexit.unregister(self._at_exit)
        self._sender = None
        return sent

    def _at_exit(self) -> None:
        """A process that ends without `finalize` says how it ended as far as can be known."""
        if self._sender is not None and self._pid == os.getpid():
            if self._status == "RUNNING":
                self._set_status("FAILED" if getattr(sys, "last_value", None) is not None else self._last_status)
            self.close()

    # ---- what Lightning calls

    @property
    def name(self) -> str:
        """Empty, so that checkpoints land in `<save_dir>/<version>`, which is the run's folder."""
        return ""

    @property
    def version(self) -> str | None:
        """The run id."""
        return self.run_id

    @property
    def save_dir(self) -> str:
        """Folder that holds the local folders of all runs."""
        return str(self._directory / "runs")

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The MLflow client of the open run."""
        self.open()
        assert self._client is not None
        return self._client

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; only rank zero knows the id of a new one."""
        if self._run_id is None and rank_zero_only.rank in (0, None):
            self.open()
        return self._run_id

    @property
    def run_folder(self) -> Path:
        """Local folder of the run: spool and checkpoints."""
        if self.run_id is None:
            msg = "run_folder: only rank zero knows the run. Ask for it there, or broadcast it."
            raise InputError(msg)
        return self._directory / "runs" / str(self._run_id)

    @_timed
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values at `step`; without a step they are a summary, and a changed one comes after the former."""
        self._write_metrics(metrics, step)

    def _write_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        assert self._spool is not None
        by_step: dict[int, dict[str, float]] = {}
        with self._guard:
            for name, raw in metrics.items():
                key, value = re.sub(r"[^\w/. -]", "_", name), float(raw)
                known = self._logged.setdefault(key, {})
                at = step
                if at is None:
                    last = max(known, default=None)
                    if last is not None and (known[last] == value or (math.isnan(known[last]) and math.isnan(value))):
                        continue
                    at = 0 if last is None else last + 1
                if at not in known:
                    known[at] = value
                    by_step.setdefault(at, {})[key] = value
            for at, values in by_step.items():
                self._spool.append({"op": "metrics", "step": at, "time": int(time.time() * 1000), "values": values})

    @_timed
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log parameters; nested ones get dotted names. One that a resumed run changed becomes a tag `resumed.<name>`."""
        assert self._spool is not None
        flat = flatten(vars(params) if isinstance(params, Namespace) else params)
        new = {key: value for key, value in flat.items() if key not in self._params}
        changed = {key: value for key, value in flat.items() if self._params.get(key, value) != value}
        self._params.update(new)
        if new:
            self._spool.append({"op": "params", "values": new})
        if changed:
            self._spool.append({"op": "tags", "values": {f"resumed.{key}": value for key, value in changed.items()}})
            log.warning("The run was started with other values of: %s", ", ".join(sorted(changed)))

    @_timed
    def finalize(self, status: str = "success") -> None:
        """End the run: success, failed or interrupted. Lightning calls this after each of fit and test."""
        if status not in _STATUS:
            msg = f"status: one of {', '.join(_STATUS)}, got {status!r}."
            raise InputError(msg)
        self._last_status = _STATUS[status]
        self._set_status(self._last_status)
        self.close()

    # ---- what else a run leaves

    @_timed
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""
        assert self._spool is not None
        self._spool.append({"op": "tags", "values": {str(key): str(value)[:5000] for key, value in tags.items()}})

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
        """Log which data the run used; `digest` is shortened to the 36 characters that MLflow keeps."""
        assert self._spool is not None
        origin = json.dumps({"uri": source}, ensure_ascii=False)
        facts = json.dumps(dict(profile or {}), ensure_ascii=False, default=str)
        entry = {"name": name[:500], "digest": digest[:36], "source": origin, "profile": facts, "context": context}
        self._spool.append({"op": "dataset", **entry})

    @_timed
    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Copy a file into the run's artifacts under `folder`."""
        assert self._spool is not None
        path = Path(path)
        if not path.is_file():
            msg = f"path: a file to keep with the run must exist, got {path}."
            raise InputError(msg)
        self._spool.copy_file(path, f"{folder.strip('/')}/{path.name}" if folder else path.name)

    @_timed
    def log_text(self, text: str, name: str) -> None:
        """Keep `text` as the artifact `name`, for instance `config.yaml`."""
        assert self._spool is not None
        path = self._spool.new_file(name)
        path.write_text(text, encoding="utf-8")
        self._spool.append_file(path, name)

    @_timed
    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Keep a table as `tables/<name>.parquet`; `load_table` reads it."""
        assert self._spool is not None
        artifact = f"tables/{name}.parquet"
        path = self._spool.new_file(artifact)
        table.to_parquet(path, index=False)
        self._spool.append_file(path, artifact)

    @_timed
    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a figure as `figures/<name>.png`."""
        assert self._spool is not None
        artifact = f"figures/{name}.png"
        path = self._spool.new_file(artifact)
        figure.savefig(path, dpi=150)
        self._spool.append_file(path, artifact)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters under dotted names, as the strings MLflow keeps."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = re.sub(r"[^\w/.: -]", "_", f"{prefix}{key}")
        if isinstance(value, Namespace):
            value = vars(value)
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)[:_LONGEST_VALUE]
    return flat
