"""Protocol of a run: how rows are split, deliberate leaks and their record, and the images a model has seen.

The honest protocol keeps duplicates and people in one part, over-samples only the training part, and selects on a val
part that is not reported. Many published numbers come from protocols that do not. These are available too, to measure
their effect, and every table of such a run says so.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from datamodules.errors import InputError, invalid
from datamodules.manifest import Manifest
from datamodules.sampling import Draws, NMin, oversample
from datamodules.splits.folds import CellNames, Fold, divide, given_split, hold_out, k_fold, verify
from datamodules.splits.subgroups import cells, condition_mask, opposite

Split = Literal["folds", "holdout", "given"]
Outer = Literal["auto", "test", "validation"]
Leak = Literal["error", "drop_twins", "allow", "duplicates", "oversample_first"]
Protocol = Literal["honest", "paper"]

HOLDOUT = 0.2
INNER = 0.1
HONEST = "honest"
DIGITS = 16  # of a content hash: 64 bits; in about 1 of 10 ** 7 sets of a million images two collide by chance
_COPIES_STREAM = 104_729  # random stream of the division of copies, separate from that of their originals


@dataclass(frozen=True, eq=False)
class Division:
    """Division of the rows of one run.

    Attributes:
        fold: The train, val and test part, each row once.
        copies: Copies that were made before the split, by the part they were assigned to; None if there are none.
        record: Counts of leaks and how they were treated; empty for an honest split that was made here.
        flags: Differences from the honest protocol; empty if there are none.

    Notes:
        Only originals are evaluated: copies that were assigned to the val or test part are not used. So every row is
        predicted once in a cross-validation, however many of its copies were trained on.
    """

    fold: Fold
    copies: Fold | None
    record: dict[str, Any]
    flags: tuple[str, ...]

    @property
    def protocol(self) -> str:
        """Name of the protocol in tables and pages."""
        if not self.flags:
            return HONEST
        return f"{', '.join(self.flags)} (leaky: numbers are not comparable with honest ones)"

    def part(self, name: Literal["train", "val", "test"]) -> Draws:
        """Return the rows of a part, and the copies that were assigned to it."""
        rows = getattr(self.fold, name)
        copies = getattr(self.copies, name) if self.copies else np.empty(0, np.int64)
        return Draws(np.concatenate([rows, copies]), np.arange(len(rows) + len(copies)) >= len(rows))


@dataclass(frozen=True, kw_only=True)
class DivisionPlan:
    """Options of the split, which `EmotionDataModule` documents.

    Raises:
        InputError: An option that this kind of split does not use, or no part to select on.
    """

    split: Split = "folds"
    folds: int = 5
    fold: int = 0
    fold_seed: int = 0
    holdout_fraction: float = HOLDOUT
    outer: Outer = "auto"
    leak: Leak = "error"
    protocol: Protocol = "honest"
    inner_fraction: float = INNER
    inner_folds: int | None = None
    inner_fold: int = 0
    n_min: NMin = None
    stratify_by: str | None = None

    def __post_init__(self) -> None:
        self._check_inner()
        unused = ""
        given = self.leak in ("drop_twins", "allow")
        if self.split != "folds" and self.fold != 0:
            unused = f"--data.fold is {self.fold}, which only --data.split folds uses"
        elif self.split != "holdout" and self.holdout_fraction != HOLDOUT:
            unused = f"--data.holdout_fraction is {self.holdout_fraction}, which only --data.split holdout uses"
        elif self.split != "given" and self.outer != "auto":
            unused = f"--data.outer is {self.outer}, which only --data.split given uses"
        elif self.split != "given" and given:
            unused = f"--data.leak is {self.leak}, which only --data.split given uses"
        elif self.split == "given" and self._rows_alone:
            unused = f"--data.leak is {self.leak}, which only --data.split folds and holdout use"
        if unused:
            msg = f"{unused}, but the split is {self.split}; leave the option out, or choose that split"
            raise InputError(msg)
        if not 0 <= self.fold < self.folds:
            raise invalid(
                "--data.fold", f"must be in 0 to {self.folds - 1}, since there are {self.folds} folds", self.fold
            )
        if self.leak == "oversample_first" and self.n_min is None:
            raise invalid("--data.leak", "needs --data.n_min, without which nothing is over-sampled", self.leak)
        if self.protocol == "paper" and self.inner_fraction not in (0, INNER):
            rule = "must be 0 with --data.protocol paper, which selects on the reported part"
            raise invalid("--data.inner_fraction", rule, self.inner_fraction, "or choose --data.protocol honest")
        if self.protocol == "honest" and not 0 < self.inner_fraction < 1:
            rule = "must be above 0 and below 1, since the epoch is selected on this part"
            raise invalid("--data.inner_fraction", rule, self.inner_fraction, "0.05 is usual")

    def _check_inner(self) -> None:
        problem = ""
        if self.inner_folds is None:
            if self.inner_fold != 0:
                problem = f"--data.inner_fold is {self.inner_fold}, which needs --data.inner_folds as well"
        elif self.inner_folds < 2 or not 0 <= self.inner_fold < self.inner_folds:
            problem = "--data.inner_folds must be at least 2, and --data.inner_fold from 0 and below it; "
            problem += f"got {self.inner_folds} and {self.inner_fold}"
        elif self.protocol == "paper" or self._rows_alone:
            problem = (
                f"--data.inner_folds needs --data.protocol honest and no leak, got protocol {self.protocol} and leak "
            )
            problem += f"{self.leak}; leave --data.inner_folds out"
        if problem:
            raise InputError(problem)

    @property
    def _rows_alone(self) -> bool:
        return self.leak in ("duplicates", "oversample_first")

    @property
    def _inner(self) -> float:
        return 0.0 if self.protocol == "paper" else self.inner_fraction

    def divide(self, manifest: Manifest, clusters: np.ndarray) -> Division:
        """Return the rows of every part.

        Args:
            manifest: The images.
            clusters: (N,) int64; rows with equal numbers are near-duplicates or one person.

        Raises:
            InputError: A class has too few clusters, a given split leaks or is missing, nothing is over-sampled.
        """
        strata = self._strata(manifest)
        copies: Fold | None = None
        record: dict[str, Any] = {}
        flags: list[str] = []
        if self.split == "given":
            fold, record = self._given(manifest, clusters, strata)
            if self.leak == "allow" and record["leaking_clusters"]:
                flags.append("near-duplicates across the given split kept")
        else:
            fold = self._made(strata, np.arange(len(manifest)) if self._rows_alone else clusters)
        if self.inner_folds is not None:
            fold = self._rotated(fold, strata, clusters)
        if self.leak == "oversample_first":
            copies = self._spread(manifest, self._copies(manifest))
            flags.append("over-sampled before the division")
        if self._rows_alone:
            record = {"leak": self.leak, **_leaks(clusters, fold, copies)}
            flags.append("duplicates and people divided")
        if self.protocol == "paper":
            record = {**record, "selected_on": "reported fold"}
            flags.insert(0, "selected on the reported fold")
        return Division(fold, copies, record, tuple(flags))

    def _strata(self, manifest: Manifest) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the strata, class or cell of class and subgroup of each row, and their names."""
        if self.stratify_by is None:
            return manifest.labels, manifest.classes
        strata = cells(manifest, self.stratify_by, "--data.stratify_by")
        return strata.of, CellNames(strata.names)

    def _made(self, strata: tuple[np.ndarray, tuple[str, ...]], together: np.ndarray) -> Fold:
        labels, names = strata
        common: dict[str, Any] = {"seed": self.fold_seed, "inner_fraction": self._inner}
        if self.split == "folds":
            return k_fold(labels, together, names, folds=self.folds, **common)[self.fold]
        return hold_out(labels, together, names, fraction=self.holdout_fraction, **common)

    def _rotated(self, fold: Fold, strata: tuple[np.ndarray, tuple[str, ...]], clusters: np.ndarray) -> Fold:
        """Return the fold with one of ``inner_folds`` parts of all but its test rows as the val part.

        The parts of all inner folds together contain each of these rows once. The test part is that of a run without
        inner folds, so selection never uses rows that are reported on.
        """
        labels, names = strata
        rest = np.sort(np.concatenate([fold.train, fold.val]))
        parts = k_fold(
            labels[rest],
            clusters[rest],
            names,
            folds=self.inner_folds or 0,
            seed=self.fold_seed,
            inner_fraction=0,
            option="--data.inner_folds",
        )
        part = parts[self.inner_fold]
        made = Fold(fold.index, rest[part.train], rest[part.test], fold.test)
        absent = len(labels) - len(rest) - len(fold.test)
        leaky = self.split == "given" and self.leak == "allow"
        given = self.split == "given"
        verify(made, labels, clusters, len(names), allow_leak=leaky, absent=absent, classes=names, given=given)
        return made

    def _given(
        self, manifest: Manifest, clusters: np.ndarray, strata: tuple[np.ndarray, tuple[str, ...]]
    ) -> tuple[Fold, dict[str, Any]]:
        if "split" not in manifest.table:
            msg = (
                f"--split given: {manifest.name} has no train/ and test/ folders nor a split column; use --split "
                "holdout or --split folds."
            )
            raise InputError(msg)
        given = manifest.table["split"].to_numpy(object)
        outer = self.outer if self.outer != "auto" else "test" if (given == "test").any() else "validation"
        assert not self._rows_alone  # refused when the plan was made
        return given_split(
            strata[0],
            clusters,
            strata[1],
            given,
            outer=outer,
            leak=self.leak,  # type: ignore[arg-type] # by the line above
            seed=self.fold_seed,
            inner_fraction=self._inner,
        )

    def _copies(self, manifest: Manifest) -> np.ndarray:
        """Return the rows that over-sampling the whole manifest repeats; those of all folds and seeds are the same."""
        draws = oversample(manifest.labels, np.arange(len(manifest)), self.n_min, self.fold_seed)
        if not draws.is_copy.any():
            msg = (
                f"--data.leak oversample_first: no class has fewer images than --data.n_min {self.n_min!r} asks for, "
                "so nothing is over-sampled; raise it, or choose --data.leak duplicates"
            )
            raise InputError(msg)
        return draws.rows[draws.is_copy]

    def _spread(self, manifest: Manifest, copies: np.ndarray) -> Fold:
        """Assign every copy to a part as if it were a separate image; each part gets its share of each class."""
        if self.split == "folds":
            index, shares = self.fold, np.full(self.folds, 1 / self.folds)
        else:
            index, shares = 0, np.array([self.holdout_fraction, 1 - self.holdout_fraction])
        part = _shared_out(manifest, copies, shares, [self.fold_seed, _COPIES_STREAM])
        test, rest = copies[part == index], copies[part != index]
        shares = np.array([1 - self._inner, self._inner])
        part = _shared_out(manifest, rest, shares, [self.fold_seed, _COPIES_STREAM, index])
        return Fold(index, rest[part == 0], rest[part == 1], test)


