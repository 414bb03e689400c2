"""Time of complete commands: how soon they answer, and two search workers against one."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import Figure, median_ratio

ROOT = Path(__file__).resolve().parent.parent
HELPS = (
    *("data describe", "data check", "data prepare", "data cache", "predict", "explain", "export", "register"),
    *("runs list", "runs export", "runs du", "report compare", "report certify", "report bias", "ui", "sync", "info"),
)
PREDICT_NEEDS = "torch, lightning, timm, torchmetrics, mlflow"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def seconds(*words: str) -> float:
    """Return the seconds that a new Python process with these words takes.

    Raises:
        RuntimeError: It failed; with the end of what it printed.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{' '.join(words)} ended with status {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        raise RuntimeError(msg)
    return time.perf_counter() - start


def emotion(*words: str) -> float:
    """Return the seconds that a command of ours takes."""
    return seconds("-m", "emotion", *words)


def small(largest: int, epochs: int) -> list[str]:
    """Return options for a training of seconds, in which what surrounds it shows."""
    return [
        *("--data", f"drawn:largest={largest},ratio=1,size=32", "--data.size", "32", "--data.batch_size", "32"),
        *("--model.backbone", "test_resnet", "--model.weights", "none", "--trainer.accelerator", "cpu"),
        *("--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"),
    ]


def startup(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure help texts, the prediction of one image and `runs list` over the imports that they cannot do without."""
    repeats = 1 if toy else 3
    stack = statistics.median(seconds("-c", "import torch, lightning") for _ in range(repeats))
    names = [*HELPS[: 2 if toy else None], "fit"]
    helps = {name: min(emotion(*name.split(), "--help") for _ in range(repeats)) for name in names}
    fit = helps.pop("fit")
    slowest = max(helps.values())
    detail = {"import torch, lightning": stack, "helps": helps, "fit --help": fit}
    about = "over import torch, lightning"
    figures = [
        Figure("help", slowest / stack, f"seconds of the slowest help {about}", "<= 0.15", detail),
        Figure("help_of_fit", fit / stack, f"seconds of fit --help {about}", detail=detail),
    ]
    emotion("fit", *small(8, 1), "--run.resamples", "100")  # a run to predict with and to list
    image = next((folder / "cache" / "drawn").rglob("*.png"))
    for name, words, imports, target in (
        ("predict_one_image", ["predict", "--run", "latest", "--data", str(image)], PREDICT_NEEDS, "<= 1.3"),
        ("runs_list", ["runs", "list"], "mlflow", "<= 1.5"),
    ):
        turns = [(emotion(*words), seconds("-c", f"import {imports}")) for _ in range(repeats)]
        ours, theirs = zip(*turns, strict=True)
        about = f"seconds of {words[0]} over import {imports}"
        figures.append(
            Figure(name, median_ratio(ours, theirs), about, target, {"seconds": ours, "reference_seconds": theirs})
        )
    return figures


def memory(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure trainings of 15 steps with freed memory given back and kept: processor time, and largest memory."""
    size = small(8, 1) if toy else [
        *("--data", "drawn:largest=100,ratio=1,size=64", "--data.batch_size", "64", "--data.num_workers", "0"),
        *("--trainer.limit_train_batches", "5", "--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false"),
    ]  # fmt: skip
    figures = []
    for recipe in ("strong", "baseline"):
        command = [sys.executable, "-m", "emotion", "fit", "--recipe", recipe, *size]
        back = _used(command, folder, {"MALLOC_TRIM_THRESHOLD_": "131072"})  # glibc's own value
        kept = _used(command, folder, {})
        detail = {"given_back": back, "kept": kept, "command": command[2:]}
        time_ratio, peak = back[0] / kept[0], kept[1] / back[1]
        about = f"of {recipe} with freed memory"
        figures += [
            Figure(f"kept_memory_{recipe}", time_ratio, f"processor time {about} given back over kept", "", detail),
            Figure(f"kept_memory_{recipe}_peak", peak, f"largest memory {about} kept over given back", "", detail),
        ]
    return figures


def _used(command: Sequence[str], folder: Path, variables: dict[str, str]) -> tuple[float, float]:
    """Return the processor time of a command in seconds, and its largest memory in GB.

    Raises:
        RuntimeError: It failed; with the end of what it printed.
    """
    log = folder / "memory.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=_environment() | variables, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        msg = f"{' '.join(command[1:])} ended with status {process.returncode}: {log.read_text()[-2000:]}"
        raise RuntimeError(msg)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def workers(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure the seconds of a search by one worker over those by two, on the PostgreSQL of OPTUNA_STORAGE."""
    if not os.environ.get("OPTUNA_STORAGE", "").startswith("postgresql"):
        why = "not measured: set OPTUNA_STORAGE to the address of a PostgreSQL database for tests"
        return [Figure("two_workers", None, why)]
    largest, epochs, trials = (24, 1, 1) if toy else (60, 3, 6)
    search = ["search", "--space", "optimizer", "--pruner", "none", "--folds", "2", "--trials", str(trials)]
    one, two = (
        emotion(*search, *small(largest, epochs), "--name", f"bench-{time.time_ns()}", "--workers", str(number))
        for number in (1, 2)
    )
    detail = {
        "seconds": [one, two],
        "setting": f"{trials} trials of 2 folds, test_resnet at 32 px, largest class {largest}, {epochs} epochs; "
        "complete commands, with the start of each worker and the winner's training",
    }
    return [Figure("two_workers", one / two, "seconds of a search by one worker over those by two", detail=detail)]
