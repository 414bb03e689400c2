"""A search: trials that share a queue select on inner folds, and the best is scored once on data none of them saw."""

import contextlib
import gc
import hashlib
import inspect
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pandas as pd
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch.utils.flop_counter import FlopCounterMode

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, did_you_mean
from datamodules.paths import replacing
from lightning_modules.config import Options, RunConfig, data_module
from lightning_modules.run import MONITOR
from lightning_modules.training import RunResult, train
from results.tracking.logger import TrackingLogger
from results.tracking.runs import find_runs, load_table, run_config
from sweeps.cross_validation import end_lost_run_of, end_lost_runs
from sweeps.search_worker import TRIAL_TASK
from sweeps.spaces import Drawn, Space, build_space, grid, suggest
from sweeps.workers import (
    ENQUEUED,
    ERROR,
    STRATEGY,
    VARIABLE,
    PrunerName,
    SamplerName,
    address,
    check_strategy,
    close,
    enqueue,
    environment_variables,
    exclusive,
    once_each,
    open_storage,
    quiet,
    require_one_device,
    require_one_worker,
    work,
    worker_variables,
)

FIXED = (
    *("data.split", "data.folds", "data.fold", "data.fold_seed", "data.inner_folds", "data.inner_fold"),
    *("data.protocol", "run.parent", "run.evaluate", "run.resume", "run.name"),
)


DIVIDES = (  # with one of these drawn, one trial would learn from what another trial's winner reports
    *("data.source", "data.read", "data.near_duplicates", "data.leak", "data.outer", "data.holdout_fraction"),
    *("data.inner_fraction", "data.cache_dir", "run.experiment", "run.recipe", "run.resamples"),
)


def check_number(folds: int) -> None:
    """Refuse fewer than two inner folds.

    Raises:
        InputError: so.
    """
    if folds < 2:
        msg = f"--folds: at least 2 inner folds, got {folds}"
        raise InputError(msg)


def check_config(config: RunConfig) -> None:
    """Refuse a recipe or file without which the winner would have no score, or every trial would be one run.

    Raises:
        InputError: naming the option.
    """
    for name, wanted in (("evaluate", True), ("resume", None)):
        if config.run[name] != wanted:
            msg = f"run.{name}: a search sets it (the recipe says {config.run[name]!r}); take it out of the recipe"
            raise InputError(msg)


def check_options(options: Options) -> None:
    """Refuse options that a search sets itself; ``--split given`` alone is a choice.

    Raises:
        InputError: naming the option.
    """
    for name in FIXED:
        value = options.values.get(name)
        if value is not None and not (name == "data.split" and value in ("given", "holdout")):
            msg = f"{options.typed[name]}: a search sets it (got {value!r}); leave it out"
            raise InputError(msg)


def check_names(space: Space) -> None:
    """Refuse options that are none of the model, the data, the trainer or the run; every trial would fail.

    Raises:
        InputError: with the names that are near.
    """
    from lightning.pytorch import Trainer

    from datamodules.emotion import EmotionDataModule
    from lightning_modules.classifier import EmotionClassifier
    from lightning_modules.run import RunOptions

    owners = {"model": EmotionClassifier, "data": EmotionDataModule, "trainer": Trainer, "run": RunOptions}
    options = {section: list(inspect.signature(owner).parameters) for section, owner in owners.items()}
    for name in space:
        group, _, option = name.partition(".")
        if option.split(".")[0] not in options.get(group, ()):
            all_names = [f"{section}.{known}" for section, names in options.items() for known in names]
            hint = did_you_mean(name, all_names) or "`emotion fit --help-all` lists them"
            msg = f"--space: {name} is not an option of `emotion fit`; {hint}"
            raise InputError(msg)
        if name in FIXED or name == "trainer.max_epochs":
            msg = f"--space: {name} cannot be searched, a search sets it; leave it out"
            raise InputError(msg)
        if name.startswith(DIVIDES):
            msg = f"--space: {name} cannot be searched, it is the same for all trials; give it beside --space"
            raise InputError(msg)


ATTEMPTS = 20  # draws, of which one has to be of options that go together


