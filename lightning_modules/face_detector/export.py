"""Export of a trained face detector as ONNX, which `datamodules.faces` runs without torch."""

import copy
import json
from pathlib import Path

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from datamodules.faces.detectors import KIND
from lightning_modules.export import BATCH, write_onnx
from lightning_modules.face_detector.losses import STRIDES
from lightning_modules.face_detector.network import FaceDetector

TOLERANCE = 1e-3
_LONGEST = 8192  # pixels of an image's side


class _Deployed(nn.Module):
    """uint8 images (B, 3, H, W) -> raw output (B, N, 5): the preprocessing is part of the graph."""

    def __init__(self, model: FaceDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


class _PaddedConvolution(nn.Module):
    """A convolution with TensorFlow's "same" padding, for inputs whose sides are multiples of the stride.

    timm computes the padding from the input's size. That is max(kernel - stride, 0) for such sides, half of it before
    and the rest behind; with symbolic sides the exporter takes minutes.
    """

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__()
        self.convolution = convolution
        self.padding: list[int] = []
        for axis in (1, 0):  # F.pad begins with the last axis
            reach = (convolution.kernel_size[axis] - 1) * convolution.dilation[axis] + 1
            whole = max(reach - convolution.stride[axis], 0)
            self.padding += [whole // 2, whole - whole // 2]

    def forward(self, x: Tensor) -> Tensor:
        convolution = self.convolution
        x = nn.functional.pad(x, self.padding)
        return nn.functional.conv2d(
            x, convolution.weight, convolution.bias, convolution.stride, 0, convolution.dilation, convolution.groups
        )


def with_fixed_padding(model: nn.Module) -> nn.Module:
    """Return a copy whose paddings are constants, valid for every image whose sides are multiples of 32."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv2dSame):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _PaddedConvolution(module))
    return model


def export_onnx(model: FaceDetector, path: Path, *, fixed: bool = False) -> float:
    """Write a detector as ONNX and check it against torch.

    The graph takes ``image``, uint8 RGB (B, 3, H, W), H and W multiples of 32, and gives ``raw`` (B, N, 5); see
    `datamodules.faces.boxes`. Its metadata holds kind, strides and long_side.

    Args:
        model: the detector.
        path: the file to write.
        fixed: accept only images of the trained size, as a transformer must.

    Returns:
        The largest absolute difference to torch over random images of several shapes.

    Raises:
        InputError: the difference exceeds 1e-3, or the file cannot be written; no file is left then.
    """
    deployed, size = _Deployed(model).cpu().eval(), int(model.plain["size"])
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, size, size), (1, size, size)] + ([] if fixed else [(1, size, size + 32), (2, 64, 32)])
    examples = [torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=generator) for n, h, w in shapes]
    high, wide = (torch.export.Dim(name, min=1, max=_LONGEST // STRIDES[-1]) for name in ("high", "wide"))
    about = {"kind": KIND, "strides": json.dumps(STRIDES), "long_side": str(size), "overlap": "0.5"}
    about |= {"input": "uint8 RGB (batch, 3, H, W), multiples of 32", "backbone": str(model.plain["backbone"])}
    with torch.inference_mode():
        return write_onnx(
            with_fixed_padding(deployed),
            path,
            traced=examples[0 if fixed else 2].expand(2, -1, -1, -1).contiguous(),
            compared=examples,
            output="raw",
            free=BATCH if fixed else BATCH | {2: STRIDES[-1] * high, 3: STRIDES[-1] * wide},
            metadata=about,
            tolerance=TOLERANCE,
        )
