"""`data check` finds what was planted, says so in its exit status, and mends a manifest without touching an image."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from datamodules.audit import Audit, audit, clean, run_check, summary
from datamodules.cache import build_cache
from datamodules.errors import InputError
from datamodules.manifest import FACE_SOURCE, Manifest, make_manifest
from datamodules.synthetic import DrawnFaces, draw

FACES = DrawnFaces(largest=30, ratio=1, size=64, seed=8, classes=("happy", "sad"))


def face(row: int) -> Image.Image:
    return Image.fromarray(draw(FACES, row).image)


class Folder:
    """Collects images and makes a manifest of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: list[dict[str, str]] = []

    def add(
        self, name: str, image: Image.Image | bytes, label: str = "happy", split: str = "train", **more: str
    ) -> int:
        if isinstance(image, bytes):
            (self.root / name).write_bytes(image)
        else:
            image.save(self.root / name)
        self.lines.append({"path": name, "label": label, "split": split, **more})
        return len(self.lines) - 1

    def manifest(self, *, split: bool = True) -> Manifest:
        table = pd.DataFrame(self.lines).fillna("")
        return make_manifest(table if split else table.drop(columns="split"), self.root, name="planted")

    def audit(self) -> tuple[Manifest, Audit]:
        manifest = self.manifest()
        return manifest, audit(manifest, build_cache(manifest, 64, directory=self.root / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Twelve sound faces: eight in training, two in validation, two in test."""
    made = Folder(tmp_path)
    for number in range(12):
        part = "train" if number < 8 else "validation" if number < 10 else "test"
        made.add(f"sound{number}.png", face(number), "happy" if number % 2 else "sad", part)
    return made


def test_sound_set_has_no_finding(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = folder.audit()
    assert found.findings.empty
    assert run_check(folder.manifest()) == 0
    text = capsys.readouterr().out
    assert "planted: 12 images, 2 classes" in text
    assert "\nerrors found" not in text
    assert "no errors found; splits that are made here" in text


def test_single_pictures(folder: Folder) -> None:
    whole = (folder.root / "sound0.png").read_bytes()
    rows = {
        "truncated": folder.add("truncated.png", whole[: len(whole) // 2]),
        "empty": folder.add("empty.png", b""),
        "text": folder.add("text.jpg", b"this is not an image"),
        "png_as_jpg": folder.add("named.jpg", b"placeholder"),
        "tiny": folder.add("tiny.png", face(20).resize((20, 40))),
        "constant": folder.add("constant.png", Image.new("RGB", (64, 64), (90, 20, 200))),
    }
    face(21).save(folder.root / "named.jpg", format="PNG")
    _, found = folder.audit()
    assert [r for (r,) in found.of("unreadable")] == [rows["truncated"], rows["empty"], rows["text"]]
    assert found.of("wrong extension") == [[rows["png_as_jpg"]]]
    assert found.of("tiny") == [[rows["tiny"]]]
    assert found.of("constant") == [[rows["constant"]]]
    assert found.errors == 3
    messages = found.findings.set_index("kind")["message"]
    assert messages["wrong extension"] == "named.jpg holds PNG"
    assert messages["tiny"] == "tiny.png is 20 x 40 pixels"


def test_duplicates_by_pixels_not_bytes(folder: Folder) -> None:
    same = [folder.add("copy.bmp", face(0), "sad"), folder.add("copy.webp", face(0), "sad")]
    Image.open(folder.root / "copy.bmp").save(folder.root / "copy.webp", lossless=True)
    _, found = folder.audit()
    assert found.of("exact duplicates") == [[0, *same]]
    assert found.errors == 0


def test_exact_groups_and_images_across_splits(folder: Folder) -> None:
    folder.add("a.png", face(1), "happy", "train")
    twin = folder.add("b.png", face(10), "sad", "train")
    manifest, found = folder.audit()
    assert found.of("across splits") == [[10, twin]]
    table = summary(manifest, found).set_index("finding")
    assert table.loc["exact duplicates", ["groups", "images", "duplicate in another split"]].tolist() == [2, 4, "2"]
    assert found.errors == 1
    assert table.loc["tiny", ["severity", "groups"]].tolist() == ["none", 0]


def test_near_duplicates_across_splits_and_labels(folder: Folder) -> None:
    mirrored = folder.add("mirrored.png", ImageOps.mirror(face(11)), "sad", "train")
    saved = folder.add("saved.jpg", face(2), "sad", "train")
    manifest, found = folder.audit()
    assert found.of("near duplicates") == [[2, saved], [11, mirrored]]
    assert found.of("two labels, near") == [[11, mirrored]]
    assert found.of("across splits") == [[11, mirrored]]
    assert found.of("exact duplicates") == []
    table = summary(manifest, found).set_index("finding")
    assert table.loc["near duplicates", ["groups", "images", "duplicate in another split"]].tolist() == [2, 4, "2"]
    without = audit(manifest, build_cache(manifest, 64, directory=folder.root / "cache"), near=False)
    assert without.findings.empty


def test_one_picture_under_two_labels_is_an_error(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    other = folder.add("other.png", face(3), "sad")
    _, found = folder.audit()
    assert found.of("two labels") == [[3, other]]
    assert run_check(folder.manifest()) == 1
    assert "happy / sad: sound3.png, other.png" in capsys.readouterr().out


def test_person_across_splits(folder: Folder) -> None:
    for number, line in enumerate(folder.lines):
        line["subject"] = f"p{number}"
    folder.lines[0]["subject"] = folder.lines[11]["subject"] = "Kim"
    folder.lines[1]["subject"] = folder.lines[10]["subject"] = ""
    _, found = folder.audit()
    assert found.of("person across splits") == [[0, 11]]


def test_faces_of_one_photograph_across_splits(folder: Folder) -> None:
    for number, line in enumerate(folder.lines):
        line[FACE_SOURCE] = f"photograph {number}"
    folder.lines[0][FACE_SOURCE] = folder.lines[11][FACE_SOURCE] = "party.jpg"
    manifest, found = folder.audit()
    assert found.of("photograph across splits") == [[0, 11]]
    kept, reasons = clean(manifest, found)
    assert 11 in kept
    assert reasons == {"photograph in another split": 1}


def test_fix_leaves_what_is_sound_and_deletes_nothing(folder: Folder, tmp_path: Path) -> None:
    folder.add("broken.png", b"\x89PNG\r\n")
    folder.add("flat.png", Image.new("L", (64, 64), 7))
    folder.add("twice.png", face(1), "happy")
    folder.add("in_test.png", face(10), "sad", "train")
    folder.add("tie.png", face(3), "sad", "train")
    folder.add("minority.png", face(5), "sad", "train")
    folder.add("majority.png", face(5), "happy", "train")
    folder.add("mirrored.png", ImageOps.mirror(face(8)), "sad", "train")
    folder.add("saved.jpg", face(4), "sad", "train")
    before = {path.name: path.read_bytes() for path in folder.root.iterdir() if path.is_file()}
    target = tmp_path / "clean.csv"
    assert run_check(folder.manifest(), fix=target) == 1
    for name, data in before.items():
        assert (folder.root / name).read_bytes() == data
    cleaned = Manifest.load(target)
    gone = {line["path"] for line in folder.lines} - set(cleaned.table["path"])
    assert gone == {
        *("broken.png", "flat.png", "twice.png", "in_test.png", "mirrored.png"),
        *("sound3.png", "tie.png", "minority.png", "majority.png"),
    }
    assert run_check(cleaned) == 0


def test_fix_keeps_the_reported_copy(folder: Folder) -> None:
    folder.lines[0]["split"], folder.lines[10]["split"] = "train", "test"
    folder.add("first.png", face(10), "sad", "validation")
    manifest, found = folder.audit()
    kept, reasons = clean(manifest, found)
    assert 10 in kept
    assert 12 not in kept
    assert reasons == {"exact duplicate": 1}


def test_fix_leaves_a_person_in_one_part(folder: Folder, tmp_path: Path) -> None:
    """Kim is in all three parts, Lee in training and validation, Cho in training alone; the rest are not known."""
    for person, rows in {"Kim": (0, 1, 8, 10), "Lee": (2, 9), "Cho": (3, 4)}.items():
        for row in rows:
            folder.lines[row]["subject"] = person
    manifest, found = folder.audit()
    assert len(found.of("person across splits")) == 2
    kept, reasons = clean(manifest, found)
    assert sorted(set(range(12)) - set(kept.tolist())) == [0, 1, 2, 8]
    assert reasons == {"person in another split": 4}
    assert run_check(manifest, fix=tmp_path / "clean.csv") == 1
    assert run_check(Manifest.load(tmp_path / "clean.csv")) == 0


def test_fix_that_would_empty_a_class(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    for number in range(3):
        made.add(f"{number}.png", face(number), "happy")
    made.add("sad.png", face(0), "sad")
    with pytest.raises(InputError, match=r"no image of class sad; correct the labels"):
        run_check(made.manifest(split=False), fix=tmp_path / "fixed.csv")
    assert not (tmp_path / "fixed.csv").exists()


def test_table_and_sheet(folder: Folder, tmp_path: Path) -> None:
    folder.add("broken.png", b"")
    folder.add("copy.png", face(2), "happy", "test")
    table, sheet = tmp_path / "found.csv", tmp_path / "found.png"
    assert run_check(folder.manifest(), table=table, sheet=sheet) == 1
    lines = pd.read_csv(table)
    assert sorted(lines["kind"].unique()) == ["across splits", "exact duplicates", "two labels", "unreadable"]
    assert lines.loc[lines["kind"] == "exact duplicates", "path"].tolist() == ["sound2.png", "copy.png"]
    assert lines["finding"].nunique() == 4
    picture = np.asarray(Image.open(sheet))
    assert picture.shape == (4 * 28 + 4 * 110, 768, 3)
    first = picture[28 + 110 + 28 :][:94, :94].astype(float)  # below the unreadable file and the next heading
    expected = np.asarray(face(2).resize((94, 94), Image.Resampling.BILINEAR)).astype(float)
    assert np.corrcoef(first.ravel(), expected.ravel())[0, 1] > 0.98


def test_sheet_of_another_kind_or_place(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--sheet: must be a \.png or \.jpg file, got 'a\.txt'"):
        run_check(folder.manifest(), sheet=tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"--sheet: .*cannot be written"):
        run_check(folder.manifest(), sheet=tmp_path / "missing" / "a.png")
    with pytest.raises(InputError, match=r"--table: .*cannot be written"):
        run_check(folder.manifest(), table=tmp_path / "missing" / "a.csv")
