"""The kinds of values that a search may give an option: a choice, a number, a whole number, a subset of names."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from datamodules.errors import InputError

Plain = str | int | float | bool | None
When = Mapping[str, tuple[Plain, ...]]  # options drawn before, and the values of them under which this one is drawn


@dataclass(frozen=True, kw_only=True)
class Dimension(ABC):
    """One option and the values it may take; drawn only ``when`` other options have one of the values named."""

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

    @abstractmethod
    def values(self, name: str) -> list[Plain]:
        """Return all values of one parameter.

        Raises:
            InputError: there are infinitely many.
        """

    @abstractmethod
    def _draw(self, trial: optuna.Trial, parameter: str) -> Plain: ...


@dataclass(frozen=True)
class Choice(Dimension):
    """One of a few values; lists are values, too."""

    among: tuple[Any, ...]

    def _labels(self) -> dict[Plain, Any]:
        return {json.dumps(one) if isinstance(one, list | tuple | dict) else one: one for one in self.among}

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

    def values(self, name: str) -> list[Plain]:
        """Return all values, if there is a step."""
        if self.step is None:
            msg = (
                f"{name}: a grid needs finitely many values, and this is any number from {self.low} to {self.high}; "
                "give it a step, or choose --sampler tpe or random"
            )
            raise InputError(msg)
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + index * self.step, 12) for index in range(count)]

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
    """Some of several names, each in or out; where fewer than ``least`` are drawn, the first others fill up."""

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
