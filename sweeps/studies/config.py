"""The config that a cell's words amount to, without running anything."""

from typing import Any

import yaml

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.readers import ReadOptions
from lightning_modules.shorthand import expand

Config = dict[str, Any]
_CLASSES = ("data", "model")  # whose options stand under init_args in a file


def merged(args: list[str]) -> Config:
    """Return what recipe, files and options amount to, later ones over earlier ones.

    Raises:
        InputError: A word that is no option, an option without a value, or one that names no section.
    """
    config: Config = {}
    words = iter(expand(args))
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            msg = f"{word}: an option begins with --, such as --data.size 48"
            raise InputError(msg)
        value = value if equals else next(words, "")
        if name == "--config":
            with open(value, encoding="utf-8") as file:
                _lay_over(config, yaml.safe_load(file))
        else:
            _set(config, name.removeprefix("--"), yaml.safe_load(value))
    return config


def _lay_over(config: Config, other: Config) -> None:
    for section, held in other.items():
        if isinstance(held, dict):
            options = held.get("init_args", {}) if section in _CLASSES else held
            config.setdefault(section, {}).update(options)
        else:
            config[section] = held


def _set(config: Config, name: str, value: object) -> None:
    section, *path = name.removesuffix("_").split(".")
    path = [part for part in path if part != "init_args"]
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
