"""The runs below a cross-validation: made at its start, known when it goes on, taken back if they never began."""

import contextlib
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from lightning_modules.config import RunConfig
from lightning_modules.evaluation import RunResult
from records.runs import children
from records.tracking import TrackingLogger


@dataclass
class Member:
    """One fold with one seed: its run, and its result when it has finished."""

    run_id: str | None = None
    result: RunResult | None = None
    manifest: str = ""


Members = dict[tuple[int, int], Member]  # by seed and fold


def known_members(parent_id: str, wanted: set[tuple[int, int]]) -> Members:
    """Return the runs that an earlier start has made; a finished one is not made again."""
    found: Members = {}
    for row in children(parent_id).to_dict("records"):
        at = int(row["tags.seed"]), int(row["tags.fold"])
        if at in wanted and not (at in found and found[at].result):
            finished = row["status"] == "FINISHED"
            result = RunResult.from_run(row["run_id"]) if finished else None
            found[at] = Member(row["run_id"], result, str(row["tags.manifest"]) if finished else "")
    return found


def reserve(parent_id: str, config: RunConfig, todo: list[tuple[int, int]], members: Members) -> None:
    """Make the runs that are not there yet, so that a later fold can begin while the tracking server is away.

    Args:
        parent_id: the cross-validation.
        config: of all folds.
        todo: seed and fold of each run.
        members: the runs that are known; the new ones are added.
    """
    recipe, experiment = config.run["recipe"], config.run["experiment"]
    for seed, fold in todo:
        if (seed, fold) not in members:
            name = f"{recipe} {config.data_name} fold {fold} seed {seed}"
            tags = {"kind": "run", "recipe": recipe, "seed": str(seed), "fold": str(fold)}
            reserved = TrackingLogger(experiment=experiment, run_name=name, parent_run_id=parent_id, tags=tags)
            members[seed, fold] = Member(reserved.reserve())


def withdraw(members: Members) -> None:
    """Take back the runs that never began; while the server is away they stay, and a resume begins them."""
    with contextlib.suppress(InputError, MlflowException, OSError):
        for member in members.values():
            if member.run_id and not member.result:
                TrackingLogger(run_id=member.run_id).withdraw()
