"""FER2013's CSV of pixels, FER+ votes, archives that mean harm, and the real sets where they are at hand."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.files.paths import cache_root
from datamodules.readers import ReadOptions, read, recognise
from datamodules.readers.archives import LIMIT_VARIABLE, unpack


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))


def fer_csv(folder: Path, rows: int = 14, **broken: str) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 48, 48), dtype=np.uint8)
    text = [" ".join(map(str, p.ravel())) for p in pixels]
    text[5] = broken.get("pixels", text[5])
    emotion = [str(i % 7) for i in range(rows)]
    emotion[5] = broken.get("emotion", emotion[5])
    usage = ["Training"] * (rows - 4) + ["PublicTest", "PublicTest", "PrivateTest", "PrivateTest"]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"emotion": emotion, "pixels": text, "Usage": usage}).to_csv(folder / "fer2013.csv", index=False)
    return folder / "fer2013.csv", pixels


# FER2013's CSV


def test_pixels_become_the_same_pixels_once(tmp_path: Path) -> None:
    file, pixels = fer_csv(tmp_path / "fer")
    assert recognise(file) == recognise(file.parent) == "fer2013"
    manifest = read(str(file))
    assert manifest.name == "fer2013"
    assert manifest.classes == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert manifest.labels.tolist() == [i % 7 for i in range(14)]
    assert manifest.table["split"].tolist() == ["train"] * 10 + ["validation"] * 2 + ["test"] * 2
    for row in range(14):
        assert np.array_equal(np.asarray(Image.open(manifest.file(row))), pixels[row])
    assert manifest.root.parent == cache_root() / "unpacked"
    written = manifest.file(0).stat().st_mtime_ns
    assert read(str(file)).file(0).stat().st_mtime_ns == written
    assert not list((cache_root() / "unpacked").glob(".*.part"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"pixels": "1 2 3"}, "row 5: pixels must be a square .* got 3 values beginning '1 2 3'"),
        ({"pixels": "1 2 x 4"}, "row 5: pixels must be a square"),
        ({"pixels": "1 2 256 4"}, "row 5: pixels must be a square of numbers from 0 to 255"),
        ({"pixels": "-1 2 2 4"}, "row 5: pixels must be a square"),
        ({"pixels": ""}, "row 5: pixels must be a square"),
        ({"emotion": "8"}, r"numbers \(images\) 8 \(1\)"),
        ({"emotion": ""}, "row 5: emotion must be a number"),
    ],
)
def test_a_broken_row_is_named_and_nothing_half_written_stays(tmp_path: Path, broken: dict, message: str) -> None:
    file, _ = fer_csv(tmp_path / "fer", **broken)
    with pytest.raises(InputError, match=message):
        read(str(file))
    written = [p for p in (cache_root() / "unpacked").iterdir() if p.is_dir()]
    assert bool(written) == (broken == {"emotion": "8"})  # a number that an alias can name is not broken


def test_fer2013_as_an_image_folder(tmp_path: Path) -> None:
    for file in ("train/angry/1.png", "train/happy/1.png", "test/happy/1.png"):
        (tmp_path / "f" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / file).touch()
    manifest = read(f"fer2013:{tmp_path / 'f'}")
    assert manifest.table["split"].tolist() == ["test", "train", "train"]


# Votes


VOTES = pd.DataFrame(
    [
        # neutral happiness surprise sadness anger disgust fear contempt unknown NF
        ("angry", [1, 0, 0, 0, 9, 0, 0, 0, 0, 0]),  # 0 clear
        ("happy", [6, 4, 0, 0, 0, 0, 0, 0, 0, 0]),  # 1 the annotators overrule the publisher
        ("neutral", [5, 0, 0, 5, 0, 0, 0, 0, 0, 0]),  # 2 a tie that the published label decides
        ("angry", [5, 0, 0, 5, 0, 0, 0, 0, 0, 0]),  # 3 a tie that the class order decides: sad before neutral
        ("fear", [0, 0, 0, 0, 0, 0, 3, 0, 7, 0]),  # 4 mostly unknown
        ("fear", [0, 0, 0, 0, 0, 0, 4, 0, 0, 6]),  # 5 mostly not a face
        ("fear", [0, 0, 0, 0, 0, 0, 0, 0, 10, 0]),  # 6 nobody saw an emotion
        ("happy", [0, 8, 0, 0, 0, 0, 0, 2, 0, 0]),  # 7 contempt wins nowhere
    ],
    columns=["label", "votes"],
)
ANSWERS = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()


@pytest.fixture
def voted(tmp_path: Path) -> Path:
    root = tmp_path / "voted"
    root.mkdir()
    frame = pd.DataFrame(VOTES["votes"].tolist(), columns=[f"votes_{a}" for a in ANSWERS])
    frame.insert(0, "file", [f"{i}.png" for i in range(len(frame))])
    frame.insert(1, "label", VOTES["label"])
    for file in frame["file"]:
        (root / file).touch()
    frame.to_csv(root / "labels.csv", index=False)
    return root


def labels(source: Path, **options: object) -> dict[str, str]:
    table = read(str(source), ReadOptions(**options)).table  # type: ignore[arg-type]
    return dict(zip(table["path"].str[0], table["label"], strict=True))


def test_votes_are_ignored_unless_asked_for(voted: Path) -> None:
    manifest = read(str(voted))
    assert manifest.votes is None
    assert manifest.groups == ()
    assert manifest.table["label"].tolist() == VOTES["label"].tolist()


def test_majority_of_the_votes(voted: Path) -> None:
    expected = {"0": "angry", "1": "neutral", "2": "neutral", "3": "sad", "7": "happy"}
    assert labels(voted, votes="majority") == expected
    assert labels(voted, votes="majority", drop_unknown=False) == {**expected, "4": "fear", "5": "fear"}
    assert labels(voted, votes="majority", drop_ties=True) == {k: expected[k] for k in "017"}
    notes = read(str(voted), ReadOptions(votes="majority", drop_ties=True)).notes
    assert notes == (
        "1 images left out: they have no vote for an emotion",
        "2 images left out: they are unknown or not a face to most annotators",
        "2 images left out: they share the first place among several emotions",
    )


def test_soft_targets_are_the_shares_over_the_classes(voted: Path) -> None:
    manifest = read(str(voted), ReadOptions(votes="soft", drop_unknown=False))
    assert manifest.classes == ("angry", "fear", "happy", "sad", "neutral")
    assert manifest.votes is not None
    expected = [
        [0.9, 0, 0, 0, 0.1],
        [0, 0, 0.4, 0, 0.6],
        [0, 0, 0, 0.5, 0.5],
        [0, 0, 0, 0.5, 0.5],
        [0, 1, 0, 0, 0],  # the unknown are no class
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],  # the two votes for contempt are left out, and said
    ]
    np.testing.assert_allclose(manifest.votes, expected, rtol=0, atol=1e-12)
    assert "votes for contempt left out: it is in first place for no image" in manifest.notes


def test_a_saved_manifest_keeps_its_soft_targets(voted: Path, tmp_path: Path) -> None:
    manifest = read(str(voted), ReadOptions(votes="soft"))
    again = read(str(manifest.save(tmp_path / "m.csv")))
    np.testing.assert_array_equal(again.votes, manifest.votes)


def test_votes_that_are_not_there_or_no_numbers(voted: Path) -> None:
    frame = pd.read_csv(voted / "labels.csv", dtype=str)
    frame.loc[2, "votes_fear"] = "many"
    frame.to_csv(voted / "labels.csv", index=False)
    with pytest.raises(
        InputError, match="row 3 below the header: votes_fear must be a number of at least 0, got 'many'"
    ):
        read(str(voted), ReadOptions(votes="soft"))
    frame.rename(columns={"votes_fear": "votes_bored"}).to_csv(voted / "labels.csv", index=False)
    with pytest.raises(InputError, match="'votes_bored' names no known emotion"):
        read(str(voted), ReadOptions(votes="majority"))
    frame[["file", "label"]].to_csv(voted / "labels.csv", index=False)
    with pytest.raises(InputError, match="--votes majority needs votes_<emotion> columns, found path, label"):
        read(str(voted), ReadOptions(votes="majority"))


def test_ferplus_as_published_beside_the_csv(tmp_path: Path) -> None:
    file, _ = fer_csv(tmp_path / "fer")
    with pytest.raises(InputError, match=r"votes need FER\+'s table fer2013new.csv beside"):
        read(str(file), ReadOptions(votes="majority"))
    counts = np.zeros((14, 10), dtype=int)
    counts[np.arange(14), [7, 0] * 7] = 10  # contempt, neutral
    frame = pd.DataFrame(counts, columns=ANSWERS)
    frame.insert(0, "Usage", "Training")
    frame.insert(1, "Image name", [f"fer{i:07d}.png" for i in range(14)])
    frame.to_csv(file.parent / "fer2013new.csv", index=False)
    manifest = read(str(file), ReadOptions(votes="majority"))
    assert manifest.table["label"].tolist() == ["contempt", "neutral"] * 7
    frame.iloc[:-1].to_csv(file.parent / "fer2013new.csv", index=False)
    with pytest.raises(InputError, match="has 13 rows and FER2013 14"):
        read(str(file), ReadOptions(votes="majority"))


# Archives


GOOD = {"set/sad/1.png": b"a", "set/happy/1.png": b"bb", "__MACOSX/set/sad/._1.png": b"junk"}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["my.faces.zip", "my.faces.tgz", "my.faces.tar.gz"])
def test_an_archive_is_unpacked_once(tmp_path: Path, name: str) -> None:
    file = pack(tmp_path / name, GOOD)
    manifest = read(str(file))
    assert manifest.name == "my.faces"
    assert manifest.table["path"].tolist() == ["happy/1.png", "sad/1.png"]
    assert manifest.file(0).read_bytes() == b"bb"
    assert manifest.root.is_relative_to(cache_root() / "unpacked")
    manifest.file(0).write_bytes(b"still this one")
    assert read(f"folder:{file}").file(0).read_bytes() == b"still this one"
    pack(file, {**GOOD, "set/fear/1.png": b"c"})  # another archive under the same name
    assert len(read(str(file))) == 3


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "sad/../../evil.png", "..\\evil.png", "C:/evil.png"])
def test_a_member_that_leaves_the_folder_is_refused_before_anything_stays(tmp_path: Path, kind: str, name: str) -> None:
    file = pack(tmp_path / f"a.{kind}", {**GOOD, name: b"evil"})
    before = {p for p in tmp_path.rglob("*") if p.name.startswith("evil")}
    with pytest.raises(InputError, match=r"the member .*evil\.png' leads out of the archive's folder"):
        read(str(file))
    assert {p for p in tmp_path.rglob("*") if p.name.startswith("evil")} == before == set()
    assert [p for p in (cache_root() / "unpacked").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("sad/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match=r"the member 'sad/1.png' is a link or a device"):
        read(str(tmp_path / "a.tar"))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("sad/1.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match=r"the member 'sad/1.png' is a link or a device"):
        read(str(tmp_path / "a.zip"))


def test_an_archive_that_is_too_large_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pack(tmp_path / "a.zip", {"sad/1.png": bytes(3_000_000)})
    monkeypatch.setenv(LIMIT_VARIABLE, "0.002")
    with pytest.raises(InputError, match=f"takes more than the limit of 0.002 GB .{LIMIT_VARIABLE}."):
        unpack(file)
    (tmp_path / "b.zip").write_bytes(file.read_bytes()[:200])
    (tmp_path / "c.tgz").write_bytes(b"not an archive at all")
    for name in ("b.zip", "c.tgz"):
        with pytest.raises(InputError, match=f"cannot unpack .*{name}"):
            unpack(tmp_path / name)
    assert [p for p in (cache_root() / "unpacked").iterdir() if p.is_dir()] == []


def test_korean_names_from_windows(tmp_path: Path) -> None:
    """Windows writes Korean names as cp949 without saying so."""
    raw = "기쁨".encode("cp949")
    file = pack(tmp_path / "a.zip", {"HHHH/1.png": b"x", "sad/1.png": b"y"})
    file.write_bytes(file.read_bytes().replace(b"HHHH", raw))
    assert read(str(file)).classes == ("happy", "sad")


# The real sets


def real(name: str) -> Path:
    folder = os.environ.get("EMOTION_DATA_DIR")
    if not folder:
        pytest.skip("EMOTION_DATA_DIR is not set: the real photographs are not part of the project")
    if not (Path(folder) / name).exists():
        pytest.skip(f"{name} is not in EMOTION_DATA_DIR")
    return Path(folder) / name


def test_real_fer2013() -> None:
    manifest = read(str(real("fer2013.zip")))
    assert (manifest.name, len(manifest), len(manifest.classes)) == ("fer2013", 32137, 7)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 28558, "validation": 3579}
    soft = read(str(real("fer2013.zip")), ReadOptions(votes="soft"))
    assert soft.classes[-1] == "contempt"
    assert soft.votes is not None
    np.testing.assert_allclose(soft.votes.sum(axis=1), 1)


def test_real_chat_uos() -> None:
    manifest = read(str(real("chat_uos.tgz")))
    assert (manifest.name, len(manifest)) == ("chat_uos", 299)
    assert manifest.classes == ("angry", "happy", "sad", "surprise", "neutral")
    assert {"race", "gender"} <= set(manifest.groups)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 270, "test": 29}
