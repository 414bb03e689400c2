"""Write a trained model as ONNX, with its preprocessing in the graph and in the metadata."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.files.images import DECODE_POLICY
from datamodules.files.paths import replacing
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.decisions import DECISIONS_KEY, JOINT_KEY
from lightning_modules.predictor import Trained, joint_decisions

BATCH = {0: torch.export.Dim("batch", min=1, max=65536)}  # the axis of images, free


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
    """Write a model with the input ``image`` and one output as ONNX, and compare the file with torch.

    Args:
        model: on the CPU, in evaluation mode.
        path: the file to write.
        traced: images to trace the graph with, uint8 (B, 3, H, W).
        compared: batches of images, of other sizes where these are free.
        output: name of the output.
        free: axes of ``image`` that may have any length.
        metadata: stored in the file.
        tolerance: largest absolute difference that is allowed.

    Returns:
        The largest absolute difference over all batches.

    Raises:
        InputError: the difference exceeds ``tolerance``, or the file cannot be written; no file is left then.
    """
    if not os.access(path.absolute().parent, os.W_OK):  # checked now, since tracing takes a while
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
            if not worst <= tolerance:  # also where it is not a number
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
        differences = np.abs(session.run(None, {"image": batch.numpy()})[0] - expected)
        worst = float(np.maximum(worst, differences.max()))  # NaN stays NaN
    return worst


TOLERANCE = 1e-4


class _Deployed(nn.Module):
    """uint8 images (B, 3, size, size) -> probabilities (B, C): the preprocessing is part of the graph.

    Of several networks, the mean of their probabilities, each after its own temperature.
    """

    def __init__(self, networks: Sequence[Trained]) -> None:
        super().__init__()
        self.models = nn.ModuleList([trained.model for trained in networks])
        scalings = [trained.decisions.scaling if trained.decisions else None for trained in networks]
        self.temperatures = [scaling.temperature if scaling else None for scaling in scalings]

    def forward(self, image: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for model, temperature in zip(self.models, self.temperatures, strict=True):
            probabilities = cast(EmotionClassifier, model).probabilities(image)
            if len(self.models) == 1:  # its temperature is in the metadata
                return probabilities
            if temperature is not None:
                probabilities = (probabilities.clamp_min(1e-30).log() / temperature).softmax(dim=1)
            parts.append(probabilities)
        return torch.stack(parts).mean(dim=0)  # (networks, B, C) -> (B, C)


def export_onnx(trained: Trained | Sequence[Trained], path: Path) -> float:
    """Write a model, or the mean of several, as ONNX and check it against torch.

    The graph takes ``image``, uint8 (batch, 3, size, size), RGB, and gives ``probabilities`` (batch, classes). Its
    metadata describes the preprocessing: decode policy, size, fit, class names.

    Args:
        trained: the model; several are averaged, and must be the folds of one cross-validation.
        path: the file to write.

    Returns:
        The largest absolute difference to torch's probabilities over 16 random images.

    Raises:
        InputError: the difference exceeds 1e-4, or the file cannot be written; no file is left then.
    """
    networks = [trained] if isinstance(trained, Trained) else list(trained)
    trained, generator = networks[0], torch.Generator().manual_seed(0)
    example = torch.randint(0, 256, (16, 3, trained.size, trained.size), dtype=torch.uint8, generator=generator)
    return write_onnx(
        _Deployed(networks).cpu().eval(),
        path,
        traced=example,
        compared=(example, example[:1]),  # a second batch size proves that the batch is free
        output="probabilities",
        free=BATCH,
        metadata=_metadata(networks),
        tolerance=TOLERANCE,
    )


def _metadata(networks: Sequence[Trained]) -> dict[str, str]:
    trained = networks[0]
    if len(networks) > 1:  # what is decided from the mean, which is calibrated in the graph
        trained = replace(trained, decisions=joint_decisions(networks), joint=None)
    more = {"faces": json.dumps(asdict(trained.faces))} if trained.faces is not None else {}
    more |= {"pixel_limit": str(trained.pixel_limit)} if trained.pixel_limit is not None else {}
    kept = {DECISIONS_KEY: trained.decisions, JOINT_KEY: trained.joint}
    more |= {key: json.dumps(value.state(), ensure_ascii=False) for key, value in kept.items() if value is not None}
    return {
        "classes": json.dumps(trained.classes, ensure_ascii=False),
        "size": str(trained.size),
        "fit": trained.fit,
        "decode_policy": DECODE_POLICY,
        "input": "uint8 RGB (batch, 3, size, size)",
        "resizing": "as `fit` says; shrinking averages the area that a pixel covers, enlarging is bilinear",
        "output": "probabilities (batch, classes), in the order of `classes`, before the `decisions` if there are any",
        **more,  # how face crops are cut out, which the input must then be; how large an image file may be; decisions
    }
