"""The command line of many runs: cross-validate and reproduce."""

import argparse
from typing import TYPE_CHECKING

from datamodules.errors import InputError
from lightning_modules.cli import say_what_begins
from lightning_modules.config import HELP, Options, RunConfig, recipe_names

if TYPE_CHECKING:  # importing it takes seconds
    from sweeps.cross_validation import CrossValidation


def main(args: list[str]) -> int:
    """Run ``cross-validate`` or ``reproduce``; return the exit status."""
    say_what_begins(args)
    if args[0] == "reproduce":
        from sweeps.reproduce import main as reproduce

        return reproduce(args[1:])
    parser = argparse.ArgumentParser(
        prog="emotion cross-validate",
        description="Train and evaluate k folds under one parent run. Other options are those of `emotion fit`.",
        epilog=HELP.format(recipes=", ".join(recipe_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="training seeds; their spread is printed apart (default: --seed)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that train folds at the same time")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and about how long it takes")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples of the intervals")
    options, rest = parser.parse_known_args(args[1:])
    given = Options.read(rest)
    for fixed in ("data.split", "data.fold", "data.folds", "data.fold_seed"):
        if fixed in given:
            msg = (
                f"{given.typed[fixed]}: cross-validation sets it (got {given.values[fixed]}); leave it out, or use "
                "`emotion fit` for one split"
            )
            raise InputError(msg)
    config = RunConfig.layered(given)
    seeds = options.seeds or [config.seed_everything]
    if options.dry_run:
        from lightning_modules.estimate import describe_run

        print(describe_run(config.override({"data.fold_seed": seeds[0]}), options.folds, seeds))
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
        show(result)
    return 0


def show(result: "CrossValidation") -> None:
    """Print the tables, the spreads, where the runs are and what to type next."""
    print(f"\n{result.text}")
    first = result.folds[result.folds["seed"] == result.folds["seed"].iloc[0]]
    print("macro F1 of the folds: " + " ".join(f"{value:.3f}" for value in first["f1_macro"]))
    if len(result.pooled) > 1:
        spread = result.pooled["f1_macro"]
        values = ", ".join(f"seed {row.seed}: {row.f1_macro:.3f}" for row in result.pooled.itertuples())
        print(f"pooled macro F1 by training seed: {values}; standard deviation {spread.std(ddof=1):.3f}")
        print("(the intervals above cover which images were tested, not the training seed)")
    print(f"\nparent run {result.run_id} in mlruns/ (or MLFLOW_TRACKING_URI), its folds below it")
    print("next:  make ui                                          look at the runs, figures and tables")
    print("       make train RECIPE=balanced DATA=path/to/images   your own pictures, one folder a class")
    print(f"       emotion predict --run {first['run_id'].iloc[0]} --data picture.jpg")
    print(f"       emotion report bias {result.run_id[:8]} --by COLUMN       for whom it is worse")
    print(f"       emotion explain {result.run_id[:8]}                      where it looks, and whether that is true")
