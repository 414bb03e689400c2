"""What turns a backbone's features (B, F) into one logit a class (B, C)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadName = Literal["linear", "dense_dense", "normalised"]


class NormalisedHead(nn.Module):
    """Scaled cosine between features and one direction a class: ``scale * cos`` in [-scale, scale]."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) of features (B, F)."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


def build_head(
    name: HeadName, features: int, classes: int, *, dropout: float = 0.0, width: int = 256, scale: float = 30.0
) -> nn.Module:
    """Build a head.

    Args:
        name: "linear"; "dense_dense", a hidden layer with ReLU before the output; or "normalised", scaled cosines.
        features: F, what the backbone gives.
        classes: C.
        dropout: before the last layer.
        width: of the hidden layer of "dense_dense".
        scale: of "normalised".
    """
    if name == "dense_dense":
        return nn.Sequential(
            nn.Linear(features, width), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(width, classes)
        )
    last = NormalisedHead(features, classes, scale) if name == "normalised" else nn.Linear(features, classes)
    return nn.Sequential(nn.Dropout(dropout), last)
