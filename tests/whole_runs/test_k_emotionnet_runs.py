"""K-EmotionNet: its recipe in a cross-validation on whole drawn scenes, and export as ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import emotion
from records.runs import find_runs

SCENES = "scenes:images=42,size=96,others=0,distractors=0,classes=happy+sad+angry"
SHORT = (
    *("--recipe", "k-emotionnet", "--data", SCENES, "--data.size", "32", "--data.batch_size", "16"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
)


@pytest.mark.slow
def test_the_recipe_cross_validates_and_is_exported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cross-validate", *SHORT, "--folds", "2", "--resamples", "100"]
    assert emotion.main(words) == 0
    runs = find_runs()
    assert len(runs) == 3
    capsys.readouterr()
    member = runs.loc[runs["parent"].astype(bool), "run_id"].iloc[0]
    assert emotion.main(["export", str(member), "--format", "onnx", "--output", "model.onnx"]) == 0
    assert "backbone k_emotionnet" in capsys.readouterr().err
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": np.zeros((2, 3, 32, 32), np.uint8)})
    assert answer.sum(1) == pytest.approx(1.0, abs=1e-5)
