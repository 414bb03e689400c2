"""The bias report of tracked runs: reads what they left, and keeps the report with them."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from records import runs, store
from records.bias.composition import read_manifest
from records.bias.groups import MINIMUM
from records.bias.report import Asked, Bias, Told, find_bias
from records.pages import run_url


def bias_of_runs(
    names: Sequence[str],
    asked: Asked,
    *,
    manifest: Path | None = None,
    directory: str | Path = store.DIRECTORY,
) -> tuple[list[str], Bias]:
    """Return the ids of the runs that `names` mean, and for whom they are worse.

    Args:
        names: Runs; several are compared as data sets.
        asked: Groupings and settings.
        manifest: Table that the one run was trained on; by default what its config names.
        directory: Folder of the runs.

    Raises:
        InputError: The same run twice, a run without predictions, or groupings that do not work.
    """
    chosen = runs.find_different_runs(names, directory=directory)
    if manifest is not None and len(chosen) > 1:
        msg = f"--manifest: is that of one run, got it with {len(chosen)} runs; report each of them alone for that."
        raise InputError(msg)
    if asked.minimum < 2:
        msg = f"--minimum: a ranked group has at least 2 images, got {asked.minimum}; {MINIMUM} is usual."
        raise InputError(msg)
    return chosen, find_bias([_told(run, manifest, directory) for run in chosen], asked)


def _told(run_id: str, manifest: Path | None, directory: str | Path) -> Told:
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


def _own_manifest(run_id: str, directory: str | Path) -> pd.DataFrame | None:
    """Return the table that the run's config names as its data, None where that is no table, or not here any more."""
    try:
        data = runs.run_config(run_id, directory=directory).get("data") or {}
        source = str(data.get("source", "")).removeprefix("csv:")
        return read_manifest(source) if Path(source).suffix.lower() in (".csv", ".parquet") else None
    except (InputError, ValueError, TypeError, AttributeError):
        return None


def keep_report(
    chosen: Sequence[str],
    files: Mapping[str, str | bytes],
    asked: Asked,
    directory: str | Path = store.DIRECTORY,
) -> list[str]:
    """Keep the files of a report with every run as artifacts under bias/<columns>; return a sentence a run."""
    columns = [*([asked.sets] if asked.sets else []), *asked.by, *(["cross"] if asked.cross else [])]
    others = ["with", *sorted(run[:8] for run in chosen)] if len(chosen) > 1 else []
    name = re.sub(r"[^A-Za-z0-9+_.-]", "_", "-".join([*others, *columns]))[:80].lstrip(".")
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            Path(folder, file).write_bytes(content.encode() if isinstance(content, str) else content)
        artifacts = {f"bias/{name}/{file}": Path(folder, file) for file in files}
        shown = f"bias/{name}/bias.html"
        return [runs.add_to_run(run, artifacts, shown=shown, directory=directory) for run in chosen]
