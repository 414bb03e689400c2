"""`emotion export`: the ONNX file gives, without torch, what `emotion predict` gives."""

import json
import subprocess
import sys
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


def test_of_a_cross_validation_the_file_gives_the_mean_of_its_folds(
    emotion: Any, cross_validated: str, faces: Path
) -> None:
    for decisions in ((), ("temperature", "tau")):
        if decisions:
            emotion("calibrate", cross_validated, "--decisions", *decisions)
        done = emotion("export", cross_validated, "--output", "model.onnx")
        assert "the file holds the mean of 4 networks" in done.err
        answers = {}
        for model in (cross_validated, "model.onnx"):
            emotion("predict", model, str(faces), "--output", "answers.csv")
            answers[model] = pd.read_csv("answers.csv")
        by_run, by_file = answers.values()
        names = [name for name in by_run if name.startswith("prob_")]
        assert by_file[names].to_numpy() == pytest.approx(by_run[names].to_numpy(), abs=1e-4)
        assert by_file["label"].tolist() == by_run["label"].tolist()


def test_the_example_of_a_program_gives_nearly_the_same(emotion: Any, fitted: str, faces: Path) -> None:
    """The deployment page shows ``docs/snippets/onnx_predict.py``."""
    snippet = Path(__file__).resolve().parents[2] / "docs" / "snippets" / "onnx_predict.py"
    shown = snippet.read_text(encoding="utf-8").split("\n\n", 1)[1].rstrip()
    assert f"```python\n{shown}\n```" in (snippet.parents[1] / "deployment.md").read_text(encoding="utf-8")
    image = sorted(faces.rglob("*.png"))[0]
    emotion("export", fitted, "--output", "model.onnx")
    emotion("predict", fitted, str(image), "--output", "answers.csv")
    printed = subprocess.run(
        [sys.executable, str(snippet), "model.onnx", str(image)], capture_output=True, text=True, check=True
    ).stdout
    given = {name: float(value) for name, value in (line.split() for line in printed.splitlines())}
    (row,) = pd.read_csv("answers.csv").to_dict("records")
    assert given == pytest.approx({name: row[f"prob_{name}"] for name in given}, abs=2e-3)


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