def _shared_out(manifest: Manifest, rows: np.ndarray, shares: np.ndarray, seed: list[int]) -> np.ndarray:
    if not len(rows):
        return np.empty(0, np.int64)
    return divide(manifest.labels[rows], np.arange(len(rows)), manifest.classes, shares, seed, 0)


def _leaks(clusters: np.ndarray, fold: Fold, copies: Fold | None) -> dict[str, int]:
    """Count the rows and clusters of the test part that are also trained or selected on."""
    used = np.concatenate([fold.train, fold.val])
    if copies is not None:
        used = np.concatenate([used, copies.train, copies.val])
    shared = np.intersect1d(clusters[used], clusters[fold.test])
    counts = {
        "leaking_clusters": len(shared),
        "leaking_train_rows": int(np.isin(clusters[used], shared).sum()),
        "leaking_test_rows": int(np.isin(clusters[fold.test], shared).sum()),
    }
    if copies is not None:
        counts["test_rows_with_a_copy_in_training"] = int(np.isin(fold.test, copies.train).sum())
    return counts


_REHEARSAL_STREAM = 15_485_863  # random stream of rehearsal rows, separate from other streams of the same seed


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """Options of balancing and training by subgroup, which `EmotionDataModule` documents.

    Raises:
        InputError: Options that do not go together.
    """

    balance_by: str | None = None
    train_on: str | None = None
    rehearsal: float = 0.0

    def check(self, n_min: object, leak: str) -> None:
        """Raise for options without effect, and for options that the leaky protocols do not support."""
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
        """Return what is over-sampled to ``n_min``, (N,) int64: labels, or cells with subgroup; warn of empty ones."""
        if self.balance_by is None:
            return manifest.labels
        balanced = cells(manifest, self.balance_by, "--data.balance_by")
        missing = np.setdiff1d(np.arange(len(balanced.names)), balanced.of[rows])
        empty = [*(balanced.names[i] for i in missing.tolist()), *balanced.empty]
        if empty:
            shown = "; ".join(empty[:8]) + (f" and {len(empty) - 8} more" if len(empty) > 8 else "")
            warnings.warn(
                f"--data.balance_by {self.balance_by}: no training image is of {shown}; these cells stay empty",
                stacklevel=3,
            )
        return balanced.of

    def counts(self, manifest: Manifest) -> np.ndarray:
        """Return how many images may be trained on, int64: of each class, or of each cell that is balanced."""
        rows = self.chosen(manifest, np.arange(len(manifest)))
        of = manifest.labels if self.balance_by is None else cells(manifest, self.balance_by, "--data.balance_by").of
        return np.bincount(of[rows], minlength=1 + int(of.max())).astype(np.int64)

    def chosen(self, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
        """Return those of the rows that may be trained on or selected on."""
        if self.train_on is None:
            return rows
        return rows[condition_mask(manifest.table, self.train_on, "--data.train_on")[rows]]

    def restrict(self, division: Division, manifest: Manifest, seed: int) -> Division:
        """Return the division whose training and val parts have only the chosen subgroup, and the rehearsal rows.

        The test part does not change, so that runs on different subgroups are reported on the same images.

        Raises:
            InputError: A part has no row of a class, or there are too few rows for the rehearsal.
        """
        if self.train_on is None:
            return division
        fold = division.fold
        train, val = self.chosen(manifest, fold.train), self.chosen(manifest, fold.val)
        group = np.flatnonzero(condition_mask(manifest.table, self.train_on, "--data.train_on"))
        wanted = np.unique(manifest.labels[group])
        for name, rows in (("training", train), ("val", val)):
            lacking = np.setdiff1d(wanted, manifest.labels[rows])
            if len(lacking) and (name == "training" or len(fold.val)):
                msg = (
                    f"--data.train_on {self.train_on}: the {name} part ({len(rows)} rows of the group) has no row of "
                    f"class {manifest.classes[lacking[0]]}; divide the group evenly with --data.stratify_by, set more "
                    "aside with --data.inner_fraction, or use more images"
                )
                raise InputError(msg)
        rehearsed = self._rehearsed(fold.train, len(train), manifest, seed)
        return replace(division, fold=replace(fold, train=np.sort(np.concatenate([train, rehearsed])), val=val))

    def _rehearsed(self, rows: np.ndarray, trained: int, manifest: Manifest, seed: int) -> np.ndarray:
        """Draw rows of the rest of the training part, so that they are the given share of the rows trained on."""
        count = round(trained * self.rehearsal / (1 - self.rehearsal))
        if not count:
            return np.empty(0, np.int64)
        rest = rows[condition_mask(manifest.table, opposite(self.train_on or ""), "--data.train_on")[rows]]
        if count > len(rest):
            msg = (
                f"--data.rehearsal {self.rehearsal} with {trained} rows of {self.train_on} needs {count} other "
                f"training rows, there are {len(rest)}; at most {len(rest) / (trained + len(rest)):.2f}"
            )
            raise InputError(msg)
        return np.random.default_rng([seed, _REHEARSAL_STREAM]).choice(rest, count, replace=False)


def _nothing() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class SeenImages:
    """The images that a model has seen, in its own training and in that of the models it started from.

    Attributes:
        trained: int64, sorted, unique: the first 64 bits of the content hash of every image that was trained on.
        selected: The same of every image that epochs and checkpoints were selected on.
    """

    trained: np.ndarray = field(default_factory=_nothing)
    selected: np.ndarray = field(default_factory=_nothing)

    @classmethod
    def of(cls, trained: Iterable[str], selected: Iterable[str]) -> Self:
        """Return the record of images given by their content hashes."""
        return cls(np.unique(_numbers(trained)), np.unique(_numbers(selected)))

    @classmethod
    def read(cls, state: object) -> "SeenImages | None":
        """Restore the record that `state` returned; None for anything else, such as an older checkpoint's entry."""
        import torch  # plans of splits need none

        if not isinstance(state, dict):
            return None
        parts = [state.get(name) for name in ("trained", "selected")]
        if not all(isinstance(part, torch.Tensor) and part.dtype == torch.int64 for part in parts):
            return None
        return cls(*(np.unique(part.numpy()) for part in parts if part is not None))

    def state(self) -> dict[str, Any]:
        """Return plain tensors, which ``torch.load`` reads with ``weights_only=True``."""
        import torch

        return {"trained": torch.from_numpy(self.trained.copy()), "selected": torch.from_numpy(self.selected.copy())}

    def joined(self, other: "SeenImages") -> "SeenImages":
        """Return the images that either of two models has seen."""
        return SeenImages(np.union1d(self.trained, other.trained), np.union1d(self.selected, other.selected))

    def among(self, contents: Iterable[str], *, selected: bool = True) -> np.ndarray:
        """Return which of the images with these content hashes were seen, bool (N,).

        Args:
            contents: Content hashes.
            selected: Whether images that were only selected on count, too.
        """
        seen = np.union1d(self.trained, self.selected) if selected else self.trained
        return np.isin(_numbers(contents), seen)


def _numbers(contents: Iterable[str]) -> np.ndarray:
    """Return the first 64 bits of content hashes as int64."""
    return np.array([int(content[:DIGITS], 16) for content in contents], dtype=np.uint64).view(np.int64)
