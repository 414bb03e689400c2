"""`emotion export`: the ONNX file gives, without torch, what `emotion predict` gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image


def test_onnx_gives_what_predict_gives(emotion: Any, fitted: str, faces: Path) -> None:
    done = emotion("export", fitted, "--format", "onnx", "--output", "model.onnx")
    assert fitted[:8] in done.err
    emotion("predict", "--run", fitted, "--data", str(faces), "--output", "predicted.csv")
    predicted = pd.read_csv("predicted.csv")

    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    classes = json.loads(about["classes"])
    assert [f"prob_{name}" for name in classes] == [name for name in predicted if name.startswith("prob_")]
    assert int(about["size"]) == 32  # as wide as the images: nothing has to be resized here
    assert {"fit", "resizing"} <= set(about)
    files = {path.name: path for path in faces.rglob("*.png")}
    images = [np.asarray(Image.open(files[Path(path).name]).convert("RGB")) for path in predicted["path"]]
    batch = np.stack(images).transpose(0, 3, 1, 2)
    expected = predicted[[f"prob_{name}" for name in classes]].to_numpy()
    for size in (20, 1, 3):  # of any number of images
        (given,) = session.run(None, {"image": batch[:size]})
        assert given == pytest.approx(expected[:size], abs=1e-4)


def test_a_folder_that_is_not_there(emotion: Any, fitted: str) -> None:
    done = emotion("export", fitted, "--output", "no/such/folder/model.onnx", status=1)
    assert "no/such/folder" in done.errors[0]
    assert "Traceback" not in done.err


def test_an_onnx_file_reads_photographs_as_large_as_the_run_does(emotion: Any, tiny: tuple[str, ...]) -> None:
    emotion("fit", *tiny, "--data.pixel_limit", "2000", "--trainer.max_epochs", "1")
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save("large.png")
    emotion("export", "latest", "--output", "model.onnx")
    for model in ("latest", "model.onnx"):
        assert "larger than" in emotion("predict", model, "large.png", status=1).err