def search_config(options: Options) -> RunConfig:
    """Return the common config of all trials; its split is the given one, or a hold-out.

    Raises:
        InputError: an option that a search sets itself, or a wrong value.
    """
    check_options(options)
    config = RunConfig.layered(options)
    changes: dict[str, Any] = {"data.split": "given" if config.data["split"] == "given" else "holdout"}
    if "trainer.enable_progress_bar" not in options:
        changes["trainer.enable_progress_bar"] = False  # the trials have a bar of their own
    require_one_device(config, "a search")
    return config.override(changes)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of a search; all searches of the same name must have the same.

    Attributes:
        name: of the study.
        config: common options of all trials, from `search_config`.
        space: names of spaces, and the contents of space files.
        folds: inner folds of a trial.
        objectives: 1, val macro F1; or 2, the FLOPs of an image as well.
        sampler: tpe, grid, random or nsga2.
        pruner: hyperband, wilcoxon or none.
        seed: of the sampler.
    """

    name: str
    config: RunConfig
    space: list[str | dict[str, Any]]
    folds: int = 5
    objectives: int = 1
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "hyperband"
    seed: int = 0

    def check(self) -> None:
        """Raise if no trial could run with these options; opens no image.

        Raises:
            InputError: the message names the option.
        """
        check_number(self.folds)
        check_names(build_space(self.space))
        check_strategy(self.sampler, self.pruner, self.objectives, self.folds)
        check_config(self.config)
        assert self.data.plan.inner_folds == self.folds  # a division that allows none was refused

    @cached_property
    def data(self) -> EmotionDataModule:
        """Data module of a valid trial.

        Raises:
            InputError: none of a few random trials is valid.
        """
        space, problem = build_space(self.space), InputError()
        with quiet():
            drawing = optuna.create_study(sampler=RandomSampler(seed=0))  # in memory
            for _ in range(ATTEMPTS):  # some draws may be of options that do not go together: such trials fail alone
                drawn = suggest(drawing.ask(), space)
                try:
                    config = self.config.override({**drawn, "data.inner_folds": self.folds})
                    return data_module(config)
                except InputError as error:
                    problem = error
        raise problem

    @property
    def experiment(self) -> str:
        """MLflow's experiment."""
        return str(self.config.run["experiment"])

    @property
    def epochs(self) -> int:
        """Epochs of a fold."""
        return int(self.config.trainer["max_epochs"])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of the search, which all workers must share; paths of the data may differ."""
        images = data_module(self.config)
        images.share(self.data)
        plan = {
            "name": self.name,
            "options": self.config.identity(),
            "data": images.content_hash,
            "space": self.space,
            "folds": self.folds,
            "objectives": self.objectives,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
        }
        return json.loads(json.dumps(plan))

    def settings(self, parent: str) -> dict[str, Any]:
        """Return the settings that a trial needs.

        Args:
            parent: run id of the search.
        """
        return {
            "study": self.name,
            "parent": parent,
            "config": self.config.as_dict(),
            "space": self.space,
            "folds": self.folds,
            "objectives": self.objectives,
            "pruner": self.pruner,
        }


PLAN, PARENT = "plan", "parent"  # attributes of a search's study
_SAID = {"options": "recipe or options (of `emotion fit`)", "data": "data (images or labels)", "seed": "--sampler-seed"}


def open_study(plan: Plan, storage: RDBStorage) -> optuna.Study:
    """Return the study of a search, made if there is none; its MLflow run is made with it.

    Raises:
        InputError: a study of that name is no search, or was begun with other options or other data.
    """
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: plan.objectives]
    identity = plan.identity  # reads the data, which nobody should wait for
    study = optuna.create_study(study_name=plan.name, storage=storage, directions=directions, load_if_exists=True)
    with exclusive(storage, plan.name):
        known = study.user_attrs.get(PLAN)
        if known is None and study.get_trials(deepcopy=False):
            msg = f"--name: {plan.name} is a study that is no search; choose another name"
            raise InputError(msg)
        if known is not None:
            check_same(plan.name, known, identity)
            return study
        if PARENT not in study.user_attrs:
            study.set_user_attr(PARENT, _parent_run(plan))
        chosen = {"sampler": plan.sampler, "pruner": plan.pruner, "seed": plan.seed}
        study.set_user_attr(STRATEGY, {**chosen, "folds": plan.folds, "epochs": plan.epochs})
        study.set_user_attr(PLAN, identity)  # last: with it the study is whole
    return study


def check_same(name: str, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a search that was begun with other options or on other data.

    Raises:
        InputError: saying what differs.
    """
    differ = [_SAID.get(key, f"--{key}") for key in identity if known.get(key) != identity[key]]
    if differ:
        msg = (
            f"--name: study {name} was begun with other {', '.join(differ)}; give what it was begun with to "
            "go on with it, or another --name"
        )
        raise InputError(msg)


