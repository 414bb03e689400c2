"""Further training: a run that begins with all weights of another one, backbone and head."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.checkpoints import CONFIG_KEY, read_checkpoint, require_classes
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.evaluation import SPLIT
from lightning_modules.heads import used_alone
from lightning_modules.stored import run_checkpoint
from records.runs import find_run, find_runs, load_table


def begin_from(model: EmotionClassifier, data: EmotionDataModule, source: str) -> None:
    """Give a model the weights of a checkpoint, the averaged ones where an average was kept.

    Args:
        model: Of the same classes, backbone and head.
        data: What the run will report on; a run to begin from may not have trained or selected on it.
        source: A .ckpt file, or a run: its id, the beginning of that, its name.

    Raises:
        InputError: No such run or file, another model, or a run that knows what this one reports on.
    """
    path = Path(source)
    if path.suffix != ".ckpt":
        run_id = find_run(source)
        path = run_checkpoint(run_id)
        _refuse_known(run_id, data)
    checkpoint = read_checkpoint(path)
    known: dict[str, Any] = used_alone(checkpoint[CONFIG_KEY])
    require_classes(known["classes"], model.classes, f"run.start_from {source}")
    for name in ("backbone", "head", "head_width"):
        if known[name] != model.plain[name]:
            own = model.plain[name]
            msg = f"run.start_from: {source} has {name} {known[name]!r}, this run {own!r}; give both the same"
            raise InputError(msg)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        msg = (
            f"run.start_from: the tensors in {path} are not those of {known['backbone']}; {str(error).splitlines()[0]}"
        )
        raise InputError(msg) from error


def _refuse_known(run_id: str, data: EmotionDataModule) -> None:
    """Refuse a run that has trained or selected on what will be reported; rows tell it where both are of one manifest.

    Of another data set nothing can be told by row, and it passes.
    """
    tags = find_runs(where=f"attributes.run_id = '{run_id}'", limit=1).iloc[0]
    if tags.get("tags.manifest") != data.manifest.fingerprint():
        return
    split = load_table(run_id, SPLIT)
    seen = split.loc[split["role"] != "outer", "row"].to_numpy()
    outer = data.fold_rows.outer
    known = np.isin(data.clusters[outer], data.clusters[seen])
    if known.any():
        msg = (
            f"run.start_from: run {run_id} has learnt from {int(known.sum())} of the {len(outer)} images (or their "
            "twins or people) that this run reports on; divide both alike: the same data.split, fold, fold_seed, "
            "holdout_fraction and stratify_by"
        )
        raise InputError(msg)
