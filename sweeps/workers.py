"""Queue of trials in an Optuna study, and workers that run each trial once, on any number of machines."""

import contextlib
import gc
import importlib
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from tqdm import tqdm

from datamodules.errors import InputError, invalid
from datamodules.processes import cores

if TYPE_CHECKING:  # a worker's own process needs none of this, and imports it in seconds
    from lightning_modules.config import RunConfig

EMBEDDED = "sqlite:///mlruns/optuna.db"  # in `results.tracking.store.DIRECTORY`, whose import takes seconds
VARIABLE = "OPTUNA_STORAGE"  # Optuna's own; an address in the environment is not shown by `ps`
HEARTBEAT, GRACE = 10, 60  # seconds between heartbeats, and without one until a trial is stale
MOST_RETRIES = 3  # of a trial whose worker dies every time
_LOCK = 1_163_870_542  # this project's first number of PostgreSQL's advisory locks; the study gives the second
_KINDS = "a file (sqlite:///path/to/file.db) or PostgreSQL (postgresql://user@host/database)"


def address(url: str | None = None) -> str:
    """Return the address of the storage: the given one, $OPTUNA_STORAGE, or the embedded file.

    Raises:
        InputError: Neither a SQLite file nor PostgreSQL.
    """
    url = url or os.environ.get(VARIABLE) or EMBEDDED
    scheme, _, rest = url.partition("://")
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest.strip("/"):
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and rest.startswith("/") and rest[1:] and rest[1:] != ":memory:":
        return url
    from results.tracking.store import without_password

    msg = f"--storage: {_KINDS}, got {without_password(url)!r}; leave it out for {EMBEDDED}"
    raise InputError(msg)


def is_shared(url: str) -> bool:
    """Return whether several workers may use this storage at once."""
    return url.startswith("postgresql")


def require_one_worker(url: str, workers: int) -> None:
    """Refuse several workers on a SQLite file.

    Raises:
        InputError: Several workers on a SQLite file.
    """
    if workers > 1 and not is_shared(url):
        msg = (
            f"--workers: {workers} workers need PostgreSQL, and the storage is a SQLite file: there one worker's write "
            "locks the others out, and trials fail with `database is locked`. Give --storage "
            "postgresql://user@host/database, or --workers 1"
        )
        raise InputError(msg)


def open_storage(
    url: str | None = None, *, heartbeat: int = HEARTBEAT, grace: int = GRACE, checked: bool = False
) -> RDBStorage:
    """Open the storage; its tables are created where they are missing.

    A password can be in the address, in $PGPASSWORD or in ~/.pgpass; it is never printed.

    Args:
        url: Address; None: $OPTUNA_STORAGE, or else the embedded file.
        heartbeat: Seconds between heartbeats of a running trial.
        grace: Seconds without one until a trial is stale and queued again.
        checked: The tables are known to exist and to fit; checking takes two seconds, which no trial should pay.

    Raises:
        InputError: Neither a SQLite file nor PostgreSQL, or a storage that does not answer.
    """
    url = address(url)
    if not is_shared(url):
        folder = Path(urlsplit(url).path[1:]).absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"--storage: the folder {folder} cannot be made ({error.strerror}); name a file in another folder"
            raise InputError(msg) from error
    options = {"pool_pre_ping": True} if is_shared(url) else {"connect_args": {"timeout": 30}}
    for left in (2, 1, 0):
        try:
            with quiet():
                return RDBStorage(
                    url,
                    engine_kwargs=options,
                    heartbeat_interval=heartbeat,
                    grace_period=grace,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES),
                    skip_compatibility_check=checked,
                    skip_table_creation=checked,
                )
        except (SQLAlchemyError, ArgumentError, RuntimeError, ImportError, OSError) as error:
            if left and "already exists" in str(error):  # another worker created the tables at the same time
                time.sleep(1)
                continue
            from results.tracking.store import reason, without_password

            msg = (
                f"--storage: {without_password(url)} must be a database that answers, it did not "
                f"({reason(error)}). Start the server and create the database (createdb), or correct the address; a "
                "password can be set in $PGPASSWORD or ~/.pgpass"
            )
            raise InputError(msg) from None  # the cause may hold the whole address
    raise AssertionError