def _parent_run(plan: Plan) -> str:
    parent = TrackingLogger(
        experiment=plan.experiment,
        run_name=plan.name,
        system_metrics=False,
        tags={
            "kind": "search",
            "study": plan.name,
            "sampler": plan.sampler,
            "pruner": plan.pruner,
            "folds": str(plan.folds),
            "recipe": str(plan.config.run["recipe"]),
            "manifest": plan.data.manifest.fingerprint(),
            "identity": hashlib.sha256(json.dumps(plan.identity, sort_keys=True).encode()).hexdigest(),
        },
    )
    parent.log_text(plan.config.to_yaml(), "config.yaml")
    parent.log_text(json.dumps(plan.space, indent=2), "space.json")
    parent.close()
    return str(parent.run_id)


def wanted_trials(
    plan: Plan, study: optuna.Study, storage: RDBStorage, trials: int, warm_start: str | None
) -> list[dict[str, Any]]:
    """Return what the study is to hold: every cell of a grid; or fixed starts, and free trials up to the number."""
    if plan.sampler == "grid":
        return list(grid(build_space(plan.space)))
    fixed = [trial.user_attrs[ENQUEUED] for trial in once_each(study) if trial.user_attrs.get(ENQUEUED)]
    for start in starts_of(plan, storage, warm_start):
        if start not in fixed and len(fixed) < trials:
            fixed.append(start)
    return [*fixed, *({} for _ in range(trials - len(fixed)))]


def starts_of(plan: Plan, storage: RDBStorage, warm_start: str | None) -> list[dict[str, Any]]:
    """Return the parameters of another study's finished trials, best first, as far as this space has them."""
    if warm_start is None:
        return []
    try:
        other = optuna.load_study(study_name=warm_start, storage=storage)
    except KeyError:
        searches = [study for study in optuna.get_all_study_names(storage) if not study.endswith(" winner")]
        known = ", ".join(searches) or "none"
        msg = f"--warm-start: no study {warm_start!r} in this storage; there are: {known}"
        raise InputError(msg) from None
    names = {key for name, dimension in build_space(plan.space).items() for key in dimension.parameters(name)}
    done = other.get_trials(states=(TrialState.COMPLETE,))
    done.sort(key=lambda trial: -trial.values[0])
    starts = [{key: value for key, value in trial.params.items() if key in names} for trial in done]
    if not any(starts):
        msg = f"--warm-start: study {warm_start!r} has no finished trial with an option of this space; leave it out"
        raise InputError(msg)
    return [start for start in starts if start]


RUN, OPTIONS, FOLD_SCORES, MANIFEST = "run_id", "options", "fold_scores", "manifest"  # attributes of a trial
OBJECTIVES = ("val macro F1", "FLOPs an image")


class Report(Callback):
    """Keeps a fold's best val macro F1, and tells the study after every epoch the mean over the folds so far.

    A trial that is to be pruned stops after the epoch, so its run ends as any other.
    """

    def __init__(self, trial: optuna.Trial, done: list[float], folds: int, epochs: int, *, tell: bool) -> None:
        self.best, self.pruned = -math.inf, False
        self._trial, self._done, self._tell = trial, done, tell
        self._first, self._last = len(done) * epochs, folds * epochs - 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the epoch's score."""
        if trainer.sanity_checking:
            return
        self.best = max(self.best, float(trainer.callback_metrics[MONITOR]))
        step = self._first + trainer.current_epoch  # a second report at a step would be ignored
        if self._tell:
            self._trial.report(fmean([*self._done, self.best]), step)
            if step < self._last and self._trial.should_prune():  # at the last one nothing is saved by it
                self.pruned = trainer.should_stop = True


