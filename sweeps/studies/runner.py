"""Run the experiments of a study, resumable and shared between workers, and write its report."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.study import StudyDirection
from optuna.trial import TrialState
from tqdm import tqdm

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.face_boxes import BoxesDataModule
from datamodules.sampling import EpochBatchSampler
from datamodules.splits.protocol import DivisionPlan
from lightning_modules.backbones import best_device, build_backbone, build_head, describe_device
from lightning_modules.config import MONITOR, Kind, Options, RunConfig, data_module
from lightning_modules.limits import require_whole_runs
from lightning_modules.training import (
    FORWARD,
    STARTUP,
    RunResult,
    duration,
    limited_steps,
    planned_epochs,
    prepare,
    seconds_an_image,
    train,
)
from results.predictions import PREDICTIONS, SPLIT, classes_of
from results.reports.tables import as_text
from results.tracking import store
from results.tracking.logger import TrackingLogger
from results.tracking.runs import children, find_runs, has_store, load_table, run_checkpoint, run_config, run_row
from sweeps.cross_validation import cross_validate, end_stale_run, record_resume
from sweeps.search import count_flops
from sweeps.studies import build_study, detection
from sweeps.studies.adjusted import run_adjusted
from sweeps.studies.analysis import CELL, CELL_TASK, CURVES, INNER, SEED, Outcome, Outcomes, RunContext, best_epoch
from sweeps.studies.frozen_features import run_frozen
from sweeps.studies.report import write_report
from sweeps.studies.schema import Cell, Protocol, Scale, Study, cell_config
from sweeps.workers import (
    ENQUEUED,
    ERROR,
    address,
    distinct_trials,
    enqueue,
    open_storage,
    quiet,
    require_one_device,
    require_one_worker,
    work_together,
)

TASK = "sweeps.studies.runner:run_cell"
KEY = "study_key"  # tag of a study's run, by which every worker finds it
CHOSEN = "chosen"  # tag of a study's run: the transforms that its later cells use
OUTCOMES: dict[Kind, type[Outcome]] = {"emotion": Outcome, "detector": detection.DetectorOutcome}


def study_key(study: Study, scale: Scale, protocol: Protocol, configs: Mapping[str, RunConfig], content: str) -> str:
    """Return the key of a study, under which every worker finds it.

    Args:
        study: The study; its cells count by the identity of their configs, so an edited recipe makes another study.
        scale: tiny, small or paper.
        protocol: honest or paper.
        configs: Config of each cell.
        content: Hash of the images.
    """
    experiment = next(iter(configs.values())).run["experiment"]
    cells = []
    for cell in study.cells:
        parts = [cell.name, configs[cell.name].identity(), cell.folds, cell.chosen, cell.start_from, dict(cell.frozen)]
        later = [cell.new_head, cell.adjustment, cell.steps_of]  # left out if unused, so that keys stay the same
        cells.append([*parts, *(later if any(later) else [])])
    text = json.dumps([study.name, scale, protocol, experiment, content, cells])
    return f"{study.name}-{scale}-{protocol}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def cell_configs(study: Study, given: Options) -> dict[str, RunConfig]:
    """Return the config of each cell; a fixed transform stands for those that are chosen later."""
    return {cell.name: cell_config(cell, given, ["rotation"]) for cell in study.cells}


def check_study(
    study: Study, configs: Mapping[str, RunConfig], known: dict[str, EmotionDataModule] | None = None
) -> list[Any]:
    """Return the data modules whose images identify a study; reads tables of images, opens no image of a classifier.

    Args:
        study: The study.
        configs: Config of each cell.
        known: Data modules by `_images`, whose lists of images have been read; new ones are added.

    Raises:
        InputError: A cell's options do not go together, or a cell needs the given split of data that have none.
    """
    if study.cells[0].kind == "detector":
        return [_divided_boxes(config) for config in configs.values()]
    modules: list[EmotionDataModule] = []
    for cell, data in _cell_data(study, configs, known):
        config = configs[cell.name]
        require_whole_runs(config, "a study")
        marks, epochs = cell.frozen.get("marks", []), config.trainer["max_epochs"]
        if marks and epochs != max(marks):
            msg = (
                f"--trainer.max_epochs: study {study.name} reports accuracy after {', '.join(map(str, marks))} epochs, "
                f"got {epochs}; leave the option out"
            )
            raise InputError(msg)
        modules.append(data)
        if data.plan.split == "given" and "split" not in data.manifest.table:
            msg = (
                f"--data: study {study.name} needs a data set with its own test part, and {data.manifest.name} has "
                "no train/ and test/ folders nor a split column; to hold out some of its images add --data.split "
                "holdout --data.holdout_fraction 0.2"
            )
            raise InputError(msg)
    return modules[:1]


def _cell_data(
    study: Study, configs: Mapping[str, RunConfig], known: dict[str, EmotionDataModule] | None = None
) -> Iterator[tuple[Cell, EmotionDataModule]]:
    """Yield each cell of a study of classifiers with its data module; each list of images is read once."""
    known = {} if known is None else known
    for cell in study.cells:
        folds = {"data.split": "folds", "data.folds": cell.folds, "data.fold": 0} if cell.folds else {}
        data = data_module(configs[cell.name].override(folds))
        data.share(known.setdefault(_images(data), data))
        yield cell, data


def _images(data: EmotionDataModule) -> str:
    """Return what names the list of images of a data module."""
    return f"{data.source} {data.read_options}"


def indivisible(
    study: Study,
    configs: Mapping[str, RunConfig],
    only: Sequence[str] | None = None,
    known: dict[str, EmotionDataModule] | None = None,
) -> dict[str, str]:
    """Return the cells whose images cannot be divided as the cell asks, such as with a class of one image, and why.

    No image is opened, so every image counts, also a duplicate.

    Args:
        study: The study.
        configs: Config of each cell.
        only: Cells that are to be run; by default all.
        known: As in `check_study`.

    Raises:
        InputError: No cell can be run; the reason is that of the first.
    """
    if study.cells[0].kind == "detector":
        return {}  # their data modules are divided when they are checked
    chosen = [cell.name for cell in study.cells if only is None or cell.name in only]
    reasons: dict[tuple[str, DivisionPlan], str] = {}
    found = {}
    for cell, data in _cell_data(study, configs, known):
        if cell.name not in chosen:
            continue
        if (key := (_images(data), data.plan)) not in reasons:
            reasons[key] = ""
            try:
                data.plan.divide(data.manifest, np.arange(len(data.manifest)))
            except InputError as error:
                reasons[key] = str(error)
        if reasons[key]:
            found[cell.name] = reasons[key]
    if found and len(found) == len(chosen):
        raise InputError(next(iter(found.values())))
    return found


def _divided_boxes(config: RunConfig) -> BoxesDataModule:
    data = BoxesDataModule(**config.data)
    prepare(data)
    data.setup("fit")  # a part without faces is refused before anything runs
    return data


class StudyRunner:
    """One study at one scale, by one protocol, on one data set.

    Notes:
        The same study with the same options and images is one Optuna study and one MLflow run, whoever starts it and
        how often: finished cells are not run again, failed ones are, and other options start another study.
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
        """Resolve the config of every cell.

        Args:
            study: The study.
            scale: tiny, small or paper.
            protocol: honest or paper.
            given: Options of the user, for every cell.
            storage: Address of Optuna's storage; None: $OPTUNA_STORAGE, or else the embedded file.
            only_cells: Names of the cells to run; None: all.
            workers: Processes on this machine.

        Raises:
            InputError: Several workers on a SQLite file, or wrong options.
        """
        require_one_worker(address(storage), workers)
        self.study, self.scale, self.protocol, self.given = study, scale, protocol, given
        self.configs = cell_configs(study, given)
        self._url, self._workers = storage, workers
        self._only_cells = only_cells

    @cached_property
    def key(self) -> str:
        """Name of the study, by which every worker finds it; the images are decoded for it.

        Raises:
            InputError: Options or data that no cell could run with.
        """
        contents = []
        for data in check_study(self.study, self.configs):
            prepare(data)
            contents.append(data.content_hash)
        content = contents[0] if len(contents) == 1 else hashlib.sha256("".join(contents).encode()).hexdigest()
        return study_key(self.study, self.scale, self.protocol, self.configs, content)

    def run(self, *, only_report: bool = False) -> dict[str, str]:
        """Run the cells that have not finished, write the report, and return the reason for each failed cell.

        Raises:
            InputError: Options or data that no cell could run with, nothing to report on.
        """
        for config in self.configs.values():
            require_one_device(config, "a study")
        parent = None
        if only_report:
            parent = self.find_parent()
            if parent is None:
                msg = (
                    f"--report: study {self.key} has not been started here with these options; leave --report out first"
                )
                raise InputError(msg)
        else:
            indivisible(self.study, self.configs, self._only_cells)
            _ = self.key  # wrong options or data make no store
            store.open_client()  # makes the embedded store; of workers that start at once one does, the others wait
        storage = open_storage(self._url)
        with quiet():
            queue = optuna.create_study(
                study_name=self.key, storage=storage, direction=StudyDirection.MAXIMIZE, load_if_exists=True
            )
        if parent is None:
            parent = self.open_parent()
        chosen: list[str] = []
        selected = [cell for cell in self.study.cells if self._only_cells is None or cell.name in self._only_cells]
        for stage in self.study.stages:
            cells = [cell.name for cell in selected if cell.stage == stage]
            if stage and self.study.choice:
                outcomes = Outcomes.of_parent(parent, self._failed(queue))
                complete = all(outcomes.of(cell) for cell in self.study.choice.cells.values())
                if complete or (not only_report and any(self.study.cell(name).chosen for name in cells)):
                    chosen = self._choose(parent, outcomes)
            if only_report or not cells:
                continue
            enqueue(queue, self._unfinished(queue, parent, cells), retry_failed=True)
            work_together(self.key, address(self._url), TASK, self.settings(parent), self._workers)
            while enqueue(queue, self._unfinished(queue, parent, cells)):  # stopped too often before
                work_together(self.key, address(self._url), TASK, self.settings(parent), self._workers)
        return self._report(queue, parent, chosen)

    def _choose(self, parent: str, outcomes: Outcomes) -> list[str]:
        """Return the chosen transforms; those of the first time, since cells may have been run with them."""
        assert self.study.choice is not None
        client = store.open_client()
        if (known := client.get_run(parent).data.tags.get(CHOSEN)) is not None:
            return list(json.loads(known))
        chosen = outcomes.choose(self.study.choice, self.protocol)
        client.set_tag(parent, CHOSEN, json.dumps(chosen))
        return chosen

    def _unfinished(self, queue: optuna.Study, parent: str, cells: list[str]) -> list[dict[str, Any]]:
        """Return the cells, with each seed, that have no finished run below the study's run.

        Runs are counted, not trials: another storage may have been used before, and the run of a complete trial may
        have been deleted.
        """
        with quiet():
            complete = Counter(
                (trial.user_attrs[ENQUEUED]["cell"], trial.user_attrs[ENQUEUED]["seed"])
                for trial in distinct_trials(queue)
                if trial.state == TrialState.COMPLETE and trial.user_attrs.get(ENQUEUED, {}).get("parent") == parent
            )
        done = {(run.cell, run.seed) for run in Outcomes.of_parent(parent).runs}
        left = [(name, seed) for seed in self.study.seeds for name in cells if (name, seed) not in done]
        return [{"cell": name, "seed": seed, "parent": parent, "attempt": complete[name, seed]} for name, seed in left]

    def settings(self, parent: str) -> dict[str, Any]:
        """Return what `run_cell` needs besides its trial: study, scale, protocol, run id of the study, configs."""
        return {
            "study": self.study.name,
            "scale": self.scale,
            "protocol": self.protocol,
            "parent": parent,
            "configs": {name: config.as_dict() for name, config in self.configs.items()},
        }

    def open_parent(self) -> str:
        """Return the study's run; of two that were created at the same time the earlier one is used."""
        if known := self.find_parent():
            record_resume(known)
            return known
        created = TrackingLogger(
            experiment=self._experiment,
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
        created.open()
        created.log_text(json.dumps({"key": self.key, "options": self.given.words()}, indent=2), "study.json")
        created.close()
        first = self.find_parent() or str(created.run_id)
        if first != created.run_id:
            store.open_client().delete_run(str(created.run_id))
        return first

    def find_parent(self) -> str | None:
        """Return the id of the study's run, None if the study was not started."""
        if not has_store():
            return None
        runs = find_runs(where=f"tags.{KEY} = '{self.key}'")
        return str(runs.sort_values(["start", "run_id"]).iloc[0]["run_id"]) if len(runs) else None

    @property
    def _experiment(self) -> str:
        return str(next(iter(self.configs.values())).run["experiment"])

    @property
    def _data_name(self) -> str:
        """Name of the data set, without its folder; of several that of the last cell."""
        config = list(self.configs.values())[-1]
        source = str(config.data["source"])
        return source if source.startswith(("drawn", "scenes")) else config.data_name

    def _failed(self, queue: optuna.Study) -> dict[str, str]:
        """Return the reason for each failed cell, unless a later attempt finished."""
        states: dict[tuple[str, int], str | None] = {}
        with quiet():
            trials = distinct_trials(queue)
        for trial in trials:
            queued = trial.user_attrs.get(ENQUEUED, {})
            if trial.state.is_finished() and queued:
                failed = trial.state != TrialState.COMPLETE
                key = queued["cell"], queued["seed"]
                states[key] = trial.user_attrs.get(ERROR, trial.state.name) if failed else None
        return {name: reason for (name, _), reason in states.items() if reason is not None}

    def _report(self, queue: optuna.Study, parent: str, chosen: list[str]) -> dict[str, str]:
        failed = self._failed(queue)
        outcomes = Outcomes.of_parent(parent, failed, OUTCOMES[self.study.cells[0].kind])
        client = store.open_client(only_reading=True)
        context = RunContext(
            self.scale,
            self.protocol,
            self._data_name,
            tuple(self.given.words()),
            str(client.get_run(parent).info.experiment_id),
            parent,
            tuple(chosen),
        )
        folder = Path(store.DIRECTORY, "reports", self.key)
        line = f"report of {len(outcomes)} finished runs: tests of {len(self.study.claims)} claims and intervals ..."
        print(line, file=sys.stderr, flush=True)  # they take minutes on a busy machine
        seeds = sorted({run.seed for run in outcomes.runs})  # also those of earlier commands
        study = replace(self.study, seeds=tuple(seeds)) if seeds else self.study
        paths = write_report(study, outcomes, context, folder)
        for path in paths[:3]:
            print(path, flush=True)  # written, whatever becomes of the copies below
        tracker = TrackingLogger(run_id=parent, system_metrics=False)
        for path in paths:
            tracker.log_file(path, f"report/{path.parent.relative_to(folder)}".rstrip("./"))
        lead = Path(folder, "report.md").read_text(encoding="utf-8").partition("\n## ")[0].strip()
        note = f"{lead}\n\nTables, claims and figures: report/report.html among the artifacts of this run."
        tracker.set_tags({"mlflow.note.content": note})
        tracker.finalize("failed" if failed else "success")
        print(f"the study's run: {parent} (to view it: emotion ui)")
        return failed


def run_cell(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Run one cell with one seed, and store with its run what the study's report needs.

    Args:
        trial: Names the cell and the seed.
        settings: From `StudyRunner.settings`.

    Returns:
        Macro F1 on the val part, of a detector mAP@.5.

    Notes:
        Chosen transforms are read from the study's run and are not in the settings, since a worker may take cells of
        the next stage while it still waits for the last cells of its own stage.
    """
    queued, parent = trial.user_attrs[ENQUEUED], settings["parent"]
    study = build_study(settings["study"], settings["scale"], settings["protocol"])
    cell, seed = study.cell(queued["cell"]), int(queued["seed"])
    name = f"{cell.name} seed {seed}"
    end_stale_run(parent, name)
    changes: dict[str, Any] = {"seed_everything": seed, "run.parent": parent, "run.name": name}
    if cell.chosen and study.choice:
        changes["data.transforms"] = json.loads(run_row(parent)[f"tags.{CHOSEN}"])
    if cell.start_from:
        start = _earlier_run(cell, cell.start_from, seed, parent)
        changes |= {"model.weights": str(run_checkpoint(start))} if cell.new_head else {"run.start_from": start}
    if cell.steps_of:
        own, limit = settings["configs"][cell.name], "limit_train_batches"
        steps = epoch_steps(_earlier_run(cell, cell.steps_of, seed, parent), own["data"]["batch_size"])
        changes[f"trainer.{limit}"] = limited_steps(steps, own["trainer"].get(limit))
    configs = {of: RunConfig.from_dict(config, study.cell(of).kind) for of, config in settings["configs"].items()}
    config, objective = configs[cell.name].override(changes), INNER
    if cell.task == "frozen":
        run_id, numbers = run_frozen(config, cell)
    elif cell.task == "adjust":
        run_id, numbers = run_adjusted(config, cell)
    elif cell.task == "detector":
        run_id, numbers = detection.run_detector(config, configs[cell.test_on] if cell.test_on else None)
        objective = detection.BEST_MAP
    elif cell.folds:
        run_id, numbers = _run_folds(config, cell)
    else:
        run_id, numbers = _run_once(config)
    if cell.task == "fit":
        numbers |= complexity(run_config(run_id), len(classes_of(load_table(run_id, PREDICTIONS))))
    tags = {CELL: cell.name, SEED: str(seed), "study": study.name, CELL_TASK: cell.task}
    add_to_run(run_id, numbers, tags if cell.folds else tags | {"kind": "cell"})  # others look for cross-validations
    trial.set_user_attr("run_id", run_id)
    return numbers[objective]


def _earlier_run(cell: Cell, name: str, seed: int, parent: str) -> str:
    """Return the run of an earlier cell, with the same seed, that a cell needs.

    Raises:
        InputError: It has not finished.
    """
    for outcome in Outcomes.of_parent(parent).of(name):
        if outcome.seed == seed:
            return outcome.run_id
    msg = (
        f"cell {cell.name}: starts from {name!r} with seed {seed}, which has not finished; run the study again, "
        "failed cells are retried first"
    )
    raise InputError(msg)


def epoch_steps(run_id: str, batch_size: int) -> int:
    """Return the number of steps of an epoch of a finished run."""
    rows = int((load_table(run_id, SPLIT)["role"] == "train").sum())
    return len(EpochBatchSampler(rows, batch_size, seed=0))


def add_to_run(
    run_id: str, numbers: dict[str, float], tags: dict[str, str], curves: pd.DataFrame | None = None
) -> None:
    """Add numbers, tags and curves to a run that has ended."""
    tracker = TrackingLogger(run_id=run_id, system_metrics=False)
    tracker.log_metrics(numbers)
    if curves is not None:
        tracker.log_table(curves, CURVES)
    tracker.set_tags(tags)  # last: they say that the cell is done
    tracker.finalize("success")


def _run_once(config: RunConfig) -> tuple[str, dict[str, float]]:
    done = train(config)
    assert done is not None  # a trial is one process
    curves = done.curves
    long = [pd.DataFrame({"name": key, "step": curve.index, "value": curve.values}) for key, curve in curves.items()]
    add_to_run(done.run_id, {}, {}, pd.concat(long, ignore_index=True))
    return done.run_id, {INNER: float(curves[MONITOR].max()), **training_scores(done)}


def _run_folds(config: RunConfig, cell: Cell) -> tuple[str, dict[str, float]]:
    run = config.run
    done = cross_validate(
        config, folds=cell.folds, seeds=[config.seed_everything], study_id=run["parent"], name=run["name"]
    )
    assert done is not None  # a trial is one process
    best = [best_epoch(str(run_id), MONITOR) for run_id in children(done.run_id)["run_id"]]
    return done.run_id, {INNER: float(np.mean(best))}


def training_scores(done: RunResult) -> dict[str, float]:
    """Return the accuracy of the selected weights on the images of the train part as they are, each once."""
    data, model = done.data, done.model.eval()  # Lightning gives it back in training mode
    right = total = 0
    for batch in data.evaluation_loader(data.fold_rows.train):
        with torch.inference_mode():
            predicted = model.probabilities(batch["image"].to(model.device)).argmax(1).cpu()
        right, total = right + int((predicted == batch["label"]).sum()), total + len(predicted)
    return {"train/accuracy": right / total}


def complexity(config: dict[str, Any], classes: int) -> dict[str, float]:
    """Return the parameters of a run's network, and the FLOPs of one image through it (a multiply-add is two)."""
    model, size = config["model"], config["data"]["size"]
    stem = model.get("stem_stride")
    backbone, features, _ = build_backbone(model["backbone"], "none", size=size, stem_stride=stem)
    head = build_head(model.get("head", "linear"), features, classes, width=model.get("head_width"))
    network = torch.nn.Sequential(backbone, head)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"model/parameters": float(parameters), "model/flops": count_flops(network, size)}


@dataclass(frozen=True)
class Cost:
    """Cost of one cell with all its seeds: runs, images trained on and evaluated (over all epochs), seconds."""

    stage: int
    runs: int
    trained: int
    evaluated: int
    seconds: float


def estimate(study: Study, given: Options, only_cells: list[str] | None = None) -> str:
    """Return the estimated cost of all cells or some of them as text; opens no image and stores nothing.

    The images of a detector's study are opened, since their boxes divide them.
    """
    configs, data = cell_configs(study, given), dict[str, EmotionDataModule]()
    if study.cells[0].kind != "detector":
        check_study(study, configs, data)
    cannot = indivisible(study, configs, only_cells, data)
    speed: dict[str, float] = {}
    cells = [cell for cell in study.cells if only_cells is None or cell.name in only_cells]
    costs = [_cost(study, cell, given, speed, data) for cell in tqdm(cells, desc="cells", disable=None)]
    rows = []
    for stage in sorted({cell.stage for cell in cells}):
        of = [cost for cost in costs if cost.stage == stage]
        rows.append([f"stage {stage + 1}", len(of), *_sums(of)])
    rows.append(["together", len(costs), *_sums(costs)])
    names = ["", "cells", "runs", "images trained on", "images evaluated", "about"]
    table = pd.DataFrame(rows, columns=names)
    device = describe_device(best_device())
    notes = "".join(f"note: cell {name} cannot be run: {reason}\n" for name, reason in cannot.items())
    return (
        f"{as_text(table)}\n{notes}\nTimed with one batch of each network on {device}, as busy as it is now, with one "
        "worker; runs that stop early take less."
    )


def _sums(costs: list[Cost]) -> list[str]:
    numbers = [sum(getattr(cost, name) for cost in costs) for name in ("runs", "trained", "evaluated")]
    return [*(f"{number:,}" for number in numbers), duration(sum(cost.seconds for cost in costs))]


def _cost(
    study: Study, cell: Cell, given: Options, speed: dict[str, float], known: dict[str, EmotionDataModule]
) -> Cost:
    config = cell_config(cell, given, ["rotation"])  # any transform costs about the same as the chosen ones
    repeats, runs = len(study.seeds), max(cell.folds, 1)
    if cell.kind == "detector":
        epochs, startup, timed = int(config.run["epochs"]), detection.STARTUP, detection.seconds_a_detector_image
        trained, val, test = detection.detector_sizes(config)
    else:
        epochs, startup, timed = planned_epochs(config), STARTUP, seconds_an_image
        data = data_module(config)
        data.share(known.setdefault(_images(data), data))  # reading a large set takes a while
        trained, val, test = _sizes(data, cell.folds)
        if cell.steps_of:
            other = data_module(cell_config(study.cell(cell.steps_of), given, ["rotation"]))
            other.share(data)
            trained = _sizes(other, cell.folds)[0]
    if cell.task == "adjust":  # its images are predicted once
        return Cost(cell.stage, repeats, 0, repeats * (val + test), repeats * STARTUP)
    if cell.task == "frozen":  # every image once through the network for all cells; heads cost little
        return Cost(cell.stage, repeats, 0, 0, repeats * (STARTUP + epochs * trained / 1e4))
    key = f"{config.model['backbone']} {config.data['size']} {config.data['batch_size']}"
    if key not in speed:
        speed[key] = timed(config)
    trained_on, evaluated = runs * epochs * trained, runs * (epochs * val + test)
    seconds = runs * startup + speed[key] * (trained_on + evaluated / FORWARD)
    return Cost(cell.stage, repeats * runs, repeats * trained_on, repeats * evaluated, repeats * seconds)


def _sizes(data: EmotionDataModule, folds: int) -> tuple[int, int, int]:
    """Return images of an epoch, of the part selected on and of the test part, from class counts alone."""
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
