"""Hyperparameter search: trials are scored on inner folds, and the best once on the test part."""

import contextlib
import gc
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
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
from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.files.paths import replacing
from lightning_modules.config import MONITOR, Options, RunConfig, data_module, option_names
from lightning_modules.limits import require_whole_runs
from lightning_modules.training import planned_epochs, train, with_run_ids
from results.tracking.logger import TrackingLogger
from results.tracking.runs import find_runs, load_table, run_config
from sweeps.cross_validation import end_stale_run, end_stale_runs, record_resume
from sweeps.spaces import Drawn, Space, build_space, grid, suggest
from sweeps.workers import (
    ENQUEUED,
    ERROR,
    STRATEGY,
    PrunerName,
    SamplerName,
    address,
    check_strategy,
    close,
    distinct_trials,
    enqueue,
    exclusive,
    open_storage,
    quiet,
    require_one_device,
    require_one_worker,
    was_stopped,
    work,
    work_together,
)

TRIAL_TASK, WINNER_TASK = "sweeps.search:run_trial", "sweeps.search:score_winner"
FIXED = (  # options that a search sets
    *("data.split", "data.folds", "data.fold", "data.fold_seed", "data.inner_folds", "data.inner_fold"),
    *("data.protocol", "run.parent", "run.evaluate", "run.resume", "run.name"),
)

COMMON = (  # options that all trials share; drawn ones would let a trial train on images that the winner is scored on
    *("data.source", "data.read", "data.near_duplicates", "data.leak", "data.outer", "data.holdout_fraction"),
    *("data.stratify_by", "data.inner_fraction", "data.cache_dir", "run.experiment", "run.recipe", "run.resamples"),
)


def check_config(config: RunConfig) -> None:
    """Check that recipe and files do not set the options that a search sets itself.

    Raises:
        InputError: They set run.evaluate or run.resume.
    """
    for name, wanted in (("evaluate", True), ("resume", None)):
        if config.run[name] != wanted:
            msg = f"run.{name}: a search sets it (the recipe says {config.run[name]!r}); take it out of the recipe"
            raise InputError(msg)


def check_options(options: Options) -> None:
    """Check that no option is one that a search sets itself; ``--split`` may be given or holdout.

    Raises:
        InputError: A search sets the option.
    """
    for name in FIXED:
        value = options.values.get(name)
        if value is not None and not (name == "data.split" and value in ("given", "holdout")):
            msg = f"{options.typed[name]}: a search sets it (got {value!r}); leave it out"
            raise InputError(msg)


def check_names(space: Space) -> None:
    """Check that a search can vary these options, before the first trial.

    Raises:
        InputError: There is no such option (the nearest is offered), or a search sets it, or all trials share it.
    """
    names = option_names()
    top_level = {tuple(name.split(".")[:2]) for name in names}
    for name in space:
        if tuple(name.split(".")[:2]) not in top_level:
            hint = did_you_mean(name, names) or "`emotion fit --help-all` lists them"
            msg = f"--space: {name} is not an option of `emotion fit`; {hint}"
            raise InputError(msg)
        if name in FIXED or name == "trainer.max_epochs":
            msg = f"--space: {name} cannot be searched, a search sets it; leave it out"
            raise InputError(msg)
        if name.startswith(COMMON):
            msg = f"--space: {name} cannot be searched, it is the same for all trials; give it beside --space"
            raise InputError(msg)


ATTEMPTS = 20  # draws, one of which must give a valid config


