"""The command line of one run: says what begins, and hands over to fit, validate, test, predict, export or register."""

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from datamodules.errors import InputError
from lightning_modules.shorthand import HELP, expand, recipe_names, take

if TYPE_CHECKING:  # the rest is imported when a command begins: it takes seconds
    from collections.abc import Sequence

    from lightning.pytorch.callbacks import Callback

    from lightning_modules.command import EmotionCLI as EmotionCLI

TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "max_epochs": 10,
    "log_every_n_steps": 50,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # ours shares out whole batches without padding
    "num_sanity_val_steps": 0,
}


def quiet() -> None:
    """Silence messages that tell a user nothing: advertisements, device lists, notes on our own choices."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",  # two cores: the workers we ask for are the workers there are
        ".*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
        ".*LeafSpec.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ".*Detected call of `lr_scheduler.step\\(\\)` before.*",
        ".*find_unused_parameters.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.formatwarning = _note


def _note(message: Warning | str, *_: object, **__: object) -> str:
    """Return a warning as a user reads it, without a path into the code."""
    return f"note: {message}\n"


def main(args: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test``, ``predict``, ``export`` or ``register``; return the exit status."""
    command, rest = args[0], args[1:]
    say_what_begins(args)
    if command in ("export", "register"):
        from lightning_modules import export

        return export.main(args)
    run, without_run = take(rest, "--run")
    if command == "predict":
        from lightning_modules import predict

        return predict.main(rest)
    if command in ("validate", "test") and run:
        from lightning_modules.stored import stored_run

        config, checkpoint_path = stored_run(run)
        rest = ["--config", str(config), *without_run, "--ckpt_path", str(checkpoint_path)]
    if {"-h", "--help"} & set(rest):
        print(HELP.format(recipes=", ".join(recipe_names())))
    run_cli([command, *rest])
    return 0


def say_what_begins(args: list[str]) -> None:
    """Print that a command begins, since importing what it needs takes seconds; other ranks and --help are silent."""
    asked_for_help = any(word in ("-h", "--help") or word.endswith(".help") for word in args)
    if not asked_for_help and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"emotion {args[0]}: starting ...", file=sys.stderr, flush=True)


def run_cli(args: list[str], callbacks: "Sequence[Callback]" = ()) -> "EmotionCLI":
    """Run one LightningCLI subcommand on short or long options; the same door for the shell and for many runs.

    Args:
        args: the subcommand, then its options.
        callbacks: more callbacks of the trainer in ``fit``.

    Returns:
        The finished command line, with ``result`` after ``fit``.

    Raises:
        InputError: a wrong option, wrong data, no memory, no space.
    """
    words = expand(_resume_words(args[1:]))
    from jsonargparse import ArgumentError
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from lightning_modules.command import EmotionCLI
    from lightning_modules.parser import plain
    from lightning_modules.stops import sigterm_ends

    try:
        with sigterm_ends():
            return EmotionCLI([args[0], *words], callbacks)
    except ArgumentError as error:
        raise InputError(plain(str(error))) from error
    except MisconfigurationException as error:  # of options of the trainer that do not fit
        msg = f"trainer: {' '.join(str(error).split())}"
        raise InputError(msg) from error
    except SIGTERMException as stop:  # Lightning's carries no status, which would say success
        raise SystemExit(143) from stop
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
        elif stop.code == 1:  # Lightning ends so after Ctrl-C
            raise KeyboardInterrupt from stop
        raise


def _resume_words(args: list[str]) -> list[str]:
    value, rest = take(args, "--resume", optional=True)
    return rest if value is None else [*rest, "--run.resume", value or "auto"]
