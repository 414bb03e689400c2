"""Any model as an ONNX file that is whole, checked against torch, or not there at all."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.places import replacing

BATCH = {0: torch.export.Dim("batch", min=1, max=65536)}  # the axis of pictures, free


def write_onnx(
    model: nn.Module,
    path: Path,
    *,
    traced: Tensor,
    compared: Sequence[Tensor],
    output: str,
    free: Mapping[int, Any],
    metadata: Mapping[str, str],
    tolerance: float,
) -> float:
    """Write a model that takes ``image`` and gives one tensor, and compare the file with torch.

    Args:
        model: on the CPU, in evaluation mode.
        path: the file to write.
        traced: pictures that the graph is traced with, uint8 (B, 3, H, W).
        compared: batches of pictures, of other sizes where these are free.
        output: name of what the model gives.
        free: axes of ``image`` that may have any length.
        metadata: kept in the file.
        tolerance: largest absolute difference that is allowed.

    Returns:
        The largest absolute difference over all batches.

    Raises:
        InputError: the difference exceeds ``tolerance``, or the file cannot be written; no file is left then.
    """
    if not os.access(path.absolute().parent, os.W_OK):  # said now, since tracing takes a while
        msg = f"--output: cannot write {path}: choose a folder that exists and is writable"
        raise InputError(msg)
    try:
        with replacing(path, suffix=".onnx") as part:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
                torch.onnx.export(
                    model,
                    (traced,),
                    str(part),
                    input_names=["image"],
                    output_names=[output],
                    dynamic_shapes=(dict(free),),
                    external_data=False,
                    dynamo=True,
                    verbose=False,
                )
            graph = onnx.load(str(part))
            onnx.helper.set_model_props(graph, dict(metadata))
            onnx.save(graph, str(part))
            worst = _difference(part, model, compared)
            if worst > tolerance:
                msg = f"--format onnx: the model differs from torch by {worst:.2g} > {tolerance}; nothing was written"
                raise InputError(msg)
    except OSError as error:
        msg = f"--output: cannot write {path}: {error.strerror or error}; choose a folder that exists and is writable"
        raise InputError(msg) from error
    return worst


def _difference(path: Path, model: nn.Module, batches: Sequence[Tensor]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in batches:
        with torch.inference_mode():
            expected = model(batch).numpy()
        worst = max(worst, float(np.abs(session.run(None, {"image": batch.numpy()})[0] - expected).max()))
    return worst
