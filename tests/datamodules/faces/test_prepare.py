"""`emotion data prepare --faces`: what it writes, what it keeps, what it does again, and what it answers."""

import errno
import json
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from spots import spotted

from datamodules.errors import InputError
from datamodules.faces import crop, prepare
from datamodules.faces.crop import CutOptions, roll, turn_of
from datamodules.faces.detectors import TrainedDetector, open_detector
from datamodules.faces.prepare import Prepared, crop_names, prepare_faces
from datamodules.files.images import decode, decode_count, fit_to_square
from datamodules.manifest import Manifest, make_manifest
from datamodules.readers import ReadOptions, read
from datamodules.readers.face_crops import FaceCrops
from datamodules.synthetic import DrawnFaces, draw
from emotion.cli.data import main

SMALL = CutOptions(size=32, margin=0)


def cut_all(photographs: Manifest, spots: Path, output: Path, **options: Any) -> Prepared:
    return prepare_faces(photographs, str(spots), output, CutOptions(**{"size": 32, "margin": 0, **options}))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the crops with the time that they were written and their bytes."""
    found = sorted((folder / "faces").rglob("*.jpg"))
    return {file.relative_to(folder).as_posix(): (file.stat().st_mtime_ns, file.read_bytes()) for file in found}


def close(crop: Path, expected: np.ndarray) -> bool:
    """Tell whether a crop shows this; JPEG changes it a little."""
    return float(np.abs(decode(crop).astype(float) - expected).mean()) < 4


# What is written


def test_crops_and_a_manifest_that_keeps_everything(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    done = cut_all(photographs, spots, tmp_path / "out")

    assert (done.found, done.several, done.empty, done.unreadable, done.done) == (4, 1, 1, 1, 6)
    crops = read(str(tmp_path / "out"))
    assert crops.table["path"].tolist() == [f"faces/{p}.jpg" for p in ("happy/0", "sad/1", "happy/2", "sad/5")]
    assert crops.table["face_source"].tolist() == ["happy/0.png", "sad/1.png", "happy/2.png", "sad/5.png"]
    kept = photographs.table.iloc[[0, 1, 2, 5]].reset_index(drop=True).drop(columns="path")
    pd.testing.assert_frame_equal(crops.table[list(kept)], kept)
    assert crops.classes == photographs.classes
    # the box within the image: in the third the larger one, in the last the part that is seen
    boxes = ["28.0 28.0 60.0 60.0", "68.0 52.0 100.0 84.0", "88.0 56.0 152.0 120.0", "0.0 0.0 20.0 20.0"]
    assert crops.table["face_box"].tolist() == boxes
    assert crops.table["face_count"].tolist() == ["1", "1", "2", "1"]
    assert set(crops.table["face_detector"]) == {"spots"}
    assert set(crops.table["face_size"]) == {"32"}
    assert set(crops.table["face_margin"]) == {"0"}
    assert float(crops.table["face_score"][0]) == pytest.approx(0.9997, abs=2e-4) != 1
    assert any("2 of 6 images are left out" in note for note in crops.notes)
    source = decode(photographs.file(0))
    assert close(crops.file(0), source[28:60, 28:60])
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")) == [
        *("boxes.csv", "faces", "manifest.csv", "manifest.csv.json", "no_face.csv"),
    ]


def test_a_model_trained_on_crops_finds_the_file_of_their_detector(
    photographs: Manifest, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(spots.parent)
    prepare_faces(photographs, spots.name, tmp_path / "out", SMALL)  # named from the current folder
    monkeypatch.chdir(tmp_path)
    for options in (ReadOptions(), ReadOptions(per_class=1)):
        crops = read(tmp_path / "out" / "manifest.csv", options)
        faces = FaceCrops.of(crops, options)
        assert faces is not None
        assert faces.require_detector("a model") == str(spots)
    assert crops.fingerprint() == replace(crops, detector="").fingerprint()  # the same images


def test_every_box_and_every_picture_without_one_is_listed(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    cut_all(photographs, spots, tmp_path / "out")

    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert boxes["path"].tolist() == ["happy/0.png", "sad/1.png", "happy/2.png", "happy/2.png", "sad/5.png"]
    two = boxes[boxes["path"] == "happy/2.png"].sort_values("x0")
    assert two[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [[60, 44, 92, 76], [88, 56, 152, 120]]
    assert two["chosen"].tolist() == [0, 1]
    assert boxes["left_eye_x"].isna().all()
    missing = pd.read_csv(tmp_path / "out" / "no_face.csv")
    assert missing["path"].tolist() == ["sad/3.png", "happy/4.png"]
    assert missing["reason"][0] == "no face found"
    assert "is not in a supported format" in missing["reason"][1]
    assert missing["label"].tolist() == ["sad", "happy"]
    assert missing["used"].tolist() == ["left out", "left out"]


@pytest.mark.parametrize(("choice", "fit"), [("keep", "pad"), ("centre", "crop")])
def test_pictures_without_a_face_may_be_used_whole_or_in_part(
    photographs: Manifest, spots: Path, tmp_path: Path, choice: str, fit: Any
) -> None:
    cut_all(photographs, spots, tmp_path / "out", no_face=choice)

    crops = read(str(tmp_path / "out"))
    row = crops.table["face_source"].tolist().index("sad/3.png")
    shown = {"keep": "whole", "centre": "centre"}[choice]
    assert crops.table["face"].tolist().count("face") == 4
    assert crops.table.loc[row, ["face", "face_box", "face_score", "face_count"]].tolist() == [shown, "", "", "0"]
    assert close(crops.file(row), fit_to_square(decode(photographs.file(3)), 32, fit))
    missing = pd.read_csv(tmp_path / "out" / "no_face.csv")
    assert missing["used"].tolist() == [shown, "left out"]  # what cannot be read cannot be kept


def test_the_most_central_face(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    cut_all(photographs, spots, tmp_path / "out", rule="central")
    assert read(str(tmp_path / "out")).table["face_box"][2] == "60.0 44.0 92.0 76.0"


def test_no_face_in_any_picture(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"spots found no face in any of the 1 images; .*no_face\.csv lists them"):
        prepare_faces(photographs.select([3]), str(spots), tmp_path / "out", SMALL)
    assert pd.read_csv(tmp_path / "out" / "no_face.csv")["path"].tolist() == ["sad/3.png"]


def test_several_processes_write_the_same(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    rows = []
    for number in range(20):
        Image.fromarray(spotted(red=[(8 * number % 120, 40)])).save(photographs.root / f"{number}.png")
        rows.append((f"{number}.png", ("happy", "sad")[number % 2]))
    many = make_manifest(pd.DataFrame(rows, columns=["path", "label"]), photographs.root, name="many")
    prepare_faces(many, str(spots), tmp_path / "one", SMALL, workers=1)
    prepare_faces(many, str(spots), tmp_path / "two", SMALL, workers=2)

    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == 20
    assert {name: data for name, (_, data) in one.items()} == {name: data for name, (_, data) in two.items()}
    for table in ("manifest.csv", "boxes.csv", "no_face.csv"):
        assert (tmp_path / "one" / table).read_text() == (tmp_path / "two" / table).read_text()


# Doing only what changed


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that the detector is given."""
    counts: list[int] = []
    real = TrainedDetector.detect

    def detect(self: TrainedDetector, images: Any) -> Any:
        counts.append(len(images))
        return real(self, images)

    monkeypatch.setattr(TrainedDetector, "detect", detect)
    return counts


