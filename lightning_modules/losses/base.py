"""What every loss answers, whichever it is."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from datamodules.errors import InputError, invalid


class EmotionLoss(nn.Module, ABC):
    """What every loss answers: ``rows`` gives numerator and denominator, ``forward`` their quotient over the batch.

    Notes:
        Tensors that depend on the class counts are plain attributes, neither parameters nor buffers: they are known
        only once the data is, and belong in no checkpoint and in no weight average.
    """

    needs_normalised_head = False
    needs_counts = False
    takes_soft_targets = True
    scale = 1.0  # of the normalised head, where one is needed

    def __init__(self) -> None:
        super().__init__()
        self.counts: Tensor | None = None

    def configure(self, class_counts: Tensor) -> None:
        """Tell the loss how many rows of each class, copies included, one epoch of training has: (C,)."""
        counts = torch.as_tensor(class_counts).float()
        if self.needs_counts and (counts <= 0).any():
            empty = torch.nonzero(counts <= 0)[:, 0].tolist()
            msg = f"loss {type(self).__name__} needs rows of every class, classes number {empty} have none in training"
            raise InputError(msg)
        self.counts = counts

    def known_counts(self, device: torch.device) -> Tensor:
        """Return the class counts on ``device`` and keep them there, so that no step copies them again."""
        if self.counts is None:
            msg = f"loss {type(self).__name__} needs the class counts of the training rows: call configure(counts)"
            raise InputError(msg)
        if self.counts.device != device:
            self.counts = self.counts.to(device)
        return self.counts

    @abstractmethod
    def rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B,) losses and (B,) weights; the loss of any set of rows is sum over sum."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of ``logits`` (B, C) and ``target``, int64 (B,) or float (B, C)."""
        losses, weights = self.checked_rows(logits, target)
        return losses.sum() / weights.sum()

    def checked_rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Like ``rows``, in float32 whatever the precision of the run, refusing soft targets where they make no sense.

        Raises:
            InputError: If the target is soft and the loss is defined for classes only.
        """
        if target.is_floating_point():
            if not self.takes_soft_targets:
                raise InputError(soft_targets_refused(self))
            target = target.float()
        return self.rows(logits.float(), target)


def soft_targets_refused(loss: EmotionLoss) -> str:
    """Return the sentence for a loss that was given probabilities in place of classes."""
    return (
        f"loss {type(loss).__name__} is defined for one class an image, it cannot take soft targets: "
        "switch off mixup, cutmix and soft votes, or choose CrossEntropy, Focal, LogitAdjustment or BalancedSoftmax"
    )


def per_class(values: Tensor, name: str, logits: Tensor) -> Tensor:
    """Return ``values`` on the device of ``logits`` (B, C), refusing a list that is not C long."""
    if len(values) != logits.shape[1]:
        raise invalid(f"--model.loss.{name}", f"needs one value for each of {logits.shape[1]} classes", len(values))
    return values if values.device == logits.device else values.to(logits.device)
