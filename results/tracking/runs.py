"""Find runs, read their tables and config, add files to them, and send entries after an outage."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from datamodules.errors import InputError
from results.tracking import store
from results.tracking.offline import Spool, log, send_all, write_address

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint/best.ckpt"
MODEL_RUNS = "model_runs"  # tag of an evaluation: ids of the runs whose models it scored
ALL = 1_000_000  # more runs than any store has
_LOCK_SECONDS = 10.0


def find_runs(
    experiment: str | None = None,
    *,
    parent: str | None = None,
    where: str = "",
    directory: str | Path = store.DIRECTORY,
    tracking_uri: str | None = None,
    limit: int = 1000,
    deleted: bool = False,
) -> pd.DataFrame:
    """Return one row per run, newest first.

    Columns: run_id, name, experiment, status, parent, start, end, `params.*`, `metrics.*`, `tags.*`.

    Args:
        experiment: Only runs of this experiment.
        parent: Only children of this run.
        where: A filter in MLflow's language, for instance `metrics."test/f1_macro" > 0.5`.
        directory: Folder of the embedded store.
        tracking_uri: Address of another store.
        limit: Maximum number of rows.
        deleted: Also runs that were deleted; their status is "deleted".
    """
    client = _client(directory, tracking_uri)
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    experiments = _experiments(client, view)
    if experiment is not None:
        experiments = {key: name for key, name in experiments.items() if name == experiment}
    if parent is not None:
        where = " and ".join(filter(None, [where, f"tags.`mlflow.parentRunId` = '{parent}'"]))
    runs: list[Run] = []
    token = None
    while experiments and len(runs) < limit:
        page = client.search_runs(list(experiments), where, view, min(1000, limit - len(runs)), page_token=token)
        runs, token = [*runs, *page], page.token
        if not token:
            break
    rows = [_row(run, experiments[str(run.info.experiment_id)]) for run in runs]
    return pd.DataFrame(rows, columns=None if rows else list(_FIXED))


def _experiments(client: MlflowClient, view: int) -> dict[str, str]:
    """Return the name of each experiment, by id."""
    names: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(view, page_token=token)
        names |= {str(experiment.experiment_id): str(experiment.name) for experiment in page}
        token = page.token
        if not token:
            return names


_FIXED = ("run_id", "name", "experiment", "status", "parent", "start", "end")


def _row(run: Run, experiment: str) -> dict[str, Any]:
    tags = run.data.tags
    end = run.info.end_time
    row: dict[str, Any] = {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "experiment": experiment,
        "status": "deleted" if run.info.lifecycle_stage == "deleted" else run.info.status,
        "parent": tags.get("mlflow.parentRunId"),
        "start": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
        "end": pd.Timestamp(end, unit="ms", tz="UTC") if end else pd.NaT,
    }
    row |= {f"params.{key}": value for key, value in run.data.params.items()}
    row |= {f"metrics.{key}": value for key, value in run.data.metrics.items()}
    return row | {f"tags.{key}": value for key, value in tags.items()}


def as_tree(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a result of `find_runs` or `read_exported` as text, one row per run, children indented below parents."""
    kinds = runs.get("tags.kind", pd.Series("", runs.index)).fillna("")
    runs = runs.assign(**{"tags.kind": kinds})
    present = set(runs["run_id"])
    rows: list[dict[str, str]] = []

    def add(members: pd.DataFrame, depth: int) -> None:
        for _, run in members.iterrows():
            row = {"name": "  " * depth + str(run["name"]), "run": run["run_id"][:8], "kind": str(run["tags.kind"])}
            row |= {"status": run["status"], "started (UTC)": f"{run['start']:%Y-%m-%d %H:%M}"}
            rows.append(row | {"experiment": run["experiment"]})
            add(runs[runs["parent"] == run["run_id"]].iloc[::-1], depth + 1)

    add(runs[~runs["parent"].isin(present)], 0)
    return pd.DataFrame(rows)


def run_row(run_id: str, *, directory: str | Path = store.DIRECTORY, tracking_uri: str | None = None) -> dict[str, Any]:
    """Return the row of one run, as in `find_runs`.

    Raises:
        InputError: There is no such run, or it was deleted.
    """
    client = _client(directory, tracking_uri)
    try:
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
    except MlflowException as error:
        place = store.without_password(client.tracking_uri)
        msg = f"run: no run {run_id!r} in {place} ({store.reason(error)}); list the runs with `emotion runs list`"
        raise InputError(msg) from error
    require_active(client, run)
    return _row(run, str(experiment.name))


