"""Hyperparameter search: `emotion search` and `emotion dashboard`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from datamodules.errors import InputError, invalid
from emotion.cli.main import Parser, not_empty, port, print_start, whole_from, writable_file
from lightning_modules.config import HELP, Options, recipe_names
from sweeps.spaces import SPACES, portable
from sweeps.workers import EMBEDDED, VARIABLE, PrunerName, SamplerName, address, close, is_shared, open_storage

if TYPE_CHECKING:
    from lightning_modules.config import RunConfig

HOST = "127.0.0.1"


def main(args: list[str]) -> int:
    """Run ``search`` or ``dashboard``; return the exit status."""
    return dashboard(args[1:]) if args[0] == "dashboard" else run_search(args)


def run_search(args: list[str]) -> int:
    """Run a search and print its result; return 1 if a worker failed, else 0."""
    parser = Parser(
        prog="emotion search",
        description="Search for options on inner folds, and evaluate the best once on the test part. Other options\n"
        "are those of `emotion fit`. The same command resumes a search, here or on another machine. Exit status 1 if\n"
        "a worker failed.",
        epilog=HELP.format(recipes=", ".join(recipe_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--space", nargs="+", required=True, metavar="S", help=f"search spaces: {', '.join(SPACES)}, or YAML files")
    add(
        "--trials",
        type=int,
        default=30,
        help="trials of the whole search (default: %(default)s); a grid runs every point",
    )
    add("--folds", type=int, default=5, help="inner folds of a trial (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=1,
        help="processes on this machine (default: %(default)s); several need PostgreSQL",
    )
    add(
        "--storage",
        type=not_empty,
        help=f"sqlite:///FILE or postgresql://user@host/db (default: ${VARIABLE}, or {EMBEDDED})",
    )
    add("--sampler", choices=get_args(SamplerName), default="tpe", help="sampler of Optuna (default: %(default)s)")
    add(
        "--pruner",
        choices=get_args(PrunerName),
        help="pruner of Optuna (default: hyperband; none with two objectives or a grid)",
    )
    add(
        "--objectives",
        type=int,
        choices=(1, 2),
        default=1,
        help="1: macro F1; 2: also the FLOPs of an image, as a Pareto front",
    )
    add("--name", type=not_empty, help="name of the study (default: recipe, spaces and data)")
    add("--warm-start", metavar="STUDY", help="try the finished trials of another study first, best first")
    add("--sampler-seed", type=whole_from(0), default=0, help="seed of the sampler (default: %(default)s)")
    add("--write", type=not_empty, metavar="FILE", help="file for the winner's config (default: NAME.yaml)")
    options, rest = parser.parse_known_args(args[1:])
    print_start(args)
    from sweeps.search import Plan, search, search_config
    from sweeps.search_report import keep_search, search_text

    config = search_config(Options.read(rest))
    plan = Plan(
        name=options.name or default_name(options.space, config),
        config=config,
        space=portable(options.space),
        folds=options.folds,
        objectives=options.objectives,
        sampler=options.sampler,
        pruner=options.pruner or ("none" if options.objectives == 2 or options.sampler == "grid" else "hyperband"),
        seed=options.sampler_seed,
    )
    recipe = writable_file("--write", Path(options.write or f"{plan.name}.yaml"))
    if recipe.resolve() in {Path(name).resolve() for name in options.space}:
        msg = f"--write: the winner's config would overwrite the search space {recipe}; give another file"
        raise InputError(msg)
    try:
        result = search(
            plan,
            trials=options.trials,
            storage_url=options.storage,
            workers=options.workers,
            warm_start=options.warm_start,
            keep=lambda result, study: keep_search(result, study, recipe),
        )
    except KeyboardInterrupt:
        print("\nfinished trials are kept; to resume, run the same command again", file=sys.stderr)
        raise
    print(f"\n{search_text(result)}")
    print(f"parent run {result.run_id}, with its trials below it; winner {result.winner.run_id}; config {recipe}")
    print(f"next:  emotion fit --config {recipe}      train it again, or with other data: --data X --split holdout")
    print("       emotion dashboard                  the trials, in Optuna's page on this machine")
    return int(bool(result.failed_workers))


def default_name(spaces: list[str], config: "RunConfig") -> str:
    """Return the default name of a search: recipe, spaces and data."""
    return "-".join([str(config.run["recipe"]), *(Path(space).stem for space in spaces), config.data_name])


def dashboard(args: list[str]) -> int:
    """Serve Optuna's page of all studies, on this machine only, until Ctrl-C."""
    parser = Parser(prog="emotion dashboard", description=dashboard.__doc__)
    parser.add_argument(
        "--storage", type=not_empty, help=f"as in `emotion search` (default: ${VARIABLE}, or {EMBEDDED})"
    )
    parser.add_argument("--port", type=port, default=8080, help="port of the page (default: %(default)s)")
    options = parser.parse_args(args)
    from optuna_dashboard import run_server

    url = address(options.storage)
    if not is_shared(url) and not (file := Path(url.removeprefix("sqlite:///"))).is_file():
        raise invalid("--storage", "must be an existing file", options.storage or file, "`emotion search` creates it")
    storage = open_storage(options.storage)
    print(f"Optuna's page: http://{HOST}:{options.port}  (Ctrl-C stops it)", flush=True)
    try:
        run_server(storage, host=HOST, port=options.port)
    except OSError as error:
        msg = f"--port: {options.port} cannot be used ({error.strerror}); give another port"
        raise InputError(msg) from error
    finally:
        close(storage)
    return 0
