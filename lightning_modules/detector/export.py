"""A trained detector as ONNX, which `datamodules.faces` runs without torch."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.faces.own_onnx import KIND
from lightning_modules.detector.assignment import STRIDES
from lightning_modules.detector.module import FaceDetector

TOLERANCE = 1e-3
_LONGEST = 8192  # pixels of a picture's side


class _Deployed(nn.Module):
    """uint8 pictures (B, 3, H, W) -> raw output (B, N, 5): the preprocessing is part of the graph."""

    def __init__(self, model: FaceDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


def export_onnx(model: FaceDetector, path: Path, *, fixed: bool = False) -> float:
    """Write a detector as ONNX and check it against torch.

    The graph takes ``image``, uint8 RGB (B, 3, H, W), H and W multiples of 32, and gives ``raw`` (B, N, 5); see
    `datamodules.faces.boxes`. Its metadata holds kind, strides and long_side.

    Args:
        model: the detector.
        path: the file to write.
        fixed: take pictures of the trained size alone, as a transformer must.

    Returns:
        The largest absolute difference to torch over random pictures of several shapes.

    Raises:
        InputError: the difference exceeds 1e-3, or the file cannot be written; no file is left then.
    """
    if not os.access(path.absolute().parent, os.W_OK):  # said now, since writing the graph takes a while
        msg = f"--output: cannot write {path}: choose a folder that exists and is writable"
        raise InputError(msg)
    deployed, size = _Deployed(model).cpu().eval(), int(model.plain["size"])
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, size, size), (1, size, size)] + ([] if fixed else [(1, size, size + 32), (2, 64, 32)])
    examples = [torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=generator) for n, h, w in shapes]
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    high, wide = (torch.export.Dim(name, min=1, max=_LONGEST // STRIDES[-1]) for name in ("high", "wide"))
    free = batch if fixed else batch | {2: STRIDES[-1] * high, 3: STRIDES[-1] * wide}
    part = path.with_name(f".{path.stem}.{os.getpid()}.onnx")
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
            torch.onnx.export(
                deployed,
                (examples[0 if fixed else 2].expand(2, -1, -1, -1).contiguous(),),
                str(part),
                input_names=["image"],
                output_names=["raw"],
                dynamic_shapes=(free,),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        graph = onnx.load(str(part))
        about = {"kind": KIND, "strides": json.dumps(STRIDES), "long_side": str(size), "overlap": "0.5"}
        about |= {"input": "uint8 RGB (batch, 3, H, W), multiples of 32", "backbone": str(model.plain["backbone"])}
        onnx.helper.set_model_props(graph, about)
        onnx.save(graph, str(part))
        worst = _difference(part, deployed, examples)
        if worst > TOLERANCE:
            msg = f"export: the model differs from torch by {worst:.2g} > {TOLERANCE}; nothing was written"
            raise InputError(msg)
        part.replace(path)
    except OSError as error:
        msg = f"--output: cannot write {path}: {error.strerror or error}; choose a folder that exists and is writable"
        raise InputError(msg) from error
    finally:
        part.unlink(missing_ok=True)
    return worst


def _difference(path: Path, deployed: nn.Module, examples: list[Tensor]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in examples:
        with torch.inference_mode():
            expected = deployed(batch).numpy()
        worst = max(worst, float(np.abs(session.run(None, {"image": batch.numpy()})[0] - expected).max()))
    return worst
