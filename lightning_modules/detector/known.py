"""Check that a detector was not trained or selected on the images that a run reports on."""

from pathlib import Path

from datamodules.faces.boxes_data import BoxesDataModule
from lightning_modules.beginning import refuse_seen, seen_by
from lightning_modules.detector.module import read_detector
from lightning_modules.detector.run import checkpoint_of
from records.runs import find_run


def refuse_known(which: str, data: BoxesDataModule, option: str) -> None:
    """Refuse a detector that was trained or selected on images of the outer part, or on images of their clusters.

    Args:
        which: the run or file, as `lightning_modules.detector.run.checkpoint_of` takes it.
        data: the images of the run; what the detector has seen is recorded in it.
        option: the option that named the detector.

    Raises:
        InputError: it was, or it does not record which images it was trained on.
    """
    path = Path(which).expanduser()
    run_id = None if path.is_file() or path.suffix == ".ckpt" else find_run(which)
    seen = seen_by(read_detector(checkpoint_of(which)), data, option, which, run_id)
    alike = "the same data.split, outer_fraction, inner_fraction and fold_seed"
    refuse_seen(seen, data, data.fold.outer, option, which, alike)
