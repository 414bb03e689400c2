"""The key of a study, and the checks before its first cell is run."""

import hashlib
import json
from collections.abc import Mapping

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig, data_module
from sweeps.studies.plan import Protocol, Scale, Study, cell_config


def study_key(study: Study, scale: Scale, protocol: Protocol, configs: Mapping[str, RunConfig], content: str) -> str:
    """Return the key of a study, under which every worker finds it.

    Args:
        study: the study; its cells count by the identity of their configs, so an edited recipe makes another study.
        scale: tiny, small or paper.
        protocol: honest or paper.
        configs: the config of each cell.
        content: hash of the images.
    """
    experiment = next(iter(configs.values())).run["experiment"]
    cells = [
        [cell.name, configs[cell.name].identity(), cell.folds, cell.chosen, cell.start_from, dict(cell.frozen)]
        for cell in study.cells
    ]
    text = json.dumps([study.name, scale, protocol, experiment, content, cells])
    return f"{study.name}-{scale}-{protocol}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def cell_configs(study: Study, given: Options) -> dict[str, RunConfig]:
    """Return the config of each cell; a fixed transform stands for those that are chosen later."""
    return {cell.name: cell_config(cell, given, ["rotation"]) for cell in study.cells}


def check_study(study: Study, configs: Mapping[str, RunConfig]) -> EmotionDataModule:
    """Return the data of a study's first cell; reads the tables of images, opens no image.

    Raises:
        InputError: A cell's options do not go together, or a cell wants the given split of data that bring none.
    """
    first: dict[str, EmotionDataModule] = {}
    for cell in study.cells:
        config = configs[cell.name]
        marks, epochs = cell.frozen.get("marks", []), config.trainer["max_epochs"]
        if marks and epochs != max(marks):
            msg = (
                f"--trainer.max_epochs: study {study.name} reads its tables off {', '.join(map(str, marks))} epochs, "
                f"got {epochs}; leave the option out"
            )
            raise InputError(msg)
        if cell.folds:
            config = config.override({"data.split": "folds", "data.folds": cell.folds, "data.fold": 0})
        data = data_module(config)
        data.share(first.setdefault(f"{data.source} {data.read_options}", data))
        if data.plan.split == "given" and "split" not in data.manifest.table:
            msg = (
                f"--data: study {study.name} reports on the test images that a data set brings, and "
                f"{data.manifest.name} has no train/ and test/ folders nor a split column; to set some of its images "
                "aside add --data.split holdout --data.holdout_fraction 0.2"
            )
            raise InputError(msg)
    return next(iter(first.values()))
