"""Carry runs between stores as a folder of plain files: written from one store, taken into another."""

import contextlib
import hashlib
import json
import os
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
from datamodules.paths import replacing
from results.tracking import runs, store
from results.tracking.offline import Spool

FORMAT = 1
MARKER = "exchange.json"  # a folder is an export when this file says so
DESCRIPTION, METRICS, ARTIFACTS = "run.json", "metrics.parquet", "artifacts"
ENDED = ("FINISHED", "FAILED", "KILLED")
_COLUMNS = ("key", "step", "time", "value")


@dataclass(frozen=True)
class Portrait:
    """What a store knows of one run; times are milliseconds, `metrics` has columns key, step, time, value."""

    run_id: str
    name: str
    experiment: str
    status: str
    start: int
    end: int
    params: dict[str, str]
    tags: dict[str, str]
    datasets: list[dict[str, str]]
    files: dict[str, str] = field(default_factory=dict)  # artifact -> SHA-256, only of an exported run
    metrics: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(_COLUMNS)), compare=False)


def portray(client: MlflowClient, run: Run) -> Portrait:
    """Return what the store knows of `run`, without its artifacts."""
    datasets = []
    for one in run.inputs.dataset_inputs if run.inputs else []:
        context = next((tag.value for tag in one.tags if tag.key == "mlflow.data.context"), "training")
        data = one.dataset
        entry = {"name": data.name, "digest": data.digest, "type": data.source_type, "source": data.source}
        datasets.append({**entry, "profile": data.profile or "", "context": context})
    return Portrait(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=client.get_experiment(run.info.experiment_id).name,
        status=run.info.status,
        start=int(run.info.start_time),
        end=int(run.info.end_time or 0),
        params=dict(sorted(run.data.params.items())),
        tags=dict(sorted(run.data.tags.items())),
        datasets=sorted(datasets, key=lambda one: (one["name"], one["digest"])),
        metrics=_points(client, run),
    )


