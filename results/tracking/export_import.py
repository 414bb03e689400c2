"""Export runs of a tracking store as plain files, and import them into another store."""

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.paths import replacing
from results.tracking import runs, store
from results.tracking.offline import Spool, add_model, model_of

FORMAT = 1
MARKER = "exchange.json"  # a folder is an export when this file says so
DESCRIPTION, METRICS, ARTIFACTS = "run.json", "metrics.parquet", "artifacts"
ENDED = ("FINISHED", "FAILED", "KILLED")
_COLUMNS = ("key", "step", "time", "value")


@dataclass(frozen=True)
class RunRecord:
    """All data of a run except its artifacts.

    Attributes:
        start: Milliseconds since 1970.
        end: The same; 0 if the run has not ended.
        files: SHA-256 of each artifact; only of an exported run.
        metrics: Every logged value: columns key, step, time (milliseconds), value.
    """

    run_id: str
    name: str
    experiment: str
    status: str
    start: int
    end: int
    params: dict[str, str]
    tags: dict[str, str]
    datasets: list[dict[str, str]]
    files: dict[str, str] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(_COLUMNS)), compare=False)


def record_of(client: MlflowClient, run: Run) -> RunRecord:
    """Return the data of a run of a store."""
    datasets = []
    for entry in run.inputs.dataset_inputs if run.inputs else []:
        context = next((tag.value for tag in entry.tags if tag.key == "mlflow.data.context"), "training")
        data = entry.dataset
        origin = {"name": data.name, "digest": data.digest, "type": data.source_type, "source": data.source}
        datasets.append({**origin, "profile": data.profile or "", "context": context})
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=client.get_experiment(run.info.experiment_id).name,
        status=run.info.status,
        start=int(run.info.start_time),
        end=int(run.info.end_time or 0),
        params=dict(sorted(run.data.params.items())),
        tags=dict(sorted(run.data.tags.items())),
        datasets=sorted(datasets, key=lambda data: (data["name"], data["digest"])),
        metrics=_points(client, run),
    )


