"""What a search saves against the same runs as separate commands, and what it costs a trial beside its trainings."""

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.commands import CLOCKED, Training, run, small, trainings
from benchmarks.report import Figure, say

RATIO, OVERHEAD = "search_against_separate_commands", "search_overhead_seconds"
NAME, LARGEST = "bench", 40


def overheads(spans: list[tuple[float, float]], trained: list[Training]) -> list[float]:
    """Return seconds outside training of every trial but the first, which waits for the imports of its worker.

    A trial counts from the end of the one before it: being taken from the queue is a part of it.

    Args:
        spans: start and end of the trials of one worker, in the order of their ends.
        trained: all its trainings.
    """
    found = []
    for (_, before), (_, end) in itertools.pairwise(spans):
        inside = [one.ended - one.began for one in trained if one.began >= before and one.ended <= end]
        found.append(end - before - sum(inside))
    return found


def words(options: dict[str, Any]) -> list[str]:
    """Return options as words of the command line."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return both figures; of the separate commands a few are run, and stand for all."""
    trials, folds, epochs, separate, single = (2, 2, 1, 1, 1) if toy else (20, 5, 2, 3, 1)
    options = [*small(LARGEST, epochs, ratio=2), CLOCKED]
    say(f"a search of {trials} trials, {folds} folds each")
    command = ["search", "--name", NAME, "--space", "optimizer", "--pruner", "none"]
    whole = run([*command, "--trials", str(trials), "--folds", str(folds), *options], apart=not toy)
    trained = trainings()

    from benchmarks.searches import finished, opened, seconds  # after the search: its process has imported it, too
    from sweeps.search import OPTIONS

    with opened(NAME) as study:
        done = finished(study)
    beside = overheads([seconds(trial) for trial in done], trained)
    drawn = [words(trial.user_attrs[OPTIONS]) for trial in sorted(done, key=lambda trial: trial.number)]

    say(f"{separate} of its trials as commands of their own, {single} of its trainings likewise")
    crossed = [
        run(["cross-validate", "--folds", str(folds), *options, *one], apart=not toy) for one in drawn[:separate]
    ]
    alone = []
    for fold in range(single):
        place = ["--data.split", "holdout", "--data.inner_folds", str(folds), "--data.inner_fold", str(fold)]
        alone.append(run(["fit", *options, *drawn[0], *place, "--run.evaluate", "false"], apart=not toy))

    apart = statistics.fmean(crossed) * trials
    detail: dict[str, Any] = {
        "search_seconds": round(whole, 2),
        "separate_seconds_extrapolated": round(apart, 1),
        "separate_seconds_each": [round(one, 2) for one in crossed],
        "trials": trials,
        "folds": folds,
        "setting": f"test_resnet at 32 px on drawn faces, largest class {LARGEST}, {epochs} epochs, so that what "
        "surrounds the trainings is measured",
        "same": "options as drawn by the search, folds a trial, size of model and data, caches (the search made them)",
        "differs": "a cross-validation predicts every fold's test part, with intervals and figures; a search does so "
        "once, for its winner, which is in its seconds",
        "ratio_to_single_fits": round(statistics.fmean(alone) * trials * folds / whole, 2),
        "single_fit_seconds_each": [round(one, 2) for one in alone],
        "single_fits": f"the search's own trainings as {trials * folds} commands `emotion fit` that predict nothing, "
        f"extrapolated from {single}",
    }
    said = f"seconds of {trials} commands cross-validate, extrapolated from {separate}, over those of a search"
    lost = statistics.median(beside)
    spent = {
        "median_of_trials": len(beside),
        "seconds": [round(one, 2) for one in beside],
        "a_training_of_these": round(lost / folds, 3),
        "training_seconds_a_trial": round(statistics.median(_trained_each(trained, folds)), 2),
        "until_first_trial_ended": round(whole - (seconds(done[-1])[1] - seconds(done[0])[1]), 2),
        "setting": f"one worker, SQLite, {folds} trainings a trial, each with options, data, model and a run of "
        "its own; training is from the trainer's first hook to its last",
    }
    return [
        Figure(RATIO, apart / whole, f"{said} of {trials} trials, {folds} folds", at_least=2, detail=detail),
        Figure(OVERHEAD, lost, f"seconds a trial of {folds} folds spends outside training", at_most=3, detail=spent),
    ]


def _trained_each(trained: list[Training], folds: int) -> list[float]:
    lengths = [one.ended - one.began for one in trained]
    return [sum(lengths[at : at + folds]) for at in range(0, len(lengths) - folds + 1, folds)]
