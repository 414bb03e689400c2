"""The records of a run that a certificate checks: tables, tags, parameters, metrics, and those of its folds."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml
from mlflow.entities import Run
from tqdm import tqdm

from datamodules.errors import InputError
from results.tracking import store
from results.tracking.runs import CONFIG, children, download, read_config

TABLES = ("predictions", "split", "intervals", "folds", "seeds")
_T = TypeVar("_T")


@dataclass(frozen=True)
class RunArtifacts:
    """The records of one run; those that it does not have are empty.

    Attributes:
        digests: SHA-256 of the present file of each table.
        dataset: Logged data set: `name`, `digest` (hash of the manifest), `classes` (number of images of each class).
        members: Runs of the folds of a cross-validation, of all its seeds, oldest first.
        unreadable: A text for each file that cannot be read.
        missing_folds: A text for each run of a fold that is no longer below its cross-validation, or has no tables.
        deleted: Whether the run was deleted; its records exist until the store is emptied.
    """

    run_id: str
    name: str
    experiment_id: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    digests: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    members: tuple["RunArtifacts", ...] = ()
    unreadable: tuple[str, ...] = ()
    missing_folds: tuple[str, ...] = ()
    deleted: bool = False

    @property
    def folded(self) -> bool:
        """Whether the run has several folds, whatever its tag `kind` is: runs of a study have the kind `cell`."""
        several = "split" in self.tables and "fold" in self.split and self.split["fold"].nunique() > 1
        return self.tags.get("kind") == "cross-validation" or "folds" in self.tables or several

    @property
    def predictions(self) -> pd.DataFrame:
        """The prediction table."""
        return self.tables["predictions"]

    @property
    def split(self) -> pd.DataFrame:
        """The split table."""
        return self.tables["split"]

    @property
    def changed_tables(self) -> list[str]:
        """Names of the tables whose files are not those that the run logged."""
        return [name for name, digest in self.digests.items() if self.tags.get(f"sha256.{name}", digest) != digest]


def read_artifacts(run_id: str, *, directory: str | Path = store.DIRECTORY, with_members: bool = True) -> RunArtifacts:
    """Read the records of a run, and of its folds.

    Raises:
        InputError: The run has no predictions or no split table, or version 0.1 wrote them.
    """
    run = store.open_client(directory, only_reading=True).get_run(run_id)
    unreadable: list[str] = []

    def read_file(name: str, read: Callable[[Path], _T], default: _T) -> _T:
        try:
            path = download(run_id, name, directory=directory)
        except InputError:
            return default
        try:
            return read(path)
        except (ValueError, TypeError, yaml.YAMLError) as error:
            unreadable.append(f"{name} cannot be read ({type(error).__name__})")
            return default

    files = {name: read_file(f"tables/{name}.parquet", lambda path: path, None) for name in TABLES}
    paths = {name: path for name, path in files.items() if path is not None}
    missing = [name for name in ("predictions", "split") if name not in paths]
    if missing:
        msg = (
            f"run: {run.info.run_name!r} ({run.info.status}) has no table {' and '.join(missing)}, so nothing can be "
            "checked; choose a run that was evaluated, from a finished `emotion fit` or `emotion cross-validate`"
        )
        raise InputError(msg)
    tables = {name: _read(path) for name, path in paths.items()}
    for name in ("predictions", "split"):
        store.check_table(tables[name], run_id)
    artifacts = RunArtifacts(
        run_id=run_id,
        name=str(run.info.run_name),
        experiment_id=str(run.info.experiment_id),
        status=str(run.info.status),
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tables=tables,
        digests={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()},
        config=read_file(CONFIG, read_config, {}),
        environment=read_file("environment.json", lambda path: dict(json.loads(path.read_text(encoding="utf-8"))), {}),
        dataset=_dataset(run),
        unreadable=tuple(unreadable),
        deleted=run.info.lifecycle_stage == "deleted",
    )
    return _with_members(artifacts, directory) if with_members and artifacts.folded else artifacts


def _with_members(parent: RunArtifacts, directory: str | Path) -> RunArtifacts:
    """Return a cross-validation with the runs of its folds."""
    ids = children(parent.run_id, directory=directory)["run_id"].tolist()
    folds = parent.tables.get("folds", pd.DataFrame())
    missing: list[str] = []
    named = set(folds["run_id"].astype(str)) if "run_id" in folds else set()
    if named.intersection(ids):  # interrupted tries of a fold are below it, too; a server renames imported runs
        missing += [f"run {run_id[:8]} of a fold is not below it" for run_id in sorted(named.difference(ids))]
        ids = [run_id for run_id in ids if run_id in named]
    members: list[RunArtifacts] = []
    for run_id in tqdm(ids, desc="folds", unit="fold", disable=None):
        try:
            members.append(read_artifacts(run_id, directory=directory, with_members=False))
        except InputError as error:
            missing.append(str(error))
    return replace(parent, members=tuple(members), missing_folds=tuple(missing))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        msg = f"run: its table {path.name} cannot be read ({error}); fetch it again from where the run was made"
        raise InputError(msg) from error


def _dataset(run: Run) -> dict[str, Any]:
    for entry in getattr(run.inputs, "dataset_inputs", None) or []:
        try:
            profile = dict(json.loads(entry.dataset.profile or "{}"))
        except ValueError:
            profile = {}
        digest, classes = str(profile.get("digest", "")), dict(profile.get("classes", {}))
        return {"name": str(entry.dataset.name), "digest": digest, "classes": classes}
    return {}
