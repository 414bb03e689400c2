"""Split manifest rows into train, val and test parts: k-fold, hold-out and given splits, with whole clusters.

A cluster (exact and near-duplicates, images of one person) is never divided, every class is in every part (of a given
split, in the train part), and each part has nearly its share of each class. The val part is used for selection (early
stopping, best checkpoint), the test part is predicted once, at the end.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.errors import InputError, invalid

_ATTEMPTS = 30  # shuffles that are tried before the error that clusters of several classes cannot be divided


def divide(
    labels: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    shares: np.ndarray,
    seed: int | list[int],
    least: int | np.ndarray,
) -> np.ndarray:
    """Return the part of each row, (N,), such that each class has at least ``least`` clusters in each part.

    Clusters of several images are assigned one by one, largest first, to the part where they fit best; single images
    then fill each part up to its share. A class can have enough clusters and still be indivisible if they also contain
    other classes (three clusters {a, b}, {b, c}, {c, a} in two parts): after some shuffles an error names the class.

    Args:
        labels: Class of each row, (N,).
        clusters: Cluster of each row, (N,).
        classes: Names of the classes, for the message.
        shares: Wanted share of each class in each part, (P,), summing to 1.
        seed: The same seed gives the same division.
        least: Least number of clusters of each class in each part, one number or (P,).

    Raises:
        InputError: If no division was found.
    """
    _, group = np.unique(clusters, return_inverse=True)
    counts = np.zeros((group.max() + 1, len(classes)), np.int64)  # (G, C)
    np.add.at(counts, (group, labels), 1)
    least = np.broadcast_to(least, shares.shape)
    generator = np.random.default_rng(seed)
    short = 0
    for _ in range(_ATTEMPTS):
        part = _assign(counts, shares, generator)
        mended = _repair(part, counts, least, generator)
        if mended is None:
            return part[group]
        short = mended
    msg = (
        f"class {classes[short]!r} cannot be put into each of {len(shares)} parts, because its clusters also hold "
        "other classes; ask for fewer folds, or correct the labels of these clusters (`emotion data check` lists them)"
    )
    raise InputError(msg)


def _assign(counts: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the part of each cluster: large ones one by one where they fit best, then single images to fill up."""
    target = shares[:, None] * counts.sum(0)  # (P, C)
    filled = np.zeros_like(target)
    part = np.empty(len(counts), np.int64)
    size = counts.sum(1)
    many = generator.permutation(np.flatnonzero(size > 1))
    for cluster in many[np.argsort(-size[many], kind="stable")]:
        added = counts[cluster]
        # Growth of the squared distance to the target, counted in shares of a class so that rare classes weigh as much.
        growth = (added * (2 * (filled - target) + added) / np.maximum(target, 1e-9)).sum(1)
        part[cluster] = growth.argmin()
        filled[part[cluster]] += added
    label = counts.argmax(1)
    for index in range(counts.shape[1]):
        single = generator.permutation(np.flatnonzero((size == 1) & (label == index)))
        wanted = np.maximum(target[:, index] - filled[:, index], 0)
        wanted *= len(single) / max(wanted.sum(), 1e-9)
        given = np.floor(wanted + 1e-9).astype(np.int64)
        # Rows left by rounding go to the largest remainders; ties go to the part that lacks most rows.
        behind = (filled - target).sum(1)
        rest = np.lexsort((generator.random(len(given)), behind, -np.round(wanted - given, 9)))
        given[rest[: len(single) - given.sum()]] += 1
        part[single] = np.repeat(np.arange(len(given)), given)
        filled[:, index] += given
    return part


def _repair(part: np.ndarray, counts: np.ndarray, least: np.ndarray, generator: np.random.Generator) -> int | None:
    """Move clusters, in place, to parts that lack a class; return a class for which that fails, else None."""
    holds = counts > 0
    have = np.stack([holds[part == p].sum(0) for p in range(len(least))])  # (P, C) clusters of a class in a part
    for _ in range(have.size * int(least.max())):
        lacking = np.argwhere(have < least[:, None])
        if not len(lacking):
            return None
        p, c = lacking[generator.integers(len(lacking))]
        movable = np.flatnonzero(holds[:, c] & (part != p))
        # A cluster may go if each class it holds stays above the least number in the part it leaves.
        spare = (have[part[movable]] - holds[movable] >= least[part[movable], None]) | ~holds[movable]
        movable = movable[spare.all(1)]
        if not len(movable):
            return int(c)
        chosen = movable[np.lexsort((generator.random(len(movable)), counts[movable].sum(1)))[0]]
        have[part[chosen]] -= holds[chosen]
        part[chosen] = p
        have[p] += holds[chosen]
    lacking = np.argwhere(have < least[:, None])
    return int(lacking[0, 1]) if len(lacking) else None


