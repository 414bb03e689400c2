"""A search: trials that share a queue select on inner folds, and the best is scored once on data none of them saw."""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from datamodules.errors import InputError
from lightning_modules.shorthand import fingerprint, take
from records.tracking import TrackingLogger
from sweeps.checks import check_args, check_names
from sweeps.queue import ENQUEUED, ERROR, enqueue, once_each, work
from sweeps.search_worker import SETTINGS, TASK
from sweeps.spaces import build_space, grid
from sweeps.storage import VARIABLE, address, close, exclusive, open_storage, quiet, require_one_worker
from sweeps.strategies import STRATEGY, PrunerName, SamplerName, check_strategy
from sweeps.studies.config import merged
from sweeps.winner import NO_BAR, Winner, known_winner, score_winner

PLAN, PARENT = "plan", "parent"  # attributes of a search's study
EPOCHS = 10  # of the trainer, where nothing says otherwise


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is; two of one name must have the same.

    Attributes:
        name: of the study.
        args: options of `emotion fit` that all trials share.
        space: names of spaces, and what files of spaces hold.
        folds: inner folds of a trial.
        objectives: 1, inner macro F1; or 2, the FLOPs of an image as well.
        sampler: tpe, grid, random or nsga2.
        pruner: hyperband, wilcoxon or none.
        seed: of the sampler.
    """

    name: str
    args: list[str]
    space: list[str | dict[str, Any]]
    folds: int = 5
    objectives: int = 1
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "hyperband"
    seed: int = 0

    def check(self) -> None:
        """Refuse what no trial could run with.

        Raises:
            InputError: naming the option.
        """
        if self.folds < 2:
            msg = f"--folds: at least 2 inner folds, got {self.folds}"
            raise InputError(msg)
        check_args(self.args)
        space = build_space(self.space)
        check_names(space)
        check_strategy(self.sampler, self.pruner, self.objectives, self.folds)

    @property
    def fit_args(self) -> list[str]:
        """The options of every run: the reported part is the given one, or a hold-out."""
        split, _ = take(self.args, "--split")
        split, _ = take(self.args, "--data.split", split)
        return [*self.args, *(() if split else ("--data.split", "holdout"))]

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree between all that work on the study; where the data lie may differ between machines."""
        _, args = take(self.args, "--data")
        return {**asdict(self), "args": fingerprint(args)}


@dataclass(frozen=True)
class Search:
    """What a search gives; all of it is in the parent run, too."""

    plan: Plan
    run_id: str
    trials: list[FrozenTrial]  # each once
    front: list[FrozenTrial]  # the best, or those that no other beats in both objectives
    winner: Winner

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
        study = _open_study(plan, storage)
        enqueue(study, _queue(plan, study, storage, trials, warm_start))
        with _more_workers(plan.name, url, workers - 1):
            work(plan.name, url, TASK, study.user_attrs[SETTINGS])
        each = once_each(study)
        best = best_trials(study, each)
        with exclusive(storage, f"{plan.name} winner"):  # of several machines one scores it, the others wait
            known = study.user_attrs.get("winner")
            winner = known_winner(known) if known and known["trial"] == best[0].number else None
            if winner is None:
                winner = score_winner(plan.name, plan.fit_args, best[0], study.user_attrs[PARENT])
                study.set_user_attr("winner", {"trial": winner.trial, "run_id": winner.run_id})
            found = Search(plan, str(study.user_attrs[PARENT]), each, best, winner)
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


def _open_study(plan: Plan, storage: RDBStorage) -> optuna.Study:
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: plan.objectives]
    study = optuna.create_study(study_name=plan.name, storage=storage, directions=directions, load_if_exists=True)
    identity = json.loads(json.dumps(plan.identity))
    with exclusive(storage, plan.name):
        known = study.user_attrs.get(PLAN)
        if known is None and study.get_trials(deepcopy=False):
            msg = f"--name: {plan.name} is a study that is no search; choose another name"
            raise InputError(msg)
        if known is not None and known != identity:
            differ = [name for name in identity if known.get(name) != identity[name]]
            msg = (
                f"--name: study {plan.name} was begun with other {', '.join(differ)}; give what it was begun with to "
                "go on with it, or another --name"
            )
            raise InputError(msg)
        config = merged(plan.fit_args)
        epochs = int(config.get("trainer", {}).get("max_epochs") or EPOCHS)
        parent = study.user_attrs.get(PARENT)
        if parent is None:
            parent = _parent_run(plan, config)
            study.set_user_attr(PARENT, parent)
        shown = any("enable_progress_bar" in word for word in plan.args)
        settings = {
            "study": plan.name,
            "parent": parent,
            "experiment": config.get("run", {}).get("experiment", "emotion"),
            "args": [*plan.fit_args, *(() if shown else (NO_BAR,))],
            "space": plan.space,
            "folds": plan.folds,
            "epochs": epochs,
            "objectives": plan.objectives,
            "pruner": plan.pruner,
        }
        study.set_user_attr(SETTINGS, settings)
        chosen = {"sampler": plan.sampler, "pruner": plan.pruner, "seed": plan.seed}
        study.set_user_attr(STRATEGY, {**chosen, "folds": plan.folds, "epochs": epochs})
        study.set_user_attr(PLAN, identity)  # last: with it the study is whole
    return study


def _parent_run(plan: Plan, config: dict[str, Any]) -> str:
    parent = TrackingLogger(
        experiment=config.get("run", {}).get("experiment", "emotion"),
        run_name=plan.name,
        system_metrics=False,
        tags={
            "kind": "search",
            "study": plan.name,
            "sampler": plan.sampler,
            "pruner": plan.pruner,
            "folds": str(plan.folds),
            "recipe": str(config.get("run", {}).get("recipe", "custom")),
            "arguments": json.dumps(plan.args),
        },
    )
    parent.log_text(json.dumps(plan.space, indent=2), "space.json")
    parent.close()
    return str(parent.run_id)


def _queue(
    plan: Plan, study: optuna.Study, storage: RDBStorage, trials: int, warm_start: str | None
) -> list[dict[str, Any]]:
    """Return what the study is to hold: every cell of a grid; or fixed starts, and free trials up to the number."""
    if plan.sampler == "grid":
        return list(grid(build_space(plan.space)))
    fixed = [trial.user_attrs[ENQUEUED] for trial in once_each(study) if trial.user_attrs.get(ENQUEUED)]
    for start in _starts(plan, storage, warm_start):
        if start not in fixed and len(fixed) < trials:
            fixed.append(start)
    return [*fixed, *({} for _ in range(trials - len(fixed)))]


def _starts(plan: Plan, storage: RDBStorage, warm_start: str | None) -> list[dict[str, Any]]:
    """Return the parameters of another study's finished trials, best first, as far as this space has them."""
    if warm_start is None:
        return []
    try:
        other = optuna.load_study(study_name=warm_start, storage=storage)
    except KeyError:
        known = ", ".join(optuna.get_all_study_names(storage)) or "none"
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


@contextlib.contextmanager
def _more_workers(name: str, url: str, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "sweeps.search_worker", name]
    started = [subprocess.Popen(command, env={**os.environ, VARIABLE: url}) for _ in range(count)]
    try:
        yield
        for process in started:
            process.wait()
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()  # its trial is queued again
                process.wait()
