"""Study face-crop: its grid, its published table, the same photographs for every input, its detector."""

import pytest

from datamodules.errors import InputError
from lightning_modules.config import Options, data_module
from sweeps.studies import build_study
from sweeps.studies.face_crop import DETECTOR_VARIABLE, INPUTS, MODELS
from sweeps.studies.schema import cell_config


@pytest.fixture(autouse=True)
def _no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DETECTOR_VARIABLE, raising=False)


def test_the_grid_and_the_published_table() -> None:
    study = build_study("face-crop", "paper", "honest")
    assert [cell.name for cell in study.cells] == [f"{name}, {model}" for name in INPUTS for model in MODELS]
    (table,) = study.tables
    assert table.columns == ("VGG19", "ResNet18", "K-EmotionNet")
    published = {name: [entry.published for entry in row if entry] for name, row in table.rows.items()}
    assert published == {
        "whole image": pytest.approx([0.143, 0.156, 0.1509]),
        "cascade crop": pytest.approx([0.5895, 0.6035, 0.6181]),
        "detector crop": pytest.approx([0.8276, 0.8172, 0.8437]),
    }
    assert len(study.seeds) == 3
    assert any("K-EmotionNet 84.37 ± 0.17" in note for note in study.notes)
    assert len(study.claims) == 3 * 3 + 2


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_input_is_tested_on_the_same_photographs(scale: str) -> None:
    study = build_study("face-crop", scale, "honest")  # type: ignore[arg-type]
    seen = {}
    for cell in study.cells:
        data = data_module(cell_config(cell, Options()))
        name = cell.name.split(",")[0]
        seen[name] = data.read_options.faces
        assert (data.split, data.plan.outer, data.plan.leak) == ("given", "test", "drop_twins")
        assert data.fit == ("stretch" if name == "whole image" else "crop")
    assert seen == {"whole image": None, "cascade crop": "haar", "detector crop": "boxes"}


def test_a_detector_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DETECTOR_VARIABLE, "yunet:some/where/face.onnx")
    study = build_study("face-crop", "tiny", "honest")
    assert study.cells[-1].options["data.read.faces"] == "yunet:some/where/face.onnx"
    assert study.notes[0].startswith("The detector crop is made by face.onnx;")
    monkeypatch.setenv(DETECTOR_VARIABLE, "best")
    with pytest.raises(InputError, match=r"EMOTION_FACE_DETECTOR must be yunet:FILE, FILE.onnx or boxes, got 'best'"):
        build_study("face-crop", "tiny", "honest")
