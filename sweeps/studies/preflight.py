"""The key of a study, and the checks before its first cell is run."""

import hashlib
import json
from collections.abc import Sequence

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from sweeps.studies.config import Config, data_module, identity, merged
from sweeps.studies.plan import Cell, Protocol, Scale, Study, words


def study_key(study: Study, scale: Scale, protocol: Protocol, configs: Sequence[Config]) -> str:
    """Return the key of a study, under which every worker finds it.

    Args:
        study: the study; its cells count by their resolved configs, so an edited recipe makes another study.
        scale: tiny, small or paper.
        protocol: honest or paper.
        configs: the resolved config of each cell.
    """
    cells = [
        [cell.name, identity(config), cell.folds, cell.chosen, cell.start_from]
        for cell, config in zip(study.cells, configs, strict=True)
    ]
    content = json.dumps([study.name, scale, protocol, cells])
    return f"{study.name}-{scale}-{protocol}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def cell_configs(study: Study, extra: tuple[str, ...]) -> list[Config]:
    """Return the resolved config of each cell; a fixed transform replaces those that are chosen later."""
    return [merged(words(cell, ["rotation"], extra)) for cell in study.cells]


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
