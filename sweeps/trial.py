"""One trial in a process of its own, so that whatever ends it ends it alone and its memory is given back."""

import contextlib
import gc
import importlib
import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import optuna
from optuna.trial import TrialState

from datamodules.errors import InputError
from sweeps.gpus import VISIBLE_GPUS
from sweeps.storage import open_storage, quiet
from sweeps.strategies import load_study

_FAREWELL = 30.0  # seconds a finished trial's process may take to end by itself


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: COMPLETE with its values, PRUNED, or FAIL with what is wrong."""

    state: TrialState
    values: tuple[float, ...] = ()
    error: str = ""
    trace: str = ""


def run_apart(study_name: str, url: str, number: int, task: str, settings: dict[str, Any]) -> Outcome:
    """Run one trial in a child of a server that has imported the stack already, and return how it ended.

    The child ends with this process, however that ends: it waits for the pipe between them to close.

    Args:
        study_name: study of the trial.
        url: address of the storage.
        number: of the trial, which is running.
        task: "module:function"; called with the trial and the settings, returns the objective or several.
        settings: plain types.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([task.partition(":")[0], __name__])
    ours, theirs = context.Pipe()
    gpus = os.environ.get(VISIBLE_GPUS)  # the fork server that starts the child may have others
    process = context.Process(target=_main, args=(theirs, study_name, url, number, task, settings, gpus))
    process.start()
    theirs.close()
    try:
        while not wait([ours, process.sentinel], timeout=5):
            pass
        with contextlib.suppress(EOFError, OSError):
            if ours.poll():
                outcome: Outcome = ours.recv()
                process.join(_FAREWELL)  # what it has to send and to close; the end of the pipe would end it at once
                return outcome
        process.join(_FAREWELL)
        return Outcome(TrialState.FAIL, error=_death(process.exitcode))
    finally:
        ours.close()
        _end(process)


def _end(process: BaseProcess) -> None:
    """End the child and what it started; a GPU's memory is free only after that."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        memory = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with status {status} and left no result"


def _main(
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
        os.setsid()  # Ctrl-C is the worker's; it ends this process and the loaders that this one starts
    threading.Thread(target=_end_with_worker, args=(connection,), daemon=True).start()
    gc.freeze()  # the preloaded stack stays for good; searching it for garbage takes half a second a run
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
        return checked(find_task(task)(trial, settings), len(study.directions))
    except optuna.TrialPruned:
        return Outcome(TrialState.PRUNED)
    except InputError as error:
        return Outcome(TrialState.FAIL, error=str(error))
    except BaseException as error:  # SystemExit, too: it is this trial's end and nobody else's
        return Outcome(TrialState.FAIL, error=one_line(error), trace=traceback.format_exc()[-4000:])


def find_task(task: str) -> Any:  # noqa: ANN401 - any callable
    """Return the function that ``module:function`` names."""
    module, _, name = task.partition(":")
    return getattr(importlib.import_module(module), name)


def checked(values: float | Sequence[float], objectives: int) -> Outcome:
    """Return the outcome of an objective; one that is not finite fails, since Optuna would take inf for the best."""
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
