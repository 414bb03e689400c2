"""Joins several data sets into one, such as CAFE and NIMH-ChEFS, to train on one group and report on all."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import VOTES, Manifest, make_manifest

SET = "set"  # the group column that tells whose an image is
_NEXT = re.compile(r"\+(?=[A-Za-z]\w+:)")


def sources(text: str) -> list[str]:
    """Return the parts of ``cafe:FOLDER+nimh:FOLDER``; one part where nothing is joined."""
    return [text] if Path(text).exists() else [part.strip() for part in _NEXT.split(text)]


def join(manifests: Sequence[Manifest]) -> Manifest:
    """Return one manifest of all, under the folder that is above them, with a group column ``set``.

    Classes are joined by their canonical names, which every reader gives. People of different sets are different
    people; the same picture in two sets is found like any twin.

    Raises:
        InputError: Two sets of one name, or annotators' votes or a given split in some of them alone.
    """
    names = [manifest.name for manifest in manifests]
    if len(set(names)) < len(names):
        msg = f"data: sets that are joined have different names, got {' + '.join(names)}; rename a folder"
        raise InputError(msg)
    for what, held in (
        ("a given split", ["split" in m.table for m in manifests]),
        ("annotators' votes", [any(str(c).startswith(VOTES) for c in m.table) for m in manifests]),
    ):
        if any(held) and not all(held):
            lacking = names[held.index(False)]
            msg = f"data: {what} must be in all sets that are joined or in none, {lacking} has none; read them apart"
            raise InputError(msg)
    root = Path(os.path.commonpath([manifest.root.resolve() for manifest in manifests]))
    tables = []
    for manifest in manifests:
        below = manifest.root.resolve().relative_to(root).as_posix()
        table = manifest.table.assign(path=below + "/" + manifest.table["path"], **{SET: manifest.name})
        if "subject" in table:
            table["subject"] = table["subject"].map(lambda one, name=manifest.name: f"{name} {one}" if one else "")
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    votes = [name for name in joined if str(name).startswith(VOTES)]
    joined[votes] = joined[votes].fillna(0.0)
    notes = tuple(f"{manifest.name}: {note}" for manifest in manifests for note in manifest.notes)
    whole = make_manifest(joined, root, name="+".join(names), notes=notes)
    boxes = [
        m.boxes.assign(path=m.root.resolve().relative_to(root).as_posix() + "/" + m.boxes["path"])
        for m in manifests
        if m.boxes is not None
    ]
    return whole if len(boxes) < len(manifests) else whole.with_boxes(pd.concat(boxes, ignore_index=True))
