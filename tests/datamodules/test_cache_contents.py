"""Whatever is cached is made anew when a file is replaced, even by one of the same name, size and modification time."""

import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.cache import build_cache
from datamodules.faces import crop, detectors, prepare
from datamodules.faces.detectors import Faces
from datamodules.files import paths
from datamodules.files.images import decode_count
from datamodules.files.paths import file_hashes
from datamodules.manifest import Manifest, make_manifest
from datamodules.readers import ReadOptions, read

SIDE = 24


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once, so that their hashes are stored, as those of older files are."""
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "SETTLED", -60.0)


def image(seed: int) -> bytes:
    """An image as BMP, whose size in bytes does not depend on what it shows."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "BMP")
    return file.getvalue()


def replace(path: Path, data: bytes) -> None:
    """Write other bytes of the same length, and set the old time of modification."""
    before = path.stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two images and a prepared manifest with a box of a face in each."""
    root = tmp_path / "photographs"
    root.mkdir()
    for number, name in enumerate(("a.bmp", "b.bmp")):
        (root / name).write_bytes(image(number))
    table = pd.DataFrame({"path": ["a.bmp", "b.bmp"], "label": ["happy", "sad"]})
    boxes = pd.DataFrame({"path": ["a.bmp", "b.bmp"], "x0": 2, "y0": 2, "x1": 12, "y1": 12})
    make_manifest(table, root, name="two").with_boxes(boxes).save(root / "m.csv")
    return root


class FixedDetector:
    """Finds one face, where its model file says."""

    name = "fixed"
    has_landmarks = False

    def __init__(self, name: str) -> None:
        self.model = Path(name.partition(":")[2]).read_text()
        self.identity = f"fixed {self.model}"

    def detect(self, images: list[np.ndarray]) -> list[Faces]:
        box = np.array([[float(side) for side in self.model.split()]], np.float32)
        return [Faces(box, np.ones(1, np.float32), np.full((1, 5, 2), np.nan, np.float32)) for _ in images]


@pytest.fixture
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "model").write_text("2 2 12 12")
    for module in (detectors, prepare):
        monkeypatch.setattr(module, "open_detector", FixedDetector)
    return f"fixed:{tmp_path / 'model'}"


def pixels(manifest: Manifest, row: int = 0) -> bytes:
    with Image.open(manifest.file(row)) as picture:
        return picture.tobytes()


# Hashes


def test_a_replaced_file_has_another_hash_and_others_are_not_read_again(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_hashes(photographs, ["a.bmp", "b.bmp"])
    replace(photographs / "a.bmp", image(7))
    reads: list[str] = []
    real = paths._file_digest
    monkeypatch.setattr(paths, "_file_digest", lambda path: (reads.append(path.name), real(path))[1])
    after = file_hashes(photographs, ["a.bmp", "b.bmp"])
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert file_hashes(photographs, ["b.bmp", "a.bmp"]) == after[::-1]
    assert reads == ["a.bmp"]


def test_a_file_that_has_just_changed_is_read_again(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock may be too coarse to show a second change."""
    monkeypatch.setattr(paths, "SETTLED", 60.0)
    before = file_hashes(photographs, ["a.bmp"])
    monkeypatch.setattr(paths, "_file_digest", lambda path: "read again")
    assert file_hashes(photographs, ["a.bmp"]) == ["read again"] != before


def test_equal_files_have_equal_hashes_and_missing_ones_none(photographs: Path, tmp_path: Path) -> None:
    (photographs / "copy.bmp").write_bytes(image(0))
    found = file_hashes(photographs, ["a.bmp", "copy.bmp", "gone.bmp"])
    assert found[0] == found[1] != ""
    assert found[2] == ""


def test_a_cache_that_cannot_be_written_costs_time_only(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = file_hashes(photographs, ["a.bmp"])
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "file"))
    assert file_hashes(photographs, ["a.bmp"]) == expected


# Everything that is made of files


