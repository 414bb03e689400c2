"""The network of the detector: features of any timm backbone, a pyramid of three levels, one head for all of them."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import InputError
from lightning_modules.backbones import DataConfig, build_backbone
from lightning_modules.detector.assignment import STRIDES
from lightning_modules.detector.parts import ReceptiveField, Seam, Tower, conv

RARE = 0.01  # score of an untrained cell: nearly every cell has no face
START = 2.0  # distances of an untrained cell, in strides


def build_features(name: str, weights: str, size: int) -> tuple[nn.Module, DataConfig]:
    """Build a backbone whose forward gives a list of feature maps.

    Args:
        name: of a timm model.
        weights: "embedded", "hub", "none" or a file, as for a classifier.
        size: side of the pictures; only transformers need to know it.

    Raises:
        InputError: the model is unknown, gives no feature maps, or its weights cannot be had.
    """
    whole, _, config = build_backbone(name, weights)  # says what is wrong with name or weights, and brings the weights
    try:
        features = _features(name, size)
    except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError, KeyError) as error:
        msg = (
            f"backbone {name!r} gives no feature maps ({str(error).splitlines()[0]}): choose another, such as resnet18"
        )
        raise InputError(msg) from error
    if weights != "none":
        _carry_over(whole, features, name)
    return features, config


def _features(name: str, size: int) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, pretrained=False, img_size=size)
    except TypeError:  # convolutions take any size
        return timm.create_model(name, features_only=True, pretrained=False)


def _carry_over(whole: nn.Module, features: nn.Module, name: str) -> None:
    """Copy the weights; taking features, timm turns some dots in the names into underscores."""
    known = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    state = {}
    for key, value in features.state_dict().items():
        flat = key.replace(".", "_").removeprefix("model_")
        if flat not in known or known[flat].shape != value.shape:
            msg = f"weights of {name!r} do not fit it as a detector's backbone ({key}): choose another, or weights none"
            raise InputError(msg)
        state[key] = known[flat]
    features.load_state_dict(state)


class FaceNet(nn.Module):
    """Normalised pictures (B, 3, S, S) -> raw output (B, N, 5): distances >= 0 in strides, and the score's logit.

    The cells are those of `datamodules.faces.boxes.grid`: level by level, row by row.
    """

    def __init__(self, features: nn.Module, width: int, *, enhance: bool, seam: bool) -> None:
        """Build pyramid and head.

        Args:
            features: gives feature maps; has timm's ``feature_info``.
            width: channels of pyramid and head.
            enhance: widen the receptive field of every level by dilated branches.
            seam: attention for occluded faces before the head.
        """
        super().__init__()
        self.features = features
        about: Any = features  # timm's attributes are not typed
        reductions, channels = about.feature_info.reduction(), about.feature_info.channels()
        self.chosen = [_nearest(reductions, stride) for stride in STRIDES]
        self.resized = [reductions[at] != stride for at, stride in zip(self.chosen, STRIDES, strict=True)]
        self.channels_last = str(getattr(about, "output_fmt", "NCHW")).endswith("NHWC")
        self.lateral = nn.ModuleList(nn.Conv2d(channels[at], width, 1) for at in self.chosen)
        self.smooth = nn.ModuleList(conv(width, width) for _ in STRIDES)
        self.enhance = nn.ModuleList(ReceptiveField(width) if enhance else nn.Identity() for _ in STRIDES)
        self.seam = nn.ModuleList(Seam(width) if seam else nn.Identity() for _ in STRIDES)
        self.box_tower, self.score_tower = Tower(width, len(STRIDES)), Tower(width, len(STRIDES))
        self.box, self.score = nn.Conv2d(width, 4, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))  # one head for faces that differ in size by level
        for layer, bias in ((self.box, START), (self.score, -float(torch.tensor(1 / RARE - 1).log()))):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type] # there is a bias

    def forward(self, image: Tensor) -> Tensor:
        """Return the raw output (B, N, 5)."""
        return torch.cat([self._head(level, x) for level, x in enumerate(self.pyramid(image))], 1)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Return a feature map (B, width, S / stride, S / stride) of each level, the finest first."""
        maps = self.features(image)
        levels = []
        for at, stride, resized, lateral in zip(self.chosen, STRIDES, self.resized, self.lateral, strict=True):
            x = maps[at].permute(0, 3, 1, 2) if self.channels_last else maps[at]
            x = lateral(x)
            if resized:  # a transformer has one stride for all of its maps
                x = F.interpolate(x, size=(image.shape[-2] // stride, image.shape[-1] // stride), mode="nearest")
            levels.append(x)
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], scale_factor=2.0, mode="nearest")
        parts = zip(levels, self.smooth, self.enhance, self.seam, strict=True)
        return [seam(enhance(smooth(x))) for x, smooth, enhance, seam in parts]

    def _head(self, level: int, x: Tensor) -> Tensor:
        distances = F.softplus(self.scale[level] * self.box(self.box_tower(x, level)))
        raw = torch.cat([distances, self.score(self.score_tower(x, level))], 1)  # (B, 5, rows, columns)
        return raw.flatten(2).transpose(1, 2)


def _nearest(reductions: list[int], stride: int) -> int:
    """Return the deepest map whose reduction is nearest to a stride."""
    distance = [abs(reduction - stride) for reduction in reductions]
    return max(at for at, value in enumerate(distance) if value == min(distance))
