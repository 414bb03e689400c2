"""Search spaces: options of `emotion fit` with their possible values, by name or from a YAML file."""

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml

from datamodules.errors import InputError
from lightning_modules.config import load_yaml

Plain = str | int | float | bool | None
When = Mapping[str, tuple[Plain, ...]]  # options drawn before, and the values under which this one is drawn


@dataclass(frozen=True, kw_only=True)
class Dimension(ABC):
    """Possible values of an option; drawn only ``when`` other options have one of the given values."""

    when: When = field(default_factory=dict)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:  # noqa: ANN401
        """Draw a value."""
        return self.option(name, {key: self._draw(trial, key) for key in self.parameters(name)})

    def parameters(self, name: str) -> list[str]:
        """Return the names of the parameters behind the option."""
        return [name]

    def option(self, name: str, drawn: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Return the option's value, from those of its parameters."""
        return drawn[name]

    def contains(self, value: object) -> bool:
        """Return whether a parameter may have this value."""
        return value in self.values("")

    @abstractmethod
    def values(self, name: str) -> list[Plain]:
        """Return all values of one parameter.

        Raises:
            InputError: There are infinitely many.
        """

    @abstractmethod
    def _draw(self, trial: optuna.Trial, parameter: str) -> Plain: ...


@dataclass(frozen=True)
class Choice(Dimension):
    """One of a few values; lists are values, too."""

    among: tuple[Any, ...]

    def _labels(self) -> dict[Plain, Any]:
        return {json.dumps(value) if isinstance(value, list | tuple | dict) else value: value for value in self.among}

    def option(self, name: str, drawn: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Return the value; Optuna keeps lists as text."""
        return self._labels()[drawn[name]]

    def values(self, name: str) -> list[Plain]:
        """Return all values."""
        return list(self._labels())

    def _draw(self, trial: optuna.Trial, parameter: str) -> Plain:
        return trial.suggest_categorical(parameter, list(self._labels()))


@dataclass(frozen=True)
class Real(Dimension):
    """A number from ``low`` to ``high``, on a logarithmic scale or in steps."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def contains(self, value: object) -> bool:
        """Return whether it is between the bounds, and on a step."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or any(abs(value - known) < 1e-9 * self.step for known in self._steps())

    def _steps(self) -> list[float]:
        assert self.step is not None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + index * self.step, 12) for index in range(count)]

    def values(self, name: str) -> list[Plain]:
        """Return all values, if there is a step."""
        if self.step is None:
            msg = (
                f"{name}: a grid needs finitely many values, and this is any number from {self.low} to {self.high}; "
                "give it a step, or choose --sampler tpe or random"
            )
            raise InputError(msg)
        return list(self._steps())

    def _draw(self, trial: optuna.Trial, parameter: str) -> Plain:
        return trial.suggest_float(parameter, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Whole(Dimension):
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def values(self, name: str) -> list[Plain]:
        """Return all values."""
        return list(range(self.low, self.high + 1, self.step))

    def _draw(self, trial: optuna.Trial, parameter: str) -> Plain:
        return trial.suggest_int(parameter, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Subset(Dimension):
    """Subset of several names; if fewer than ``least`` are drawn, the first of the others are added."""

    among: tuple[str, ...]
    least: int = 1

    def parameters(self, name: str) -> list[str]:
        """Return one parameter a member."""
        return [f"{name}/{member}" for member in self.among]

    def option(self, name: str, drawn: Mapping[str, Any]) -> list[str]:
        """Return the members that are in."""
        inside = [member for member in self.among if drawn[f"{name}/{member}"]]
        filling = [member for member in self.among if member not in inside][: max(0, self.least - len(inside))]
        return [member for member in self.among if member in {*inside, *filling}]

    def values(self, name: str) -> list[Plain]:
        """Return out and in."""
        return [False, True]

    def _draw(self, trial: optuna.Trial, parameter: str) -> Plain:
        return trial.suggest_categorical(parameter, [False, True])


Space = dict[str, Dimension]  # option of `emotion fit` -> the values it may take, in the order they are drawn

_EXAMPLE = "`model.learning_rate: {real: [0.0001, 0.01], log: true}`"
_KINDS = {
    "choice": {"when"},
    "subset": {"when", "least"},
    "real": {"when", "log", "step"},
    "whole": {"when", "log", "step"},
}


def read_space(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file of a space.

    For example::

        model.learning_rate: {real: [1e-4, 1e-2], log: true}
        model.loss: {choice: [CrossEntropy, Focal]}
        model.loss.gamma: {real: [0.5, 5], when: {model.loss: Focal}}
        data.size: {whole: [32, 96], step: 16}
        data.transforms: {subset: [flip, rotation, zoom], least: 1}

    Raises:
        InputError: The file is not YAML, or contains no options by name.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"--space {path}: not readable YAML: {str(error).splitlines()[0]}"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"--space {path}: must contain one option per line, such as {_EXAMPLE}, got {type(content).__name__}"
        raise InputError(msg)
    return {str(name): entry for name, entry in content.items()}


def parse_space(name: str, content: Mapping[str, Any]) -> Space:
    """Return the space in a file's content.

    Args:
        name: Name of the file, for messages.
        content: From `read_space`.

    Raises:
        InputError: An entry is no valid set of values.
    """
    return {option: _dimension(f"--space {name}: {option}", entry) for option, entry in content.items()}


def _dimension(where: str, entry: object) -> Dimension:
    kinds = [kind for kind in _KINDS if isinstance(entry, dict) and kind in entry]
    if not isinstance(entry, dict) or len(kinds) != 1 or set(entry) - _KINDS[kinds[0]] - set(kinds):
        msg = f"{where}: must be one of choice, subset, real or whole, such as {_EXAMPLE}; got {entry!r}"
        raise InputError(msg)
    (kind,), given = kinds, entry[kinds[0]]
    more: dict[str, Any] = {name: entry[name] for name in ("log", "step", "least") if name in entry}
    condition = entry.get("when") or {}
    if not isinstance(condition, dict):
        msg = f"{where}: when takes an option and its values, such as `when: {{model.loss: Focal}}`, got {condition!r}"
        raise InputError(msg)
    when = {str(name): tuple(values if isinstance(values, list) else [values]) for name, values in condition.items()}
    if not isinstance(given, list) or not given or (kind in ("real", "whole") and len(given) != 2):
        what = "a list of lowest and highest" if kind in ("real", "whole") else "a list"
        msg = f"{where}: {kind} takes {what}, got {given!r}"
        raise InputError(msg)
    if kind == "choice":
        return Choice(tuple(given), when=when)
    if kind == "subset":
        least = more.get("least", 1)
        if not isinstance(least, int) or not 0 <= least <= len(given):
            msg = f"{where}: least must be a whole number from 0 to {len(given)}, got {least!r}"
            raise InputError(msg)
        return Subset(tuple(map(str, given)), when=when, **more)
    try:
        number = float if kind == "real" else int
        low, high = (number(value) for value in given)
        if [low, high] != [float(value) for value in given]:
            raise ValueError
        if "step" in more:
            more["step"] = number(more["step"])
    except (TypeError, ValueError):
        msg = f"{where}: {kind} takes {'whole ' if kind == 'whole' else ''}numbers, got {given!r}"
        raise InputError(msg) from None
    log, step = bool(more.get("log")), more.get("step")
    if not low < high or (log and low <= 0) or (log and step) or (step is not None and not step > 0):
        msg = f"{where}: low must be below high, and above 0 with log; log takes no step; got {entry!r}"
        raise InputError(msg)
    dimension: Any = Real if kind == "real" else Whole
    return dimension(low, high, when=when, **more)


Drawn = dict[str, Any]  # option of `emotion fit` -> value
TRANSFORMS = ("blur", "crop", "flip", "rotation", "translation", "cutout", "contrast", "height", "width", "zoom")

SPACES: dict[str, Space] = {
    "transforms": {
        "data.transforms": Subset(TRANSFORMS),
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
"""Spaces by name. `backbone` needs --model.weights hub or none; the weights of `lite` are installed."""


def suggest(trial: optuna.Trial, space: Space) -> Drawn:
    """Draw the options of one trial, without those whose condition is not met."""
    options: Drawn = {}
    for name, dimension in space.items():
        if _is_met(dimension.when, options):
            options[name] = dimension.suggest(trial, name)
    return options


def grid(space: Space) -> list[dict[str, Plain]]:
    """Return the parameters of every point of the grid, each combination of options once.

    Raises:
        InputError: An option has infinitely many values.
    """
    points: dict[str, dict[str, Plain]] = {}
    for parameters, options in _points(list(space.items()), {}, {}):
        points.setdefault(json.dumps(options, sort_keys=True), parameters)
    return list(points.values())


def _points(
    rest: list[tuple[str, Dimension]], parameters: dict[str, Plain], options: Drawn
) -> Iterator[tuple[dict[str, Plain], Drawn]]:
    if not rest:
        yield parameters, options
        return
    (name, dimension), *others = rest
    if not _is_met(dimension.when, options):
        yield from _points(others, parameters, options)
        return
    names = dimension.parameters(name)
    for values in itertools.product(*(dimension.values(name) for _ in names)):
        drawn = dict(zip(names, values, strict=True))
        yield from _points(others, parameters | drawn, options | {name: dimension.option(name, drawn)})


def _is_met(when: When, options: Drawn) -> bool:
    return all(name in options and options[name] in values for name, values in when.items())


def portable(names: list[str]) -> list[str | dict[str, Any]]:
    """Return names of spaces as they are, and files by their content, so that workers need no file.

    Raises:
        InputError: A name is neither a space nor a file.
    """
    return [name if name in SPACES else _read_file(name) for name in names]


def build_space(parts: Sequence[str | dict[str, Any]]) -> Space:
    """Return the union of named spaces, YAML files and the contents of such files.

    Raises:
        InputError: An unknown name, a file that is no space, or one option in two spaces.
    """
    space: Space = {}
    for given in parts:
        name = given if isinstance(given, str) else "FILE"
        content = _read_file(given) if isinstance(given, str) and given not in SPACES else given
        part = parse_space(name, content) if isinstance(content, dict) else SPACES[content]
        if twice := sorted(set(part) & set(space)):
            msg = f"--space {name}: {', '.join(twice)} is in an earlier space, too; leave one of them out"
            raise InputError(msg)
        space |= part
    if not space:
        msg = f"--space: must be at least one of {', '.join(SPACES)}, or a YAML file; got none"
        raise InputError(msg)
    _check_order(space)
    return space


def _read_file(name: str) -> dict[str, Any]:
    if not Path(name).is_file():
        msg = f"--space: must be one of {', '.join(SPACES)}, or a YAML file, got {name!r}"
        raise InputError(msg)
    return read_space(Path(name))


def _check_order(space: Space) -> None:
    """Raise if a condition names an option that is not drawn before it; it could never be met."""
    before: set[str] = set()
    for name, dimension in space.items():
        if missing := sorted(set(dimension.when) - before):
            msg = f"--space: {name} depends on {', '.join(missing)}, which must be listed before it"
            raise InputError(msg)
        before.add(name)
