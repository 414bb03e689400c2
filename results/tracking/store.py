"""Tracking store: the embedded SQLite file in the folder mlruns, or the server that MLFLOW_TRACKING_URI names."""

import contextlib
import functools
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import mlflow
import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError

DIRECTORY = "mlruns"
FORMAT = 2  # of the tables and checkpoints of runs; version 0.1 wrote none, and had other names of the parts

# By MLflow's defaults a request lasts minutes (7 retries of 120 s); the offline queue sends again anyway.
_REQUEST = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of a run as Parquet, with its `format` in the metadata (an attribute of the data frame)."""
    marked = table.copy(deep=False)
    marked.attrs = {**table.attrs, "format": FORMAT}
    marked.to_parquet(path, index=False)


def check_table(table: pd.DataFrame, run_id: str) -> None:
    """Check the format of a table that was read.

    Raises:
        InputError: Version 0.1 wrote the table.
    """
    if table.attrs.get("format") != FORMAT:
        raise InputError(version_0_1_message(f"run {run_id}", run_id))


def version_0_1_message(what: str, run_id: str = "RUN") -> str:
    """Return the error message for what version 0.1 wrote."""
    return f"{what} was made by version 0.1, which this version does not read; run `emotion reproduce {run_id}`"


def embedded_uri(directory: str | Path = DIRECTORY) -> str:
    """Return the URI of the SQLite store in `directory`."""
    folder = Path(directory).absolute()
    if set("?#%") & set(str(folder)):
        msg = f"directory: must not contain '?', '#' or '%', got {folder}; choose another folder"
        raise InputError(msg)
    return f"sqlite:///{folder / 'mlflow.db'}"


def tracking_uri(directory: str | Path = DIRECTORY) -> str:
    """Return $MLFLOW_TRACKING_URI, or the URI of the embedded store in `directory` if it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(directory)


def without_password(uri: str) -> str:
    """Return a URI without user and password, so that it can be shown or written to disk."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def reason(error: Exception) -> str:
    """Return the first line of an error, without user and password in URIs, and with at most 300 characters."""
    lines = re.sub(r"//[^/\s@]+@", "//", str(error)).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def open_client(
    directory: str | Path = DIRECTORY, uri: str | None = None, *, only_reading: bool = False
) -> MlflowClient:
    """Return a client of a reachable store.

    Args:
        directory: Folder of the embedded store.
        uri: Another store; by default $MLFLOW_TRACKING_URI, or the embedded store.
        only_reading: Do not create the embedded store, and do not update its artifact paths.

    Raises:
        InputError: The store cannot be reached or opened.
    """
    for name, value in _REQUEST.items():
        os.environ.setdefault(name, value)
    uri = uri or tracking_uri(directory)
    if uri == embedded_uri(directory) and not only_reading:
        ensure_store(directory)
    return _connect(uri)


def ensure_store(directory: str | Path = DIRECTORY) -> str:
    """Create the embedded store if it does not exist, update its paths if its folder was moved, and return its URI.

    Several processes may start at once: one creates the tables (about six seconds), the others wait for it.

    Raises:
        InputError: The folder cannot be written, or another process has not finished in five minutes.
    """
    folder, uri = Path(directory).absolute(), embedded_uri(directory)
    if (str(folder), os.getpid()) in _ENSURED and (folder / "mlflow.db").exists():
        return uri
    try:
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".store.lock", timeout=300):
            _connect(uri)
            _update_artifact_paths(folder)
    except Timeout as error:
        msg = (
            f"directory: another process has been creating the store in {folder} for five minutes; end it and try again"
        )
        raise InputError(msg) from error
    except OSError as error:
        msg = f"directory: writing runs to {folder} failed: {error}; free disk space or choose another folder"
        raise InputError(msg) from error
    _ENSURED.add((str(folder), os.getpid()))
    return uri


_ENSURED: set[tuple[str, int]] = set()


def _connect(uri: str) -> MlflowClient:
    # MLflow logs that it creates tables, and the trace of every database error (a full disk), which it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        if other := re.search(r"out-of-date database schema \(found version (\w+)", str(error)):
            raise InputError(_other_schema(other[1], uri)) from error
        if refused := login_message(error, uri):
            raise InputError(refused) from error
        if uri.startswith("http"):
            advice = "Start that server, or unset the variable to keep runs in the folder mlruns."
        else:
            advice = "Correct it, or unset it to keep runs in the folder mlruns."
        what = f"the tracking store must answer, {without_password(uri)} did not"
        msg = f"MLFLOW_TRACKING_URI: {what} ({reason(error)}). {advice}"
        raise InputError(msg) from error
    return client


def login_message(error: Exception, uri: str) -> str | None:
    """Return the error message for a server that refuses the user, None for any other error."""
    code = re.search(r"error code (401|403)\b", str(error))
    forbidden = getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED")
    if code is None and not forbidden:
        return None
    known = [name for name in _LOGIN if os.environ.get(name)]
    what = "requires a login" if code and code[1] == "401" else "forbids this request"
    now = f"the login in {' and '.join(known)} is not accepted" if known else "no login is set"
    return (
        f"MLFLOW_TRACKING_URI: {without_password(uri)} {what} ({code[1] if code else 'permission denied'}), and {now}; "
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to those of a user of "
        "that server"
    )


_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@contextlib.contextmanager
def open_database(path: Path, timeout: float = 20.0) -> Iterator[sqlite3.Connection]:
    """Open the SQLite file of a store for SQL on MLflow's tables; commits at the end, unless an error is raised.

    Args:
        path: The file, which exists.
        timeout: Seconds to wait for another process that writes.

    Raises:
        InputError: The tables have not the schema of the installed MLflow, so the SQL may not fit them.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=timeout)) as database, database:
        (stored,) = database.execute("SELECT version_num FROM alembic_version").fetchone() or ("none",)
        if stored != _schema_versions()[0]:
            raise InputError(_other_schema(stored, f"sqlite:///{path}"))
        yield database


