"""How soon a command answers: seconds of whole commands over those of the imports that they cannot do without."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.commands import ROOT, run, small
from benchmarks.report import Figure, say

HELPS = (
    *("data describe", "data check", "data prepare", "data cache", "predict", "explain", "export", "register"),
    *("runs list", "runs export", "runs du", "report compare", "report certify", "report bias", "ui", "sync", "info"),
)
PREDICT_NEEDS = "torch, lightning, timm, torchmetrics, mlflow"
REPEATS = 3


def seconds(words: list[str]) -> float:
    """Return the seconds that a new Python process with these words takes.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"{' '.join(words)} ended with status {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        raise RuntimeError(msg)
    return time.perf_counter() - start


def ratio(words: list[str], imports: str, repeats: int) -> tuple[float, dict[str, list[float]]]:
    """Return the median of seconds of a command over seconds of some imports, taking turns."""
    ours, theirs = [], []
    for _ in range(repeats):
        theirs.append(seconds(["-c", f"import {imports}"]))
        ours.append(seconds(words))
    found = statistics.median(own / other for own, other in zip(ours, theirs, strict=True))
    return found, {"seconds": [round(s, 2) for s in ours], f"import {imports}": [round(s, 2) for s in theirs]}


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return the ratios of help texts, of a prediction of one image, and of `runs list`."""
    repeats = 1 if toy else REPEATS
    say("import torch, lightning; and the help of each command that trains nothing")
    stack = statistics.median(seconds(["-c", "import torch, lightning"]) for _ in range(repeats))
    helps = {
        name: min(seconds(["-m", "emotion", *name.split(), "--help"]) for _ in range(repeats))
        for name in (HELPS[:2] if toy else HELPS)
    }
    slowest = max(helps, key=lambda name: helps[name])
    detail = {"import torch, lightning": round(stack, 2), "slowest": slowest, "seconds": round(helps[slowest], 3)}
    figures = [Figure("help", helps[slowest] / stack, "seconds of the slowest help over import torch, lightning",
                      at_most=0.15, detail=detail)]  # fmt: skip
    fit_help = min(seconds(["-m", "emotion", "fit", "--help"]) for _ in range(repeats))
    figures.append(
        Figure("help_of_fit", fit_help / stack, "seconds of fit --help over import torch, lightning", detail=detail)
    )
    say("one small run, to predict with and to list")
    run(["fit", *small(8, 1), "--run.resamples", "100"])
    image = next(Path(os.environ["EMOTION_CACHE_DIR"], "drawn").rglob("*.png"))
    for name, words, imports, most in (
        ("predict_one_image", ["predict", "--run", "latest", "--data", str(image)], PREDICT_NEEDS, 1.3),
        ("runs_list", ["runs", "list"], "mlflow", 1.5),
    ):
        found, timed = ratio(["-m", "emotion", *words], imports, repeats)
        figures.append(
            Figure(name, found, f"seconds of {words[0]} over import {imports}", at_most=most, detail={**timed})
        )
    return figures
