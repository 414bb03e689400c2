"""`emotion explain`: where a trained network looks, image by image, and whether that is true."""

import argparse
from pathlib import Path

from datamodules.errors import did_you_mean, invalid
from emotion.cli.main import Parser, not_empty, say_what_begins

# as in `records.explain.methods`, which imports torch; a test compares them
METHODS = ("lime", "kernel-shap", "grad-cam", "integrated-gradients")
EPILOG = """examples:
  emotion explain latest --method lime --by age              10 correct images of every class and age
  emotion explain RUN --method grad-cam --rows 3 17          two rows of the data
  emotion explain RUN --method lime --paths picture.jpg --fold 0
  emotion explain RUN --faces yunet:FILE --compare kernel-shap --out where-it-looks
"""


def _parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="emotion explain",
        description="Explain held-out images, each by the checkpoint of the fold that never saw it, and measure "
        "whether that is true. Exit status 1 if the explanation FAILS: its order of superpixels is no better than "
        "random orders. Overlays show people: they stay in the folder and are not kept with the run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", metavar="RUN", help="fit or cross-validation: id, its beginning, name, or latest")
    made.add_argument("--method", default="lime", metavar="|".join(METHODS), help="default: lime")
    made.add_argument(
        "--target", default="predicted", help="class to explain: predicted (default), label, or the name of a class"
    )
    which = made.add_argument_group("which images")
    which.add_argument("--images", type=int, default=10, help="of each class, and group (default: %(default)s)")
    which.add_argument("--by", nargs="+", default=[], metavar="COLUMN", help="groups; age+gender is their crossing")
    which.add_argument("--bins", nargs="+", default=[], metavar="COLUMN=0,10,18", help="lower ends of bins of numbers")
    which.add_argument("--answers", default="correct", help="correct (default), wrong, or any")
    which.add_argument("--rows", nargs="+", type=int, metavar="ROW", help="these rows of the data instead")
    which.add_argument("--paths", nargs="+", metavar="PATH", help="pictures of the data, or new pictures or folders")
    which.add_argument("--fold", type=int, help="whose checkpoint explains new pictures (default: the first)")
    which.add_argument("--data", metavar="SOURCE", help="where the run's data lies now (default: where it lay)")
    how = made.add_argument_group("how")
    how.add_argument("--superpixels", type=int, default=50, help="of an image, by SLIC (default: %(default)s)")
    how.add_argument("--compactness", type=float, default=20.0, help="of superpixels (default: %(default)s)")
    how.add_argument("--samples", type=int, default=1000, help="of lime and kernel-shap (default: %(default)s)")
    how.add_argument("--features", type=int, metavar="N", help="lime: keep the N strongest superpixels (default: all)")
    how.add_argument(
        "--fill", default="mean", help="instead of a superpixel: mean (default), superpixel, blur, grey, black"
    )
    how.add_argument("--steps", type=int, default=64, help="of integrated-gradients (default: %(default)s)")
    how.add_argument(
        "--layer", type=not_empty, help="grad-cam: name in the backbone (default: the last one with places)"
    )
    how.add_argument("--batch", type=int, default=64, help="samples in one pass (default: %(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of the choice and the samples (default: %(default)s)")
    report = made.add_argument_group("the report")
    report.add_argument("--top", type=int, default=5, help="superpixels an image marks (default: %(default)s)")
    report.add_argument(
        "--faces", type=not_empty, metavar="yunet:FILE", help="finds landmarks where the data tells none"
    )
    report.add_argument("--compare", nargs="+", default=[], metavar="METHOD", help="other methods to compare with")
    report.add_argument("--seeds", type=int, default=2, help="repeats with other seeds (default: %(default)s)")
    report.add_argument("--resamples", type=int, default=2000, help="of intervals (default: %(default)s)")
    report.add_argument("--permutations", type=int, default=9999, help="of tests (default: %(default)s)")
    report.add_argument("--out", type=Path, metavar="FOLDER", help="default: explain-RUN-METHOD")
    report.add_argument("--not-kept", action="store_true", help="keep no numbers and tables with the run")
    report.add_argument("--log-pictures", action="store_true", help="keep maps and overlays with the run, too")
    return made


def main(args: list[str]) -> int:
    """Run `emotion explain` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    options = _parser().parse_args(args[1:])
    if options.method not in METHODS:
        hint = did_you_mean(options.method, METHODS, cutoff=0.4)
        raise invalid("--method", f"must be one of {', '.join(METHODS)}", options.method, hint)
    say_what_begins(args)
    from lightning_modules.explain_run import ExplainOptions, explain_run

    return explain_run(ExplainOptions(**vars(options)))