_VAL_STREAM = 7_919  # random stream of the val part, separate from that of the folds


@dataclass(frozen=True)
class Fold:
    """Rows of the train, val and test part of one run.

    Attributes:
        index: Number of the fold, from 0.
        train: Rows to train on, int64, sorted.
        val: Rows to select on; empty if the inner fraction is 0.
        test: Rows to report on.
    """

    index: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def k_fold(
    labels: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    *,
    folds: int,
    seed: int,
    inner_fraction: float = 0.1,
    option: str = "--data.folds",
) -> list[Fold]:
    """Return ``folds`` folds whose test parts are stratified and cover each row exactly once.

    Args:
        labels: Class of each row, (N,).
        clusters: Cluster of each row, (N,); equal numbers stay together.
        classes: Names of the classes, for messages.
        folds: Number of folds, at least 2.
        seed: The same seed gives the same folds.
        inner_fraction: Share of each training part that is set aside to select on; 0 sets none aside.
        option: The option that gave the number of folds, for messages.

    Raises:
        InputError: If a class has too few clusters for the folds.
    """
    labels, clusters = _checked(labels, clusters, classes)
    if folds < 2:
        raise invalid(option, "must be at least 2", folds, "--data.split holdout divides once")
    _check_fraction("inner_fraction", inner_fraction, zero=True)
    # With two folds the training part is a single fold, and it must yield the val part too.
    _check_enough(
        labels, clusters, classes, 4 if folds == 2 and inner_fraction else folds, f"{option} {folds}", fewer=folds > 2
    )
    every = np.arange(len(labels))
    part = divide(labels, clusters, classes, np.full(folds, 1 / folds), seed, 2 if folds == 2 and inner_fraction else 1)
    made = []
    for index in range(folds):
        train, val = _split_val(every[part != index], labels, clusters, classes, inner_fraction, seed, index)
        made.append(Fold(index, train, val, every[part == index]))
        verify(made[-1], labels, clusters, len(classes))
    if not np.array_equal(np.sort(np.concatenate([fold.test for fold in made])), every):
        msg = "folds: the test parts do not hold every row exactly once"
        raise InputError(msg)
    return made


def hold_out(
    labels: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    *,
    fraction: float,
    seed: int,
    inner_fraction: float = 0.1,
) -> Fold:
    """Return one fold whose test part is about ``fraction`` of the rows of each class."""
    labels, clusters = _checked(labels, clusters, classes)
    _check_fraction("holdout_fraction", fraction, zero=False)
    _check_fraction("inner_fraction", inner_fraction, zero=True)
    _check_enough(labels, clusters, classes, 3 if inner_fraction else 2, "a division into train, val and test")
    every = np.arange(len(labels))
    shares = np.array([1 - fraction, fraction])
    part = divide(labels, clusters, classes, shares, seed, np.array([2 if inner_fraction else 1, 1]))
    train, val = _split_val(every[part == 0], labels, clusters, classes, inner_fraction, seed, 0)
    fold = Fold(0, train, val, every[part == 1])
    verify(fold, labels, clusters, len(classes))
    return fold


