"""Training commands `emotion fit`, `cross-validate` and `reproduce`; evaluation commands `validate` and `test`."""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datamodules.errors import InputError, invalid
from emotion.cli.main import Parser, print_start
from lightning_modules.config import DEFAULT_RECIPE, HELP, Options, RunConfig, all_options, recipe_names, written

if TYPE_CHECKING:  # importing it takes seconds
    from sweeps.cross_validation import CrossValidation

# the usual options; `--help-all` lists all of them, for which it must import torch
USUAL = {
    "data.size": "side of the model's input images, in pixels",
    "data.batch_size": "images in a training batch",
    "data.split": "folds (one fold of k), holdout, or given (the split column of the data)",
    "data.folds": "number of folds; --data.fold N is the test part",
    "data.fold": "number of the fold that is the test part, from 0",
    "data.holdout_fraction": "share of the images in the test part, with --data.split holdout",
    "data.inner_fraction": "share of the other images for the val part, which selects the epoch",
    "data.n_min": "over-sample each class to this many images, a fraction of the largest class, or max",
    "data.balance_by": "over-sample each class in each subgroup: a column such as age, or age+gender",
    "data.stratify_by": "stratify the split by these subgroups as well: written as --data.balance_by",
    "data.transforms": "transforms, one of which is chosen at random for each image, such as [flip,zoom]",
    "data.transform_where": "none, copies (over-sampled images), all, or doubled",
    "data.leak": "duplicates across a given split: error, drop_twins, allow",
    "classes": "use only these classes: --classes happy sad neutral (also --data.read.classes)",
    "data.near_duplicates": "keep near-duplicates together as well as exact ones",
    "data.num_workers": "processes that load images (default: chosen automatically)",
    "model.backbone": "name of a timm model",
    "model.weights": "embedded (from an installed package), hub (download), none, or a file",
    "model.head": "linear, or another head, which --help-all lists",
    "model.loss": "CrossEntropy, Focal, LogitAdjustment, BalancedSoftmax, LDAM ...",
    "model.loss.gamma": "gamma of Focal; other losses have other options (--help-all)",
    "model.optimizer": "adam, adamw or sgd",
    "model.learning_rate": "peak learning rate of the run",
    "model.weight_decay": "weight decay",
    "model.schedule": "learning rate schedule: constant, one_cycle, cosine, plateau",
    "model.dropout": "dropout before the head",
    "trainer.max_epochs": "maximum number of epochs",
    "trainer.accelerator": "auto, cpu or gpu",
    "trainer.devices": "number of devices of this run; with several: --trainer.strategy ddp",
    "trainer.precision": "32-true, or bf16-mixed on a GPU",
    "run.patience": "stop after this many epochs without a better macro F1 on the val part",
    "run.ema_decay": "evaluate an average of the weights with this decay per step, such as 0.99",
    "run.start_from": "start with the weights of a run or a .ckpt file",
    "run.keep": "checkpoint to keep: best, last (to continue training), or none",
    "run.decisions": "fit these on the val part: [temperature,tau,thresholds]; `emotion predict` applies them",
    "run.risk": "leave uncertain images unanswered, so that at most this share of the answers is wrong",
    "run.coverage": "leave images unanswered unless a conformal set of this coverage has one class",
    "run.name": "name of the run on the MLflow page",
    "run.experiment": "MLflow experiment",
}
ABOUT = {
    "fit": "Train one model, select the epoch on the val part, and report on the test part once.",
    "validate": "Evaluate the checkpoint of a run (--run RUN) or of a file (--ckpt_path FILE) on the val part.",
    "test": "Evaluate the checkpoint of a run (--run RUN) or of a file (--ckpt_path FILE) on the test part.",
}


