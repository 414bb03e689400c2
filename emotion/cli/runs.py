"""Commands for stored runs: `emotion runs`, `ui`, `sync` and `info`."""

import argparse
import atexit
import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from datamodules.errors import InputError
from emotion.cli.main import Parser, add_directory, not_empty, port

_USUAL = ("exported", "new", "brought up to date", "unchanged")  # outcomes that are counted, not listed


def main(args: list[str]) -> int:
    """Run `runs`, `ui`, `sync` or `info` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    parsers = {"runs": _runs_parser, "ui": _ui_parser, "sync": _sync_parser, "info": _info_parser}
    options = parsers[args[0]]().parse_args(args[1:])
    return int(options.command(options))


def _runs_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="emotion runs", description="List, share and delete runs, and show their disk use.")
    commands = parser.add_subparsers(required=True, metavar="ACTION")

    listing = commands.add_parser(
        "list", help="list the runs in --directory, or of an export", description=_list.__doc__
    )
    listing.add_argument(
        "path", nargs="?", metavar="PATH", help="folder of an export (default: list the runs in --directory)"
    )
    listing.set_defaults(command=_list)

    export = commands.add_parser("export", help="write runs as plain files", description=_export.__doc__)
    export.add_argument("path", metavar="PATH", help="a new folder, or an earlier export to add to")
    export.set_defaults(command=_export)

    importing = commands.add_parser("import", help="import exported runs", description=_import.__doc__)
    importing.add_argument("path", metavar="PATH", help="folder of an export")
    importing.set_defaults(command=_import)

    push = commands.add_parser("push", help="share runs through DVC", description=_push.__doc__)
    push.add_argument(
        "--replace", action="store_true", help="share only the selected runs, no longer those shared before"
    )
    push.set_defaults(command=_push)

    pull = commands.add_parser("pull", help="import runs that others shared through DVC", description=_pull.__doc__)
    pull.set_defaults(command=_pull)

    usage = commands.add_parser("du", help="show the disk space of each run", description=_disk_use.__doc__)
    usage.set_defaults(command=_disk_use)

    delete = commands.add_parser("delete", help="delete runs and free their space", description=_delete.__doc__)
    delete.add_argument("runs", nargs="+", metavar="RUN", help="run id or its start, name, or latest")
    delete.add_argument("--keep-files", action="store_true", help="only mark the runs as deleted, remove no files")
    delete.set_defaults(command=_delete)

    for sub in (export, push):
        what = "run id or its start, name, or latest, with all runs below it (default: all runs that have ended)"
        sub.add_argument("--run", dest="runs", action="append", default=[], metavar="RUN", help=what)
        sub.add_argument("--experiment", type=not_empty, help="only the runs of this experiment")
        sub.add_argument("--models", action="store_true", help="include checkpoints and other models")
        sub.add_argument(
            "--skip",
            action="append",
            default=[],
            metavar="PATTERN",
            help="artifacts to leave out, such as 'figures/*'; repeatable",
        )
    for sub in (push, pull):
        sub.add_argument(
            "--remote", type=not_empty, help="name of a DVC remote or its address (default: the default remote)"
        )
    for sub in (listing, export, importing, push, pull, usage, delete):
        add_directory(sub, new=sub in (importing, pull))
    return parser


def _ui_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="emotion ui", description=_ui.__doc__)
    parser.add_argument("--port", type=port, default=5000, help="port of the page (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="print the addresses, open no browser")
    add_directory(parser)
    parser.set_defaults(command=_ui)
    return parser


def _sync_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="emotion sync", description=_sync.__doc__)
    add_directory(parser)
    parser.set_defaults(command=_sync)
    return parser


def _info_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="emotion info", description=_info.__doc__)
    add_directory(parser)
    parser.set_defaults(command=_info)
    return parser


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, and skip its run at exit.

    It would search the many objects of MLflow again and again, for a quarter of the time of a short command.
    """
    enabled = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_garbage_collection()
