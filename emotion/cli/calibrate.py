"""Command `emotion calibrate`: fit what turns probabilities into answers, on the val part of finished runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import InputError
from datamodules.read_options import spellings
from emotion.cli.data import add_reading_arguments, given_fields, reading
from emotion.cli.main import Parser, not_empty, print_start, writable_file

if TYPE_CHECKING:  # it takes a second to import
    import pandas as pd

DECISIONS = ("temperature", "tau", "thresholds")  # as in `lightning_modules.config`; a test compares them


def main(args: list[str]) -> int:
    """Run `emotion calibrate` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    options = _parser().parse_args(args[1:])
    print_start(args)
    if options.remove:
        from sweeps.calibration import remove_decisions

        if options.decisions or options.risk or options.coverage:
            msg = "--remove: fits nothing, so --decisions, --risk and --coverage must be left out"
            raise InputError(msg)
        print(*remove_decisions(options.run), sep="\n")
        return 0
    from lightning_modules.config import DecisionOptions

    chosen = options.decisions if options.decisions is not None else ["temperature"]
    wanted = DecisionOptions.of(chosen, options.risk, options.coverage)
    if not wanted:
        msg = f"--decisions: nothing is fitted; give some of {', '.join(DECISIONS)}, --risk or --coverage, or --remove"
        raise InputError(msg)
    if options.data is None and (unused := given_fields(options)):
        words = ", ".join(spellings()[name].words[0] for name in unused)
        print(f"note: without --data these options have no effect: {words}", file=sys.stderr)
    table = writable_file("--table", Path(options.table)) if options.table else None
    from sweeps.calibration import calibrate

    found = calibrate(
        options.run,
        wanted,
        ensemble=options.ensemble,
        source=options.data,
        read_options=reading(options),
        part=options.part,
    )
    for result in found:
        print(f"{result.name} [{result.run_id[:8]}]\n\n{result.text}")
        print(*(f"note: {note}" for note in result.notes), sep="\n", end="\n" if result.notes else "", file=sys.stderr)
    import pandas as pd

    steps = [result.steps for result in found if len(result.steps)]
    if len(steps) > 1:
        _show_means(pd.concat(steps))
    if table is not None:
        from datamodules.files.paths import replacing

        rows = pd.concat(steps) if steps else pd.DataFrame()
        with replacing(table) as part:
            rows.to_csv(part, index=False, float_format="%.5f")
        print(f"written: {table} ({len(rows)} rows)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="emotion calibrate",
        description="Fit the steps from probabilities to an answer on the val part of finished runs, and store them in "
        "the checkpoints; `predict`, `evaluate`, `export` and `register` use them. The scores of a run stay those of "
        "the raw probabilities; the new scores are stored beside them. A run calibrated before is fitted again.",
    )
    parser.add_argument("run", nargs="+", type=not_empty, metavar="RUN", help="run id or its start, name, or latest")
    parser.add_argument(
        "--decisions",
        nargs="*",
        choices=DECISIONS,
        metavar="STEP",
        help="temperature (calibrates), tau (subtracts tau times the logarithm of the class's share from each logit, "
        "with the tau that is best for macro F1), thresholds (one per class); default: temperature; "
        "--decisions without a step fits none of them",
    )
    parser.add_argument(
        "--risk",
        type=float,
        metavar="R",
        help="leave uncertain images unanswered, so that at most this share of the answers is wrong",
    )
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="C",
        help="leave images unanswered unless a conformal set has one class; sets hold the true class of this share"
        " of images",
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="also fit the mean of all runs, for `emotion predict --run A B`"
    )
    parser.add_argument(
        "--data",
        type=not_empty,
        metavar="SOURCE",
        help="labelled images that no run has seen; --risk and --coverage of a mean of networks need them",
    )
    parser.add_argument("--part", type=not_empty, help="only this part of the split that --data has, such as test")
    parser.add_argument("--table", type=not_empty, metavar="FILE", help="write the scores after each step as CSV")
    parser.add_argument("--remove", action="store_true", help="remove what was fitted before")
    add_reading_arguments(parser)
    return parser


def _show_means(steps: "pd.DataFrame") -> None:
    """Print the mean and the standard deviation over runs after each step."""
    names = ["f1_macro", "accuracy", "nll", "brier", "calibration_error", "coverage", "risk"]
    groups = steps.groupby("step", sort=False)[names]
    means, spread = groups.mean(), groups.std(ddof=1)
    cells = means.map(lambda value: f"{value:.3f}") + spread.map(lambda value: f" ± {value:.3f}")
    print(f"mean and standard deviation over {steps['run'].nunique()} runs\n{cells.to_string()}\n")