def given_split(
    labels: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    split: Sequence[str] | np.ndarray,
    *,
    outer: Literal["test", "validation"],
    leak: Literal["error", "drop_twins", "allow"] = "error",
    seed: int,
    inner_fraction: float = 0.1,
) -> tuple[Fold, dict[str, int | str]]:
    """Return the given split of a data set, and a record of its leaks.

    The val part is the given validation part if the given test part is reported and a validation part exists; else it
    is drawn from training. ``inner_fraction`` 0 leaves it empty. Duplicates are removed from training (and from a given
    val part), never from the test part, so that reported numbers stay comparable.

    Args:
        labels: Class of each row, (N,).
        clusters: Cluster of each row, (N,).
        classes: Names of the classes.
        split: Part of each row: ``train``, ``validation``, ``test``; anything else leaves the row out.
        outer: The part that is reported.
        leak: What to do if a cluster is in two parts.
        seed: Seed of the val draw.
        inner_fraction: Share of training that becomes the val part, when it is drawn.

    Returns:
        The fold, and ``{"leak", "leaking_clusters", "leaking_train_rows", "leaking_val_rows", "leaking_test_rows",
        "dropped_rows", "dropped_train_rows", "dropped_val_rows", "unused_rows"}``.

    Raises:
        InputError: If the split leaks and ``leak`` is ``error``, a part is missing, or the training part lacks a class.
    """
    labels, clusters = _checked(labels, clusters, classes)
    _check_fraction("inner_fraction", inner_fraction, zero=True)
    if outer not in ("test", "validation") or leak not in ("error", "drop_twins", "allow"):
        msg = (
            f"outer must be test or validation, and leak must be error, drop_twins or allow; got {outer!r} and {leak!r}"
        )
        raise InputError(msg)
    names = np.asarray(split, dtype=object)
    if names.shape != labels.shape:
        msg = f"split must hold one name for each of {len(labels)} rows, got shape {names.shape}"
        raise InputError(msg)
    parts = {name: np.flatnonzero(names == name) for name in ("train", "validation", "test")}
    for name in ("train", outer):
        if not len(parts[name]):
            counts = ", ".join(f"{key} {len(rows)}" for key, rows in parts.items())
            msg = f"--data.split given: no row is {name} ({counts}); choose another --data.outer, or --data.split folds"
            raise InputError(msg)
    train, tested = parts["train"], parts[outer]
    val = parts["validation"] if outer == "test" and inner_fraction else np.empty(0, np.int64)
    given_val = len(val) > 0

    train_leaks = np.isin(clusters[train], np.concatenate([clusters[tested], clusters[val]]))
    val_leaks = np.isin(clusters[val], clusters[tested])
    test_leaks = np.isin(clusters[tested], np.concatenate([clusters[train], clusters[val]]))
    leaking = np.unique(np.concatenate([clusters[train][train_leaks], clusters[val][val_leaks]]))
    record: dict[str, int | str] = {
        "leak": leak,
        "leaking_clusters": len(leaking),
        "leaking_train_rows": int(train_leaks.sum()),
        "leaking_val_rows": int(val_leaks.sum()),
        "leaking_test_rows": int(test_leaks.sum()),
        "dropped_rows": 0,
        "dropped_train_rows": 0,
        "dropped_val_rows": 0,
        "unused_rows": len(labels) - len(train) - len(val) - len(tested),
    }
    if len(leaking) and leak == "error":
        msg = (
            f"split leaks: {len(leaking)} clusters of duplicates or subjects are in two parts "
            f"({train_leaks.sum()} training rows, {test_leaks.sum()} {outer} rows). Take them out of training "
            "with --drop-twins (--data.leak drop_twins), or keep them with --allow-leak (--data.leak allow); "
            "the choice is recorded in the run"
        )
        raise InputError(msg)
    if leak == "drop_twins":
        record["dropped_train_rows"], record["dropped_val_rows"] = int(train_leaks.sum()), int(val_leaks.sum())
        record["dropped_rows"] = int(train_leaks.sum() + val_leaks.sum())
        train, val = train[~train_leaks], val[~val_leaks]
    if missing := lacking_classes(labels[train], len(classes)):
        there = ", ".join(f"{classes[c]} ({np.isin(labels, c).sum()} images in other parts)" for c in missing)
        msg = f"--data.split given: the train part ({len(train)} images) has no image of {there}; "
        raise InputError(msg + remedy(classes, missing))
    if not given_val:
        train, val = _split_val(train, labels, clusters, classes, inner_fraction, seed, 0)
    fold = Fold(0, train, val, tested)
    absent = int(record["unused_rows"]) + int(record["dropped_rows"])
    allow = leak == "allow"
    verify(fold, labels, clusters, len(classes), allow_leak=allow, absent=absent, classes=classes, given=True)
    return fold, record