def _points(client: MlflowClient, run: Run) -> pd.DataFrame:
    """Return every logged value; from SQLite with one query, since the client sends one for each metric."""
    if client.tracking_uri.startswith("sqlite:///"):
        query = "SELECT key, step, timestamp, CASE is_nan WHEN 1 THEN NULL ELSE value END FROM metrics WHERE run_uuid=?"
        with store.open_database(Path(client.tracking_uri.removeprefix("sqlite:///"))) as database:
            rows = database.execute(query, (run.info.run_id,)).fetchall()
    else:
        rows = [
            (point.key, point.step, point.timestamp, point.value)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table = table.astype({"key": "str", "step": "int64", "time": "int64", "value": "float64"})
    return table.sort_values(["key", "step", "time"], kind="stable", ignore_index=True)


def write_record(record: RunRecord, folder: Path) -> None:
    """Write the data of a run into `folder`, which has its artifacts already."""
    artifacts = sorted(path for path in (folder / ARTIFACTS).rglob("*") if path.is_file())
    record.metrics.to_parquet(folder / METRICS, index=False, compression="zstd")
    facts = {key: value for key, value in asdict(record).items() if key != "metrics"}
    facts["files"] = {path.relative_to(folder / ARTIFACTS).as_posix(): sha256(path) for path in artifacts}
    text = json.dumps({"format": FORMAT, "metrics": sha256(folder / METRICS), **facts}, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_export(folder: str | Path) -> bool:
    """Whether `folder` contains exported runs."""
    return (Path(folder) / MARKER).is_file()


def exported_runs(folder: str | Path) -> list[Path]:
    """Return the folders of the runs in an export.

    Raises:
        InputError: Not an export, or one of another format.
    """
    marker = Path(folder) / MARKER
    if not marker.is_file():
        msg = f"path: {folder} has no exported runs (no file {MARKER}); make an export with `emotion runs export PATH`"
        raise InputError(msg)
    try:
        version = json.loads(marker.read_text()).get("format")
    except (ValueError, AttributeError):
        version = "unreadable"
    if version != FORMAT:
        msg = (
            f"path: {folder} has format {version}, this program reads format {FORMAT}; update the program, or export "
            "the runs again"
        )
        raise InputError(msg)
    return sorted(path.parent for path in Path(folder).glob(f"[!.]*/{DESCRIPTION}"))


def read_exported(folder: str | Path) -> pd.DataFrame:
    """Return one row for each run in an export, newest first, with the columns of `runs.as_tree`."""
    rows = [
        {
            "run_id": record.run_id,
            "name": record.name,
            "experiment": record.experiment,
            "status": record.status,
            "parent": record.tags.get("mlflow.parentRunId"),
            "start": pd.Timestamp(record.start, unit="ms", tz="UTC"),
            "tags.kind": record.tags.get("kind", ""),
        }
        for record in map(read_record, exported_runs(folder))
    ]
    return pd.DataFrame(rows).sort_values("start", ascending=False) if rows else pd.DataFrame()


_FACTS = {"run_id": str, "name": str, "experiment": str, "status": str, "start": int, "end": int}
_FACTS |= {"params": dict, "tags": dict, "files": dict, "datasets": list}


def read_record(folder: Path) -> RunRecord:
    """Read and check one exported run; its files may come from anybody.

    Raises:
        InputError: It is damaged or incomplete, or has names that lead out of the folder.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        for key, kind in _FACTS.items():
            _require(isinstance(facts[key], kind), folder, f"{key} must be of type {kind.__name__}, got {facts[key]!r}")
        texts = [*facts["params"].values(), *facts["tags"].values(), *facts["files"].values()]
        texts += [value for data in facts["datasets"] for value in data.values()]
        _require(all(isinstance(text, str) for text in texts), folder, "params, tags and datasets must be text")
        _require(re.fullmatch(r"[0-9a-f]{32}", facts["run_id"]) is not None, folder, "run_id must be 32 hex digits")
        _require(folder.name == facts["run_id"], folder, f"the folder must be named {facts['run_id']}")
        _require(facts["status"] in ENDED, folder, f"status must be one of {', '.join(ENDED)}, got {facts['status']}")
        _require(sha256(folder / METRICS) == facts["metrics"], folder, f"{METRICS} was changed or cut")
        metrics = pd.read_parquet(folder / METRICS)
        _require(tuple(metrics.columns) == _COLUMNS, folder, f"{METRICS} must have columns {', '.join(_COLUMNS)}")
        for name, digest in facts["files"].items():
            path = folder / ARTIFACTS / name
            inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
            _require(inside and path.resolve().is_relative_to(folder.resolve()), folder, f"{name} leads out of it")
            _require(sha256(path) == digest, folder, f"{ARTIFACTS}/{name} was changed or cut")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        _require(False, folder, f"cannot be read ({type(error).__name__}: {store.reason(error)})")
    return RunRecord(**{key: facts[key] for key in _FACTS}, metrics=metrics)


def _require(condition: bool, folder: Path, what: str) -> None:
    if not condition:
        msg = f"path: the exported run {folder.name} is damaged: {what}; export or fetch it again"
        raise InputError(msg)


MODELS = ("checkpoint/*", "*.ckpt", "*.safetensors", "*.onnx", "*.pt", "*.pt2", "*.pth", "*.pkl")


def family(all_runs: pd.DataFrame, chosen: Iterable[str]) -> list[str]:
    """Return the chosen runs and all runs below them, parents first; `all_runs` is a result of `find_runs`."""
    members: dict[str, list[str]] = {}
    for run_id, parent in zip(all_runs["run_id"], all_runs["parent"], strict=True):
        members.setdefault(str(parent), []).append(run_id)
    ordered = list(dict.fromkeys(chosen))
    for run_id in ordered:  # grows while it is walked
        ordered += [member for member in members.get(run_id, []) if member not in ordered]
    return ordered


def export_runs(
    destination: str | Path,
    chosen: Sequence[str] = (),
    *,
    skip: Sequence[str] = MODELS,
    directory: str | Path = store.DIRECTORY,
) -> dict[str, str]:
    """Write runs into the folder `destination`, one folder per run, and return the outcome of each run.

    Notes:
        * A run that has not ended, or has entries that were not sent, is left out; its outcome says so.
        * If the folder is an export already, its other runs stay. A run that exists there is updated and keeps its
          files; it does not change if it ended later than the run of this store.

    Args:
        destination: A new or empty folder, or an export.
        chosen: Run ids; the runs below them are included. Empty: all runs.
        skip: Patterns of artifacts to leave out.
        directory: Folder of the embedded store, unless $MLFLOW_TRACKING_URI names another store.

    Raises:
        InputError: The destination contains something else, or cannot be written.
    """
    all_runs = runs.find_runs(directory=directory, limit=100_000)
    ids = family(all_runs, chosen) if chosen else all_runs["run_id"].tolist()
    client = store.open_client(directory, only_reading=True)
    target = Path(destination).absolute()
    outcome = {}
    try:
        _begin(target)
        for run_id in tqdm(ids, desc="exporting", unit="run", disable=None):
            outcome[run_id] = _export(client, run_id, target / run_id, skip, Path(directory).absolute())
    except OSError as error:
        msg = f"path: writing to {target} failed: {error}; free disk space or choose another folder"
        raise InputError(msg) from error
    return outcome


def _begin(target: Path) -> None:
    if is_export(target):
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"path: must be a new or empty folder or an earlier export, {target} is something else"
        raise InputError(msg)
    target.mkdir(parents=True, exist_ok=True)
    (target / MARKER).write_text(json.dumps({"format": FORMAT}) + "\n")


def _export(client: MlflowClient, run_id: str, target: Path, skip: Sequence[str], directory: Path) -> str:
    run = client.get_run(run_id)
    if run.info.status not in ENDED:
        return f"left out: its status is {run.info.status}"
    if Spool.has_pending(directory / "runs" / run_id / "spool"):
        return "left out: entries wait to be sent; run `emotion sync` first"
    record = record_of(client, run)
    existing = read_record(target) if target.exists() else None
    if existing is not None and existing.end > record.end:
        return "skipped: the exported run ended later"
    before = existing.files if existing is not None else {}
    with replacing(target) as draft, _artifacts(client, run) as source:
        (draft / ARTIFACTS).mkdir(parents=True)
        for path in sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink()):
            name = path.relative_to(source).as_posix()
            if name in before or not any(fnmatch(name, pattern) for pattern in skip):
                _copy(path, draft / ARTIFACTS / name)
        for name in before:
            if not (draft / ARTIFACTS / name).exists():
                _copy(target / ARTIFACTS / name, draft / ARTIFACTS / name)
        write_record(record, draft)
    return "exported"


@contextlib.contextmanager
def _artifacts(client: MlflowClient, run: Run) -> Iterator[Path]:
    """Yield a folder with the artifacts of a run: that of a local store, or a download, which is removed afterwards."""
    place = store.local_path(run.info.artifact_uri)
    if place is not None:
        yield place
        return
    try:
        fetched = Path(download_artifacts(run.info.artifact_uri, tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        msg = f"run: the artifacts of {run.info.run_id} cannot be downloaded ({store.reason(error)}); try again later"
        raise InputError(msg) from error
    try:
        yield fetched
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


_LOCK_SECONDS = 300.0


def import_runs(folder: str | Path, *, directory: str | Path = store.DIRECTORY) -> dict[str, str]:
    """Import the runs of an export into the embedded store in `directory`, and return the outcome of each run.

    Notes:
        * A run keeps its id in every store. Experiments are matched by name; artifacts go to the folder of this store.
        * A run that exists here gets what it lacks. Where both differ, the run that ended later wins, and this store if
          they ended at the same time. A run that is deleted here, or has not ended here, does not change.
        * An interrupted import is completed by the next one.
        * A damaged run is refused; the other runs are imported.

    Raises:
        InputError: Not an export, or $MLFLOW_TRACKING_URI names another store than the embedded one.
    """
    folders = exported_runs(folder)
    uri = store.embedded_uri(directory)
    if store.tracking_uri(directory) != uri:
        msg = (
            "MLFLOW_TRACKING_URI: runs are imported into the folder mlruns only, since a server gives runs new ids; "
            f"the variable is {store.without_password(store.tracking_uri(directory))}; unset it and import again"
        )
        raise InputError(msg)
    client = store.open_client(directory)
    home = Path(directory).absolute()
    outcome = {}
    try:
        with FileLock(home / ".import.lock", timeout=_LOCK_SECONDS):
            for run in tqdm(folders, desc="importing", unit="run", disable=None):
                try:
                    outcome[run.name] = _import(client, run, home)
                except (InputError, MlflowException) as error:
                    outcome[run.name] = f"refused: {store.reason(error)}"
            # runs that made models before runs that evaluated them
            imported = [client.get_run(run) for run in outcome if outcome[run] in ("new", "brought up to date")]
            for known in sorted(imported, key=lambda known: runs.MODEL_RUNS in known.data.tags):
                _add_model(client, known)
    except Timeout as error:
        msg = f"directory: another import into {home} has been running for five minutes; end it and try again"
        raise InputError(msg) from error
    except (OSError, sqlite3.Error) as error:
        msg = f"directory: writing runs to {home} failed: {error}; free disk space or choose another folder"
        raise InputError(msg) from error
    return outcome


def _import(client: MlflowClient, folder: Path, home: Path) -> str:
    record = read_record(folder)
    known = _get(client, record.run_id)
    if known is not None and known.info.lifecycle_stage == "deleted":
        return "skipped: it was deleted here"
    if known is not None and known.info.status not in ENDED:
        return f"skipped: its status here is {known.info.status}"
    fresh = known is None
    if known is None:
        _insert(client, record, home)
        known = client.get_run(record.run_id)
    return _merge(client, record, known, folder, fresh=fresh)


def _get(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _insert(client: MlflowClient, record: RunRecord, home: Path) -> None:
    """Create a run with a given id, which MLflow's API does not allow."""
    experiment = store.experiment_id(client, record.experiment, home, store.embedded_uri(home))
    row = {
        "run_uuid": record.run_id,
        "name": record.name,
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": record.tags.get("mlflow.user", "unknown"),
        "status": record.status,
        "start_time": record.start,
        "end_time": record.end,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": str(home / "artifacts" / record.run_id / "artifacts"),
        "experiment_id": int(experiment),
    }
    statement = f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"
    with store.open_database(home / "mlflow.db", timeout=60) as database:
        database.execute(statement, row)


def _merge(client: MlflowClient, theirs: RunRecord, run: Run, folder: Path, *, fresh: bool) -> str:
    """Add to `run` what it lacks of `theirs`, and return the outcome."""
    ours = record_of(client, run)
    newer = theirs.end > ours.end
    changed = _merge_files(theirs, folder / ARTIFACTS, store.local_path(run.info.artifact_uri), replace=newer)
    params = [Param(key, value) for key, value in theirs.params.items() if key not in ours.params]
    tags = [
        RunTag(key, value)
        for key, value in theirs.tags.items()
        if key not in ours.tags or (newer and ours.tags[key] != value)
    ]
    metrics = _missing(theirs.metrics, ours.metrics)
    known = {(data["name"], data["digest"]) for data in ours.datasets}
    datasets = [_dataset(data) for data in theirs.datasets if (data["name"], data["digest"]) not in known]
    for at in range(0, len(params), 100):  # MLflow takes so many in a request
        client.log_batch(theirs.run_id, params=params[at : at + 100])
    for at in range(0, len(tags), 100):
        client.log_batch(theirs.run_id, tags=tags[at : at + 100])
    for at in range(0, len(metrics), 1000):
        client.log_batch(theirs.run_id, metrics=metrics[at : at + 1000])
    if datasets:
        client.log_inputs(theirs.run_id, datasets)
    if newer:
        client.set_terminated(theirs.run_id, theirs.status, theirs.end)
    if fresh:
        return "new"
    return "brought up to date" if newer or changed or params or tags or metrics or datasets else "unchanged"


def _add_model(client: MlflowClient, run: Run) -> None:
    """Give an evaluated run its LoggedModel and the model's scores, as a run that is made here has them."""
    scores = {key: value for key, value in run.data.metrics.items() if key.startswith("test/")}
    if not scores or model_of(client, run.info.run_id) is not None:
        return
    evaluated = run.data.tags.get(runs.MODEL_RUNS)
    add_model(client, run.info.run_id, evaluated.split(",") if evaluated else None)
    model, used = model_of(client, run.info.run_id), run.inputs.dataset_inputs if run.inputs else []
    if model is None or not used:
        return
    data = used[-1].dataset
    last = {key: client.get_metric_history(run.info.run_id, key)[-1] for key in scores}
    points = [
        Metric(key, point.value, point.timestamp, point.step, model, data.name, data.digest, run.info.run_id)
        for key, point in last.items()
    ]
    client.log_batch(run.info.run_id, metrics=points)


def _missing(theirs: pd.DataFrame, ours: pd.DataFrame) -> list[Metric]:
    known = set(zip(ours["key"], ours["step"], ours["time"], strict=True))
    return [
        Metric(str(point.key), float(point.value), int(point.time), int(point.step))
        for point in theirs.itertuples()
        if (point.key, point.step, point.time) not in known
    ]


def _dataset(data: dict[str, str]) -> DatasetInput:
    dataset = Dataset(data["name"], data["digest"], data["type"], data["source"], profile=data["profile"] or None)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", data["context"])])


def _merge_files(theirs: RunRecord, source: Path, target: Path | None, *, replace: bool) -> bool:
    """Copy artifacts that are missing, and with `replace` those that differ; return whether there were any."""
    if target is None:
        msg = f"run: the artifacts of {theirs.run_id} are not on this machine; import on the machine that has them"
        raise InputError(msg)
    changed = False
    for name, digest in theirs.files.items():
        final = target / name
        if final.exists() and (not replace or sha256(final) == digest):
            continue
        final.parent.mkdir(parents=True, exist_ok=True)
        with replacing(final) as draft:
            shutil.copyfile(source / name, draft)
        changed = True
    return changed
