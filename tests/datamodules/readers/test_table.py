"""Tables as people have them: names spelt otherwise, images elsewhere, other encodings, boxes, several tables."""

import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.cache import build_cache
from datamodules.duplicates import find_clusters
from datamodules.errors import InputError
from datamodules.files.lookup import locate
from datamodules.files.tables import read_table
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read
from datamodules.readers import table as table_reader
from datamodules.readers.table import part_of
from datamodules.unlabelled import find_images

Plant = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))


def table(root: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return root / name


def paths(file: Path, options: ReadOptions | None = None) -> list[str]:
    return read(str(file), options or ReadOptions()).table["path"].tolist()


# Where the files are


@pytest.mark.parametrize(
    ("files", "names", "found", "note"),
    [
        (("images/a.png", "images/b.png"), ("a.png", "b.png"), ("images/a.png", "images/b.png"), "found in images/"),
        (("deep/er/a.png", "deep/er/b.png"), ("a.png", "b.png"), ("deep/er/a.png", "deep/er/b.png"), "in deep/er/"),
        (("a.png", "b.png"), ("images/a.png", "images/b.png"), ("a.png", "b.png"), "without images/ at their start"),
        (
            ("img/a.png", "img/b.png"),
            ("images/a.png", "images/b.png"),
            ("img/a.png", "img/b.png"),
            "images found in img/",
        ),
        (("x/sad/a.png", "x/b/a.png"), ("sad/a.png", "b/a.png"), ("x/sad/a.png", "x/b/a.png"), "images found in x/"),
        (("sad/a.png", "joy/b.png"), ("a.png", "b.png"), ("sad/a.png", "joy/b.png"), "found in 2 subfolders"),
        (
            ("a.png", "b.png"),
            ("C:\\Users\\me\\a.png", "C:\\Users\\me\\b.png"),
            ("a.png", "b.png"),
            "without C:/Users/me/",
        ),
        (
            ("img/a.png", "img/b.png"),
            ("/gone/img/a.png", "/gone/img/b.png"),
            ("img/a.png", "img/b.png"),
            "without gone/",
        ),
        (("12.png", "7.jpg"), ("12", "7"), ("12.png", "7.jpg"), "1 names completed with .jpg (7.jpg for 7)"),
        (
            ("0012.png", "0007.png"),
            ("12", "7"),
            ("0012.png", "0007.png"),
            "completed with .png, ignoring leading zeros",
        ),
        (("a.v2.png", "b.png"), ("a.v2", "b.png"), ("a.v2.png", "b.png"), "1 names completed with .png"),
        (("a.JPG", "b.Jpeg"), ("a.jpg", "b.jpeg"), ("a.JPG", "b.Jpeg"), "2 names in another case (a.JPG for a.jpg)"),
        (("A/x.png", "A/y.png"), ("a/x.png", "a/y.png"), ("A/x.png", "A/y.png"), "in folders spelt differently"),
        (("a.png", "b.png"), ("a.jpg", "b.jpg"), ("a.png", "b.png"), "2 names with another ending"),
        (("a.png", "b.png"), ("a.png ", " b.png"), ("a.png", "b.png"), "2 names without the spaces around them"),
        (("a.png", "A.png"), ("A.png", "a.png"), ("A.png", "a.png"), None),
        (("x/a.png", "x/b.png"), ("./x/a.png", "x//b.png"), ("x/a.png", "x/b.png"), None),
    ],
)
def test_names_are_understood_where_one_file_fits(
    plant: Plant, files: tuple[str, ...], names: tuple[str, str], found: tuple[str, str], note: str | None
) -> None:
    root = plant(*files)
    file = table(root, f"path,label\n{names[0]},sad\n{names[1]},happy\n")
    manifest = read(str(file))
    assert manifest.table["path"].tolist() == list(found)
    assert manifest.root == root
    assert len(manifest.notes) == (note is not None)
    assert note is None or note in manifest.notes[0]
    assert find_images(str(file)) == [root / path for path in found]  # predict reads the same


def test_hangul_that_a_mac_took_apart(plant: Plant) -> None:
    name = unicodedata.normalize("NFD", "표정/행복.png")
    root = plant(name, "b.png")
    file = table(root, f"path,label\n{unicodedata.normalize('NFC', name)},happy\nb.png,sad\n")
    assert paths(file) == [name, "b.png"]


def test_absolute_paths_below_the_folder_and_elsewhere(plant: Plant, tmp_path: Path) -> None:
    root, other = plant("x/a.png", "b.png"), plant("x/a.png", "b.png", under="other")
    file = table(root, f"path,label\n{root}/x/a.png,sad\n{root}/b.png,happy\n")
    assert paths(file) == ["x/a.png", "b.png"]
    (tmp_path / "link").symlink_to(root)
    assert paths(tmp_path / "link/t.csv") == ["x/a.png", "b.png"]
    file = table(root, f"path,label\n{other}/x/a.png,sad\n{other}/b.png,happy\n")
    with pytest.raises(InputError, match=rf"2 of 2 names lead out of .* with --images {other}"):
        read(str(file))
    manifest = read(str(file), ReadOptions(images=str(other)))
    assert (manifest.root, manifest.table["path"].tolist()) == (other, ["x/a.png", "b.png"])


@pytest.mark.parametrize("name", ["../images/{}", "{}", "images/{}", "set/images/{}"])
def test_images_beside_the_folder_of_the_table(plant: Plant, tmp_path: Path, name: str) -> None:
    images = plant("a.png", "b.png", under="images")
    file = table(tmp_path / "annotations", f"path,label\n{name.format('a.png')},sad\n{name.format('b.png')},happy\n")
    with pytest.raises(InputError, match="give the folder of the images with --images") as error:
        read(str(file))
    manifest = read(str(file), ReadOptions(images=str(images)))
    assert (manifest.root, manifest.table["path"].tolist()) == (images, ["a.png", "b.png"])
    if name != "set/images/{}":  # the folder that the error names is the right one
        advised = str(error.value).rsplit("--images ", 1)[1]
        assert read(str(file), ReadOptions(images=advised)).root == images


def test_names_that_climb_from_a_folder_above_both(plant: Plant, tmp_path: Path) -> None:
    root = plant("table/own.png", "images/a.png")
    file = table(root, "path,label\nown.png,sad\n../images/a.png,happy\n", "table/t.csv")
    with pytest.raises(InputError, match=rf"1 of 2 names lead out of .* with --images {root}$"):
        read(str(file))
    assert paths(file, ReadOptions(images=str(root))) == ["table/own.png", "images/a.png"]


def test_a_table_in_a_folder_of_its_own_below_the_given_one(plant: Plant) -> None:
    root = plant("images/a.png", "images/b.png")
    for name in ("../images/{}", "{}", "images/{}"):
        table(root, f"path,label\n{name.format('a.png')},sad\n{name.format('b.png')},happy\n", "annotations/labels.csv")
        assert paths(root) == ["images/a.png", "images/b.png"]


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (
            ("a.png",),
            ("x.png", "y.png"),
            r"2 of 2 names are not found, the first: 'x.png', 'y.png'; looked in .*/set and",
        ),
        (("a.png",), ("a.png", "y.png"), r"1 of 2 names are not found, the first: 'y.png'; .* --bad-records drop"),
        (("i/a.png",), ("a.png", "y.png"), r"1 of 2 names are not found.*looked in .*/set/i;"),
        (
            ("i/a.png", "i/b.png", "j/a.png", "j/b.png"),
            ("a.png", "b.png"),
            r"2 folders of .* i/, j/; choose one, such as",
        ),
        (("a.png", "a.jpg", "b.png"), ("a", "b"), r"Several files fit 'a': a.jpg, a.png"),
        (("01.png", "001.png", "2.png"), ("1", "2"), r"Several files fit '1': 001.png, 01.png"),
        (("s/a.png", "j/a.png", "j/b.png"), ("a.png", "b.png"), None),
        (("s/a.png", "j/a.png", "k/b.png"), ("a.png", "b.png"), r"Several files fit 'a.png': j/a.png, s/a.png"),
        (("a.png",), ("https://x.org/a.png", "http://x.org/b.png"), r"2 of 2 names are URLs, .* download"),
    ],
)
def test_names_that_are_not_understood(
    plant: Plant, files: tuple[str, ...], names: tuple[str, str], message: str | None
) -> None:
    file = table(plant(*files), f"path,label\n{names[0]},sad\n{names[1]},happy\n")
    if message is None:
        assert paths(file) == ["j/a.png", "j/b.png"]
        return
    with pytest.raises(InputError, match=message):
        read(str(file))


