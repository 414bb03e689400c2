"""`emotion report`: compare runs image by image, certify a run, or measure its bias between groups."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from datamodules.errors import InputError, invalid
from emotion.cli.main import Parser, add_directory, not_empty, whole_from

MINIMUM = 30  # as in `results.bias.groups`, which imports pandas; a test compares them


def main(args: list[str]) -> int:
    """Run `compare`, `certify` or `bias` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    options = _parser().parse_args(args[1:])
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="emotion report", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    several = commands.add_parser("compare", help="compare runs image by image", description=_compare.__doc__)
    several.add_argument(
        "runs", nargs="+", metavar="RUN", help="run id or its start, name, or latest; the first is the reference"
    )
    several.add_argument("--pairs", action="store_true", help="compare every two runs, not only each with the first")
    several.add_argument(
        "--resamples", type=whole_from(100), default=2000, help="bootstrap resamples (default: %(default)s)"
    )
    several.add_argument(
        "--permutations", type=whole_from(99), default=9999, help="permutations of the test (default: %(default)s)"
    )
    several.set_defaults(command=_compare)
    certify = commands.add_parser("certify", help="check what a run has recorded", description=_certify.__doc__)
    certify.add_argument("run", metavar="RUN", help="run id or its start, name, or latest")
    certify.set_defaults(command=_certify)
    bias = commands.add_parser("bias", help="measure bias between groups of images", description=_bias.__doc__)
    _add_bias_options(bias)
    bias.set_defaults(command=_bias)
    for command in (several, certify, bias):
        command.add_argument("--out", type=Path, metavar="FOLDER", help="also write the report's files to this folder")
        add_directory(command)
    return parser


def _add_bias_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `emotion report bias`, except --out and --directory, which all reports have."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run id or its start, name, or latest; several are compared as data sets"
    )
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="COLUMN", help="columns of the manifest; age+gender combines two"
    )
    parser.add_argument("--cross", action="store_true", help="also combine every two of the columns")
    parser.add_argument(
        "--bins", nargs="+", default=[], metavar="COLUMN=0,10,18", help="lower bounds of the bins of a numeric column"
    )
    parser.add_argument("--top", type=int, metavar="N", help="keep the N most frequent values of each column")
    parser.add_argument(
        "--sets",
        type=not_empty,
        metavar="COLUMN",
        help="column that names data sets: compare them on the classes they share",
    )
    parser.add_argument("--by-class", action="store_true", help="also test the gap of each class")
    parser.add_argument(
        "--minimum", type=int, default=MINIMUM, help="images that a group needs to be ranked (default: %(default)s)"
    )
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="manifest of the run's data, to count the groups in training"
    )
    parser.add_argument(
        "--resamples", type=whole_from(100), default=2000, help="bootstrap resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--permutations", type=whole_from(99), default=9999, help="permutations of the tests (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=whole_from(0), default=0, help="seed of resamples and permutations (default: %(default)s)"
    )
    parser.add_argument("--not-kept", action="store_true", help="print the report, and store no files with the run")


def _compare(options: argparse.Namespace) -> int:
    """Compare runs on the images they share: differences with 95 % intervals and paired tests, b minus a."""
    _require_folder(options.out)
    from results.compare import compare_runs, comparison_files, comparison_tables
    from results.reports.tables import as_text

    comparison, links = compare_runs(
        options.runs,
        all_pairs=options.pairs,
        resamples=options.resamples,
        permutations=options.permutations,
        directory=options.directory,
    )
    notes = "\n".join(comparison.notes)
    print("\n\n".join([*(as_text(table) for table in comparison_tables(comparison)), notes]))
    if options.out is not None:
        _write(options.out, comparison_files(comparison, links))
    return 0


def _certify(options: argparse.Namespace) -> int:
    """Check the folds, numbers and origin that a run has recorded, by recomputing them.

    Exit status 1 if a check fails; 2 if none fails, but one ended with an error.
    """
    _require_folder(options.out)
    from results.certify.certificate import certificate_json, certificate_page, certificate_text, certify
    from results.tracking.runs import find_whole_run

    run = find_whole_run(options.run, directory=options.directory)
    certificate = certify(run, directory=options.directory)
    print(certificate_text(certificate))
    if options.out is not None:
        name = f"certificate-{run[:8]}"
        pages = {f"{name}.json": certificate_json(certificate), f"{name}.html": certificate_page(certificate)}
        _write(options.out, pages)
    return 1 if certificate.failed else 2 if certificate.broken else 0


def _bias(options: argparse.Namespace) -> int:
    """Compare a run's scores between groups of images: differences, intervals, tests, and training images."""
    _require_folder(options.out)
    from results.bias.groups import parse_bins
    from results.bias.report import BiasOptions, bias_of_runs, files, keep_report, text

    settings = BiasOptions(
        by=tuple(options.by),
        cross=options.cross,
        bins=parse_bins(options.bins),
        top=options.top,
        sets=options.sets,
        by_class=options.by_class,
        minimum=options.minimum,
        resamples=options.resamples,
        permutations=options.permutations,
        seed=options.seed,
    )
    chosen, bias = bias_of_runs(options.runs, settings, manifest=options.manifest, directory=options.directory)
    print(text(bias))
    content = files(bias)
    if options.out is not None:
        _write(options.out, content, shown="bias.html")
    if not options.not_kept:
        print("\n".join(keep_report(chosen, content, settings, options.directory)))
    return 0


def _require_folder(folder: Path | None) -> None:
    """Check ``--out`` before the work whose result it takes."""
    for place in [] if folder is None else [folder, *folder.parents]:
        if place.exists() and not place.is_dir():
            raise invalid("--out", "must be a folder, or a new one in a folder", str(folder))


def _write(folder: Path, files: Mapping[str, str | bytes], shown: str | None = None) -> None:
    """Write a report's files and print their names, or only that of `shown`."""
    from results.reports.pages import write_files

    try:
        write_files(folder, files)
    except OSError as error:
        msg = f"--out: {folder} cannot be written to ({error.strerror or error}); choose another folder."
        raise InputError(msg) from error
    for name in files if shown is None else [shown]:
        print(f"written: {folder / name}")
