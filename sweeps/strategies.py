"""How a search chooses its trials and which it ends early: Optuna's samplers and pruners by name."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from datamodules.errors import InputError

SamplerName = Literal["tpe", "grid", "random", "nsga2"]
PrunerName = Literal["hyperband", "wilcoxon", "none"]
STRATEGY = "strategy"  # the study's attribute that keeps the choice, so that every worker makes the same
STARTUP = 10  # random trials before TPE has something to learn from
FOLDS_BEFORE_WILCOXON = 5  # it cannot find p < .1 before


def check_strategy(sampler: str, pruner: str, objectives: int, folds: int) -> None:
    """Refuse what does not go together.

    Raises:
        InputError: naming the option.
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
    a trial that is queued again draws from the same stream whoever runs it.
    """
    seed = (int(strategy.get("seed", 0)) * 1_000_003 + number) % 2**32
    name = strategy.get("sampler", "random")
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)  # running trials count as poor ones
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=int(strategy.get("population", 20)))
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
