"""Start or resume the tracked run of a training: find it, check it, log its config and data."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.config import RunConfig
from lightning_modules.run import LAST, RunOptions, first_rank
from records import store
from records.environment import environment
from records.heartbeat import refuse_written
from records.origin import changed_between
from records.runs import find_runs, has_store, replay_spools, run_row
from records.spool import Spool
from records.store import DIRECTORY
from records.tracking import TrackingLogger


class RunLogger(TrackingLogger):
    """Logger that ends the run only in `end`: Lightning would end it after `fit`, before its tables are written."""

    def finalize(self, status: str = "success") -> None:
        """Leave the run open."""

    def end(self, status: str) -> None:
        """End the run: success, failed or interrupted."""
        super().finalize(status)


def division_hash(data: EmotionDataModule) -> str:
    """Hash of the role of each image; one more image can change clusters, and so the roles of many."""
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


def require_resumable(run_id: str, division: str, identity: str) -> None:
    """Refuse to resume a run whose data or options changed, or that has finished.

    Args:
        run_id: the run.
        division: hash of which image is in which part, as it is now.
        identity: of the options and the data, as they are now.

    Raises:
        InputError: its data or options changed, it has finished, or there is no such run.
    """
    folder = Path(DIRECTORY, "runs", run_id)
    status, tags = Spool.state(folder / "spool")
    before, begun = tags.get("division"), tags.get("identity")
    if known := _row(run_id):
        status, before, begun = known["status"], known.get("tags.division"), known.get("tags.identity")
    if isinstance(before, str) and before != division:
        msg = (
            f"--resume: the data or the clusters in it changed since run {run_id} began, so held-out images may have "
            "been trained on; start a new run without --resume"
        )
        raise InputError(msg)
    if isinstance(begun, str) and begun != identity:
        msg = (
            f"--resume: run {run_id} was started with other options; give the options in its config.yaml (emotion ui "
            "shows it), or start a new run without --resume"
        )
        raise InputError(msg)
    if status == "FINISHED" and not (folder / LAST).exists():
        msg = f"--resume: run {run_id} has finished, so there is nothing to resume; start a new run without --resume"
        raise InputError(msg)


def require_unwritten(run_id: str) -> None:
    """Refuse to resume a run that another process is writing, on this machine or on another one.

    Raises:
        InputError: another process is writing it. While the store cannot be reached, only processes of this
            machine are checked.
    """
    row = _row(run_id)
    tags = {name.removeprefix("tags."): value for name, value in row.items() if name.startswith("tags.")}
    refuse_written(run_id, str(row.get("status")), tags, "--resume")


def note_other_code(run_id: str) -> dict[str, str]:
    """Compare code and packages with those that a resumed run was started with; print what differs.

    A difference does not make it another run. It is a note on stderr, and a tag that the certificate reads.

    Returns:
        The tag ``resumed_with`` where something differs, else nothing.
    """
    row, now = _row(run_id), environment()
    commit, lock = row.get("tags.git_commit"), row.get("tags.lock_sha256")
    differ = []
    if isinstance(commit, str) and commit != now["git_commit"] and changed_between(commit, now["git_commit"]):
        differ.append(f"other code (commit {commit[:12]}, now {now['git_commit'][:12]})")
    if isinstance(lock, str) and lock != now["lock_sha256"]:
        differ.append("other packages (requirements.lock differs)")
    if not differ:
        return {}
    print(
        f"note: run {run_id} was started with {' and '.join(differ)}; it is resumed, and records this", file=sys.stderr
    )
    return {"resumed_with": f"{now['git_commit']} {now['lock_sha256']}"}


def send_what_waits() -> None:
    """Send what runs stored locally while the store was unreachable, such as that they have finished."""
    if first_rank():
        replay_spools()


def unfinished_run(options: RunOptions, identity: str) -> str | None:
    """Return the id of the run that `--resume` selects, None for a new run.

    Args:
        options: of the run.
        identity: of its options and data; "auto" selects an unfinished run with the same.

    Raises:
        InputError: another process is writing it.
    """
    if options.resume is not None and options.parent is None and has_store():
        send_what_waits()
    run_id = options.resume if options.resume != "auto" else _newest_unfinished(options, identity)
    if run_id is not None and first_rank():  # for the other ranks, rank zero is the process that writes the run
        require_unwritten(run_id)
    return run_id


def _newest_unfinished(options: RunOptions, identity: str) -> str | None:
    # every rank looks for itself and finds the same: the run that rank zero opened stays unfinished
    if not has_store():
        if first_rank():
            print("--resume: there are no runs yet; a new run starts", file=sys.stderr)
        return None
    same = f"tags.identity = '{identity}' and attributes.status != 'FINISHED'"
    found = find_runs(where=same, parent=options.parent)
    if options.parent is None:
        found = found[found["parent"].isna()]  # a fold belongs to its cross-validation
    if found.empty:
        if options.parent is None and first_rank():
            print("--resume: no unfinished run has this config and these images; a new run starts", file=sys.stderr)
        return None
    return str(found.iloc[0]["run_id"])


def log_beginning(tracker: RunLogger, config: RunConfig, data: EmotionDataModule) -> None:
    """Log the config, the data set and how it was split."""
    log_config(tracker, config)
    log_data(tracker, data)
    tracker.set_tags({f"leak.{name}": value for name, value in data.leak_record.items()})


def log_config(tracker: RunLogger, config: RunConfig) -> None:
    """Log the options as parameters of the run, and as the file that ``--config`` takes."""
    text = config.to_yaml()
    tracker.log_hyperparams(yaml.safe_load(text))
    tracker.log_text(text, "config.yaml")


def log_data(tracker: TrackingLogger, data: EmotionDataModule) -> None:
    """Log the data set as an input of the run: name, source, fingerprint, images per class."""
    numbers = np.bincount(data.manifest.labels, minlength=len(data.classes)).tolist()
    counts = dict(zip(data.classes, numbers, strict=True))
    profile = {"images": len(data.manifest), "classes": counts}
    tracker.log_dataset(data.manifest.name, data.source, data.manifest.fingerprint(), profile=profile)
