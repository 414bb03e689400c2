"""Runs a study's cells stage by stage as a queue that workers share, under one MLflow run, and writes the report."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import TrialState
from tqdm import tqdm

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.backbones import best_device, describe_device
from lightning_modules.config import Options, RunConfig, data_module
from lightning_modules.training import FORWARD, STARTUP, duration, note_other_code, prepare, seconds_an_image
from results.reports.tables import as_text
from results.tracking import store
from results.tracking.logger import TrackingLogger
from results.tracking.runs import find_runs, has_store
from sweeps.search import work_together
from sweeps.studies.analysis import Circumstances, Outcomes
from sweeps.studies.report import write_report
from sweeps.studies.schema import Cell, Protocol, Scale, Study, cell_config
from sweeps.workers import (
    ENQUEUED,
    ERROR,
    address,
    enqueue,
    once_each,
    open_storage,
    quiet,
    require_one_device,
    require_one_worker,
)


def study_key(study: Study, scale: Scale, protocol: Protocol, configs: Mapping[str, RunConfig], content: str) -> str:
    """Return the key of a study, under which every worker finds it.

    Args:
        study: the study; its cells count by the identity of their configs, so an edited recipe makes another study.
        scale: tiny, small or paper.
        protocol: honest or paper.
        configs: the config of each cell.
        content: hash of the images.
    """
    experiment = next(iter(configs.values())).run["experiment"]
    cells = [
        [cell.name, configs[cell.name].identity(), cell.folds, cell.chosen, cell.start_from, dict(cell.frozen)]
        for cell in study.cells
    ]
    text = json.dumps([study.name, scale, protocol, experiment, content, cells])
    return f"{study.name}-{scale}-{protocol}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def cell_configs(study: Study, given: Options) -> dict[str, RunConfig]:
    """Return the config of each cell; a fixed transform stands for those that are chosen later."""
    return {cell.name: cell_config(cell, given, ["rotation"]) for cell in study.cells}


def check_study(study: Study, configs: Mapping[str, RunConfig]) -> EmotionDataModule:
    """Return the data of a study's first cell; reads the tables of images, opens no image.

    Raises:
        InputError: A cell's options do not go together, or a cell wants the given split of data that bring none.
    """
    first: dict[str, EmotionDataModule] = {}
    for cell in study.cells:
        config = configs[cell.name]
        marks, epochs = cell.frozen.get("marks", []), config.trainer["max_epochs"]
        if marks and epochs != max(marks):
            msg = (
                f"--trainer.max_epochs: study {study.name} reads its tables off {', '.join(map(str, marks))} epochs, "
                f"got {epochs}; leave the option out"
            )
            raise InputError(msg)
        if cell.folds:
            config = config.override({"data.split": "folds", "data.folds": cell.folds, "data.fold": 0})
        data = data_module(config)
        data.share(first.setdefault(f"{data.source} {data.read_options}", data))
        if data.plan.split == "given" and "split" not in data.manifest.table:
            msg = (
                f"--data: study {study.name} reports on the test images that a data set brings, and "
                f"{data.manifest.name} has no train/ and test/ folders nor a split column; to set some of its images "
                "aside add --data.split holdout --data.holdout_fraction 0.2"
            )
            raise InputError(msg)
    return next(iter(first.values()))


TASK = "sweeps.studies.run:run_cell"
KEY = "study_key"  # tag of a study's run, by which every worker finds it


class Conduct:
    """One study at one scale, by one protocol, on one data set.

    Notes:
        The same study with the same options and images is one Optuna study and one MLflow run, whoever starts it and
        how often: what has finished is not run again, what failed is tried anew, other options begin another study.
    """

    def __init__(
        self,
        study: Study,
        scale: Scale,
        protocol: Protocol,
        given: Options = Options(),  # noqa: B008 - frozen
        storage: str | None = None,
        only_cells: list[str] | None = None,
        workers: int = 1,
    ) -> None:
        require_one_worker(address(storage), workers)
        self.study, self.scale, self.protocol, self.given = study, scale, protocol, given
        self.configs = self._resolved()
        self._url, self._workers = storage, workers
        self._only_cells = only_cells

    def _resolved(self) -> dict[str, RunConfig]:
        """Return the config of each cell."""
        return cell_configs(self.study, self.given)

    @cached_property
    def key(self) -> str:
        """Name of the study, by which every worker finds it; the images are decoded for it.

        Raises:
            InputError: Options or data that no cell could run with.
        """
        return study_key(self.study, self.scale, self.protocol, self.configs, self._content())

    def _content(self) -> str:
        """Return the hash of the images."""
        data = check_study(self.study, self.configs)
        prepare(data)
        return data.content_hash

    def run(self, *, only_report: bool = False) -> dict[str, str]:
        """Run what has not finished, write the report, and return why which cells failed.

        Raises:
            InputError: Options or data that no cell could run with, nothing to report on.
        """
        for config in self.configs.values():
            require_one_device(config, "a study")
        parent = None
        if only_report:
            parent = self._known()
            if parent is None:
                msg = f"--report: study {self.key} has not begun here with these options; run it without --report first"
                raise InputError(msg)
        else:
            _ = self.key  # wrong options or data make no store
            store.open_client()  # makes the embedded store; of workers that start at once one does, the others wait
        storage = open_storage(self._url)
        with quiet():
            queue = optuna.create_study(
                study_name=self.key, storage=storage, direction=StudyDirection.MAXIMIZE, load_if_exists=True
            )
        if parent is None:
            parent = self._parent()
        chosen: list[str] = []
        wanted = [cell for cell in self.study.cells if self._only_cells is None or cell.name in self._only_cells]
        for stage in self.study.stages:
            cells = [cell.name for cell in wanted if cell.stage == stage]
            if stage and self.study.choice:
                outcomes = Outcomes.of_parent(parent, self._failed(queue))
                made = all(outcomes.of(cell) for cell in self.study.choice.cells.values())
                if made or (not only_report and any(self.study.cell(name).chosen for name in cells)):
                    chosen = outcomes.choose(self.study.choice, self.protocol)
            if only_report or not cells:
                continue
            enqueue(queue, self._todo(queue, parent, cells), retry_failed=True)
            work_together(self.key, address(self._url), TASK, self._settings(parent), self._workers)
        return self._report(queue, parent, chosen)

    def _todo(self, queue: optuna.Study, parent: str, cells: list[str]) -> list[dict[str, Any]]:
        """Return the cells, with each seed, that have no finished run below the study's run.

        It is the runs that count, not the trials: another storage may have been used before, and a run whose trial is
        complete may have been deleted since.
        """
        with quiet():
            complete = Counter(
                (trial.user_attrs[ENQUEUED]["cell"], trial.user_attrs[ENQUEUED]["seed"])
                for trial in once_each(queue)
                if trial.state == TrialState.COMPLETE and trial.user_attrs.get(ENQUEUED, {}).get("parent") == parent
            )
        done = {(run.cell, run.seed) for run in Outcomes.of_parent(parent).runs}
        left = [(name, seed) for seed in self.study.seeds for name in cells if (name, seed) not in done]
        return [{"cell": name, "seed": seed, "parent": parent, "attempt": complete[name, seed]} for name, seed in left]

    def _settings(self, parent: str) -> dict[str, Any]:
        return {
            "study": self.study.name,
            "scale": self.scale,
            "protocol": self.protocol,
            "parent": parent,
            "configs": {name: config.as_dict() for name, config in self.configs.items()},
        }

    def _parent(self) -> str:
        """Return the study's run; of two that were made at the same moment the earlier one counts."""
        if found := self._known():
            note_other_code(found)
            return found
        made = TrackingLogger(
            experiment=self._experiment(),
            run_name=self.key,
            system_metrics=False,
            tags={
                "kind": "study",
                "study": self.study.name,
                "scale": self.scale,
                "protocol": self.protocol,
                KEY: self.key,
                "identity": self.key,
            },
        )
        made.open()
        made.log_text(json.dumps({"key": self.key, "options": self.given.words()}, indent=2), "study.json")
        made.close()
        first = self._known() or str(made.run_id)
        if first != made.run_id:
            store.open_client(store.DIRECTORY, store.tracking_uri(store.DIRECTORY)).delete_run(str(made.run_id))
        return first

    def _known(self) -> str | None:
        if not has_store():
            return None
        found = find_runs(where=f"tags.{KEY} = '{self.key}'")
        return str(found.sort_values(["start", "run_id"]).iloc[0]["run_id"]) if len(found) else None

    def _experiment(self) -> str:
        return str(next(iter(self.configs.values())).run["experiment"])

    def _data(self) -> str:
        """Return the name of the data set; where it lies is nobody's business on a page."""
        config = next(iter(self.configs.values()))
        source = str(config.data["source"])
        return source if source.startswith("drawn") else config.data_name

    def _failed(self, queue: optuna.Study) -> dict[str, str]:
        """Return why which cells failed, unless a later attempt finished."""
        states: dict[tuple[str, int], str | None] = {}
        with quiet():
            trials = once_each(queue)
        for trial in trials:
            wanted = trial.user_attrs.get(ENQUEUED, {})
            if trial.state.is_finished() and wanted:
                failed = trial.state != TrialState.COMPLETE
                key = wanted["cell"], wanted["seed"]
                states[key] = trial.user_attrs.get(ERROR, trial.state.name) if failed else None
        return {name: reason for (name, _), reason in states.items() if reason is not None}

    def _report(self, queue: optuna.Study, parent: str, chosen: list[str]) -> dict[str, str]:
        failed = self._failed(queue)
        outcomes = Outcomes.of_parent(parent, failed)
        client = store.open_client(store.DIRECTORY, store.tracking_uri(store.DIRECTORY), only_reading=True)
        now = Circumstances(
            self.scale,
            self.protocol,
            self._data(),
            tuple(self.given.words()),
            str(client.get_run(parent).info.experiment_id),
            parent,
            tuple(chosen),
        )
        folder = Path(store.DIRECTORY, "reports", self.key)
        paths = write_report(self.study, outcomes, now, folder)
        tracker = TrackingLogger(run_id=parent, system_metrics=False)
        for path in paths:
            tracker.log_file(path, f"report/{path.parent.relative_to(folder)}".rstrip("./"))
        tracker.finalize("failed" if failed else "success")
        for path in paths[:3]:
            print(path)
        print(f"the study's run: {parent} (to view it: emotion ui)")
        return failed


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
    trained, val, test = _sizes(data, cell.folds)
    repeats = len(study.seeds)
    if study.task == "frozen":  # every picture once through the network for all cells; heads cost little
        return Cost(cell.stage, repeats, 0, 0, repeats * (STARTUP + epochs * trained / 1e4))
    key = f"{config.model['backbone']} {config.data['size']} {config.data['batch_size']}"
    if key not in speed:
        speed[key] = seconds_an_image(config)
    per_picture = speed[key]
    learnt, seen = runs * epochs * trained, runs * (epochs * val + test)
    seconds = runs * STARTUP + per_picture * (learnt + seen / FORWARD)
    return Cost(cell.stage, repeats * runs, repeats * learnt, repeats * seen, repeats * seconds)


def _sizes(data: EmotionDataModule, folds: int) -> tuple[int, int, int]:
    """Return pictures of an epoch, of the part selected on and of the reported part, from class counts alone."""
    plan, counts = data.plan, data.groups.counts(data.manifest)
    test = 1 / (folds or plan.folds) if folds or plan.split == "folds" else plan.holdout_fraction
    if plan.split == "given" and not folds and "split" in data.manifest.table:
        given = data.manifest.table["split"].to_numpy(object)
        test = float(np.mean(given != "train"))
    val = (1 - test) * plan.inner_fraction if plan.protocol == "honest" else 0.0
    left = counts * (1 - test - val) / (1 - data.groups.rehearsal)
    if data.transform_where == "doubled":
        left = left * 2
    elif plan.n_min is not None:
        largest = float(left.max())
        target = largest if plan.n_min == "max" else plan.n_min * (largest if isinstance(plan.n_min, float) else 1)
        left = np.maximum(left, target)
    selected_on = test if plan.protocol == "paper" else val
    return int(left.sum()), int(float(counts.sum()) * selected_on), int(len(data.manifest) * test)
