"""All that a run left and a certificate looks at: its tables, tags, parameters, metrics, and its folds' own."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
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


def _flat_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return a run's parameters; version 0.1 named the classes of data and model in them."""
    classes = ("data.class_path", "model.class_path")
    flat = {re.sub(r"^(data|model)\.init_args\.", r"\1.", name): value for name, value in params.items()}
    return {name: value for name, value in flat.items() if name not in classes}


@dataclass(frozen=True)
class Evidence:
    """What one run left; what it did not leave is empty.

    Attributes:
        digests: SHA-256 of each table's file as it is now.
        dataset: What the run logged of its data: `name`, `digest` (the beginning of the manifest's hash), `classes`
            (images of each) and `images`.
        members: The runs of a cross-validation's folds, of all its seeds, oldest first.
        missing: Files that cannot be read, one sentence each.
        gone: Runs of folds that are not below a cross-validation any more, or left no tables, one sentence each.
        deleted: Whether the run was deleted; its records are there until the store is emptied.
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
    missing: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    deleted: bool = False

    @property
    def folded(self) -> bool:
        """Whether it stands for several folds, whatever its tag `kind` says: a study calls its members cells."""
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


def read_evidence(run_id: str, *, directory: str | Path = store.DIRECTORY, with_members: bool = True) -> Evidence:
    """Read what a run left.

    Raises:
        InputError: It left no predictions, so there is nothing to certify.
    """
    run = store.open_client(directory, only_reading=True).get_run(run_id)
    broken: list[str] = []

    def kept(path: str, read: Callable[[Path], _T], otherwise: _T) -> _T:
        try:
            found = download(run_id, path, directory=directory)
        except InputError:
            return otherwise
        try:
            return read(found)
        except (ValueError, TypeError, yaml.YAMLError) as error:
            broken.append(f"{path} cannot be read ({type(error).__name__})")
            return otherwise

    paths = {name: kept(f"tables/{name}.parquet", lambda path: path, None) for name in TABLES}
    missing = [name for name in ("predictions", "split") if paths[name] is None]
    if missing:
        msg = (
            f"run: {run.info.run_name!r} ({run.info.status}) left no table {' and '.join(missing)}, so nothing can be "
            "checked. Choose a run that was evaluated: a finished `emotion fit` or `emotion cross-validate`."
        )
        raise InputError(msg)
    there = {name: path for name, path in paths.items() if path is not None}
    tables = {name: _read(path) for name, path in there.items()}
    for name in ("predictions", "split"):
        store.check_table(tables[name], run_id)
    found = Evidence(
        run_id=run_id,
        name=str(run.info.run_name),
        experiment_id=str(run.info.experiment_id),
        status=str(run.info.status),
        tags=dict(run.data.tags),
        params=_flat_params(run.data.params),
        metrics=dict(run.data.metrics),
        tables=tables,
        digests={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()},
        config=kept(CONFIG, read_config, {}),
        environment=kept("environment.json", lambda path: dict(json.loads(path.read_text(encoding="utf-8"))), {}),
        dataset=_dataset(run),
        missing=tuple(broken),
        deleted=run.info.lifecycle_stage == "deleted",
    )
    return _with_members(found, directory) if with_members and found.folded else found


def _with_members(parent: Evidence, directory: str | Path) -> Evidence:
    """Return a cross-validation with the runs of its folds, and in `gone` those that are missing."""
    ids = children(parent.run_id, directory=directory)["run_id"].tolist()
    folds = parent.tables.get("folds")
    gone: list[str] = []
    named = set(folds["run_id"].astype(str)) if folds is not None and "run_id" in folds else set()
    if named.intersection(ids):  # earlier tries stand below it, too; a server renames imported runs
        gone += [f"run {one[:8]} of a fold is not below it" for one in sorted(named.difference(ids))]
        ids = [one for one in ids if one in named]
    members: list[Evidence] = []
    for one in tqdm(ids, desc="folds", unit="fold", disable=None):
        try:
            members.append(read_evidence(one, directory=directory, with_members=False))
        except InputError as error:
            gone.append(str(error))
    return replace(parent, members=tuple(members), gone=tuple(gone))


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
        classes, images = dict(profile.get("classes", {})), profile.get("images")
        return {"name": str(entry.dataset.name), "digest": found, "classes": classes, "images": images}
    return {}