def _points(client: MlflowClient, run: Run) -> pd.DataFrame:
    """Return every logged value; from SQLite in one query, since the client asks once a metric."""
    if client.tracking_uri.startswith("sqlite:///"):
        query = "SELECT key, step, timestamp, CASE is_nan WHEN 1 THEN NULL ELSE value END FROM metrics WHERE run_uuid=?"
        path = client.tracking_uri.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
            rows = database.execute(query, (run.info.run_id,)).fetchall()
    else:
        rows = [
            (one.key, one.step, one.timestamp, one.value)
            for key in run.data.metrics
            for one in client.get_metric_history(run.info.run_id, key)
        ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table = table.astype({"key": "str", "step": "int64", "time": "int64", "value": "float64"})
    return table.sort_values(["key", "step", "time"], kind="stable", ignore_index=True)


def write_portrait(portrait: Portrait, folder: Path) -> None:
    """Write the description of a run whose artifacts are in `folder` already."""
    artifacts = sorted(path for path in (folder / ARTIFACTS).rglob("*") if path.is_file())
    portrait.metrics.to_parquet(folder / METRICS, index=False, compression="zstd")
    facts = {key: value for key, value in asdict(portrait).items() if key != "metrics"}
    facts["files"] = {path.relative_to(folder / ARTIFACTS).as_posix(): sha256(path) for path in artifacts}
    text = json.dumps({"format": FORMAT, "metrics": sha256(folder / METRICS), **facts}, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_export(folder: str | Path) -> bool:
    """Whether `folder` holds exported runs."""
    return (Path(folder) / MARKER).is_file()


def exported_runs(folder: str | Path) -> list[Path]:
    """Return the folders of the runs in an export.

    Raises:
        InputError: not an export, or one of another format.
    """
    marker = Path(folder) / MARKER
    if not marker.is_file():
        msg = f"path: {folder} holds no exported runs ({MARKER} is not there). Make one with: emotion runs export PATH"
        raise InputError(msg)
    try:
        version = json.loads(marker.read_text()).get("format")
    except (ValueError, AttributeError):
        version = "unreadable"
    if version != FORMAT:
        msg = f"path: {folder} has format {version}, this program reads format {FORMAT}. Update it, or export anew."
        raise InputError(msg)
    return sorted(path.parent for path in Path(folder).glob(f"[!.]*/{DESCRIPTION}"))


def read_exported(folder: str | Path) -> pd.DataFrame:
    """Return one row for each run in an export, newest first, with the columns of `runs.as_tree`."""
    rows = [
        {
            "run_id": portrait.run_id,
            "name": portrait.name,
            "experiment": portrait.experiment,
            "status": portrait.status,
            "parent": portrait.tags.get("mlflow.parentRunId"),
            "start": pd.Timestamp(portrait.start, unit="ms", tz="UTC"),
            "tags.kind": portrait.tags.get("kind", ""),
        }
        for portrait in map(read_portrait, exported_runs(folder))
    ]
    return pd.DataFrame(rows).sort_values("start", ascending=False) if rows else pd.DataFrame()


_FACTS = {"run_id": str, "name": str, "experiment": str, "status": str, "start": int, "end": int}
_FACTS |= {"params": dict, "tags": dict, "files": dict, "datasets": list}


def read_portrait(folder: Path) -> Portrait:
    """Read one exported run and check all of it; the files come from somebody else.

    Raises:
        InputError: damaged, incomplete, or with names that would lead out of the folder.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        for key, kind in _FACTS.items():
            _require(isinstance(facts[key], kind), folder, f"{key} must be of type {kind.__name__}, got {facts[key]!r}")
        texts = [*facts["params"].values(), *facts["tags"].values(), *facts["files"].values()]
        texts += [value for one in facts["datasets"] for value in one.values()]
        _require(all(isinstance(one, str) for one in texts), folder, "params, tags and datasets must be text")
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
        _require(False, folder, f"it cannot be read ({type(error).__name__}: {store.reason(error)})")
    return Portrait(**{key: facts[key] for key in _FACTS}, metrics=metrics)


def _require(condition: bool, folder: Path, what: str) -> None:
    if not condition:
        msg = f"path: the exported run {folder.name} is damaged: {what}. Export or fetch it again."
        raise InputError(msg)


MODELS = ("checkpoint/*", "*.ckpt", "*.safetensors", "*.onnx", "*.pt", "*.pt2", "*.pth", "*.pkl")


def family(found: pd.DataFrame, chosen: Iterable[str]) -> list[str]:
    """Return the chosen runs and everything under them, parents first; `found` is what `find_runs` returned."""
    members: dict[str, list[str]] = {}
    for run_id, parent in zip(found["run_id"], found["parent"], strict=True):
        members.setdefault(str(parent), []).append(run_id)
    ordered = list(dict.fromkeys(chosen))
    for run_id in ordered:  # grows while it is walked
        ordered += [one for one in members.get(run_id, []) if one not in ordered]
    return ordered


def export_runs(
    destination: str | Path,
    chosen: Sequence[str] = (),
    *,
    skip: Sequence[str] = MODELS,
    directory: str | Path = store.DIRECTORY,
) -> dict[str, str]:
    """Write runs into the folder `destination`, one folder a run; return what became of each run.

    Notes:
        * A run that is not over, or that has entries waiting to be sent, is left out and named.
        * In a folder that is an export already, other runs stay; a run that is there is brought up to date, keeps the
          files it had, and stays as it is when it ended later than the one here.

    Args:
        destination: A folder that is absent, empty, or an export.
        chosen: Run ids; what is under them comes along. None: every run.
        skip: Patterns of artifacts that stay behind.
        directory: Folder of the embedded store, where $MLFLOW_TRACKING_URI does not name another.

    Raises:
        InputError: a destination that holds something else, or cannot be written.
    """
    found = runs.find_runs(directory=directory, limit=100_000)
    ids = family(found, chosen) if chosen else found["run_id"].tolist()
    client = store.open_client(directory, only_reading=True)
    target = Path(destination).absolute()
    outcome = {}
    try:
        _begin(target)
        for run_id in tqdm(ids, desc="exporting", unit="run", disable=None):
            outcome[run_id] = _export(client, run_id, target / run_id, skip, Path(directory).absolute())
    except OSError as error:
        msg = f"path: writing to {target} failed: {error}. Free space, or choose another folder."
        raise InputError(msg) from error
    return outcome


def _begin(target: Path) -> None:
    if is_export(target):
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"path: runs are exported into a new or empty folder or an earlier export, {target} is something else."
        raise InputError(msg)
    target.mkdir(parents=True, exist_ok=True)
    (target / MARKER).write_text(json.dumps({"format": FORMAT}) + "\n")


def _export(client: MlflowClient, run_id: str, target: Path, skip: Sequence[str], directory: Path) -> str:
    run = client.get_run(run_id)
    if run.info.status not in ENDED:
        return f"left out: its status is {run.info.status}"
    if Spool.has_pending(directory / "runs" / run_id / "spool"):
        return "left out: entries wait to be sent; run `emotion sync` first"
    portrait = portray(client, run)
    there = read_portrait(target) if target.exists() else None
    if there is not None and there.end > portrait.end:
        return "kept: the one there ended later"
    temporary = target.with_name(f".{run_id}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / ARTIFACTS).mkdir(parents=True)
    try:
        with _artifacts(client, run) as source:
            for path in sorted(one for one in source.rglob("*") if one.is_file() and not one.is_symlink()):
                name = path.relative_to(source).as_posix()
                had = there is not None and name in there.files
                if had or not any(fnmatch(name, pattern) for pattern in skip):
                    _copy(path, temporary / ARTIFACTS / name)
        for name in there.files if there is not None else ():
            if not (temporary / ARTIFACTS / name).exists():
                _copy(target / ARTIFACTS / name, temporary / ARTIFACTS / name)
        write_portrait(portrait, temporary)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return "exported"


@contextlib.contextmanager
def _artifacts(client: MlflowClient, run: Run) -> Iterator[Path]:
    """Give the folder of a run's artifacts: the store's own on this machine, otherwise fetched and removed again."""
    place = store.local_path(run.info.artifact_uri)
    if place is not None:
        yield place
        return
    try:
        fetched = Path(download_artifacts(run.info.artifact_uri, tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        msg = f"run: the artifacts of {run.info.run_id} cannot be fetched ({store.reason(error)}). Try again later."
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
    """Take every run of an export into the embedded store in `directory`; return what became of each run.

    Notes:
        * A run keeps its id, so it is one run wherever it goes; experiments are matched by name, and artifacts go to
          this store's own folder, whatever path they had before.
        * A run that is here already gets what it lacks. Where both sides differ, the one that ended later wins, and
          this store at a tie. A run that is deleted or not over here is left alone.
        * A run is complete only after its last entry; one that was interrupted on the way is completed next time.
        * A damaged run is refused by itself; the others are taken.

    Raises:
        InputError: not an export, or runs are kept elsewhere than in the embedded store.
    """
    found = exported_runs(folder)
    uri = store.embedded_uri(directory)
    if store.tracking_uri(directory) != uri:
        msg = (
            "MLFLOW_TRACKING_URI: runs are taken into the folder mlruns only, since a server gives runs new ids; "
            f"the variable is {store.without_password(store.tracking_uri(directory))}. Unset it and import again."
        )
        raise InputError(msg)
    client = store.open_client(directory)
    home = Path(directory).absolute()
    outcome = {}
    try:
        with FileLock(home / ".import.lock", timeout=_LOCK_SECONDS):
            for one in tqdm(found, desc="importing", unit="run", disable=None):
                try:
                    outcome[one.name] = _take(client, one, home)
                except (InputError, MlflowException) as error:
                    outcome[one.name] = f"refused: {store.reason(error)}"
    except Timeout as error:
        msg = f"directory: another import into {home} has been going on for five minutes. End it and try again."
        raise InputError(msg) from error
    except (OSError, sqlite3.Error) as error:
        msg = f"directory: runs are written to {home}, which failed: {error}. Free space, or choose another folder."
        raise InputError(msg) from error
    return outcome


def _take(client: MlflowClient, folder: Path, home: Path) -> str:
    portrait = read_portrait(folder)
    known = _get(client, portrait.run_id)
    if known is not None and known.info.lifecycle_stage == "deleted":
        return "left: it was deleted here"
    if known is not None and known.info.status not in ENDED:
        return f"left: its status here is {known.info.status}"
    if known is None:
        _insert(client, portrait, home)
        known = client.get_run(portrait.run_id)
        return _merge(client, portrait, known, folder, fresh=True)
    return _merge(client, portrait, known, folder, fresh=False)


def _get(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _insert(client: MlflowClient, portrait: Portrait, home: Path) -> None:
    """Make a run with the id it has elsewhere, which MLflow's own calls do not allow."""
    experiment = store.experiment_id(client, portrait.experiment, home, store.embedded_uri(home))
    row = {
        "run_uuid": portrait.run_id,
        "name": portrait.name,
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": portrait.tags.get("mlflow.user", "unknown"),
        "status": portrait.status,
        "start_time": portrait.start,
        "end_time": portrait.end,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": str(home / "artifacts" / portrait.run_id / "artifacts"),
        "experiment_id": int(experiment),
    }
    statement = f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=60)) as database, database:
        database.execute(statement, row)


