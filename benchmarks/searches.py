"""What a finished search in the current folder says of itself, through its study and its runs."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from datamodules.emotion import EmotionDataModule
from lightning_modules.config import MONITOR
from results.tracking import store
from results.tracking.runs import children, find_runs, load_table, run_config
from sweeps.search import RUN
from sweeps.workers import ERROR, close, distinct_trials, open_storage


@contextlib.contextmanager
def opened(name: str, url: str | None = None) -> Iterator[optuna.Study]:
    """Open a study of the current folder, or of another storage."""
    storage = open_storage(url)
    try:
        yield optuna.load_study(study_name=name, storage=storage)
    finally:
        close(storage)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials in the order in which they ended.

    Raises:
        RuntimeError: one failed, so times and counts would mean something else.
    """
    trials = distinct_trials(study)
    failed = [trial for trial in trials if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)]
    if failed:
        why = failed[0].user_attrs.get(ERROR, failed[0].state.name)
        msg = f"{len(failed)} of {len(trials)} trials of {study.study_name} did not finish: {why}"
        raise RuntimeError(msg)
    return sorted(trials, key=lambda trial: seconds(trial)[1])


def seconds(trial: FrozenTrial) -> tuple[float, float]:
    """Return when a trial was taken and when it ended, on the system's clock."""
    assert trial.datetime_start is not None and trial.datetime_complete is not None  # noqa: PT018 - it finished
    return trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()


def image_passes(trials: list[FrozenTrial]) -> int:
    """Return how many images the trials trained on, each as often as it was: a pass is one image in one epoch.

    Epochs are counted in the scores that every training logged, whether the study was told of them or not.
    """
    client = store.open_client()
    images: dict[str, int] = {}  # equal data options draw equal rows
    passes = 0
    for trial in trials:
        for run_id in children(str(trial.user_attrs[RUN]))["run_id"]:
            options = run_config(run_id)["data"]
            key = json.dumps(options, sort_keys=True)
            if key not in images:
                data = EmotionDataModule(**options | {"read": EmotionDataModule().read_options})
                images[key] = len(data.draws)
            passes += images[key] * len(client.get_metric_history(run_id, MONITOR))
    return passes


@dataclass(frozen=True)
class Score:
    """Macro F1 of a winner on the held-out part, with its interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value is inside the interval."""
        return self.low <= value <= self.high


def winner_score(name: str) -> Score:
    """Return the macro F1 of a study's newest winner."""
    winner = find_runs(where=f"tags.kind = 'winner' and tags.study = '{name}'", limit=1).iloc[0]
    table = load_table(winner["run_id"], "intervals")
    row = table[(table["class"] == "") & (table["metric"] == "f1_macro")].iloc[0]
    return Score(float(row["value"]), float(row["low"]), float(row["high"]))
