"""`emotion report`: compare runs, certify a run, measure bias between groups, list label errors and mistakes."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from datamodules.errors import InputError, invalid
from emotion.cli.main import Parser, add_directory, not_empty, whole_from, writable_file

SHOWN = 10  # doubtful labels in the terminal
MINIMUM = 30  # as in `results.bias.groups`, which imports pandas; a test compares them


def main(args: list[str]) -> int:
    """Run one of the reports and return the exit status.

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
    labels = commands.add_parser("labels", help="list labels that are probably wrong", description=_labels.__doc__)
    labels.add_argument(
        "run", metavar="RUN", help="cross-validation or evaluation: run id or its start, name, or latest"
    )
    labels.add_argument(
        "--output",
        type=not_empty,
        metavar="FILE.csv",
        help="write the doubtful labels, the most doubtful first: row, path, label, suggested, score; `--exclude "
        "FILE.csv` of every command that reads data leaves these images out",
    )
    labels.add_argument(
        "--top", type=whole_from(1), default=50, metavar="N", help="images on the page (default: %(default)s)"
    )
    labels.add_argument(
        "--votes",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="compare the list with annotators' votes, such as those of FER+: those of the run's data, or of SOURCE, "
        "a data set with the same paths",
    )
    labels.set_defaults(command=_labels)
    errors = commands.add_parser("errors", help="show the most confident mistakes", description=_errors.__doc__)
    errors.add_argument("run", metavar="RUN", help="run id or its start, name, or latest")
    errors.add_argument(
        "--each", type=whole_from(1), default=5, metavar="N", help="images of a pair of classes (default: %(default)s)"
    )
    errors.set_defaults(command=_errors)
    for command in (labels, errors):
        where = "where the run's data is now (default: as in the run)"
        command.add_argument("--data", type=not_empty, metavar="SOURCE", help=where)
        command.add_argument(
            "--embed-images",
            action="store_true",
            help="write the images into the page; otherwise it names their files, and only this machine shows them",
        )
    for command in (several, certify, bias, labels, errors):
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


def _labels(options: argparse.Namespace) -> int:
    """List the labels that are probably wrong, by confident learning from out-of-fold probabilities.

    With --out, a page shows the most doubtful ones.
    """
    _check_page(options)
    if options.output is not None:
        writable_file("--output", Path(options.output).expanduser())
    from results.label_errors import annotators_labels, counts_table, label_errors_of, precision_table
    from results.reports.gallery import label_page, open_images
    from results.reports.tables import as_text, number, percent
    from results.run_images import DataOptions
    from results.tracking.runs import find_whole_run, run_row

    run = find_whole_run(options.run, directory=options.directory)
    name = f"{run_row(run, directory=options.directory)['name']} [{run[:8]}]"
    found, predictions = label_errors_of(run, directory=options.directory)
    correct = float((predictions["label"] == predictions["predicted"]).mean())
    print(f"run {name}: {len(found.flagged):,} of {len(found.ranked):,} labels are doubtful\n")
    print(
        f"its accuracy is {number(correct)}: the more often a network is wrong, the more right labels are in the list; "
        "look before you leave an image out\n"
    )
    print(as_text(counts_table(found)))
    if len(found.table):
        worst = found.table.head(SHOWN)
        print(f"\nthe {len(worst)} most doubtful (--output lists all, --out shows them):\n")
        print(as_text(worst.assign(row=worst["row"].astype(str), score=worst["score"].map(number))))
    for note in found.notes:
        print(f"note: {note}")
    if options.votes is not None:
        used = DataOptions.of(run, directory=options.directory)
        used = dataclasses.replace(used, source=options.votes or options.data or used.source)
        precision, about = precision_table(found, annotators_labels(used))
        shares = {name: precision[name].map(percent) for name in ("other_emotion", "unclear", "wrong")}
        shown = precision.assign(first=precision["first"].map("{:,}".format), **shares)
        print(f"\nagainst the annotators: {about}\n")
        print(as_text(shown.rename(columns={"other_emotion": "other emotion"})))
    if options.output is not None:
        path = Path(options.output).expanduser()
        _write(path.parent, {path.name: found.table.to_csv(index=False)}, option="--output")
    if options.out is not None:
        images, reasons = open_images(
            run, predictions, name, data=options.data, embed=options.embed_images, directory=options.directory
        )
        page = label_page(found, name, images, top=options.top, more=reasons)
        _write(options.out, {"labels.html": page, "labels.csv": found.table.to_csv(index=False)})
    return 0


def _errors(options: argparse.Namespace) -> int:
    """Show the mistakes of a run by pair of classes: how many, and with --out a page of the most confident ones."""
    _check_page(options)
    from results.reports.gallery import mistakes, mistakes_page, open_images, pairs_table
    from results.reports.tables import as_text
    from results.run_images import table_of
    from results.tracking.runs import find_whole_run, run_row

    run = find_whole_run(options.run, directory=options.directory)
    name = f"{run_row(run, directory=options.directory)['name']} [{run[:8]}]"
    predictions = table_of(run, "predictions", directory=options.directory)
    wrong = mistakes(predictions)
    print(f"run {name}: {len(wrong):,} of {len(predictions):,} images are predicted wrongly\n")
    if len(wrong):
        print(as_text(pairs_table(wrong, predictions)))
        if options.out is None:
            print("\n--out FOLDER writes a page with the images")
    if options.out is not None:
        images, reasons = open_images(
            run, predictions, name, data=options.data, embed=options.embed_images, directory=options.directory
        )
        page = mistakes_page(predictions, name, images, each=options.each, more=reasons)
        _write(options.out, {"errors.html": page, "errors.csv": wrong.to_csv(index=False)})
    return 0


def _check_page(options: argparse.Namespace) -> None:
    """Check the options of a page before the work whose result it shows."""
    _require_folder(options.out)
    if options.embed_images and options.out is None:
        raise invalid("--embed-images", "needs --out, the folder of the page", "none", "add --out FOLDER")


def _require_folder(folder: Path | None) -> None:
    """Check ``--out`` before the work whose result it takes."""
    for place in [] if folder is None else [folder, *folder.parents]:
        if place.exists() and not place.is_dir():
            raise invalid("--out", "must be a folder, or a new one in a folder", str(folder))


def _write(folder: Path, files: Mapping[str, str | bytes], shown: str | None = None, *, option: str = "--out") -> None:
    """Write a report's files and print their names, or only that of `shown`."""
    from results.reports.pages import write_files

    try:
        write_files(folder, files)
    except OSError as error:
        msg = f"{option}: {folder} cannot be written to ({error.strerror or error}); choose another folder."
        raise InputError(msg) from error
    for name in files if shown is None else [shown]:
        print(f"written: {folder / name}")