def test_the_option_for_another_folder_is_checked(plant: Plant) -> None:
    root = plant("sad/a.png", "happy/b.png")
    file = table(root, "path,label\nsad/a.png,sad\nhappy/b.png,happy\n")
    with pytest.raises(InputError, match="--images: must be a folder, got 'nowhere'"):
        read(str(file), ReadOptions(images="nowhere"))
    with pytest.raises(
        InputError, match="--images: is only for tables of file names, and this data set is read by 'folder'"
    ):
        read(f"folder:{root}", ReadOptions(images=str(root)))


def test_rows_without_a_file_are_left_out_on_request(plant: Plant) -> None:
    file = table(plant("a.png", "b.png"), "path,label\na.png,sad\nb.png,happy\nc.png,sad\n")
    manifest = read(str(file), ReadOptions(bad_records="drop"))
    assert manifest.table["path"].tolist() == ["a.png", "b.png"]
    assert manifest.notes == ("1 rows of t.csv left out: their files are not found",)


def test_nothing_is_found_through_a_name_that_climbs(plant: Plant, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    images = plant("a.png", under="images")
    for name in ("../secret.png", "x/../../secret.png", "..\\secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(InputError, match="lead out of"):
            locate([name], images)
        with suppress(InputError):
            assert locate([name], tmp_path / "set", images=images).paths == [None]


def test_folders_are_listed_once(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    root = plant(*(f"images/{number}.png" for number in range(300)))
    calls: list[object] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: (calls.append(place), real(place))[1])
    found = locate([str(number) for number in range(300)], root)
    assert found.paths == [f"images/{number}.png" for number in range(300)]
    assert len(calls) == 2


# How the table is written


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_and_separators_are_recognised(plant: Plant, separator: str, encoding: str) -> None:
    root = plant("행복.png", "b, c.png")
    rows = [["파일", "label", "더"], ["행복.png", "기쁨", "None"], ['"b, c.png"', "슬픔", ""]]
    file = table(root, "\r\n".join(separator.join(row) for row in rows) + "\r\n", encoding=encoding)
    manifest = read(str(file), ReadOptions(path_column="파일"))
    assert manifest.table["path"].tolist() == ["행복.png", "b, c.png"]
    assert manifest.table["label"].tolist() == ["happy", "sad"]
    assert manifest.table["더"].tolist() == ["None", ""]


def test_the_first_foreign_character_may_come_late(plant: Plant) -> None:
    root = plant("a.png", "행복.png")
    file = table(root, f"path,label,note\na.png,sad,{'long ' * 20_000}\n행복.png,happy,\n", encoding="cp949")
    assert paths(file)[-1] == "행복.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read the table .*: the file is empty"),
        (b"path,label\n", "t.csv has a header and no rows"),
        (b"a.png,sad\nb.png,happy\n", r"t.csv has no header: its first line is 'a.png, sad'; .* such as path,label"),
        (b"path,label\na.png,sad,x\nb.png,happy,y\n", "rows with more cells than its header"),
        (b"PK\x03\x04 and so on", "is an Excel workbook or an archive; save it as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\n", "placeholder of Git LFS; .*git lfs pull"),
        (b"label,pixels\nsad,1 2 3 4\n", "t.csv has pixels in place of files .* give it as --data fer2013:"),
        (b"path,label\n\xff\xff\xff.png,sad\n", "neither UTF-8, UTF-16 nor CP949"),
    ],
)
def test_tables_that_say_nothing(plant: Plant, content: bytes, message: str) -> None:
    root = plant("a.png", "b.png")
    (root / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(f"csv:{root / 't.csv'}")


@pytest.mark.parametrize("name", ["t.xlsx", "t.xls", "t.ods"])
def test_a_workbook_is_to_be_saved_as_csv(plant: Plant, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is a workbook; save it as CSV"):
        read(str(plant(name) / name))


def test_json_lines_of_an_image_folder(plant: Plant) -> None:
    root = plant("a.png", "b.png")
    lines = '{"file_name": "a.png", "label": "sad", "n": 3}\n\n{"file_name": "b.png", "label": "None", "n": null}\n'
    table(root, lines, "metadata.jsonl")
    manifest = read(str(root), ReadOptions(unknown_labels="keep"))
    assert manifest.table["label"].tolist() == ["sad", "None"]
    assert manifest.table["n"].tolist() == ["3", ""]
    table(root, "[1, 2]\n", "metadata.jsonl")
    with pytest.raises(InputError, match="line 1 must be an object"):
        read(str(root / "metadata.jsonl"))


def test_whole_numbers_beside_nulls_stay_whole(tmp_path: Path) -> None:
    pd.DataFrame({"file": [12, None, 7], "x": [0.5, None, 1.0]}).to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found["file"].dropna().astype(str).tolist() == ["12", "7"]
    assert found["x"].dropna().tolist() == [0.5, 1.0]


# Labels


def test_labels_that_are_numbers_are_listed_with_advice_that_works(plant: Plant) -> None:
    root = plant(*(f"{number}.png" for number in range(5)))
    file = table(root, "path,label\n0.png,0\n1.png,1\n2.png,1\n3.png,10\n4.png,sad\n")
    with pytest.raises(InputError, match=r"the labels are the numbers \(images\) 0 \(1\), 1 \(2\), 10 \(1\)") as error:
        read(str(file))
    advised = [word for word in str(error.value).split() if "=" in word]
    assert [word.split("=")[0] for word in advised] == ["0", "1", "10"]
    assert len(read(str(file), ReadOptions(aliases=dict(word.split("=") for word in advised)))) == 5


def test_a_minus_counts_in_a_label(plant: Plant) -> None:
    root = plant(*(f"{number}.png" for number in range(6)))
    file = table(root, "path,label\n" + "".join(f"{number}.png,{number % 3 - 1}\n" for number in range(6)))
    with pytest.raises(InputError, match=r"--alias=-1=CLASS --alias 0=CLASS --alias 1=CLASS"):
        read(str(file))
    some = {"0": "angry", "1": "happy"}
    with pytest.raises(InputError, match=r"the labels are the numbers \(images\) -1 \(2\)"):
        read(str(file), ReadOptions(aliases=some))
    found = read(str(file), ReadOptions(aliases={"-1": "neutral", **some})).table
    assert found["label"].tolist() == ["neutral", "angry", "happy"] * 2
    kept = read(str(file), ReadOptions(classes=["-1", "0", "1"], unknown_labels="keep"))
    assert kept.table["label"].tolist() == ["-1", "0", "1"] * 2


def test_whole_numbers_that_are_floats_are_named_without_a_point(plant: Plant) -> None:
    root = plant("a.png", "b.png")
    pd.DataFrame({"path": ["a.png", "b.png"], "label": [0.0, 1.0]}).to_parquet(root / "t.parquet")
    for aliases in ({"0": "happy", "1": "sad"}, {"0.0": "happy", "1.0": "sad"}):
        found = read(str(root / "t.parquet"), ReadOptions(aliases=aliases)).table
        assert found["label"].tolist() == ["happy", "sad"]


def test_spaces_around_a_person_do_not_make_another(plant: Plant) -> None:
    root = plant(*(f"{number}.png" for number in range(4)))
    file = table(root, "path,label,subject\n0.png,sad,S1\n1.png,happy,S1 \n2.png,sad, \n3.png,happy,\n")
    assert read(str(file)).table["subject"].tolist() == ["S1", "S1", "", ""]


def test_two_tables_of_one_folder_keep_their_boxes(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    for name, rows in (("a", (0, 1)), ("b", (2, 3))):
        lines = [f"{row}.png,{'sad' if row % 2 else 'happy'},5,5,35,35" for row in rows]
        table(tmp_path, "\n".join(["path,label,x0,y0,x1,y1", *lines]), f"{name}.csv")
    both = read(f"csv:{tmp_path / 'a.csv'}+csv:{tmp_path / 'b.csv'}")
    assert both.boxes is not None
    assert set(both.boxes["path"]) == set(both.table["path"]) == {f"{number}.png" for number in range(4)}
    assert both.plain_paths.str.startswith(("a/", "b/")).all()


def test_a_saved_table_with_a_class_of_its_own_is_read_without_some_images(plant: Plant, tmp_path: Path) -> None:
    root = plant(*(f"{number}.png" for number in range(6)))
    words = ["happy", "sad", "confused"] * 2
    file = table(root, "path,label\n" + "".join(f"{n}.png,{word}\n" for n, word in enumerate(words)))
    read(str(file), ReadOptions(unknown_labels="keep")).save(tmp_path / "kept.csv")
    table(tmp_path, "path\n0.png\n", "without.csv")
    found = read(str(tmp_path / "kept.csv"), ReadOptions(exclude=str(tmp_path / "without.csv")))
    assert len(found) == 5
    assert "confused" in found.classes


def test_fer2013_numbers_name_the_labels_of_a_table_of_files(plant: Plant) -> None:
    root = plant(*(f"{number}.png" for number in range(3)))
    table(root, "path,label\n0.png,0\n1.png,1\n2.png,2\n", "labels.csv")
    assert read(f"fer2013:{root}").table["label"].tolist() == ["angry", "disgust", "fear"]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ("a.png,1,0,0\nb.png,0,0,1\n", ["happy", "neutral"]),
        ("a.png,.2,.7,.1\nb.png,.5,.2,.3\n", ["sad", "happy"]),
        ("a.png,3,7,0\nb.png,,2,1\n", ["sad", "sad"]),
    ],
)
def test_columns_of_emotions_are_labels(plant: Plant, rows: str, labels: list[str]) -> None:
    file = table(plant("a.png", "b.png"), f"file,Happiness,sad,neutral\n{rows}")
    if len(set(labels)) > 1:
        manifest = read(str(file))
        assert manifest.table["label"].tolist() == labels
        assert manifest.notes == ("labels are the largest of the columns Happiness, sad, neutral",)
        assert not manifest.groups
    soft = read(str(file), ReadOptions(votes="soft")) if "3,7" not in rows else None
    assert soft is None or soft.votes is not None


def test_columns_of_emotions_that_tie_are_no_labels(plant: Plant) -> None:
    file = table(plant("a.png", "b.png", "c.png"), "file,happy,sad\na.png,1,1\nb.png,0,1\nc.png,1,0\n")
    with pytest.raises(InputError, match=r"row 1 below the header: .* got 1, 1; .* --votes majority --drop-ties"):
        read(str(file))
    kept = read(str(file), ReadOptions(votes="majority", drop_ties=True))
    assert kept.table["path"].tolist() == ["b.png", "c.png"]


# Rows


def test_repeated_rows_are_left_out_or_contradict(plant: Plant) -> None:
    root = plant("a.png", "b.png", "c.png")
    file = table(root, "path,label,split\na.png,sad,train\nA.PNG,sadness,train\nb.png,happy,test\n")
    manifest = read(str(file))
    assert manifest.table["path"].tolist() == ["a.png", "b.png"]
    assert "1 rows left out: they repeat the file and the label of another row" in manifest.notes
    file = table(root, "path,label,gender\na.png,sad,f\na.png,sad,m\nb.png,happy,m\n")
    (note,) = [note for note in read(str(file)).notes if "they repeat the file" in note]
    assert note.endswith("of gender, in which some of them differ, the first value is kept")
    file = table(root, "path,label\na.png,sad\na.png,happy\nb.png,happy\nc.png,sad\n")
    with pytest.raises(InputError, match=r"1 files have rows that differ in label: 'a.png' \(sad, happy\); keep one"):
        read(str(file))
    kept = read(str(file), ReadOptions(bad_records="drop"))
    assert kept.table["path"].tolist() == ["b.png", "c.png"]
    file = table(root, "path,label,split\na.png,sad,train\na.png,sad,test\nb.png,happy,test\n")
    with pytest.raises(InputError, match=r"differ in split: 'a.png' \(train, test\)"):
        read(str(file))


# Boxes


def photographs(root: Path, number: int = 2) -> Path:
    """Photographs of 60 x 40 pixels; each has a red and a green square of 10 pixels."""
    root.mkdir(exist_ok=True)
    for row in range(number):
        image = np.random.default_rng(row).integers(90, 130, (40, 60, 3), dtype=np.uint8)
        image[5:15, 5:15] = (255, 0, 0)
        image[20:30, 40:50] = (0, 255, 0)
        Image.fromarray(image).save(root / f"{row}.png")
    return root


BOXES = {
    "x0,y0,x1,y1": ("5,5,15,15", "40,20,50,30"),
    "x,y,w,h": ("5,5,10,10", "40,20,10,10"),
    "X Min,Y Min,X Max,Y Max": ("5,5,15,15", "40,20,50,30"),
    "left,top,right,bottom": ("5,5,15,15", "40,20,50,30"),
    "face_x,face_y,face_width,face_height": ("5,5,10,10", "40,20,10,10"),
    "bbox_x1,bbox_y1,bbox_x2,bbox_y2": ("5,5,15,15", "40,20,50,30"),
    "face_box_left,face_box_top,face_box_right,face_box_bottom": ("5.0,5.0,15.0,15.0", "40,20,50,30"),
}


def _faces(tmp_path: Path, columns: str = "x0,y0,x1,y1") -> tuple[Manifest, Path]:
    root = photographs(tmp_path / "set")
    red, green = BOXES[columns]
    rows = [f"{row}.png,{label},{box}" for row in (0, 1) for label, box in (("angry", red), ("happy", green))]
    file = table(root, "\n".join([f"path,label,{columns}", *rows]))
    return read(str(file), ReadOptions(face_size=20, face_margin=0.0)), file


@pytest.mark.parametrize("columns", BOXES)
def test_several_labelled_faces_of_an_image_are_cut_out(tmp_path: Path, columns: str) -> None:
    manifest, _ = _faces(tmp_path, columns)
    assert manifest.table["label"].tolist() == ["angry", "happy", "angry", "happy"]
    assert manifest.table["face_source"].tolist() == ["0.png", "0.png", "1.png", "1.png"]
    assert "4 labelled faces cut out of 2 images at their boxes; faces of one image stay in one part" in manifest.notes
    for row, colour in enumerate(((255, 0, 0), (0, 255, 0)) * 2):
        pixels = np.asarray(Image.open(manifest.file(row)).convert("RGB"), int)
        assert pixels.shape == (20, 20, 3)
        assert np.abs(pixels.mean((0, 1)) - colour).max() < 12
    assert not {"x0", "x", "left"} & set(manifest.table)


def test_faces_of_one_photograph_are_one_cluster(tmp_path: Path) -> None:
    manifest, file = _faces(tmp_path)
    cache = build_cache(manifest, 16, directory=tmp_path / "pixels", workers=0)
    assert cache.index["content"].nunique() == 4
    assert find_clusters(manifest, cache, near=False).tolist() == [0, 0, 1, 1]
    with pytest.raises(
        InputError, match=r"each row labels one face, and haar cannot tell which; leave --data.read.faces out"
    ):
        read(str(file), ReadOptions(faces="haar"))
    assert len(read(str(file), ReadOptions(faces="boxes", face_size=20))) == 4


def test_one_face_an_image_is_cut_on_request(tmp_path: Path) -> None:
    root = photographs(tmp_path / "set", 3)
    file = table(root, "path,label,x,y,w,h\n0.png,angry,5,5,10,10\n1.png,happy,40,20,10,10\n2.png,sad,-1,-1,0,0\n")
    whole = read(str(file))
    assert whole.boxes is not None
    assert whole.boxes[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [[5, 5, 15, 15], [40, 20, 50, 30]]
    assert whole.groups == ()
    crops = read(str(file), ReadOptions(faces="boxes", face_size=20, face_margin=0.0))
    colours = [np.asarray(Image.open(crops.file(row)).convert("RGB"), int).mean((0, 1)) for row in (0, 1)]
    assert np.abs(np.array(colours) - [(255, 0, 0), (0, 255, 0)]).max() < 12


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            ("5,5,15,15", "100,100,120,120"),
            r"box of row 1, 100, 100, 120, 120, lies outside of '0.png', which is 60x40",
        ),
        (("5,5,15,15", "50,5,40,15"), r"x0 < x1 and y0 < y1 must hold"),
        (("5,5,15,15", "5,5,15,15"), r"1 files have rows that differ in label: '0.png' \(angry, happy\)"),
    ],
)
def test_boxes_that_cannot_be_used(tmp_path: Path, boxes: tuple[str, str], message: str) -> None:
    root = photographs(tmp_path / "set", 1)
    file = table(root, f"path,label,x0,y0,x1,y1\n0.png,angry,{boxes[0]}\n0.png,happy,{boxes[1]}\n")
    with pytest.raises(InputError, match=message):
        read(str(file))


