"""Whether a detector has learnt from pictures that are to be reported on."""

from pathlib import Path

import numpy as np

from datamodules.errors import InputError
from datamodules.faces.boxes_data import BoxesDataModule
from records.runs import find_run, find_runs, load_table


def refuse_known(which: str, data: BoxesDataModule) -> None:
    """Refuse a run that has trained or selected on pictures of the outer part, or on their twins or people.

    Rows tell it where the run had the same pictures; of other pictures, or of a .ckpt file, nothing can be told.

    Args:
        which: the run or file, as `lightning_modules.detector.run.checkpoint_of` takes it.
        data: what will be reported on.

    Raises:
        InputError: so.
    """
    path = Path(which).expanduser()
    if path.is_file() or path.suffix == ".ckpt":
        return
    run_id = find_run(which)
    tags = find_runs(where=f"attributes.run_id = '{run_id}'", limit=1).iloc[0]
    if tags.get("tags.manifest") != data.manifest.fingerprint():
        return
    split = load_table(run_id, "split")
    seen, outer = split.loc[split["role"] != "outer", "row"].to_numpy(), data.fold.outer
    known = int(np.isin(data.clusters[outer], data.clusters[seen]).sum())
    if known:
        msg = (
            f"run {run_id[:8]} has learnt from {known} of the {len(outer)} pictures (or their twins or people) that "
            "would be reported on; divide as it did: the same data.split, outer_fraction, inner_fraction and fold_seed"
        )
        raise InputError(msg)
