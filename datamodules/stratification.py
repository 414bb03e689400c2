"""Divides clusters of images into parts that hold their share of every class."""

from collections.abc import Sequence

import numpy as np

from datamodules.errors import InputError

_ATTEMPTS = 30  # shuffles tried before saying that clusters of several classes cannot be divided


def divide(
    labels: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    shares: np.ndarray,
    seed: int | list[int],
    least: int | np.ndarray,
) -> np.ndarray:
    """Return the part of each row, (N,), such that each class has at least ``least`` clusters in each part.

    Clusters of several images go one by one, largest first, where they fit best; single images then fill each part to
    its share. A class can have enough clusters and still not divide, when its clusters also hold other classes
    (three clusters {a, b}, {b, c}, {c, a} in two parts): shuffles are tried, then the class is named.

    Args:
        labels: Class of each row, (N,).
        clusters: Cluster of each row, (N,).
        classes: Names of the classes, for the message.
        shares: Wanted share of each class in each part, (P,), summing to 1.
        seed: The same seed gives the same division.
        least: Clusters of each class that each part must hold, one number or (P,).

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
        mended = _mend(part, counts, least, generator)
        if mended is None:
            return part[group]
        short = mended
    msg = (
        f"class {classes[short]!r} cannot be put into each of {len(shares)} parts, because its clusters also hold "
        "other classes; ask for fewer folds, or correct the labels of these clusters (`emotion data check` lists them)"
    )
    raise InputError(msg)


def _assign(counts: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the part of each cluster: large clusters one by one where they fit best, single images to fill up."""
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
        # What rounding leaves goes to the largest remainder; equal remainders to the part that is shortest as a whole.
        behind = (filled - target).sum(1)
        rest = np.lexsort((generator.random(len(given)), behind, -np.round(wanted - given, 9)))
        given[rest[: len(single) - given.sum()]] += 1
        part[single] = np.repeat(np.arange(len(given)), given)
        filled[:, index] += given
    return part


def _mend(part: np.ndarray, counts: np.ndarray, least: np.ndarray, generator: np.random.Generator) -> int | None:
    """Move clusters, in place, to parts that lack a class; return a class that cannot be mended, else None."""
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