def test_faces_that_cannot_be_cut_are_left_out_on_request(tmp_path: Path) -> None:
    root = photographs(tmp_path / "set", 2)
    (root / "2.png").write_bytes(b"no image")
    rows = ["0.png,angry,5,5,15,15", "0.png,happy,100,100,120,120", "1.png,sad,5,5,15,15", "2.png,sad,5,5,15,15"]
    file = table(root, "\n".join(["path,label,x0,y0,x1,y1", *rows, "0.png,sad,20,5,30,15"]))
    with pytest.raises(InputError, match=r"2 of 5 faces cannot be cut out, the first: the box of row 1.*--bad-records"):
        read(str(file))
    manifest = read(str(file), ReadOptions(bad_records="drop"))
    assert manifest.table["label"].tolist() == ["angry", "sad", "sad"]
    assert all(manifest.file(row).is_file() for row in range(3))
    (note,) = [note for note in manifest.notes if "left out" in note]
    assert note.startswith("2 faces left out that cannot be cut out, the first: the box of row 1, 100, 100, 120, 120")


def test_shares_of_the_image_are_no_boxes(tmp_path: Path) -> None:
    root = photographs(tmp_path / "set")
    file = table(root, "path,label,x,y,w,h\n0.png,angry,.1,.1,.2,.2\n1.png,happy,.5,.5,.2,.2\n")
    manifest = read(str(file))
    assert manifest.boxes is None
    assert (
        "the columns x, y, w, h are not used as face boxes: they must be pixels, and no value is above 1"
        in manifest.notes
    )