@functools.cache
def _schema_versions() -> tuple[str, ...]:
    """Return the schema versions that the installed MLflow knows, newest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return tuple(script.revision for script in scripts.walk_revisions())


def _other_schema(stored: str, uri: str) -> str:
    """Return the error message for a database of another schema version."""
    option = "MLFLOW_TRACKING_URI" if uri == os.environ.get("MLFLOW_TRACKING_URI") else "directory"
    shown = without_password(uri)
    known = _schema_versions()
    advice = f"copy the database, then run `mlflow db upgrade {shown}`"
    if stored not in known:
        advice = "a newer MLflow wrote it, so run `pip install --upgrade mlflow`"
    return (
        f"{option}: the tables of {shown} have schema version {stored}, MLflow {mlflow.__version__} needs {known[0]}; "
        f"{advice}"
    )


def local_path(uri: str) -> Path | None:
    """Return the local folder of an artifact URI, None if it is not on this machine."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def _update_artifact_paths(folder: Path) -> None:
    """Change the absolute artifact paths of a store whose folder was moved or copied.

    Otherwise a copied store would write into the artifacts of the original.
    """
    present = folder / "artifacts"
    with open_database(folder / "mlflow.db") as database:
        experiments = database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        for key, uri in experiments:
            path = local_path(uri or "")
            if path is not None and path.name == "artifacts" and path != present:
                database.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (str(present), key)
                )
        runs = database.execute(
            "SELECT run_uuid, artifact_uri FROM runs WHERE artifact_uri IS NOT ?", (str(present),)
        ).fetchall()
        for key, uri in runs:
            path, new = local_path(uri or ""), present / key / "artifacts"
            ours = path is not None and path != new and path.parts[-3:] == new.parts[-3:]
            if ours and path is not None and (new.exists() or not path.exists()):
                database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (str(new), key))


def experiment_id(client: MlflowClient, name: str, directory: str | Path, uri: str) -> str:
    """Return the id of experiment `name`, which is created if it does not exist (also by two processes at once).

    Raises:
        InputError: The experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = str(Path(directory).absolute() / "artifacts") if uri == embedded_uri(directory) else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if refused := login_message(error, uri):
                raise InputError(refused) from error
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        msg = (
            f"experiment: {name!r} was deleted, so no run can be added. Choose another name, or restore it: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
        raise InputError(msg)
    return str(experiment.experiment_id)


_LONGEST_VALUE = 6000  # of a parameter, in MLflow


def clean_name(name: str) -> str:
    """Return a name of a metric or parameter with the characters that MLflow accepts; `_` replaces the others."""
    return re.sub(r"[^\w/. -]", "_", name)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters under dotted names, as the text that MLflow stores."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = clean_name(f"{prefix}{key}")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)[:_LONGEST_VALUE]
    return flat
