"""Boxes beside a manifest: kept with it when it is saved, selected and read anew, and checked."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.manifest import Manifest, make_manifest
from datamodules.readers import ReadOptions, read
from datamodules.synthetic import DrawnFaces, draw, prepare

BOXES = pd.DataFrame(
    {
        "path": ["a.jpg", "a.jpg", "b c.jpg"],
        "annotator": ["A", "B", "A"],
        "x0": [1.5, 2.0, 0.0],
        "y0": [1.0, 2.0, 0.0],
        "x1": [9.0, 8.25, 4.0],
        "y1": [9.0, 8.0, 4.0],
    }
)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for file in ("a.jpg", "b c.jpg", "표.jpg"):
        (tmp_path / file).touch()
    table = pd.DataFrame({"path": ["a.jpg", "b c.jpg", "표.jpg"], "label": ["happy", "sad", "sad"]})
    return make_manifest(table, tmp_path, name="boxed")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_boxes_are_saved_and_opened_with_their_manifest(manifest: Manifest, kind: str) -> None:
    file = manifest.with_boxes(BOXES).save(manifest.root / f"m.{kind}")
    for again in (Manifest.load(file), read(str(file)), read(str(file), ReadOptions(unknown_labels="keep"))):
        assert again.boxes is not None
        pd.testing.assert_frame_equal(again.boxes, BOXES, check_dtype=False)
        assert again.boxes["x0"].dtype == np.float64
    assert Manifest.load(file).fingerprint() == manifest.fingerprint()
    manifest.save(file)
    assert Manifest.load(file).boxes is None


def test_selected_rows_keep_their_boxes(manifest: Manifest) -> None:
    boxed = manifest.with_boxes(BOXES)
    assert boxed.select([1, 2]).boxes["path"].tolist() == ["b c.jpg"]
    assert boxed.select([2]).boxes.empty
    assert manifest.select([0]).boxes is None


def test_drawn_faces_bring_their_boxes(tmp_path: Path) -> None:
    spec = DrawnFaces(largest=3, ratio=1, size=32)
    for manifest in (prepare(spec, tmp_path), prepare(spec, tmp_path), read("drawn:largest=3,ratio=1,size=32")):
        assert manifest.boxes is not None
        assert np.allclose(manifest.boxes[["x0", "y0", "x1", "y1"]].iloc[4], draw(spec, 4).box, atol=0.01)
        assert manifest.boxes["nose_x"].dtype == np.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x1": [9.0, 2.0, 4.0]},
            r"boxed: box 1 of 'a.jpg': x0 < x1 and y0 < y1 must hold, got x0=2, y0=2, x1=2, y1=8",
        ),
        ({"y0": [9.5, 2.0, 0.0]}, "box 0 of 'a.jpg'"),
        ({"y0": [1.0, 2.0, "left"]}, "box 2 of 'b c.jpg'"),
        ({"y0": [1.0, 2.0, float("inf")]}, "box 2 of 'b c.jpg'"),
        ({"x0": None}, "the table of boxes lacks x0; found path, annotator"),
    ],
)
def test_a_bad_box_is_named(manifest: Manifest, change: dict, message: str) -> None:
    boxes = BOXES.astype(object)
    for column, values in change.items():
        boxes = boxes.drop(columns=column) if values is None else boxes.assign(**{column: values})
    with pytest.raises(InputError, match=message):
        manifest.with_boxes(boxes)
