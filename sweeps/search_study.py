"""The Optuna study behind a search: made or found again, and what it is to hold."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from datamodules.errors import InputError
from records.tracking import TrackingLogger
from sweeps.queue import ENQUEUED, once_each
from sweeps.search_plan import Plan
from sweeps.spaces import build_space, grid
from sweeps.storage import exclusive
from sweeps.strategies import STRATEGY

PLAN, PARENT = "plan", "parent"  # attributes of a search's study
_SAID = {"options": "recipe or options (of `emotion fit`)", "data": "data (images or labels)", "seed": "--sampler-seed"}


def open_study(plan: Plan, storage: RDBStorage) -> optuna.Study:
    """Return the study of a search, made if there is none; its MLflow run is made with it.

    Raises:
        InputError: a study of that name is no search, or was begun with other options or other data.
    """
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: plan.objectives]
    identity = plan.identity  # reads the data, which nobody should wait for
    study = optuna.create_study(study_name=plan.name, storage=storage, directions=directions, load_if_exists=True)
    with exclusive(storage, plan.name):
        known = study.user_attrs.get(PLAN)
        if known is None and study.get_trials(deepcopy=False):
            msg = f"--name: {plan.name} is a study that is no search; choose another name"
            raise InputError(msg)
        if known is not None:
            check_same(plan.name, known, identity)
            return study
        if PARENT not in study.user_attrs:
            study.set_user_attr(PARENT, _parent_run(plan))
        chosen = {"sampler": plan.sampler, "pruner": plan.pruner, "seed": plan.seed}
        study.set_user_attr(STRATEGY, {**chosen, "folds": plan.folds, "epochs": plan.epochs})
        study.set_user_attr(PLAN, identity)  # last: with it the study is whole
    return study


def check_same(name: str, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a search that was begun with other options or on other data.

    Raises:
        InputError: saying what differs.
    """
    differ = [_SAID.get(key, f"--{key}") for key in identity if known.get(key) != identity[key]]
    if differ:
        msg = (
            f"--name: study {name} was begun with other {', '.join(differ)}; give what it was begun with to "
            "go on with it, or another --name"
        )
        raise InputError(msg)


def _parent_run(plan: Plan) -> str:
    parent = TrackingLogger(
        experiment=plan.experiment,
        run_name=plan.name,
        system_metrics=False,
        tags={
            "kind": "search",
            "study": plan.name,
            "sampler": plan.sampler,
            "pruner": plan.pruner,
            "folds": str(plan.folds),
            "recipe": str(plan.config.run["recipe"]),
            "manifest": plan.data.manifest.fingerprint(),
            "identity": hashlib.sha256(json.dumps(plan.identity, sort_keys=True).encode()).hexdigest(),
        },
    )
    parent.log_text(plan.config.to_yaml(), "config.yaml")
    parent.log_text(json.dumps(plan.space, indent=2), "space.json")
    parent.close()
    return str(parent.run_id)


def wanted_trials(
    plan: Plan, study: optuna.Study, storage: RDBStorage, trials: int, warm_start: str | None
) -> list[dict[str, Any]]:
    """Return what the study is to hold: every cell of a grid; or fixed starts, and free trials up to the number."""
    if plan.sampler == "grid":
        return list(grid(build_space(plan.space)))
    fixed = [trial.user_attrs[ENQUEUED] for trial in once_each(study) if trial.user_attrs.get(ENQUEUED)]
    for start in starts_of(plan, storage, warm_start):
        if start not in fixed and len(fixed) < trials:
            fixed.append(start)
    return [*fixed, *({} for _ in range(trials - len(fixed)))]


def starts_of(plan: Plan, storage: RDBStorage, warm_start: str | None) -> list[dict[str, Any]]:
    """Return the parameters of another study's finished trials, best first, as far as this space has them."""
    if warm_start is None:
        return []
    try:
        other = optuna.load_study(study_name=warm_start, storage=storage)
    except KeyError:
        searches = [study for study in optuna.get_all_study_names(storage) if not study.endswith(" winner")]
        known = ", ".join(searches) or "none"
        msg = f"--warm-start: no study {warm_start!r} in this storage; there are: {known}"
        raise InputError(msg) from None
    names = {key for name, dimension in build_space(plan.space).items() for key in dimension.parameters(name)}
    done = other.get_trials(states=(TrialState.COMPLETE,))
    done.sort(key=lambda trial: -trial.values[0])
    starts = [{key: value for key, value in trial.params.items() if key in names} for trial in done]
    if not any(starts):
        msg = f"--warm-start: study {warm_start!r} has no finished trial with an option of this space; leave it out"
        raise InputError(msg)
    return [start for start in starts if start]
