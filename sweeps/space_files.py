"""A space that a user writes: a small YAML file, one option a line, and every mistake in it told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError
from lightning_modules.config import load_yaml
from sweeps.dimensions import Choice, Dimension, Real, Space, Subset, Whole

_EXAMPLE = "`model.learning_rate: {real: [0.0001, 0.01], log: true}`"
_KINDS = {
    "choice": {"when"},
    "subset": {"when", "least"},
    "real": {"when", "log", "step"},
    "whole": {"when", "log", "step"},
}


def content(path: Path) -> dict[str, Any]:
    """Return what a YAML file of a space holds.

    For example::

        model.learning_rate: {real: [1e-4, 1e-2], log: true}
        model.loss: {choice: [CrossEntropy, Focal]}
        model.loss.gamma: {real: [0.5, 5], when: {model.loss: Focal}}
        data.size: {whole: [32, 96], step: 16}
        data.transforms: {subset: [flip, rotation, zoom], least: 1}
    """
    try:
        held = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"--space {path}: not readable YAML: {str(error).splitlines()[0]}"
        raise InputError(msg) from error
    if not isinstance(held, dict):
        msg = f"--space {path}: must hold one option a line, such as {_EXAMPLE}; it holds {type(held).__name__}"
        raise InputError(msg)
    return {str(name): entry for name, entry in held.items()}


def parsed(name: str, held: Mapping[str, Any]) -> Space:
    """Return the space that a file's content means.

    Args:
        name: of the file, for messages.
        held: its content.

    Raises:
        InputError: naming the option and what is wrong.
    """
    return {option: _dimension(f"--space {name}: {option}", entry) for option, entry in held.items()}


def _dimension(where: str, entry: object) -> Dimension:
    kinds = [kind for kind in _KINDS if isinstance(entry, dict) and kind in entry]
    if not isinstance(entry, dict) or len(kinds) != 1 or set(entry) - _KINDS[kinds[0]] - set(kinds):
        msg = f"{where}: one of choice, subset, real or whole, such as {_EXAMPLE}; got {entry!r}"
        raise InputError(msg)
    (kind,), given = kinds, entry[kinds[0]]
    more: dict[str, Any] = {name: entry[name] for name in ("log", "step", "least") if name in entry}
    held = entry.get("when") or {}
    if not isinstance(held, dict):
        msg = f"{where}: when takes an option and its values, such as `when: {{model.loss: Focal}}`, got {held!r}"
        raise InputError(msg)
    when = {str(name): tuple(values if isinstance(values, list) else [values]) for name, values in held.items()}
    if not isinstance(given, list) or not given or (kind in ("real", "whole") and len(given) != 2):
        what = "a list of lowest and highest" if kind in ("real", "whole") else "a list"
        msg = f"{where}: {kind} takes {what}, got {given!r}"
        raise InputError(msg)
    if kind == "choice":
        return Choice(tuple(given), when=when)
    if kind == "subset":
        least = more.get("least", 1)
        if not isinstance(least, int) or not 0 <= least <= len(given):
            msg = f"{where}: least is a whole number from 0 to {len(given)}, got {least!r}"
            raise InputError(msg)
        return Subset(tuple(map(str, given)), when=when, **more)
    try:
        number = float if kind == "real" else int
        low, high = (number(one) for one in given)
        if [low, high] != [float(one) for one in given]:
            raise ValueError
        if "step" in more:
            more["step"] = number(more["step"])
    except (TypeError, ValueError):
        msg = f"{where}: {kind} takes {'whole ' if kind == 'whole' else ''}numbers, got {given!r}"
        raise InputError(msg) from None
    log, step = bool(more.get("log")), more.get("step")
    if not low < high or (log and low <= 0) or (log and step) or (step is not None and not step > 0):
        msg = f"{where}: low below high, above 0 with log, and log without step; got {entry!r}"
        raise InputError(msg)
    made: Any = Real if kind == "real" else Whole
    return made(low, high, when=when, **more)
