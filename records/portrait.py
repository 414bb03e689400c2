"""One run as plain files: what a store knows of it as JSON, its curves as Parquet, its artifacts beside them."""

import contextlib
import hashlib
import json
import re
import sqlite3
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from datamodules.errors import InputError
from records import store

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
    """Return one row for each run in an export, newest first, with the columns that `records.runs.as_tree` needs."""
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
