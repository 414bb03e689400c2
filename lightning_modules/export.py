"""Write a trained model as ONNX with its preprocessing, as a file or into the model registry."""

import json
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
from lightning_modules.stored import Trained, load_trained, run_checkpoint
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


def register(run: str, name: str, directory: str = "mlruns") -> ModelVersion:
    """Put a run's model, as ONNX, into the MLflow model registry as a new version of ``name``.

    ONNX and not a pickle: loading it runs no code.

    Args:
        run: Id of the run, the beginning of it, its name or latest.
        name: Name in the registry.
        directory: Folder of the runs.

    Returns:
        MLflow's model version.

    Raises:
        InputError: the run was trained on face crops.
    """
    import mlflow.onnx
    from mlflow.models import infer_signature

    from records.store import open_client

    run_id = find_run(run)
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
