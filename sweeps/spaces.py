"""What a search varies: options of `emotion fit` with the values they may take, by name or from a small YAML file."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna

from datamodules.errors import InputError
from sweeps.dimensions import Choice, Dimension, Plain, Real, Space, Subset, When
from sweeps.space_files import content, parsed

Options = dict[str, Any]  # option of `emotion fit` -> value
_TEN = ("blur", "crop", "flip", "rotation", "translation", "cutout", "contrast", "height", "width", "zoom")

SPACES: dict[str, Space] = {
    "transforms": {
        "data.transforms": Subset(_TEN),
        "data.transform_where": Choice(("all",)),
        "data.magnitude": Real(0.25, 2.0, step=0.25),
    },
    "balance": {"data.n_min": Real(0.1, 1.0, step=0.1)},
    "loss": {
        "model.loss": Choice(("CrossEntropy", "Focal", "LogitAdjustment", "BalancedSoftmax", "LDAM")),
        "model.loss.label_smoothing": Real(0.0, 0.2, step=0.05, when={"model.loss": ("CrossEntropy",)}),
        "model.loss.gamma": Real(0.5, 4.0, step=0.5, when={"model.loss": ("Focal",)}),
        "model.loss.tau": Real(0.25, 1.5, step=0.25, when={"model.loss": ("LogitAdjustment",)}),
        "model.loss.max_margin": Real(0.1, 0.7, step=0.1, when={"model.loss": ("LDAM",)}),
    },
    "optimizer": {
        "model.optimizer": Choice(("adam", "adamw")),
        "model.learning_rate": Real(1e-4, 1e-2, log=True),
        "model.weight_decay": Real(1e-5, 1e-1, log=True),
    },
    "backbone": {"model.backbone": Choice(tuple(f"efficientnet_b{number}" for number in range(6)))},
    "lite": {"model.backbone": Choice(tuple(f"tf_efficientnet_lite{number}" for number in range(3)))},
    "size": {"data.size": Choice((48, 64, 96, 128, 160, 224))},
    "regularisation": {
        "model.dropout": Real(0.0, 0.5, step=0.1),
        "model.drop_path": Real(0.0, 0.3, step=0.1),
        "data.erasing": Real(0.0, 0.5, step=0.1),
    },
}
"""Spaces by name. `backbone` needs weights: --model.weights hub, or none; `lite` has them installed."""


def suggest(trial: optuna.Trial, space: Space) -> Options:
    """Draw the options of one trial; those whose condition does not hold are left out."""
    options: Options = {}
    for name, dimension in space.items():
        if _holds(dimension.when, options):
            options[name] = dimension.suggest(trial, name)
    return options


def grid(space: Space) -> list[dict[str, Plain]]:
    """Return the parameters of every cell, each combination of options once.

    Raises:
        InputError: an option has infinitely many values.
    """
    cells: dict[str, dict[str, Plain]] = {}
    for parameters, options in _cells(list(space.items()), {}, {}):
        cells.setdefault(json.dumps(options, sort_keys=True), parameters)
    return list(cells.values())


def _cells(
    rest: list[tuple[str, Dimension]], parameters: dict[str, Plain], options: Options
) -> Iterator[tuple[dict[str, Plain], Options]]:
    if not rest:
        yield parameters, options
        return
    (name, dimension), *others = rest
    if not _holds(dimension.when, options):
        yield from _cells(others, parameters, options)
        return
    names = dimension.parameters(name)
    for values in itertools.product(*(dimension.values(name) for _ in names)):
        drawn = dict(zip(names, values, strict=True))
        yield from _cells(others, parameters | drawn, options | {name: dimension.option(name, drawn)})


def _holds(when: When, options: Options) -> bool:
    return all(name in options and options[name] in values for name, values in when.items())


def portable(names: list[str]) -> list[str | dict[str, Any]]:
    """Return names of spaces as they are, and files by what they hold, so that workers need no file.

    Raises:
        InputError: a name that is neither.
    """
    return [name if name in SPACES else _content(name) for name in names]


def build_space(parts: Sequence[str | dict[str, Any]]) -> Space:
    """Return the space that named spaces, YAML files and what such files hold make together.

    Raises:
        InputError: an unknown name, a file that is none, or one option from two spaces.
    """
    space: Space = {}
    for given in parts:
        name = given if isinstance(given, str) else "FILE"
        held = _content(given) if isinstance(given, str) and given not in SPACES else given
        part = parsed(name, held) if isinstance(held, dict) else SPACES[held]
        if twice := sorted(set(part) & set(space)):
            msg = f"--space {name}: {', '.join(twice)} stands in an earlier space, too; leave one of them out"
            raise InputError(msg)
        space |= part
    if not space:
        msg = f"--space: at least one of {', '.join(SPACES)}, or a YAML file; got none"
        raise InputError(msg)
    _check_order(space)
    return space


def _content(name: str) -> dict[str, Any]:
    if not Path(name).is_file():
        msg = f"--space: one of {', '.join(SPACES)}, or a YAML file; {name!r} is neither"
        raise InputError(msg)
    return content(Path(name))


def _check_order(space: Space) -> None:
    """A condition names options that stand before it, or it could never hold."""
    before: set[str] = set()
    for name, dimension in space.items():
        if missing := sorted(set(dimension.when) - before):
            msg = f"--space: {name} is drawn when {', '.join(missing)} has a value, which must stand before it"
            raise InputError(msg)
        before.add(name)
