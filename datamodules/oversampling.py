"""Which training rows are repeated so that rare classes, or rare groups within them, are seen more often."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from imblearn.over_sampling import RandomOverSampler

from datamodules.errors import invalid

NMin = int | float | Literal["max"] | None


@dataclass(frozen=True, eq=False)
class Draws:
    """The rows of one epoch, originals first; a row may stand there several times, marked as a copy after the first.

    Where copies were made before the division (`datamodules.division`), a copy may stand here without its original.
    """

    rows: np.ndarray  # (M,) int64, rows of the manifest
    is_copy: np.ndarray  # (M,) bool

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self, labels: np.ndarray, n_classes: int) -> np.ndarray:
        """Return (n_classes,) int64: how often each class is seen in an epoch. ``labels`` are the manifest's."""
        return np.bincount(labels[self.rows], minlength=n_classes).astype(np.int64)


def as_they_are(rows: np.ndarray) -> Draws:
    """Return each row once."""
    return Draws(np.asarray(rows, dtype=np.int64), np.zeros(len(rows), dtype=bool))


def doubled(rows: np.ndarray) -> Draws:
    """Return each row once as it is and once as a copy, for trying a single transform on the whole set."""
    rows = np.asarray(rows, dtype=np.int64)
    return Draws(np.concatenate([rows, rows]), np.arange(2 * len(rows)) >= len(rows))


def oversample(labels: np.ndarray, rows: np.ndarray, n_min: NMin, seed: int) -> Draws:
    """Draw rows of small classes again, at random, until every class has at least ``n_min``.

    Works on row numbers, before any picture is opened, so a copy can only be of a row in ``rows``. A class without a
    row in ``rows`` stays empty.

    Args:
        labels: (N,) int64, the manifest's; or the cells of label and group (`datamodules.groups.cells`), which are
            filled up alike.
        rows: (M,) the rows of the training part.
        n_min: A number of images, 2 or more; a float in (0, 1], that part of the largest class; ``max``, its size;
            None, no over-sampling. (A whole 1 is refused: 1.0 was meant, or nothing.)
        seed: Equal seeds draw equal rows.

    Raises:
        InputError: ``n_min`` is none of these.
    """
    rows = np.asarray(rows, dtype=np.int64)
    present, counts = np.unique(labels[rows], return_counts=True)
    target = _target(n_min, int(counts.max()) if len(counts) else 0)
    wanted = {int(label): target for label, count in zip(present, counts, strict=True) if count < target}
    if not wanted:
        return as_they_are(rows)
    sampler = RandomOverSampler(sampling_strategy=wanted, random_state=seed)
    # imbalanced-learn keeps the originals in their order and appends what it draws
    drawn, _ = sampler.fit_resample(rows[:, None], labels[rows])
    return Draws(drawn[:, 0], np.arange(len(drawn)) >= len(rows))


def require_n_min(n_min: NMin) -> None:
    """Check the option ``n_min``.

    Raises:
        InputError: It is no number of images, no fraction and not ``max``.
    """
    _target(n_min, 1)


def _target(n_min: NMin, largest: int) -> int:
    if n_min is None:
        return 0
    if n_min == "max":
        return largest
    if isinstance(n_min, int) and not isinstance(n_min, bool) and n_min >= 2:
        return n_min
    if isinstance(n_min, float) and 0 < n_min <= 1:
        return round(n_min * largest)
    rule = "must be at least 2 images, a fraction of the largest class above 0 and up to 1.0, max or null"
    raise invalid("--data.n_min", rule, n_min)