def test_the_pixels_of_a_replaced_image(photographs: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(photographs / "m.csv")
    before = build_cache(manifest, 8, directory=tmp_path / "pixels", workers=0).read([0, 1])
    replace(photographs / "a.bmp", image(7))
    after = build_cache(manifest, 8, directory=tmp_path / "pixels", workers=0).read([0, 1])
    assert (after[0] != before[0]).any()
    assert (after[1] == before[1]).all()


@pytest.mark.parametrize("by", ["boxes", "detector"])
def test_the_crop_of_a_replaced_image(photographs: Path, fixed: str, by: str) -> None:
    options = ReadOptions(faces="boxes" if by == "boxes" else fixed, face_size=16)
    before = read(str(photographs / "m.csv"), options)
    old = pixels(before, 0), pixels(before, 1)
    replace(photographs / "a.bmp", image(7))
    decoded = decode_count()
    after = read(str(photographs / "m.csv"), options)
    assert pixels(after, 0) != old[0]
    assert pixels(after, 1) == old[1]
    assert decode_count() - decoded == 2  # each photograph once
    assert pixels(before, 0) == old[0], "a run that reads the old crops goes on with them"
    again = read(str(photographs / "m.csv"), options)
    assert again.root == after.root
    assert decode_count() - decoded == 2


def test_a_folder_of_crops_that_is_prepared_again(photographs: Path, tmp_path: Path, fixed: str) -> None:
    manifest = Manifest.load(photographs / "m.csv")
    before = pixels(prepare.prepare_faces(manifest, fixed, tmp_path / "faces", workers=0).manifest)
    replace(photographs / "a.bmp", image(7))
    done = prepare.prepare_faces(manifest, fixed, tmp_path / "faces", workers=0)
    assert pixels(done.manifest) != before
    assert done.done == 1


@pytest.mark.parametrize("change", ["boxes", "face_size", "face_margin", "policy", "model"])
def test_whatever_a_crop_depends_on_makes_another(
    photographs: Path, tmp_path: Path, fixed: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    options: dict[str, object] = {"faces": fixed if change == "model" else "boxes", "face_size": 16}
    before = read(str(photographs / "m.csv"), ReadOptions(**options))
    if change == "boxes":
        file = photographs / "m.csv.boxes.csv"
        file.write_text(file.read_text().replace("12.0", "13.0"))
    elif change == "model":
        replace(tmp_path / "model", b"3 3 12 12")
    elif change == "policy":
        monkeypatch.setattr(crop, "CUT_VERSION", "another")
    else:
        options[change] = {"face_size": 17, "face_margin": 0.5}[change]
    after = read(str(photographs / "m.csv"), ReadOptions(**options))
    assert after.root != before.root
    if change != "policy":
        assert pixels(after) != pixels(before)


def test_photographs_that_moved_keep_their_crops(photographs: Path) -> None:
    options = ReadOptions(faces="boxes", face_size=16)
    before = read(str(photographs / "m.csv"), options)
    moved = photographs.rename(photographs.with_name("moved"))
    assert read(str(moved / "m.csv"), options).root == before.root


def _tar(middle: bytes) -> bytes:
    """An archive whose first and last megabyte do not depend on the image in its middle."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in (("sad/a.bmp", bytes(1_200_000)), ("sad/b.bmp", middle), ("sad/c.bmp", bytes(1_200_000))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo("happy/d.bmp")
        archive.addfile(member, io.BytesIO())
    return file.getvalue()


def test_a_replaced_archive_is_unpacked_again(tmp_path: Path) -> None:
    file = tmp_path / "set.tar"
    file.write_bytes(_tar(image(0)))
    before = read(str(file))
    row = before.table["path"].tolist().index("sad/b.bmp")
    assert before.file(row).read_bytes() == image(0)
    replace(file, _tar(image(1)))
    assert read(str(file)).file(row).read_bytes() == image(1)


def test_a_replaced_csv_of_pixels_is_written_out_again(tmp_path: Path) -> None:
    file = tmp_path / "fer2013.csv"
    rows: Callable[[str], bytes] = lambda first: f"emotion,pixels\n3,{first} 1 2 3\n4,4 5 6 7\n".encode()  # noqa: E731
    file.write_bytes(rows("8"))
    before = pixels(read(str(file)))
    replace(file, rows("9"))
    after = pixels(read(str(file)))
    assert (before[0], after[0]) == (8, 9)
