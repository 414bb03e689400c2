"""The logger of a run: writes to the run's own spool at once, and to MLflow in the background."""

import functools
import getpass
import hashlib
import json
import os
import re
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from records import store
from records.environment import environment
from records.open_run import RESERVED, OpenRun
from records.runs import (
    children,
    download,
    find_run,
    find_runs,
    load_table,
    replay_spools,
    require_active,
    run_config,
)
from records.sending import log, send_all
from records.spool import Spool, write_address
from records.store import ensure_store, tracking_uri

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
    """One MLflow run that outlives an outage of its store.

    Notes:
        * Every log call writes to `run_folder/spool` and returns; a thread sends. What could not be sent is sent when
          the store answers again, at the end, when the run is resumed, or by `emotion sync`: nothing lost or doubled.
        * A metric has one value a step. A step that was logged before (a resumed run does some again) stays as it is.
        * Only rank zero writes. Other ranks make no run and no folder.
        * `seconds` is the time that log calls took in the thread that made them; opening the run is not in it.

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
        self._system_metrics, self._send_every = system_metrics, send_every
        self._open: OpenRun | None = None
        self.seconds = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open run behind when the logger travels to another process, which opens it itself."""
        self.close()
        return {**self.__dict__, "_open": None}

    # ---- opening and closing

    def open(self) -> OpenRun:
        """Make the run, or go on with it; log calls do this themselves.

        The store must answer for a new run, and for one whose spool is not in its folder.
        """
        if self._open is None or self._open.pid != os.getpid():
            made = self._run_id is None
            client = self._reach()
            if made:
                self._run_id = self._new_run(client)
            run = OpenRun(
                client, str(self._run_id), self.run_folder, self._address, self._send_every, self._system_metrics
            )
            self._open = run
            if made or run.reserved:
                named = {"mlflow.runName": self._run_name} if self._run_name else {}
                run.tags({**self._tags, **named})  # in the spool, too: it answers for a store that is away
                self._log_environment(run)
        self._open.activate()
        return self._open

    def reserve(self) -> str:
        """Make the run without beginning it, and return its id; a logger of that id can begin without the store.

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
        """Take a reserved run that never began out of the store; one that began stays."""
        if Spool.state(self.run_folder / "spool")[0] == RESERVED:
            store.open_client(self._directory, self._uri).delete_run(str(self._run_id))
            shutil.rmtree(self.run_folder, ignore_errors=True)

    def _reach(self) -> MlflowClient:
        """Return a client; of a store that is away only for a run whose spool is here."""
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
        """What `emotion sync` needs to find the store: None for the embedded one."""
        return None if self._uri == store.embedded_uri(self._directory) else store.without_password(self._uri)

    def close(self) -> bool:
        """Send what is left, leaving the run's status alone; False when the store does not answer."""
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
        return str(client.create_run(experiment, tags=tags, run_name=self._run_name).info.run_id)

    def _require_run(self, client: MlflowClient) -> None:
        try:
            run = client.get_run(str(self._run_id))
        except MlflowException as error:
            msg = (
                f"run_id: no run {self._run_id!r} in {store.without_password(self._uri)}. "
                "Look it up on the page that `emotion ui` serves."
            )
            raise InputError(msg) from error
        require_active(client, run)

    @staticmethod
    def _log_environment(run: OpenRun) -> None:
        found = environment()
        tags = {key: value for key, value in found.items() if not key.startswith("version_")}
        run.tags(tags | {"mlflow.source.git.commit": found["git_commit"]})
        path = run.spool.new_file("environment.json")
        path.write_text(json.dumps(found, indent=2) + "\n")
        run.spool.append_file(path, "environment.json")

    # ---- what Lightning asks for

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
        """The MLflow client of the run; looking does not start an ended run again, logging does."""
        run = self._open if self._open is not None and self._open.pid == os.getpid() else self.open()
        return run.client

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; only rank zero knows the id of a new one."""
        if self._run_id is None and _first_rank():
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
        self.open().metrics({_clean(key): float(value) for key, value in metrics.items()}, step)

    def history(self, *names: str) -> dict[str, pd.Series]:
        """Return the curves logged so far, values by step; all but the system's when no name is given.

        They come from memory, so they are whole also while the store is away.
        """
        return {} if self._open is None else self._open.history(names)

    @_timed
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log parameters under dotted names; one that a resumed run changed becomes a tag `resumed.<name>`."""
        self.open().params(flatten(vars(params) if isinstance(params, Namespace) else params))

    def finalize(self, status: str = "success") -> None:
        """End the run: success, failed or interrupted. Lightning calls this after each of fit and test."""
        if status not in _STATUS:
            msg = f"status: one of {', '.join(_STATUS)}, got {status!r}."
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

    # ---- what else a run leaves

    @_timed
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""
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
        """Log which data the run used; MLflow keeps 36 characters of `digest`, the profile all of them."""
        origin = json.dumps({"uri": source}, ensure_ascii=False)
        facts = json.dumps({**(profile or {}), "digest": digest}, ensure_ascii=False, default=str)
        entry = {"name": name[:500], "digest": digest[:36], "source": origin, "profile": facts, "context": context}
        self.open().spool.append({"op": "dataset", **entry})

    @_timed
    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Copy a file into the run's artifacts under `folder`."""
        path = Path(path)
        if not path.is_file():
            msg = f"path: a file to keep with the run must exist, got {path}."
            raise InputError(msg)
        self.open().spool.copy_file(path, f"{folder.strip('/')}/{path.name}" if folder else path.name)

    @_timed
    def log_text(self, text: str, name: str) -> None:
        """Keep `text` as the artifact `name`, for instance `config.yaml`."""
        self._write(name, lambda path: path.write_text(text, encoding="utf-8"))

    @_timed
    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Keep a table as `tables/<name>.parquet`, and its SHA-256 as a tag; `load_table` reads it."""

        def write(path: Path) -> None:
            table.to_parquet(path, index=False)
            self.open().tags({f"sha256.{_clean(name)}": hashlib.sha256(path.read_bytes()).hexdigest()})

        self._write(f"tables/{name}.parquet", write)

    @_timed
    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a figure as `figures/<name>.png`."""
        self._write(f"figures/{name}.png", lambda path: figure.savefig(path, dpi=150))

    def _write(self, artifact: str, write: Callable[[Path], Any]) -> None:
        spool = self.open().spool
        path = spool.new_file(artifact)
        write(path)
        spool.append_file(path, artifact)


def _clean(name: str) -> str:
    """Return a name with only the characters that MLflow takes."""
    return re.sub(r"[^\w/. -]", "_", name)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters under dotted names, as the strings MLflow keeps."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = _clean(f"{prefix}{key}")
        inner = vars(value) if isinstance(value, Namespace) else value
        if isinstance(inner, Mapping) and inner:
            flat |= flatten(inner, f"{name}.")
        else:
            flat[name] = str(inner)[:_LONGEST_VALUE]
    return flat