def verify(
    fold: Fold,
    labels: np.ndarray,
    clusters: np.ndarray,
    n_classes: int,
    *,
    allow_leak: bool = False,
    absent: int = 0,
    classes: Sequence[str] | None = None,
    given: bool = False,
) -> None:
    """Raise unless the parts share no row and no cluster, hold every class, and together hold every row.

    Args:
        fold: The parts to check.
        labels: Class of each row, (N,).
        clusters: Cluster of each row, (N,).
        n_classes: Number of classes.
        allow_leak: Accept clusters that are in two parts (a given split kept as published).
        absent: Number of rows that are meant to be in no part (dropped near-duplicates, parts not in use).
        classes: Names for the message.
        given: The parts were given with the data: the test and the val part may lack a class, and are scored on what
            they have. The train part must hold every class.

    Raises:
        InputError: Naming the fold, the part and the number of rows or clusters.
    """
    where = f"fold {fold.index}"
    parts = {"train": fold.train, "val": fold.val, "test": fold.test}
    rows = np.concatenate(list(parts.values()))
    if len(rows) and (rows.min() < 0 or rows.max() >= len(labels)):
        msg = f"{where}: rows must lie in 0..{len(labels) - 1}, got {rows.min()}..{rows.max()}"
        raise InputError(msg)
    if len(np.unique(rows)) != len(rows):
        msg = f"{where}: {len(rows) - len(np.unique(rows))} rows are in two parts; each row must be in one part"
        raise InputError(msg)
    if len(rows) + absent != len(labels):
        msg = f"{where}: parts hold {len(rows)} rows and {absent} are left out, but the manifest has {len(labels)}"
        raise InputError(msg)
    if not allow_leak:
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = np.intersect1d(clusters[parts[first]], clusters[parts[second]])
            if len(shared):
                msg = f"{where}: {len(shared)} clusters are both in {first} and {second}, first {shared[0]}"
                raise InputError(msg)
    for name, part in parts.items():
        if (name == "val" and not len(part)) or (given and name != "train"):
            continue
        missing = lacking_classes(labels[part], n_classes)
        if missing:
            names = list(map(str, range(n_classes))) if classes is None else classes
            called = ", ".join(names[c] for c in missing)
            here = f"the {name} part ({len(part)} rows) has no image of class {called}"
            msg = f"{where}: {here}; add images, or {remedy(names, missing)}"
            raise InputError(msg)


def lacking_classes(labels: np.ndarray, classes: int) -> list[int]:
    """Return the classes, as integers, that no label is of."""
    return np.flatnonzero(np.bincount(labels, minlength=classes)[:classes] == 0).tolist()


def _checked(labels: np.ndarray, clusters: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    labels, clusters = np.asarray(labels), np.asarray(clusters)
    if labels.ndim != 1 or labels.shape != clusters.shape or not len(labels):
        msg = f"labels and clusters must be equally long and not empty, got {labels.shape} and {clusters.shape}"
        raise InputError(msg)
    if labels.min() < 0 or labels.max() >= len(classes):
        msg = f"labels must lie in 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}"
        raise InputError(msg)
    return labels.astype(np.int64), clusters


def _check_fraction(name: str, value: float, *, zero: bool) -> None:
    if not (0 <= value < 1 and (zero or value > 0)):
        raise invalid(f"--data.{name}", f"must be {'at least' if zero else 'above'} 0 and below 1", value)


def _check_enough(
    labels: np.ndarray, clusters: np.ndarray, classes: Sequence[str], needed: int, purpose: str, *, fewer: bool = False
) -> None:
    cluster_labels = np.unique(np.stack([labels, np.unique(clusters, return_inverse=True)[1]]), axis=1)[0]
    for index, count in enumerate(np.bincount(cluster_labels, minlength=len(classes)).tolist()):
        if count < needed:
            advice = f"{'ask for fewer folds, ' if fewer else ''}add images, or {remedy(classes, [index])}"
            msg = (
                f"class {classes[index]!r} has {count} cluster{'' if count == 1 else 's'} of images that must stay "
                f"together, but {purpose} needs at least {needed}; {advice}"
            )
            raise InputError(msg)


class CellNames(tuple[str, ...]):
    """Names of cells of class and subgroup, which stand for classes where a split is stratified by subgroups."""

    __slots__ = ()


def remedy(classes: Sequence[str], lacking: Sequence[int]) -> str:
    """Return the options that merge a class into another, or leave it out; for cells, that do not stratify by them."""
    if isinstance(classes, CellNames):
        return "leave --data.stratify_by out"
    others = [name for index, name in enumerate(classes) if index not in lacking]
    names = " ".join(shlex.quote(name) for name in others)
    merged = shlex.quote(f"{classes[lacking[0]]}={others[0]}") if others else ""
    if len(others) < 2:
        return f"merge the class into another with --alias {merged}" if others else "use other data"
    return (
        f"merge the class into another with --alias, such as --alias {merged}, or leave it out with --classes {names}"
    )


def _split_val(
    rows: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    fraction: float,
    seed: int,
    index: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return training rows and val rows, both sorted."""
    if fraction == 0:
        return rows, np.empty(0, np.int64)
    _check_enough(labels[rows], clusters[rows], classes, 2, f"--data.inner_fraction {fraction}")
    shares = np.array([1 - fraction, fraction])
    part = divide(labels[rows], clusters[rows], classes, shares, [seed, _VAL_STREAM, index], 1)
    return rows[part == 0], rows[part == 1]