def require_active(client: MlflowClient, run: Run) -> None:
    """Check that a run was not deleted, by itself or with its experiment.

    Raises:
        InputError: The run was deleted; the message says how to restore it.
    """
    experiment = client.get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        restore = f"experiments restore --experiment-id {experiment.experiment_id}"
    elif run.info.lifecycle_stage == "deleted":
        restore = f"runs restore --run-id {run.info.run_id}"
    else:
        return
    place = store.without_password(client.tracking_uri)
    msg = (
        f"run: {run.info.run_id} was deleted; restore it with `MLFLOW_TRACKING_URI={place} mlflow {restore}`, or name "
        "another run"
    )
    raise InputError(msg)


def children(
    parent_id: str, *, directory: str | Path = store.DIRECTORY, tracking_uri: str | None = None
) -> pd.DataFrame:
    """Return the children of a run in the order in which they were started."""
    members = find_runs(parent=parent_id, directory=directory, tracking_uri=tracking_uri, limit=ALL)
    return members.sort_values("start", kind="stable", ignore_index=True)


def find_run(text: str, *, directory: str | Path = store.DIRECTORY, tracking_uri: str | None = None) -> str:
    """Return the id of the run that `text` means: an id, its start, a name, or `latest`.

    Raises:
        InputError: No run or several runs fit.
    """
    client = _client(directory, tracking_uri)
    try:
        return str(client.get_run(text).info.run_id)
    except MlflowException:
        pass
    runs = find_runs(directory=directory, tracking_uri=tracking_uri, limit=ALL)
    if text == "latest" and len(runs):
        return str(runs["run_id"].iloc[0])
    matches = runs[runs["run_id"].str.startswith(text) | (runs["name"] == text)] if len(runs) else runs
    if len(matches) != 1 or not text:
        shown = (matches if len(matches) else runs).head(8)
        known = ", ".join(f"{key[:8]} ({name})" for key, name in zip(shown["run_id"], shown["name"], strict=True))
        meant = (
            f"{text!r} means {len(matches)} runs, and must mean one" if len(matches) else f"there is no run {text!r}"
        )
        msg = (
            f"run: {meant}; give a run id, its start, a name, or `latest`; "
            f"{'these fit' if len(matches) else 'the newest runs are'}: {known or 'none'}"
        )
        raise InputError(msg)
    return str(matches["run_id"].iloc[0])


def find_trained_run(text: str, *, finished: bool = True) -> str:
    """Like `find_run`, but `latest` means the newest run that trained a classifier, and no evaluation of one.

    Args:
        text: As `find_run` takes it.
        finished: Whether `latest` prefers runs that have finished: others come only where none has. Runs whose model
            is not kept and folds of an unfinished cross-validation never do.

    Raises:
        InputError: No run or several runs fit.
    """
    runs = find_runs(limit=ALL) if text == "latest" else pd.DataFrame()
    if "tags.kind" in runs:
        kinds = runs.set_index("run_id")["tags.kind"]
        others = {"evaluation", *(("detector", "search", "trial", "study") if finished else ())}
        unwanted = runs["tags.kind"].isin(others)
        if finished:
            status = runs.set_index("run_id")["status"]
            unwanted |= runs["parent"].map(kinds).eq("trial")
            unwanted |= runs["parent"].map(status).fillna("FINISHED").ne("FINISHED")
            if "tags.cell_task" in runs:  # of a study
                unwanted |= runs["tags.cell_task"].isin(["detector", "frozen", "adjust"])
        runs = runs[~unwanted]
    if finished and len(runs) and (runs["status"] == "FINISHED").any():
        runs = runs[runs["status"] == "FINISHED"]
    return str(runs["run_id"].iloc[0]) if len(runs) else find_run(text)


def select_runs(
    names: Sequence[str], experiment: str | None = None, *, directory: str | Path = store.DIRECTORY
) -> list[str]:
    """Return the ids of the runs that `names` mean, and of all runs of an experiment.

    Raises:
        InputError: A name does not mean one run, or the experiment has no runs.
    """
    chosen = [find_run(name, directory=directory) for name in names]
    if experiment is not None:
        members = find_runs(experiment, directory=directory, limit=ALL)
        if not len(members):
            msg = f"--experiment: {experiment!r} has no runs here; `emotion runs list` shows the runs that exist"
            raise InputError(msg)
        chosen += members["run_id"].tolist()
    return chosen


def find_whole_run(text: str, *, directory: str | Path = store.DIRECTORY, tracking_uri: str | None = None) -> str:
    """Like `find_run`, but `latest` means a cross-validation and not its last fold."""
    run_id = find_run(text, directory=directory, tracking_uri=tracking_uri)
    if text != "latest":
        return run_id
    client = _client(directory, tracking_uri)
    above = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
    if above and client.get_run(above).data.tags.get("kind") == "cross-validation":
        return str(above)
    return run_id