def run_trial(trial: optuna.Trial, settings: dict[str, Any]) -> float | tuple[float, float]:
    """Return the mean of the folds' best val macro F1; with two objectives, the FLOPs of one image, too.

    Args:
        trial: of a study.
        settings: study, parent (run id), config (plain data), space, folds, objectives, pruner.

    Raises:
        optuna.TrialPruned: the pruner ended it.
    """
    if lost := trial.user_attrs.get(RUN):  # of a killed worker; a trial that is queued again inherits it
        end_lost_runs([str(lost)])
    options = suggest(trial, build_space(settings["space"]))
    config = RunConfig.from_dict(settings["config"])
    tracker = TrackingLogger(
        experiment=config.run["experiment"],
        run_name=f"trial {trial.number}",
        parent_run_id=settings["parent"],
        system_metrics=False,
        tags={"kind": "trial", "study": settings["study"], "trial": str(trial.number)},
    )
    trial.set_user_attr(RUN, str(tracker.run_id))
    trial.set_user_attr(OPTIONS, options)
    try:
        tracker.log_hyperparams(options)
        scores, flops = _folds(trial, config, settings, options, tracker)
        tracker.log_metrics({"search/f1_macro": fmean(scores), "search/flops": flops})
    except optuna.TrialPruned:
        tracker.set_tags({"ended": "pruned"})
        tracker.finalize("success")
        raise
    except BaseException as error:
        tracker.set_tags({"ended": f"failed: {error}"[:500]})
        tracker.finalize("failed")
        raise
    tracker.finalize("success")
    trial.set_user_attr(FOLD_SCORES, scores)
    return (fmean(scores), flops) if settings["objectives"] == 2 else fmean(scores)


def _folds(
    trial: optuna.Trial, config: RunConfig, settings: dict[str, Any], drawn: Drawn, tracker: TrackingLogger
) -> tuple[list[float], float]:
    scores: list[float] = []
    folds, epochs, pruner = settings["folds"], int(config.trainer["max_epochs"]), settings["pruner"]
    flops, data = 0.0, None
    for fold in range(folds):
        report = Report(trial, scores, folds, epochs, tell=pruner == "hyperband")
        where: dict[str, Any] = {"data.inner_folds": folds, "data.inner_fold": fold, "run.evaluate": False}
        where["run.keep"] = "none"  # nothing is predicted with a trial's weights
        place = {"run.parent": str(tracker.run_id), "run.name": f"trial {trial.number} fold {fold}"}
        done = train(config.override({**drawn, **where, **place}), [report], data)
        assert done is not None  # a trial is one process
        scores.append(report.best)
        tracker.log_metrics({"search/fold_f1_macro": report.best}, step=fold)
        if fold == 0:
            flops = flops_an_image(done)
            trial.set_user_attr(MANIFEST, done.data.manifest.fingerprint())
            data = done.data
            data.trainer = None  # which holds the model
        if pruner == "wilcoxon":
            trial.report(report.best, fold)
            report.pruned = fold + 1 < folds and trial.should_prune()
        del done
        gc.collect()  # a trainer and its callbacks refer to each other; a GPU's memory goes back only now
        if report.pruned:
            raise optuna.TrialPruned
    return scores, flops


def flops_an_image(done: RunResult) -> float:
    """Return the floating-point operations of one picture through the trained network; a multiply-add is two."""
    model = done.model.eval()
    counter = FlopCounterMode(display=False)
    image = torch.zeros(1, 3, done.data.size, done.data.size, device=model.device)
    with counter, torch.inference_mode():
        model(image)
    return float(counter.get_total_flops())


WINNER_TASK = "sweeps.search:score_winner"
_NOT_IN_A_RECIPE = ("parent", "name", "resume", "evaluate", "experiment")


@dataclass(frozen=True)
class Winner:
    """The scored winner."""

    trial: int
    run_id: str
    intervals: pd.DataFrame

    @property
    def images(self) -> int:
        """Images it was scored on."""
        return len(load_table(self.run_id, "predictions"))


