"""The command `emotion study`: run the experiments of a paper and write a report."""

import argparse
import sys
from dataclasses import replace

from datamodules.errors import InputError, invalid
from emotion.cli.main import Parser, not_empty, print_start, whole_from
from lightning_modules.config import Options
from sweeps.studies import STUDIES, build_study
from sweeps.studies.schema import PROTOCOLS, SCALES, Study

DESCRIPTION = (
    "Run the cells (experiments) of a study and write its report (Markdown, HTML, CSV). Other options are those of\n"
    "`emotion fit` (of face-detector those of `emotion detector fit`); they override the options of every cell. The\n"
    "same command resumes a stopped study; several workers, here or on other machines, share a study through\n"
    "PostgreSQL. Exit status 1 if a cell failed."
)


def main(args: list[str]) -> int:
    """Run ``study``; return the exit status: 1 when a cell failed."""
    parser = Parser(
        prog="emotion study",
        description=DESCRIPTION,
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="a study, or list to print all studies")
    parser.add_argument("--data", help="a path or reader:path (default at scale tiny: drawn faces)")
    parser.add_argument(
        "--scale", choices=SCALES, default="tiny", help="size of the experiments (default: %(default)s)"
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="honest", help="paper: select the epoch on the test part"
    )
    parser.add_argument("--seeds", type=whole_from(0), nargs="+", help="training seeds (default: those of the study)")
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="CELL",
        help="run only these cells of the study; the same command without --cells runs the rest",
    )
    parser.add_argument(
        "--workers", type=whole_from(1), default=1, help="processes on this machine; several need PostgreSQL"
    )
    parser.add_argument(
        "--storage", type=not_empty, help="PostgreSQL address for several workers (default: a file, for one worker)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the number of runs and images and the estimated time; train nothing",
    )
    parser.add_argument("--report", action="store_true", help="write the report of the finished cells; train nothing")
    options, extra = parser.parse_known_args(args[1:])
    if options.name == "list":
        print(listing())
        return 0
    study = _study(options.name, options)
    if options.cells is not None:
        _require_cells(study, options.cells)
    given = Options.read(["--data", options.data, *extra] if options.data else extra, study.cells[0].kind)
    if "seed_everything" in given:
        rule = "is not an option of a study, whose cells are run with several seeds"
        raise invalid("--seed", rule, given.values["seed_everything"], "give --seeds")
    if options.scale != "tiny" and "data.source" not in given and not _brings_data(study):
        msg = f"--data: scale {options.scale} needs a data set, got none; only scale tiny uses drawn faces by default"
        raise InputError(msg)
    if options.dry_run:
        from sweeps.studies.runner import estimate

        print(estimate(study, given, options.cells))
        return 0
    print_start(args)
    from sweeps.studies.runner import StudyRunner

    runner = StudyRunner(study, options.scale, options.protocol, given, options.storage, options.cells, options.workers)
    try:
        failed = runner.run(only_report=options.report)
    except KeyboardInterrupt:
        print("\nfinished cells are kept; to resume, run the same command again", file=sys.stderr)
        raise
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return int(bool(failed))


def _study(name: str, options: argparse.Namespace) -> Study:
    """Return the study, with the seeds of ``--seeds`` if given."""
    study = build_study(name, options.scale, options.protocol)
    if options.seeds is None:
        return study
    if len(set(options.seeds)) != len(options.seeds):
        msg = f"--seeds: must not repeat a seed, got {options.seeds}"
        raise InputError(msg)
    return replace(study, seeds=tuple(options.seeds))


def _brings_data(study: Study) -> bool:
    return all("data.source" in cell.options for cell in study.cells)


def _require_cells(study: Study, names: list[str]) -> None:
    """Raise unless the study has these cells, and `names` also has the cells that they start from."""
    known = [cell.name for cell in study.cells]
    if study.whole:
        msg = f"--cells: study {study.name} runs as a whole, got {names}; leave --cells out"
        raise InputError(msg)
    if unknown := [name for name in names if name not in known]:
        msg = f"--cells: study {study.name} has no cell {unknown[0]!r}; it has {'; '.join(map(repr, known))}"
        raise InputError(msg)
    for cell in map(study.cell, names):
        needs = cell.needs
        needs += list(study.choice.cells.values()) if cell.chosen and study.choice else []
        if missing := [name for name in needs if name not in names]:
            msg = f"--cells: {cell.name!r} needs the results of {'; '.join(map(repr, missing))}; add them to --cells"
            raise InputError(msg)


def listing() -> str:
    """Return the studies, with what they measure and their source."""
    width = max(map(len, STUDIES))
    studies = [build_study(name, "tiny", "honest") for name in STUDIES]
    return "studies:\n" + "\n".join(
        f"  {study.name:<{width}}  {study.about}\n{'':<{width + 4}}source: {study.source}" for study in studies
    )
