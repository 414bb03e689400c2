"""`emotion detector`: train our own face detector, measure it, write it as ONNX for `emotion data prepare --faces`."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.errors import InputError
from lightning_modules.shorthand import take

if TYPE_CHECKING:  # their import takes seconds
    from datamodules.faces.boxes_data import BoxesDataModule
    from lightning_modules.detector.module import FaceDetector

USAGE = """usage: emotion detector <fit|test|export> [options]

  fit     train on --data (drawn scenes by default), or --from a RUN or FILE.ckpt train on;
          --resume [RUN] goes on with a run that was stopped
  test    measure RUN or FILE.ckpt on the held-out pictures of --data
  export  write RUN or FILE.ckpt as ONNX

emotion detector fit --help tells the options
"""

FIT = (
    "Train a face detector. In short: --data SOURCE (--data.source), --boxes FILE (--data.boxes), --epochs N "
    "(--run.epochs), --size N (--data.size); --from RUN or FILE.ckpt starts from a trained one, --resume [RUN] goes on "
    "with a run that was stopped."
)


class DetectorParser(LightningArgumentParser):
    """Says in one sentence what is wrong with an option."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise the user's error in place of printing the tree of tried types."""
        from lightning_modules.parser import input_error, plain

        inner = input_error(ex)
        names = [action.dest for action in self._actions if "help" not in action.dest]
        raise InputError(str(inner) if inner else plain(message, names, "emotion detector")) from ex