# Several tables


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("train_labels", "train"),
        ("val-2", "validation"),
        ("test-00000-of-00002", "test"),
        ("all", ""),
    ],
)
def test_the_part_in_a_name(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("where", ["{}.csv", "{}_labels.csv", "{}/metadata.csv"])
def test_a_table_a_part(plant: Plant, where: str) -> None:
    root = plant(*(f"{part}/{number}.png" for part in ("train", "val", "test") for number in (1, 2)))
    for part in ("train", "val", "test"):
        table(root, "file_name,label\n1.png,sad\n2.png,happy\n", where.format(part))
    manifest = read(str(root))
    found = dict(zip(manifest.table["path"], manifest.table["split"], strict=True))
    parts = {"train": "train", "val": "validation", "test": "test"}
    assert found == {f"{part}/{number}.png": name for part, name in parts.items() for number in (1, 2)}
    assert "read from " in manifest.notes[0]


def test_a_table_without_labels_is_left_for_predict(plant: Plant) -> None:
    root = plant("a.png", "b.png", "c.png")
    table(root, "path,label\na.png,sad\nb.png,happy\n", "train.csv")
    table(root, "path\nc.png\n", "test.csv")
    manifest = read(str(root))
    assert len(manifest) == 2
    assert manifest.notes == (
        f"test.csv left out: it has no label; `emotion predict RUN {root}/test.csv` classifies its images",
    )
    assert find_images(str(root / "test.csv")) == [root / "c.png"]


def test_tables_that_are_no_parts_are_listed_with_a_command(plant: Plant) -> None:
    root = plant("a.png", "b.png", under="two words")
    for name in ("one.csv", "two.csv"):
        table(root, "path,label\na.png,sad\nb.png,happy\n", name)
    with pytest.raises(InputError, match=r"holds several tables \(one.csv, two.csv\); .* --data '.*two words/one.csv'"):
        read(str(root))


@pytest.mark.parametrize("content", [b"", b"name,size\nsad,1\n", b"\xff\xff", b"a,b\n1,2,3\n"])
@pytest.mark.parametrize("name", ["metadata.csv", "some.csv", "train/labels.csv"])
def test_other_tables_do_not_hide_class_folders(plant: Plant, content: bytes, name: str) -> None:
    root = plant("train/sad/a.png", "train/happy/b.png", name)
    (root / name).write_bytes(content)
    assert read(str(root)).table["label"].tolist() == ["happy", "sad"]


def test_votes_of_one_annotator_a_row_are_not_lost(plant: Plant) -> None:
    rows = "a.png,1,0\na.png,0,1\na.png,0,1\nb.png,1,0\nc.png,0,1\n"
    file = table(plant("a.png", "b.png", "c.png"), f"path,votes_happy,votes_sad\n{rows}")
    with pytest.raises(InputError, match=r"1 files have rows that differ in votes_happy: 'a.png' \(1, 0\)"):
        read(str(file), ReadOptions(votes="majority"))
    kept = read(str(file), ReadOptions(votes="majority", bad_records="drop"))
    assert kept.table["path"].tolist() == ["b.png", "c.png"]


def test_one_table_an_image_is_not_opened_for_each(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant("1.png", "2.png")
    for number in range(200):
        table(root, "x,y\n1,2\n", f"annotations/{number}.csv")
    table(root, "path,label\n1.png,happy\n2.png,sad\n" + "\n" * 10, "annotations/zz.csv")
    opened: list[object] = []
    real = table_reader.read_table
    monkeypatch.setattr(table_reader, "read_table", lambda *a, **b: (opened.append(a), real(*a, **b))[1])
    assert [path.name for path in table_reader.find_tables(root)] == ["zz.csv"]
    assert len(opened) <= 50
