"""Which files are images, whatever their names; what is left out, and counted; links and odd names."""

import io
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.audit import audit, run_check
from datamodules.cache import build_cache, decoding_notes
from datamodules.describe import image_headers
from datamodules.errors import InputError
from datamodules.files import image_files as module
from datamodules.files.image_files import (
    ENDINGS,
    HEAD,
    collect_left_out,
    image_files,
    image_format,
    list_images,
    missing_decoder,
)
from datamodules.files.images import decode_file
from datamodules.files.paths import FileLookup, cache_root, on_disk, path_text
from datamodules.manifest import Manifest, make_manifest
from datamodules.readers import ReadOptions, read
from datamodules.unlabelled import find_images, photographs

HEIC = bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(200)
WRITTEN = [name for name in ENDINGS if name not in ("MPO", "HEIF") and not missing_decoder(name)]


def encoded(name: str, seed: int = 0) -> bytes:
    """Return the bytes of a small image in one of Pillow's formats."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name)
    return buffer.getvalue()


def write(path: Path, content: bytes | None = None, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded("PNG", seed) if content is None else content)
    return path


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_is_known_by_its_first_bytes_and_decoded_under_any_name(tmp_path: Path, name: str) -> None:
    content = encoded(name)
    assert image_format(content[:HEAD]) == name
    for file in ("x", "x.PNG", "x.12", "x.from_a_browser"):
        write(tmp_path / file, content)
        assert decode_file(tmp_path / file).format == name
    assert list_images(tmp_path).files == ["x", "x.12", "x.PNG", "x.from_a_browser"]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (HEIC, "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", ""),
        (b"BM is how this text begins, and it is none", ""),
        (b"P1 generation", "PPM"),  # not told apart by two letters; the decoder refuses it
        (b"Preface", ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0", ""),
        (b"\xd7\xcd\xc6\x9a\0\0", ""),  # WMF
        (b"", ""),
    ],
)
def test_containers_and_texts_are_told_apart(head: bytes, name: str) -> None:
    assert image_format(head[:HEAD]) == name


def test_what_is_left_out_is_counted_by_ending_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_decoder", lambda name: module.NOT_HEIF if name == "HEIF" else "")
    for file in (
        "a/1.png",
        "a/2.JFIF",
        "b/3",
        "b/.hidden.png",
        "b/._3",
        "__MACOSX/a/1.png",
        "a/.git/x.png",
        "@eaDir/t.jpg",
    ):
        write(tmp_path / file)
    for file in ("a/Thumbs.db", "a/desktop.ini", ".DS_Store", "a/.DS_Store"):
        write(tmp_path / file, b"x")
    write(tmp_path / "a/IMG_1.HEIC", HEIC)
    write(tmp_path / "b/shared", HEIC)
    write(tmp_path / "film.mp4", b"x")
    write(tmp_path / "raw.dng", encoded("TIFF"))  # TIFF by its first bytes, but a thumbnail
    write(tmp_path / "notes.txt", b"x")
    write(tmp_path / "more.txt", b"x")
    write(tmp_path / "a/nothing", b"")
    write(tmp_path / "a/words", b"only words")
    write(tmp_path / "a/2.png.part", encoded("PNG"))
    with collect_left_out() as left_out:
        assert image_files(tmp_path) == ["a/1.png", "a/2.JFIF", "b/3"]
    assert left_out.line == (
        "9 files left out: 2 .txt, 1 without ending (empty), "
        f"1 without ending ({module.NOT_HEIF}), 1 without ending (text), "
        f"1 .dng (not supported, convert to JPEG or PNG), "
        f"1 .heic ({module.NOT_HEIF}), 1 .mp4 (a video), 1 .part (an unfinished download)"
    )
    assert "pip install" in left_out.line


def test_known_endings_are_taken_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        write(tmp_path / f"{index}.jpg", b"not opened")
    write(tmp_path / "list.json", b"{}")
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("a file was opened"))
    assert len(list_images(tmp_path).files) == 5


def test_many_endings_make_one_line_of_bounded_length(tmp_path: Path) -> None:
    for index in range(40):
        write(tmp_path / f"frame.{index:03d}x", b"\0\1\2")
    write(tmp_path / "1.png")
    listing = list_images(tmp_path)
    line = module.left_out_line(listing.left_out)
    assert line.startswith("40 files left out: 1 .000x, ")
    assert line.endswith("24 with 24 other endings")


def test_every_reader_notes_what_it_leaves_out_and_an_error_names_it(tmp_path: Path) -> None:
    for label in ("sad", "happy"):
        for index in range(2):
            write(tmp_path / f"set/{label}/{label}_{index}.png", seed=index)
        write(tmp_path / f"set/{label}/clip.MOV", b"x")
    assert "2 files left out: 2 .mov (a video)" in read(str(tmp_path / "set")).notes
    by_name = read(f"pattern:{tmp_path / 'set'}", ReadOptions(pattern=r"(?P<label>[a-z]+)_"))
    assert "2 files left out: 2 .mov (a video)" in by_name.notes
    write(tmp_path / "films/happy/1.mp4", b"x")
    with pytest.raises(InputError, match=r"no images found .*; 1 file left out: 1 .mp4 \(a video\)"):
        read(str(tmp_path / "films"))


# Links


def test_links_out_of_the_users_own_folder_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "store/1.png")
    write(tmp_path / "store/2.png", seed=1)
    write(tmp_path / "set/sad/0.png", seed=2)
    (tmp_path / "set/happy").symlink_to(tmp_path / "store")
    (tmp_path / "set/sad/9.png").symlink_to(tmp_path / "store/1.png")
    (tmp_path / "set/sad/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set/sad/self").symlink_to("self")
    (tmp_path / "set/sad/up").symlink_to(tmp_path)  # a loop, and all of it again
    manifest = read(str(tmp_path / "set"))
    assert manifest.table["path"].tolist()[:2] == ["happy/1.png", "happy/2.png"]
    assert {"sad/0.png", "sad/9.png"} <= set(manifest.table["path"])
    assert not [path for path in manifest.table["path"] if path.startswith("sad/up/set/")]
    assert any("(a broken link)" in note for note in manifest.notes)
    assert not (build_cache(manifest, 8).index["error"] != "").any()
    assert manifest.file(0) == (tmp_path / "store/1.png").resolve()


def test_a_folder_is_listed_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    write(tmp_path / "z/1.png")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "z/above").symlink_to("..")
    assert image_files(tmp_path) == ["z/1.png"]


def test_links_in_unpacked_archives_may_not_lead_out(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.png")
    root = cache_root() / "unpacked" / "planted"
    write(root / "sad/1.png")
    (root / "happy").mkdir()
    (root / "happy/1.png").symlink_to(secret)
    with pytest.raises(InputError, match=r"may not leave .* through a symlink"):
        read(str(root))


# Names


def test_names_that_are_not_utf8_are_stored_and_shown_with_their_bytes(tmp_path: Path) -> None:
    korean = "기쁨".encode("cp949")
    for folder, label in ((os.fsencode(tmp_path) + b"/set/" + korean, 0), (os.fsencode(tmp_path) + b"/set/sad", 1)):
        os.makedirs(folder)
        for index in range(2):
            with open(folder + b"/caf\xe9_%d.png" % index, "wb") as file:
                file.write(encoded("PNG", 2 * label + index))
    shown = "".join(f"\\x{byte:02x}" for byte in korean)
    manifest = read(str(tmp_path / "set"), ReadOptions(aliases={shown: "happy"}))
    assert manifest.table["path"].tolist()[0] == f"{shown}/caf\\xe9_0.png"
    assert manifest.classes == ("happy", "sad")
    cache = build_cache(manifest, 8)
    assert (cache.index["error"] == "").all()
    assert not audit(manifest, cache).errors
    for ending in ("csv", "parquet"):
        again = Manifest.load(manifest.save(tmp_path / f"saved.{ending}"))
        assert again.fingerprint() == manifest.fingerprint()
        assert decode_file(again.file(0)).format == "PNG"
    images = find_images(str(tmp_path / "set"))
    answers = list(photographs(images))
    assert [photo.read().shape for photo in answers] == [(24, 32, 3)] * 4
    pd.DataFrame({"path": [photo.path for photo in answers]}).to_csv(tmp_path / "out.csv")  # as predictions are


def test_text_of_a_name_is_found_again_and_its_own_letters_come_first(tmp_path: Path) -> None:
    raw = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png")
    Path(raw).touch()
    assert path_text(raw) == f"{tmp_path}/a\\xff.png"
    assert os.fspath(on_disk(path_text(raw))) == raw
    (tmp_path / "a\\xff.png").touch()
    assert on_disk(path_text(raw)) == tmp_path / "a\\xff.png"


@pytest.mark.parametrize("name", ["a, b.png", 'quo"te.png', "new\nline.png", " space.png", "100% #1.png", "café.png"])
def test_odd_names_go_through_every_table(tmp_path: Path, name: str) -> None:
    for label in ("sad", "happy"):
        write(tmp_path / label / name, seed=len(label))
    manifest = read(str(tmp_path))
    assert Manifest.load(manifest.save(tmp_path / "m.csv")).table.equals(manifest.table)
    assert (build_cache(manifest, 8).index["error"] == "").all()


def test_file_lookup_composes_letters_and_ignores_case(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "표정/가.JPG")
    for file in (apart, "Bilder/b.png", "Bilder/B.PNG", "c.png"):
        write(tmp_path / file)
    write(tmp_path / "d" / "e.png")
    lookup = FileLookup(tmp_path)
    assert lookup.find("표정/가.jpg") == apart
    assert lookup.find("표정/가.JPG") == lookup.find(apart) == apart
    assert lookup.find("bilder/b.png") == "Bilder/b.png"
    assert lookup.find("Bilder/b.PNG") is None  # two files fit
    assert lookup.find("C.PNG") == "c.png"
    assert [lookup.find(path) for path in ("../x.png", "d/../c.png", "/c.png", "", "d", "d/none.png")] == [None] * 6
    assert lookup.files("d") == ["e.png"]
    assert lookup.files("none") == []


# Prediction


def test_predict_reads_a_folder_as_training_does(tmp_path: Path) -> None:
    for file in ("a/1.jpg", "a/._1.jpg", "__MACOSX/a/._1.jpg", "b"):
        write(tmp_path / file)
    write(tmp_path / "a/clip.mp4", b"x")
    with collect_left_out() as left_out:
        assert find_images(str(tmp_path)) == [tmp_path / name for name in image_files(tmp_path)]
    assert left_out.line == "1 file left out: 1 .mp4 (a video)"
    write(tmp_path / "none/notes.txt", b"x")
    with pytest.raises(InputError, match=r"has no image \(1 file left out: 1 .txt\)"):
        find_images(str(tmp_path / "none"))


def test_predict_takes_the_images_and_videos_among_the_matches_of_a_glob(tmp_path: Path) -> None:
    one, film, deep = write(tmp_path / "1.PNG"), write(tmp_path / "2.mp4", b"x"), write(tmp_path / "deep/3")
    write(tmp_path / "notes.txt", b"x")
    with collect_left_out() as left_out:
        assert find_images(f"{tmp_path}/*") == [one, film, deep]
        assert find_images(f"{tmp_path}/**/*") == [one, film, deep]
    assert left_out.line.endswith(".txt")
    with pytest.raises(InputError, match=r"no image or video matches .* \(1 file left out: 1 .txt\)"):
        find_images(f"{tmp_path}/*.txt")


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_predict_finds_the_names_of_a_table_in_other_spellings(tmp_path: Path, ending: str, separator: str) -> None:
    images = [write(tmp_path / unicodedata.normalize("NFD", "faces/가.JPG")), write(tmp_path / "b.png")]
    lines = [f"Image{separator}number", f"faces\\가.jpg{separator}1", f"{tmp_path}/b.png{separator}2"]
    (tmp_path / f"list.{ending}").write_text("\n".join(lines) + "\n")
    assert find_images(str(tmp_path / f"list.{ending}")) == [image.resolve() for image in images]


def test_a_table_may_still_not_lead_out(tmp_path: Path) -> None:
    write(tmp_path / "secret.png")
    write(tmp_path / "set/a.png")
    table = pd.DataFrame({"path": ["a.png", "../secret.png"], "label": ["sad", "happy"]})
    with pytest.raises(InputError, match="may not leave"):
        make_manifest(table, tmp_path / "set", name="set")


# What the check says of decoding


def test_check_agrees_with_decoding(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for label in ("sad", "happy"):
        for index in range(2):
            write(tmp_path / f"set/{label}/{index}.png", seed=index + 2 * len(label))
    noise = np.random.default_rng(9).integers(0, 4096, (32, 32)).astype(np.uint16)
    Image.fromarray(noise).save(tmp_path / "set/sad/camera.png")
    Image.fromarray(noise.astype(np.uint8)).resize((80, 60)).save(tmp_path / "set/sad/large.jpg")
    Image.fromarray(noise.astype(np.uint8)).resize((60, 80)).save(tmp_path / "set/sad/large.png")
    (tmp_path / "set/happy/page.jpg").write_text("<html>403</html>")
    manifest = read(str(tmp_path / "set"))
    cache = build_cache(manifest, 16, pixel_limit=2000)
    report = audit(manifest, cache, near=False)
    found = {kind: [manifest.table["path"].iloc[row] for (row,) in report.of(kind)] for kind in report.findings["kind"]}
    assert found == {
        "unreadable": ["happy/page.jpg", "sad/large.png"],
        "16 bits, few used": ["sad/camera.png"],
        "decoded smaller": ["sad/large.jpg"],
    }
    notes = " ".join(decoding_notes(cache))
    assert "1 images of 16 bits use 12" in notes
    assert "1 images have more than 2,000 pixels" in notes
    assert run_check(manifest, near=False) == 1  # at the usual limit
    assert "it holds a web page (HTML)" in capsys.readouterr().out


def test_headers_of_all_formats_are_read(tmp_path: Path) -> None:
    for label, name in zip(("sad", "happy"), ("AVIF", "JPEG2000"), strict=True):
        write(tmp_path / label / "x", encoded(name))
    headers = image_headers(read(str(tmp_path)))
    assert headers["width"].tolist() == [32, 32]
    assert sorted(headers["format"]) == ["AVIF", "JPEG2000"]