def _merge(client: MlflowClient, theirs: Portrait, run: Run, folder: Path, *, fresh: bool) -> str:
    """Give `run` what it lacks of `theirs`; say what was done."""
    ours = portray(client, run)
    newer = theirs.end > ours.end
    changed = _merge_files(theirs, folder / ARTIFACTS, store.local_path(run.info.artifact_uri), replace=newer)
    params = [Param(key, value) for key, value in theirs.params.items() if key not in ours.params]
    tags = [
        RunTag(key, value)
        for key, value in theirs.tags.items()
        if key not in ours.tags or (newer and ours.tags[key] != value)
    ]
    metrics = _missing(theirs.metrics, ours.metrics)
    held = {(one["name"], one["digest"]) for one in ours.datasets}
    datasets = [_dataset(one) for one in theirs.datasets if (one["name"], one["digest"]) not in held]
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


def _missing(theirs: pd.DataFrame, ours: pd.DataFrame) -> list[Metric]:
    held = set(zip(ours["key"], ours["step"], ours["time"], strict=True))
    return [
        Metric(str(one.key), float(one.value), int(one.time), int(one.step))
        for one in theirs.itertuples()
        if (one.key, one.step, one.time) not in held
    ]


def _dataset(one: dict[str, str]) -> DatasetInput:
    dataset = Dataset(one["name"], one["digest"], one["type"], one["source"], profile=one["profile"] or None)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", one["context"])])


def _merge_files(theirs: Portrait, source: Path, target: Path | None, *, replace: bool) -> bool:
    """Copy artifacts that are missing, and with `replace` those that differ; say whether there were any."""
    if target is None:
        msg = f"run: the artifacts of {theirs.run_id} are kept elsewhere than on this machine. Import there."
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
