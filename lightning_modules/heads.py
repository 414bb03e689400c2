"""Heads: layers that turn the features (B, F) of a backbone into logits (B, C)."""

from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import InputError, invalid

HeadName = Literal["linear", "dense_dense", "normalised"]
WIDTH = 256  # of the hidden layer of "dense_dense"
SCALE = 30.0  # of the cosines of "normalised"


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


def head_options(head: HeadName, width: int | None, scale: float | None, loss_scale: float | None) -> dict[str, Any]:
    """Return the head with the options that it uses: ``head``, ``head_width`` and ``head_scale``.

    Args:
        head: value of the option.
        width: width of the hidden layer; None: 256.
        scale: factor of the cosines; None: 30.
        loss_scale: scale of the normalised head that the loss needs; None if it needs none.

    Raises:
        InputError: If an option is out of range, or the head or the loss would ignore it.
    """
    problem = ""
    if loss_scale is not None and head == "dense_dense":
        problem = "--model.head is dense_dense, but the loss needs a normalised head"
    elif width is not None and head != "dense_dense":
        problem = f"--model.head_width is {width}, which only --model.head dense_dense uses, but the head is {head}"
    elif scale is not None and loss_scale is not None:
        problem = f"--model.head_scale is {scale}, but the loss has its own, {loss_scale}"
    elif scale is not None and head != "normalised":
        problem = f"--model.head_scale is {scale}, which only --model.head normalised uses, but the head is {head}"
    if problem:
        msg = f"{problem}; leave the option out, or choose another head or loss"
        raise InputError(msg)
    if width is not None and width < 1:
        raise invalid("--model.head_width", "must be at least 1", width)
    if scale is not None and not 0 < scale < inf:
        raise invalid("--model.head_scale", "must be above 0 and finite", scale)
    if loss_scale is not None:
        return {"head": "normalised", "head_width": None, "head_scale": loss_scale}
    return {
        "head": head,
        "head_width": (width or WIDTH) if head == "dense_dense" else None,
        "head_scale": (scale or SCALE) if head == "normalised" else None,
    }


def used_alone(plain: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's settings without the options of other heads, which older checkpoints also contain."""
    unused = {"linear": ("head_width", "head_scale"), "dense_dense": ("head_scale",), "normalised": ("head_width",)}
    return plain | dict.fromkeys(unused[plain["head"]])


def build_head(
    name: HeadName,
    features: int,
    classes: int,
    *,
    dropout: float = 0.0,
    width: int | None = None,
    scale: float | None = None,
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
        hidden = width or WIDTH
        return nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
    last = NormalisedHead(features, classes, scale or SCALE) if name == "normalised" else nn.Linear(features, classes)
    return nn.Sequential(nn.Dropout(dropout), last)