def find_different_runs(names: Sequence[str], *, directory: str | Path = store.DIRECTORY) -> list[str]:
    """Like `find_whole_run`, for several names.

    Raises:
        InputError: Two of them mean the same run.
    """
    chosen = [find_whole_run(name, directory=directory) for name in names]
    if len(set(chosen)) < len(chosen):
        msg = f"RUN: give different runs, some of {', '.join(names)} are the same"
        raise InputError(msg)
    return chosen


def download(
    run_id: str, path: str, *, directory: str | Path = store.DIRECTORY, tracking_uri: str | None = None
) -> Path:
    """Return a local path of an artifact (file or folder); do not write to it, it may belong to the store.

    A file that was not sent yet is read from the spool of the run. Artifacts of the embedded store are looked up in
    its present folder, also if the folder was moved.

    Raises:
        InputError: There is no such run or artifact, or the store does not answer.
    """
    folder = Path(directory).absolute()
    waiting = Spool.peek(folder / "runs" / run_id / "spool", path)
    if waiting is not None:
        return waiting
    client = _client(directory, tracking_uri)
    try:
        uri = str(client.get_run(run_id).info.artifact_uri)
    except MlflowException as error:
        place = store.without_password(client.tracking_uri)
        msg = f"run: no run {run_id!r} in {place}; list the runs with `emotion runs list`"
        raise InputError(msg) from error
    present, recorded = folder / "artifacts" / run_id / "artifacts", store.local_path(uri)
    if recorded is None:
        return _fetch(client, run_id, uri, path)
    places = list(dict.fromkeys([present, recorded]))
    for root in places:
        if (root / path).exists():
            return root / path
    files = sorted(file.relative_to(root).as_posix() for root in places for file in root.rglob("*") if file.is_file())
    msg = f"path: run {run_id} has no artifact {path!r}; its artifacts: {', '.join(files[:20]) or 'none'}"
    raise InputError(msg)


