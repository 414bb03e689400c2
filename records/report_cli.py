"""`emotion report`: compare runs image by image, certify one, or tell for whom it is worse."""

import argparse
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from records import runs, store
from records.bias.command import add_options, bias_report
from records.bias.words import p_text as p_text  # for other reports, too
from records.certificate import certificate_json, certificate_page, certificate_text, certify
from records.comparison import Compared, Comparison, compare, difference_figure
from records.pages import page, run_url, table_html, write_text
from records.tables import as_markdown, as_text

_METRICS = {"f1_macro": "macro F1", "accuracy": "accuracy"}


def main(args: Sequence[str]) -> int:
    """Run `compare`, `certify` or `bias` and return its exit status.

    Raises:
        InputError: Bad input; the front door prints it.
    """
    options = _parser().parse_args(args[1:] if args and args[0] == "report" else args)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emotion report", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    several = commands.add_parser("compare", help="compare runs image by image", description=_compare.__doc__)
    several.add_argument("runs", nargs="+", metavar="RUN", help="id, its beginning, name, or latest; first: reference")
    several.add_argument("--pairs", action="store_true", help="every run with every other, not all with the first")
    several.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    several.add_argument("--permutations", type=int, default=9999, help="of the test (default: %(default)s)")
    several.set_defaults(command=_compare)
    one = commands.add_parser("certify", help="check what a run says of itself", description=_certify.__doc__)
    one.add_argument("run", metavar="RUN", help="id, its beginning, name, or latest")
    one.set_defaults(command=_certify)
    groups = commands.add_parser("bias", help="for whom a run is worse", description=bias_report.__doc__)
    add_options(groups)
    groups.set_defaults(command=bias_report)
    for command in (several, one, groups):
        command.add_argument("--out", type=Path, metavar="FOLDER", help="write the report's files here, too")
        command.add_argument("--directory", default=store.DIRECTORY, help="folder of the runs (default: %(default)s)")
    return parser


def _compare(options: argparse.Namespace) -> int:
    """Compare runs on the images they share: differences with 95 % intervals and paired tests, b minus a."""
    chosen = [runs.find_whole_run(name, directory=options.directory) for name in options.runs]
    if len(set(chosen)) < len(chosen):
        msg = f"RUN: give different runs, some of {', '.join(options.runs)} are the same."
        raise InputError(msg)
    found = compare(
        [_read(run, options.directory) for run in chosen],
        all_pairs=options.pairs,
        resamples=options.resamples,
        permutations=options.permutations,
    )
    notes = "\n".join(found.notes)
    print("\n\n".join([*(as_text(table) for table in _tables(found)), notes]))
    if options.out is not None:
        links = {one.name: one.url for one in (_read(run, options.directory) for run in chosen)}
        _write(options.out, "compare.md", comparison_markdown(found, links))
        _write(options.out, "compare.html", comparison_page(found, links))
        _write(options.out, "compare.csv", found.pairs.to_csv(index=False))
    return 0


def _certify(options: argparse.Namespace) -> int:
    """Recompute what a run says of its folds, numbers and origin.

    Exit status 1 if a statement fails; 2 if none fails, but a check ended with an error.
    """
    run = runs.find_whole_run(options.run, directory=options.directory)
    found = certify(run, directory=options.directory)
    print(certificate_text(found))
    if options.out is not None:
        _write(options.out, f"certificate-{run[:8]}.json", certificate_json(found))
        _write(options.out, f"certificate-{run[:8]}.html", certificate_page(found))
    return 1 if found.failed else 2 if found.broken else 0


def _write(folder: Path, name: str, text: str) -> None:
    try:
        print(f"written: {write_text(folder / name, text)}")
    except OSError as error:
        msg = f"--out: {folder} cannot be written to ({error.strerror or error}); choose another folder."
        raise InputError(msg) from error


def _read(run_id: str, directory: str) -> Compared:
    info = store.open_client(directory, only_reading=True).get_run(run_id).info
    try:
        folds = runs.load_table(run_id, "folds", directory=directory)
    except InputError:  # a single run
        folds = None
    predictions = runs.load_table(run_id, "predictions", directory=directory)
    name = f"{info.run_name} [{run_id[:8]}]"
    status = "deleted" if info.lifecycle_stage == "deleted" else str(info.status)
    return Compared(name, predictions, folds, run_url(str(info.experiment_id), run_id), status)


def _tables(found: Comparison) -> list[pd.DataFrame]:
    """Return scores of the runs, differences of pairs, and differences of classes, as text."""
    scores = pd.DataFrame(
        [
            {
                "run": row["run"],
                **{
                    _METRICS[name]: f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"
                    for name in _METRICS
                },
            }
            for row in found.scores.to_dict("records")
        ]
    )
    pairs = []
    for row in found.pairs.to_dict("records"):
        line = {"a": row["a"], "b": row["b"], "score": _METRICS[row["metric"]], "b - a": f"{row['difference']:+.3f}"}
        line |= {"95% interval": f"{row['low']:+.3f} to {row['high']:+.3f}", "p": p_text(row["p_value"])}
        pairs.append(line | {"p Holm": p_text(row["p_holm"]), "p folds": p_text(row["fold_t"])})
    by_class = pd.DataFrame(
        [
            {"a": row["a"], "b": row["b"], "F1 of": row["class"], "b - a": f"{row['difference']:+.3f}",
             "95% interval": f"{row['low']:+.3f} to {row['high']:+.3f}"}
            for row in found.differences.to_dict("records")
        ]
    )  # fmt: skip
    table = pd.DataFrame(pairs)
    if not found.pairs["fold_t"].notna().any():
        table = table.drop(columns="p folds")
    return [scores, table, by_class]


def comparison_markdown(found: Comparison, links: Mapping[str, str]) -> str:
    """Return the comparison as Markdown, runs linked to their pages."""
    linked = [table.map(lambda cell: f"[{cell}]({links[cell]})" if cell in links else cell) for table in _tables(found)]
    return "\n\n".join([*(as_markdown(table) for table in linked), *found.notes]) + "\n"


def comparison_page(found: Comparison, links: Mapping[str, str]) -> str:
    """Return the comparison as a page that stands alone, runs linked to their pages."""
    drawn = io.StringIO()
    difference_figure(found).savefig(drawn, format="svg", metadata={"Date": None})
    picture = drawn.getvalue()
    scores, pairs, by_class = (table_html(table, links=links) for table in _tables(found))
    notes = "".join(f"<p>{escape(note)}</p>" for note in found.notes)
    parts = [scores, "<h2>Differences</h2>", pairs, picture[picture.index("<svg") :]]
    return page("Comparison of runs", [*parts, "<h2>Classes</h2>", by_class, notes])
