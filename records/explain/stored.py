"""An explanation as files: its arrays without a line of code in them, and its table."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from records.explain.explained import Explained

MAPS, TABLE = "maps.npz", "table.csv"
_ARRAYS = ("images", "maps", "target", "segments", "landmarks")


def save(explained: Explained, folder: Path, more: pd.DataFrame | None = None) -> None:
    """Write maps.npz and table.csv into a folder.

    Args:
        explained: The explanation.
        folder: It exists; whoever made it gives it its final name once it is whole.
        more: Columns (N,) that go into the table beside its own.
    """
    arrays = {name: getattr(explained, name) for name in _ARRAYS}
    if explained.masks is not None:
        arrays["masks"] = explained.masks
    facts = {"classes": explained.classes, "method": explained.method, "options": explained.options}
    text = json.dumps(facts, ensure_ascii=False)
    np.savez_compressed(folder / MAPS, about=np.array(text), **arrays)
    table = explained.table.assign(target=np.asarray(explained.classes, object)[explained.target])
    if more is not None:
        table = pd.concat([table, more.reset_index(drop=True)], axis=1)
    table.to_csv(folder / TABLE, index=False)


def load(folder: Path) -> Explained:
    """Read what `save` wrote.

    Raises:
        InputError: It is not there, or damaged.
    """
    try:
        with np.load(folder / MAPS, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            found = {name: arrays[name] for name in _ARRAYS}
            masks = arrays["masks"] if "masks" in arrays else None
        table = pd.read_csv(folder / TABLE, keep_default_na=False, na_values={"row": [""]})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{folder}: holds no whole explanation ({error}); make it with emotion explain"
        raise InputError(msg) from error
    return Explained(
        table.drop(columns="target"),
        tuple(about["classes"]),
        **found,
        masks=masks,
        method=about["method"],
        options=about["options"],
    )
