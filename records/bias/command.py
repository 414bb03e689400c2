"""`emotion report bias`: the options, the runs they mean, and where the report is kept."""

import argparse
import re
import tempfile
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.places import replacing
from records import runs, store
from records.bias.composition import read_manifest
from records.bias.cuts import parse_bins
from records.bias.groups import MINIMUM
from records.bias.pages import files, text
from records.bias.report import Asked, Told, find_bias
from records.pages import run_url


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `emotion report bias`, but for --out and --directory, which all reports have."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="id, its beginning, name, or latest; several: as sets")
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="COLUMN", help="columns of the manifest; age+gender is their crossing"
    )
    parser.add_argument("--cross", action="store_true", help="cross every two of the columns, too")
    parser.add_argument(
        "--bins", nargs="+", default=[], metavar="COLUMN=0,10,18", help="lower ends of bins of a column of numbers"
    )
    parser.add_argument("--top", type=int, metavar="N", help="keep the N most frequent values of each column")
    parser.add_argument("--sets", metavar="COLUMN", help="its values are data sets: compare on the classes they share")
    parser.add_argument("--by-class", action="store_true", help="test the gap of each class, too")
    parser.add_argument("--minimum", type=int, default=MINIMUM, help="images of a ranked group (default: %(default)s)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="table the run was trained on, for who was in it")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--permutations", type=int, default=9999, help="of the tests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of both (default: %(default)s)")
    parser.add_argument("--not-kept", action="store_true", help="print, and keep no files with the run")


def bias_report(options: argparse.Namespace) -> int:
    """Tell for whom a run is worse, by how much, whether that is chance, and who was in its training data."""
    chosen = [runs.find_whole_run(name, directory=options.directory) for name in options.runs]
    if len(set(chosen)) < len(chosen):
        msg = f"RUN: give different runs, some of {', '.join(options.runs)} are the same."
        raise InputError(msg)
    if options.manifest is not None and len(chosen) > 1:
        msg = f"--manifest: is that of one run, got it with {len(chosen)} runs; report each of them alone for that."
        raise InputError(msg)
    if options.minimum < 2:
        msg = f"--minimum: a ranked group has at least 2 images, got {options.minimum}; {MINIMUM} is usual."
        raise InputError(msg)
    asked = Asked(
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
    found = find_bias([_told(run, options.manifest, options.directory) for run in chosen], asked)
    print(text(found))
    made = files(found)
    if options.out is not None:
        _write(options.out, made)
    if not options.not_kept:
        _keep(chosen, made, asked, options.directory)
    return 0


def _told(run_id: str, manifest: Path | None, directory: str) -> Told:
    """Read what a run left.

    Raises:
        InputError: It left no predictions.
    """
    info = store.open_client(directory, only_reading=True).get_run(run_id).info
    try:
        predictions = runs.load_table(run_id, "predictions", directory=directory)
    except InputError as error:
        msg = (
            f"RUN: {info.run_name!r} ({info.status}) left no prediction table, so nothing can be said of groups. "
            "Choose a run that was evaluated: a finished `emotion fit` or `emotion cross-validate`."
        )
        raise InputError(msg) from error
    split: pd.DataFrame | None
    try:
        split = runs.load_table(run_id, "split", directory=directory)
    except InputError:
        split = None
    table = read_manifest(manifest) if manifest is not None else _own_manifest(run_id, directory)
    status = "deleted" if info.lifecycle_stage == "deleted" else str(info.status)
    url = run_url(str(info.experiment_id), run_id)
    return Told(f"{info.run_name} [{run_id[:8]}]", predictions, split, url, status, table, manifest is not None)


def _own_manifest(run_id: str, directory: str) -> pd.DataFrame | None:
    """Return the table that the run's config names as its data, None where that is no table, or not here any more."""
    try:
        data = runs.run_config(run_id, directory=directory).get("data") or {}
        source = str(data.get("source", "")).removeprefix("csv:")
        return read_manifest(source) if Path(source).suffix.lower() in (".csv", ".parquet") else None
    except (InputError, ValueError, TypeError, AttributeError):
        return None


def _write(folder: Path, made: dict[str, str | bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            with replacing(folder / name) as draft:
                draft.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        msg = f"--out: {folder} cannot be written to ({error.strerror or error}); choose another folder."
        raise InputError(msg) from error
    print(f"written: {folder / 'bias.html'}")


def _keep(chosen: list[str], made: dict[str, str | bytes], asked: Asked, directory: str) -> None:
    """Keep the files with every run as artifacts under bias/<columns>."""
    columns = [*([asked.sets] if asked.sets else []), *asked.by, *(["cross"] if asked.cross else [])]
    others = ["with", *sorted(run[:8] for run in chosen)] if len(chosen) > 1 else []
    name = re.sub(r"[^A-Za-z0-9+_.-]", "_", "-".join([*others, *columns]))[:80].lstrip(".")
    with tempfile.TemporaryDirectory() as folder:
        for file, content in made.items():
            Path(folder, file).write_bytes(content.encode() if isinstance(content, str) else content)
        artifacts = {f"bias/{name}/{file}": Path(folder, file) for file in made}
        for run in chosen:
            print(runs.add_to_run(run, artifacts, shown=f"bias/{name}/bias.html", directory=directory))
