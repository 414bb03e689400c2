"""What a search refuses before its first trial."""

import inspect

from datamodules.errors import InputError, did_you_mean
from lightning_modules.config import Options, RunConfig
from sweeps.dimensions import Space

FIXED = (
    *("data.split", "data.folds", "data.fold", "data.fold_seed", "data.inner_folds", "data.inner_fold"),
    *("data.protocol", "run.parent", "run.evaluate", "run.resume", "run.name"),
)


DIVIDES = (  # with one of these drawn, one trial would learn from what another trial's winner reports
    *("data.source", "data.read", "data.near_duplicates", "data.leak", "data.outer", "data.holdout_fraction"),
    *("data.inner_fraction", "data.cache_dir", "run.experiment", "run.recipe", "run.resamples"),
)


def check_number(folds: int) -> None:
    """Refuse fewer than two inner folds.

    Raises:
        InputError: so.
    """
    if folds < 2:
        msg = f"--folds: at least 2 inner folds, got {folds}"
        raise InputError(msg)


def check_config(config: RunConfig) -> None:
    """Refuse a recipe or file without which the winner would have no score, or every trial would be one run.

    Raises:
        InputError: naming the option.
    """
    for name, wanted in (("evaluate", True), ("resume", None)):
        if config.run[name] != wanted:
            msg = f"run.{name}: a search sets it (the recipe says {config.run[name]!r}); take it out of the recipe"
            raise InputError(msg)


def check_options(options: Options) -> None:
    """Refuse options that a search sets itself; ``--split given`` alone is a choice.

    Raises:
        InputError: naming the option.
    """
    for name in FIXED:
        value = options.values.get(name)
        if value is not None and not (name == "data.split" and value in ("given", "holdout")):
            msg = f"{options.typed[name]}: a search sets it (got {value!r}); leave it out"
            raise InputError(msg)


def check_names(space: Space) -> None:
    """Refuse options that are none of the model, the data, the trainer or the run; every trial would fail.

    Raises:
        InputError: with the names that are near.
    """
    from lightning.pytorch import Trainer

    from datamodules.emotion import EmotionDataModule
    from lightning_modules.classifier import EmotionClassifier
    from lightning_modules.run import RunOptions

    owners = {"model": EmotionClassifier, "data": EmotionDataModule, "trainer": Trainer, "run": RunOptions}
    options = {section: list(inspect.signature(owner).parameters) for section, owner in owners.items()}
    for name in space:
        group, _, option = name.partition(".")
        if option.split(".")[0] not in options.get(group, ()):
            all_names = [f"{section}.{known}" for section, names in options.items() for known in names]
            hint = did_you_mean(name, all_names) or "`emotion fit --help-all` lists them"
            msg = f"--space: {name} is not an option of `emotion fit`; {hint}"
            raise InputError(msg)
        if name in FIXED or name == "trainer.max_epochs":
            msg = f"--space: {name} cannot be searched, a search sets it; leave it out"
            raise InputError(msg)
        if name.startswith(DIVIDES):
            msg = f"--space: {name} cannot be searched, it is the same for all trials; give it beside --space"
            raise InputError(msg)
