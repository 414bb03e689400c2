"""AI-Hub's Korean set: its miniature read as the set is, who is taken, how it is divided, and what breaks it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read, recognise
from datamodules.synthetic import KOREAN, DrawnScenes, draw_scene
from datamodules.synthetic.scenes import prepare_korean
from emotion.cli.data import main

SPEC = DrawnScenes(images=84, size=96, seed=3, subjects=30, confusion=0.45, others=0, distractors=0)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_korean(SPEC, tmp_path_factory.mktemp("korean"))


@pytest.fixture(scope="module")
def records(miniature: Path) -> list[dict]:
    files = sorted(miniature.rglob("*.json"))
    return [record for file in files for record in json.loads(file.read_bytes().decode("utf-8-sig"))]


# What the miniature is


def test_the_miniature_has_the_layout_of_the_set(miniature: Path, records: list[dict]) -> None:
    assert (miniature / "Training/[라벨]EMOIMG_기쁨_TRAIN/img_emotion_training_data(기쁨).json").is_file()
    assert list((miniature / "Training/[원천]EMOIMG_상처_TRAIN_01").glob("*_상처_*.jp*g"))
    assert list((miniature / "Validation").glob("[[]원천]EMOIMG_*_VALID/*.jp*g"))
    marks = Counter(file.read_bytes().startswith(b"\xef\xbb\xbf") for file in miniature.rglob("*.json"))
    assert min(marks.values()) >= 3
    assert len(records) == 84
    kept = {"filename", "gender", "age", "isProf", "faceExp_uploader", "bg_uploader", "annot_A", "annot_B", "annot_C"}
    assert all(set(record) == kept for record in records)
    assert {tuple(sorted(record["annot_B"]["boxes"])) for record in records} == {("maxX", "maxY", "minX", "minY")}
    agreed = Counter(len({record[f"annot_{a}"]["faceExp"] for a in "ABC"}) for record in records)
    assert set(agreed) == {1, 2, 3}, "some images are labelled differently, some by everybody"


def test_the_miniature_is_drawn_once(miniature: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in miniature.rglob("*.*")}
    assert prepare_korean(SPEC, miniature.parent) == miniature
    assert {file: file.stat().st_mtime_ns for file in miniature.rglob("*.*")} == before


# Reading


def test_labels_people_and_groups(miniature: Path, records: list[dict]) -> None:
    assert recognise(miniature) == "aihub"
    manifest = read(str(miniature))
    assert len(manifest) == 84
    assert set(manifest.classes) == set(KOREAN)
    table = manifest.table.set_index(manifest.table["path"].str.rsplit("/", n=1).str[-1])
    words = dict(zip(("기쁨", "분노", "슬픔", "불안", "당황", "상처", "중립"), KOREAN, strict=True))
    for record in records:
        row = table.loc[record["filename"]]
        assert row["label"] == words[record["faceExp_uploader"]]
        assert row["subject"] == record["filename"].split("_")[0]
        assert row["gender"] == {"여": "female", "남": "male"}[record["gender"]]
        assert row["age"] == f"{record['age']}s"
        answers = [record[f"annot_{a}"]["faceExp"] for a in "ABC"]
        assert row["agreement"] == str(answers.count(record["faceExp_uploader"]))
    assert set(manifest.table["published_split"]) == {"train", "validation"}
    assert set(manifest.groups) == {"gender", "age", "professional", "background", "agreement", "published_split"}


def test_votes_are_the_annotators_answers(miniature: Path, records: list[dict]) -> None:
    manifest = read(str(miniature), ReadOptions(votes="soft"))
    votes = dict(zip(manifest.table["path"].str.rsplit("/", n=1).str[-1], manifest.votes, strict=True))
    labels = dict(zip(manifest.table["path"].str.rsplit("/", n=1).str[-1], manifest.table["label"], strict=True))
    words = dict(zip(("기쁨", "분노", "슬픔", "불안", "당황", "상처", "중립"), KOREAN, strict=True))
    overruled = 0
    for record in records:
        answers = Counter(words[record[f"annot_{a}"]["faceExp"]] for a in "ABC")
        expected = [answers[label] / 3 for label in manifest.classes]
        assert np.allclose(votes[record["filename"]], expected)
        assert answers[labels[record["filename"]]] == max(answers.values())
        overruled += labels[record["filename"]] != words[record["faceExp_uploader"]]
    assert overruled > 3


def test_boxes_are_those_of_three_annotators_in_the_upright_picture(miniature: Path) -> None:
    manifest = read(str(miniature))
    assert manifest.boxes is not None
    assert Counter(manifest.boxes["path"]).most_common()[-1][1] == 3
    turned = 0
    for row, path in enumerate(manifest.table["path"]):
        number = int(path.rsplit("_", 1)[1][8:14])
        true = draw_scene(SPEC, number).boxes[0] if row % 4 == 0 else None
        seen = manifest.boxes[manifest.boxes["path"] == path]
        assert seen["annotator"].tolist() == ["A", "B", "C"]
        if true is not None:
            side = (true[2:] - true[:2]).max()
            assert np.abs(seen[["x0", "y0", "x1", "y1"]].to_numpy() - true).max() < 0.15 * side
        with Image.open(manifest.file(row)) as image:
            turned += image.getexif().get(0x0112, 1) == 6
            wide, high = ImageOps.exif_transpose(image).size
        assert seen["x1"].max() <= wide
        assert seen["y1"].max() <= high
    assert turned > 5


# Choosing


def test_agreement(miniature: Path) -> None:
    every = read(str(miniature)).table
    for least in (2, 3):
        manifest = read(str(miniature), ReadOptions(agreement=least))
        assert set(manifest.table["path"]) == set(every["path"][every["agreement"].astype(int) >= least])
        assert any(f"fewer than {least} annotators gave their label" in note for note in manifest.notes)
    chosen = read(str(miniature), ReadOptions(agreement=2, votes="majority")).table
    assert len(chosen) > (every["agreement"].astype(int) >= 2).sum(), "those that two annotators call otherwise stay"


def test_per_class_takes_the_agreed_first_and_the_same_ones_wherever_they_lie(miniature: Path, tmp_path: Path) -> None:
    every = read(str(miniature)).table
    agreed = every[every["agreement"] == "3"].groupby("label").size()
    few = int(agreed.min())
    chosen = read(str(miniature), ReadOptions(per_class=few))
    assert chosen.table.groupby("label").size().tolist() == [few] * 7
    assert set(chosen.table["agreement"]) == {"3"}
    more = read(str(miniature), ReadOptions(per_class=few + 3))
    assert more.table.groupby("label").size().tolist() == [few + 3] * 7
    assert set(chosen.table["path"]) < set(more.table["path"])
    for label, rows in more.table.groupby("label"):
        # a less agreed image is taken only where the more agreed ones are used up
        left = every[(every["label"] == label) & ~every["path"].isin(rows["path"])]
        assert left["agreement"].max() <= rows["agreement"].min()
    shutil.copytree(miniature, tmp_path / "moved")
    for folder in sorted((tmp_path / "moved" / "Training").iterdir()):
        folder.rename(folder.with_name(folder.name[::-1]))
    for file in (tmp_path / "moved").rglob("*.json"):  # and the records stand in another order
        file.write_text(json.dumps(json.loads(file.read_bytes().decode("utf-8-sig"))[::-1]))
    moved = read(str(tmp_path / "moved"), ReadOptions(per_class=few + 3))
    names = [{path.rsplit("/", 1)[1] for path in m.table["path"]} for m in (more, moved)]
    assert names[0] == names[1]
    plenty = read(str(miniature), ReadOptions(per_class=7000))
    assert len(plenty) == 84
    assert "class hurt has only 12 images, fewer than --per-class 7000" in plenty.notes


def test_people_stay_whole_in_parts_of_8_1_1(miniature: Path) -> None:
    manifest = read(str(miniature))
    assert manifest.table.groupby("subject")["split"].nunique().max() == 1
    shares = manifest.table["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.8, abs=0.06)
    assert shares["validation"] == pytest.approx(0.1, abs=0.05)
    assert shares["test"] == pytest.approx(0.1, abs=0.05)
    assert (manifest.table.groupby(["split", "label"]).size() > 0).sum() == 21
    assert read(str(miniature)).table["split"].tolist() == manifest.table["split"].tolist()
    assert any("84 of 84 images contain the person" in note for note in manifest.notes)


def test_drawn_scenes_are_a_source(workplace: Path) -> None:
    manifest = read("scenes:images=14,size=96,others=0,classes=happy+sad", ReadOptions(per_class=5))
    assert manifest.table["label"].value_counts().to_dict() == {"happy": 5, "sad": 5}
    assert len(manifest.boxes) == 30
    with pytest.raises(InputError, match=r"scenes: unknown key 'image', expected images.*did you mean images"):
        read("scenes:image=3")
    with pytest.raises(InputError, match="scenes: dim must be a number, got 'dark'"):
        read("scenes:dim=dark")
    with pytest.raises(InputError, match=r"drawn Korean set has 3 annotators and classes among happy, angry.*got 2"):
        read("scenes:annotators=2")


def test_the_command_line_takes_the_options(miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "chosen.csv"
    options = ["--agreement", "3", "--per-class", "2", "--bad-records", "drop", "--output", str(output)]
    assert main(["data", "prepare", "--data", f"aihub:{miniature}", *options]) == 0
    assert "14 images, 7 classes" in capsys.readouterr().out
    manifest = Manifest.load(output)
    assert len(manifest.boxes) == 42
    assert set(manifest.table["agreement"]) == {"3"}
    assert len(read(str(output), ReadOptions(per_class=1))) == 7
    assert read(str(output), ReadOptions(per_class=1)).boxes is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agreement": 4}, "--agreement: must be one of any, 2, 3, got 4"),
        ({"per_class": 0}, "--per-class: must be at least 1, got 0"),
        ({"per_class": 3, "part": 0.5}, "--data.read.part 0.5 and --per-class 3 both limit the number"),
        ({"bad_records": "ignore"}, "--bad-records: must be one of error, drop, got 'ignore'"),
    ],
)
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**options)


def test_agreement_needs_annotators(workplace: Path) -> None:
    with pytest.raises(InputError, match="drawn: --agreement 2 needs a data set with the answer of each annotator"):
        read("drawn:largest=2,ratio=1,size=32", ReadOptions(agreement=2))


# Sets of our own, with something wrong


def record(name: str, label: str = "기쁨", answers: str | None = None, box: tuple[float, ...] = (4, 5, 30, 40)) -> dict:
    corners = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
    given = (answers or " ".join([label] * 3)).split()
    annotations = {f"annot_{a}": {"boxes": dict(corners), "faceExp": g} for a, g in zip("ABC", given, strict=True)}
    return {"filename": name, "gender": "여", "age": 20, "isProf": "일반인", "faceExp_uploader": label, **annotations}


def write(folder: Path, held: object, encoding: str = "utf-8", name: str = "labels.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(json.dumps(held, ensure_ascii=False).encode(encoding))
    names = [r["filename"] for r in held if isinstance(r, dict) and "filename" in r] if isinstance(held, list) else []
    for file in names:
        Image.new("RGB", (40, 50)).save(folder / file, "JPEG")
    return folder


PAIR = [record("a.jpg"), record("b.jpg", "슬픔")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_any_of_the_encodings(tmp_path: Path, encoding: str) -> None:
    folder = write(tmp_path / "set", PAIR, encoding)
    for source in (folder, folder / "labels.json"):
        assert recognise(source) == "aihub"
        assert read(str(source)).table["label"].tolist() == ["happy", "sad"]


def test_text_of_no_encoding(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", PAIR, "utf-8")
    (folder / "labels.json").write_bytes(b'[{"annot_A": {"faceExp": "\xff\xfe\xff"}}]')
    with pytest.raises(InputError, match=r"labels.json is neither UTF-8 nor CP949 text"):
        read(str(folder))


@pytest.mark.parametrize("left", [0.5, 0.97])
def test_json_cut_short(tmp_path: Path, left: float) -> None:
    folder = write(tmp_path / "set", PAIR)
    whole = (folder / "labels.json").read_bytes()
    (folder / "labels.json").write_bytes(whole[: int(left * len(whole))])
    for drop in ("error", "drop"):
        with pytest.raises(InputError, match=r"labels.json is not whole JSON \(.*line 1, column .*download it again"):
            read(str(folder), ReadOptions(bad_records=drop))


def test_a_file_of_the_set_that_is_all_but_empty_is_not_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", PAIR)
    (folder / "img_emotion_training_data(상처).json").write_bytes(b'[{"file')
    with pytest.raises(InputError, match=r"data\(상처\).json is not whole JSON"):
        read(str(folder))
    (folder / "img_emotion_training_data(상처).json").unlink()
    (folder / "info.json").write_text("{}")
    assert "1 JSON files left out, they hold no annotators' answers; the first is info.json" in read(str(folder)).notes


def changed(key: str, value: object) -> dict:
    made = record("c.jpg", "슬픔")
    *path, last = key.split(".")
    place = made
    for part in path:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


BROKEN = [
    ("annot_B", None, "record 2: the key annot_B is missing; found filename, gender"),
    ("annot_B.faceExp", None, "record 2: the key annot_B.faceExp is missing; found boxes"),
    ("annot_A.boxes.maxX", None, "the key annot_A.boxes.maxX is missing; found minX, minY, maxY"),
    ("annot_C.boxes", [1, 2, 3, 4], r"annot_C.boxes must be an object with the key minX, got \[1, 2, 3, 4\]"),
    ("annot_C.boxes.minY", "high", "annot_C.boxes.minY must be a number, got 'high'"),
    ("annot_C.boxes.minX", 30, "annot_C.boxes must have minX < maxX and minY < maxY"),
    ("annot_A.faceExp", 3, "annot_A.faceExp must be a word, got 3"),
    ("faceExp_uploader", " ", "faceExp_uploader must be a word, got ' '"),
    ("filename", None, "the key filename is missing"),
    ("filename", "a.jpg", "filename 'a.jpg' was already named by labels.json"),
]


@pytest.mark.parametrize(("key", "value", "message"), BROKEN)
def test_a_broken_record_is_named_or_left_out(tmp_path: Path, key: str, value: object, message: str) -> None:
    folder = write(tmp_path / "set", [*PAIR, changed(key, value)])
    with pytest.raises(InputError, match=message) as raised:
        read(str(folder))
    assert "bad_records=drop" in str(raised.value)
    manifest = read(str(folder), ReadOptions(bad_records="drop"))
    assert manifest.table["path"].tolist() == ["a.jpg", "b.jpg"]
    assert manifest.notes[-2].startswith("1 records left out; the first: labels.json: record 2: ")


def test_a_record_that_is_none_and_a_file_that_is_no_list(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [*PAIR, "annot_A"])
    with pytest.raises(InputError, match="record 2: it must be an object with the key filename, got 'annot_A'"):
        read(str(folder))
    folder = write(tmp_path / "other", {"data": PAIR, "version": 1})
    with pytest.raises(InputError, match="must hold a list of records with the key filename, found data, version"):
        read(str(folder))
    single = write(tmp_path / "single", PAIR)
    for number, held in enumerate(PAIR):
        write(single, held, name=f"{number}.json")
    (single / "labels.json").unlink()
    assert len(read(str(single))) == 2, "one record a file is read too"


@pytest.mark.parametrize("box", [(41, 5, 60, 40), (4, 51, 30, 60), (-20, 5, -2, 40), (4, -9, 30, -1)])
def test_a_box_outside_the_image(tmp_path: Path, box: tuple[float, ...]) -> None:
    folder = write(tmp_path / "set", [*PAIR, record("c.jpg", "슬픔", box=box)])
    with pytest.raises(
        InputError, match=r"box of annotator A lies outside of 'c.jpg', which is 40x50: x0, y0, x1, y1 = "
    ):
        read(str(folder))
    manifest = read(str(folder), ReadOptions(bad_records="drop"))
    assert len(manifest) == 3, "the image stays, only its boxes go"
    assert set(manifest.boxes["path"]) == {"a.jpg", "b.jpg"}
    assert "3 boxes left out: they lie outside of their images" in manifest.notes


def test_a_box_over_the_border_is_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [*PAIR, record("c.jpg", "슬픔", box=(-7, 5, 44, 40.5))])
    manifest = read(str(folder))
    sides = manifest.boxes[manifest.boxes["path"] == "c.jpg"][["x0", "y0", "x1", "y1"]]
    assert sides.drop_duplicates().to_numpy().tolist() == [[0.0, 5.0, 40.0, 40.5]]
    assert "3 boxes cut at the borders of their images" in manifest.notes


def test_boxes_are_held_against_the_upright_picture(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [*PAIR, record("c.jpg", "슬픔", box=(42, 5, 49, 38))])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as 40x50, looked at as 50x40
    Image.new("RGB", (40, 50)).save(folder / "c.jpg", "JPEG", exif=exif)
    manifest = read(str(folder))
    assert manifest.boxes["x1"].max() == 49
    (folder / "c.jpg").write_bytes(b"no image")
    assert len(read(str(folder))) == 3, "an unreadable image is for `emotion data check` to name"


def test_three_annotators_all_different(tmp_path: Path) -> None:
    held = [
        record("a.jpg", "기쁨", "기쁨 슬픔 분노"),
        record("b.jpg", "슬픔", "분노 불안 당황"),
        record("c.jpg", "슬픔", "알수없음 알수없음 슬픔"),
    ]
    folder = write(tmp_path / "set", held)
    assert read(str(folder)).table["label"].tolist() == ["happy", "sad", "sad"]
    assert read(str(folder)).table["agreement"].tolist() == ["1", "0", "1"]
    with pytest.raises(
        InputError, match=r"set: no image whose label 2 annotators gave \(0 on 1 .*1 on 2 .*lower --agree"
    ):
        read(str(folder), ReadOptions(agreement=2))
    majority = read(str(folder), ReadOptions(votes="majority"))
    assert majority.table["label"].tolist() == ["happy", "angry"], "the uploader decides, else the class order"
    assert any("unknown or not a face to most" in note for note in majority.notes)
    with pytest.raises(InputError, match="no images found"):
        read(str(folder), ReadOptions(votes="majority", drop_ties=True))


NAMES = [
    "with spaces.jpg",
    "한글 이름.jpg",
    'it\'s "quoted".jpg',
    "-rf.jpg",
    "--help.jpg",
    "comma,semi;.jpg",
    "%20#?.jpg",
]


def test_names_with_spaces_korean_quotes_or_a_leading_dash(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write(tmp_path / "-a set's", [record(name, "기쁨슬픔"[2 * (i % 2) :][:2]) for i, name in enumerate(NAMES)])
    manifest = read(str(folder))
    assert manifest.table["path"].tolist() == NAMES
    for kind in ("csv", "parquet"):
        file = manifest.save(tmp_path / f"-m '{kind}.{kind}")
        again = Manifest.load(file)
        assert again.table["path"].tolist() == NAMES
        assert again.boxes["path"].tolist() == manifest.boxes["path"].tolist()
    assert main(["data", "describe", "--data", str(folder)]) == 0
    assert "7 images" in capsys.readouterr().out


def test_names_that_a_mac_took_apart(tmp_path: Path) -> None:
    import unicodedata

    folder = write(tmp_path / "set", PAIR)
    apart = unicodedata.normalize("NFD", "한글.jpg")
    Image.new("RGB", (40, 50)).save(folder / apart, "JPEG")
    write(folder, [record("한글.jpg", "분노")], name="more.json")
    (folder / "한글.jpg").unlink()
    assert "angry" in read(str(folder)).table["label"].tolist()
    assert apart in read(str(folder)).table["path"].tolist()


def test_images_that_are_not_here_or_here_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [*PAIR, record("c.jpg", "슬픔"), record("d.jpg", "슬픔")])
    (folder / "d.jpg").unlink()
    Image.new("RGB", (40, 50)).save(folder / "spare.jpg")
    notes = read(str(folder)).notes
    assert "1 of 4 records left out: their images are not here" in notes
    assert "1 images left out: no record names them" in notes
    assert any("the file names of 0 of 3 images" in note or "no split of 8:1:1" in note for note in notes)
    (folder / "again").mkdir()
    shutil.copy(folder / "c.jpg", folder / "again/c.jpg")
    with pytest.raises(InputError, match=r"several images are called 'c.jpg': again/c.jpg, c.jpg; keep one"):
        read(str(folder))
    assert len(read(str(folder), ReadOptions(bad_records="drop"))) == 2
    alone = tmp_path / "labels"
    alone.mkdir()
    shutil.copy(folder / "labels.json", alone)
    with pytest.raises(InputError, match=r"none of the 4 images that the JSON files name is below .*holds both"):
        read(str(alone))
    (alone / "[원천]EMOIMG_기쁨_TRAIN_01.zip").touch()
    with pytest.raises(InputError, match=r"unpack \[원천\]EMOIMG_기쁨_TRAIN_01.zip and its like"):
        read(str(alone))


def test_other_folders_with_json_are_not_ours(tmp_path: Path) -> None:
    for label in ("happy", "sad"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").touch()
    (tmp_path / "info.json").write_text('{"annot": 1}')
    assert recognise(tmp_path) == "folder"
    with pytest.raises(InputError, match=r"no table of records in .*: no JSON with annot_A, annot_B, annot_C; unpack"):
        read(f"aihub:{tmp_path}")


def test_aliases_and_unknown_labels(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [*PAIR, record("c.jpg", "무표정"), record("d.jpg", "심심")])
    with pytest.raises(InputError, match=r"unknown labels \(images\): '심심' \(1\)"):
        read(str(folder))
    options = ReadOptions(aliases={"심심": "bored", "무표정": "neutral"})
    assert read(str(folder), options).table["label"].tolist() == ["happy", "sad", "neutral", "bored"]
    assert read(str(folder), options).table["agreement"].tolist() == ["3"] * 4


def test_boxes_follow_the_table(miniature: Path) -> None:
    manifest = read(str(miniature), ReadOptions(per_class=3))
    assert set(manifest.boxes["path"]) == set(manifest.table["path"])
    assert isinstance(manifest.boxes, pd.DataFrame)
