"""Takes a part of a data set, in which every class keeps its share and equal files are taken or left together."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.manifest import Manifest


def take_part(manifest: Manifest, share: float) -> Manifest:
    """Return a share of every class and given part, at least one of each, in the order of the table.

    Notes:
        * The same share of the same set is always the same images.
        * Equal files are drawn as one. One that is drawn for its class or given part brings its twins in others along,
          so that a part leaks as the whole does; it may be a little more than the share.
        * Near duplicates and the images of a person are not looked at here, for that would mean to decode the whole
          set: both of a pair are taken about as often as chance has it.
    """
    same = _equal_files(manifest)
    drawn_at = np.random.default_rng(0).permutation(same.max() + 1)[same]
    names = manifest.table[[name for name in ("label", "split") if name in manifest.table]]
    kept: list[np.ndarray] = []
    for rows in names.groupby(list(names.columns), sort=True).indices.values():
        size = max(1, round(share * len(rows)))
        kept.append(same[rows[np.argsort(drawn_at[rows], kind="stable")[:size]]])
    part = manifest.select(np.flatnonzero(np.isin(same, np.concatenate(kept))))
    note = (
        f"{len(part)} of {len(manifest)} images used: part {share} of every class, equal files together; near "
        "duplicates and people are met more rarely than in the whole"
    )
    return replace(part, notes=(*manifest.notes, note))


def _equal_files(manifest: Manifest) -> np.ndarray:
    """Return a number for each row, int64 (N,), the same for files of the same bytes; only equal sizes are read."""
    places = [os.path.join(manifest.root, path) for path in manifest.table["path"]]
    content: list[str] = []
    try:
        sizes = pd.Series([os.stat(place).st_size for place in places])
        alone = ~sizes.duplicated(keep=False)
        for row, place in enumerate(tqdm(places, "equal files", unit=" files", delay=2, leave=False, disable=None)):
            if alone[row]:
                content.append(f"row {row}")
                continue
            with open(place, "rb") as file:
                content.append(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        msg = f"part: cannot read {error.filename} ({error.strerror}); make it readable, or leave part out"
        raise InputError(msg) from error
    return pd.factorize(pd.Series(content))[0].astype(np.int64)
