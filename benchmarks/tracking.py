"""How much of a run's time its main thread spends on logging to MLflow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing

from benchmarks.report import Figure, say
from lightning_modules.config import RunConfig
from lightning_modules.training import train
from results.tracking.logger import TrackingLogger

TOY = ["--data", "drawn:largest=12,ratio=1", "--data.size", "32", "--data.batch_size", "16", "--data.folds", "3"]
TOY += ["--data.transform_where", "none", "--data.transforms", "null", "--data.n_min", "null"]
TOY += ["--model.backbone", "resnet10t", "--model.weights", "none", "--trainer.max_epochs", "1"]


@contextmanager
def drawing_timed() -> Iterator[list[float]]:
    """Collect the seconds that saving each figure takes; they are part of the log calls."""
    save, seconds = Drawing.savefig, []

    def timed(self: Drawing, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        start = time.perf_counter()
        save(self, *args, **kwargs)
        seconds.append(time.perf_counter() - start)

    Drawing.savefig = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Drawing.savefig = save  # type: ignore[method-assign]


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return seconds in log calls over seconds of one whole run of recipe ``quick``: one fold, tables and figures."""
    start = time.perf_counter()
    first = TrackingLogger(directory=str(folder / "mlruns"), system_metrics=False)
    first.open()
    opening = time.perf_counter() - start
    first.finalize("success")
    options = TOY if toy else ["--data", "drawn:largest=1000,ratio=10"]
    say("one fold of recipe quick, with its tables and figures")
    with drawing_timed() as drawing:
        start = time.perf_counter()
        result = train(RunConfig.resolve(["--recipe", "quick", *options, "--trainer.accelerator", "cpu"]))
        total = time.perf_counter() - start
    if result is None:
        msg = "the run was not tracked"
        raise RuntimeError(msg)
    detail = {
        "logging_seconds": round(result.logging_seconds, 4),
        "of_which_drawing_figures_seconds": round(sum(drawing), 4),
        "run_seconds": round(total, 2),
        "opening_a_run_in_a_new_store_seconds": round(opening, 2),  # once a run, not part of the share
        "setting": "emotion fit --recipe quick, one fold, from drawing the faces to the last table",
    }
    about = "seconds the main thread spends in log calls over seconds of the run"
    return [Figure("logging_share", result.logging_seconds / total, about, at_most=0.01, detail=detail)]
