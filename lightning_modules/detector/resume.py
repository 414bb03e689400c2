"""Which stopped run of the detector goes on, and that neither its options nor its data changed meanwhile."""

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.faces.boxes_data import BoxesDataModule
from lightning_modules.run import RunOptions
from lightning_modules.tracked_run import require_resumable, unfinished_run
from records.runs import run_row

_NAMES_ONLY = ("name", "experiment", "parent", "accelerator", "resamples", "resume")  # of a run, not of its numbers


def config_hash(config: dict[str, Any]) -> str:
    """Hash of everything in a run's config that makes its weights."""
    made = {**config, "run": {key: value for key, value in config["run"].items() if key not in _NAMES_ONLY}}
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]


def division_hash(data: BoxesDataModule) -> str:
    """Hash of which picture plays which role, with its boxes."""
    split = data.split_table().drop(columns="content")  # so that runs from before this column existed can be resumed
    made = hashlib.sha256(pd.util.hash_pandas_object(split, index=False).to_numpy().tobytes())
    made.update(np.concatenate(data.boxes).tobytes())
    return made.hexdigest()[:16]


def run_to_go_on(resume: str | None, parent: str | None, config: dict[str, Any], data: BoxesDataModule) -> str | None:
    """Return the id of the run that ``--resume`` means, None when a new one begins.

    Args:
        resume: a run id, "auto" for the newest unfinished run of this config, or None.
        parent: the study above it.
        config: of this command.
        data: of this command, divided.

    Raises:
        InputError: the run has finished, or was begun with other options or data.
    """
    run_id = unfinished_run(RunOptions(resume=resume, parent=parent), config_hash(config))
    if run_id is None:
        return None
    require_resumable(run_id, division_hash(data))
    if run_row(run_id).get("tags.config_hash") != config_hash(config):
        msg = f"--resume: run {run_id} was begun with other options; go on with the same command, or start a new run"
        raise InputError(msg)
    return run_id
