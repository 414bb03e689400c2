"""Front door: `emotion <command>` hands its arguments to one room's command line."""

import importlib
import os
import sys

COMMANDS = {
    "data": ("datamodules.cli", "describe, check, prepare or cache a set of images"),
    "fit": ("lightning_modules.cli", "train one model and evaluate it once on the held-out part"),
    "validate": ("lightning_modules.cli", "evaluate a run's checkpoint on its inner split"),
    "test": ("lightning_modules.cli", "evaluate a run's checkpoint on its held-out part"),
    "predict": ("lightning_modules.cli", "classify a picture, a folder or a manifest with a trained model"),
    "explain": (
        "lightning_modules.explain_cli",
        "show where a trained network looks, and whether that is true",
    ),
    "export": ("lightning_modules.cli", "write a trained model as ONNX, with its preprocessing"),
    "register": ("lightning_modules.cli", "put a trained model into the MLflow model registry"),
    "detector": ("lightning_modules.detector.command", "train our own face detector, measure it, write it as ONNX"),
    "cross-validate": ("sweeps.cli", "train and evaluate k folds under one parent run"),
    "search": ("sweeps.search_cli", "try options on inner folds, score the best once on data no trial saw"),
    "dashboard": ("sweeps.search_cli", "open Optuna's page of searches on this machine only"),
    "study": ("sweeps.study_cli", "run a paper's experiment, and write its numbers beside the published ones"),
    "reproduce": ("sweeps.cli", "run a tracked run again and say what differs"),
    "runs": ("records.exchange_cli", "list, export, import, push or pull runs"),
    "report": ("records.report_cli", "compare runs image by image, say for whom one is worse, certify it"),
    "ui": ("records.cli", "open the MLflow page on this machine only"),
    "sync": ("records.cli", "send what a run could not deliver while the tracking server was away"),
}


def usage() -> str:
    """Return the list of commands, one a line."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: emotion <command> [options]     (emotion <command> --help tells the options)\n\n{lines}\n"


def main(args: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 an error that was explained, 2 wrong usage."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: it would ask the network for a newer one
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        print(f"error: unknown command {args[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    from datamodules.errors import InputError

    room = importlib.import_module(COMMANDS[args[0]][0])
    try:
        return int(room.main(args[1:] if args[0] == "data" else args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
