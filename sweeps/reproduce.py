"""Run a tracked run again from its own config and seed, and report the differences."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from lightning_modules.config import RunConfig
from lightning_modules.training import RunResult, train
from results.predictions import PROBABILITY
from results.tracking.environment import environment
from results.tracking.runs import CONFIG, download, find_whole_run, load_table, run_row
from sweeps.cross_validation import CrossValidation, cross_validate

COMPARED = ("git_commit", "git_dirty", "lock_sha256", "python", "platform", "processor", "cores")


def environment_differences(run_id: str) -> list[str]:
    """Return one line for each difference between the environment of the run and this one."""
    then = json.loads(download(run_id, "environment.json").read_text())
    now = environment()
    names = [name for name in (*COMPARED, *sorted(now)) if name in COMPARED or name.startswith("version_")]
    lines = [f"{name}: then {then.get(name)}, now {now.get(name)}" for name in names if then.get(name) != now.get(name)]
    if then.get("git_commit") != now.get("git_commit") and then.get("git_commit", "unknown") != "unknown":
        lines.append(f"for the same code: git checkout {then['git_commit']}")
    if then.get("git_dirty") == "true":
        lines.append("the run used files that were not committed, so its code may not be available any more")
    return lines


def prediction_differences(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Compare two prediction tables image by image.

    Returns:
        One line for each kind of difference; none when the tables are equal.
    """
    before, after = before.sort_values("row", ignore_index=True), after.sort_values("row", ignore_index=True)
    if not before[["row", "content"]].equals(after[["row", "content"]]):
        only_before = len(set(before["content"]) - set(after["content"]))
        return [
            f"other images were evaluated: {len(before)} then, {len(after)} now, {only_before} of the old are missing"
        ]
    lines = []
    if changed := int((before["label"] != after["label"]).sum()):
        lines.append(f"labels: {changed} of {len(before)} images have another label")
    if changed := int((before["predicted"] != after["predicted"]).sum()):
        lines.append(f"predictions: {changed} of {len(before)} images are classified differently")
    columns = [name for name in before if name.startswith(PROBABILITY)]
    largest = float(np.abs(before[columns].to_numpy() - after[columns].to_numpy()).max())
    if largest > 0:
        lines.append(f"probabilities: differ by at most {largest:.2g}")
    return lines


@dataclass(frozen=True)
class Reproduction:
    """Result of a reproduction.

    Attributes:
        run_id: The run that was reproduced.
        environment: One line for each difference of code, packages and machine.
        numbers: One line for each difference of the predictions.
        text: The printed result of the new run.
    """

    run_id: str
    environment: list[str]
    numbers: list[str]
    text: str = ""


def reproduce(run: str) -> Reproduction | None:
    """Run a tracked run again from its own config and seed.

    Args:
        run: Run id or its start, name, or latest.

    Returns:
        The differences; None on other ranks than zero.

    Raises:
        InputError: There is no such run, or it has no predictions to compare with.
    """
    run_id = find_whole_run(run)
    tags = run_row(run_id)
    kind = tags.get("tags.kind")
    if (task := tags.get("tags.cell_task")) in ("frozen", "adjust", "detector"):
        msg = (
            f"RUN: {tags['name']!r} is a cell of study {tags['tags.study']} that no single command trains ({task}); "
            f"run it again with `emotion study {tags['tags.study']}` in an empty folder"
        )
        raise InputError(msg)
    before = load_table(run_id, "predictions", any_version=True)
    environment_lines = environment_differences(run_id)
    # the config of the run, since its recipe may have changed
    config = RunConfig.from_file(download(run_id, CONFIG))
    result: CrossValidation | RunResult | None
    if kind == "cross-validation":
        seeds = [int(seed) for seed in str(tags["tags.seed"]).split(",")]
        result = cross_validate(config, folds=int(tags["tags.folds"]), seeds=seeds)
    else:
        result = train(config.override({"run.parent": None, "ckpt_path": None}))
    if result is None:
        return None
    lines = prediction_differences(before, result.predictions)
    return Reproduction(run_id, environment_lines, lines, result.text if isinstance(result, RunResult) else "")
