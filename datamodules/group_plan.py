"""What one run does by groups: which it learns from, what of the others it rehearses, between which it balances."""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from datamodules.division import Division
from datamodules.errors import InputError, invalid
from datamodules.groups import cells, condition_mask, opposite
from datamodules.manifest import Manifest

_REHEARSAL_STREAM = 15_485_863  # keeps the draw of what is rehearsed apart from other draws of the same seed


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """The options that say so; `EmotionDataModule` documents them.

    Raises:
        InputError: Options that do not go together.
    """

    balance_by: str | None = None
    train_on: str | None = None
    rehearsal: float = 0.0

    def check(self, n_min: object, leak: str) -> None:
        """Refuse what would do nothing, and what the leaky protocols do not know."""
        problem = ""
        if self.balance_by is not None and n_min is None:
            problem = (
                f"--data.balance_by {self.balance_by}: without --data.n_min nothing is over-sampled; give it as well"
            )
        elif leak == "oversample_first" and (self.balance_by or self.train_on):
            problem = (
                "--data.leak oversample_first copies classes of the whole set; "
                "leave --data.balance_by and --data.train_on out"
            )
        elif not 0 <= self.rehearsal < 1:
            raise invalid("--data.rehearsal", "must be a share of at least 0 and below 1", self.rehearsal)
        elif self.rehearsal and self.train_on is None:
            problem = (
                f"--data.rehearsal {self.rehearsal}: without --data.train_on no image is left out that could be added"
            )
        if problem:
            raise InputError(problem)

    def balanced(self, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
        """Return what is filled up to ``n_min``, (N,) int64: labels, or cells of label and group; tell empty ones."""
        if self.balance_by is None:
            return manifest.labels
        found = cells(manifest, self.balance_by, "--data.balance_by")
        lost = np.setdiff1d(np.arange(len(found.names)), found.of[rows])
        empty = [*(found.names[i] for i in lost.tolist()), *found.empty]
        if empty:
            shown = "; ".join(empty[:8]) + (f" and {len(empty) - 8} more" if len(empty) > 8 else "")
            warnings.warn(
                f"balance_by {self.balance_by}: no training image is of {shown}. These cells stay empty.", stacklevel=3
            )
        return found.of

    def counts(self, manifest: Manifest) -> np.ndarray:
        """Return how many images may be learnt from, int64: of each class, or of each cell that is balanced."""
        rows = self.chosen(manifest, np.arange(len(manifest)))
        of = manifest.labels if self.balance_by is None else cells(manifest, self.balance_by, "--data.balance_by").of
        return np.bincount(of[rows], minlength=1 + int(of.max())).astype(np.int64)

    def chosen(self, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
        """Return those of the rows that may be learnt from or selected on."""
        if self.train_on is None:
            return rows
        return rows[condition_mask(manifest.table, self.train_on, "--data.train_on")[rows]]

    def restrict(self, division: Division, manifest: Manifest, seed: int) -> Division:
        """Return the division whose training and inner parts hold the chosen group alone, and what is rehearsed.

        The outer part stays as it is, so that runs on different groups are reported on the same images.

        Raises:
            InputError: A class of the group is in neither, or there is less to rehearse than was asked for.
        """
        if self.train_on is None:
            return division
        fold = division.fold
        train, inner = self.chosen(manifest, fold.train), self.chosen(manifest, fold.inner)
        group = np.flatnonzero(condition_mask(manifest.table, self.train_on, "--data.train_on"))
        wanted = np.unique(manifest.labels[group])
        for name, rows in (("training", train), ("inner", inner)):
            lacking = np.setdiff1d(wanted, manifest.labels[rows])
            if len(lacking) and (name == "training" or len(fold.inner)):
                msg = (
                    f"--data.train_on {self.train_on}: the {name} part ({len(rows)} rows of the group) has no row of "
                    f"class {manifest.classes[lacking[0]]}; divide the group evenly with --data.stratify_by, set more "
                    "aside with --data.inner_fraction, or use more images"
                )
                raise InputError(msg)
        rehearsed = self._rehearsed(fold.train, len(train), manifest, seed)
        return replace(division, fold=replace(fold, train=np.sort(np.concatenate([train, rehearsed])), inner=inner))

    def _rehearsed(self, rows: np.ndarray, learnt: int, manifest: Manifest, seed: int) -> np.ndarray:
        """Draw rows of the rest of the training part, so that they are the wanted share of what is learnt from."""
        count = round(learnt * self.rehearsal / (1 - self.rehearsal))
        if not count:
            return np.empty(0, np.int64)
        rest = rows[condition_mask(manifest.table, opposite(self.train_on or ""), "--data.train_on")[rows]]
        if count > len(rest):
            msg = (
                f"--data.rehearsal {self.rehearsal} beside {learnt} rows of {self.train_on} needs {count} other "
                f"training rows, there are {len(rest)}; at most {len(rest) / (learnt + len(rest)):.2f} can be rehearsed"
            )
            raise InputError(msg)
        return np.random.default_rng([seed, _REHEARSAL_STREAM]).choice(rest, count, replace=False)
