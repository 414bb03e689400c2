"""Where runs are kept: the embedded SQLite store under mlruns, or the server MLFLOW_TRACKING_URI names."""

import contextlib
import logging
import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError

DIRECTORY = "mlruns"
FORMAT = 2  # of the tables and checkpoints of runs; version 0.1 wrote none, and called the val and test parts otherwise

# MLflow's own defaults keep one request alive for minutes (7 retries, 120 s each); the spool retries for us.
_REQUEST = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of a run as Parquet; its `format` stands in the metadata, as pandas' attribute of the table."""
    marked = table.copy(deep=False)
    marked.attrs = {**table.attrs, "format": FORMAT}
    marked.to_parquet(path, index=False)


def check_table(table: pd.DataFrame, run_id: str) -> None:
    """Refuse a table that was read and has another format.

    Raises:
        InputError: version 0.1 wrote the table.
    """
    if table.attrs.get("format") != FORMAT:
        raise InputError(made_by_version_0_1(f"run {run_id}", run_id))


def made_by_version_0_1(what: str, run_id: str = "RUN") -> str:
    """Return the sentence that refuses what version 0.1 wrote."""
    return f"{what} was made by version 0.1, which this version does not read; run `emotion reproduce {run_id}`"


def embedded_uri(directory: str | Path = DIRECTORY) -> str:
    """Return the address of the SQLite file inside `directory`."""
    folder = Path(directory).absolute()
    if set("?#%") & set(str(folder)):
        msg = f"directory: the path of the runs must not hold '?', '#' or '%', got {folder}. Choose another folder."
        raise InputError(msg)
    return f"sqlite:///{folder / 'mlflow.db'}"


def tracking_uri(directory: str | Path = DIRECTORY) -> str:
    """Return $MLFLOW_TRACKING_URI, or else the embedded store in `directory`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(directory)


def without_password(uri: str) -> str:
    """Return `uri` without the user and password it may carry, so that it can be written to disk."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def reason(error: Exception) -> str:
    """Return the first line of an error; the address in it may carry a user and a password, which are taken out."""
    lines = re.sub(r"//[^/\s@]+@", "//", str(error)).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def open_client(
    directory: str | Path = DIRECTORY, uri: str | None = None, *, only_reading: bool = False
) -> MlflowClient:
    """Return a client of a store that answers; unless `only_reading`, the embedded one is made or mended first."""
    for name, value in _REQUEST.items():
        os.environ.setdefault(name, value)
    uri = uri or tracking_uri(directory)
    if uri == embedded_uri(directory) and not only_reading:
        ensure_store(directory)
    return _answering(uri)


def ensure_store(directory: str | Path = DIRECTORY) -> str:
    """Make the embedded store when absent, mend it when its folder moved, and return its address.

    Several processes may start at once: one makes the tables (about six seconds), the others wait for it.
    """
    folder, uri = Path(directory).absolute(), embedded_uri(directory)
    if (str(folder), os.getpid()) in _ENSURED and (folder / "mlflow.db").exists():
        return uri
    try:
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".store.lock", timeout=300):
            _answering(uri)
            _mend_addresses(folder)
    except Timeout as error:
        msg = (
            f"directory: another process has been making the store in {folder} for five minutes. End it and try again."
        )
        raise InputError(msg) from error
    except OSError as error:
        msg = f"directory: runs are written to {folder}, which failed: {error}. Free space, or choose another folder."
        raise InputError(msg) from error
    _ENSURED.add((str(folder), os.getpid()))
    return uri


_ENSURED: set[tuple[str, int]] = set()


def _answering(uri: str) -> MlflowClient:
    # MLflow logs that it makes tables, and the trace of every database error (a full disk), which it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        if "out-of-date database schema" in str(error):
            advice = f"Copy the file, then run: mlflow db upgrade {without_password(uri)}"
        elif uri.startswith("http"):
            advice = "Start that server, or unset the variable to keep runs in the folder mlruns."
        else:
            advice = "Correct it, or unset it to keep runs in the folder mlruns."
        what = f"the tracking store must answer, {without_password(uri)} did not"
        msg = f"MLFLOW_TRACKING_URI: {what} ({reason(error)}). {advice}"
        raise InputError(msg) from error
    return client


def local_path(uri: str) -> Path | None:
    """Return the folder an artifact address stands for, None when it is not on this machine."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def _mend_addresses(folder: Path) -> None:
    """Point absolute artifact addresses at the present folder, which may have been moved or copied.

    Without this a copied mlruns would go on writing into the artifacts of the one it was copied from.
    """
    present = folder / "artifacts"
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=20)) as database, database:
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
    """Return the id of experiment `name`, made when absent (two processes may do so at once)."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = str(Path(directory).absolute() / "artifacts") if uri == embedded_uri(directory) else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        msg = (
            f"experiment: {name!r} was deleted, so no run can be added. Choose another name, or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
        raise InputError(msg)
    return str(found.experiment_id)
