"""Turns what jsonargparse says of a wrong option into one sentence, with the names that are near."""

import difflib
import inspect
import re
from collections.abc import Iterable

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules import losses
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.run import RunOptions


class EmotionParser(LightningArgumentParser):
    """Says in one sentence what is wrong with an option and which names are near."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise the user's error in place of printing the whole tree of tried types."""
        inner = input_error(ex)
        groups = list(self.groups or {})
        owner = groups[0] if len(groups) == 1 else ""  # the parser of one class, or that of the command
        names = [action.dest for action in self._actions if "help" not in action.dest]
        raise InputError(str(inner) if inner else plain(message, names, owner)) from ex


def input_error(error: BaseException | None) -> InputError | None:
    """Return our own error that jsonargparse wrapped in its report of all the types it tried."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


_UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected|nrecognized arguments?: (\S+)"
    r"|does not accept option '([^']+)'"
)


def plain(message: str, names: Iterable[str] = (), owner: str = "") -> str:
    """Return one line: the option, what is wrong with it, the nearest names there are."""
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        words = " ".join(line.strip(" -") for line in message.splitlines() if not _NOISE.search(line))
        if "Expected a dot import path" in words:
            words += f" ({_LOSSES})"
        return words.replace("Parser key", "option")
    option = next(group for group in unknown.groups() if group).lstrip("-").split("=")[0]
    known = set(names) if owner else _all_options()
    parts = [part for part in option.split(".") if part not in known | {"init_args", "class_path"}]
    near = difflib.get_close_matches((parts or [option])[0], known, n=3, cutoff=0.6)
    place = f" by {owner}" if owner else ""
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"it takes {', '.join(names)}" if owner else "emotion fit --help lists the options"
    return f"{option}: this option is not accepted{place}; {hint}"


_LOSSES = "Losses are " + ", ".join(name for name in losses.__all__ if name[0].isupper() and name != "EmotionLoss")
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value type|^\s*$")


def _all_options() -> set[str]:
    owners = [EmotionClassifier, EmotionDataModule, RunOptions, Trainer]
    named = {name for owner in owners for name in inspect.signature(owner).parameters}
    return named | {"model", "data", "trainer", "run", "seed_everything", "seed"}
