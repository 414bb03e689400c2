"""What a study would cost: runs, pictures through the network, and about how long, from one timed batch a network."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.emotion import EmotionDataModule
from lightning_modules.config import Options, data_module
from lightning_modules.device import best_device, describe_device
from lightning_modules.estimate import FORWARD, STARTUP, duration, seconds_an_image
from records.tables import as_text
from sweeps.studies.plan import Cell, Study, cell_config


@dataclass(frozen=True)
class Cost:
    """Of one cell with all its seeds: runs, pictures learnt from and looked at, seconds."""

    stage: int
    runs: int
    trained: int
    evaluated: int
    seconds: float


def estimate(study: Study, given: Options, only_cells: list[str] | None = None) -> str:
    """Return the estimate for all cells or some of them as text; opens no image and stores nothing."""
    speed: dict[str, float] = {}
    data: dict[str, EmotionDataModule] = {}
    cells = [cell for cell in study.cells if only_cells is None or cell.name in only_cells]
    costs = [_cost(study, cell, given, speed, data) for cell in tqdm(cells, desc="cells", disable=None)]
    rows = []
    for stage in sorted({cell.stage for cell in cells}):
        of = [cost for cost in costs if cost.stage == stage]
        rows.append([f"stage {stage + 1}", len(of), *_sums(of)])
    rows.append(["together", len(costs), *_sums(costs)])
    names = ["", "cells", "runs", "pictures learnt from", "pictures looked at", "about"]
    table = pd.DataFrame(rows, columns=names)
    device = describe_device(best_device())
    return (
        f"{as_text(table)}\n\nTimed with one batch of each network on {device}, as busy as it is now, with one worker; "
        "runs that stop early take less."
    )


def _sums(costs: list[Cost]) -> list[str]:
    numbers = [sum(getattr(cost, name) for cost in costs) for name in ("runs", "trained", "evaluated")]
    return [*(f"{number:,}" for number in numbers), duration(sum(cost.seconds for cost in costs))]


def _cost(
    study: Study, cell: Cell, given: Options, speed: dict[str, float], known: dict[str, EmotionDataModule]
) -> Cost:
    config = cell_config(cell, given, ["rotation"])  # any transform costs about the same as the chosen ones
    data = data_module(config)
    data.share(known.setdefault(f"{data.source} {data.read_options}", data))  # reading a large set takes a while
    epochs = int(config.trainer["max_epochs"])
    runs = max(cell.folds, 1)
    trained, inner, outer = _sizes(data, cell.folds)
    repeats = len(study.seeds)
    if study.task == "frozen":  # every picture once through the network for all cells; heads cost little
        return Cost(cell.stage, repeats, 0, 0, repeats * (STARTUP + epochs * trained / 1e4))
    key = f"{config.model['backbone']} {config.data['size']} {config.data['batch_size']}"
    if key not in speed:
        speed[key] = seconds_an_image(config)
    per_picture = speed[key]
    learnt, seen = runs * epochs * trained, runs * (epochs * inner + outer)
    seconds = runs * STARTUP + per_picture * (learnt + seen / FORWARD)
    return Cost(cell.stage, repeats * runs, repeats * learnt, repeats * seen, repeats * seconds)


def _sizes(data: EmotionDataModule, folds: int) -> tuple[int, int, int]:
    """Return pictures of an epoch, of the part selected on and of the reported part, from class counts alone."""
    plan, counts = data.plan, data.groups.counts(data.manifest)
    outer = 1 / (folds or plan.folds) if folds or plan.split == "folds" else plan.holdout_fraction
    if plan.split == "given" and not folds and "split" in data.manifest.table:
        given = data.manifest.table["split"].to_numpy(object)
        outer = float(np.mean(given != "train"))
    inner = (1 - outer) * plan.inner_fraction if plan.protocol == "honest" else 0.0
    left = counts * (1 - outer - inner) / (1 - data.groups.rehearsal)
    if data.transform_where == "doubled":
        left = left * 2
    elif plan.n_min is not None:
        largest = float(left.max())
        target = largest if plan.n_min == "max" else plan.n_min * (largest if isinstance(plan.n_min, float) else 1)
        left = np.maximum(left, target)
    selected_on = outer if plan.protocol == "paper" else inner
    return int(left.sum()), int(float(counts.sum()) * selected_on), int(len(data.manifest) * outer)