def close(storage: RDBStorage) -> None:
    """Close the storage's connections."""
    storage.remove_session()
    storage.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's warnings of experimental features (heartbeats) and its line for every study."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with")
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def exclusive(storage: RDBStorage, study_name: str) -> Iterator[None]:
    """Lock a study's queue, so that one process at a time changes it; a process that dies frees the lock.

    Taking a trial, adding trials and queueing stale ones again are several steps each. Whatever a worker that is killed
    between two steps leaves behind, the next one to hold the lock can see and repair.
    """
    number = zlib.crc32(study_name.encode())
    if not is_shared(str(storage.url)):
        path = Path(urlsplit(str(storage.url)).path[1:]).absolute()
        with FileLock(path.with_name(f"{path.name}.{number:08x}.lock")):
            yield
        return
    key = {"one": _LOCK, "two": number - 2**31}
    with storage.engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:one, :two)"), key)
        connection.commit()  # the lock is the session's; an open transaction would hold back the database's cleaning
        try:
            yield
        finally:
            with contextlib.suppress(SQLAlchemyError):  # a connection that was lost has lost its lock
                connection.execute(text("select pg_advisory_unlock(:one, :two)"), key)
                connection.commit()


@contextlib.contextmanager
def only_worker(url: str) -> Iterator[None]:
    """Lock a SQLite file for this worker; a shared storage takes any number of workers.

    Raises:
        InputError: Another worker is using the file.
    """
    if is_shared(url):
        yield
        return
    path = Path(urlsplit(url).path[1:]).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".worker"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        msg = (
            f"--storage: another worker is using {path}, and a SQLite file serves one at a time; wait for it, or use "
            "--storage postgresql://user@host/database for several"
        )
        raise InputError(msg) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def heartbeats(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Record a trial's heartbeats in the background; an outage of the storage ends nothing."""
    ended = threading.Event()
    interval = storage.get_heartbeat_interval() or HEARTBEAT

    def beat() -> None:
        while not ended.wait(interval):
            with contextlib.suppress(Exception):  # the next one is due soon; telling the result will say what is wrong
                storage.record_heartbeat(trial_id)

    storage.record_heartbeat(trial_id)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


SamplerName = Literal["tpe", "grid", "random", "nsga2"]
PrunerName = Literal["hyperband", "wilcoxon", "none"]
STRATEGY = "strategy"  # the study's attribute that stores sampler and pruner, so that every worker uses the same
STARTUP = 10  # random trials before TPE models anything
FOLDS_BEFORE_WILCOXON = 5  # with fewer, no p is below .1


def check_strategy(sampler: str, pruner: str, objectives: int, folds: int) -> None:
    """Check that sampler, pruner, objectives and folds go together.

    Raises:
        InputError: Two objectives with a pruner, or the Wilcoxon pruner with few folds.
    """
    problem = ""
    if objectives == 2 and pruner != "none":
        problem = f"--pruner {pruner}: a trial of two objectives cannot be pruned; give --pruner none"
    elif pruner == "wilcoxon" and folds <= FOLDS_BEFORE_WILCOXON:
        problem = (
            "--pruner wilcoxon: compares trials fold by fold and cannot end one before the fifth, "
            f"got --folds {folds}; give at least 6 folds, or --pruner hyperband"
        )
    if problem:
        raise InputError(problem)


def build_sampler(strategy: Mapping[str, Any], number: int) -> BaseSampler:
    """Return the sampler for one trial.

    It is seeded by the trial's number, since every trial has a process of its own: workers draw different points, and
    a trial that is queued again draws from the same stream on every worker.
    """
    seed = (int(strategy.get("seed", 0)) * 1_000_003 + number) % 2**32
    name = strategy.get("sampler", "random")
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)  # running trials count as poor ones
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=20)
    return RandomSampler(seed=seed)  # of a grid every cell is queued, so nothing is left to draw


def build_pruner(strategy: Mapping[str, Any]) -> BasePruner:
    """Return the pruner; Hyperband's steps are ``fold * epochs + epoch``, Wilcoxon's the folds."""
    name = strategy.get("pruner", "none")
    if name == "hyperband":
        steps = int(strategy["folds"]) * int(strategy["epochs"])
        return HyperbandPruner(min_resource=max(1, math.ceil(steps / 9)), max_resource=steps, reduction_factor=3)
    if name == "wilcoxon":
        return WilcoxonPruner(p_threshold=0.1)
    return NopPruner()


def load_study(name: str, storage: optuna.storages.BaseStorage, number: int) -> optuna.Study:
    """Return the study as one trial's process needs it: with its own sampler and pruner."""
    study = optuna.load_study(study_name=name, storage=storage, sampler=RandomSampler(), pruner=NopPruner())
    strategy = study.user_attrs.get(STRATEGY, {})
    study.sampler, study.pruner = build_sampler(strategy, number), build_pruner(strategy)
    return study


VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def require_one_device(config: "RunConfig", command: str) -> None:
    """Refuse several devices where each training is one process.

    Raises:
        InputError: The trainer has several devices or nodes.
    """
    devices, nodes = config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1)
    if (str(devices) not in ("1", "auto") and not (isinstance(devices, list) and len(devices) == 1)) or nodes != 1:
        hint = "give --workers N, which uses one GPU for each worker"
        raise invalid("--trainer.devices", f"must be 1 in {command}, with one node", devices, hint)


def worker_gpus(workers: int) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each worker: worker i gets GPU i modulo the number of GPUs.

    None leaves the variable as it is: without a GPU, and for a single worker, whose trainings may use several GPUs.
    """
    import torch

    count = torch.cuda.device_count()
    if workers < 2 or not count:
        return [None] * workers
    listed = os.environ.get(VISIBLE_GPUS)
    visible = [name.strip() for name in listed.split(",")][:count] if listed else [str(gpu) for gpu in range(count)]
    return [visible[worker % len(visible)] for worker in range(workers)]


def worker_variables(workers: int) -> list[dict[str, str]]:
    """Return the environment variables that each worker gets besides those of this process.

    Threads are divided, unless OMP_NUM_THREADS is set: otherwise each worker would use all cores.
    """
    alone = workers == 1 or "OMP_NUM_THREADS" in os.environ
    threads = {} if alone else {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
    return [threads | ({} if gpu is None else {VISIBLE_GPUS: gpu}) for gpu in worker_gpus(workers)]


@contextlib.contextmanager
def environment_variables(new: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started in this context."""
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_CLOSING = 30.0  # seconds a finished trial's process may take to end by itself


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: COMPLETE with its values, PRUNED, or FAIL with what is wrong."""

    state: TrialState
    values: tuple[float, ...] = ()
    error: str = ""
    trace: str = ""


def run_in_child(study_name: str, url: str, number: int, task: str, settings: dict[str, Any]) -> Outcome:
    """Run one trial in a child process, forked from a server with all imports done, and return how it ended.

    The child ends with this process, however that ends: it waits for the pipe between them to close.

    Args:
        study_name: Study of the trial.
        url: Address of the storage.
        number: Number of the trial, which is running.
        task: "module:function"; called with the trial and the settings, returns the objective or several.
        settings: Plain types.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([task.partition(":")[0], __name__])
    ours, theirs = context.Pipe()
    gpus = os.environ.get(VISIBLE_GPUS)  # the fork server that starts the child may have others
    process = context.Process(target=_run_trial, args=(theirs, study_name, url, number, task, settings, gpus))
    process.start()
    theirs.close()
    try:
        while not wait([ours, process.sentinel], timeout=5):
            pass
        with contextlib.suppress(EOFError, OSError):
            if ours.poll():
                outcome: Outcome = ours.recv()
                process.join(_CLOSING)  # it sends its last entries; closing the pipe would end it at once
                return outcome
        process.join(_CLOSING)
        return Outcome(TrialState.FAIL, error=_exit_text(process.exitcode))
    finally:
        ours.close()
        _end(process)


def _end(process: BaseProcess) -> None:
    """End the child and its own processes; a GPU's memory is free only after that."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()


def _exit_text(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        memory = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with status {status} and left no result"


def _run_trial(
    connection: Connection,
    study_name: str,
    url: str,
    number: int,
    task: str,
    settings: dict[str, Any],
    gpus: str | None,
) -> None:
    os.environ.pop(VISIBLE_GPUS, None)
    if gpus is not None:
        os.environ[VISIBLE_GPUS] = gpus
    with contextlib.suppress(PermissionError):
        os.setsid()  # Ctrl-C stops the worker, which ends this process and its loader processes
    threading.Thread(target=_end_with_worker, args=(connection,), daemon=True).start()
    gc.freeze()  # preloaded modules stay; collecting them takes half a second a run
    with quiet():
        outcome = _outcome(study_name, url, number, task, settings)
    with contextlib.suppress(OSError):
        connection.send(outcome)


def _end_with_worker(connection: Connection) -> None:
    """Wait for the end of the pipe, which comes when the worker has ended, even if it was killed."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _outcome(study_name: str, url: str, number: int, task: str, settings: dict[str, Any]) -> Outcome:
    try:
        storage = open_storage(url, checked=True)
        study = load_study(study_name, storage, number)
        study_id = storage.get_study_id_from_name(study_name)
        study.get_trials(deepcopy=False)  # Optuna's cache takes values only for trials that it has seen
        trial = optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))
        return outcome_of(find_task(task)(trial, settings), len(study.directions))
    except optuna.TrialPruned:
        return Outcome(TrialState.PRUNED)
    except InputError as error:
        return Outcome(TrialState.FAIL, error=str(error))
    except BaseException as error:  # SystemExit, too: it ends this trial alone
        return Outcome(TrialState.FAIL, error=one_line(error), trace=traceback.format_exc()[-4000:])


