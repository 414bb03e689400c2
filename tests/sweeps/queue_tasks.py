"""Tasks of the trials in the tests of the queue; imported by worker processes."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import optuna

from datamodules.errors import InputError


def note(settings: dict[str, Any], text: str) -> None:
    with (Path(settings["folder"]) / "notes.txt").open("a") as file:
        file.write(text + "\n")


def lines(folder: Path) -> list[str]:
    file = folder / "notes.txt"
    return file.read_text().splitlines() if file.exists() else []


def square(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    x = trial.suggest_float("x", -1, 1)
    note(settings, f"{trial.number} {os.getpid()}")
    time.sleep(settings.get("seconds", 0))
    return x * x


def ends(trial: optuna.Trial, settings: dict[str, Any]) -> float | tuple[float, float]:
    how = trial.user_attrs["enqueued"]["how"]
    if how == "raises":
        raise RuntimeError("CUDA out of memory, or so\nsecond line")
    if how == "explains":
        raise InputError("data: no such folder")
    if how == "exits":
        sys.exit(3)
    if how == "leaves":
        os._exit(4)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "pruned":
        trial.report(9.0, 1)
        raise optuna.TrialPruned
    return {"fine": 1.0, "nan": float("nan"), "inf": float("inf"), "two": (1.0, 2.0)}[how]


def waits(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Wait for a file in the first round; start a process that must end, too."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    note(settings, f"{os.getpid()} {child}")
    while not (Path(settings["folder"]) / "go").exists():
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1.0


def gpus(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Note what this process sees, and wait until as many others have."""
    note(settings, str(os.environ.get("CUDA_VISIBLE_DEVICES")))
    end = time.monotonic() + 120
    while len(lines(Path(settings["folder"]))) < settings["workers"] and time.monotonic() < end:
        time.sleep(0.05)
    return 1.0


def scores(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Stand for the training of a winner: wait for a file."""
    folder = Path(settings["parent"])
    note({"folder": str(folder)}, str(os.getpid()))
    while not (folder / "go").exists():
        time.sleep(0.05)
    if (folder / "fails").exists():
        raise InputError("no memory")
    trial.set_user_attr("run_id", f"run {trial.number}")
    return 0.5
