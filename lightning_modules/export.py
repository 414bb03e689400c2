"""`emotion export` and `emotion register`: a trained model as ONNX with its preprocessing, alone or in the registry."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.pixels import DECODE_POLICY
from lightning_modules.onnx_file import BATCH, write_onnx
from lightning_modules.stored import Trained, header, load_trained, run_checkpoint
from records.runs import find_run

TOLERANCE = 1e-4


class _Deployed(nn.Module):
    """uint8 pictures (B, 3, size, size) -> probabilities (B, C): the preprocessing is part of the graph."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.probabilities(image)


def refuse_face_crops(trained: Trained, run: str) -> None:
    """Refuse to export a model of face crops, since an exported model does not cut faces out of photographs.

    Raises:
        InputError: it was trained on face crops.
    """
    if trained.faces is not None:
        msg = (
            f"RUN: run {run} was trained on {trained.faces}, but an exported model does not cut faces out of "
            f"photographs; cut them out with `{trained.faces.command('PHOTOGRAPHS', 'CROPS')}` and classify them with "
            f"`emotion predict --run {run} --data CROPS/manifest.csv`"
        )
        raise InputError(msg)


def export_onnx(trained: Trained, path: Path) -> float:
    """Write a model as ONNX and check it against torch.

    The graph takes ``image``, uint8 (batch, 3, size, size), RGB, and gives ``probabilities`` (batch, classes). Its
    metadata says how a picture is made so: decode policy, size, fit, class names.

    Args:
        trained: the model.
        path: the file to write.

    Returns:
        The largest absolute difference to torch's probabilities over 16 random pictures.

    Raises:
        InputError: the difference exceeds 1e-4, or the file cannot be written; no file is left then.
    """
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(0, 256, (16, 3, trained.size, trained.size), dtype=torch.uint8, generator=generator)
    return write_onnx(
        _Deployed(trained).cpu().eval(),
        path,
        traced=example,
        compared=(example, example[:1]),  # a second batch size proves that the batch is free
        output="probabilities",
        free=BATCH,
        metadata=_metadata(trained),
        tolerance=TOLERANCE,
    )


def _metadata(trained: Trained) -> dict[str, str]:
    return {
        "classes": json.dumps(trained.classes, ensure_ascii=False),
        "size": str(trained.size),
        "fit": trained.fit,
        "decode_policy": DECODE_POLICY,
        "input": "uint8 RGB (batch, 3, size, size)",
        "resizing": "as `fit` says; shrinking averages the area that a pixel covers, enlarging is bilinear",
        "output": "probabilities (batch, classes), in the order of `classes`",
    }


def register(run_id: str, name: str, directory: str = "mlruns") -> ModelVersion:
    """Put a run's model, as ONNX, into the MLflow model registry as a new version of ``name``.

    ONNX and not a pickle: loading it runs no code.

    Returns:
        MLflow's model version.

    Raises:
        InputError: the run was trained on face crops.
    """
    import mlflow.onnx
    from mlflow.models import infer_signature

    from records.store import open_client

    trained = load_trained(run_checkpoint(run_id))
    refuse_face_crops(trained, run_id)
    client = open_client(directory)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(trained, file)
        example = np.zeros((1, 3, trained.size, trained.size), np.uint8)
        signature = infer_signature(example, np.full((1, len(trained.classes)), 0.5, np.float32))
        mlflow.onnx.save_model(
            onnx.load(str(file)), f"{folder}/model", signature=signature, save_as_external_data=False
        )
        client.log_artifacts(run_id, f"{folder}/model", "model")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    return client.create_model_version(name, source=source, run_id=run_id)


def main(args: list[str]) -> int:
    """Run ``export`` or ``register``."""
    parser = argparse.ArgumentParser(prog=f"emotion {args[0]}", description=__doc__)
    parser.add_argument("run", help="run id of a finished run")
    if args[0] == "export":
        parser.add_argument("--format", choices=["onnx"], default="onnx")
        parser.add_argument("--output", help="file to write; default: <run>.onnx here")
        options = parser.parse_args(args[1:])
        path = Path(options.output or f"{options.run}.onnx")
        trained = load_trained(run_checkpoint(options.run))
        refuse_face_crops(trained, options.run)
        print(header(options.run, trained), file=sys.stderr)
        difference = export_onnx(trained, path)
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); differs from torch by at most {difference:.1e}")
        print(f"input: uint8 RGB (batch, 3, {trained.size}, {trained.size}); classes: {', '.join(trained.classes)}")
        return 0
    parser.add_argument("--name", default="emotion", help="name in the registry")
    options = parser.parse_args(args[1:])
    version = register(find_run(options.run), options.name)
    print(f"registered: {version.name} version {version.version} (emotion ui, page Models)")
    return 0
