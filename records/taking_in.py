"""Take exported runs into the store of this folder; nothing clashes, and doing it twice changes nothing."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.places import replacing
from records import store
from records.portrait import ARTIFACTS, ENDED, Portrait, exported_runs, portray, read_portrait, sha256

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
