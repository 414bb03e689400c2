"""Carry runs between stores as a folder of plain files: written from one store, taken into another."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from datamodules.errors import InputError
from records import runs, store
from records.portrait import ARTIFACTS, ENDED, FORMAT, MARKER, is_export, portray, read_portrait, write_portrait
from records.spool import Spool

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
