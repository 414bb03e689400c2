"""`emotion data`: what it prints, draws and writes, and what it answers to bad input."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from datamodules import describe
from datamodules.describe import class_table, group_counts, image_headers, imbalance_ratio
from datamodules.errors import InputError
from datamodules.manifest import Manifest, make_manifest
from datamodules.readers import read
from emotion.cli.data import main


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Nine images: happy 6, sad 2, fear 1; two sizes, one of them unreadable."""
    root = tmp_path / "faces"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i, label in enumerate(["happy"] * 6 + ["sad"] * 2 + ["fear"]):
        size = (20, 30) if i < 3 else (40, 30)
        file = f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(root / file)
        split = "train" if i % 3 else "test"
        rows.append((file, label, split, f"p{i // 2}", "F" if i < 4 else "M" if i < 8 else "", f"hash{i}"))
    (root / "8.png").write_bytes(b"not an image")
    columns = ["file", "label", "split", "subject", "gender", "blob"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "labels.csv", index=False)
    return root


def numbers(text: str, first: str) -> list[str]:
    """Return the cells of the line that begins with this word."""
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [first])


def test_describe_says_when_classes_are_equally_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", (4, 4), number).save(tmp_path / name / f"{number}.png")
    assert main(["data", "describe", "--data", str(tmp_path)]) == 0
    assert "imbalance ratio  1 (all classes have 3 images)\n" in capsys.readouterr().out


def test_describe_prints_counts_shares_splits_groups_and_sizes(
    faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.describe.MOST_VALUES", 8)
    assert main(["data", "describe", "--data", str(faces)]) == 0
    text = capsys.readouterr().out
    assert "faces: 9 images in 3 classes" in text
    # images, share, train, test, subjects
    assert numbers(text, "happy") == ["6", "66.7%", "4", "2", "3"]
    assert numbers(text, "sad") == ["2", "22.2%", "1", "1", "1"]
    assert numbers(text, "fear") == ["1", "11.1%", "1", "0", "1"]
    assert numbers(text, "all") == ["9", "100.0%", "6", "3"]
    assert "imbalance ratio  6.0 (largest happy 6, smallest fear 1)" in text
    assert "subjects         5" in text
    assert "group gender     F 4, M 4, (not given) 1" in text
    assert "not listed       columns of more than 8 values: blob (9)" in text
    assert "width 20 to 40 (median 40), height 30 px; from the headers of all" in text
    assert "formats          PNG RGB 8" in text
    assert "unreadable       1 of the headers; run `emotion data check`" in text
    assert main(["data", "describe", str(faces), "--sample", "4"]) == 0
    assert "from the headers of a random sample of 4 of 9" in capsys.readouterr().out


def test_a_class_without_images_makes_the_ratio_infinite(faces: Path) -> None:
    manifest = read(str(faces))
    assert imbalance_ratio(manifest) == 6.0
    rows = np.flatnonzero(manifest.table["label"] != "fear")
    without = manifest.select(rows)
    assert imbalance_ratio(without) == float("inf")
    assert class_table(without)["images"].tolist() == [0, 6, 2]
    assert class_table(without)["share"].tolist() == [0, 0.75, 0.25]


def test_headers_of_a_sample_are_the_same_each_time_and_open_no_pixels(faces: Path) -> None:
    manifest = read(str(faces))
    whole = image_headers(manifest, 100)
    assert whole["row"].tolist() == list(range(9))
    assert whole["width"].tolist()[:8] == [20.0] * 3 + [40.0] * 5
    assert np.isnan(whole["width"].iloc[8])
    pd.testing.assert_frame_equal(image_headers(manifest, 4), image_headers(manifest, 4))
    with pytest.raises(InputError, match="--sample: must be at least 1, got 0"):
        image_headers(manifest, 0)


def test_only_groups_of_few_values_are_listed(tmp_path: Path) -> None:
    files = [f"{i}.png" for i in range(21)]
    for file in files:
        (tmp_path / file).touch()
    frame = pd.DataFrame(
        {"path": files, "label": ["sad", "happy", "fear"] * 7, "few": ["a", "b", "c"] * 7, "many": files}
    )
    listed, crowded = group_counts(make_manifest(frame, tmp_path, name="x"))
    assert (listed, crowded) == ({"few": {"a": 7, "b": 7, "c": 7}}, {"many": 21})


# The chart


def many_classes(root: Path, names: list[str], largest: int = 3) -> Manifest:
    rows = [(f"{c}_{i}.png", name) for c, name in enumerate(names) for i in range(1 if c else largest)]
    for file, _ in rows:
        (root / file).touch()
    return make_manifest(
        pd.DataFrame(rows, columns=["path", "label"]), root, name="a name of a set that is far too long"
    )


@pytest.mark.parametrize("count", [2, 8, 40])
def test_chart_labels_never_overlap_and_stay_inside(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), real(self, *a, **k))[1])
    manifest = many_classes(tmp_path, [f"an unusually long name of a class {i}" for i in range(count)], 400)
    assert describe.draw_chart(manifest, tmp_path / "c.png") == []
    axes, renderer = figures[0].axes[0], FigureCanvasAgg(figures[0]).get_renderer()
    figures[0].draw_without_rendering()
    shown = [*axes.get_yticklabels(), *axes.texts, *figures[0].texts]
    boxes = [t.get_window_extent(renderer) for t in shown if t.get_text()]
    assert len(boxes) == 2 * count + 1
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figures[0].bbox.x1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    with Image.open(tmp_path / "c.png") as image:
        assert image.size[0] > 900
    assert not list(tmp_path.glob(".*.part"))