def _list(options: argparse.Namespace) -> int:
    """List runs, newest first, each with its child runs below it."""
    from results.reports.tables import as_text
    from results.tracking.export_import import read_exported
    from results.tracking.runs import as_tree, find_runs

    if options.path is None:
        runs = find_runs(directory=options.directory, limit=100_000)
    else:
        runs = read_exported(options.path)
    if not len(runs):
        print("No runs.")
        return 0
    print(as_text(as_tree(runs)))
    print(f"\n{len(runs)} runs")
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write runs as plain files (JSON, Parquet, artifacts), by default without checkpoints and models."""
    from results.tracking.export_import import MODELS, export_runs
    from results.tracking.runs import select_runs

    if "latest" in options.runs:
        msg = "RUN: must be an id, its start or a name, got 'latest'; `emotion runs list` shows the ids"
        raise InputError(msg)
    chosen = select_runs(options.runs, options.experiment, directory=options.directory)
    skip = [*options.skip, *(() if options.models else MODELS)]
    outcome = export_runs(options.path, chosen, skip=skip, directory=options.directory)
    print(f"{Path(options.path)}: {_summary(outcome)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    """Import the runs of an export; runs that exist already get what they lack."""
    from results.tracking.export_import import import_runs

    return _show_imported(import_runs(options.path, directory=options.directory), options.directory)


def _push(options: argparse.Namespace) -> int:
    """Add runs to those listed in mlruns.dvc, send them to a DVC remote, and rewrite mlruns.dvc."""
    from results.tracking.dvc import push
    from results.tracking.export_import import MODELS
    from results.tracking.runs import select_runs

    chosen = select_runs(options.runs, options.experiment, directory=options.directory)
    skip = [*options.skip, *(() if options.models else MODELS)]
    if options.replace and not chosen:
        msg = "--replace: needs the runs to share, got none; select them with --run RUN or --experiment NAME"
        raise InputError(msg)
    outcome, sentence = push(options.remote, chosen, skip=skip, replace=options.replace, directory=options.directory)
    print(f"{_summary(outcome)}\n{sentence} To share it: git add mlruns.dvc .dvc && git commit && git push")
    return 0


def _pull(options: argparse.Namespace) -> int:
    """Fetch the runs listed in mlruns.dvc and import them; runs that exist already get what they lack."""
    from results.tracking.dvc import pull

    return _show_imported(pull(options.remote, directory=options.directory), options.directory)


def _show_imported(outcome: Mapping[str, str], directory: str) -> int:
    print(f"{Path(directory)}: {_summary(outcome)}")
    return int(any(what.startswith("refused") for what in outcome.values()))


def _summary(outcome: Mapping[str, str]) -> str:
    """Return how many runs had each usual outcome, and a line for each run with another."""
    counts = Counter(outcome.values())
    text = ", ".join(f"{counts[what]} {what}" for what in _USUAL if what in counts)
    lines = [f"  {run_id[:8]}  {what}" for run_id, what in outcome.items() if what not in _USUAL]
    return "\n".join([f"{len(outcome)} runs: {text or 'none'}", *lines])


def _disk_use(options: argparse.Namespace) -> int:
    """Show the disk space of each run on this machine in MB, largest first: local folder, artifacts, checkpoints."""
    from results.reports.tables import as_text
    from results.tracking.disk import disk_use

    usage = disk_use(options.directory)
    if not len(usage):
        print(f"No run has files in {Path(options.directory).absolute()}.")
        return 0
    sizes = usage[["folder", "artifacts", "checkpoints", "total"]]
    table = usage[["name"]].assign(run=usage["run_id"].str[:8], status=usage["status"])
    table[list(sizes)] = (sizes / 1e6).map("{:.1f}".format)
    print(as_text(table))
    print(
        f"\n{len(usage)} runs, {sizes['total'].sum() / 1e6:.1f} MB, of which checkpoints "
        f"{sizes['checkpoints'].sum() / 1e6:.1f} MB"
    )
    return 0


def _delete(options: argparse.Namespace) -> int:
    """Delete runs with all runs below them, without asking: mark them as deleted in MLflow and remove their files.

    `mlflow runs restore` brings back the record of a run: parameters, metrics and tags. Files that were removed are
    gone: checkpoints, tables, figures. With --keep-files no file is removed.
    """
    from results.tracking.disk import delete_runs
    from results.tracking.runs import select_runs
    from results.tracking.store import tracking_uri, without_password

    chosen = select_runs(options.runs, directory=options.directory)
    deleted = delete_runs(chosen, keep_files=options.keep_files, directory=options.directory)
    for run in deleted:
        what = "files kept" if options.keep_files else f"{run.freed / 1e6:.1f} MB freed"
        server = "; its artifacts stay on the server" if run.elsewhere and not options.keep_files else ""
        print(f"deleted: {run.name} [{run.run_id[:8]}], {what}{server}")
    if not options.keep_files:
        print(f"{len(deleted)} runs, {sum(run.freed for run in deleted) / 1e6:.1f} MB freed")
    uri = without_password(tracking_uri(options.directory))
    exception = "" if options.keep_files else ", but not its files"
    restore = f"MLFLOW_TRACKING_URI={uri} mlflow runs restore --run-id {deleted[0].run_id}"
    print(f"The record of a run can be brought back{exception}: {restore}")
    return 0


def _ui(options: argparse.Namespace) -> int:
    """Serve the MLflow page of the runs in a folder, reachable from this machine only, until Ctrl-C.

    It prints the addresses of its views: results, results with folds, training curves, and trials of searches where
    there are some. The first is opened in a browser where this machine has a screen.
    """
    import webbrowser

    from results.tracking.ui import has_display, open_when_ready, serve, ui_command, ui_pages

    command = ui_command(options.directory, options.port)
    pages = ui_pages(options.directory, options.port)
    print("MLflow page (Ctrl-C stops it); these addresses answer when it says ready, in ten seconds or so:")
    for page in pages:
        print(f"  {page.about}\n    {page.address}", flush=True)

    def ready(address: str) -> None:
        print("ready", flush=True)
        if not options.no_browser and has_display():
            webbrowser.open(address)

    open_when_ready(pages[0].address, options.port, ready)
    return serve(command)


def _sync(options: argparse.Namespace) -> int:
    """Send metrics, files and states that runs stored locally while their tracking store was unreachable."""
    from results.tracking.runs import replay_spools

    outcome = replay_spools(options.directory)
    if not outcome:
        print(f"Nothing to send in {Path(options.directory).absolute()}.")
    for run_id, what in outcome.items():
        print(f"{run_id}  {what}")
    return int(any(what.startswith("not sent") for what in outcome.values()))


def _info(options: argparse.Namespace) -> int:
    """Show versions, git commit, devices, the tracking store, the cache and the free disk space."""
    from results.tracking.environment import installation

    info = installation(options.directory)
    for name, version in info.versions.items():
        print(f"{name:<18}{version}")
    print(f"{'git commit':<18}{info.commit}{', with uncommitted changes' if info.changed else ''}")
    print(f"{'CPU cores':<18}{info.cores}")
    for name, memory in info.gpus:
        print(f"{'GPU':<18}{name}, {memory / 1e9:.1f} GB")
    if not info.gpus:
        print(f"{'GPU':<18}none that torch can use")
    counted = "" if info.runs is None else f", {info.runs} runs"
    print(f"{'tracking store':<18}{info.store}: {info.answer}{counted}")
    budget = f"{info.pixel_bytes / 1e9:.2f} of the {info.budget_bytes / 1e9:g} GB for pixel caches"
    print(f"{'cache':<18}{info.cache}: {info.cache_bytes / 1e9:.2f} GB; {budget}")
    for folder, free in info.free.items():
        print(f"{'free disk space':<18}{free / 1e9:.1f} GB for {folder}")
    return 0
