"""Errors that a user can correct: the command line prints them without a traceback."""

from collections.abc import Iterable
from difflib import SequenceMatcher


class InputError(ValueError):
    """Bad input. The message names the option, the rule, the value received and the next step."""


def invalid(option: str, rule: str, value: object, hint: str = "") -> InputError:
    """Return the error of an option whose value breaks a rule: "OPTION: RULE, got VALUE; HINT".

    Args:
        option: the option as the user types it, such as ``--data.size``.
        rule: what the value must be, such as "must be at least 32".
        value: what was received.
        hint: the next step, which must exist; "" if the rule is enough.
    """
    shown = repr(value) if isinstance(value, str) else str(value)
    return InputError(f"{option}: {rule}, got {shown}{'; ' if hint else ''}{hint}")


def did_you_mean(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.6) -> str:
    """Return "did you mean A or B?" with the names of `nearest`; "" if none is near."""
    near = nearest(name, known, n, cutoff)
    return f"did you mean {' or '.join(near)}?" if near else ""


def nearest(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the existing names that are most similar to an unknown one, nearest first.

    Args:
        name: what was received; case makes no difference, nor do ``-`` and ``_``.
        known: the names that exist.
        n: maximum number of names.
        cutoff: minimum similarity of a name, from 0 to 1, as `difflib.SequenceMatcher.ratio` measures it.
    """
    matcher = SequenceMatcher(None, "", _folded(name))
    near: list[tuple[float, str]] = []
    for other in known:
        matcher.set_seq1(_folded(other))
        if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff and matcher.ratio() >= cutoff:
            near.append((-matcher.ratio(), other))
    return [other for _, other in sorted(near)[:n]]


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")
