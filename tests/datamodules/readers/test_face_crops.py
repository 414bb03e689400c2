"""Faces that are cut out while a data set is read: by its own boxes or a detector, once, with the same rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from datamodules.errors import InputError
from datamodules.readers import ReadOptions, read
from datamodules.readers.face_crops import median_boxes
from datamodules.synthetic import DrawnScenes, draw_scene

SCENES = "scenes:images=16,size=192,classes=happy+sad,others=1"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))


def test_the_data_sets_own_boxes() -> None:
    whole = read(SCENES)
    crops = read(SCENES, ReadOptions(faces="boxes", face_size=48))
    assert crops.table["label"].tolist() == whole.table["label"].tolist()
    assert crops.table["split"].tolist() == whole.table["split"].tolist()
    assert crops.table["face_source"].tolist() == whole.table["path"].tolist()
    spec = DrawnScenes(images=16, size=192, classes=("happy", "sad"), others=1)
    for row in range(0, 16, 3):
        number = int(whole.table["path"].iloc[row].rsplit("_", 1)[1][8:14])
        scene = draw_scene(spec, number)
        x0, y0, x1, y1 = scene.boxes[0]
        side = max(x1 - x0, y1 - y0) * 1.5
        left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
        picture = ImageOps.expand(Image.fromarray(scene.image), 200)  # an independent cut
        area = (200 + left, 200 + top, 200 + left + side, 200 + top + side)
        expected = picture.resize((48, 48), Image.Resampling.BOX, box=area)
        with Image.open(crops.file(row)) as image:
            assert image.size == (48, 48)
            middle = np.s_[12:36, 12:36]
            difference = np.abs(np.asarray(image, float)[middle] - np.asarray(expected, float)[middle])
        assert difference.mean() < 30, "annotators' boxes lie near the true one"
    written = crops.file(0).stat().st_mtime_ns
    assert read(SCENES, ReadOptions(faces="boxes", face_size=48)).file(0).stat().st_mtime_ns == written
    assert read(SCENES, ReadOptions(faces="boxes", face_size=32)).root != crops.root


def test_a_detector_gives_the_same_rows() -> None:
    whole = read(SCENES)
    crops = read(SCENES, ReadOptions(faces="haar", face_size=40))
    assert crops.table["face_source"].tolist() == whole.table["path"].tolist()
    assert crops.table["split"].tolist() == whole.table["split"].tolist()
    assert any("faces cut by haar: found in " in note for note in crops.notes)
    with Image.open(crops.file(3)) as image:
        assert image.size == (40, 40)


def test_of_three_annotators_the_middle_one_counts() -> None:
    boxes = pd.DataFrame({"path": list("aaab"), "x0": [1, 2, 90, 5], "y0": 0, "x1": [99, 10, 11, 6], "y1": 4})
    assert median_boxes(boxes).to_dict("index") == {
        "a": {"x0": 2, "y0": 0, "x1": 11, "y1": 4},
        "b": {"x0": 5, "y0": 0, "x1": 6, "y1": 4},
    }


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    for label in ("happy", "sad"):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "set" / label / "1.png")
    with pytest.raises(InputError, match="set: faces=boxes needs a data set with face boxes"):
        read(str(tmp_path / "set"), ReadOptions(faces="boxes"))
    with pytest.raises(InputError, match=r"faces must be haar, yunet:FILE or FILE.onnx"):
        read(str(tmp_path / "set"), ReadOptions(faces="magic"))
    with pytest.raises(InputError, match="--face-size: must be from 8 to 4096 pixels, got 4"):
        ReadOptions(faces="haar", face_size=4)
