"""Shared by all readers: canonical names of labels and parts, and the choice of classes."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError, did_you_mean, invalid, nearest
from datamodules.files.image_files import image_files as image_files  # readers take it from here
from datamodules.labels import canonical, canonical_split, names_of_labels, plain
from datamodules.manifest import VOTES, Manifest, make_manifest, plain_text
from datamodules.read_options import ReadOptions as ReadOptions
from datamodules.readers.subsets import agreed, draw_evenly, take_part


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
        parts = {s: canonical_split(str(s)) or s for s in table["split"].unique()}
        table = table.assign(split=table["split"].map(lambda s: parts.get(s, s)))
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
        if _key(alias) == _key(label):
            return canonical(meaning) or meaning.strip()
    return canonical(label)


def _key(label: str) -> str:
    """Return what two spellings of a label share; the sign and the point of a number count."""
    text = label.strip()
    return text.removesuffix(".0") if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else plain(text)


def _name_labels(table: pd.DataFrame, name: str, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    raw = plain_text(table["label"]).str.strip()
    if raw.str.fullmatch(r"-?[0-9]+\.0").all():  # whole numbers that a table has as floats
        raw = raw.str.removesuffix(".0")
    wanted = {_key(choice): choice.strip() for choice in options.classes or ()}
    names: dict[str, str] = {}
    unknown: list[str] = []
    for label in raw.unique():
        known = resolve(label, options) or wanted.get(_key(label))
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
    if counts.index.str.fullmatch(r"-?[0-9]+(\.0)?").all():
        raise InputError(_numbers_need_names(counts, name, options))
    msg = (
        f"{name}: unknown labels (images): {listed}. {_meaning_of(counts.index.tolist())}, "
        "or choose --unknown-labels drop or --unknown-labels keep"
    )
    raise InputError(msg)


def _numbers_need_names(counts: pd.Series, name: str, options: ReadOptions) -> str:
    """Return the error message for labels that are numbers, with the options that give them a meaning."""
    found = sorted(counts.index, key=float)
    listed = ", ".join(f"{number} ({counts[number]})" for number in found[:20])
    given = [f"--alias {shlex.quote(f'{alias}={meaning}')}" for alias, meaning in (options.aliases or {}).items()]
    # a word that begins with a minus would be taken for an option
    words = " ".join([*given, *(f"--alias{' ='[number.startswith('-')]}{number}=CLASS" for number in found[:20])])
    return (
        f"{name}: the labels are the numbers (images) {listed}. Give the meaning of each number in this data set: "
        f"{words} (CLASS is a name such as happy). For folders with the numbers of a published set, name the set "
        "instead: --data fer2013:PATH (0 is angry), rafdb:PATH (1 is surprise) or affectnet:PATH (0 is neutral)"
    )


def _meaning_of(unknown: list[str]) -> str:
    """Return the advice for labels that are no known class."""
    for label in unknown:
        if near := nearest(label, names_of_labels(), n=1, cutoff=0.6):
            meant = canonical(near[0])
            alias = shlex.quote(f"{label}={meant}")
            return f"Did you mean {meant} for {label!r}? Give their meaning with --alias {alias}"
    return f"Give their meaning with --alias {shlex.quote(f'{unknown[0]}=happy')}"


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
    by_key = {_key(name): name for name in manifest.classes}
    kept: set[str] = set()
    counts = manifest.table["label"].value_counts()
    for choice in options.classes:
        found = by_key.get(_key(choice)) or by_key.get(_key(resolve(choice, options) or choice))
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
    notes = [f"{int((~inside).sum())} images left out, their classes were not chosen: {listed}"]
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