def test_doing_it_again_does_nothing(photographs: Manifest, spots: Path, tmp_path: Path, searched: list[int]) -> None:
    cut_all(photographs, spots, tmp_path / "out")
    before, tables, decoded = files(tmp_path / "out"), (tmp_path / "out" / "manifest.csv").read_text(), decode_count()
    searched.clear()

    done = cut_all(photographs, spots, tmp_path / "out")

    assert (done.done, done.found, sum(searched), decode_count()) == (0, 4, 0, decoded)
    assert files(tmp_path / "out") == before
    assert (tmp_path / "out" / "manifest.csv").read_text() == tables


def test_other_margins_are_cut_from_known_boxes(
    photographs: Manifest, spots: Path, tmp_path: Path, searched: list[int]
) -> None:
    cut_all(photographs, spots, tmp_path / "out")
    searched.clear()
    before = decode_count()

    done = cut_all(photographs, spots, tmp_path / "out", margin=0.5)

    assert (done.done, sum(searched), decode_count() - before) == (4, 0, 4)  # not those without a face
    cut_all(photographs, spots, tmp_path / "new", margin=0.5)
    again, new = files(tmp_path / "out"), files(tmp_path / "new")
    assert {name: data for name, (_, data) in again.items()} == {name: data for name, (_, data) in new.items()}


