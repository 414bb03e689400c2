"""The images of a run's prediction table, read from where the run's data is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datamodules.errors import InputError
from datamodules.files.images import limited_to
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read
from results.tracking import store
from results.tracking.runs import download, load_table, run_config, run_row

EVALUATED = "evaluated.yaml"  # artifact of an evaluation: source, read and pixel_limit of its data


@dataclass(frozen=True)
class DataOptions:
    """How the data of a run was read.

    Attributes:
        source: As `emotion fit --data` takes it.
        read: Reading options.
        pixel_limit: Largest number of pixels of an image file; None: the default.
        faces: Detector that an evaluation was given in place of the model's own; None: that of the model.
    """

    source: str
    read: ReadOptions
    pixel_limit: int | None
    faces: str | None = None

    @classmethod
    def of(cls, run_id: str, *, directory: str | Path = store.DIRECTORY) -> "DataOptions":
        """Read them from what a run recorded; of an evaluation, those of the data that was evaluated.

        Raises:
            InputError: The run recorded none.
        """
        used: dict[str, Any]
        if is_evaluation(run_id, directory=directory):
            try:
                used = yaml.safe_load(download(run_id, EVALUATED, directory=directory).read_text(encoding="utf-8"))
            except InputError as error:
                msg = (
                    f"RUN: {run_id[:8]} is an evaluation of an earlier version, which did not record how its data was "
                    "read; run `emotion evaluate` again"
                )
                raise InputError(msg) from error
        else:
            used = run_config(run_id, directory=directory).get("data") or {}
        return cls(
            str(used["source"]), ReadOptions(**(used.get("read") or {})), used.get("pixel_limit"), used.get("faces")
        )

    def as_yaml(self) -> str:
        """Return the text of the artifact `EVALUATED`."""
        read_options = {name: value for name, value in vars(self.read).items() if value != vars(ReadOptions())[name]}
        content: dict[str, Any] = {"source": self.source, "read": read_options, "pixel_limit": self.pixel_limit}
        content |= {"faces": self.faces} if self.faces else {}
        return str(yaml.safe_dump(content, allow_unicode=True, sort_keys=False))

    def manifest(self) -> Manifest:
        """Read the data.

        Raises:
            InputError: It cannot be read.
        """
        with limited_to(self.pixel_limit):
            return read(self.source, self.read)


def table_of(run_id: str, name: str, *, directory: str | Path = store.DIRECTORY) -> pd.DataFrame:
    """Return a table of a run: predictions or split.

    Raises:
        InputError: The run has none.
    """
    try:
        return load_table(run_id, name, directory=directory)
    except InputError as error:
        msg = (
            f"RUN: {run_id[:8]} has no table of {name}; choose a finished `emotion fit`, `emotion cross-validate` or "
            f"`emotion evaluate`. {error}"
        )
        raise InputError(msg) from error


def is_evaluation(run_id: str, *, directory: str | Path = store.DIRECTORY) -> bool:
    """Return whether a run is one of `emotion evaluate`, which has no model of its own."""
    return run_row(run_id, directory=directory).get("tags.kind") == "evaluation"


def require_rows(manifest: Manifest, predictions: pd.DataFrame, name: str, source: str) -> None:
    """Check that data has the images of a prediction table in its rows.

    Args:
        manifest: The data.
        predictions: Prediction table of a run.
        name: Name of the run, for the message.
        source: What named the data.

    Raises:
        InputError: The rows are other images.
    """
    rows = predictions["row"].to_numpy()
    same = len(manifest) > rows.max() and np.array_equal(
        manifest.table["path"].to_numpy(object)[rows], predictions["path"].to_numpy(object)
    )
    if not same:
        msg = (
            f"--data: {source} is not the data of run {name!r}, since its rows are other images; give the data as it "
            "was then"
        )
        raise InputError(msg)
