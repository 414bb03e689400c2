"""Deletion and insertion curves: how the probability moves as superpixels go, or come, in the order of a map.

Petsiuk et al. 2018. The random baseline takes the same superpixels in random orders, and all curves run over the share
of pixels that went, so that an order gains nothing by the sizes of its superpixels. To delete in one random order is to
insert in its reverse, so one set of random orders serves both curves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from datamodules.errors import InputError
from records.explain.explained import Explained, Probabilities
from records.explain.ordering import descending, numbered, segment_means
from records.explain.superpixels import FILLS, Fill, filled

_GRID = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Curves:
    """Curves of the images that were tried.

    Attributes:
        rows: (n,) their rows of the table.
        fill: What stands where a superpixel went.
        grid: (G,) share of pixels that went (deletion) or came (insertion).
        deletion: (n, G) probability of the explained class.
        insertion: (n, G).
        random: (n, G) deletion in random orders, averaged; read backwards it is insertion.
        deletion_area: (n,) area under the curve; low is good.
        insertion_area: (n,) high is good.
        random_area: (n, draws).
        passes: Pictures shown to the network.
    """

    rows: np.ndarray
    fill: Fill
    grid: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random: np.ndarray
    deletion_area: np.ndarray
    insertion_area: np.ndarray
    random_area: np.ndarray
    passes: int


def other_fill(explained: Explained, wanted: str = "auto") -> Fill:
    """Return a fill that the explainer did not use itself, so that the curves do not repeat its own question.

    Raises:
        InputError: The one wanted is unknown, or the explainer's own.
    """
    own = str(explained.options.get("fill", ""))
    if wanted == "auto":
        return "mean" if own == "blur" else "blur"
    if wanted == own:
        msg = f"fill: curves need another fill than the explainer's own, got {wanted} for both; take auto."
        raise InputError(msg)
    for fill in FILLS:
        if fill == wanted:
            return fill
    msg = f"fill: one of auto, {', '.join(FILLS)}, got {wanted!r}."
    raise InputError(msg)


def curves(
    explained: Explained,
    probabilities: Probabilities,
    *,
    fill: Fill = "blur",
    steps: int = 20,
    draws: int = 5,
    batch: int = 256,
    images: int = 200,
    seed: int = 0,
) -> Curves:
    """Delete and insert superpixels in the order of the maps and in random orders.

    Args:
        explained: The images and their maps.
        probabilities: The networks.
        fill: What stands where a superpixel went.
        steps: In how many steps all superpixels go.
        draws: Random orders an image.
        batch: Pictures shown at once.
        images: At most so many are tried, drawn at random.
        seed: Of that draw, and of the random orders.
    """
    for name, value in (("steps", steps), ("draws", draws), ("batch", batch), ("images", images)):
        if value < 1:
            msg = f"{name}: must be at least 1, got {value}."
            raise InputError(msg)
    rows = np.arange(len(explained))
    if len(rows) > images:
        rows = np.sort(np.random.default_rng(seed).choice(rows, images, replace=False))
    folds = explained.table["fold"].to_numpy()[rows] if "fold" in explained.table else np.zeros(len(rows))
    jobs = [_Job(explained, int(row), fill, steps, draws, seed) for row in rows[np.argsort(folds, kind="stable")]]
    for job, answer in _answered(jobs, probabilities, batch):
        job.read(answer)
    jobs.sort(key=lambda job: job.row)
    return Curves(
        rows=rows,
        fill=fill,
        grid=_GRID,
        deletion=np.array([job.deletion for job in jobs]),
        insertion=np.array([job.insertion for job in jobs]),
        random=np.array([job.random for job in jobs]),
        deletion_area=np.array([job.deletion_area for job in jobs]),
        insertion_area=np.array([job.insertion_area for job in jobs]),
        random_area=np.array([job.random_area for job in jobs]),
        passes=sum(job.size for job in jobs),
    )


class _Job:
    """One image: the pictures to show, and the curves that the answers make."""

    def __init__(self, explained: Explained, row: int, fill: Fill, steps: int, draws: int, seed: int) -> None:
        self.row, self.target = row, int(explained.target[row])
        self._image = explained.images[row]
        self._segments = numbered(explained.segments[row])
        self._base = filled(self._image, self._segments, fill)
        generator = np.random.default_rng([seed, row])
        order = descending(segment_means(explained.maps[row], self._segments), generator)
        self._orders = [order, order[::-1], *(generator.permutation(len(order)) for _ in range(draws))]
        self._cuts = np.unique(np.linspace(0, len(order), steps + 1).round().astype(int))
        self._sizes = np.bincount(self._segments.ravel())
        self.size = 2 + len(self._orders) * (len(self._cuts) - 2)
        self.deletion = self.insertion = self.random = np.zeros(len(_GRID))
        self.deletion_area = self.insertion_area = 0.0
        self.random_area = np.zeros(draws)

    def pictures(self) -> np.ndarray:
        """Return the whole picture, the empty one, then those of each order between them."""
        gone = [np.zeros(self._segments.shape, bool), np.ones(self._segments.shape, bool)]
        for order in self._orders:
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            gone += [rank[self._segments] < cut for cut in self._cuts[1:-1]]
        return np.where(np.stack(gone)[..., None], self._base, self._image)

    def read(self, answer: np.ndarray) -> None:
        """Take the probabilities (size, K) of the pictures."""
        said = answer[:, self.target].astype(np.float64)
        between = said[2:].reshape(len(self._orders), -1)
        ends = np.broadcast_to(said[:2], (len(self._orders), 2))
        heights = np.concatenate([ends[:, :1], between, ends[:, 1:]], axis=1)
        share = np.stack([np.append(0, self._sizes[order].cumsum())[self._cuts] for order in self._orders])
        share = share / self._sizes.sum()
        areas = np.trapezoid(heights, share, axis=1)
        drawn = np.stack([np.interp(_GRID, x, y) for x, y in zip(share, heights, strict=True)])
        self.deletion_area, self.insertion_area, self.random_area = float(areas[0]), float(areas[1]), areas[2:]
        # the least important go first: what is left came last, so backwards it is insertion
        self.deletion, self.insertion, self.random = drawn[0], drawn[1][::-1], drawn[2:].mean(axis=0)


def _answered(jobs: list[_Job], probabilities: Probabilities, batch: int) -> Iterator[tuple[_Job, np.ndarray]]:
    """Show the pictures of all jobs in batches; a batch may hold several images."""
    waiting: list[tuple[_Job, np.ndarray]] = []
    for job in tqdm(jobs, desc="deleting and inserting", unit="image", disable=None):
        waiting.append((job, job.pictures()))
        if sum(len(pictures) for _, pictures in waiting) >= batch or job is jobs[-1]:
            shown = np.concatenate([pictures for _, pictures in waiting])
            rows = np.concatenate([np.full(len(pictures), one.row, np.int64) for one, pictures in waiting])
            parts = [slice(start, start + batch) for start in range(0, len(shown), batch)]
            answer = np.concatenate([probabilities(shown[part], rows[part]) for part in parts])
            start = 0
            for one, pictures in waiting:
                yield one, answer[start : start + len(pictures)]
                start += len(pictures)
            waiting = []
