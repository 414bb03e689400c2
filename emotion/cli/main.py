"""The table of commands, and what all of them share.

The module of a command has a function `main(args) -> int`: `args[0]` is the name of the command, the result is the exit
status. An `InputError` that it raises is printed here. Importing such a module is cheap: it imports torch, lightning
and mlflow inside the function that needs them, so that `--help` is fast.
"""

import argparse
import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = {
    "data": ("emotion.cli.data", "describe, check, prepare or cache a set of images"),
    "fit": ("emotion.cli.train", "train one model and evaluate it once on the test part"),
    "validate": ("emotion.cli.train", "evaluate a run's checkpoint on its val part"),
    "test": ("emotion.cli.train", "evaluate a run's checkpoint on its test part"),
    "predict": ("emotion.cli.predict", "classify an image, a folder or a table of paths with a trained model"),
    "calibrate": ("emotion.cli.calibrate", "fit temperature, thresholds and abstention of finished runs"),
    "evaluate": ("emotion.cli.predict", "score trained models on other labelled data sets"),
    "explain": ("emotion.cli.explain", "show which regions of an image a model uses, and test the explanation"),
    "export": ("emotion.cli.predict", "write a trained model as ONNX, with its preprocessing"),
    "soup": ("emotion.cli.predict", "average the weights of several runs of one network into a checkpoint"),
    "register": ("emotion.cli.predict", "register a trained model in the MLflow model registry"),
    "detector": ("emotion.cli.detector", "train a face detector, evaluate it, export it as ONNX"),
    "cross-validate": ("emotion.cli.train", "train and evaluate k folds under one parent run"),
    "search": ("emotion.cli.search", "search for options on inner folds, and evaluate the best once on the test part"),
    "dashboard": ("emotion.cli.search", "serve Optuna's page of searches, on this machine only"),
    "study": ("emotion.cli.study", "run the experiments of a paper, and compare with its published numbers"),
    "reproduce": ("emotion.cli.train", "run a tracked run again and report what differs"),
    "runs": ("emotion.cli.runs", "list, export, import, push, pull or delete runs, or show their disk use"),
    "report": (
        "emotion.cli.report",
        "compare or certify runs, measure bias between groups, list label errors and mistakes",
    ),
    "ui": ("emotion.cli.runs", "serve the MLflow page, on this machine only"),
    "sync": ("emotion.cli.runs", "send what runs stored locally while the tracking server was unreachable"),
    "info": ("emotion.cli.runs", "show versions, devices, the tracking store and the cache"),
}
DIRECTORY = "mlruns"  # as in `results.tracking.store`, which imports mlflow