def scored_winner(
    name: str, storage: RDBStorage, url: str, config: RunConfig, best: FrozenTrial, parent: str
) -> tuple[Winner, tuple[int, ...]]:
    """Return the winner of a search, trained and scored once, and the trials that won before it.

    Notes:
        Training the winner is a trial of a separate study. So, like any other trial, one worker claims it, its
        heartbeat is recorded, and another worker takes it over if that one dies. Meanwhile other machines wait, without
        a lock.

    Args:
        name: of the search.
        storage: of its study.
        url: address of the storage.
        config: what all trials share.
        best: the trial that won.
        parent: run id of the search.

    Raises:
        InputError: the winner could not be trained.
    """
    study = optuna.create_study(
        study_name=f"{name} winner", storage=storage, direction=StudyDirection.MAXIMIZE, load_if_exists=True
    )
    with exclusive(storage, study.study_name):  # no worker is in the middle of a change
        trials = once_each(study)
    winner = _known(trials, best.number)
    if winner is None:
        ended = [trial for trial in trials if _of(trial) == best.number and trial.state.is_finished()]
        wanted = {"trial": best.number, "options": best.user_attrs[OPTIONS], "attempt": len(ended)}
        enqueue(study, [wanted])
        work(
            study.study_name,
            url,
            WINNER_TASK,
            {"search": name, "config": config.as_dict(), "parent": parent},
            progress=False,
        )
        trials = once_each(study)
        winner = _known(trials, best.number)
    if winner is None:
        ended = [trial for trial in trials if _of(trial) == best.number and trial.state == TrialState.FAIL]
        why = "its run is no longer in the store"
        if ended:
            why = ended[-1].user_attrs.get(ERROR, "its worker was killed each time")
        msg = f"search {name}: the winner (trial {best.number}) was not scored: {why}; run the same command again"
        raise InputError(msg)
    done = {_of(trial) for trial in trials if trial.state == TrialState.COMPLETE}
    return winner, tuple(sorted(done - {winner.trial}))


def score_winner(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Train the winner with a usual val part of all that the search selected on, and predict the rest once.

    Args:
        trial: holds the number and the options of the trial that won.
        settings: search (its name), config (plain data), parent (run id).

    Returns:
        Macro F1 on the held-out part.
    """
    won, name = trial.user_attrs[ENQUEUED], f"{settings['search']} winner, trial {_of(trial)}"
    end_lost_run_of(settings["parent"], name)
    place = {"run.parent": settings["parent"], "run.name": name, "run.recipe": settings["search"]}
    done = train(RunConfig.from_dict(settings["config"]).override({**won["options"], **place}))
    assert done is not None  # a trial is one process
    run_id = done.run_id
    tags = TrackingLogger(run_id=run_id, system_metrics=False)
    tags.set_tags({"kind": "winner", "study": settings["search"], "trial": str(won["trial"])})
    tags.finalize("success")
    trial.set_user_attr(RUN, run_id)
    intervals = load_table(run_id, "intervals")
    return float(intervals[intervals["metric"] == "f1_macro"].iloc[0]["value"])


def _of(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number that the winning trial has in the search."""
    return int(trial.user_attrs[ENQUEUED]["trial"])


def _known(trials: list[FrozenTrial], number: int) -> Winner | None:
    """Return the winner that was scored before, None if there is none or its run is gone."""
    for trial in trials:
        if trial.state == TrialState.COMPLETE and _of(trial) == number:
            run_id = str(trial.user_attrs[RUN])
            found = find_runs(where=f"attributes.run_id = '{run_id}'", limit=1)
            if not found.empty and found.iloc[0]["status"] == "FINISHED":
                return Winner(number, run_id, load_table(run_id, "intervals"))
    return None


def recipe_text(winner: Winner, study: str) -> str:
    """Return the winner's config as `emotion fit --config` takes it."""
    config = run_config(winner.run_id)
    config.pop("ckpt_path", None)
    config["run"] = {key: value for key, value in config["run"].items() if key not in _NOT_IN_A_RECIPE}
    config["run"]["recipe"] = study
    head = (
        f"# Best of search {study}: trial {winner.trial}. Its held-out part selected nothing, and was predicted once.\n"
    )
    return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path.absolute()) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"--write: {path} cannot be written ({error.strerror}); name a file in a folder that can"
        raise InputError(msg) from error


@dataclass(frozen=True)
class Search:
    """What a search gives; all of it is in the parent run, too."""

    plan: Plan
    run_id: str
    trials: list[FrozenTrial]  # each once
    front: list[FrozenTrial]  # the best, or those that no other beats in both objectives
    winner: Winner
    earlier: tuple[int, ...] = ()  # trials that won before the search went on, and were scored on the same images
    failed_workers: int = 0  # other workers of this machine that ended with an error

    def counts(self) -> dict[str, int]:
        """Return how many trials ended how."""
        return dict(Counter(trial.state.name.lower() for trial in self.trials))