def main(args: list[str]) -> int:
    """Run `fit`, `validate`, `test`, `cross-validate` or `reproduce` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    command, rest = args[0], args[1:]
    if command == "cross-validate":
        return _cross_validate(args)
    if command == "reproduce":
        return _reproduce(args)
    if {"-h", "--help", "--help-all"} & set(rest):
        print(_usage(command))
        if "--help-all" in rest:
            print(f"\nall options:\n{all_options()}")
        return 0
    print_start(args)
    return _fit(rest) if command == "fit" else _evaluate(command, rest)


def _usage(command: str) -> str:
    width = max(map(len, USUAL)) + 2
    lines = "\n".join(f"  --{name:<{width}}{text}" for name, text in USUAL.items())
    more = (
        "  --dry-run         print what would be trained and the estimated time; train nothing\n"
        "  --print_config    print all options as the YAML file that --config takes\n"
    )
    return (
        f"usage: emotion {command} [options]\n\n{ABOUT[command]}\n\n"
        f"{HELP.format(recipes=', '.join(recipe_names()))}{more if command == 'fit' else ''}\nusual options:\n{lines}"
    )


def _fit(args: list[str]) -> int:
    options = Options.read([word for word in args if word not in ("--dry-run", "--print_config")])
    config = RunConfig.layered(options)
    _note_default(options.recipe, options.files)
    if "--print_config" in args:
        print(config.to_yaml(), end="")
        return 0
    if "--dry-run" in args:
        from lightning_modules.training import describe_run

        print(describe_run(config))
        return 0
    from lightning_modules.training import train

    result = train(config)
    if result is not None and result.text:
        leaks = "".join(f"{sentence}\n" for sentence in _leak_sentences(result.data.leak_record))
        print(f"\n{leaks}{result.text}")
        if result.run_id and config.run["keep"] == "none":
            print(f"run {result.run_id} (to view it: emotion ui)")
        elif result.run_id:
            print(f"run {result.run_id}")
            _show_next("run", result.run_id, drawn=str(config.data["source"]).startswith("drawn"))
    elif result is not None:
        print(f"\nrun {result.run_id} (to view it: emotion ui)")
    return 0


def _note_default(recipe: str | None, files: tuple[str, ...]) -> None:
    """Print which recipe is used where neither a recipe nor a file is given."""
    if recipe is None and not files and os.environ.get("LOCAL_RANK", "0") == "0":
        print(
            f"recipe {DEFAULT_RECIPE}, a first look at 48 px; for real training: --recipe balanced (others: --help)",
            file=sys.stderr,
        )


def _leak_sentences(record: Mapping[str, Any]) -> list[str]:
    """Return what a split did with duplicates that cross its parts, in sentences."""
    sentences = []
    if leaking := record.get("leaking_clusters", 0):
        counted = [part for part in ("train", "val", "test") if f"leaking_{part}_rows" in record]
        images = ", ".join(f"{record[f'leaking_{part}_rows']:,} images of {part}" for part in counted)
        sentences.append(f"{leaking:,} groups of duplicates or images of one person cross the parts: {images}")
        kept = f"they are left in, so the scores may be too high (--data.leak {record['leak']})"
        if record["leak"] == "drop_twins":
            of_train, of_val = record["dropped_train_rows"], record["dropped_val_rows"]
            kept = f"{of_train:,} images are dropped from train, {of_val:,} from val"
        sentences.append(kept)
    if unused := record.get("unused_rows", 0):
        sentences.append(f"{unused:,} images are in no part of the given split and are not used")
    known = {"leak", "dropped_rows", "unused_rows"}
    known |= {name for name in record if name.startswith(("leaking_", "dropped_"))}
    others = {name: value for name, value in record.items() if name not in known}
    return [*sentences, *(f"{name.replace('_', ' ')}: {value}" for name, value in others.items())]


def _evaluate(command: str, args: list[str]) -> int:
    options = Options.read(args)
    values = {name: value for name, value in options.values.items() if name != "run"}
    run_id = None
    if run := options.values.get("run"):
        from results.tracking.runs import find_trained_run, stored_run

        run_id = find_trained_run(str(run))
        file, checkpoint = stored_run(run_id)
        if command == "test" and (words := _other_data(options, RunConfig.from_file(file))):
            from emotion.cli import predict

            print(
                "note: --data is not the run's own data, so all of it is scored, as by `emotion evaluate`",
                file=sys.stderr,
            )
            return predict.main(["evaluate", str(run), *words])
        config = RunConfig.layered(Options(options.recipe, (str(file), *options.files), values))
    else:
        config = RunConfig.layered(options)
        if config.ckpt_path is None:
            msg = f"emotion {command}: needs --run RUN or --ckpt_path FILE, got neither"
            raise InputError(msg)
        checkpoint = Path(config.ckpt_path)
    from lightning_modules.training import evaluate

    part: Literal["validate", "test"] = "validate" if command == "validate" else "test"
    evaluate(config.override({"ckpt_path": None}), checkpoint, part, run_id)
    return 0


def _other_data(options: Options, config: RunConfig) -> list[str]:
    """Return the words with which `emotion evaluate` scores the data set that the options name, and nothing else.

    None are returned for the data of the run itself, or where other options than those of reading are given, such as a
    split: then a test part of the data set is scored.
    """
    given = {name: value for name, value in options.values.items() if name != "run"}
    source = str(given.pop("data.source", config.data["source"]))
    own = str(config.data["source"])
    if source == own or Path(source).resolve() == Path(own).resolve() or options.recipe or options.files:
        return []
    if any(not name.startswith("data.read.") for name in given):
        return []
    return ["--data", source, *(f"--{name}={written(value)}" for name, value in given.items())]


def _cross_validate(args: list[str]) -> int:
    parser = Parser(
        prog="emotion cross-validate",
        description="Train and evaluate k folds under one parent run. Other options are those of `emotion fit`.",
        epilog=HELP.format(recipes=", ".join(recipe_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: %(default)s)")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="training seeds; the spread over seeds is printed separately (default: --seed)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that train folds at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be trained and the estimated time; train nothing"
    )
    parser.add_argument(
        "--resamples", type=int, default=2000, help="bootstrap resamples of the intervals (default: %(default)s)"
    )
    options, rest = parser.parse_known_args(args[1:])
    print_start(args)
    given = Options.read(rest)
    for fixed in ("data.split", "data.fold", "data.folds", "data.fold_seed"):
        if fixed in given:
            msg = (
                f"{given.typed[fixed]}: cross-validation sets it (got {given.values[fixed]}); leave it out, or use "
                "`emotion fit` for one split"
            )
            raise InputError(msg)
    if options.seeds and "seed_everything" in given:
        rule = "cannot be given with --seeds, which names all training seeds"
        raise invalid(given.typed["seed_everything"], rule, given.values["seed_everything"], "leave one of them out")
    config = RunConfig.layered(given)
    _note_default(given.recipe, given.files)
    seeds = options.seeds or [config.seed_everything]
    if options.dry_run:
        from sweeps.cross_validation import describe_cross_validation

        print(describe_cross_validation(config, options.folds, seeds, options.workers))
        return 0
    from sweeps.cross_validation import cross_validate

    result = cross_validate(
        config,
        folds=options.folds,
        seeds=seeds,
        workers=options.workers,
        resume=config.run["resume"],
        resamples=options.resamples,
    )
    if result is not None:
        _show(result, drawn=str(config.data["source"]).startswith("drawn"))
    return 0


def _show(result: "CrossValidation", *, drawn: bool) -> None:
    """Print the tables, the spreads, the run ids and the next commands."""
    print(f"\n{result.text}")
    first = result.folds[result.folds["seed"] == result.folds["seed"].iloc[0]]
    print("macro F1 of the folds: " + " ".join(f"{value:.3f}" for value in first["f1_macro"]))
    if len(result.pooled) > 1:
        spread = result.pooled["f1_macro"]
        values = ", ".join(f"seed {row.seed}: {row.f1_macro:.3f}" for row in result.pooled.itertuples())
        print(f"pooled macro F1 by training seed: {values}; standard deviation {spread.std(ddof=1):.3f}")
        print("(the intervals above reflect the sample of test images, not the training seed)")
    print(f"\nparent run {result.run_id} in mlruns/ (or MLFLOW_TRACKING_URI), with its folds below it")
    _show_next("cross-validation", result.run_id, drawn=drawn)


def _show_next(kind: str, run_id: str, *, drawn: bool) -> None:
    """Print the first commands that can follow a run."""
    from results.reports.run_page import next_commands

    lines = [("View the runs, figures and tables", "emotion ui")]
    if shutil.which("emotion") is None:  # `make train` finds it without
        lines.insert(0, ("Once per shell", "source .venv/bin/activate"))
    if drawn:
        lines.append(("Your own images, one folder per class", "emotion cross-validate --data path/to/images"))
    lines += next_commands(kind, run_id)[:5]
    width = max(len(command) for _, command in lines)
    print("next:", *(f"  {command:<{width}}  {what}" for what, command in lines), sep="\n")


def _reproduce(args: list[str]) -> int:
    """Run a tracked run again from its own config and seed; exit status 1 when the numbers differ."""
    parser = Parser(
        prog="emotion reproduce",
        description="Run a tracked run again from its own config and seed, and report what differs. "
        "Exit status 1 if the numbers differ.",
    )
    parser.add_argument("run", metavar="RUN", help="run id or its start, name, or latest")
    options = parser.parse_args(args[1:])
    print_start(args)
    from sweeps.reproduce import reproduce

    result = reproduce(options.run)
    if result is None:  # another rank than zero
        return 0
    environment, numbers = result.environment, result.numbers
    if result.text:
        print(f"\n{result.text}")
    print(f"\nreproduced {result.run_id}")
    print("environment: " + ("the same" if not environment else ""), *environment, sep="\n  ")
    print("numbers: " + ("the same, image by image" if not numbers else ""), *numbers, sep="\n  ")
    return int(bool(numbers))