def search_config(options: Options) -> RunConfig:
    """Return the common config of all trials; its split is the given one, or a hold-out.

    Raises:
        InputError: An option that a search sets itself, or a wrong value.
    """
    check_options(options)
    config = with_run_ids(RunConfig.layered(options))
    changes: dict[str, Any] = {"data.split": "given" if config.data["split"] == "given" else "holdout"}
    if "trainer.enable_progress_bar" not in options:
        changes["trainer.enable_progress_bar"] = False  # the trials have a bar of their own
    require_one_device(config, "a search")
    require_whole_runs(config, "a search", validation=True)
    return config.override(changes)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of a search; all searches of the same name must have the same.

    Attributes:
        name: Name of the study.
        config: Common options of all trials, from `search_config`.
        space: Names of spaces, and the contents of space files.
        folds: Inner folds of a trial, at least 2.
        objectives: 1, val macro F1; or 2, the FLOPs of an image as well.
        sampler: tpe, grid, random or nsga2.
        pruner: hyperband, wilcoxon or none.
        seed: Seed of the sampler.
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
        """Validate the options before the first trial; opens no image.

        Raises:
            InputError: No trial could run with these options.
        """
        if self.folds < 2:
            msg = f"--folds: must be at least 2 inner folds, got {self.folds}"
            raise InputError(msg)
        check_names(build_space(self.space))
        check_strategy(self.sampler, self.pruner, self.objectives, self.folds)
        check_config(self.config)
        assert self.data.plan.inner_folds == self.folds  # otherwise the data module raised

    @cached_property
    def data(self) -> EmotionDataModule:
        """Data module of a valid trial.

        Raises:
            InputError: None of a few random trials is valid.
        """
        space, problem = build_space(self.space), InputError()
        with quiet():
            study = optuna.create_study(sampler=RandomSampler(seed=0))  # in memory
            for _ in range(ATTEMPTS):  # some draws may be invalid: such trials fail alone
                drawn = suggest(study.ask(), space)
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
        return planned_epochs(self.config)

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
        """Return what `run_trial` needs besides its trial.

        Args:
            parent: Run id of the search.
        """
        return {
            "study": self.name,
            "parent": parent,
            "config": self.config.as_dict(),
            "data": self.identity["data"],
            "space": self.space,
            "folds": self.folds,
            "objectives": self.objectives,
            "pruner": self.pruner,
        }


PLAN, PARENT = "plan", "parent"  # attributes of a search's study
_SHOWN = {
    "options": "recipe or options (of `emotion fit`)",
    "data": "data (images or labels)",
    "seed": "--sampler-seed",
}


def open_study(plan: Plan, storage: RDBStorage) -> optuna.Study:
    """Return the study of a search; a new one is created with its MLflow run.

    Raises:
        InputError: The study of that name is not a search, or was started with other options or data.
    """
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: plan.objectives]
    identity = plan.identity  # reads the data, so before the lock
    study = optuna.create_study(study_name=plan.name, storage=storage, directions=directions, load_if_exists=True)
    with exclusive(storage, plan.name):
        known = study.user_attrs.get(PLAN)
        if known is None and study.get_trials(deepcopy=False):
            msg = f"--name: study {plan.name} is not a search; choose another name"
            raise InputError(msg)
        if known is not None:
            check_same(plan.name, known, identity)
            record_resume(str(study.user_attrs[PARENT]))
            return study
        if PARENT not in study.user_attrs:
            study.set_user_attr(PARENT, _new_parent(plan))
        chosen = {"sampler": plan.sampler, "pruner": plan.pruner, "seed": plan.seed}
        study.set_user_attr(STRATEGY, {**chosen, "folds": plan.folds, "epochs": plan.epochs})
        study.set_user_attr(PLAN, identity)  # last: it marks the study as complete
    return study