def test_pictures_that_changed_came_and_went(
    photographs: Manifest, spots: Path, tmp_path: Path, searched: list[int]
) -> None:
    first = photographs.select([0, 1, 2, 3, 4])
    cut_all(first, spots, tmp_path / "out")
    before = files(tmp_path / "out")
    searched.clear()
    Image.fromarray(spotted(red=[(96, 96)])).save(photographs.file(1))
    (tmp_path / "out" / "faces/happy/2.jpg").unlink()

    done = cut_all(photographs.select([1, 2, 3, 4, 5]), spots, tmp_path / "out")

    assert (done.done, done.removed, sum(searched)) == (3, 1, 2)  # the crop that was missing needs no search
    after = files(tmp_path / "out")
    assert sorted(after) == ["faces/happy/2.jpg", "faces/sad/1.jpg", "faces/sad/5.jpg"]
    assert after["faces/happy/2.jpg"][1] == before["faces/happy/2.jpg"][1]
    assert after["faces/sad/1.jpg"][1] != before["faces/sad/1.jpg"][1]


def test_a_picture_that_was_mended_is_tried_again(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    cut_all(photographs, spots, tmp_path / "out")
    Image.fromarray(spotted(red=[(40, 40)])).save(photographs.file(4))
    done = cut_all(photographs, spots, tmp_path / "out")
    assert (done.done, done.found, done.unreadable) == (1, 5, 0)


def test_crops_of_another_choice_go(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    cut_all(photographs, spots, tmp_path / "out", no_face="keep")
    assert "faces/sad/3.jpg" in files(tmp_path / "out")
    done = cut_all(photographs, spots, tmp_path / "out", no_face="drop")
    assert (done.done, done.removed) == (1, 1)
    assert "faces/sad/3.jpg" not in files(tmp_path / "out")


def test_everything_anew(photographs: Manifest, spots: Path, tmp_path: Path, searched: list[int]) -> None:
    cut_all(photographs, spots, tmp_path / "out")
    searched.clear()
    assert prepare_faces(photographs, str(spots), tmp_path / "out", SMALL, fresh=True).done == 6
    assert sum(searched) == 5


def test_a_killed_run_goes_on(
    photographs: Manifest, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: list[int]
) -> None:
    """It ends after two images, in the middle of a line of its notes and of a crop."""
    monkeypatch.setattr(prepare, "CHUNK", 1)
    real = crop.write_crop

    def dies(name: str) -> Any:
        def write(output: Path, name_of_crop: str, picture: np.ndarray) -> int:
            if name_of_crop.endswith(name):
                (output / crop.PARTS / "half").write_bytes(b"half a crop")
                raise KeyboardInterrupt
            return real(output, name_of_crop, picture)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(crop, "write_crop", dies("2.jpg"))
        with pytest.raises(KeyboardInterrupt):
            cut_all(photographs, spots, tmp_path / "out")
    with (tmp_path / "out" / ".faces.jsonl").open("a") as file:
        file.write('{"path": "happy/2.png", "sta')
    assert not (tmp_path / "out" / "manifest.csv").exists()
    before = files(tmp_path / "out")
    assert sorted(before) == ["faces/happy/0.jpg", "faces/sad/1.jpg"]
    searched.clear()

    with monkeypatch.context() as patch:  # again, so that the notes go on after the line that was cut short
        patch.setattr(crop, "write_crop", dies("5.jpg"))
        with pytest.raises(KeyboardInterrupt):
            cut_all(photographs, spots, tmp_path / "out")
    done = cut_all(photographs, spots, tmp_path / "out")

    assert done.done == 1
    after = files(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert len(after) == 4
    assert not (tmp_path / "out" / crop.PARTS).exists()
    lines = (tmp_path / "out" / ".faces.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == photographs.table["path"].tolist()

    with monkeypatch.context() as patch:  # crops of two kinds have no manifest
        patch.setattr(crop, "write_crop", dies("2.jpg"))
        with pytest.raises(KeyboardInterrupt):
            cut_all(photographs, spots, tmp_path / "out", margin=0.5)
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_a_crop_that_somebody_cut_short_is_made_again(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    cut_all(photographs, spots, tmp_path / "out")
    crop = tmp_path / "out" / "faces/happy/0.jpg"
    whole = crop.read_bytes()
    crop.write_bytes(whole[:100])
    assert cut_all(photographs, spots, tmp_path / "out").done == 1
    assert crop.read_bytes() == whole


def test_notes_that_lead_outside_delete_nothing_there(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    cut_all(photographs, spots, tmp_path / "out")
    precious = tmp_path / "precious.jpg"
    precious.touch()
    notes = tmp_path / "out" / ".faces.jsonl"
    line = json.loads(notes.read_text().splitlines()[0]) | {"path": "x", "crop": "../precious.jpg"}
    notes.write_text(notes.read_text() + json.dumps(line) + "\n")
    cut_all(photographs, spots, tmp_path / "out")
    assert precious.exists()


# Images of every kind


def one_each(folder: Path, saved: dict[str, Any]) -> Manifest:
    folder.mkdir(parents=True)
    rows = []
    for number, (name, save) in enumerate(saved.items()):
        save(folder / name)
        rows.append((name, ("happy", "sad")[number % 2]))
    return make_manifest(pd.DataFrame(rows, columns=["path", "label"]), folder, name="kinds")


def test_every_kind_of_picture(spots: Path, tmp_path: Path) -> None:
    face = Image.fromarray(spotted(red=[(40, 40)]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    line, point = Image.new("RGB", (20_000, 20)), Image.new("RGB", (1, 1))
    manifest = one_each(
        tmp_path / "kinds",
        {
            "plain.png": face.save,
            "turned.png": lambda path: face.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif),
            "alpha.png": lambda path: face.convert("RGBA").save(path),
            "cmyk.tif": lambda path: face.convert("CMYK").save(path),
            "grey.png": lambda path: face.convert("L").save(path),
            "line.png": line.save,
            "point.png": point.save,
        },
    )

    cut_all(manifest, spots, tmp_path / "out", no_face="keep")

    crops = read(str(tmp_path / "out"))
    shown = dict(zip(crops.table["face_source"], crops.table["face"], strict=True))
    assert [name for name, how in shown.items() if how == "face"] == [
        "plain.png",
        "turned.png",
        "alpha.png",
        "cmyk.tif",
    ]
    assert [name for name, how in shown.items() if how == "whole"] == ["grey.png", "line.png", "point.png"]
    plain = decode(crops.file(0))
    for row in (1, 2, 3):
        np.testing.assert_array_equal(decode(crops.file(row)), plain)


def test_fifty_megapixels_are_searched_small_and_cut_large(spots: Path, tmp_path: Path) -> None:
    image = np.full((6250, 8000, 3), 90, np.uint8)
    image[2000:2400, 2000:2400] = (255, 0, 0)  # a cell of 8 at 160 pixels
    image[2200:2210, 2200:2210] = (0, 0, 255)  # that copy would not show it
    manifest = one_each(
        tmp_path / "large",
        {
            "large.png": lambda path: Image.fromarray(image).save(path, compress_level=0),
            "larger.png": lambda path: Image.new("1", (8001, 6250)).save(path),
        },
    )

    done = cut_all(manifest, spots, tmp_path / "out", size=160)

    assert (done.found, done.unreadable) == (1, 1)
    assert "larger than the pixel limit" in (tmp_path / "out" / "no_face.csv").read_text()
    crop = decode(tmp_path / "out/faces/large.jpg")
    assert crop[80, 80].astype(int).tolist() == pytest.approx([0, 0, 255], abs=60)
    assert crop[70, 70].astype(int).tolist() == pytest.approx([255, 0, 0], abs=10)


@pytest.mark.parametrize("name", ["a name.png", "얼굴 사진.png", 'it\'s "quoted".png', "-dash.png", "a,b;c.png"])
def test_names_of_every_kind(spots: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    face = Image.fromarray(spotted(red=[(40, 40)]))
    root = tmp_path / "-사진 'x'"
    one_each(root, {name: face.save, f"{name[:-4]}2.png": face.save}).save(root / "labels.csv")
    output = tmp_path / f"out {name[:-4]}"

    status = main(
        ["data", "prepare", "--data", str(root), "--faces", str(spots), "--size", "32", "--output", str(output)]
    )

    assert status == 0
    assert f"use it:  --data {output / 'manifest.csv'}" in capsys.readouterr().out
    again = read(str(output / "manifest.csv"))
    assert again.table["face_source"].tolist() == [name, f"{name[:-4]}2.png"]
    assert again.file(0).is_file()


def test_names_that_differ_in_the_suffix_alone() -> None:
    assert crop_names(["a.png", "a.jpg", "b.png"]) == ["faces/a.png.jpg", "faces/a.jpg.jpg", "faces/b.jpg"]
    tricky = crop_names(["a.png", "a.gif", "a.png.jpg"])
    assert len(set(tricky)) == 3


# Where it cannot be written


@pytest.fixture
def small_disk(photographs: Manifest, spots: Path) -> Iterator[None]:
    """No file may have more than 300 bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot write .*0\.jpg: File too large\. Free disk space or choose another --out"
    ):
        cut_all(photographs, spots, tmp_path / "out")
    assert files(tmp_path / "out") == {}  # whole or not at all
    assert list((tmp_path / "out" / crop.PARTS).iterdir()) == []
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_a_folder_that_may_not_be_written(
    photographs: Manifest, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output: .*file is a file; faces are written into a folder"):
        cut_all(photographs, spots, tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot write to .*: Not a directory\. Choose an --output that you may"):
        cut_all(photographs, spots, tmp_path / "file" / "out")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot write to .*: Read-only file system\. Choose an --output that"):
        cut_all(photographs, spots, tmp_path / "new")


def test_a_folder_that_is_not_ours(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds files that this command did not write; give a new or an empty folder"):
        cut_all(photographs, spots, tmp_path / "mine")
    for inside in (photographs.root / "crops", photographs.root.parent):
        with pytest.raises(InputError, match=r"contain one another, .* such as .*photographs-faces"):
            cut_all(photographs, spots, inside)


def test_two_at_a_time(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(InputError, match="another process is cutting faces into"),
    ):
        cut_all(photographs, spots, tmp_path / "out")


# The command


def test_the_command_says_what_it_did(
    photographs: Manifest, spots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs.save(tmp_path / "photographs" / "labels.csv")
    data, output = ["--data", str(tmp_path / "photographs")], tmp_path / "out"
    command = [
        "data",
        "prepare",
        *data,
        "--faces",
        str(spots),
        "--output",
        str(output),
        "--size",
        "40",
        "--margin",
        "0.1",
    ]

    assert main([*command, "--rule", "central", "--border", "pad"]) == 1
    text = capsys.readouterr().out
    assert "6 images: a face in 4 (several in 1), none in 1\n1 cannot be read\nprocessed 6\n" in text
    assert f"listed: {output / 'no_face.csv'}" in text
    assert f"written: {output / 'manifest.csv'} (4 crops of 40 px)" in text
    assert "left out: 2 of 6; choose --no-face drop, keep or centre" in text
    assert main([*command, "--rule", "central", "--border", "pad", "--no-face", "drop"]) == 0
    assert "processed 1, 5 were done before" in capsys.readouterr().out  # what was decided about it is new
    assert decode(output / "faces/happy/0.jpg").shape == (40, 40, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--margin", "-1"], r"margin must lie in 0\.\.10, got -1"),
        (["--size", "4"], r"size must lie in 8\.\.4096 pixels, got 4"),
        (["--workers", "0"], "--workers: must be at least 1, got 0"),
        (["--upright"], "--upright: needs eye landmarks, which spots does not give; choose yunet:FILE"),
    ],
)
def test_options_that_cannot_be(
    photographs: Manifest, spots: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    photographs.save(tmp_path / "photographs" / "labels.csv")
    data = ["--data", str(tmp_path / "photographs"), "--output", str(tmp_path / "out")]
    with pytest.raises(InputError, match=message):
        main(["data", "prepare", *data, "--faces", str(spots), *options])
    assert not (tmp_path / "out").exists()
    if options != ["--upright"]:
        with pytest.raises(InputError, match=r"needs --faces, got .*; add --faces"):
            main(["data", "prepare", *data, *options])


def test_faces_are_not_cut_twice(photographs: Manifest, spots: Path, tmp_path: Path) -> None:
    crops = cut_all(photographs, spots, tmp_path / "out").manifest
    with pytest.raises(InputError, match="would overwrite the column 'face_source'"):
        prepare_faces(crops, str(spots), tmp_path / "again", SMALL)


def test_yunet_turns_drawn_faces_upright(yunet: str, tmp_path: Path) -> None:
    face = Image.fromarray(draw(DrawnFaces(largest=4, size=256, ratio=1), 9).image)
    wide = Image.new("RGB", (456, 456), (128, 128, 128))
    wide.paste(face, (100, 100))
    tilted = {f"{angle}.png": wide.rotate(angle, fillcolor=(128, 128, 128)).save for angle in (25, 0, -25)}
    manifest = one_each(tmp_path / "drawn", tilted)
    rolls = {}
    for upright in (True, False):
        cut = prepare_faces(manifest, yunet, tmp_path / str(upright), CutOptions(size=160, upright=upright)).manifest
        faces = open_detector(yunet).detect([decode(cut.file(row)) for row in range(3)])
        rolls[upright] = np.degrees([roll(found.landmarks[0]) for found in faces])

    np.testing.assert_allclose(rolls[True], 0, atol=5)
    assert np.ptp(rolls[False]) > 15
    boxes = pd.read_csv(tmp_path / "True" / "boxes.csv")
    assert (boxes["left_eye_x"] < boxes["right_eye_x"]).all()


def test_a_tilt_is_seen_whole(yunet: str) -> None:
    """At a first glance YuNet tells about half of it."""
    face = np.pad(draw(DrawnFaces(largest=4, size=256, ratio=1), 9).image, ((100, 100), (100, 100), (0, 0)))
    detector = open_detector(yunet)
    turns, glances = [], []
    for angle in (30, 0, -30):
        image = np.asarray(Image.fromarray(face).rotate(angle))
        found = detector.detect([image])[0]
        glances.append(np.degrees(roll(found.landmarks[0])))
        turns.append(np.degrees(turn_of(detector, image, found.boxes[0], found.landmarks[0])))

    assert np.subtract(turns, turns[1])[[0, 2]].tolist() == pytest.approx([-30, 30], abs=5)
    assert np.abs(np.subtract(glances, glances[1])[[0, 2]]).max() < 22


@pytest.mark.slow
def test_photographs_of_people(yunet: str, tmp_path: Path) -> None:
    archive = Path(os.environ["EMOTION_DATA_DIR"]) / "chat_uos.tgz"
    if not archive.is_file():
        pytest.skip("chat_uos.tgz is not in EMOTION_DATA_DIR")
    photographs = read(str(archive))
    by_yunet = prepare_faces(photographs, yunet, tmp_path / "yunet", CutOptions(size=64))
    by_haar = prepare_faces(photographs, "haar", tmp_path / "haar", CutOptions(size=64))
    assert (by_yunet.found, by_yunet.unreadable) == (298, 0)
    assert 220 <= by_haar.found <= 270
