"""One cell of a study with one seed: trains it, and keeps with its run what the study's report needs."""

from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from datamodules.errors import InputError
from lightning_modules.backbones import build_backbone
from lightning_modules.config import RunConfig
from lightning_modules.heads import build_head
from lightning_modules.run import MONITOR
from lightning_modules.training import RunResult, train
from results.predictions import PREDICTIONS, classes_of
from results.tracking import store
from results.tracking.logger import TrackingLogger
from results.tracking.runs import children, load_table, run_config
from sweeps.cross_validation import cross_validate, end_lost_run_of
from sweeps.studies import build_study
from sweeps.studies.analysis import CELL, CURVES, INNER, SEED, Outcomes
from sweeps.studies.frozen_features import run_frozen
from sweeps.studies.schema import Cell
from sweeps.workers import ENQUEUED


def run_cell(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Run what a trial stands for; return macro F1 on the part that is selected on.

    Args:
        trial: holds the cell's name and the seed.
        settings: study, scale, protocol, parent (run id), configs (plain data, by cell).

    Notes:
        Chosen transforms are read from what has finished, not handed over: a worker that waits for others in one stage
        takes cells of the next before it is there itself.
    """
    wanted = trial.user_attrs[ENQUEUED]
    study = build_study(settings["study"], settings["scale"], settings["protocol"])
    cell, seed = study.cell(wanted["cell"]), int(wanted["seed"])
    name = f"{cell.name} seed {seed}"
    end_lost_run_of(settings["parent"], name)
    changes: dict[str, Any] = {"seed_everything": seed, "run.parent": settings["parent"], "run.name": name}
    if cell.chosen and study.choice:
        chosen = Outcomes.of_parent(settings["parent"]).choose(study.choice, settings["protocol"])
        changes["data.transforms"] = chosen
    if cell.start_from:
        changes["run.start_from"] = _started_from(cell, seed, settings["parent"])
    config = RunConfig.from_dict(settings["configs"][cell.name]).override(changes)
    if study.task == "frozen":
        run_id, numbers = run_frozen(config, cell)
    elif cell.folds:
        run_id, numbers = _folds(config, cell)
    else:
        run_id, numbers = _one_division(config)
    if study.task == "fit":
        numbers |= complexity(run_config(run_id), len(classes_of(load_table(run_id, PREDICTIONS))))
    keep(run_id, numbers, {CELL: cell.name, SEED: str(seed), "study": study.name, "kind": "cell"})
    trial.set_user_attr("run_id", run_id)
    return numbers[INNER]


def _started_from(cell: Cell, seed: int, parent: str) -> str:
    """Return the run of the cell that this one goes on from.

    Raises:
        InputError: It has not finished.
    """
    for one in Outcomes.of_parent(parent).of(str(cell.start_from)):
        if one.seed == seed:
            return one.run_id
    msg = (
        f"cell {cell.name}: goes on from {cell.start_from!r} with seed {seed}, which has not finished; run the study "
        "again, and what failed is tried anew first"
    )
    raise InputError(msg)


def keep(run_id: str, numbers: dict[str, float], tags: dict[str, str], curves: pd.DataFrame | None = None) -> None:
    """Add numbers, tags and curves to a run that has ended."""
    tracker = TrackingLogger(run_id=run_id, system_metrics=False)
    tracker.log_metrics(numbers)
    if curves is not None:
        tracker.log_table(curves, CURVES)
    tracker.set_tags(tags)  # last: they say that the cell is done
    tracker.finalize("success")


def _one_division(config: RunConfig) -> tuple[str, dict[str, float]]:
    done = train(config)
    assert done is not None  # a trial is one process
    curves = done.curves
    long = [pd.DataFrame({"name": key, "step": curve.index, "value": curve.values}) for key, curve in curves.items()]
    keep(done.run_id, {}, {}, pd.concat(long, ignore_index=True))
    return done.run_id, {INNER: float(curves[MONITOR].max()), **training_scores(done)}


def _folds(config: RunConfig, cell: Cell) -> tuple[str, dict[str, float]]:
    run = config.run
    done = cross_validate(
        config, folds=cell.folds, seeds=[config.seed_everything], above=run["parent"], name=run["name"]
    )
    assert done is not None  # a trial is one process
    client = store.open_client(store.DIRECTORY, store.tracking_uri(store.DIRECTORY), only_reading=True)
    best = [
        max(one.value for one in client.get_metric_history(str(run_id), MONITOR))
        for run_id in children(done.run_id)["run_id"]
    ]
    return done.run_id, {INNER: float(np.mean(best))}


def training_scores(done: RunResult) -> dict[str, float]:
    """Return the accuracy of the kept weights on the training pictures as they are, each once."""
    data, model = done.data, done.model.eval()  # Lightning gives it back in training mode
    right = total = 0
    for batch in data.evaluation_loader(data.fold_rows.train):
        with torch.inference_mode():
            found = model.probabilities(batch["image"].to(model.device)).argmax(1).cpu()
        right, total = right + int((found == batch["label"]).sum()), total + len(found)
    return {"train/accuracy": right / total}


def complexity(config: dict[str, Any], classes: int) -> dict[str, float]:
    """Return the parameters of a run's network, and the FLOPs of one picture through it (a multiply-add is two)."""
    model, data = config["model"], config["data"]
    backbone, features, _ = build_backbone(model["backbone"], "none")
    head = build_head(model.get("head", "linear"), features, classes, width=model.get("head_width"))
    network = torch.nn.Sequential(backbone, head).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network(torch.zeros(1, 3, data["size"], data["size"]))
    parameters = sum(one.numel() for one in network.parameters())
    return {"model/parameters": float(parameters), "model/flops": float(counter.get_total_flops())}
