"""Short options for people (`--recipe`, `--data PATH`, `--seed`) turned into LightningCLI's own."""

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError

RECIPES = Path(__file__).resolve().parent / "recipes"  # package data: they are in the wheel, too

_FLAGS = {
    "--drop-twins": ["--data.leak", "drop_twins"],
    "--allow-leak": ["--data.leak", "allow"],
}
_RENAMED = {"--seed": "--seed_everything", "--split": "--data.split", "--fold": "--data.fold"}
_OPTION = re.compile(r"--|-[A-Za-z]")  # -1 is a value
_DATAMODULE_CLASS = re.compile(r"(\w+\.)*\w*DataModule")

HELP = """short options:
  --recipe NAME     a named recipe: {recipes} (or --config FILE.yaml)
  --data SOURCE     a folder, manifest, archive or reader:path; "drawn" draws faces
  --seed N          the one seed of the run
  --split given     use the split that the data brings; --drop-twins or --allow-leak if it leaks
  --resume [RUN]    go on with the newest unfinished run of the same config, or with RUN
every option of the model, the data and the trainer: emotion fit --help, --model.help, --data.help
"""


def recipe_names() -> list[str]:
    """Return the names of the recipes in ``lightning_modules/recipes/``, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a named recipe.

    Raises:
        InputError: there is no such recipe; the nearest names are offered.
    """
    path = RECIPES / f"{name}.yaml"
    if name in recipe_names():
        return path
    near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.4) or recipe_names()
    msg = (
        f"--recipe: no recipe is called {name!r}; did you mean {', '.join(near)}? (a file of yours: --config FILE.yaml)"
    )
    raise InputError(msg)


def _check_config(path: str) -> dict[str, Any]:
    """Return what a config holds."""
    file = Path(path)
    if not file.is_file():
        msg = (
            f"--config: {path} is not a file; name a YAML file, or a recipe with --recipe ({', '.join(recipe_names())})"
        )
        raise InputError(msg)
    try:
        content = load_value(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why, example = str(error).splitlines()[0], recipe_path("quick")
        msg = f"--config: {path} is not readable YAML: {why}; for an example see {example}"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"--config: {path} must hold keys such as model, data and trainer, it holds {type(content).__name__}"
        raise InputError(msg)
    return content


def load_value(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Parse a YAML text as the parser of `emotion fit` does.

    All code that reads options or search spaces uses this loader: PyYAML's own reads ``1e-1`` and ``1e-05`` as text.
    """
    from jsonargparse import get_loader  # takes a while to import

    return get_loader("yaml")(text)


def take(
    args: list[str], option: str, default: str | None = None, *, optional: bool = False
) -> tuple[str | None, list[str]]:
    """Take ``option`` and its value out of ``args``; the last one given wins.

    Args:
        args: words of a command line.
        option: such as ``--run``; ``--run=x`` is understood too.
        default: returned when the option is absent.
        optional: the option may have no value, which gives "". A word that begins with a dash is not a value.

    Returns:
        The value, and the words that are left.
    """
    value, rest, at = default, [], 0
    while at < len(args):
        word = args[at]
        at += 1
        if word.startswith(option + "="):
            value = word[len(option) + 1 :]
        elif word == option:
            if at < len(args) and not _OPTION.match(args[at]) and not (optional and args[at].startswith("-")):
                value = args[at]
                at += 1
            elif optional:
                value = ""
            else:
                msg = f"{option}: needs a value and got none"
                raise InputError(msg)
        else:
            rest.append(word)
    return value, rest


def expand(args: list[str], recipe: str | None = "quick") -> list[str]:
    """Turn short options into LightningCLI's; configs come first, so that options override them.

    Args:
        args: words of a command line.
        recipe: used if the words name neither a recipe nor a config; None for no recipe.

    Raises:
        InputError: an unknown recipe, or a config that cannot be read.
    """
    default = recipe
    recipe, args = take(args, "--recipe")
    configs: list[str] = []
    out: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, joined = word.partition("=")
        if word.startswith("-c") and name != "-c":  # -cFILE
            name, equals, joined = "-c", "=", word.removeprefix("-c")
        if name in ("--config", "-c"):
            value = joined if equals else next(words, "")
            content = _check_config(value)
            configs += ["--config", value]
            if recipe is None and not (content.get("run") or {}).get("recipe"):
                out += ["--run.recipe", Path(value).stem]
        elif name == "--data":
            value = joined if equals else next(words, "")
            out += ["--data" if _DATAMODULE_CLASS.fullmatch(value) else "--data.source", value]
        elif word in _FLAGS:
            out += _FLAGS[word]
        elif name in _RENAMED:
            out += [_RENAMED[name], *([joined] if equals else [])]
        else:
            out.append(word)
    if recipe is None and not configs and not {"-h", "--help"} & set(args):
        recipe = default
    if recipe is not None:
        configs = ["--config", str(recipe_path(recipe)), *configs]
        out = ["--run.recipe", recipe, *out]
    return [*configs, *out]
