"""Trials that wait in a study, and workers that run each of them once, on any number of machines."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from sweeps.storage import (
    GRACE,
    HEARTBEAT,
    address,
    alive,
    close,
    exclusive,
    is_shared,
    only_worker,
    open_storage,
    quiet,
)
from sweeps.trial import Outcome, run_apart

KEY, ENQUEUED, ERROR, TRACE, WORKER = "key", "enqueued", "error", "traceback", "worker"  # attributes of a trial
POLL = 2.0  # seconds between two looks while other workers run the last trials


def enqueue(study: optuna.Study, params: Sequence[Mapping[str, Any]], *, retry_failed: bool = False) -> int:
    """Add a waiting trial for each of `params` that the study does not hold yet.

    Notes:
        * Equal entries count: of 30 empty ones (whose parameters the sampler suggests) a study with 12 gets 18 more.
        * Trials that were lost with their worker and queued again count once.
        * Two processes that add the same at once add it once.

    Args:
        study: from `create_study` or `load_study`.
        params: parameters that are fixed, by name; the others are suggested. Plain types. A task reads them in
            ``trial.user_attrs["enqueued"]``, or by suggesting them.
        retry_failed: trials that failed by themselves do not count, so they are added again.

    Returns:
        How many were added.
    """
    added = 0
    with quiet(), exclusive(_storage(study), study.study_name):
        held = Counter(
            str(trial.user_attrs[KEY])
            for trial in once_each(study)
            if KEY in trial.user_attrs and not (retry_failed and failed_by_itself(trial))
        )
        for one in params:
            key = json.dumps(one, sort_keys=True)
            if held[key]:
                held[key] -= 1
                continue
            study.enqueue_trial(dict(one), user_attrs={KEY: key, ENQUEUED: dict(one)})
            added += 1
    return added


def once_each(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials without those that were lost and queued again under another number."""
    trials = study.get_trials(deepcopy=False)
    again = _queued_again(trials)
    return [trial for trial in trials if trial.number not in again]


def failed_by_itself(trial: FrozenTrial) -> bool:
    """Return whether a trial failed for a reason of its own, rather than being lost with its worker."""
    return trial.state == TrialState.FAIL and ERROR in trial.user_attrs


def work(
    study_name: str,
    storage_url: str | None,
    task: str,
    settings: dict[str, Any],
    *,
    progress: bool = True,
    heartbeat: int = HEARTBEAT,
    grace: int = GRACE,
) -> None:
    """Run waiting trials until none waits and none is running elsewhere.

    Notes:
        * Every trial runs in a process of its own. One that raises, is killed or gives no finite number fails alone,
          with its reason in ``user_attrs["error"]``.
        * When this worker is stopped or killed, its trial is queued again: at once, or when its heartbeat is missed.

    Args:
        study_name: an existing study.
        storage_url: its storage; None: $OPTUNA_STORAGE, or else the embedded file.
        task: "module:function", called with the trial and the settings; returns the objective, or several.
        settings: plain types.
        progress: show a bar.
        heartbeat: seconds between signs of life.
        grace: seconds without one until another worker takes the trial for lost.

    Raises:
        InputError: the storage does not answer, or is a SQLite file that another worker uses.
    """
    url = address(storage_url)
    with only_worker(url), quiet(), _sigterm_stops(), contextlib.ExitStack() as end:
        storage = open_storage(url, heartbeat=heartbeat, grace=grace)
        end.callback(close, storage)
        # a trial's own process has the sampler and the pruner; here trials are only taken and closed
        study = optuna.load_study(study_name=study_name, storage=storage, sampler=RandomSampler(), pruner=NopPruner())
        if not is_shared(url):
            _fail_all_running(study)
        bar = tqdm(desc=study_name, unit="trial", disable=None if progress else True)
        with contextlib.closing(bar):
            while True:
                trial = _take(study)
                _show(bar, study)
                if trial is not None:
                    _run(study, trial, url, task, settings, bar)
                elif study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    bar.set_postfix_str("waiting for other workers")
                    time.sleep(min(POLL, grace / 2))
                else:
                    return


def _run(study: optuna.Study, trial: optuna.Trial, url: str, task: str, settings: dict[str, Any], bar: tqdm) -> None:
    storage = _storage(study)
    trial_id = _trial_id(study, trial.number)
    try:
        with alive(storage, trial_id):
            trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
            outcome = run_apart(study.study_name, url, trial.number, task, settings)
            _tell(study, trial, outcome)
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(Exception), exclusive(storage, study.study_name):
            study.tell(trial.number, state=TrialState.FAIL)
            _queue_lost(study)
        raise
    if outcome.state == TrialState.FAIL:
        bar.write(f"trial {trial.number} failed: {outcome.error}", file=sys.stderr)


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome) -> None:
    if outcome.state == TrialState.FAIL:
        trial.set_user_attr(ERROR, outcome.error or "unknown")
        if outcome.trace:
            trial.set_user_attr(TRACE, outcome.trace)
    values = outcome.values if outcome.state == TrialState.COMPLETE else None
    try:
        study.tell(trial.number, list(values) if values else None, state=outcome.state)
    except ValueError:  # no sign of life reached the storage for too long, and another worker has queued it again
        print(f"note: trial {trial.number} was taken for lost and queued again; its result is dropped", file=sys.stderr)


def _take(study: optuna.Study) -> optuna.Trial | None:
    """Take the next waiting trial, lost ones among them; None when none waits.

    Its first sign of life is given before it is taken, so that a worker killed in between leaves a trial that others
    know to be lost.
    """
    storage = _storage(study)
    with exclusive(storage, study.study_name):
        fail_stale_trials(study)
        _queue_lost(study)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            return None
        storage.record_heartbeat(_trial_id(study, waiting[0].number))
        return study.ask()


def _fail_all_running(study: optuna.Study) -> None:
    """Fail what a worker that is gone has left running; for storages of which this is the only worker."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _queue_lost(study: optuna.Study) -> None:
    """Queue again what was failed for being lost, and was not queued again since its finder was killed, too."""
    again = cast(RetryHeartbeatStaleTrialCallback, _storage(study).get_heartbeat_stale_trial_callback())
    trials = study.get_trials()  # copies: the callback writes into what it is given
    known = _queued_again(trials)
    for trial in trials:
        if trial.state == TrialState.FAIL and ERROR not in trial.user_attrs and trial.number not in known:
            again(study, trial)


def _queued_again(trials: Sequence[FrozenTrial]) -> set[int]:
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


def _show(bar: tqdm, study: optuna.Study) -> None:
    trials = once_each(study)
    bar.total, bar.n = len(trials), sum(trial.state.is_finished() for trial in trials)
    done = [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE and trial.values]
    if done:
        best = max(done) if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else min(done)
        bar.set_postfix_str(f"best {best:.4f}", refresh=False)
    bar.refresh()


def _storage(study: optuna.Study) -> RDBStorage:
    """Return the storage behind the cache that Optuna puts before it."""
    storage: Any = study._storage
    return cast(RDBStorage, getattr(storage, "_backend", storage))


def _trial_id(study: optuna.Study, number: int) -> int:
    storage = _storage(study)
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), number)


@contextlib.contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Turn SIGTERM into the end of this worker, which queues its trial again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
