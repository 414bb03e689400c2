"""Commands that carry runs between people: `emotion runs list | export | import | push | pull`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from records import runs, store
from records.exchange import MODELS, export_runs
from records.exchange_dvc import pull, push
from records.portrait import exported_runs, read_portrait
from records.tables import as_text
from records.taking_in import import_runs

_EXPECTED = ("exported", "new", "brought up to date", "unchanged")


def main(args: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns the exit status.

    Raises:
        InputError: Bad input; the front door prints it.
    """
    options = _parser().parse_args(args)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emotion", description="Carry runs between people.")
    room = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("runs", help="carry runs between people")
    commands = room.add_subparsers(required=True, metavar="ACTION")

    show = commands.add_parser("list", help="list the runs here, or of an export", description=_list.__doc__)
    show.add_argument("path", nargs="?", metavar="PATH", help="folder of an export (default: the runs here)")
    show.set_defaults(command=_list)

    give = commands.add_parser("export", help="write runs as plain files", description=_export.__doc__)
    give.add_argument("path", metavar="PATH", help="a new folder, or an earlier export that is added to")
    give.set_defaults(command=_export)

    take = commands.add_parser("import", help="take exported runs in", description=_import.__doc__)
    take.add_argument("path", metavar="PATH", help="folder of an export")
    take.set_defaults(command=_import)

    share = commands.add_parser("push", help="share runs through DVC", description=_push.__doc__)
    share.add_argument("--replace", action="store_true", help="share only the named runs, drop what was shared before")
    share.set_defaults(command=_push)

    fetch = commands.add_parser("pull", help="take in what others shared through DVC", description=_pull.__doc__)
    fetch.set_defaults(command=_pull)

    for one in (give, share):
        what = "run id, its beginning, its name, or latest, with what is under it (default: all that are over)"
        one.add_argument("--run", dest="runs", action="append", default=[], metavar="RUN", help=what)
        one.add_argument("--experiment", help="only the runs of this experiment")
        one.add_argument("--models", action="store_true", help="take checkpoints and other models along")
        one.add_argument(
            "--skip", action="append", default=[], metavar="PATTERN", help="artifacts left behind: 'figures/*' (repeat)"
        )
    for one in (share, fetch):
        one.add_argument("--remote", help="name of a DVC remote or its address (default: the default remote)")
    for one in (show, give, take, share, fetch):
        one.add_argument("--directory", default=store.DIRECTORY, help="folder of the runs (default: %(default)s)")
    return parser


def _list(options: argparse.Namespace) -> int:
    """List runs, newest first, with what is under a run below it."""
    if options.path is None:
        found = runs.find_runs(directory=options.directory, limit=100_000)
    else:
        portraits = [read_portrait(folder) for folder in exported_runs(options.path)]
        rows = [
            {
                "run_id": one.run_id,
                "name": one.name,
                "experiment": one.experiment,
                "status": one.status,
                "parent": one.tags.get("mlflow.parentRunId"),
                "start": pd.Timestamp(one.start, unit="ms", tz="UTC"),
                "tags.kind": one.tags.get("kind", ""),
            }
            for one in portraits
        ]
        found = pd.DataFrame(rows).sort_values("start", ascending=False) if rows else pd.DataFrame()
    if not len(found):
        print("No runs.")
        return 0
    print(as_text(_tree(found.assign(**{"tags.kind": found.get("tags.kind", pd.Series("", found.index)).fillna("")}))))
    print(f"\n{len(found)} runs")
    return 0


def _tree(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run as text, members indented below the run they are part of."""
    here = set(found["run_id"])
    rows: list[dict[str, str]] = []

    def add(members: pd.DataFrame, depth: int) -> None:
        for _, one in members.iterrows():
            kind = one.get("tags.kind", "")
            row = {"name": "  " * depth + str(one["name"]), "run": one["run_id"][:8], "kind": str(kind)}
            row |= {"status": one["status"], "started (UTC)": f"{one['start']:%Y-%m-%d %H:%M}"}
            rows.append(row | {"experiment": one["experiment"]})
            add(found[found["parent"] == one["run_id"]].iloc[::-1], depth + 1)

    add(found[~found["parent"].isin(here)], 0)
    return pd.DataFrame(rows)


def _export(options: argparse.Namespace) -> int:
    """Write runs as plain files (JSON, Parquet, artifacts), by default without checkpoints and models."""
    outcome = export_runs(options.path, _chosen(options), skip=_skip(options), directory=options.directory)
    print(f"{Path(options.path)}: {_told(outcome)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    """Take the runs of an export into the folder mlruns; runs that are here already get what they lack."""
    return _taken(import_runs(options.path, directory=options.directory), options)


def _push(options: argparse.Namespace) -> int:
    """Add runs to those that mlruns.dvc names, send them to a DVC remote, and rewrite mlruns.dvc."""
    chosen, skip = _chosen(options), _skip(options)
    if options.replace and not chosen:
        msg = "--replace: drops what was shared and not named, so name what is kept: --run RUN or --experiment NAME."
        raise InputError(msg)
    outcome, sentence = push(options.remote, chosen, skip=skip, replace=options.replace, directory=options.directory)
    print(f"{_told(outcome)}\n{sentence} Give it to the others: git add mlruns.dvc .dvc && git commit && git push")
    return 0


def _pull(options: argparse.Namespace) -> int:
    """Fetch the runs that mlruns.dvc names and take them in; runs that are here already get what they lack."""
    return _taken(pull(options.remote, directory=options.directory), options)


def _taken(outcome: dict[str, str], options: argparse.Namespace) -> int:
    print(f"{Path(options.directory)}: {_told(outcome)}")
    return int(any(what.startswith("refused") for what in outcome.values()))


def _chosen(options: argparse.Namespace) -> list[str]:
    named = [runs.find_run(one, directory=options.directory) for one in options.runs]
    if options.experiment is not None:
        found = runs.find_runs(options.experiment, directory=options.directory, limit=100_000)
        if not len(found):
            msg = f"--experiment: {options.experiment!r} has no runs here. `emotion runs list` shows what there is."
            raise InputError(msg)
        named += found["run_id"].tolist()
    return named


def _skip(options: argparse.Namespace) -> list[str]:
    return [*options.skip, *(() if options.models else MODELS)]


def _told(outcome: dict[str, str]) -> str:
    """Return how many runs had each ordinary outcome, and a line for each run with another."""
    counts = pd.Series(list(outcome.values()), dtype="str").value_counts()
    text = ", ".join(f"{counts[what]} {what}" for what in _EXPECTED if what in counts)
    lines = [f"  {run_id[:8]}  {what}" for run_id, what in outcome.items() if what not in _EXPECTED]
    return "\n".join([f"{len(outcome)} runs: {text or 'none taken'}", *lines])