def main(args: list[str]) -> int:
    """Run ``detector fit``, ``detector test`` or ``detector export``; ``args`` begin with "detector"."""
    rest = args[1:]
    if not rest or rest[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if rest else 2
    command, rest = rest[0], rest[1:]
    if command not in ("fit", "test", "export"):
        msg = f"emotion detector: fit, test or export, got {command!r}"
        raise InputError(msg)
    if not {"-h", "--help"} & set(rest):
        print(f"emotion detector {command}: starting ...", file=sys.stderr, flush=True)
    return {"fit": _fit, "test": _test, "export": _export}[command](rest)


def _short(args: list[str]) -> list[str]:
    names = {"--data": "--data.source", "--boxes": "--data.boxes", "--epochs": "--run.epochs", "--size": "--data.size"}
    words = []
    for word in args:
        name, equals, value = word.partition("=")
        words.append(names.get(name, name) + equals + value)
    return words


@dataclass(frozen=True)
class Fitted:
    """A finished training: its run, the average precisions of its outer part, its best weights and its pictures."""

    run_id: str
    table: pd.DataFrame
    model: "FaceDetector"
    data: "BoxesDataModule"


def read_words(args: list[str]) -> tuple[dict[str, Any], Path | None]:
    """Return the config that the words after ``emotion detector fit`` mean, and the checkpoint it begins with, if any.

    Raises:
        InputError: a word or a value that does not fit.
    """
    start, words = take(args, "--from")
    resume, words = take(words, "--resume", optional=True)
    from datamodules.faces.boxes_data import BoxesDataModule
    from lightning_modules.detector.module import CONFIG_KEY, FaceDetector, read_detector
    from lightning_modules.detector.run import DetectorRun, checkpoint_of

    parser = DetectorParser(prog="emotion detector fit", description=FIT, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_argument("--seed", type=int, default=0, help="the one seed of the run")
    parser.add_class_arguments(BoxesDataModule, "data", skip={"seed"})
    parser.add_class_arguments(FaceDetector, "model", skip={"size"})
    parser.add_class_arguments(DetectorRun, "run")
    checkpoint: Path | None = None
    if start is not None:
        checkpoint = checkpoint_of(start)
        known = read_detector(checkpoint)[CONFIG_KEY]  # its network is the default of one that is trained on
        parser.set_defaults({f"model.{name}": value for name, value in known.items() if name != "size"})
        parser.set_defaults({"data.size": known["size"], "model.weights": "none"})
    resumed = [] if resume is None else ["--run.resume", resume or "auto"]
    config = parser.parse_args([*_short(words), *resumed])
    plain: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    plain.pop("config", None)
    if start is not None:
        plain["from"] = str(start)
    return plain, checkpoint


def fit_words(args: list[str], tags: dict[str, str] | None = None) -> Fitted:
    """Train as the words after ``emotion detector fit`` say; `tags` are the run's further ones.

    Raises:
        InputError: a word or a value that does not fit.
    """
    plain, checkpoint = read_words(args)
    from lightning.pytorch import seed_everything

    from datamodules.faces.boxes_data import BoxesDataModule
    from lightning_modules.detector.known import refuse_known
    from lightning_modules.detector.module import FaceDetector
    from lightning_modules.detector.run import DetectorRun, fit

    os.environ["PL_GLOBAL_SEED"] = str(plain["seed"])
    seed_everything(plain["seed"], workers=True, verbose=False)
    options = {**plain["model"], "size": plain["data"]["size"]}
    if checkpoint is None:
        model = FaceDetector(**options)
    else:
        model = FaceDetector.from_checkpoint(checkpoint, **options).train()
    data = BoxesDataModule(**plain["data"])
    if "from" in plain:
        refuse_known(plain["from"], data, "--from")
    how = DetectorRun(**plain["run"])
    plain["run"].pop("resume", None)  # says how the run was started, not what it is
    run_id, table = fit(model, data, how, plain, plain["seed"], tags)
    return Fitted(run_id, table, model, data)


def _fit(args: list[str]) -> int:
    done = fit_words(args)
    from lightning_modules.detector.run import text_of

    data = done.data
    if data.clipped:
        print(f"note: {data.clipped} boxes reached over the border of their pictures and were cut there")
    print(text_of(done.table, len(data.fold.outer), sum(len(data.boxes[row]) for row in data.fold.outer)))
    print(f"run {done.run_id} (look at it: emotion ui; as ONNX: emotion detector export {done.run_id[:8]})")
    return 0


def _test(args: list[str]) -> int:
    if {"-h", "--help"} & set(args):
        print("usage: emotion detector test RUN|FILE.ckpt [--data SOURCE] [--data.* as in fit] [--all]")
        return 0
    from datamodules.faces.boxes_data import BoxesDataModule
    from lightning_modules.detector.known import refuse_known
    from lightning_modules.detector.module import FaceDetector
    from lightning_modules.detector.precision import intervals
    from lightning_modules.detector.run import checkpoint_of, evaluate, text_of

    if not args or args[0].startswith("-"):
        msg = "emotion detector test: which? give a run or a .ckpt file first"
        raise InputError(msg)
    model = FaceDetector.from_checkpoint(checkpoint_of(args[0]))
    parser = DetectorParser(prog="emotion detector test", allow_abbrev=False)
    parser.add_argument("--all", action="store_true", help="all pictures, not the held-out part alone")
    parser.add_class_arguments(BoxesDataModule, "data", skip={"seed", "size"})
    config = parser.parse_args(_short(args[1:]))
    data = BoxesDataModule(**dict(config.data), size=model.plain["size"])
    if not config.all:
        refuse_known(args[0], data, "RUN")
    rows = range(len(data.manifest)) if config.all else data.fold.outer.tolist()
    pictures = evaluate(model, data, rows)
    faces, kind = sum(picture.faces for picture in pictures), "pictures" if config.all else "held-out pictures"
    print(text_of(intervals(pictures), len(pictures), faces, kind))
    return 0


def _export(args: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="emotion detector export")
    parser.add_argument("run", help="a run, or a .ckpt file")
    parser.add_argument("--output", help="file to write; default: <run>.onnx here")
    parser.add_argument("--fixed", action="store_true", help="take pictures of the trained size alone")
    options = parser.parse_args(args)
    from lightning_modules.detector.export import export_onnx
    from lightning_modules.detector.module import FaceDetector
    from lightning_modules.detector.run import checkpoint_of

    path = Path(options.output or f"{Path(options.run).stem}.onnx")
    model = FaceDetector.from_checkpoint(checkpoint_of(options.run))
    worst = export_onnx(model, path, fixed=options.fixed)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); differs from torch by at most {worst:.1e}")
    print(f"find faces with it: emotion data prepare --faces {path}")
    return 0
