"""Shared by all readers: the image files of a folder, and canonical label names."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.labels import canonical, canonical_split, plain
from datamodules.manifest import VOTES, Manifest, make_manifest, plain_text
from datamodules.read_options import ReadOptions as ReadOptions
from datamodules.readers.subsets import agreed, draw_evenly, take_part

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff .gif .ppm .pgm".split())


def image_files(folder: Path) -> list[str]:
    """Return the images below a folder as sorted paths relative to it, with ``/``; hidden ones are left out.

    Linked folders are followed, so that images behind a link are seen (and refused by the manifest if they lie
    outside) and not silently missed; a loop of links is entered once.
    """
    names: list[str] = []
    with tqdm(desc="listing images", unit=" files", delay=2, leave=False, disable=None) as bar:
        for name in _walk(folder, "", {os.path.realpath(folder)}):
            names.append(name)
            bar.update()
    return sorted(names)


def _walk(folder: str | Path, prefix: str, seen: set[str]) -> Iterator[str]:
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        msg = f"cannot list the folder {folder}: {error.strerror}"
        raise InputError(msg) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_dir():
            place = os.path.realpath(entry.path)
            if not entry.is_symlink() or place not in seen:
                seen.add(place)
                yield from _walk(entry.path, f"{prefix}{entry.name}/", seen)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield prefix + entry.name


def finish(
    table: pd.DataFrame,
    root: Path,
    name: str,
    options: ReadOptions,
    notes: tuple[str, ...] = (),
) -> Manifest:
    """Return the manifest of a table, with canonical names of labels and splits; the last call of every reader."""
    if "label" in table and len(table):
        table, said = _name_labels(table, name, options)
        notes = (*notes, *said)
    if "split" in table:
        table = table.assign(split=table["split"].map(lambda s: canonical_split(str(s)) or s))
    if options.agreement != "any":
        table, said = agreed(table, options.agreement, name)
        notes = (*notes, *said)
    manifest = make_manifest(table, root, name=name, notes=notes)
    if options.per_class is not None:
        return draw_evenly(manifest, options.per_class)
    return manifest if options.part is None else take_part(manifest, options.part)


def resolve(label: str, options: ReadOptions) -> str | None:
    """Return the class that a label means, the user's own aliases first, or None."""
    for alias, meaning in (options.aliases or {}).items():
        if plain(alias) == plain(label):
            return canonical(meaning) or meaning.strip()
    return canonical(label)


def _name_labels(table: pd.DataFrame, name: str, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    raw = plain_text(table["label"]).str.strip()
    wanted = {plain(choice): choice.strip() for choice in options.classes or ()}
    names: dict[str, str] = {}
    unknown: list[str] = []
    for label in raw.unique():
        known = resolve(label, options) or wanted.get(plain(label))
        if known is None and label and options.unknown_labels != "keep":
            unknown.append(label)
        names[label] = known or label  # an empty label stays empty, and make_manifest names its row
    table = table.assign(label=raw.map(names))
    if not unknown:
        return table, ()
    counts = raw[raw.isin(unknown)].value_counts()
    listed = ", ".join(f"{label!r} ({count})" for label, count in counts.head(20).items())
    listed += f" and {len(counts) - 20} more" if len(counts) > 20 else ""
    if options.unknown_labels == "drop" or options.classes is not None:  # classes name all that is wanted
        kept = table[~raw.isin(unknown)].reset_index(drop=True)
        return kept, (f"{len(table) - len(kept)} images left out, their labels are unknown: {listed}",)
    msg = (
        f"{name}: unknown labels (images): {listed}. Give their meaning with --alias {quoted(counts.index[0])}=happy, "
        "or choose --unknown-labels drop or --unknown-labels keep"
    )
    raise InputError(msg)


def quoted(label: str) -> str:
    """Return a label as a word of a command line."""
    return shlex.quote(str(label))


def keep_classes(manifest: Manifest, options: ReadOptions) -> Manifest:
    """Return the manifest of the classes that `options` names, with a note of how many images are left out.

    Raises:
        InputError: no image is of one of them; the nearest classes are named.
    """
    if options.classes is None:
        return manifest
    by_plain = {plain(name): name for name in manifest.classes}
    kept: set[str] = set()
    counts = manifest.table["label"].value_counts()
    for choice in options.classes:
        found = by_plain.get(plain(choice)) or by_plain.get(plain(resolve(choice, options) or choice))
        if found is None:
            listed = ", ".join(f"{name} {int(counts.get(name, 0))}" for name in manifest.classes)
            hint = did_you_mean(choice, manifest.classes, cutoff=0.5)
            rule = f"must be classes of {manifest.name} ({listed})"
            raise invalid("--classes", rule, choice, hint)
        kept.add(found)
    classes = tuple(name for name in manifest.classes if name in kept)
    if len(classes) < 2:
        raise invalid("--classes", "must name at least 2 different classes", ", ".join(options.classes))
    if len(classes) == len(manifest.classes):
        return manifest
    others = [name for name in manifest.classes if name not in kept]
    listed = ", ".join(f"{name} {int(counts.get(name, 0))}" for name in others)
    inside = manifest.table["label"].isin(classes).to_numpy()
    notes = [f"{int((~inside).sum())} images left out, they are of none of the chosen classes: {listed}"]
    votes = [f"{VOTES}{name}" for name in classes if f"{VOTES}{name}" in manifest.table]
    dropped = [f"{VOTES}{name}" for name in others if f"{VOTES}{name}" in manifest.table]
    if dropped:  # the shares of the votes are those of the classes that stay
        voted = manifest.table[votes].sum(axis=1).to_numpy() > 0
        if (inside & ~voted).any():
            notes.append(f"{int((inside & ~voted).sum())} images left out, all their votes are for other classes")
        inside = inside & voted
    chosen = manifest.select(np.flatnonzero(inside))
    table = chosen.table.drop(columns=dropped)
    return replace(chosen, table=table, classes=classes, notes=(*manifest.notes, *notes))
