"""Closes the runs that a killed worker has left open, so that no page shows them as running for ever."""

import contextlib
from collections.abc import Iterable

from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from records import store
from records.runs import children


def end_lost_runs(run_ids: Iterable[str]) -> None:
    """Mark runs, and those below them, as killed if they still count as running; a store that is away ends nothing."""
    with contextlib.suppress(MlflowException, InputError, OSError):
        client = store.open_client()
        for lost in run_ids:
            for run_id in [*children(lost)["run_id"], lost]:
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, "KILLED")


def end_lost_run_of(parent: str, name: str) -> None:
    """Mark what an earlier attempt left below a run under the name of the one that now begins."""
    with contextlib.suppress(MlflowException, InputError, OSError):
        below = children(parent)
        if len(below):
            end_lost_runs(below[(below["name"] == name) & (below["status"] == "RUNNING")]["run_id"])
