"""Options of a search, validated before the first trial, and its identity, which all workers must share."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.samplers import RandomSampler

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig, data_module
from sweeps.checks import check_config, check_names, check_number, check_options
from sweeps.gpus import require_one_device
from sweeps.spaces import build_space, suggest
from sweeps.storage import quiet
from sweeps.strategies import PrunerName, SamplerName, check_strategy

ATTEMPTS = 20  # draws, of which one has to be of options that go together


def search_config(options: Options) -> RunConfig:
    """Return the common config of all trials; its split is the given one, or a hold-out.

    Raises:
        InputError: an option that a search sets itself, or a wrong value.
    """
    check_options(options)
    config = RunConfig.layered(options)
    changes: dict[str, Any] = {"data.split": "given" if config.data["split"] == "given" else "holdout"}
    if "trainer.enable_progress_bar" not in options:
        changes["trainer.enable_progress_bar"] = False  # the trials have a bar of their own
    require_one_device(config, "a search")
    return config.override(changes)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of a search; all searches of the same name must have the same.

    Attributes:
        name: of the study.
        config: common options of all trials, from `search_config`.
        space: names of spaces, and the contents of space files.
        folds: inner folds of a trial.
        objectives: 1, inner macro F1; or 2, the FLOPs of an image as well.
        sampler: tpe, grid, random or nsga2.
        pruner: hyperband, wilcoxon or none.
        seed: of the sampler.
    """

    name: str
    config: RunConfig
    space: list[str | dict[str, Any]]
    folds: int = 5
    objectives: int = 1
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "hyperband"
    seed: int = 0

    def check(self) -> None:
        """Raise if no trial could run with these options; opens no image.

        Raises:
            InputError: the message names the option.
        """
        check_number(self.folds)
        check_names(build_space(self.space))
        check_strategy(self.sampler, self.pruner, self.objectives, self.folds)
        check_config(self.config)
        assert self.data.plan.inner_folds == self.folds  # a division that allows none was refused

    @cached_property
    def data(self) -> EmotionDataModule:
        """Data module of a valid trial.

        Raises:
            InputError: none of a few random trials is valid.
        """
        space, problem = build_space(self.space), InputError()
        with quiet():
            drawing = optuna.create_study(sampler=RandomSampler(seed=0))  # in memory
            for _ in range(ATTEMPTS):  # some draws may be of options that do not go together: such trials fail alone
                drawn = suggest(drawing.ask(), space)
                try:
                    config = self.config.override({**drawn, "data.inner_folds": self.folds})
                    return data_module(config)
                except InputError as error:
                    problem = error
        raise problem

    @property
    def experiment(self) -> str:
        """MLflow's experiment."""
        return str(self.config.run["experiment"])

    @property
    def epochs(self) -> int:
        """Epochs of a fold."""
        return int(self.config.trainer["max_epochs"])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of the search, which all workers must share; paths of the data may differ."""
        images = data_module(self.config)
        images.share(self.data)
        plan = {
            "name": self.name,
            "options": self.config.identity(),
            "data": images.content_hash,
            "space": self.space,
            "folds": self.folds,
            "objectives": self.objectives,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
        }
        return json.loads(json.dumps(plan))

    def settings(self, parent: str) -> dict[str, Any]:
        """Return the settings that a trial needs.

        Args:
            parent: run id of the search.
        """
        return {
            "study": self.name,
            "parent": parent,
            "config": self.config.as_dict(),
            "space": self.space,
            "folds": self.folds,
            "objectives": self.objectives,
            "pruner": self.pruner,
        }
