"""Over-sampling of rare classes or subgroups, and a batch sampler and loaders that can resume within an epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Sampler

from datamodules.errors import InputError, invalid
from datamodules.processes import give_memory_back

NMin = int | float | Literal["max"] | None


@dataclass(frozen=True, eq=False)
class Draws:
    """The rows of one epoch, originals first; a row may be repeated, and is marked as a copy after the first time.

    If copies were made before the split (`datamodules.splits.protocol`), a copy may be here without its original.
    """

    rows: np.ndarray  # (M,) int64, rows of the manifest
    is_copy: np.ndarray  # (M,) bool

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self, labels: np.ndarray, n_classes: int) -> np.ndarray:
        """Return (n_classes,) int64: how often each class is seen in an epoch. ``labels`` are the manifest's."""
        return np.bincount(labels[self.rows], minlength=n_classes).astype(np.int64)


def each_once(rows: np.ndarray) -> Draws:
    """Return each row once."""
    return Draws(np.asarray(rows, dtype=np.int64), np.zeros(len(rows), dtype=bool))


def doubled(rows: np.ndarray) -> Draws:
    """Return each row once as original and once as copy, to test a single transform on the whole set."""
    rows = np.asarray(rows, dtype=np.int64)
    return Draws(np.concatenate([rows, rows]), np.arange(2 * len(rows)) >= len(rows))


def oversample(labels: np.ndarray, rows: np.ndarray, n_min: NMin, seed: int) -> Draws:
    """Return the rows with rows of small classes repeated at random, until every class has at least ``n_min``.

    Works on row numbers, before any image is opened, so a copy can only be of a row in ``rows``. A class without a
    row in ``rows`` stays empty.

    Args:
        labels: (N,) int64, the manifest's; or the cells of label and group (`datamodules.splits.subgroups.cells`),
            which are over-sampled in the same way.
        rows: (M,) the rows of the training part.
        n_min: A number of images, 2 or more; a float in (0, 1], that part of the largest class; ``max``, its size;
            None, no over-sampling. The integer 1 is an error, since 1.0 or None must be meant.
        seed: Equal seeds draw equal rows.

    Raises:
        InputError: ``n_min`` is none of these.
    """
    rows = np.asarray(rows, dtype=np.int64)
    present, counts = np.unique(labels[rows], return_counts=True)
    target = _target(n_min, int(counts.max()) if len(counts) else 0)
    wanted = {int(label): target for label, count in zip(present, counts, strict=True) if count < target}
    if not wanted:
        return each_once(rows)
    from imblearn.over_sampling import RandomOverSampler  # a second of imports, which predict does without

    sampler = RandomOverSampler(sampling_strategy=wanted, random_state=seed)
    # imbalanced-learn keeps the originals in their order and appends what it draws
    drawn, _ = sampler.fit_resample(rows[:, None], labels[rows])
    return Draws(drawn[:, 0], np.arange(len(drawn)) >= len(rows))


def require_n_min(n_min: NMin) -> None:
    """Check the option ``n_min``.

    Raises:
        InputError: It is neither a number of images, nor a fraction, nor ``max``.
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


SHUFFLE, AUGMENT = 0, 1  # two streams from one seed


class Batch(NamedTuple):
    """A batch as the sampler gives it to the dataset: positions in the list of draws, and the transforms' seed."""

    positions: np.ndarray  # (B,) int64
    seed: tuple[int, ...]