def search(
    plan: Plan,
    *,
    trials: int,
    storage_url: str | None = None,
    workers: int = 1,
    warm_start: str | None = None,
    keep: Callable[["Search", optuna.Study], None],
) -> Search:
    """Run trials until the study holds `trials`, then score the best of them once.

    Notes:
        The same call on an existing study goes on with it; on several machines at once they share its trials.

    Args:
        plan: what is searched.
        trials: of the study altogether; of a grid, every cell is run whatever this says.
        storage_url: None: $OPTUNA_STORAGE, or else the embedded file.
        workers: processes on this machine.
        warm_start: a study whose best trials' options are tried first.
        keep: writes down what was found.

    Raises:
        InputError: options that do not go together; a study of that name with others; no trial finished.
    """
    url = address(storage_url)
    if trials < 1 or workers < 1:
        msg = f"--trials and --workers: at least 1, got {trials} and {workers}"
        raise InputError(msg)
    require_one_worker(url, workers)
    plan.check()
    storage = open_storage(url)
    with quiet(), contextlib.ExitStack() as end:
        end.callback(close, storage)
        starts_of(plan, storage, warm_start)  # an unknown study leaves no search behind
        study = open_study(plan, storage)
        parent = str(study.user_attrs[PARENT])
        enqueue(study, wanted_trials(plan, study, storage, trials, warm_start))
        settings = plan.settings(parent)
        failed = work_together(plan.name, url, TRIAL_TASK, settings, workers)
        each = once_each(study)
        best = best_trials(study, each)
        winner, earlier = scored_winner(plan.name, storage, url, plan.config, best[0], parent)
        found = Search(plan, parent, each, best, winner, earlier, failed)
        with exclusive(storage, f"{plan.name} result"):  # machines that end together write it in turn
            keep(found, study)
    return found


def best_trials(study: optuna.Study, each: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the best trial; with two objectives the front, by falling macro F1.

    Raises:
        InputError: no trial finished.
    """
    done = [trial for trial in each if trial.state == TrialState.COMPLETE]
    if not done:
        errors = Counter(str(trial.user_attrs.get(ERROR, trial.state.name.lower())) for trial in each)
        told = "; ".join(f"{count} x {error}" for error, count in errors.most_common(3))
        msg = f"search {study.study_name}: none of {len(each)} trials finished: {told}"
        raise InputError(msg)
    front = study.best_trials if len(study.directions) == 2 else [study.best_trial]
    return sorted(front, key=lambda trial: (-trial.values[0], trial.number))


def work_together(name: str, url: str, task: str, settings: dict[str, Any], workers: int) -> int:
    """Run trials in this process and in other worker processes, one GPU each, until none is left.

    Args:
        name: of the study.
        url: its storage.
        task: "module:function", as `work` takes it.
        settings: of the task.
        workers: number of processes, with this one.

    Returns:
        How many other workers ended with an error, such as a database that accepts no more connections. A worker that
        was killed does not count: the others ran its trial. Both are reported on stderr.
    """
    own, *others = worker_variables(workers)
    with _more_workers(name, url, task, settings, others) as more:
        with environment_variables(own):
            work(name, url, task, settings)
        statuses = [process.wait() for process in more]
    for number, status in enumerate(statuses, start=2):
        if status:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"
            print(f"warning: worker {number} of {workers} {how}; the others ran its trials", file=sys.stderr)
    return sum(status > 0 for status in statuses)


@contextlib.contextmanager
def _more_workers(
    name: str, url: str, task: str, settings: dict[str, Any], variables: Sequence[dict[str, str]]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a worker with each of these environment variables, and end those that still run at the end."""
    command = [sys.executable, "-m", "sweeps.search_worker", name, task]
    started: list[subprocess.Popen[str]] = []
    try:
        for own in variables:
            new = {**os.environ, VARIABLE: url, **own}
            process = subprocess.Popen(command, env=new, stdin=subprocess.PIPE, text=True)
            started.append(process)
            assert process.stdin is not None  # a pipe
            with contextlib.suppress(BrokenPipeError):  # it has ended already, and said why
                process.stdin.write(json.dumps(settings))
                process.stdin.close()
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()  # its trial is queued again
                process.wait()
