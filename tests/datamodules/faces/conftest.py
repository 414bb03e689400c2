"""Shared by the tests of faces: detectors, and photographs of spots."""

import os
import sys
from pathlib import Path

import onnx
import pandas as pd
import pytest
from PIL import Image

from datamodules.manifest import Manifest, make_manifest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode alone would not find spots

from spots import spot_model, spotted


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the detector of spots."""
    path = tmp_path_factory.mktemp("spots") / "spots.onnx"
    onnx.save(spot_model(), str(path))
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Manifest:
    """Six images: a face, a face, two faces, none, a broken file, a face at the border."""
    root = tmp_path / "photographs"
    pictures = [
        spotted(red=[(40, 40)]),
        spotted(red=[(80, 64)]),
        spotted(red=[(72, 56)], green=[(112, 80)]),
        spotted(),
        None,
        spotted(red=[(0, 0)]),
    ]
    rows = []
    for number, picture in enumerate(pictures):
        label = ("happy", "sad")[number % 2]
        path = root / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if picture is None:
            path.write_bytes(b"not an image")
        else:
            Image.fromarray(picture).save(path)
        rows.append((f"{label}/{number}.png", label, f"p{number}", "train" if number else "test", "F"))
    table = pd.DataFrame(rows, columns=["path", "label", "subject", "split", "gender"])
    return make_manifest(table, root, name="photographs")


@pytest.fixture
def yunet() -> str:
    """The detector's name with the real file, which is no part of the project."""
    folder = os.environ.get("EMOTION_DATA_DIR")
    if not folder:
        pytest.skip("EMOTION_DATA_DIR is not set: YuNet's file is not part of the project")
    path = Path(folder) / "yunet" / "yunet_n_640.onnx"
    if not path.is_file():
        pytest.skip("yunet/yunet_n_640.onnx is not in EMOTION_DATA_DIR")
    return f"yunet:{path}"
