"""Subsets and unions of data sets: a share, a number per class, annotators' agreement, exclusions, joined sets."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError, invalid
from datamodules.files.paths import on_disk, path_text
from datamodules.manifest import (
    FACE_SOURCE,
    SET,
    VOTES,
    Manifest,
    make_manifest,
    parse_numbers,
    plain_text,
    read_table,
    refuse,
)


def take_part(manifest: Manifest, share: float) -> Manifest:
    """Return a share of every class and given part, at least one of each, in the order of the table.

    Notes:
        * The same share of the same set is always the same images.
        * Equal files are drawn together, also those of other classes or given parts, so that the subset leaks like the
          whole set; it may be slightly larger than the share.
        * Near-duplicates and people are not considered, since that would mean decoding the whole set; both images of a
          pair are drawn only by chance.
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
        f"{len(part)} of {len(manifest)} images used: part {share} of every class, equal files together; "
        "near-duplicates and people with several images are rarer than in the whole set"
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
        msg = f"--data.read.part: cannot read {error.filename} ({error.strerror}); make it readable, or use all images"
        raise InputError(msg) from error
    return pd.factorize(pd.Series(content))[0].astype(np.int64)


def agreed(table: pd.DataFrame, least: int, name: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows whose label at least ``least`` annotators gave (column ``agreement``), and notes.

    Raises:
        InputError: no such column, or no row that is left.
    """
    if "agreement" not in table:
        msg = f"{name}: --agreement {least} needs a data set with the answer of each annotator; leave --agreement out"
        raise InputError(msg)
    number = _agreement(table, name)
    kept = (number >= least).to_numpy(bool)
    if not kept.any():
        counts = ", ".join(f"{int(n)} on {c} images" for n, c in number.value_counts().sort_index().items())
        msg = f"{name}: no image whose label {least} annotators gave ({counts} agree); lower --agreement to 2 or any"
        raise InputError(msg)
    if kept.all():
        return table, ()
    notes = [f"{int((~kept).sum())} images left out: fewer than {least} annotators gave their label"]
    table = table[kept].reset_index(drop=True)
    votes = [str(column) for column in table if str(column).startswith(VOTES)]
    if gone := [column for column in votes if column.removeprefix(VOTES) not in set(table["label"])]:
        names = ", ".join(column.removeprefix(VOTES) for column in gone)
        notes.append(f"no image of {names} is left, so the votes for it are left out")
        table = table.drop(columns=gone)
        voted = (table[[column for column in votes if column not in gone]].astype(float).sum(axis=1) > 0).to_numpy()
        if not voted.all():
            notes.append(f"{int((~voted).sum())} images left out: nobody voted for a class that is left")
            table = table[voted].reset_index(drop=True)
    return table, tuple(notes)


def draw_evenly(manifest: Manifest, per_class: int) -> Manifest:
    """Return ``per_class`` images of every class, in the order of the table.

    Notes:
        * Where the column ``agreement`` is known, images with more of it come first.
        * Within the same agreement a hash of the file's name decides, so that the same set always gives the same
          images, wherever it lies and in whatever order it is read.
        * A class with fewer images is used whole, and a note says so.
    """
    names = manifest.table["path"].str.rsplit("/", n=1).str[-1]
    drawn = np.array([hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in names])
    level = np.zeros(len(manifest))
    if "agreement" in manifest.table:
        level = _agreement(manifest.table, manifest.name).fillna(0).to_numpy(np.float64)
    order = np.lexsort((drawn, -level))
    kept: list[np.ndarray] = []
    notes = [f"{per_class} images of every class used, those that most annotators agree on first"]
    for index, label in enumerate(manifest.classes):
        rows = order[manifest.labels[order] == index][:per_class]
        kept.append(rows)
        if len(rows) < per_class:
            notes.append(f"class {label} has only {len(rows)} images, fewer than --per-class {per_class}")
    part = manifest.select(np.sort(np.concatenate(kept)))
    return replace(part, notes=(*manifest.notes, *notes))


def _agreement(table: pd.DataFrame, name: str) -> pd.Series:
    """Return how many annotators gave each label, NaN where the cell is empty."""
    number, bad = parse_numbers(table["agreement"])
    refuse(bad, table, "agreement", name, "must be a number")
    return number


def leave_out(manifest: Manifest, file: str) -> Manifest:
    """Return the manifest without the images that a table lists, with a note of how many they are.

    Args:
        manifest: The images, as they are read without the table.
        file: The table: a column ``path``, or else ``row``; other columns are ignored.

    Raises:
        InputError: The table cannot be read, has neither column, or lists an image that is not in the manifest; or a
            class would have no image left.
    """
    place = on_disk(Path(file).expanduser())
    if not place.is_file():
        raise invalid("--exclude", "must be a table of images that exists", path_text(file))
    try:
        table = read_table(place)
    except InputError as error:
        msg = f"--exclude: {error}"
        raise InputError(msg) from error
    by_path = "path" in table
    if not by_path and "row" not in table:
        columns = ", ".join(map(str, table.columns))
        raise invalid("--exclude", "the table must have a column path or row", f"{path_text(file)} with {columns}")
    if by_path:
        listed = plain_text(table["path"])
        places = pd.Index(manifest.table["path"]).get_indexer(pd.Index(listed))
    else:
        listed = plain_text(table["row"]).str.strip()
        whole = listed.str.fullmatch(r"[0-9]{1,18}(\.0)?")
        places = listed.where(whole, "-1").astype(float).astype(np.int64).to_numpy()
        places = np.where(places < len(manifest), places, -1)
    if (places < 0).any():
        unknown = np.flatnonzero(places < 0)
        shown = ", ".join(f"{listed.iloc[at]!r} (line {at + 2})" for at in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        what = "path" if by_path else "row"
        msg = (
            f"--exclude: {path_text(file)} lists {what}s that are not in {manifest.name} ({len(manifest)} images): "
            f"{shown}{more}; read the data as it was read for the table, or remove these lines"
        )
        raise InputError(msg)
    inside = np.ones(len(manifest), bool)
    inside[places] = False
    lost = [name for name in manifest.classes if not (inside & (manifest.table["label"] == name).to_numpy()).any()]
    lost = [name for name in lost if (manifest.table["label"] == name).any()]
    if lost:
        msg = f"--exclude: {path_text(file)} leaves no image of class {', '.join(lost)}; shorten the table"
        raise InputError(msg)
    counts = manifest.table["label"][~inside].value_counts()
    of = (
        f": {', '.join(f'{name} {counts[name]}' for name in manifest.classes if name in counts)}" if len(counts) else ""
    )
    note = f"{int((~inside).sum())} of {len(manifest)} images left out, which {path_text(file)} lists{of}"
    kept = manifest.select(np.flatnonzero(inside))
    return replace(kept, notes=(*manifest.notes, note))


_NEXT = re.compile(r"\+(?=[A-Za-z]\w+:)")


def sources(text: str) -> list[str]:
    """Return the parts of ``cafe:FOLDER+nimh:FOLDER``; one part if nothing is joined."""
    return [text] if Path(text).exists() else [part.strip() for part in _NEXT.split(text)]


def join(manifests: Sequence[Manifest]) -> Manifest:
    """Return one manifest of all sets, relative to their common folder, with a subgroup column ``set``.

    Classes are joined by their canonical names, which every reader gives. People of different sets are different
    people; the same image in two sets is found like any duplicate.

    Raises:
        InputError: Two sets of the same name, or only some sets have annotators' votes or a given split.
    """
    names = [manifest.name for manifest in manifests]
    if len(set(names)) < len(names):
        msg = f"data: sets that are joined have different names, got {' + '.join(names)}; rename a folder"
        raise InputError(msg)
    for what, present in (
        ("a given split", ["split" in m.table for m in manifests]),
        ("annotators' votes", [any(str(c).startswith(VOTES) for c in m.table) for m in manifests]),
    ):
        if any(present) and not all(present):
            lacking = names[present.index(False)]
            msg = (
                f"data: {what} must be in all sets that are joined or in none, {lacking} has none; read them separately"
            )
            raise InputError(msg)
    root = Path(os.path.commonpath([manifest.root.resolve() for manifest in manifests]))
    folders = [manifest.root.resolve().relative_to(root).as_posix() for manifest in manifests]
    prefixes = ["" if below == "." else f"{below}/" for below in folders]
    tables = []
    for manifest, before in zip(manifests, prefixes, strict=True):
        table = manifest.table.assign(path=before + manifest.table["path"], **{SET: manifest.name})
        if "subject" in table:
            table["subject"] = table["subject"].map(
                lambda subject, name=manifest.name: f"{name} {subject}" if subject else ""
            )
        if FACE_SOURCE in table:  # two sets may have photographs of one name
            source = table[FACE_SOURCE]
            table[FACE_SOURCE] = source.where(source == "", f"{manifest.name}/" + source)
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    votes = [name for name in joined if str(name).startswith(VOTES)]
    joined[votes] = joined[votes].fillna(0.0)
    notes = tuple(f"{manifest.name}: {note}" for manifest in manifests for note in manifest.notes)
    whole = make_manifest(joined, root, name="+".join(names), notes=notes)
    finders = {manifest.detector for manifest in manifests}
    finder = finders.pop() if len(finders) == 1 else ""
    whole = replace(whole, sets=tuple(zip(names, folders, strict=True)), detector=finder)
    boxes = [
        m.boxes.assign(path=before + m.boxes["path"])
        for m, before in zip(manifests, prefixes, strict=True)
        if m.boxes is not None
    ]
    return whole if len(boxes) < len(manifests) else whole.with_boxes(pd.concat(boxes, ignore_index=True))
