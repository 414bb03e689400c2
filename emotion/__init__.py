"""The command `emotion`, and the same functions for Python: train, cross-validate, predict, evaluate and compare.

Examples:
    >>> import emotion
    >>> run = emotion.fit("balanced", data="faces", overrides={"model.loss": "Focal"})  # doctest: +SKIP
    >>> emotion.load(run.run_id).predict("photo.jpg")  # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion.cli.main import main

if TYPE_CHECKING:  # each function imports what it needs, so that the command's help stays fast
    import pandas as pd

    from lightning_modules.config import RunConfig
    from lightning_modules.evaluation import Evaluation
    from lightning_modules.predictor import Predictor
    from lightning_modules.training import RunResult
    from sweeps.cross_validation import CrossValidation

__all__ = ["compare", "cross_validate", "evaluate", "fit", "load", "main"]


def _config(recipe: str, data: str | None, seed: int, overrides: Mapping[str, Any] | None) -> "RunConfig":
    from lightning_modules.config import RunConfig

    config = RunConfig.resolve(["--recipe", recipe])
    changes: dict[str, Any] = {"seed_everything": seed, **(overrides or {})}
    return config.override(changes | ({"data.source": data} if data is not None else {}))


def fit(
    recipe: str = "quick", data: str | None = None, *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> "RunResult":
    """Train a model, evaluate it once on the test part, and track the run, as `emotion fit` does.

    Args:
        recipe: Name of a recipe, such as quick or balanced.
        data: A folder, a manifest, an archive or reader:path; None takes the recipe's, drawn faces.
        seed: The one seed of the run.
        overrides: More options by dotted name, such as ``{"model.loss": "Focal", "trainer.max_epochs": 3}``.

    Returns:
        The run: ``run_id``, ``scores``, ``predictions`` (a data frame), ``text`` and more.

    Raises:
        InputError: Options or data that do not fit.
    """
    from lightning_modules.training import train

    result = train(_config(recipe, data, seed, overrides))
    assert result is not None  # only other ranks than zero return None, and these end with the training
    return result


def cross_validate(
    recipe: str = "quick",
    data: str | None = None,
    *,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    overrides: Mapping[str, Any] | None = None,
) -> "CrossValidation | None":
    """Train and evaluate k folds under one parent run, as `emotion cross-validate` does.

    Args:
        recipe: Name of a recipe.
        data: As for `fit`.
        folds: Number of folds.
        seeds: Each seed trains all folds.
        overrides: More options by dotted name.

    Returns:
        The result: ``run_id`` of the parent, ``predictions`` of all folds, ``text`` and more.

    Raises:
        InputError: Options or data that do not fit.
    """
    from sweeps import cross_validation

    return cross_validation.cross_validate(_config(recipe, data, seeds[0], overrides), folds=folds, seeds=list(seeds))


def load(*sources: str, faces: str | None = None) -> "Predictor":
    """Load trained models to predict with; several, or the folds of a cross-validation, are averaged.

    Args:
        sources: Runs (id, its beginning, name or latest), .ckpt or .onnx files, or models:/NAME/VERSION.
        faces: A face detector that replaces the recorded one: haar, yunet:FILE or FILE.onnx.

    Returns:
        A predictor: ``predict("photo.jpg")`` returns a data frame with one row per image or face.

    Raises:
        InputError: There is no such model, or it cannot be used.
    """
    from lightning_modules.predictor import Predictor

    return Predictor.load(*(sources or ("latest",)), faces=faces)


def evaluate(model: "str | Predictor", data: str, **options: Any) -> "Evaluation":  # noqa: ANN401 - see below
    """Score a model on another labelled data set, as `emotion evaluate` does.

    Args:
        model: A predictor, or what `load` takes.
        data: A data set, as for `fit`.
        options: Of `lightning_modules.evaluation.evaluate_on`: part, allow_seen, degrade, resamples.

    Returns:
        The evaluation: ``scores``, ``predictions`` (a data frame), ``text``, ``run_id`` and more.

    Raises:
        InputError: There are no such images, or the model was trained on some of them.
    """
    from lightning_modules.evaluation import evaluate_on

    return evaluate_on(load(model) if isinstance(model, str) else model, data, **options)


def compare(*runs: str, **options: Any) -> "pd.DataFrame":  # noqa: ANN401 - see below
    """Compare runs image by image, as `emotion report compare` does.

    Args:
        runs: Ids, their beginnings, or names.
        options: Of `results.compare.compare_runs`: all_pairs, resamples, permutations.

    Returns:
        One row per pair of runs and metric: a, b, metric, a_score, b_score, difference, low, high, p_value and more.

    Raises:
        InputError: Fewer than two runs, or runs of different images.
    """
    from results.compare import compare_runs

    return compare_runs(list(runs), **options)[0].pairs
