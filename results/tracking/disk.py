"""Disk use of runs, and deleting them."""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from datamodules.files.paths import folder_bytes
from results.tracking import runs, store
from results.tracking.export_import import family
from results.tracking.logger import refuse_written

CHECKPOINTS = ".ckpt"  # suffix, in the local folder of a run and among its artifacts


def disk_use(directory: str | Path = store.DIRECTORY) -> pd.DataFrame:
    """Return the disk space of each run on this machine, the largest first.

    Deleted runs, and folders of runs that the store does not know, are included if they have files.
    Artifacts on a tracking server are not.

    Args:
        directory: Folder of the runs.

    Returns:
        Columns run_id, name, status ("deleted", "unknown" if the store has no record), and in bytes folder (spool and
        logs), artifacts, checkpoints (of both; the other two leave them out) and total.
    """
    home = Path(directory).absolute()
    client = store.open_client(directory, only_reading=True) if runs.has_store(directory) else None
    known = runs.find_runs(directory=directory, limit=runs.ALL, deleted=True) if client else pd.DataFrame()
    names = {row["run_id"]: (row["name"], row["status"]) for row in known.to_dict("records")}
    on_disk = {path.name for place in ("runs", "artifacts") for path in home.glob(f"{place}/*") if path.is_dir()}
    rows = []
    for run_id in {*names, *on_disk}:
        name, status = names.get(run_id, ("", "unknown"))
        places = {"folder": home / "runs" / run_id, "artifacts": _artifacts(client, run_id, home)}
        checkpoints = {kind: _checkpoints(place) for kind, place in places.items()}
        sizes = {
            kind: folder_bytes(place) - checkpoints[kind] if place is not None else 0 for kind, place in places.items()
        }
        sizes["checkpoints"] = sum(checkpoints.values())
        total = sum(sizes.values())
        if total:
            rows.append({"run_id": run_id, "name": name, "status": status, **sizes, "total": total})
    columns = ["run_id", "name", "status", "folder", "artifacts", "checkpoints", "total"]
    return pd.DataFrame(rows, columns=columns).sort_values(["total", "run_id"], ascending=[False, True])


def _checkpoints(place: Path | None) -> int:
    files = place.rglob(f"*{CHECKPOINTS}") if place is not None else ()
    return sum(folder_bytes(path) for path in files if path.is_file())


def _artifacts(client: MlflowClient | None, run_id: str, home: Path) -> Path | None:
    """Return the folder that contains only the artifacts of a run, None if they are not on this machine.

    The embedded store keeps them in its own folder, whatever address is recorded: that of a copied store may still name
    the folder that it was copied from.
    """
    if client is None or client.tracking_uri == store.embedded_uri(home):
        return home / "artifacts" / run_id
    try:
        place = store.local_path(str(client.get_run(run_id).info.artifact_uri))
    except MlflowException:
        return None
    ours = place is not None and place.name == "artifacts" and place.parent.name == run_id
    return place.parent if place is not None and ours else None


@dataclass(frozen=True)
class DeletedRun:
    """A run that was deleted.

    Attributes:
        run_id: The run.
        name: Its name.
        freed: Bytes of the files that were removed.
        elsewhere: Whether its artifacts are on a server, where they stay.
    """

    run_id: str
    name: str
    freed: int
    elsewhere: bool


def delete_runs(
    chosen: Sequence[str], *, keep_files: bool = False, directory: str | Path = store.DIRECTORY
) -> list[DeletedRun]:
    """Mark runs and all runs below them as deleted, and remove their local folders and artifacts.

    MLflow keeps the record of a deleted run: `mlflow runs restore` brings it back, but not the files. A run that was
    deleted before loses the files that it still has.

    Args:
        chosen: Run ids.
        keep_files: Only mark the runs.
        directory: Folder of the runs.

    Returns:
        What was deleted, parents first.

    Raises:
        InputError: Another process is writing one of the runs (nothing is deleted then), or files cannot be removed.
    """
    home = Path(directory).absolute()
    client = store.open_client(directory)
    all_runs = runs.find_runs(directory=directory, limit=runs.ALL, deleted=True)
    members = [client.get_run(run_id) for run_id in family(all_runs, chosen)]
    deleted = []
    with contextlib.ExitStack() as locks:
        for run in members:
            run_id = str(run.info.run_id)
            refuse_written(run_id, run.info.status, run.data.tags, "RUN")
            if (home / "runs" / run_id).is_dir():
                try:
                    locks.enter_context(FileLock(home / "runs" / run_id / "lock", timeout=0))
                except Timeout as error:
                    msg = f"RUN: run {run_id} is being written by another process; end that process first"
                    raise InputError(msg) from error
        for run in members:
            if run.info.lifecycle_stage != "deleted":
                client.delete_run(run.info.run_id)
        for run in members:
            run_id = str(run.info.run_id)
            artifacts = _artifacts(client, run_id, home)
            freed = 0 if keep_files else _remove(home / "runs" / run_id) + _remove(artifacts)
            deleted.append(DeletedRun(run_id, str(run.info.run_name), freed, artifacts is None))
    return deleted


def _remove(place: Path | None) -> int:
    """Remove a folder and return the bytes that its files had."""
    if place is None or not place.exists():
        return 0
    size = folder_bytes(place)
    try:
        shutil.rmtree(place)
    except OSError as error:
        msg = (
            f"RUN: {place} cannot be removed ({error.strerror or error}); the run is marked as deleted. Change the "
            "permissions and remove this folder."
        )
        raise InputError(msg) from error
    return size
