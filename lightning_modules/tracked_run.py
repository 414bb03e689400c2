"""The tracked run behind `emotion fit`: which one goes on, and what it says of its config and data at its beginning."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.run import LAST, RunOptions, first_rank
from records import store
from records.heartbeat import refuse_written
from records.runs import find_runs, has_store, replay_spools, run_row
from records.spool import Spool
from records.store import DIRECTORY
from records.tracking import TrackingLogger


class RunLogger(TrackingLogger):
    """A run that ends when we say so: Lightning would end it after `fit`, before its tables are written."""

    def finalize(self, status: str = "success") -> None:
        """Leave the run open."""

    def end(self, status: str) -> None:
        """End the run: success, failed or interrupted."""
        super().finalize(status)


def division_hash(data: EmotionDataModule) -> str:
    """Hash of which picture plays which role; one added picture can change clusters, and so the roles of many."""
    contents = np.asarray(data.contents, dtype=object)
    split = data.split_table()[["fold", "row", "role", "is_copy"]]
    split["content"] = contents[split["row"]]
    return hashlib.sha256(pd.util.hash_pandas_object(split, index=False).to_numpy().tobytes()).hexdigest()[:16]


def _row(run_id: str) -> dict[str, Any]:
    """Return the row of a run in the store; empty if there is no store yet, or if it cannot be reached.

    Raises:
        InputError: there is no such run, or it was deleted.
    """
    try:
        if not has_store():
            return {}
        store.open_client(only_reading=True)
    except InputError:
        return {}
    return run_row(run_id)


def require_resumable(run_id: str, division: str) -> None:
    """Refuse to go on with a run whose data changed, or that has finished.

    Raises:
        InputError: its data changed, it has finished, or there is no such run.
    """
    folder = Path(DIRECTORY, "runs", run_id)
    status, tags = Spool.state(folder / "spool")
    before: object = tags.get("division")
    if known := _row(run_id):
        status, before = known["status"], known.get("tags.division")
    if isinstance(before, str) and before != division:
        msg = (
            f"--resume: the data or the clusters in it changed since run {run_id} began, so held-out pictures may have "
            "been trained on; start a new run without --resume"
        )
        raise InputError(msg)
    if status == "FINISHED" and not (folder / LAST).exists():
        msg = f"--resume: run {run_id} has finished, there is nothing to go on from; start a new run without --resume"
        raise InputError(msg)


def require_unwritten(run_id: str) -> None:
    """Refuse to go on with a run that another process is writing, on this machine or on another one.

    Raises:
        InputError: another process is writing it. Nothing is known of other machines while the store cannot be
            reached; processes of one machine exclude each other then, too.
    """
    row = _row(run_id)
    tags = {name.removeprefix("tags."): value for name, value in row.items() if name.startswith("tags.")}
    refuse_written(run_id, str(row.get("status")), tags, "--resume")


def send_what_waits() -> None:
    """Send what runs could not send while the store was away: it does not know yet that some have finished."""
    if first_rank():
        replay_spools()


def unfinished_run(options: RunOptions, config_hash: str) -> str | None:
    """Return the id of the run that `--resume` means, None when a new one begins.

    Raises:
        InputError: another process is writing it.
    """
    if options.resume is not None and options.parent is None and has_store():
        send_what_waits()
    run_id = options.resume if options.resume != "auto" else _newest_unfinished(options, config_hash)
    if run_id is not None and first_rank():  # for the other ranks, rank zero is the process that writes the run
        require_unwritten(run_id)
    return run_id


def _newest_unfinished(options: RunOptions, config_hash: str) -> str | None:
    # every rank looks for itself and finds the same: the run that rank zero opened stays unfinished
    if not has_store():
        if first_rank():
            print("--resume: there are no runs yet; a new one begins", file=sys.stderr)
        return None
    same = f"tags.config_hash = '{config_hash}' and attributes.status != 'FINISHED'"
    found = find_runs(where=same, parent=options.parent)
    if options.parent is None:
        found = found[found["parent"].isna()]  # a fold belongs to its cross-validation
    if found.empty:
        if options.parent is None and first_rank():
            print("--resume: no unfinished run has this config; a new one begins", file=sys.stderr)
        return None
    return str(found.iloc[0]["run_id"])


def log_beginning(tracker: RunLogger, config: dict[str, Any], data: EmotionDataModule) -> None:
    """Log the config, the data set and how its division came about."""
    tracker.log_hyperparams(config)
    tracker.log_text(config_text(config), "config.yaml")
    log_data(tracker, data)
    tracker.set_tags({f"leak.{name}": value for name, value in data.leak_record.items()})


def config_text(config: dict[str, Any]) -> str:
    """Return a config as the file that `--config` takes."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def log_data(tracker: TrackingLogger, data: EmotionDataModule) -> None:
    """Log the data set as an input of the run: name, source, fingerprint, images a class."""
    numbers = np.bincount(data.manifest.labels, minlength=len(data.classes)).tolist()
    counts = dict(zip(data.classes, numbers, strict=True))
    profile = {"images": len(data.manifest), "classes": counts}
    tracker.log_dataset(data.manifest.name, data.source, data.manifest.fingerprint(), profile=profile)