def check_same(name: str, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Check that a search is resumed with its own options and data.

    Raises:
        InputError: Options or data differ.
    """
    differ = [_SHOWN.get(key, f"--{key}") for key in identity if known.get(key) != identity[key]]
    if differ:
        msg = (
            f"--name: study {name} was started with other {', '.join(differ)}; give the same to resume it, or "
            "another --name"
        )
        raise InputError(msg)


def _new_parent(plan: Plan) -> str:
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
            "data": plan.data.manifest.name,
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
    """Return the fixed parameters of all trials of the study: a grid's points; or warm starts, then free trials.

    Raises:
        InputError: As in `warm_starts`.
    """
    if plan.sampler == "grid":
        return list(grid(build_space(plan.space)))
    known = [trial for trial in distinct_trials(study) if not was_stopped(trial)]  # those are added again
    fixed = [trial.user_attrs[ENQUEUED] for trial in known if trial.user_attrs.get(ENQUEUED)]
    for start in warm_starts(plan, storage, warm_start):
        if start not in fixed and len(fixed) < trials:
            fixed.append(start)
    return [*fixed, *({} for _ in range(trials - len(fixed)))]


def warm_starts(plan: Plan, storage: RDBStorage, warm_start: str | None) -> list[dict[str, Any]]:
    """Return the parameters of another study's finished trials, best first, as far as they are in this space.

    Raises:
        InputError: There is no such study, or none of its finished trials has an option of this space.
    """
    if warm_start is None:
        return []
    if plan.sampler == "grid":
        raise invalid("--warm-start", "cannot be used with --sampler grid, which runs every point", warm_start)
    try:
        other = optuna.load_study(study_name=warm_start, storage=storage)
    except KeyError:
        searches = [study for study in optuna.get_all_study_names(storage) if not study.endswith(" winner")]
        known = ", ".join(searches) or "none"
        msg = f"--warm-start: no study {warm_start!r} in this storage; there are: {known}"
        raise InputError(msg) from None
    dimensions = {
        key: dimension for name, dimension in build_space(plan.space).items() for key in dimension.parameters(name)
    }
    done = other.get_trials(states=(TrialState.COMPLETE,))
    done.sort(key=lambda trial: -trial.values[0])
    starts = [
        {key: value for key, value in trial.params.items() if key in dimensions and dimensions[key].contains(value)}
        for trial in done
    ]
    if not any(starts):
        msg = (
            f"--warm-start: study {warm_start!r} has no finished trial with an option and value of this space; leave "
            "it out"
        )
        raise InputError(msg)
    return [start for start in starts if start]


RUN, OPTIONS, FOLD_SCORES, MANIFEST = "run_id", "options", "fold_scores", "manifest"  # attributes of a trial
OBJECTIVES = ("val macro F1", "FLOPs an image")


class Report(Callback):
    """Track a fold's best val macro F1, and report the mean over the folds so far to the pruner after every epoch.

    A pruned trial stops after the epoch, so its run ends like any other.
    """

    def __init__(self, trial: optuna.Trial, done: list[float], folds: int, epochs: int, *, each_epoch: bool) -> None:
        self.best, self.pruned = -math.inf, False
        self._trial, self._done, self._each_epoch = trial, done, each_epoch
        self._first, self._last = len(done) * epochs, folds * epochs - 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch's score."""
        if trainer.sanity_checking:
            return
        self.best = max(self.best, float(trainer.callback_metrics[MONITOR]))
        step = self._first + trainer.current_epoch  # a second report at a step would be ignored
        if self._each_epoch:
            self._trial.report(fmean([*self._done, self.best]), step)
            if step < self._last and self._trial.should_prune():  # pruning the last step would save nothing
                self.pruned = trainer.should_stop = True


def run_trial(trial: optuna.Trial, settings: dict[str, Any]) -> float | tuple[float, float]:
    """Run one trial: train on every inner fold.

    Args:
        trial: Trial of the search's study.
        settings: From `Plan.settings`.

    Returns:
        The mean of the folds' best val macro F1; with two objectives the FLOPs of one image, too.

    Raises:
        optuna.TrialPruned: The pruner ended it.
    """
    if stale := trial.user_attrs.get(RUN):  # of a killed worker; a trial that is queued again inherits it
        end_stale_runs([str(stale)])
    options = suggest(trial, build_space(settings["space"]))
    config = RunConfig.from_dict(settings["config"])
    drawn = json.dumps([settings["data"], options, settings["folds"]], sort_keys=True)
    tracker = TrackingLogger(
        experiment=config.run["experiment"],
        run_name=f"trial {trial.number}",
        parent_run_id=settings["parent"],
        system_metrics=False,
        tags={
            "kind": "trial",
            "study": settings["study"],
            "trial": str(trial.number),
            "identity": config.identity(drawn),
        },
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
    folds, epochs, pruner = settings["folds"], planned_epochs(config), settings["pruner"]
    flops, data = 0.0, None
    for fold in range(folds):
        report = Report(trial, scores, folds, epochs, each_epoch=pruner == "hyperband")
        changes: dict[str, Any] = {"data.inner_folds": folds, "data.inner_fold": fold, "run.evaluate": False}
        changes |= {"run.decisions": None, "run.risk": None, "run.coverage": None}  # the winner's alone
        changes["run.keep"] = "none"  # nothing is predicted with a trial's weights
        changes |= {"run.parent": str(tracker.run_id), "run.name": f"trial {trial.number} fold {fold}"}
        done = train(config.override({**drawn, **changes}), [report], data)
        assert done is not None  # a trial is one process
        scores.append(report.best)
        tracker.log_metrics({"search/fold_f1_macro": report.best}, step=fold)
        if fold == 0:
            flops = count_flops(done.model, done.data.size)
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


def count_flops(network: torch.nn.Module, size: int) -> float:
    """Return the floating-point operations of one image of `size` by `size` pixels; a multiply-add is two."""
    counter = FlopCounterMode(display=False)
    device = next(network.parameters()).device
    with counter, torch.inference_mode():
        network.eval()(torch.zeros(1, 3, size, size, device=device))
    return float(counter.get_total_flops())


_NOT_IN_A_RECIPE = ("parent", "name", "resume", "evaluate", "experiment")


@dataclass(frozen=True)
class Winner:
    """The scored winner.

    Attributes:
        trial: Number of the trial that won.
        run_id: Run in which it was trained and scored.
        intervals: Its scores on the held-out images, with intervals.
    """

    trial: int
    run_id: str
    intervals: pd.DataFrame

    @property
    def images(self) -> int:
        """Number of images it was scored on."""
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
        name: Name of the search.
        storage: Storage of its study.
        url: Address of the storage.
        config: Common options of all trials.
        best: The trial that won.
        parent: Run id of the search.

    Raises:
        InputError: The winner could not be trained.
    """
    study = optuna.create_study(
        study_name=f"{name} winner", storage=storage, direction=StudyDirection.MAXIMIZE, load_if_exists=True
    )
    with exclusive(storage, study.study_name):  # not while another worker changes the queue
        trials = distinct_trials(study)
    winner = _scored(trials, best.number)
    if winner is None:
        ended = [trial for trial in trials if _winning(trial) == best.number and trial.state.is_finished()]
        enqueue(study, [{"trial": best.number, "options": best.user_attrs[OPTIONS], "attempt": len(ended)}])
        work(
            study.study_name,
            url,
            WINNER_TASK,
            {"search": name, "config": config.as_dict(), "parent": parent},
            progress=False,
        )
        trials = distinct_trials(study)
        winner = _scored(trials, best.number)
    if winner is None:
        ended = [trial for trial in trials if _winning(trial) == best.number and trial.state == TrialState.FAIL]
        why = "its run is no longer in the store"
        if ended:
            why = ended[-1].user_attrs.get(ERROR, "its worker was killed each time")
        msg = f"search {name}: the winner (trial {best.number}) was not scored: {why}; run the same command again"
        raise InputError(msg)
    done = {_winning(trial) for trial in trials if trial.state == TrialState.COMPLETE}
    return winner, tuple(sorted(done - {winner.trial}))


def score_winner(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Train the winner on the images of all inner folds, with a val part as usual, and predict the test part once.

    Args:
        trial: Has the number and the options of the trial that won.
        settings: search (its name), config (plain data), parent (run id).

    Returns:
        Macro F1 on the test part.
    """
    won, name = trial.user_attrs[ENQUEUED], f"{settings['search']} winner, trial {_winning(trial)}"
    end_stale_run(settings["parent"], name)
    changes = {**won["options"], "run.parent": settings["parent"], "run.name": name, "run.recipe": settings["search"]}
    done = train(RunConfig.from_dict(settings["config"]).override(changes))
    assert done is not None  # a trial is one process
    run_id = done.run_id
    tags = TrackingLogger(run_id=run_id, system_metrics=False)
    tags.set_tags({"kind": "winner", "study": settings["search"], "trial": str(won["trial"])})
    tags.finalize("success")
    trial.set_user_attr(RUN, run_id)
    intervals = load_table(run_id, "intervals")
    return float(intervals[intervals["metric"] == "f1_macro"].iloc[0]["value"])


def _winning(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number that the winning trial has in the search."""
    return int(trial.user_attrs[ENQUEUED]["trial"])


def _scored(trials: list[FrozenTrial], number: int) -> Winner | None:
    """Return the winner if it was scored before, None if it was not or its run was deleted."""
    for trial in trials:
        if trial.state == TrialState.COMPLETE and _winning(trial) == number:
            run_id = str(trial.user_attrs[RUN])
            runs = find_runs(where=f"attributes.run_id = '{run_id}'", limit=1)
            if not runs.empty and runs.iloc[0]["status"] == "FINISHED":
                return Winner(number, run_id, load_table(run_id, "intervals"))
    return None


def recipe_text(winner: Winner, study: str) -> str:
    """Return the winner's config as a file for `emotion fit --config`."""
    config = run_config(winner.run_id)
    config.pop("ckpt_path", None)
    config["run"] = {key: value for key, value in config["run"].items() if key not in _NOT_IN_A_RECIPE}
    config["run"]["recipe"] = study
    head = (
        f"# Winner of search {study}: trial {winner.trial}. It was scored once on the test part, not selected by it.\n"
    )
    return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def write(path: Path, text: str) -> None:
    """Write the winner's config under a temporary name, then rename it.

    Raises:
        InputError: The folder cannot be written to.
    """
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path.absolute()) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"--write: {path} cannot be written ({error.strerror}); choose a file in another folder"
        raise InputError(msg) from error


@dataclass(frozen=True)
class Search:
    """Result of a search; all of it is in the parent run, too.

    Attributes:
        plan: The options.
        run_id: Run of the search.
        trials: Each trial once.
        front: The best trial; with two objectives those that no other beats in both.
        winner: The scored winner.
        earlier: Trials that won before the search was resumed, and were scored on the same images.
        failed_workers: Number of other workers of this machine that ended with an error.
    """

    plan: Plan
    run_id: str
    trials: list[FrozenTrial]
    front: list[FrozenTrial]
    winner: Winner
    earlier: tuple[int, ...] = ()
    failed_workers: int = 0

    def counts(self) -> dict[str, int]:
        """Return the number of trials by the state in which they ended."""
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
    """Run trials until the study has `trials`, then score the best of them once.

    Notes:
        The same call on an existing study resumes it; on several machines at once they share its trials.

    Args:
        plan: Options of the search.
        trials: Number of trials of the study altogether; of a grid every point is run.
        storage_url: Address of the storage; None: $OPTUNA_STORAGE, or else the embedded file.
        workers: Processes on this machine.
        warm_start: A study whose finished trials are tried first, best first.
        keep: Called with the result and the study, to store them.

    Raises:
        InputError: Options that do not go together; a study of that name with other options; no trial finished.
    """
    url = address(storage_url)
    if trials < 1 or workers < 1:
        msg = f"--trials and --workers: must be at least 1, got {trials} and {workers}"
        raise InputError(msg)
    require_one_worker(url, workers)
    plan.check()
    storage = open_storage(url)
    with quiet(), contextlib.ExitStack() as end:
        end.callback(close, storage)
        warm_starts(plan, storage, warm_start)  # refuse an unknown study before the search is created
        study = open_study(plan, storage)
        parent = str(study.user_attrs[PARENT])
        enqueue(study, wanted_trials(plan, study, storage, trials, warm_start))
        settings = plan.settings(parent)
        failed = work_together(plan.name, url, TRIAL_TASK, settings, workers)
        while enqueue(study, wanted_trials(plan, study, storage, trials, warm_start)):  # stopped too often before
            failed += work_together(plan.name, url, TRIAL_TASK, settings, workers)
        each = distinct_trials(study)
        best = best_trials(study, each)
        winner, earlier = scored_winner(plan.name, storage, url, plan.config, best[0], parent)
        result = Search(plan, parent, each, best, winner, earlier, failed)
        with exclusive(storage, f"{plan.name} result"):  # machines that end together write it in turn
            keep(result, study)
    return result


def best_trials(study: optuna.Study, each: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the best trial; with two objectives the Pareto front, by falling macro F1.

    Raises:
        InputError: No trial finished.
    """
    done = [trial for trial in each if trial.state == TrialState.COMPLETE]
    if not done:
        errors = Counter(str(trial.user_attrs.get(ERROR, trial.state.name.lower())) for trial in each)
        reasons = "; ".join(f"{count} x {error}" for error, count in errors.most_common(3))
        msg = f"search {study.study_name}: none of {len(each)} trials finished: {reasons}"
        raise InputError(msg)
    front = study.best_trials if len(study.directions) == 2 else [study.best_trial]
    return sorted(front, key=lambda trial: (-trial.values[0], trial.number))
