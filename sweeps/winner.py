"""The winner of a search: trained on all the search saw, predicted once on what it did not see, kept as a recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from datamodules.errors import InputError
from datamodules.places import replacing
from lightning_modules.config import RunConfig
from lightning_modules.training import train
from records.runs import find_runs, load_table, run_config
from records.tracking import TrackingLogger
from sweeps.lost import end_lost_run_of
from sweeps.queue import ENQUEUED, ERROR, enqueue, once_each, work
from sweeps.search_trial import OPTIONS, RUN
from sweeps.storage import exclusive

TASK = "sweeps.winner:score_winner"
_NOT_IN_A_RECIPE = ("parent", "name", "resume", "evaluate", "experiment")


@dataclass(frozen=True)
class Winner:
    """The scored winner."""

    trial: int
    run_id: str
    intervals: pd.DataFrame

    @property
    def images(self) -> int:
        """Images it was scored on."""
        return len(load_table(self.run_id, "predictions"))


def scored_winner(
    name: str, storage: RDBStorage, url: str, config: RunConfig, best: FrozenTrial, parent: str
) -> tuple[Winner, tuple[int, ...]]:
    """Return the winner of a search, trained and scored once, and the trials that won before it.

    Notes:
        Training the winner is a trial of a separate study. So, like any other trial, one worker claims it, its
        heartbeat is recorded, and another worker takes it over if that one dies. Meanwhile other machines wait, without
        a lock.

    Args:
        name: of the search.
        storage: of its study.
        url: address of the storage.
        config: what all trials share.
        best: the trial that won.
        parent: run id of the search.

    Raises:
        InputError: the winner could not be trained.
    """
    study = optuna.create_study(
        study_name=f"{name} winner", storage=storage, direction=StudyDirection.MAXIMIZE, load_if_exists=True
    )
    with exclusive(storage, study.study_name):  # no worker is in the middle of a change
        trials = once_each(study)
    winner = _known(trials, best.number)
    if winner is None:
        ended = [trial for trial in trials if _of(trial) == best.number and trial.state.is_finished()]
        wanted = {"trial": best.number, "options": best.user_attrs[OPTIONS], "attempt": len(ended)}
        enqueue(study, [wanted])
        work(
            study.study_name, url, TASK, {"search": name, "config": config.as_dict(), "parent": parent}, progress=False
        )
        trials = once_each(study)
        winner = _known(trials, best.number)
    if winner is None:
        ended = [trial for trial in trials if _of(trial) == best.number and trial.state == TrialState.FAIL]
        why = "its run is no longer in the store"
        if ended:
            why = ended[-1].user_attrs.get(ERROR, "its worker was killed each time")
        msg = f"search {name}: the winner (trial {best.number}) was not scored: {why}; run the same command again"
        raise InputError(msg)
    done = {_of(trial) for trial in trials if trial.state == TrialState.COMPLETE}
    return winner, tuple(sorted(done - {winner.trial}))


def score_winner(trial: optuna.Trial, settings: dict[str, Any]) -> float:
    """Train the winner with a usual inner split of all that the search selected on, and predict the rest once.

    Args:
        trial: holds the number and the options of the trial that won.
        settings: search (its name), config (plain data), parent (run id).

    Returns:
        Macro F1 on the held-out part.
    """
    won, name = trial.user_attrs[ENQUEUED], f"{settings['search']} winner, trial {_of(trial)}"
    end_lost_run_of(settings["parent"], name)
    place = {"run.parent": settings["parent"], "run.name": name, "run.recipe": settings["search"]}
    done = train(RunConfig.from_dict(settings["config"]).override({**won["options"], **place}))
    assert done is not None  # a trial is one process
    run_id = done.run_id
    tags = TrackingLogger(run_id=run_id, system_metrics=False)
    tags.set_tags({"kind": "winner", "study": settings["search"], "trial": str(won["trial"])})
    tags.finalize("success")
    trial.set_user_attr(RUN, run_id)
    intervals = load_table(run_id, "intervals")
    return float(intervals[intervals["metric"] == "f1_macro"].iloc[0]["value"])


def _of(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number that the winning trial has in the search."""
    return int(trial.user_attrs[ENQUEUED]["trial"])


def _known(trials: list[FrozenTrial], number: int) -> Winner | None:
    """Return the winner that was scored before, None if there is none or its run is gone."""
    for trial in trials:
        if trial.state == TrialState.COMPLETE and _of(trial) == number:
            run_id = str(trial.user_attrs[RUN])
            found = find_runs(where=f"attributes.run_id = '{run_id}'", limit=1)
            if not found.empty and found.iloc[0]["status"] == "FINISHED":
                return Winner(number, run_id, load_table(run_id, "intervals"))
    return None


def recipe_text(winner: Winner, study: str) -> str:
    """Return the winner's config as `emotion fit --config` takes it."""
    config = run_config(winner.run_id)
    config.pop("ckpt_path", None)
    config["run"] = {key: value for key, value in config["run"].items() if key not in _NOT_IN_A_RECIPE}
    config["run"]["recipe"] = study
    head = (
        f"# Best of search {study}: trial {winner.trial}. Its held-out part selected nothing, and was predicted once.\n"
    )
    return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path.absolute()) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"--write: {path} cannot be written ({error.strerror}); name a file in a folder that can"
        raise InputError(msg) from error
