"""Unlabelled images for prediction."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.manifest import make_manifest
from datamodules.unlabelled import find_images, from_bytes, photographs


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(path)
    return path


def test_a_file_a_folder_and_a_table(tmp_path: Path) -> None:
    one, two = picture(tmp_path / "b.png"), picture(tmp_path / "deep" / "a.jpg")
    (tmp_path / "notes.txt").write_text("not an image")
    pd.DataFrame({"path": ["deep/a.jpg", "b.png"]}).to_csv(tmp_path / "list.csv", index=False)
    assert find_images(str(one)) == [one]
    assert find_images(str(tmp_path)) == [one, two]
    assert find_images(str(tmp_path / "list.csv")) == [two.resolve(), one.resolve()]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_in_a_table_are_text_as_written(tmp_path: Path, suffix: str) -> None:
    names = ["NA", "None", "null", "007", "1e5"]
    table = pd.DataFrame({"path": names})
    table.to_csv(tmp_path / "t.csv", index=False) if suffix == "csv" else table.to_parquet(tmp_path / "t.parquet")
    assert find_images(str(tmp_path / f"t.{suffix}")) == [(tmp_path / name).resolve() for name in names]
    if suffix == "csv":
        (tmp_path / "t.csv").write_text("path,more\na.png,1\n,2\n")
        with pytest.raises(InputError, match=r"row 2 below the header of .* has no path"):
            find_images(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_that_lies_elsewhere(tmp_path: Path, suffix: str) -> None:
    """What `data check --fix` writes can be predicted as it can be trained on."""
    images = [picture(tmp_path / "images" / name).resolve() for name in ("a.png", "deep/b.png")]
    table = pd.DataFrame({"path": ["a.png", "deep/b.png"], "label": ["happy", "sad"]})
    (tmp_path / "lists").mkdir()
    saved = make_manifest(table, tmp_path / "images", name="two").save(tmp_path / "lists" / f"clean.{suffix}")
    assert find_images(str(saved)) == images
    if suffix == "csv":
        pd.read_csv(saved).assign(path=["a.png", "../lists/secret.png"]).to_csv(saved, index=False)
        with pytest.raises(InputError, match=r"1 of 2 names lead out of .*images, .*'.*/lists/secret\.png'"):
            find_images(str(saved))


def test_a_bad_picture_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 7)
    (tmp_path / "b.png").write_bytes(b"")
    good, bad = photographs([tmp_path / "a.png", tmp_path / "b.png"])
    assert np.unique(good.read()).tolist() == [7]
    with pytest.raises(InputError, match=r"b\.png is empty"):
        bad.read()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("empty", "has no image"),
        ("absent", "does not exist"),
        ("no_path.csv", "needs a column path"),
        ("out.csv", "1 of 1 names lead out"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"name": ["a"]}).to_csv(tmp_path / "no_path.csv", index=False)
    pd.DataFrame({"path": ["../secret.png"]}).to_csv(tmp_path / "out.csv", index=False)
    with pytest.raises(InputError, match=complaint):
        find_images(str(tmp_path / source))


def test_the_pixel_limit_holds_for_standard_input() -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    assert from_bytes(file.getvalue(), pixel_limit=400).read().shape == (20, 20, 3)
    with pytest.raises(InputError, match="pixel limit of 399"):
        from_bytes(file.getvalue(), pixel_limit=399).read()
