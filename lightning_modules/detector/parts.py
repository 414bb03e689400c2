"""The two optional parts of the detector after YOLO-FaceV2 (arXiv 2208.02019): dilated branches, and SEAM attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return convolution, batch normalisation and activation; the size stays."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class ReceptiveField(nn.Module):
    """Receptive-field enhancement: x + mean over d of act(norm_d(conv(x, dilation d))), d = 1, 2, 3.

    The branches share one kernel (as in TridentNet, arXiv 1901.01892), so that a face is looked at in three sizes with
    the weights of one. Shape (B, C, H, W) stays.
    """

    dilations = (1, 2, 3)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, width, 3, 3))
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Return the enhanced map."""
        branches = [
            F.silu(norm(F.conv2d(x, self.kernel, padding=d, dilation=d)))
            for d, norm in zip(self.dilations, self.norms, strict=True)
        ]
        return x + sum(branches) / len(branches)


class Seam(nn.Module):
    """Separated and enhancement attention: channels that an occluded face lacks are made up for by the others.

    Depth-wise convolution with a residual path, point-wise convolution, then the mean over the picture through two
    layers gives a weight exp(s), s in (0, 1), of each channel: between 1 and e, so that nothing is switched off.
    Shape (B, C, H, W) stays.
    """

    def __init__(self, width: int, shrink: int = 4) -> None:
        super().__init__()
        self.depth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU(), nn.BatchNorm2d(width)
        )
        self.point = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))
        self.weigh = nn.Sequential(
            nn.Linear(width, max(1, width // shrink), bias=False),
            nn.ReLU(),
            nn.Linear(max(1, width // shrink), width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with its channels weighted."""
        mixed = self.point(self.depth(x) + x)
        weight = torch.exp(self.weigh(mixed.mean((2, 3))))  # (B, C)
        return x * weight[:, :, None, None]
