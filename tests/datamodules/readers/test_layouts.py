"""A miniature of every published layout: read, described and found for prediction; three of them trained on."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import emotion
from datamodules.errors import InputError
from datamodules.layouts import LAYOUTS
from datamodules.readers import READERS, ReadOptions, face_sets, read, recognise
from datamodules.unlabelled import find_images

SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
EIGHT = (*SEVEN, "contempt")
MIKELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")


class Writer:
    """Writes small images and lists below a folder; every image differs."""

    def __init__(self, root: Path, side: int = 24, copies: int = 1) -> None:
        self.root, self.side, self.copies, self.random = root, side, copies, np.random.default_rng(0)

    def pixels(self) -> np.ndarray:
        return self.random.integers(0, 256, (self.side, self.side), dtype=np.uint8)

    def image(self, path: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels()).save(self.root / path)

    def text(self, path: str, *lines: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def array(self, path: str, value: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(self.root / path, np.array(value))

    def row(self) -> str:
        return " ".join(map(str, self.pixels().ravel()))


@dataclass
class Expected:
    """What is read of a miniature."""

    reader: str
    images: int
    classes: tuple[str, ...]
    splits: set[str] = field(default_factory=set)
    subjects: int | None = None
    groups: tuple[str, ...] = ()
    note: str = ""  # in one of the notes
    data: str = "{}"  # value of --data
    options: ReadOptions = ReadOptions()  # noqa: RUF009 - frozen
    words: tuple[str, ...] = ()  # the options on the command line
    photographs: int | None = None  # that predict finds, where not one for each row


Made = tuple[Callable[[Writer], None], Expected]
LAYOUT: dict[str, Made] = {}


def layout(expected: Expected) -> Callable[[Callable[[Writer], None]], Callable[[Writer], None]]:
    def add(make: Callable[[Writer], None]) -> Callable[[Writer], None]:
        LAYOUT[make.__name__] = (make, expected)
        return make

    return add


def in_folders(write: Writer, where: str, labels: tuple[str, ...] = ("angry", "happy", "sad"), number: int = 4) -> None:
    for label in labels:
        for index in range(number):
            write.image(f"{where}{label}/{label}_{index}.png")


EXPW_NOTE = "14 labelled faces cut out of 7 images at their boxes; faces of one image stay in one part"


@layout(Expected("folder", 12, ("angry", "happy", "sad")))
def class_folders(write: Writer) -> None:
    for name, index in (("0_angry", 0), ("01-Happy", 1), ("슬픔", 2)):
        for copy in range(4):
            write.image(f"{name}/{index}{copy}.png")


@layout(Expected("folder", 36, ("angry", "happy", "sad"), {"train", "validation", "test"}))
def parts_of_any_name(write: Writer) -> None:
    for part in ("Train_Set", "validation_set", "FER2013Test"):
        in_folders(write, f"{part}/")


@layout(Expected("folder", 24, ("angry", "happy", "sad"), {"train", "test"}))
def doubled_folders(write: Writer) -> None:
    for part in ("training_set", "seg_test"):
        in_folders(write, f"{part}/{part}/")


@layout(Expected("folder", 24, ("angry", "happy", "sad"), {"train", "validation"}))
def wrapped_folders(write: Writer) -> None:
    write.text("README.md", "about")
    write.text("archive/images/notes.txt", "about")
    for part in ("train", "eval"):
        in_folders(write, f"archive/images/{part}/")


@layout(Expected("folder", 24, ("angry", "happy", "sad"), {"train", "test"}))
def parts_below_the_classes(write: Writer) -> None:
    for label in ("angry", "happy", "sad"):
        for part in ("train", "test"):
            in_folders(write, f"{label}/{part}/", ("x",))
            for index in range(4):
                (write.root / f"{label}/{part}/x/x_{index}.png").rename(write.root / f"{label}/{part}/{index}.png")
            (write.root / f"{label}/{part}/x").rmdir()


@layout(
    Expected(
        "folder",
        12,
        ("angry", "happy", "sad"),
        {"train"},
        note="3 images left out: test has no class folders",
        photographs=15,
    )
)
def unlabelled_part(write: Writer) -> None:
    in_folders(write, "train/")
    for index in range(3):
        write.image(f"test/{index}.png")


@layout(Expected("folder", 16, tuple(sorted({"angry", "sad"} | set(MIKELS) - {"anger", "sadness"}))))
def scenes_of_mikels(write: Writer) -> None:
    in_folders(write, "image/", MIKELS, 2)


@layout(Expected("folder", 9, ("angry", "happy", "sad"), subjects=3, note="file names, which are those of CK+"))
def ck48(write: Writer) -> None:
    for person in range(3 * write.copies):
        for label in ("anger", "happy", "sadness"):
            write.image(f"CK+48/{label}/S{person:03d}_001_00000017.png")


@layout(Expected("fer2013", 21, SEVEN, {"train", "validation", "test"}))
def fer2013_csv(write: Writer) -> None:
    rows = [f"{n},{write.row()},{use}" for use in ("Training", "PublicTest", "PrivateTest") for n in range(7)]
    write.text("fer2013/fer2013.csv", "emotion,pixels,Usage", *rows)


@layout(Expected("fer2013", 14, SEVEN, {"train", "test"}))
def icml_face_data(write: Writer) -> None:
    rows = [f"{n},{use},{write.row()}" for use in ("Training", "PrivateTest") for n in range(7)]
    write.text("icml_face_data.csv", "emotion, Usage, pixels", *rows)
    write.text("train.csv", "emotion,pixels", *(f"{n},{write.row()}" for n in range(7)))


@layout(Expected("fer2013", 14, SEVEN, note="test.csv left out: it has no labels", photographs=5))
def kaggle_train_and_test(write: Writer) -> None:
    write.text(
        "train.csv", "emotion,pixels", *(f'{n},"{write.row()}"' for n in range(7) for _ in range(2 * write.copies))
    )
    write.text("test.csv", "pixels", *(f'"{write.row()}"' for _ in range(5)))


@layout(Expected("fer2013", 16, EIGHT, {"train", "test"}, note="7 is read as contempt, as in the extended CK+ set: 2"))
def ck_extended(write: Writer) -> None:
    rows = [f"{n},{write.row()},{use}" for use in ("Training", "PrivateTest") for n in range(8)]
    write.text("ckextended.csv", "emotion,pixels,Usage", *rows)


@layout(Expected("folder", 14, SEVEN, {"train", "test"}, data="fer2013:{}", note="0 is angry, 1 is disgust"))
def fer2013_folders(write: Writer) -> None:
    for part in ("train", "test"):
        in_folders(write, f"{part}/", tuple("0123456"), 1)


@layout(
    Expected(
        "ferplus",
        24,
        EIGHT,
        {"train", "validation", "test"},
        options=ReadOptions(votes="majority"),
        words=("--votes", "majority"),
        note="1 images left out: they are unknown or not a face",
        photographs=25,
    )
)
def ferplus_folders(write: Writer) -> None:
    count = 0
    for part in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        rows = []
        for winner in [*range(8), *([8] if part == "FER2013Train" else [])]:
            votes = [0] * 10
            votes[winner], votes[(winner + 1) % 8] = 8, 2
            write.image(f"data/{part}/fer{count:07d}.png")
            rows.append(f'fer{count:07d}.png,"(0, 0, 48, 48)",' + ",".join(map(str, votes)))
            count += 1
        write.text(f"data/{part}/label.csv", *rows)


@layout(Expected("rafdb", 21, SEVEN, {"train", "test"}, groups=("gender", "race", "age")))
def rafdb_as_published(write: Writer) -> None:
    lines = []
    for part, number in (("train", 2), ("test", 1)):
        for index in range(7 * number):
            name = f"{part}_{index + 1:05d}"
            write.image(f"basic/Image/aligned/{name}_aligned.jpg")
            write.text(f"basic/Annotation/manual/{name}_manu_attri.txt", *["1.0\t2.0"] * 5, "1", "2", "3")
            lines.append(f"{name}.jpg {index % 7 + 1}")
    write.text("basic/EmoLabel/list_patition_label.txt", *lines)


@layout(Expected("rafdb", 14, SEVEN, {"train", "test"}, note="1 is surprise, 2 is fear"))
def rafdb_on_kaggle(write: Writer) -> None:
    for part in ("train", "test"):
        rows = ["image,label"]
        for index in range(1, 7 * write.copies + 1):
            number = (index - 1) % 7 + 1
            write.image(f"DATASET/{part}/{number}/{part}_{index:05d}_aligned.jpg")
            rows.append(f"{part}_{index:05d}_aligned.jpg,{number}")
        write.text(f"DATASET/{part}_labels.csv", *rows)


@layout(
    Expected(
        "affectnet",
        16,
        EIGHT,
        {"train", "validation"},
        groups=("valence", "arousal"),
        note="2 images left out: their annotation is not an emotion (uncertain 1, no face 1)",
        photographs=18,
    )
)
def affectnet_npy(write: Writer) -> None:
    count = 0
    for part, labels in (("train_set", [*range(8), 9]), ("val_set", [*range(8), 10])):
        for label in labels:
            write.image(f"{part}/images/{count}.jpg")
            for ending, value in (("exp", str(label)), ("val", "-0.5"), ("aro", "0.25"), ("lnd", [1.0] * 136)):
                write.array(f"{part}/annotations/{count}_{ending}.npy", value)
            count += 1


@layout(
    Expected(
        "affectnet",
        16,
        EIGHT,
        {"train", "validation"},
        groups=("valence", "arousal"),
        note="1 images left out: their annotation is not an emotion (none 1)",
        photographs=17,
    )
)
def affectnet_lists(write: Writer) -> None:
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    for part, labels in (("training", [*range(8), 8]), ("validation", [*range(8)])):
        rows = [header]
        for label in labels:
            write.image(f"Manually_Annotated_Images/{part[:3]}/{label}.jpg")
            rows.append(f"{part[:3]}/{label}.jpg,2,2,20,20,1;2,{label},0.1,-0.2")
        write.text(f"Manually_Annotated_file_lists/{part}.csv", *rows)


@layout(Expected("affectnet", 16, EIGHT, {"train", "validation"}, data="affectnet:{}", note="0 is neutral, 1 is happy"))
def affectnet_folders(write: Writer) -> None:
    for part in ("train", "val"):
        in_folders(write, f"{part}/", tuple("01234567"), 1)


@layout(
    Expected(
        "expw",
        14,
        SEVEN,
        subjects=7,
        note=EXPW_NOTE,
        photographs=7,
    )
)
def expw(write: Writer) -> None:
    lines = []
    for index in range(7):
        write.image(f"origin/photo {index}.jpg".replace(" ", "_"))
        for face in range(2):
            lines.append(f"photo_{index}.jpg {face} 2 {3 + face} 15 20 90.5 {index}")
    write.text("label.lst", *lines)


@layout(
    Expected("ckplus", 7, ("angry", "disgust", "fear", "happy", "sad", "surprise", "contempt"), subjects=7,
             note="7 sequences left out: they have no label", photographs=28)
)  # fmt: skip
def ckplus(write: Writer) -> None:
    for person in range(1, 8):
        for sequence in (1, 2):
            name = f"S{person:03d}_{sequence:03d}"
            folder = f"S{person:03d}/{sequence:03d}"
            for frame in (1, 2):
                write.image(f"cohn-kanade-images/{folder}/{name}_{frame:08d}.png")
            (write.root / "Emotion" / folder).mkdir(parents=True)
        write.text(f"Emotion/S{person:03d}/001/S{person:03d}_001_00000002_emotion.txt", f"   {person:.7e}")


@layout(Expected("jaffe", 14, SEVEN, subjects=2, groups=("gender",)))
def jaffe(write: Writer) -> None:
    for person in ("KA", "YM"):
        for number, code in enumerate(("AN", "DI", "FE", "HA", "NE", "SA", "SU")):
            write.image(f"jaffe/{person}.{code}1.{number}.tiff")


@layout(Expected("kdef", 28, SEVEN, subjects=2, groups=("session", "gender", "angle")))
def kdef(write: Writer) -> None:
    for person in ("AF01", "BM02"):
        for code in ("AF", "AN", "DI", "HA", "NE", "SA", "SU"):
            for angle in ("S", "HL"):
                write.image(f"KDEF/{person}/{person}{code}{angle}.JPG")


@layout(Expected("rafd", 16, EIGHT, subjects=2, groups=("angle", "age", "race", "gender", "gaze")))
def rafd(write: Writer) -> None:
    emotions = ("angry", "contemptuous", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
    for person in ("01_Caucasian_female", "63_Kid_male"):
        for word in emotions:
            write.image(f"Rafd090_{person}_{word}_frontal.jpg")


@layout(Expected("csv", 6, ("happy", "sad"), {"train", "test"}, subjects=3, groups=("age",)))
def table_of_files(write: Writer) -> None:
    rows = []
    for index in range(6):
        write.image(f"{index}.png")
        part = "train" if index < 4 else "test"
        rows.append(f"{index}.png,{('happy', 'sad')[index % 2]},{part},{index // 2},adult")
    write.text("labels.csv", "path,label,split,subject,age", *rows)


@pytest.fixture(params=LAYOUT)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Expected]:
    make, expected = LAYOUT[request.param]
    make(Writer(tmp_path / "set"))
    return tmp_path / "set", expected


def test_a_layout_is_read_described_and_found(made: tuple[Path, Expected], capsys: pytest.CaptureFixture[str]) -> None:
    root, expected = made
    source = expected.data.format(root)
    if source == str(root):
        assert recognise(root) == expected.reader
    manifest = read(source, expected.options)
    table = manifest.table
    assert (len(manifest), set(manifest.classes)) == (expected.images, set(expected.classes))
    assert set(table["split"] if "split" in table else ()) == expected.splits
    assert (table["subject"].nunique() if "subject" in table else None) == expected.subjects
    assert set(expected.groups) <= set(manifest.groups)
    assert expected.note in "\n".join(manifest.notes)
    assert all(manifest.file(row).is_file() for row in range(len(manifest)))

    assert emotion.main(["data", "describe", "--data", source, *expected.words]) == 0
    described = capsys.readouterr().out
    assert f"{expected.images}" in described
    assert expected.note in " ".join(described.split()) or expected.note in described

    found = _found(root)
    assert len(found) == (expected.images if expected.photographs is None else expected.photographs)
    rows = {str(manifest.root / name) for name in table.get("face_source", table["path"])}
    if "face_source" not in table and expected.photographs is None:
        assert rows == {str(path) for path in found}

    packed = root.with_name("packed.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, file.relative_to(root.parent))
    again = read(expected.data.format(packed), expected.options)
    assert again.labels.tolist() == manifest.labels.tolist()


def _found(root: Path) -> list[Path]:
    """The images that `emotion predict` classifies for a source."""
    from datamodules.readers.fer2013 import pixel_images

    return pixel_images(root) or find_images(str(root))


def test_every_reader_stands_in_the_list_of_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert {entry.reader for entry in LAYOUTS} == set(READERS)
    assert emotion.main(["data", "layouts"]) == 0
    printed = capsys.readouterr().out
    assert all(entry.looks in printed for entry in LAYOUTS)


# What each layout means by its numbers and names


def labels_of(root: Path, source: str = "{}", **options: object) -> dict[str, str]:
    table = read(source.format(root), ReadOptions(**options)).table  # type: ignore[arg-type]
    return dict(zip(table["path"].str.rsplit("/", n=1).str[-1], table["label"], strict=True))


def test_numbers_of_rafdb_and_affectnet(tmp_path: Path) -> None:
    rafdb_as_published(Writer(tmp_path / "raf"))
    names = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
    found = labels_of(tmp_path / "raf")
    assert [found[f"test_{n:05d}_aligned.jpg"] for n in range(1, 8)] == list(names)
    assert read(str(tmp_path / "raf")).table[["gender", "race", "age"]].iloc[0].tolist() == ["female", "Asian", "40-69"]
    affectnet_npy(Writer(tmp_path / "aff"))
    table = read(str(tmp_path / "aff")).table.set_index("path")
    expected = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
    assert [table.loc[f"train_set/images/{n}.jpg", "label"] for n in range(8)] == list(expected)
    assert table[["valence", "arousal"]].iloc[0].tolist() == ["-0.5", "0.25"]
    ckplus(Writer(tmp_path / "ck"))
    found = labels_of(tmp_path / "ck")
    order = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
    assert [found[f"S{n:03d}_001_00000002.png"] for n in range(1, 8)] == list(order)
    kdef(Writer(tmp_path / "kdef"))
    assert labels_of(tmp_path / "kdef")["AF01AFHL.JPG"] == "fear"
    row = read(str(tmp_path / "kdef")).table.set_index("path").loc["KDEF/AF01/AF01ANS.JPG"]
    assert row[["subject", "gender", "angle"]].tolist() == ["F01", "female", "straight"]
    rafd(Writer(tmp_path / "rafd"))
    child = read(str(tmp_path / "rafd")).table.set_index("path").loc["Rafd090_63_Kid_male_angry_frontal.jpg"]
    assert child[["age", "race", "gender", "gaze", "angle"]].tolist() == [
        "child",
        "Caucasian",
        "male",
        "frontal",
        "090",
    ]


def test_own_meanings_come_before_those_of_a_layout(tmp_path: Path) -> None:
    rafdb_on_kaggle(Writer(tmp_path / "raf"))
    own = {"1": "anxious", "2": "sad"}
    found = labels_of(tmp_path / "raf", aliases=own)
    assert [found[f"test_{n:05d}_aligned.jpg"] for n in (1, 2, 3)] == ["anxious", "sad", "disgust"]
    every = {str(n): name for n, name in enumerate(SEVEN, 1)}
    assert labels_of(tmp_path / "raf" / "DATASET", "folder:{}", aliases=every)["train_00001_aligned.jpg"] == "angry"


def test_one_part_alone_and_one_folder_too_low(tmp_path: Path) -> None:
    affectnet_npy(Writer(tmp_path / "aff"))
    alone = read(str(tmp_path / "aff" / "val_set"))
    assert (len(alone), "split" in alone.table) == (8, False)
    wrapped_folders(Writer(tmp_path / "faces"))
    part = read(str(tmp_path / "faces" / "archive" / "images" / "train"))
    assert (len(part), "split" in part.table) == (12, False)
    assert (
        f"only train is read; to read eval beside it as another part, give --data {tmp_path / 'faces/archive/images'}"
        in part.notes[0]
    )
    rafdb_as_published(Writer(tmp_path / "raf"))
    assert len(read(str(tmp_path / "raf" / "basic"))) == 21
    with pytest.raises(InputError, match=r"the folder above has the layout rafdb: --data .*raf/basic"):
        read(str(tmp_path / "raf" / "basic" / "Image" / "aligned"))
    with pytest.raises(InputError, match=r"give the folder above, --data .*/archive/images$"):
        read(str(tmp_path / "faces" / "archive" / "images" / "train" / "happy"))


# What is refused, and where it leads


def folders_of_people(write: Writer) -> None:
    for person in ("S01", "S02", "S03"):
        in_folders(write, f"{person}/")


def two_versions(write: Writer) -> None:
    for version in ("aligned", "original"):
        in_folders(write, f"{version}/")


def numbers_without_a_layout(write: Writer) -> None:
    in_folders(write, "", ("1", "2", "3"))


def a_misspelt_class(write: Writer) -> None:
    in_folders(write, "", ("happy", "disgsut"))


def tree_without_labels(write: Writer) -> None:
    for person in ("S005", "S006"):
        write.image(f"cohn-kanade-images/{person}/001/{person}_001_00000001.png")


def packed_images(write: Writer) -> None:
    write.text("EmoLabel/list_patition_label.txt", "train_00001.jpg 5")
    write.text("Image/aligned.zip", "not unpacked")


def loose_images(write: Writer) -> None:
    write.image("photos/1.png")
    write.image("photos/2.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            two_versions,
            r"class folders in several places \(aligned, original\); give the one to read: --data .*/aligned$",
        ),
        (folders_of_people, r"--data .*/S01, or all with --pattern '"),
        (numbers_without_a_layout, r"Give the meaning of each number .*--alias 1=.*rafdb:PATH"),
        (a_misspelt_class, r"Did you mean disgust for 'disgsut'\? .*--alias disgsut=disgust"),
        (
            tree_without_labels,
            r"2 images in .* are in no class folder.*nearest layouts are ckplus.*emotion data layouts",
        ),
        (packed_images, r"none of the 1 images of list_patition_label.txt exists.*unpack aligned.zip"),
        (loose_images, r"2 images in .* are in no class folder.*`emotion data layouts` lists"),
    ],
)
def test_the_error_of_a_folder_that_is_not_read_names_the_next_step(
    tmp_path: Path, make: Callable[[Writer], None], message: str
) -> None:
    make(Writer(tmp_path / "set"))
    with pytest.raises(InputError, match=message) as error:
        read(str(tmp_path / "set"))
    assert "=happy" not in str(error.value)


def test_the_advised_steps_work(tmp_path: Path) -> None:
    folders_of_people(Writer(tmp_path / "people"))
    pattern = r"(?P<subject>[^/]+)/(?P<label>[^/]+)/[^/]+$"
    manifest = read(str(tmp_path / "people"), ReadOptions(pattern=pattern))
    assert (len(manifest), manifest.table["subject"].nunique()) == (36, 3)
    numbers_without_a_layout(Writer(tmp_path / "numbers"))
    assert set(labels_of(tmp_path / "numbers", "rafdb:{}").values()) == {"surprise", "fear", "disgust"}
    a_misspelt_class(Writer(tmp_path / "misspelt"))
    assert set(labels_of(tmp_path / "misspelt", aliases={"disgsut": "disgust"}).values()) == {"happy", "disgust"}


@pytest.mark.parametrize("value", [["a pickle"], [1, 2], 11])
def test_annotations_of_affectnet_are_one_number_and_never_a_pickle(tmp_path: Path, value: object) -> None:
    affectnet_npy(Writer(tmp_path / "set"))
    np.save(
        tmp_path / "set/train_set/annotations/0_exp.npy",
        np.array(value, dtype=object if value == ["a pickle"] else None),
    )
    with pytest.raises(
        InputError, match=r"0_exp.npy: must hold one text or number|whole number from 0 to 10, got '11'"
    ):
        read(str(tmp_path / "set"))


def test_annotations_beside_a_part_have_no_split(tmp_path: Path) -> None:
    write = Writer(tmp_path / "set")
    for number, part in enumerate(("", "", "val_set/", "val_set/")):
        write.image(f"{part}images/{number}.jpg")
        write.array(f"{part}annotations/{number}_exp.npy", str(number % 2))
    table = read(f"affectnet:{tmp_path / 'set'}").table
    assert len(table) == 4
    assert "split" not in table


def test_people_called_like_a_part_are_no_parts(tmp_path: Path) -> None:
    for person in (1, 2):
        for label in ("happy", "sad"):
            folder = tmp_path / f"Test subject {person}" / label
            folder.mkdir(parents=True)
            Image.new("L", (8, 8)).save(folder / "1.png")
    with pytest.raises(InputError, match=r"class folders in several places \(Test subject 1, Test subject 2\)"):
        read(str(tmp_path))
    for person in (1, 2):
        (tmp_path / f"Test subject {person}").rename(tmp_path / f"train_{person}")
    assert set(read(str(tmp_path)).table["split"]) == {"train"}


def test_people_below_the_classes_are_no_parts(tmp_path: Path) -> None:
    for label in ("happy", "sad"):
        for person in (1, 2):
            folder = tmp_path / label / f"Test subject {person}"
            folder.mkdir(parents=True)
            Image.new("L", (8, 8)).save(folder / "1.png")
    assert "split" not in read(str(tmp_path)).table


def test_annotations_that_change_are_read_again(tmp_path: Path) -> None:
    write = Writer(tmp_path / "set")
    affectnet_npy(write)
    assert labels_of(write.root)["1.jpg"] == "happy"
    write.array("train_set/annotations/1_exp.npy", "4")
    assert labels_of(write.root)["1.jpg"] == "fear"
    (write.root / "train_set/images/2.jpg").unlink()
    assert "1 annotations of train_set left out: they have no image" in read(str(write.root)).notes


def test_faces_of_expw_are_cut_by_their_boxes(tmp_path: Path) -> None:
    write = Writer(tmp_path / "set", side=60)
    write.text("label.lst", "a.png 0 10 20 40 30 1 3", "a.png 1 0 0 5 5 1 4", "gone.png 0 1 1 9 9 1 0")
    pixels = np.zeros((60, 60, 3), dtype=np.uint8)
    pixels[10:30, 20:40] = 200
    (write.root / "origin").mkdir()
    Image.fromarray(pixels).save(write.root / "origin/a.png")
    manifest = read(str(write.root), ReadOptions(face_margin=0, face_size=20))
    face = np.asarray(Image.open(manifest.file(0)))
    assert (face.shape, int(face.min()) > 190) == ((20, 20, 3), True)
    assert manifest.table["subject"].tolist() == ["origin/a.png"] * 2
    assert "1 rows of label.lst left out: their images do not exist, the first is 'origin/gone.png'" in manifest.notes
    assert len(read(str(write.root), ReadOptions(faces="boxes"))) == 2
    with pytest.raises(
        InputError, match=r"each row labels one face, and haar cannot tell which; leave --data.read.faces out"
    ):
        read(str(write.root), ReadOptions(faces="haar"))
    write.text("label.lst", "a.png 0 10 20 40 30 1 3", "a.png 1 9 9 5 5 1 4", "a.png 1 9 9 35 35 1 5")
    with pytest.raises(InputError, match=r"1 rows of label.lst: a face needs .*--bad-records drop"):
        read(str(write.root))
    assert len(read(str(write.root), ReadOptions(bad_records="drop"))) == 2


def test_boxes_of_affectnets_lists_can_be_cut(tmp_path: Path) -> None:
    affectnet_lists(Writer(tmp_path / "set"))
    manifest = read(str(tmp_path / "set"))
    assert manifest.boxes is not None
    assert manifest.boxes[["x0", "y0", "x1", "y1"]].iloc[0].tolist() == [2, 2, 22, 22]
    assert len(read(str(tmp_path / "set"), ReadOptions(faces="boxes", face_size=16))) == 16


def test_pixels_without_labels_are_not_trained_on(tmp_path: Path) -> None:
    kaggle_train_and_test(Writer(tmp_path / "set"))
    with pytest.raises(InputError, match=r"test.csv has pixels but no column emotion.*`emotion predict RUN .*test.csv"):
        read(str(tmp_path / "set" / "test.csv"))
    assert len(read(str(tmp_path / "set" / "train.csv"))) == 14


def test_a_number_that_means_nothing_is_named_by_an_alias(tmp_path: Path) -> None:
    write = Writer(tmp_path / "set")
    write.text("own.csv", "emotion,pixels", *(f"{n},{write.row()}" for n in (0, 3, 8)))
    with pytest.raises(InputError, match=r"numbers \(images\) 8 \(1\).*--alias 8="):
        read(str(write.root / "own.csv"))
    assert read(str(write.root / "own.csv"), ReadOptions(aliases={"8": "awe"})).classes == ("angry", "happy", "awe")


NET = ("--recipe", "baseline", "--model.backbone", "test_resnet", "--model.weights", "none", "--data.size", "32")
FAST = ("--data.batch_size", "4", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--run.resamples", "100")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rafdb_on_kaggle", "kaggle_train_and_test", "ck48"])
def test_a_layout_is_trained_and_evaluated(name: str, workplace: Path) -> None:
    """By the command: a model is fitted, classifies the set and is scored on it."""
    make, expected = LAYOUT[name]
    make(Writer(workplace / "set", copies=6))
    source = str(workplace / "set")
    assert emotion.main(["fit", "--data", source, "--split", "holdout", *NET, *FAST]) == 0
    assert emotion.main(["predict", "latest", source, "--output", "predicted.csv"]) == 0
    assert len(pd.read_csv("predicted.csv")) == (expected.photographs or 6 * expected.images)
    assert emotion.main(["evaluate", "latest", "--data", source, "--allow-seen", "--resamples", "100"]) == 0


@pytest.mark.slow
def test_every_layout_is_checked_and_classified(workplace: Path) -> None:
    """By the command: `check` reads it, and a model classifies the images that the reader finds."""
    drawn = "drawn:largest=12,ratio=1,size=32"
    assert emotion.main(["fit", "--data", drawn, "--split", "holdout", *NET, *FAST]) == 0
    for name, (make, expected) in LAYOUT.items():
        make(Writer(workplace / name))
        source = str(workplace / name)
        checked = emotion.main(["data", "check", "--data", expected.data.format(source), *expected.words])
        assert checked in (0, 1), name  # 1: the check has findings, such as noise that is alike
        assert emotion.main(["predict", "latest", source, "--output", f"{name}.csv"]) == 0, name
        assert len(pd.read_csv(f"{name}.csv")) == (expected.photographs or expected.images), name


def test_an_annotation_of_the_same_size_and_time_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_sets, "SETTLED", -10.0)  # as if the files were written long ago
    write = Writer(tmp_path / "set")
    affectnet_npy(write)
    assert labels_of(write.root)["1.jpg"] == "happy"
    file = write.root / "train_set/annotations/1_exp.npy"
    before = file.stat()
    write.array("train_set/annotations/1_exp.npy", "4")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert labels_of(write.root)["1.jpg"] == "fear"


def test_annotations_that_changed_a_moment_ago_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))
    affectnet_npy(Writer(tmp_path / "set"))
    read(str(tmp_path / "set"))
    assert not list(tmp_path.glob("cache/hashes/annotations-*"))


def test_faces_of_expw_are_cut_again_with_another_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Writer(tmp_path / "set", side=64)
    for index in range(2):
        write.image(f"origin/{index}.jpg")
    write.text("label.lst", "0.jpg 0 8 8 56 56 1 3", "1.jpg 0 8 8 56 56 1 4")
    monkeypatch.setenv("EMOTION_PIXEL_LIMIT", "2000")
    small = read(str(write.root), ReadOptions(face_margin=0))
    monkeypatch.setenv("EMOTION_PIXEL_LIMIT", "5000")
    whole = read(str(write.root), ReadOptions(face_margin=0))
    assert small.root != whole.root
    assert small.file(0).read_bytes() != whole.file(0).read_bytes()


@pytest.mark.parametrize("name", ["../secret.png", "x/../../secret.png"])
def test_no_name_of_expw_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    write = Writer(tmp_path / "set")
    Writer(tmp_path).image("secret.png")
    (tmp_path / "set/x").mkdir(parents=True)
    write.image("a.png")
    write.text("label.lst", "a.png 0 2 3 15 20 1 3", f"{name} 0 2 3 15 20 1 4", "a.png 0 2 3 16 20 1 4")
    with pytest.raises(InputError, match="may not lead out of"):
        read(str(write.root))


def test_people_are_known_where_other_files_have_other_names(tmp_path: Path) -> None:
    """However many the others are; the note counts them, and its next step works."""
    write = Writer(tmp_path / "CK+48")
    for label, number in (("anger", 4), ("happy", 5)):
        for person in range(8):
            write.image(f"{label}/S{person:03d}_00{number}_00000017.png")
    for index, others in ((0, 1), (1, 6), (6, 26)):
        for other in range(index, others):
            write.image(f"happy/other{other}.png")
        manifest = read(str(write.root))
        assert manifest.table["subject"].nunique() == 9
        assert (manifest.table["subject"] != "").sum() == 16
        assert manifest.table.set_index("path")["subject"].loc["happy/other0.png"] == ""
        (note,) = manifest.notes
        assert f"CK+ (16 images); {others} of {16 + others} images have other names, and no person" in note
        assert "may be in several folds" in note
    file = manifest.save(tmp_path / "people.csv")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.assign(subject=table["subject"].replace("", "another")).to_csv(file, index=False)
    assert read(str(file)).table["subject"].value_counts()["another"] == 26


def test_people_of_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    write = Writer(tmp_path / "mixed")
    for number in range(3):
        write.image(f"happy/S010_006_0000001{number}.png")
        write.image(f"sad/KA.SA{number}.3{number}.png")
        write.image(f"sad/mine{number}.png")
    manifest = read(str(write.root))
    assert manifest.table["subject"].value_counts().to_dict() == {"S010": 3, "KA": 3, "": 3}
    assert "those of CK+ (3 images) and JAFFE (3 images); 3 of 9 images" in manifest.notes[0]
    for number in (1, 2):
        (write.root / f"happy/S010_006_0000001{number}.png").unlink()
        (write.root / f"sad/KA.SA{number}.3{number}.png").unlink()
    assert "subject" not in read(str(write.root)).table  # no two images of one person


def test_recognising_a_folder_does_not_ask_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Writer(tmp_path / "set", side=4)
    in_folders(write, "train/", number=30)
    asked: list[str] = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *a, real=real, **b: (asked.append(str(path)), real(path, *a, **b))[1]
        )
    assert recognise(write.root) == "folder"
    assert not [path for path in asked if path.endswith(".png")]
