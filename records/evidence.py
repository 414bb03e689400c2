"""All that a run left and a certificate looks at: its tables, tags, parameters, metrics, and its folds' own."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml
from mlflow.entities import Run
from tqdm import tqdm

from datamodules.errors import InputError
from records import store
from records.runs import CONFIG, download, find_runs

TABLES = ("predictions", "split", "intervals", "folds", "seeds")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Evidence:
    """What one run left; what it did not leave is empty.

    Attributes:
        digests: SHA-256 of each table's file as it is now.
        dataset: What the run logged of its data: `digest` (the beginning of the manifest's hash) and `classes`.
        members: The folds of a cross-validation, oldest first.
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
    members: tuple["Evidence", ...] = ()

    @property
    def predictions(self) -> pd.DataFrame:
        """The prediction table."""
        return self.tables["predictions"]

    @property
    def split(self) -> pd.DataFrame:
        """The split table."""
        return self.tables["split"]


def read_evidence(run_id: str, *, directory: str | Path = store.DIRECTORY, with_members: bool = True) -> Evidence:
    """Read what a run left.

    Raises:
        InputError: It left no predictions, so there is nothing to certify.
    """
    run = store.open_client(directory, only_reading=True).get_run(run_id)

    def kept(path: str, read: Callable[[Path], _T], otherwise: _T) -> _T:
        try:
            return read(download(run_id, path, directory=directory))
        except InputError:
            return otherwise

    paths = {name: kept(f"tables/{name}.parquet", lambda path: path, None) for name in TABLES}
    missing = [name for name in ("predictions", "split") if paths[name] is None]
    if missing:
        msg = (
            f"run: {run.info.run_name!r} left no table {' and '.join(missing)}, so nothing can be checked. Choose a "
            "run that was evaluated: a finished `emotion fit` or `emotion cross-validate`."
        )
        raise InputError(msg)
    there = {name: path for name, path in paths.items() if path is not None}
    members: list[Evidence] = []
    if with_members and run.data.tags.get("kind") == "cross-validation":
        found = find_runs(parent=run_id, directory=directory)
        ids = found.sort_values("start", kind="stable")["run_id"].tolist() if len(found) else []
        for one in tqdm(ids, desc="folds", unit="fold", disable=None):
            members.append(read_evidence(one, directory=directory, with_members=False))
    return Evidence(
        run_id=run_id,
        name=str(run.info.run_name),
        experiment_id=str(run.info.experiment_id),
        status=str(run.info.status),
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tables={name: _read(path) for name, path in there.items()},
        digests={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()},
        config=kept(CONFIG, lambda path: dict(yaml.safe_load(path.read_text(encoding="utf-8"))), {}),
        environment=kept("environment.json", lambda path: dict(json.loads(path.read_text(encoding="utf-8"))), {}),
        dataset=_dataset(run),
        members=tuple(members),
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        msg = f"run: its table {path.name} cannot be read ({error}). Fetch it again from where the run was made."
        raise InputError(msg) from error


def _dataset(run: Run) -> dict[str, Any]:
    for entry in getattr(run.inputs, "dataset_inputs", None) or []:
        try:
            profile = dict(json.loads(entry.dataset.profile or "{}"))
        except ValueError:
            profile = {}
        digest, whole = str(entry.dataset.digest), str(profile.get("digest", ""))
        found = whole if whole.startswith(digest) else digest  # older runs kept its beginning alone
        return {"digest": found, "classes": dict(profile.get("classes", {}))}
    return {}
