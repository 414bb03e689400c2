"""What a search is: its options, checked before anything runs, and what must agree between all that work on it."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.samplers import RandomSampler

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from sweeps.checks import check_args, check_config, check_names, check_number
from sweeps.spaces import build_space, suggest, words
from sweeps.storage import quiet
from sweeps.strategies import PrunerName, SamplerName, check_strategy
from sweeps.studies.config import Config, data_module, identity, merged
from sweeps.winner import NO_BAR

ATTEMPTS = 20  # draws, of which one has to be of options that go together
EPOCHS = 10  # of the trainer, where nothing says otherwise


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is; two of one name must have the same.

    Attributes:
        name: of the study.
        args: options of `emotion fit` that all trials share.
        space: names of spaces, and what files of spaces hold.
        folds: inner folds of a trial.
        objectives: 1, inner macro F1; or 2, the FLOPs of an image as well.
        sampler: tpe, grid, random or nsga2.
        pruner: hyperband, wilcoxon or none.
        seed: of the sampler.
    """

    name: str
    args: list[str]
    space: list[str | dict[str, Any]]
    folds: int = 5
    objectives: int = 1
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "hyperband"
    seed: int = 0

    def check(self) -> None:
        """Refuse what no trial could run with; opens no picture.

        Raises:
            InputError: naming the option.
        """
        check_number(self.folds)
        check_args(self.args)
        check_names(build_space(self.space))
        check_strategy(self.sampler, self.pruner, self.objectives, self.folds)
        check_config(self.config)
        assert self.data.plan.inner_folds == self.folds  # a division that allows none was refused

    @cached_property
    def config(self) -> Config:
        """What recipe, files and options amount to, without what a trial draws."""
        return merged(self.fit_args)

    @cached_property
    def data(self) -> EmotionDataModule:
        """The images of the first inner fold of a trial that could run.

        Raises:
            InputError: none of a few drawn at random could.
        """
        space, problem = build_space(self.space), InputError()
        with quiet():
            drawing = optuna.create_study(sampler=RandomSampler(seed=0))  # in memory
            for _ in range(ATTEMPTS):  # some draws may be of options that do not go together: such trials fail alone
                drawn = words(suggest(drawing.ask(), space))
                try:
                    return data_module(merged([*self.fit_args, *drawn, "--data.inner_folds", str(self.folds)]))
                except InputError as error:
                    problem = error
        raise problem

    @property
    def experiment(self) -> str:
        """MLflow's experiment."""
        return str(self.config.get("run", {}).get("experiment", "emotion"))

    @property
    def epochs(self) -> int:
        """Epochs of a fold."""
        return int(self.config.get("trainer", {}).get("max_epochs") or EPOCHS)

    @property
    def fit_args(self) -> list[str]:
        """The options of every run: the reported part is the given one, or a hold-out."""
        given = merged(self.args).get("data", {}).get("split") == "given"
        return [*self.args, "--data.split", "given" if given else "holdout"]

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree between all that work on the study; where the data lie may differ between machines."""
        config = merged(self.args)
        config.get("data", {}).pop("source", None)
        held = {**asdict(self), "args": identity(config), "data": self._data_identity()}
        return json.loads(json.dumps(held))

    def _data_identity(self) -> str:
        """Return the manifest's hash; of drawn faces, whose names are all alike, also what they are drawn by."""
        source = str(self.data.source).strip()
        return f"{self.data.manifest.fingerprint()[:16]}{f' {source}' if source.startswith('drawn') else ''}"

    def settings(self, parent: str) -> dict[str, Any]:
        """Return what a trial needs to know.

        Args:
            parent: run id of the search.
        """
        shown = any("enable_progress_bar" in word for word in self.args)
        return {
            "study": self.name,
            "parent": parent,
            "experiment": self.experiment,
            "args": [*self.fit_args, *(() if shown else (NO_BAR,))],
            "space": self.space,
            "folds": self.folds,
            "epochs": self.epochs,
            "objectives": self.objectives,
            "pruner": self.pruner,
        }
