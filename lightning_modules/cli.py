"""The command line of one run: says what begins, and hands over to fit, validate, test, predict, export or register."""

import os
import sys
from pathlib import Path

from datamodules.errors import InputError
from lightning_modules.config import HELP, Options, RunConfig, all_options, recipe_names


def main(args: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test``, ``predict``, ``export`` or ``register``; return the exit status."""
    command, rest = args[0], args[1:]
    say_what_begins(args)
    if command in ("export", "register"):
        from lightning_modules import export

        return export.main(args)
    if command == "predict":
        from lightning_modules import predict

        return predict.main(rest)
    if {"-h", "--help", "--help-all"} & set(rest):
        print(HELP.format(recipes=", ".join(recipe_names())))
        print(all_options())
        return 0
    if command == "fit":
        dry = "--dry-run" in rest
        config = RunConfig.resolve([word for word in rest if word != "--dry-run"])
        return dry_run(config) if dry else fit(config)
    run = None
    if "--run" in rest[:-1]:
        at = rest.index("--run")
        run, rest = rest[at + 1], [*rest[:at], *rest[at + 2 :]]
    options = Options.read(rest)
    from lightning_modules.training import evaluate

    if run is not None:
        from lightning_modules.stored import stored_run

        file, checkpoint = stored_run(run)
        config = RunConfig.layered(Options(None, (str(file),), options.values))
    else:
        config = RunConfig.layered(options)
        if config.ckpt_path is None:
            msg = f"emotion {command}: --run RUN or --ckpt_path FILE says which trained model, got neither"
            raise InputError(msg)
        checkpoint = Path(config.ckpt_path)
    evaluate(config.override({"ckpt_path": None}), checkpoint, "validate" if command == "validate" else "test")
    return 0


def fit(config: RunConfig) -> int:
    """Train one run and print its result."""
    from lightning_modules.training import train

    result = train(config)
    if result is not None and result.text:
        leaks = "".join(f"{name}: {value}\n" for name, value in result.data.leak_record.items())
        print(f"\n{leaks}{result.text}\nrun {result.run_id} (look at it: emotion ui)")
    return 0


def dry_run(config: RunConfig) -> int:
    """Print what a run would do."""
    from lightning_modules.estimate import describe_run

    print(describe_run(config))
    return 0


def say_what_begins(args: list[str]) -> None:
    """Print that a command begins, since importing what it needs takes seconds; other ranks and --help are silent."""
    asked_for_help = any(word in ("-h", "--help", "--help-all") or word.endswith(".help") for word in args)
    if not asked_for_help and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"emotion {args[0]}: starting ...", file=sys.stderr, flush=True)