def find_task(task: str) -> Any:  # noqa: ANN401 - any callable
    """Return the function that ``module:function`` names."""
    module, _, name = task.partition(":")
    return getattr(importlib.import_module(module), name)


def outcome_of(values: float | Sequence[float], objectives: int) -> Outcome:
    """Return the outcome of an objective; a value that is not finite fails, since for Optuna inf would be the best."""
    numbers = tuple(float(value) for value in (values if isinstance(values, Sequence) else (values,)))
    if len(numbers) != objectives:
        return Outcome(TrialState.FAIL, error=f"the study has {objectives} objectives, the trial gave {len(numbers)}")
    if not all(math.isfinite(value) for value in numbers):
        shown = ", ".join(map(str, numbers))
        return Outcome(TrialState.FAIL, error=f"the objective must be a finite number, got {shown}")
    return Outcome(TrialState.COMPLETE, numbers)


def one_line(error: BaseException) -> str:
    """Return the type of an error and its first line; of an InputError the whole message."""
    if isinstance(error, InputError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__


KEY, ENQUEUED, ERROR, TRACE, WORKER = "key", "enqueued", "error", "traceback", "worker"  # attributes of a trial
POLL = 2.0  # seconds between two looks while other workers run the last trials


def enqueue(study: optuna.Study, params: Sequence[Mapping[str, Any]], *, retry_failed: bool = False) -> int:
    """Add a waiting trial for each of `params` that the study does not have yet.

    Notes:
        * Equal entries count: of 30 empty ones (whose parameters the sampler suggests) a study with 12 gets 18 more.
        * Stale trials that were queued again count once.
        * Two processes that add the same trials at once add them once.

    Args:
        study: From `create_study` or `load_study`.
        params: Fixed parameters by name; the others are suggested. Plain types. A task reads them in
            ``trial.user_attrs["enqueued"]``, or by suggesting them.
        retry_failed: Trials that failed by themselves do not count, so they are added again. Those that were stopped
            never count.

    Returns:
        How many were added.
    """
    added = 0
    with quiet(), exclusive(_storage(study), study.study_name):
        _requeue_stale(study)  # what is left of them was stopped as often as a trial is queued again by itself
        present = Counter(
            str(trial.user_attrs[KEY])
            for trial in study.get_trials(deepcopy=False)
            if KEY in trial.user_attrs and not was_stopped(trial) and not (retry_failed and failed_by_itself(trial))
        )
        for fixed in params:
            key = json.dumps(fixed, sort_keys=True)
            if present[key]:
                present[key] -= 1
                continue
            study.enqueue_trial(dict(fixed), user_attrs={KEY: key, ENQUEUED: dict(fixed)})
            added += 1
    return added


def distinct_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials without stale ones that were queued again under another number."""
    trials = study.get_trials(deepcopy=False)
    requeued = _queued_again(trials)
    return [trial for trial in trials if trial.number not in requeued]


def failed_by_itself(trial: FrozenTrial) -> bool:
    """Return whether a trial failed for a reason of its own, not because its worker ended."""
    return trial.state == TrialState.FAIL and ERROR in trial.user_attrs


def was_stopped(trial: FrozenTrial) -> bool:
    """Return whether a trial ended because its worker ended."""
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


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
        study_name: An existing study.
        storage_url: Its storage; None: $OPTUNA_STORAGE, or else the embedded file.
        task: "module:function", called with the trial and the settings; returns the objective, or several.
        settings: Plain types.
        progress: Show a bar.
        heartbeat: Seconds between heartbeats.
        grace: Seconds without one until a trial is stale.

    Raises:
        InputError: The storage does not answer, or is a SQLite file that another worker uses.
    """
    url = address(storage_url)
    with only_worker(url), quiet(), _sigterm_stops(), contextlib.ExitStack() as end:
        storage = open_storage(url, heartbeat=heartbeat, grace=grace)
        end.callback(close, storage)
        # a trial's own process has the sampler and the pruner; this one only claims and closes trials
        study = optuna.load_study(study_name=study_name, storage=storage, sampler=RandomSampler(), pruner=NopPruner())
        if not is_shared(url):
            _fail_all_running(study)
        bar = tqdm(desc=study_name, unit="trial", disable=None if progress else True)
        with contextlib.closing(bar):
            while True:
                trial = _claim(study)
                _update_bar(bar, study)
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
        with heartbeats(storage, trial_id):
            trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
            outcome = run_in_child(study.study_name, url, trial.number, task, settings)
            _tell(study, trial, outcome)
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(Exception), exclusive(storage, study.study_name):
            study.tell(trial.number, state=TrialState.FAIL)
            _requeue_stale(study)
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
    except ValueError:  # no heartbeat reached the storage for too long, and another worker has queued it again
        print(
            f"note: trial {trial.number} missed its heartbeats and was queued again; its result is dropped",
            file=sys.stderr,
        )


def _claim(study: optuna.Study) -> optuna.Trial | None:
    """Claim the next waiting trial, after queueing stale ones again; None when none waits.

    Its first heartbeat is recorded before it is claimed, so that a worker killed in between leaves a stale trial.
    """
    storage = _storage(study)
    with exclusive(storage, study.study_name):
        fail_stale_trials(study)
        _requeue_stale(study)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            return None
        storage.record_heartbeat(_trial_id(study, waiting[0].number))
        return study.ask()


def _fail_all_running(study: optuna.Study) -> None:
    """Fail running trials of workers that ended; for storages of which this is the only worker."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _requeue_stale(study: optuna.Study) -> None:
    """Queue stale trials again that were failed and not queued, since the worker that failed them was killed, too."""
    queue_again = cast(RetryHeartbeatStaleTrialCallback, _storage(study).get_heartbeat_stale_trial_callback())
    trials = study.get_trials()  # copies: the callback writes into its argument
    known = _queued_again(trials)
    for trial in trials:
        if trial.state == TrialState.FAIL and ERROR not in trial.user_attrs and trial.number not in known:
            queue_again(study, trial)


def _queued_again(trials: Sequence[FrozenTrial]) -> set[int]:
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


def _update_bar(bar: tqdm, study: optuna.Study) -> None:
    trials = distinct_trials(study)
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
    """Let SIGTERM end this worker, which queues its trial again."""
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


def work_together(name: str, url: str, task: str, settings: dict[str, Any], workers: int) -> int:
    """Run trials in this process and in other worker processes, one GPU each, until none is left.

    Args:
        name: Name of the study.
        url: Address of its storage.
        task: "module:function", as in `work`.
        settings: Settings of the task.
        workers: Number of processes, with this one.

    Returns:
        How many other workers ended with an error, such as a database that accepts no more connections. A worker that
        was killed does not count: the others ran its trial. Both are reported on stderr.
    """
    own, *others = worker_variables(workers)
    with _other_workers(name, url, task, settings, others) as processes:
        with environment_variables(own):
            work(name, url, task, settings)
        statuses = [process.wait() for process in processes]
    for number, status in enumerate(statuses, start=2):
        if status:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"
            print(f"warning: worker {number} of {workers} {how}; the others ran its trials", file=sys.stderr)
    return sum(status > 0 for status in statuses)


@contextlib.contextmanager
def _other_workers(
    name: str, url: str, task: str, settings: dict[str, Any], variables: Sequence[dict[str, str]]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a worker with each of these environment variables, and end those that still run at the end."""
    code = "import sys; from sweeps.workers import main; sys.exit(main(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, name, task]
    started: list[subprocess.Popen[str]] = []
    try:
        for own in variables:
            new = {**os.environ, VARIABLE: url, **own}
            process = subprocess.Popen(command, env=new, stdin=subprocess.PIPE, text=True)
            started.append(process)
            assert process.stdin is not None  # a pipe
            with contextlib.suppress(BrokenPipeError):  # it has ended, and printed why
                process.stdin.write(json.dumps(settings))
                process.stdin.close()
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()  # its trial is queued again
                process.wait()


def main(name: str, task: str) -> int:
    """Run trials of a study in a process of its own; on an error print one line on stderr and return 1.

    The address of the storage comes in the environment, where `ps` does not show it, and the settings of the task on
    standard input: not from the study, since on another machine the data may lie elsewhere.
    """
    try:
        work(name, None, task, json.load(sys.stdin), progress=False)
    except Exception as error:
        print(f"error: a worker of search {name} failed: {one_line(error)}", file=sys.stderr)
        return 1
    return 0