def _fetch(client: MlflowClient, run_id: str, uri: str, path: str) -> Path:
    try:
        target = tempfile.mkdtemp(prefix="emotion-")
        return Path(download_artifacts(f"{uri.rstrip('/')}/{path}", dst_path=target, tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        msg = f"path: run {run_id} has no artifact {path!r}, or it cannot be downloaded ({store.reason(error)})"
        raise InputError(msg) from error


def load_table(
    run_id: str,
    name: str,
    *,
    directory: str | Path = store.DIRECTORY,
    tracking_uri: str | None = None,
    any_version: bool = False,
) -> pd.DataFrame:
    """Return the table that a run logged with `log_table(table, name)`.

    Raises:
        InputError: There is none; or version 0.1 wrote it, unless `any_version` is set.
    """
    path = download(run_id, f"tables/{name}.parquet", directory=directory, tracking_uri=tracking_uri)
    table = pd.read_parquet(path)
    if not any_version:
        store.check_table(table, run_id)
    return table


def run_config(
    run_id: str, *, directory: str | Path = store.DIRECTORY, tracking_uri: str | None = None
) -> dict[str, Any]:
    """Return the config that a run logged as `config.yaml`."""
    return read_config(download(run_id, CONFIG, directory=directory, tracking_uri=tracking_uri))


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.yaml`; version 0.1 wrote ``class_path`` and ``init_args`` of data and model."""
    config = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    if "from" in config:  # of a detector
        config["run"] = {**(config.get("run") or {}), "start_from": config.pop("from")}
    for section in ("data", "model"):
        stored = config.get(section)
        if isinstance(stored, dict) and "init_args" in stored:
            config[section] = dict(stored["init_args"] or {})
    return config


def replay_spools(directory: str | Path = store.DIRECTORY) -> dict[str, str]:
    """Send the entries that wait in the local folders of runs; return the outcome of each run that had some.

    A run that another process is writing is left out. A run whose process died gets the status KILLED.
    """
    outcome: dict[str, str] = {}
    spools = [path.parent for path in sorted(Path(directory).absolute().glob("runs/*/spool/journal.jsonl"))]
    for folder in tqdm(list(filter(Spool.has_pending, spools)), desc="sending", unit="run", disable=None):
        run_id = folder.parent.name
        try:
            with FileLock(folder.parent / "lock", timeout=0):
                spool = Spool(folder)
                if Spool.state(folder)[0] == "RUNNING":  # a spool without a status contains what a report added
                    spool.append({"op": "status", "value": "KILLED", "time": int(folder.stat().st_mtime * 1000)})
                send_all(store.open_client(directory, _address(folder)), run_id, spool)
                spool.clear_files()
                outcome[run_id] = "sent"
        except Timeout:
            outcome[run_id] = "skipped: another process is writing it"
        except (InputError, MlflowException, OSError) as error:
            log.debug("sending %s failed", run_id, exc_info=True)
            outcome[run_id] = f"not sent: {store.reason(error)}"
    return outcome


def add_to_run(
    run_id: str,
    files: Mapping[str, Path],
    metrics: Mapping[str, float] | None = None,
    *,
    shown: str = "",
    directory: str | Path = store.DIRECTORY,
) -> str:
    """Add files and metrics to a run that has ended; its status does not change.

    If the store does not answer, they wait in the spool of the run until `emotion sync` sends them.

    Args:
        run_id: The run.
        files: File of each artifact name.
        metrics: Value of each metric.
        shown: The artifact that the result names.
        directory: Folder of the embedded store, and of the local folder of every run.

    Returns:
        A sentence to print: "stored with run ...", or why they were not stored.
    """
    folder = Path(directory).absolute() / "runs" / run_id
    uri = store.tracking_uri(directory)
    what, fresh = f"run {run_id[:8]}", not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=_LOCK_SECONDS):
            spool = Spool(folder / "spool")
            if not (spool.folder / "address.json").exists():
                address = None if uri == store.embedded_uri(directory) else store.without_password(uri)
                write_address(spool, run_id, address)
            if metrics:
                now = int(time.time() * 1000)
                spool.append({"op": "metrics", "step": 0, "time": now, "values": dict(metrics)})
            for artifact, file in files.items():
                spool.copy_file(file, artifact)
            try:
                send_all(store.open_client(directory, _address(spool.folder)), run_id, spool)
                spool.clear_files()
                if fresh:  # the run was made elsewhere, and has nothing to send here
                    shutil.rmtree(folder, ignore_errors=True)
            except (InputError, MlflowException, OSError) as error:
                why = f"the tracking store does not answer ({store.reason(error)})"
                return f"not stored with {what} yet: {why}; it waits in {spool.folder}, send it with `emotion sync`"
    except Timeout:
        return f"not stored with {what}: another process is writing that run; try again when it has ended"
    except (InputError, OSError) as error:
        return f"not stored with {what}: {store.reason(error)}"
    return f"stored with {what}: {shown}"


def _address(folder: Path) -> str:
    """Return the tracking URI of a spool; a password comes from $MLFLOW_TRACKING_URI."""
    written = json.loads((folder / "address.json").read_text())["tracking_uri"]
    present = os.environ.get("MLFLOW_TRACKING_URI", "")
    if written is None:
        return store.embedded_uri(folder.parents[2])
    return present if store.without_password(present) == written else str(written)


def _client(directory: str | Path, uri: str | None) -> MlflowClient:
    """Return a client for reading; a missing embedded store is an error, and is not created."""
    uri = uri or store.tracking_uri(directory)
    if uri == store.embedded_uri(directory):
        require_store(directory)
    return store.open_client(directory, uri, only_reading=True)


def has_store(directory: str | Path = store.DIRECTORY) -> bool:
    """Return whether there is a store: a server, or the embedded one, which the first run creates."""
    elsewhere = store.tracking_uri(directory) != store.embedded_uri(directory)
    return elsewhere or (Path(directory).absolute() / "mlflow.db").exists()


def require_store(directory: str | Path) -> None:
    """Check that the embedded store exists.

    Raises:
        InputError: It does not exist.
    """
    path = Path(directory).absolute() / "mlflow.db"
    if not path.exists():
        msg = f"no runs are kept here: {path} does not exist; train first, or change to the folder that has mlruns"
        raise InputError(msg)


def run_checkpoint(run_id: str) -> Path:
    """Return the local path of the checkpoint of a run, which was selected on its val part.

    Args:
        run_id: Run id or its start, name, or latest.

    Raises:
        InputError: There is no such run, it was deleted, it has no checkpoint, it is an evaluation, or the parent of a
            cross-validation.
    """
    run_id = find_trained_run(run_id)
    row = run_row(run_id)
    if row.get("tags.kind") == "evaluation":
        model = row.get(f"tags.{MODEL_RUNS}") or row["tags.model"]
        msg = f"--run: {run_id} is an evaluation, which has no model; name what it evaluated: {model}"
        raise InputError(msg)
    try:
        return download(run_id, CHECKPOINT)
    except InputError as error:
        folds = children(run_id)
        if len(folds):
            names = ", ".join(folds["run_id"].head(5))
            msg = (
                f"--run: {run_id} is the parent of {len(folds)} runs and has no model itself; name one of them: {names}"
            )
            raise InputError(msg) from error
        if (run_config(run_id).get("run") or {}).get("keep") == "none":
            msg = f"--run: {run_id} was trained with --run.keep none, so it has no checkpoint; train again without it"
            raise InputError(msg) from error
        raise


def stored_run(run_id: str) -> tuple[Path, Path]:
    """Return the config file and the checkpoint of a run."""
    run_id = find_trained_run(run_id)
    checkpoint = run_checkpoint(run_id)  # first: it says what is wrong with the parent of a cross-validation
    return download(run_id, CONFIG), checkpoint