def usage() -> str:
    """Return the list of commands, one per line."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: emotion <command> [options]     (emotion <command> --help lists the options)\n\n{lines}\n"


def _share_a_busy_machine() -> None:
    """Let threads sleep while they wait for one another, if others use this machine; read when PyTorch is imported.

    By default they spin, which is a little faster on a machine of one's own, and many times slower where a thread that
    they wait for has no core.
    """
    from datamodules.processes import cores

    with contextlib.suppress(AttributeError, OSError):  # not known on this system
        if os.getloadavg()[0] >= cores() / 2:
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Args:
        args: The command and its arguments; by default those of this process.

    Returns:
        The exit status: 0 success, 1 an error whose message was printed, 2 wrong usage, 130 stopped by Ctrl-C; the
        `--help` of a command says if 1 and 2 have another meaning.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: it would ask the network for a newer one
    _share_a_busy_machine()
    from datamodules.errors import InputError, did_you_mean
    from datamodules.files.paths import NAMES
    from datamodules.processes import keep_freed_memory

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NAMES)  # file names need not be UTF-8
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        hint = did_you_mean(args[0], COMMANDS) or "see emotion --help"
        print(f"error: unknown command {args[0]!r}; {hint}", file=sys.stderr)
        return 2

    keep_freed_memory()
    try:
        return int(importlib.import_module(COMMANDS[args[0]][0]).main(args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def print_start(args: list[str]) -> None:
    """Print that a command starts, since its imports take seconds; not on other ranks, nor for --help."""
    asked_for_help = any(word in ("-h", "--help", "--help-all") or word.endswith(".help") for word in args)
    if not asked_for_help and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"emotion {args[0]}: starting (loading PyTorch takes up to 20 seconds) ...", file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """Parser of one command: options cannot be abbreviated, and errors suggest the nearest name."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as argparse's
        super().__init__(*args, **{**options, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse's
        """Remember the first word, which names the subcommand, and let one ``--alias`` take several words."""
        args = _one_alias_each(list(args or ()))
        self._first = next(iter(args), "")
        self._words = args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and exit with status 2."""
        from datamodules.errors import did_you_mean

        if match := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
            hint = did_you_mean(match[1], self._known_options(), n=2, cutoff=0.7)
        elif match := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            hint = did_you_mean(match[1], [word.strip("' ") for word in match[2].split(",")])
        elif match := re.search(r"arguments are required: ([^-\s,]+)", message):
            lists = [word for word in self._words if self._takes_following_words(word)]
            hint = f"{lists[-1]} takes the words that follow it: write {match[1]} before it" if lists else ""
        else:
            hint = ""
        super().error(" ".join(f"{message}{'; ' if hint else ''}{hint}".split()))

    def _takes_following_words(self, word: str) -> bool:
        """Return whether a word is an option that takes an optional word or any number of them."""
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs in ("?", "*", "+")

    def _known_options(self) -> list[str]:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                if self._first in action.choices:
                    known += action.choices[self._first]._known_options()
        return known


def _one_alias_each(words: list[str]) -> list[str]:
    """Return the words with ``--alias a=b c=d`` written as ``--alias a=b --alias c=d``: a path may follow them."""
    from datamodules.read_options import spellings

    if not any("alias" in word for word in words):
        return words
    aliases = spellings()["aliases"]
    spread: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word if word in (*aliases.words, aliases.long) else ""
        elif option and spread[-1] != option:
            if "=" in word and not os.path.lexists(word):
                spread.append(option)
            else:
                option = ""
        spread.append(word)
    return spread


def not_empty(text: str) -> str:
    """Return an option's text; argparse reports an error if it is empty."""
    if not text.strip():
        msg = "must not be empty"
        raise argparse.ArgumentTypeError(msg)
    return text


def writable_file(option: str, path: Path) -> Path:
    """Return the path of a file that a command will write, checked before the work that fills it.

    Raises:
        InputError: It is a folder, or is to lie in a folder that does not exist.
    """
    from datamodules.errors import invalid

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise invalid(option, "must be a file in a folder that exists", str(path))
    return path


def whole_from(least: int) -> Callable[[str], int]:
    """Return the argparse type of whole numbers that are at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            msg = f"must be a whole number of at least {least}, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return parse


PIXEL_LIMIT_HELP = (
    "largest number of pixels of an image file; a larger JPEG is decoded smaller, other formats are refused (default: "
    "50 million, or EMOTION_PIXEL_LIMIT)"
)


def port(text: str) -> int:
    """Return the number of a TCP port; argparse reports an error if it is not one."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        msg = f"must be a whole number from 1 to 65535, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def add_directory(parser: argparse.ArgumentParser, *, new: bool = False) -> None:
    """Add ``--directory``, the folder of the runs; it must exist unless `new` is set."""

    def folder(text: str) -> str:
        exists = os.path.lexists(text)
        if not text or (exists and not os.path.isdir(text)) or not (exists or new or text == DIRECTORY):
            msg = f"must be {'a' if new else 'an existing'} folder, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return text

    parser.add_argument("--directory", type=folder, default=DIRECTORY, help="folder of the runs (default: %(default)s)")
