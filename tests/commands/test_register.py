"""`emotion register`: each call makes a version of the model, which MLflow loads and onnxruntime runs."""

from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest


def test_two_versions_and_the_second_loads(emotion: Any, fitted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        emotion.client.create_registered_model(f"a{number}")
    for version in (1, 2):  # the name is not on the first page of names
        assert f"faces version {version}" in emotion("register", fitted, "--name", "faces").out
    versions = emotion.client.search_model_versions("name = 'faces'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert {version.run_id for version in versions} == {fitted}
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", emotion.client.tracking_uri)
        model = mlflow.onnx.load_model("models:/faces/2")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"image": np.zeros((2, 3, 32, 32), np.uint8)})
    assert given.sum(axis=1) == pytest.approx(1, abs=1e-5)
