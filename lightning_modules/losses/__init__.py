"""The losses a run may choose from: one pure function each, and a thin module that holds its options.

Every function returns a loss for each row, so that the mean over an epoch can be taken exactly, however the rows were
shared out over batches and processes. A target is an integer class (B,) or a probability for every class (B, C).
"""

from lightning_modules.losses.base import EmotionLoss, soft_targets_refused
from lightning_modules.losses.long_tailed import LDAM, BalancedSoftmax, LogitAdjustment
from lightning_modules.losses.usual import CrossEntropy, Focal

__all__ = [
    "LDAM",
    "BalancedSoftmax",
    "CrossEntropy",
    "EmotionLoss",
    "Focal",
    "LogitAdjustment",
    "soft_targets_refused",
]
