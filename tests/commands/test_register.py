"""`emotion register`: each call makes a version of the model, which takes images and is stored without a pickle."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def test_two_versions_and_the_second_loads(
    emotion: Any, fitted: str, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        emotion.client.create_registered_model(f"a{number}")
    for version in (1, 2):  # the name is not on the first page of names
        assert f"faces version {version}" in emotion("register", fitted, "--name", "faces").out
    versions = emotion.client.search_model_versions("name = 'faces'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert {version.run_id for version in versions} == {fitted}
    image = next(faces.rglob("*.png"))
    (expected,) = json.loads(emotion("predict", fitted, str(image), "--format", "json").out)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", emotion.client.tracking_uri)
        model = mlflow.pyfunc.load_model("models:/faces/2")
    content = image.read_bytes()
    given = model.predict(pd.DataFrame({"image": [base64.b64encode(content).decode(), content, "no image"]}))
    assert list(given["label"]) == [expected["label"]] * 2 + [""]
    assert given["confidence"].to_numpy()[:2] == pytest.approx(expected["confidence"], abs=1e-4)
    assert "must be the bytes of an image file or their base64 text" in given["note"].iloc[2]
    (row,) = json.loads(emotion("predict", "models:/faces/2", str(image), "--format", "json").out)
    assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
    card = emotion.artifact(fitted, "README.md").read_text()
    assert "f1_macro" in card
    assert "By gender: " in card
    assert "By age: " in card


@pytest.mark.slow
def test_an_alias_leads_to_a_version_of_a_cross_validation(
    emotion: Any, tiny: tuple[str, ...], faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emotion("cross-validate", *tiny, "--folds", "2", "--trainer.max_epochs", "1")
    emotion("register", "latest", "--alias", "champion")
    image = str(next(faces.rglob("*.png")))
    (expected,) = json.loads(emotion("predict", "latest", image, "--format", "json").out)
    (row,) = json.loads(emotion("predict", "models:/emotion@champion", image, "--format", "json").out)
    assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
    (error,) = emotion("predict", "models:/nobody/1", image, status=1).errors
    assert "no registered model models:/nobody/1" in error


@pytest.mark.slow
def test_a_server_answers_a_jpeg_sent_as_base64(emotion: Any, fitted: str, faces: Path) -> None:
    emotion("register", fitted)
    image = next(faces.rglob("*.png"))
    Image.open(image).convert("RGB").save("one.jpg", quality=95)
    (expected,) = json.loads(emotion("predict", fitted, "one.jpg", "--format", "json").out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    new = {**os.environ, "PATH": programs, "MLFLOW_TRACKING_URI": emotion.client.tracking_uri, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", "models:/emotion/1"]
    with Path("server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=new,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        data = [[base64.b64encode(Path("one.jpg").read_bytes()).decode()]]
        body = json.dumps({"dataframe_split": {"columns": ["image"], "data": data}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    (row,) = json.load(answer)["predictions"]
                break
            except urllib.error.URLError:
                assert server.poll() is None, Path("server.log").read_text()[-2000:]
                time.sleep(1)
        assert row["label"] == expected["label"]
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
