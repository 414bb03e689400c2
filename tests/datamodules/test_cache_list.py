"""`emotion data cache` lists and clears all that is written under the cache folder, by kind."""

import os
import shutil
import time
import zipfile
from pathlib import Path

import filelock
import numpy as np
import pytest

from datamodules.cache import KINDS, build_cache, cache_list
from datamodules.duplicates import near_duplicates
from datamodules.errors import InputError
from datamodules.files import paths
from datamodules.files.paths import cache_root
from datamodules.readers import ReadOptions, read
from datamodules.synthetic.files import prepare_scenes
from datamodules.synthetic.scenes import parse_scenes
from emotion.cli.data import main

FACES = "drawn:largest=2,ratio=1,size=32"
CROPS = ReadOptions(faces="boxes", face_size=16)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with something by every writer in it."""
    place = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOTION_CACHE_DIR", str(place / "cache"))
        patch.setattr(paths, "SETTLED", -60.0)
        faces = read(FACES, CROPS)
        near_duplicates(build_cache(faces, 8, workers=0))
        read("scenes:images=8,size=96,classes=happy+sad,others=0", ReadOptions(faces="haar", face_size=16))
        prepare_scenes(parse_scenes("scenes:images=2,size=96"), workers=0)
        with zipfile.ZipFile(place / "set.zip", "w") as archive:
            for label in ("happy", "sad"):
                archive.writestr(f"{label}/1.png", b"not read here")
        read(str(place / "set.zip"))
        (place / "fer2013.csv").write_text("emotion,pixels\n3,8 1 2 3\n4,4 5 6 7\n")
        read(str(place / "fer2013.csv"))
    (place / "cache" / "features").mkdir()
    np.save(place / "cache" / "features" / "abc.npy", np.zeros(3))
    return place / "cache"


@pytest.fixture
def full(root: Path, written: Path) -> Path:
    return Path(shutil.copytree(written, root))


def left(root: Path, kind: str) -> list[str]:
    return (
        [entry.name for entry in (root / kind).iterdir() if entry.suffix != ".lock"] if (root / kind).is_dir() else []
    )


def test_everything_is_listed_with_its_kind_size_and_age(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = cache_list()
    assert {entry.name for entry in full.iterdir()} == set(table["kind"]) == set(KINDS)
    listed = {Path(folder) for folder in table["folder"]}
    assert listed == {entry for kind in KINDS for entry in (full / kind).iterdir() if entry.suffix != ".lock"}
    assert table["age"].eq("0 min").all()
    assert table["built"].ne("").all()
    assert table["usable"].all()
    old = time.time() - 3 * 86400 - 60
    os.utime(full / "features" / "abc.npy", (old, old))
    assert cache_list().set_index("kind").loc["features", "age"] == "3 d"
    assert main(["data", "cache"]) == 0
    said = capsys.readouterr().out
    assert all(kind in said for kind in KINDS)
    assert f"GB in {cache_root()}: " in said


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_a_kind_is_cleared_and_the_others_stay(full: Path, kind: str) -> None:
    before = {name: left(full, name) for name in KINDS}
    assert all(before.values())
    assert main(["data", "cache", "--clear", kind]) == 0
    gone = set(KINDS) if kind == "all" else {kind, "hashes"} if kind == "pixels" else {kind}
    assert {name: left(full, name) for name in KINDS} == {
        name: [] if name in gone else names for name, names in before.items()
    }


def test_what_is_cleared_is_made_again(root: Path) -> None:
    faces = read(FACES, CROPS)
    before = faces.file(0).read_bytes()
    main(["data", "cache", "--clear", "all"])
    assert not faces.file(0).exists()
    assert read(FACES, CROPS).file(0).read_bytes() == before


def test_what_is_being_written_stays(full: Path) -> None:
    (crops,) = (entry for entry in (full / "crops").iterdir() if (entry / ".faces.jsonl").is_file())
    (unpacked, *_) = (entry for entry in (full / "unpacked").iterdir() if entry.is_dir())
    draft = full / "features" / ".abc.npy.1.part"
    draft.touch()
    old = full / "features" / ".old.npy.1.part"
    old.touch()
    os.utime(old, (1, 1))
    with filelock.FileLock(crops / ".lock"), filelock.FileLock(f"{unpacked}.lock"):
        main(["data", "cache", "--clear", "all"])
    assert crops.is_dir()
    assert unpacked.is_dir()
    assert (left(full, "crops"), left(full, "unpacked")) == ([crops.name], [unpacked.name])
    assert left(full, "features") == [draft.name]


def test_a_kind_that_does_not_exist(root: Path) -> None:
    with pytest.raises(InputError, match=r"--clear: must be among pixels, crops, .* or all, got 'models'"):
        main(["data", "cache", "--clear", "models"])
