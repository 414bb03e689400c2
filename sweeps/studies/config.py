"""Resolve options of `emotion fit` to a config without running anything, and hash it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.readers import ReadOptions
from lightning_modules.shorthand import expand, load_value

Config = dict[str, Any]
_CLASSES = ("data", "model")  # whose options stand under init_args in a file
_TEXT = {"data.source", "run.recipe", "run.name", "run.experiment"}  # a value that looks like a number stays text
_NAMES = ("recipe", "name", "parent", "resume")  # options of the run that change no result


def merged(args: list[str], recipe: str | None = "quick") -> Config:
    """Return the config of recipe, files and options; later ones override earlier ones.

    Args:
        args: options of `emotion fit`, short or long.
        recipe: used if `args` names neither a recipe nor a config; None for no recipe.

    Raises:
        InputError: A word that is no option, an option without a value, or one that names no section.
    """
    config: Config = {}
    words = iter(expand(args, recipe))
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            msg = f"{word}: an option begins with --, such as --data.size 48"
            raise InputError(msg)
        value = value if equals else next(words, "")
        if name == "--config":
            with open(value, encoding="utf-8") as file:
                _lay_over(config, load_value(file.read()))
        else:
            _set(config, name.removeprefix("--").replace(".init_args.", "."), value)
    return config


def identity(config: Config) -> str:
    """Return a hash of a config; the order of options and the names of recipes and runs do not change it."""
    run = {key: value for key, value in config.get("run", {}).items() if key not in _NAMES}
    return hashlib.sha256(json.dumps({**config, "run": run}, sort_keys=True, default=str).encode()).hexdigest()[:16]


def recipe_and_data(config: Config) -> tuple[str, str]:
    """Return the names of the recipe and of the data set, after which runs and searches are named."""
    recipe = str(config.get("run", {}).get("recipe") or "custom")
    source = str(config.get("data", {}).get("source") or "drawn")
    return recipe, "drawn" if source.startswith("drawn") else Path(source.rsplit(":", 1)[-1]).stem


def _lay_over(config: Config, other: Config) -> None:
    for section, held in other.items():
        if isinstance(held, dict):
            options = held.get("init_args", {}) if section in _CLASSES else held
            config.setdefault(section, {}).update({name: _flat(value) for name, value in options.items()})
        else:
            config[section] = held


def _flat(value: object) -> object:
    """Return a class and its options in one dict, so that options of a command line can override them."""
    if isinstance(value, dict) and "class_path" in value:
        return {"class_path": value["class_path"], **(value.get("init_args") or {})}
    return value


def _set(config: Config, name: str, text: str) -> None:
    try:
        value = text if name in _TEXT else _flat(load_value(text))
    except yaml.YAMLError:  # the parser of `emotion fit` takes it as text, too
        value = text
    section, *path = name.removesuffix("_").split(".")
    if path == ["class_path"]:
        path = []
    if not path:
        if section not in _CLASSES:  # else the name of the class, of which there is one
            config[section] = value
        return
    place = config.setdefault(section, {})
    for part in path[:-1]:
        inner = place.get(part)
        if not isinstance(inner, dict):  # a class by its name alone, whose options follow
            inner = {} if inner is None else {"class_path": inner}
            place[part] = inner
        place = inner
    before = place.get(path[-1])
    if isinstance(before, dict) and "class_path" in before and isinstance(value, str):
        value = {**before, "class_path": value}  # the name of a class, whose options may have come before it
    place[path[-1]] = value


def data_module(config: Config) -> EmotionDataModule:
    """Return the images that a config means.

    Raises:
        InputError: An option that the data module does not have, or a value that it refuses.
    """
    options = dict(config.get("data", {}))
    try:
        if "read" in options:
            options["read"] = ReadOptions(**options["read"])
        return EmotionDataModule(**options)
    except TypeError as error:
        msg = f"data: {str(error).split(') ')[-1]}; emotion fit --data.help lists the options"
        raise InputError(msg) from error
