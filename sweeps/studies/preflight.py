"""What a study refuses before its first cell: options that do not go together, data that it cannot use."""

import json

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from sweeps.studies.config import Config, data_module, merged
from sweeps.studies.plan import Cell, Study, words


def check_study(study: Study, extra: tuple[str, ...]) -> Manifest:
    """Return the images of a study; reads the table of them, opens none.

    Raises:
        InputError: A cell's options do not go together, or a cell wants the given split of data that bring none.
    """
    manifests: dict[str, Manifest] = {}
    for cell in study.cells:
        config = _config(cell, extra)
        marks, epochs = config.get("frozen", {}).get("marks", []), config["trainer"].get("max_epochs", 0)
        if marks and epochs != max(map(int, marks)):
            msg = (
                f"--trainer.max_epochs: study {study.name} reads its tables off {', '.join(map(str, marks))} epochs, "
                f"got {epochs}; leave the option out"
            )
            raise InputError(msg)
        data = data_module(config)
        key = json.dumps([data.source, str(data.read_options)])
        if key not in manifests:
            manifests[key] = data.manifest
        if data.plan.split == "given" and "split" not in manifests[key].table:
            msg = (
                f"--data: study {study.name} reports on the test images that a data set brings, and "
                f"{manifests[key].name} has no train/ and test/ folders nor a split column; to set some of its images "
                "aside add --data.split holdout --data.holdout_fraction 0.2"
            )
            raise InputError(msg)
    return next(iter(manifests.values()))


def _config(cell: Cell, extra: tuple[str, ...]) -> Config:
    last = ["--data.split", "folds", "--data.folds", str(cell.folds), "--data.fold", "0"] if cell.folds else []
    return merged([*words(cell, ["rotation"], extra), *last])  # any transform stands for the chosen ones