class EpochBatchSampler(Sampler[Batch]):
    """Batches of one epoch for one rank.

    Notes:
        The batches of all ranks together are those of a single process with the same ``batch_size``: rank r takes
        ``batch[r::world_size]`` of every batch. No draw is lost and none is repeated. If the batch size is not a
        multiple of the ranks, some have one row more, which weighs a little less in the averaged gradient.

        A last batch with fewer than two rows per rank is joined to the one before, since batch normalisation needs two.

        The seed of a batch depends on seed, epoch, batch and rank, and not on the process that loads it.
    """

    def __init__(
        self,
        draws: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        fixed: bool = False,
    ) -> None:
        """Create the sampler of ``draws`` positions per epoch, ``batch_size`` per batch over all ranks.

        With ``fixed`` every epoch has the order of the first one, so that its first batches are always the same.

        Raises:
            InputError: ``batch_size`` or ``draws`` gives a rank fewer than two rows.
        """
        if batch_size < 2 * world_size:
            raise invalid("--data.batch_size", f"must be at least {2 * world_size}, two per process", batch_size)
        if draws < 2 * world_size:
            msg = f"The training part must have at least {2 * world_size} rows, two per rank, got {draws}."
            raise InputError(msg)
        self.draws, self.batch_size, self.seed = draws, batch_size, seed
        self.rank, self.world_size, self.fixed = rank, world_size, fixed
        self.epoch = 0
        self.started = 0  # the batch at which a resumed epoch starts
        whole, rest = divmod(draws, batch_size)
        self._batches = max(1, whole + (rest >= 2 * world_size))

    @property
    def sampler(self) -> "EpochBatchSampler":
        """The sampler itself: Lightning calls ``set_epoch`` on this attribute."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is iterated next; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.started = epoch, 0

    def order(self) -> np.ndarray:
        """Return (M,) int64, the order of the draws in this epoch, equal on every rank."""
        return np.random.default_rng([self.seed, SHUFFLE, 0 if self.fixed else self.epoch]).permutation(self.draws)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        order, epoch, first = self.order(), self.epoch, self.started
        return (self._batch(order, epoch, number) for number in range(first, self._batches))

    def _batch(self, order: np.ndarray, epoch: int, number: int) -> Batch:
        last = number == self._batches - 1
        whole = order[number * self.batch_size : None if last else (number + 1) * self.batch_size]
        return Batch(whole[self.rank :: self.world_size], (self.seed, AUGMENT, epoch, number, self.rank))

    def state_dict(self) -> dict[str, int]:
        """Return epoch and first batch of the iteration; :class:`ResumableLoader` counts the batches since."""
        return {"epoch": self.epoch, "batch": self.started}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at ``batch`` of ``epoch``, or with the next epoch if that was its last batch."""
        self.epoch, self.started = int(state["epoch"]), int(state["batch"])
        if self.started >= self._batches:
            self.epoch, self.started = self.epoch + 1, 0


class PlainLoader(DataLoader):
    """A DataLoader that raises a worker's `InputError` without the worker's traceback, which torch's own adds."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # looks at what the base class yields
        if self.num_workers and self._iterator is None:  # its processes are about to be made
            give_memory_back()
        return _raising(super().__iter__())  # created now, from the present state of the sampler


def _raising(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, InputError):
            raise batch
        yield batch


class ResumableLoader(PlainLoader):
    """A DataLoader that Lightning saves and restores at the batch that training has reached, not the one prefetched.

    ``trained`` returns how many batches of the current epoch have been trained on. The number of loaded batches is not
    enough: if training stops inside a step, the batch of that step must be repeated.
    """

    def __init__(self, *args: Any, trained: Callable[[], int] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._trained = trained
        self._handed_out = (0, 0)  # epoch, batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # counts what the base class yields
        # A generator, so nothing is fixed before the first batch is asked for: resuming between two epochs, Lightning
        # makes the iterator first and sets the epoch after.
        sampler = self._epoch_sampler()
        epoch, done = sampler.epoch, sampler.started
        self._handed_out = (epoch, done)
        batches = super().__iter__()
        sampler.started = 0  # if this epoch is iterated a second time, then from its start
        for batch in batches:
            done += 1
            self._handed_out = (epoch, done)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its finished batches."""
        sampler = self._epoch_sampler()
        epoch, done = self._handed_out
        if epoch != sampler.epoch:  # between two epochs
            return {"epoch": sampler.epoch, "batch": 0}
        return {"epoch": epoch, "batch": done if self._trained is None else min(done, self._trained())}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where :meth:`state_dict` was called."""
        sampler = self._epoch_sampler()
        sampler.load_state_dict(state)
        self._handed_out = (sampler.epoch, sampler.started)

    def _epoch_sampler(self) -> EpochBatchSampler:
        sampler = self.batch_sampler
        if not isinstance(sampler, EpochBatchSampler):
            msg = f"ResumableLoader needs batch_sampler to be an EpochBatchSampler, got {type(sampler).__name__}."
            raise TypeError(msg)
        return sampler
