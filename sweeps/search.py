"""A search: trials that share a queue select on inner folds, and the best is scored once on data none of them saw."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from datamodules.errors import InputError
from sweeps.gpus import environment_variables, worker_variables
from sweeps.queue import ERROR, enqueue, once_each, work
from sweeps.search_plan import Plan
from sweeps.search_study import PARENT, open_study, starts_of, wanted_trials
from sweeps.search_worker import TASK
from sweeps.storage import VARIABLE, address, close, exclusive, open_storage, quiet, require_one_worker
from sweeps.winner import Winner, scored_winner


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
        failed = work_together(plan.name, url, TASK, settings, workers)
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
