"""`emotion explain`: which regions of an image a trained model uses, and how faithful this explanation is."""

import argparse
from pathlib import Path

from datamodules.errors import did_you_mean, invalid
from emotion.cli.main import Parser, not_empty, print_start

# as in `emotion.explanation.methods`, which imports torch; a test compares them
METHODS = ("lime", "kernel-shap", "grad-cam", "integrated-gradients")
EPILOG = """examples:
  emotion explain latest --method lime --by age              10 correct images of every class and age
  emotion explain RUN --method grad-cam --rows 3 17          two rows of the data
  emotion explain RUN --method lime --paths image.jpg --fold 0
  emotion explain RUN --faces yunet:FILE --compare kernel-shap --out where-it-looks
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="emotion explain",
        description="Explain held-out images, each with the checkpoint of the fold that did not train on it, and\n"
        "measure how faithful the explanations are. Exit status 1 if they FAIL: their order of superpixels does not\n"
        "beat random orders, a centred blob and the map of another image. Overlays show people, so they are stored\n"
        "with the run only with --log-pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", metavar="RUN", help="fit, cross-validation or evaluation: run id or its start, name, or latest"
    )
    parser.add_argument("--method", default="lime", metavar="|".join(METHODS), help="default: lime")
    parser.add_argument(
        "--target", default="predicted", help="class to explain: predicted (default), label, or the name of a class"
    )
    which = parser.add_argument_group("which images")
    which.add_argument("--images", type=int, default=10, help="images of each class and group (default: %(default)s)")
    which.add_argument(
        "--by", nargs="+", default=[], metavar="COLUMN", help="columns of groups; age+gender combines two"
    )
    which.add_argument(
        "--bins", nargs="+", default=[], metavar="COLUMN=0,10,18", help="lower bounds of the bins of a numeric column"
    )
    which.add_argument("--answers", default="correct", help="predictions to explain: correct (default), wrong, or any")
    which.add_argument("--rows", nargs="+", type=int, metavar="ROW", help="explain these rows of the data instead")
    which.add_argument(
        "--paths",
        nargs="+",
        metavar="PATH",
        help="images of the data, or new images or folders; faces are cut out of photographs as in training",
    )
    which.add_argument("--fold", type=int, help="fold whose checkpoint explains new images (default: the first)")
    which.add_argument("--data", metavar="SOURCE", help="where the run's data is now (default: as in the run)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--superpixels", type=int, default=50, help="superpixels of an image, by SLIC (default: %(default)s)"
    )
    how.add_argument(
        "--compactness", type=float, default=20.0, help="compactness of the superpixels (default: %(default)s)"
    )
    how.add_argument("--samples", type=int, default=1000, help="samples of lime and kernel-shap (default: %(default)s)")
    how.add_argument("--features", type=int, metavar="N", help="lime: keep the N strongest superpixels (default: all)")
    how.add_argument(
        "--fill", default="mean", help="what replaces a superpixel: mean (default), superpixel, blur, grey, black"
    )
    how.add_argument("--steps", type=int, default=64, help="steps of integrated-gradients (default: %(default)s)")
    how.add_argument(
        "--layer", type=not_empty, help="grad-cam: name of a layer of the backbone (default: the last feature map)"
    )
    how.add_argument("--batch", type=int, default=64, help="samples in one pass (default: %(default)s)")
    how.add_argument("--seed", type=int, default=0, help="seed of the chosen images and samples (default: %(default)s)")
    report = parser.add_argument_group("the report")
    report.add_argument("--top", type=int, default=5, help="superpixels marked in an image (default: %(default)s)")
    report.add_argument("--faces", type=not_empty, metavar="yunet:FILE", help="find landmarks if the data has none, "
                        "and faces in new photographs if the detector of the training is missing")  # fmt: skip
    report.add_argument("--compare", nargs="+", default=[], metavar="METHOD", help="other methods to compare with")
    report.add_argument("--seeds", type=int, default=2, help="repetitions with other seeds (default: %(default)s)")
    report.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples (default: %(default)s)")
    report.add_argument(
        "--permutations", type=int, default=9999, help="permutations of the tests (default: %(default)s)"
    )
    report.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the report (default: explain-RUN-METHOD)")
    report.add_argument("--not-kept", action="store_true", help="store no numbers and tables with the run")
    report.add_argument("--log-pictures", action="store_true", help="store maps and overlays with the run, too")
    return parser


def main(args: list[str]) -> int:
    """Run `emotion explain` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    options = _parser().parse_args(args[1:])
    if options.method not in METHODS:
        hint = did_you_mean(options.method, METHODS, cutoff=0.4)
        raise invalid("--method", f"must be one of {', '.join(METHODS)}", options.method, hint)
    print_start(args)
    from emotion.explanation.explainer import ExplainOptions, explain_run

    return explain_run(ExplainOptions(**vars(options)))
