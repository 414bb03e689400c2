"""Hashes of the images that a model was trained and selected on, as a checkpoint stores them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

DIGITS = 16  # of a content hash: 64 bits; in about 1 of 10 ** 7 sets of a million images two collide by chance


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
        if not isinstance(state, dict):
            return None
        parts = [state.get(name) for name in ("trained", "selected")]
        if not all(isinstance(part, torch.Tensor) and part.dtype == torch.int64 for part in parts):
            return None
        return cls(*(np.unique(part.numpy()) for part in parts if part is not None))

    def state(self) -> dict[str, Any]:
        """Return plain tensors, which ``torch.load`` reads with ``weights_only=True``."""
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