def test_korean_names_are_replaced_and_said_where_no_font_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = [e for e in font_manager.fontManager.ttflist if e.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", default)
    said = describe.draw_chart(many_classes(tmp_path, ["부끄러움", "sad"]), tmp_path / "c.png")
    assert len(said) == 1
    assert "'부끄러움'" not in said[0]
    assert "부끄러움 is drawn as 'class 1'" in said[0]
    assert describe.fonts_for("sad") == ["DejaVu Sans"]


def test_korean_names_are_drawn_by_a_font_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = font_manager.findfont("DejaVu Sans")
    hangul = font_manager.FontEntry(fname="/fonts/nanum.ttf", name="NanumGothic")
    latin = font_manager.FontEntry(fname="/fonts/another.ttf", name="Another")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [latin, hangul])
    monkeypatch.setattr(
        describe, "drawable", lambda text, path: text.isascii() or (path == "/fonts/nanum.ttf" and path != default)
    )
    assert describe.fonts_for("분노 angry") == ["DejaVu Sans", "NanumGothic"]


def test_describe_draws_the_chart(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "describe", str(faces), "--chart", str(tmp_path / "c.png")]) == 0
    assert f"chart            {tmp_path / 'c.png'}" in capsys.readouterr().out
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10  # not an empty page
    with pytest.raises(InputError, match=r"--chart: must be a \.png file, got 'c\.pdf'"):
        main(["data", "describe", str(faces), "--chart", str(tmp_path / "c.pdf")])
    with pytest.raises(InputError, match=r"--chart: .* cannot be written"):
        main(["data", "describe", str(faces), "--chart", str(tmp_path / "no" / "c.png")])


# The other commands


def test_prepare_writes_a_manifest_that_opens_by_data(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "manifest.csv"
    assert main(["data", "prepare", "--data", str(faces), "--output", str(output), "--alias", "fear=sad"]) == 0
    assert f"use it:  --data {output}" in capsys.readouterr().out
    again = read(str(output))
    assert (again.name, again.root, again.classes) == ("faces", faces, ("happy", "sad"))
    assert again.labels.tolist() == [0] * 6 + [1] * 3
    before = output.read_bytes()
    with pytest.raises(InputError, match=r"--output: .*manifest\.csv exists; give another name, or --overwrite"):
        main(["data", "prepare", "--data", str(faces), "--output", str(output)])
    assert output.read_bytes() == before
    assert main(["data", "prepare", "--data", str(faces), "--output", str(output), "--overwrite"]) == 0
    assert read(str(output)).classes == ("fear", "happy", "sad")


def test_several_aliases_may_stand_before_the_path(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["describe", "--alias", "happy=surprise", "sad=disgust", str(faces), "--sample", "1"]
    assert main(["data", *words]) == 0
    assert {"surprise", "disgust"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("option", ["--classes", "--data.read.classes"])
def test_classes_may_stand_before_the_path(
    faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    assert main(["data", "describe", "--sample", "1", option, "happy", "sad", str(faces)]) == 0
    assert "faces: 8 images in 2 classes" in capsys.readouterr().out
    with pytest.raises(InputError, match="--data: no such file or folder, got 'no/where'"):
        main(["data", "describe", option, "happy", "sad", "no/where"])
    (faces.parent / "sad").mkdir()  # a folder that is called like a class is no data set
    monkeypatch.chdir(faces.parent)
    asked: list[tuple[str, list[str] | None]] = []
    monkeypatch.setattr(
        "datamodules.readers.read", lambda source, options: asked.append((source, options.classes)) or read(str(faces))
    )
    assert main(["data", "describe", "--sample", "1", option, "happy", "sad"]) == 0
    assert asked == [("drawn", ["happy", "sad"])]


def test_check_hands_over_what_was_asked_for(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def run_check(manifest: Manifest, **options: Any) -> int:
        asked.append({"images": len(manifest), **options})
        return 1

    stand_in = types.ModuleType("datamodules.audit")
    stand_in.run_check = run_check  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datamodules.audit", stand_in)
    assert main(["data", "check", str(faces), "--fix", str(tmp_path / "f.csv"), "--no-near"]) == 1
    assert asked == [{"images": 9, "near": False, "fix": tmp_path / "f.csv", "sheet": None, "table": None}]


def test_cache_is_built_listed_and_cleared(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["data", "cache"]) == 0
    assert "no caches" in capsys.readouterr().out
    assert main(["data", "cache", "--data", str(faces), "--size", "16"]) == 0
    text = capsys.readouterr().out
    assert "9 images at 16 px" in text
    assert "1 cannot be read" in text
    assert main(["data", "cache"]) == 0
    assert "pixels" in capsys.readouterr().out
    assert main(["data", "cache", "--clear"]) == 0
    assert "freed" in capsys.readouterr().out
    assert main(["data", "cache"]) == 0
    assert "no caches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["describe", "--data", "/nowhere/at/all"], r"--data: no such file or folder, got '/nowhere/at/all'"),
        (["describe", "a", "--data", "b"], r"--data: given twice, as 'a' and as 'b'"),
        (["describe", "a", "--alias", "angry"], r"--alias: must be NAME=CLASS, such as furious=angry, got 'angry'"),
        (["describe", "a", "--pattern", "x"], r"has no group named label"),
        (["describe", "a", "--drop-ties"], r"--drop-ties: needs votes"),
    ],
)
def test_bad_arguments(args: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(["data", *args])


def test_a_misspelt_command_or_option_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["descibe"], ["describe", "--chrt", "x"], []):
        with pytest.raises(SystemExit, match="2"):
            main(["data", *args])
    assert "describe" in capsys.readouterr().err
