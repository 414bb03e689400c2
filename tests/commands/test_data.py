"""`emotion data`: describes, checks, prepares and caches images."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image, ImageOps


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the line that begins with this word."""
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [first])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(folder))
    return folder


def test_describe_counts_classes_and_draws_them(emotion: Any, faces: Path) -> None:
    next((faces / "sad").iterdir()).unlink()
    said = emotion("data", "describe", str(faces), "--chart", "chart.png").out
    assert cells(said, "happy")[:2] == ["10", "52.6%"]
    assert cells(said, "sad")[:2] == ["9", "47.4%"]
    assert cells(said, "all")[0] == "19"
    with Image.open("chart.png") as image:
        assert image.width > 900
    assert len(emotion("data", "describe", "--data", "nowhere", status=1).errors) == 1


def test_check_finds_what_is_wrong_and_fix_leaves_it_out(emotion: Any, faces: Path) -> None:
    assert emotion("data", "check", str(faces)).status == 0
    happy, sad = (sorted((faces / label).iterdir()) for label in ("happy", "sad"))
    with Image.open(happy[0]) as image:
        ImageOps.mirror(image).save(faces / "happy" / "mirrored.png")
    shutil.copy(happy[1], faces / "happy" / "copied.png")
    emotion("data", "check", str(faces), "--table", "warnings.csv")  # these are warnings
    found = pd.read_csv("warnings.csv")
    assert set(found["severity"]) == {"warning"}
    assert {Path(path).name for path in found["path"]} >= {"mirrored.png", "copied.png"}

    shutil.copy(happy[2], faces / "sad" / "also-happy.png")
    (faces / "sad" / "broken.png").write_text("no image")
    files = sorted(faces.rglob("*.png"))
    done = emotion("data", "check", str(faces), "--table", "all.csv", "--fix", "clean.csv", status=1)
    found = pd.read_csv("all.csv")
    errors = found[found["severity"] == "error"]
    assert {Path(path).name for path in errors["path"]} == {"also-happy.png", happy[2].name, "broken.png"}
    assert "Traceback" not in done.err
    assert sorted(faces.rglob("*.png")) == files  # no image is deleted
    emotion("data", "check", "--data", "clean.csv", "--table", "left.csv")
    assert set(pd.read_csv("left.csv")["kind"]) == {"near duplicates"}  # folds keep these together
    left = {Path(path).name for path in pd.read_csv("clean.csv")["path"]}
    assert left == {path.name for path in (*happy, *sad)} - {happy[2].name} | {"mirrored.png"}


def test_prepare_writes_a_table_that_is_data(emotion: Any, faces: Path) -> None:
    said = emotion("data", "prepare", "--data", str(faces), "--output", "table.csv").out
    assert "--data table.csv" in said
    table = pd.read_csv("table.csv")
    assert table["label"].value_counts().to_dict() == {"happy": 10, "sad": 10}
    again = emotion("data", "describe", "--data", "table.csv").out
    assert cells(again, "happy")[0] == cells(again, "sad")[0] == "10"

    before = Path("table.csv").read_bytes()
    done = emotion("data", "prepare", "--data", str(faces), "--output", "table.csv", status=1)
    assert "--overwrite" in done.errors[0]
    assert Path("table.csv").read_bytes() == before
    words = ("--data", str(faces), "--alias", "happy=surprise", "--output", "table.csv", "--overwrite")
    emotion("data", "prepare", *words)
    assert set(pd.read_csv("table.csv")["label"]) == {"surprise", "sad"}


def test_prepare_cuts_faces_out_of_scenes(emotion: Any) -> None:
    words = ("--data", "scenes:images=6,size=192,classes=happy+sad,others=0", "--faces", "haar", "--no-face", "keep")
    emotion("data", "prepare", *words, "--output", "crops")
    table = pd.read_csv("crops/manifest.csv")
    assert len(table) == 6
    with Image.open(Path("crops", table["path"].iloc[0])) as image:
        assert image.width == image.height
    first = {path: path.stat().st_mtime_ns for path in Path("crops").rglob("*.jpg")}
    assert len(first) == 6
    emotion("data", "prepare", *words, "--output", "crops")
    assert {path: path.stat().st_mtime_ns for path in Path("crops").rglob("*.jpg")} == first  # nothing to do


def test_cache_is_built_listed_and_cleared(emotion: Any, faces: Path, own_cache: Path) -> None:
    assert "no caches" in emotion("data", "cache").out
    (faces / "sad" / "broken.png").write_text("no image")
    said = emotion("data", "cache", "--data", str(faces), "--size", "16").out
    assert "21 images at 16 px" in said
    assert "1 cannot be read" in said
    size = sum(path.stat().st_size for path in own_cache.rglob("*") if path.is_file())
    assert size >= 20 * 16 * 16 * 3
    assert "pixels" in emotion("data", "cache").out
    emotion("data", "cache", "--clear")
    assert "no caches" in emotion("data", "cache").out
    assert sum(path.stat().st_size for path in own_cache.rglob("*") if path.is_file()) < size / 10
    assert len(list(faces.rglob("*.png"))) == 21


def test_a_replaced_image_is_read_anew(emotion: Any, faces: Path, own_cache: Path) -> None:
    """The cache is keyed by content: the next command notices an image that changed under the same name."""
    emotion("data", "check", str(faces), "--table", "before.csv")
    assert not len(pd.read_csv("before.csv"))
    one, two = sorted((faces / "sad").iterdir())[:2]
    shutil.copy(one, two)
    emotion("data", "check", str(faces), "--table", "after.csv")
    assert set(pd.read_csv("after.csv")["kind"]) == {"exact duplicates"}
