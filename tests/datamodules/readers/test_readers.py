"""Folders, tables, patterns and names: each layout in small, and each way it can be wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.cache import build_cache
from datamodules.duplicates import find_clusters
from datamodules.errors import InputError
from datamodules.manifest import make_manifest
from datamodules.readers import READERS, ReadOptions, image_files, read, recognise

Plant = Callable[..., Path]


def counts(source: str | Path, options: ReadOptions | None = None) -> dict[str, int]:
    return read(str(source), options or ReadOptions()).table["label"].value_counts().to_dict()


# Folders


def test_class_folders_in_two_languages(plant: Plant) -> None:
    root = plant("기쁨/1.JPG", "기쁨/deep/2.png", "Anger/1.webp", "Anger/notes.txt", ".hidden/x.png", "Anger/._1.png")
    manifest = read(str(root))
    assert recognise(root) == "folder"
    assert (manifest.name, manifest.classes) == ("set", ("angry", "happy"))
    assert manifest.table["path"].tolist() == ["Anger/1.webp", "기쁨/1.JPG", "기쁨/deep/2.png"]
    assert "split" not in manifest.table


def test_soft_votes_without_votes_are_refused_and_a_majority_changes_nothing(plant: Plant) -> None:
    root = plant("happy/1.png", "sad/1.png")
    with pytest.raises(InputError, match=r"--votes: needs annotators' votes, and this data set has none, got 'soft'"):
        read(str(root), ReadOptions(votes="soft"))
    manifest = read(str(root), ReadOptions(votes="majority"))
    assert manifest.table.equals(read(str(root)).table)
    assert manifest.notes == ("no annotators' votes here, so --votes majority changes no label",)


def test_a_joined_set_without_votes_keeps_its_labels_and_says_so(plant: Plant) -> None:
    root = plant("plain/happy/1.png", "plain/sad/1.png", "voted/1.png", "voted/2.png")
    rows = ["path,votes_happy,votes_sad", "1.png,7,3", "2.png,2,8"]
    (root / "voted" / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    manifest = read(f"folder:{root / 'plain'}+csv:{root / 'voted'}", ReadOptions(votes="majority"))
    assert sorted(manifest.table["label"]) == ["happy", "happy", "sad", "sad"]
    assert "plain: no annotators' votes here, so --votes majority changes no label" in manifest.notes


def test_split_folders_above_the_classes(plant: Plant) -> None:
    root = plant("Training/sad/1.png", "PublicTest/sad/1.png", "PrivateTest/happy/1.png", "Training/happy/2.png")
    table = read(str(root)).table.set_index("path")["split"]
    assert table.to_dict() == {
        "PrivateTest/happy/1.png": "test",
        "PublicTest/sad/1.png": "validation",
        "Training/happy/2.png": "train",
        "Training/sad/1.png": "train",
    }


def test_what_the_folder_reader_leaves_out_it_says(plant: Plant) -> None:
    root = plant("sad/1.png", "happy/1.png", "logo.png", "fear/readme.txt")
    assert read(str(root)).notes == (
        "1 images beside the class folders left out, the first is 'logo.png'",
        "the class folder fear holds no images",
        "1 file left out: 1 .txt",
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no images found in .*; expected one folder per class"),
        (("sad/readme.txt",), "no images found in"),
        (("1.png", "2.png"), "2 images in .* are in no class folder, the first is '1.png'"),
        (("train/1.png", "train/sad/2.png"), "1 images in .* are in no class folder, the first is 'train/1.png'"),
        (("train/sad/1.png", "happy/1.png"), r"split folders \(train\) beside other folders \(happy\)"),
        (("sad/1.png", "sad/2.png"), "fewer than 2 classes, every image is 'sad'"),
        (("sad/1.png", "cat/1.png", "cat/2.png", "dog/1.png"), r"unknown labels \(images\): 'cat' \(2\), 'dog' \(1\)"),
    ],
)
def test_folders_that_cannot_be_read(plant: Plant, files: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(str(plant(*files)))


def test_unknown_labels_can_be_named_dropped_or_kept(plant: Plant) -> None:
    root = plant("sad/1.png", "cat/1.png", "dog/1.png", "happy/1.png")
    named = ReadOptions(aliases={"CAT": "Anger", "dog": "dog"})
    assert counts(root, named) == {"sad": 1, "angry": 1, "dog": 1, "happy": 1}
    assert counts(root, ReadOptions(unknown_labels="keep")) == {"sad": 1, "cat": 1, "dog": 1, "happy": 1}
    dropped = read(str(root), ReadOptions(unknown_labels="drop"))
    assert dropped.classes == ("happy", "sad")
    assert "2 images left out, their labels are unknown: 'cat' (1), 'dog' (1)" in dropped.notes


def test_linked_folders_are_followed_once_and_out_of_the_root(plant: Plant, tmp_path: Path) -> None:
    root = plant("sad/1.png", "happy/1.png")
    (root / "sad/loop").symlink_to(root)
    assert image_files(root) == ["happy/1.png", "sad/1.png"]
    plant("x.png", under="outside")
    (root / "fear").symlink_to(tmp_path / "outside")
    assert read(str(root)).classes == ("fear", "happy", "sad")


# Tables


def write(root: Path, name: str, **columns: list) -> Path:
    frame = pd.DataFrame(columns)
    frame.to_parquet(root / name) if name.endswith(".parquet") else frame.to_csv(root / name, index=False)
    return root / name


def test_columns_are_found_by_their_usual_names(plant: Plant) -> None:
    root = plant("a.png", "sub/b.png", "c.png")
    write(
        root,
        "labels.csv",
        Filename=["a.png", "sub\\b.png", "c.png"],  # as written on Windows
        Emotion=["Happiness", "슬픔", "sad"],
        Usage=["Training", "PublicTest", "PrivateTest"],
        person_id=[1, 1, 2],
        race=["asian", "", "white"],
    )
    manifest = read(str(root))
    assert recognise(root) == "csv"
    assert (manifest.name, manifest.groups) == ("set", ("race",))
    assert manifest.table["path"].tolist() == ["a.png", "sub/b.png", "c.png"]
    assert manifest.table["label"].tolist() == ["happy", "sad", "sad"]
    assert manifest.table["split"].tolist() == ["train", "validation", "test"]
    assert manifest.subjects is not None
    assert manifest.subjects.tolist() == ["1", "1", "2"]
    assert manifest.table["race"].tolist() == ["asian", "", "white"]


def test_parquet_and_a_named_column(plant: Plant) -> None:
    root = plant("a.png", "b.png")
    file = write(root, "x.parquet", file=["a.png", "b.png"], verdict=["sad", "happy"], label=["?", "?"])
    manifest = read(str(file), ReadOptions(label_column="verdict"))
    assert manifest.table["label"].tolist() == ["sad", "happy"]
    assert manifest.groups == ("label_column",)  # the column whose name we need stays as a group


def test_a_set_column_is_a_split_only_if_it_says_so(plant: Plant) -> None:
    root = plant("a.png", "b.png")
    file = write(root, "x.csv", file=["a.png", "b.png"], label=["sad", "happy"], set=["A", "B"])
    assert read(str(file)).groups == ("set",)
    file = write(root, "x.csv", file=["a.png", "b.png"], label=["sad", "happy"], set=["train", "val"])
    assert read(str(file)).table["split"].tolist() == ["train", "validation"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"file": ["a.png", "b.png"]},
            {},
            "x.csv: the column 'label' is missing .*; found file; give its name as --label-column",
        ),
        ({"label": ["sad", "sad"]}, {}, "x.csv: the column 'path' is missing"),
        (
            {"file": ["a.png"], "label": ["sad"]},
            {"label_column": "mood"},
            "the column 'mood' .--label-column. is missing",
        ),
        ({"file": ["a.png", "b.png"], "label": ["sad", None]}, {}, "row 1: label may not be empty"),
        ({"file": ["a.png", "b.png"], "label": ["sad", "bored"]}, {}, r"unknown labels \(images\): 'bored' \(1\)"),
        (
            {"file": ["a.png", "a.png"], "label": ["sad", "happy"]},
            {},
            r"1 files have rows that differ in label: 'a.png' \(sad, happy\)",
        ),
        (
            {"file": ["a.png", "../b.png"], "label": ["sad", "happy"]},
            {},
            "1 of 2 names lead out of .*; give the folder of the images with --images",
        ),
        ({"file": ["a.png", None], "label": ["sad", "happy"]}, {}, "row 1: path may not be empty"),
        ({"file": [], "label": []}, {}, "no images found"),
        ({"file": ["a.png", "b.png"], "label": ["sad", "happy"], "split": ["train", None]}, {}, "row 1: split must be"),
    ],
)
def test_tables_that_cannot_be_read(plant: Plant, columns: dict, options: dict, message: str) -> None:
    file = write(plant("a.png", "b.png"), "x.csv", **columns)
    with pytest.raises(InputError, match=message):
        read(str(file), ReadOptions(**options))


def test_files_that_are_no_tables(plant: Plant) -> None:
    root = plant("empty.csv", "x.parquet", "ragged.csv", "notes.txt")
    (root / "empty.csv").write_bytes(b"")
    (root / "ragged.csv").write_text('file,label\na.png,sad\n"b.png,sad,more,and more\n')
    for name in ("empty.csv", "x.parquet", "ragged.csv"):
        with pytest.raises(InputError, match=f"(cannot (read|open)|path must be).*{name.split('.')[0]}|ragged"):
            read(str(root / name))
    with pytest.raises(InputError, match=r"no reader knows .*notes\.txt"):
        read(str(root / "notes.txt"))


def test_a_table_beside_class_folders_does_not_hide_them(plant: Plant) -> None:
    root = plant("sad/1.png", "happy/1.png")
    write(root, "statistics.csv", mean=[1.0])
    assert recognise(root) == "folder"
    write(root, "one.csv", file=["sad/1.png"], label=["sad"])
    assert recognise(root) == "csv"
    write(root, "two.csv", file=["sad/1.png"], label=["sad"])
    with pytest.raises(InputError, match=r"holds several tables \(one\.csv, two\.csv\)"):
        read(str(root))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_saved_manifest_is_recognised_and_options_apply_to_it(plant: Plant, tmp_path: Path, suffix: str) -> None:
    made = read(str(plant("sad/1.png", "happy/1.png", "fear/1.png")))
    file = made.save(tmp_path / f"m.{suffix}")
    again = read(str(file))
    assert (again.name, again.root, again.classes) == (made.name, made.root, made.classes)
    assert again.fingerprint() == made.fingerprint()
    assert counts(file, ReadOptions(aliases={"fear": "sad"})) == {"sad": 2, "happy": 1}


# Patterns


def test_pattern_gives_label_subject_and_groups(plant: Plant) -> None:
    root = plant("A/012_F_happy.png", "A/012_F_sad.png", "B/013_M_sad.png")
    pattern = r"(?P<site>[AB])/(?P<subject>\d+)_(?P<gender>[MF])_(?P<label>\w+)\.png$"
    manifest = read(str(root), ReadOptions(pattern=pattern))
    assert manifest.table["label"].tolist() == ["happy", "sad", "sad"]
    assert manifest.subjects is not None
    assert manifest.subjects.tolist() == ["012", "012", "013"]
    assert manifest.groups == ("site", "gender")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(\w+)\.png", "has no group named label"),
        (r"(?P<label>\w+", "--pattern: must be a regular expression"),
        (r"^(?P<label>sad)\d", "1 of 3 images do not match .* the first is 'x3.png'; correct the pattern"),
        (r"(?P<path>\w)(?P<label>\w)", "a group may not be called path"),
    ],
)
def test_patterns_that_cannot_be_used(plant: Plant, pattern: str, message: str) -> None:
    root = plant("sad1.png", "sad2.png", "x3.png")
    with pytest.raises(InputError, match=message):
        read(str(root), ReadOptions(pattern=pattern))


def test_images_outside_the_pattern_can_be_dropped_and_are_counted(plant: Plant) -> None:
    root = plant("sad1.png", "happy2.png", "x3.png")
    manifest = read(str(root), ReadOptions(pattern=r"^(?P<label>sad|happy)\d", unknown_labels="drop"))
    assert len(manifest) == 2
    assert "1 of 3 images do not match" in manifest.notes[0]
    with pytest.raises(InputError, match="needs a pattern"):
        read(f"pattern:{root}")


# Sources


def test_a_reader_can_be_named_and_a_misspelt_one_is_answered(plant: Plant) -> None:
    root = plant("sad/1.png", "happy/1.png")
    write(root, "labels.csv", file=["sad/1.png"], label=["sad"])
    assert len(read(f"folder:{root}")) == 2
    with pytest.raises(InputError, match=r"unknown reader 'foldr' in .*; did you mean folder"):
        read(f"foldr:{root}")
    with pytest.raises(InputError, match=r"unknown reader 'zzzz' .*; there are fer2013, .*, drawn, scenes"):
        read(f"zzzz:{root}")


@pytest.mark.parametrize("source", ["/nowhere/at/all", "folder:/nowhere/at/all", ""])
def test_nothing_there(source: str) -> None:
    with pytest.raises(InputError, match=r"--data: no such file or folder, got .*; give a path, reader:path, drawn"):
        read(source)


def test_a_folder_with_a_colon_in_its_name_is_a_path(plant: Plant) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no such names")
    assert len(read(str(plant("sad/1.png", "happy/1.png", under="folder:x")))) == 2


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="--votes: must be one of ignore, majority, soft, got 'mean'"):
        ReadOptions(votes="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--drop-ties: needs votes"):
        ReadOptions(drop_ties=True)


def test_every_reader_refuses_an_empty_folder(tmp_path: Path) -> None:
    for name in READERS:
        with pytest.raises(InputError, match=r"no (images|table)"):
            read(f"{name}:{tmp_path}", ReadOptions(pattern="(?P<label>.)" if name == "pattern" else None))


def test_half_a_million_labels_are_named_in_bulk(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of naming follows the number of different labels, not of rows."""
    from datamodules.readers import base

    calls: list[str] = []
    real = base.canonical
    monkeypatch.setattr(base, "canonical", lambda text: (calls.append(text), real(text))[1])
    frame = pd.DataFrame({"label": np.array(["sad", "기쁨"])[np.arange(500_000) % 2]})
    named, _ = base._name_labels(frame, "x", ReadOptions())
    assert len(calls) == 2
    assert named["label"].value_counts().to_dict() == {"sad": 250_000, "happy": 250_000}


def test_a_part_is_of_every_class_and_given_part_and_always_the_same(tmp_path: Path) -> None:
    for part, images in (("train", 20), ("test", 10)):
        for label in ("happy", "sad"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(images if label == "happy" else images // 5):
                (tmp_path / part / label / f"{number}.png").write_bytes(f"{part} {label} {number:03}".encode())
    found = read(str(tmp_path), ReadOptions(part=0.3)).table
    counts = found.groupby(["split", "label"]).size().to_dict()
    assert counts == {("test", "happy"): 3, ("test", "sad"): 1, ("train", "happy"): 6, ("train", "sad"): 1}
    assert list(found["path"]) == list(read(str(tmp_path), ReadOptions(part=0.3)).table["path"])
    assert set(found["path"]) < set(read(str(tmp_path)).table["path"])
    with pytest.raises(InputError, match="part: must be above 0 and below 1, got 1"):
        ReadOptions(part=1.0)


def test_a_part_keeps_equal_files_together(plant: Plant) -> None:
    """Twins in a class, across labels and across given parts are both in or both out, so that a part leaks, too."""
    root = plant()
    rows = []
    for number in range(60):
        for copy, (label, split) in enumerate((("happy", "train"), ("happy", "train"), ("sad", "test"))):
            if copy <= number % 3:
                path = f"{number}-{copy}.png"
                (root / path).write_bytes(f"{number:03}".encode())
                rows.append({"path": path, "label": label, "split": split})
    for number in range(50):  # of a size of its own, read by nobody
        (root / f"alone {number}.png").write_bytes(bytes(100 + number))
        rows.append({"path": f"alone {number}.png", "label": "sad", "split": "train"})
    pd.DataFrame(rows).to_csv(root / "t.csv", index=False)
    manifest = read(str(root / "t.csv"), ReadOptions(part=0.4))
    used = {number: 0 for number in range(60)}
    for path in manifest.table["path"]:
        if "-" in path:
            used[int(path.split("-")[0])] += 1
    assert set(used.values()) == {0, 1, 2, 3}
    assert all(count in (0, 1 + number % 3) for number, count in used.items())
    counts = manifest.table.groupby(["split", "label"]).size()
    assert counts["train", "sad"] == 20
    assert 40 <= counts["train", "happy"] <= 48
    assert 8 <= counts["test", "sad"] <= 13
    assert "equal files together" in manifest.notes[-1]


# Cells are text as written

MISSING_TO_OTHERS = ("NA", "N/A", "n/a", "NaN", "nan", "-nan", "None", "null", "NULL", "<NA>", "#N/A", "1.#IND", "007")


def _worded_table(root: Path, suffix: str) -> Path:
    """Every word that table readers like to change, as file, label, person and group; in other rows, empty cells."""
    rows = [{"file": word.replace("/", "_"), "label": word, "person": word, "race": word} for word in MISSING_TO_OTHERS]
    rows += [{"file": "known.png", "label": "sad", "person": "", "race": ""}]
    for row in rows:
        (root / row["file"]).write_bytes(b"not read here")
    if suffix == ".parquet":
        pd.DataFrame(rows).replace("", None).to_parquet(root / "t.parquet")
        return root / "t.parquet"
    separator = {".csv": ",", ".tsv": "\t"}[suffix]
    lines = [separator.join(row.values()) for row in ({name: name for name in rows[0]}, *rows)]
    (root / f"t{suffix}").write_text("\n".join(lines) + "\n")
    return root / f"t{suffix}"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_words_that_mean_missing_elsewhere_stay_words(plant: Plant, suffix: str) -> None:
    root = plant()
    manifest = read(str(_worded_table(root, suffix)), ReadOptions(unknown_labels="keep"))
    words = list(MISSING_TO_OTHERS)
    assert manifest.table["path"].tolist() == [word.replace("/", "_") for word in words] + ["known.png"]
    assert manifest.table["label"].tolist() == [*words, "sad"]
    assert manifest.table["subject"].tolist() == [*words, ""]
    assert manifest.table["race"].tolist() == [*words, ""]
    assert set(manifest.classes) == {*words, "sad"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("options", [ReadOptions(), ReadOptions(unknown_labels="keep")])
def test_words_stay_words_in_a_prepared_manifest(plant: Plant, suffix: str, options: ReadOptions) -> None:
    """Also where the options that come with a saved manifest are applied to it anew."""
    made = read(str(_worded_table(plant(), ".csv")), ReadOptions(unknown_labels="keep"))
    again = read(str(made.save(made.root / f"saved.{suffix}")), options)
    pd.testing.assert_frame_equal(again.table, made.table)
    assert again.fingerprint() == made.fingerprint()


def test_a_person_called_na_stays_in_one_part(plant: Plant, tmp_path: Path) -> None:
    root = plant()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"{number}.png")
    people = ["NA", "NA", "None", "None", "", ""]
    rows = [f"{number}.png,{'sad' if number % 2 else 'happy'},{person}" for number, person in enumerate(people)]
    (root / "t.csv").write_text("\n".join(["file,label,subject", *rows]) + "\n")
    manifest = read(str(root / "t.csv"))
    clusters = find_clusters(manifest, build_cache(manifest, 8, directory=tmp_path / "cache", workers=0))
    assert clusters.tolist() == [0, 0, 1, 1, 2, 3]


def test_a_split_called_na_is_refused_by_its_name(plant: Plant) -> None:
    root = plant("a.png", "b.png")
    (root / "t.csv").write_text("file,label,split\na.png,sad,train\nb.png,happy,NA\n")
    with pytest.raises(InputError, match=r"split must be one of train, validation, test, got 'NA' for 'b\.png'"):
        read(str(root / "t.csv"))


@pytest.mark.parametrize("options", [ReadOptions(agreement=2), ReadOptions(per_class=1)])
def test_an_agreement_that_is_no_number_is_named(plant: Plant, options: ReadOptions) -> None:
    root = plant("a.png", "b.png", "c.png")
    (root / "t.csv").write_text("file,label,agreement\na.png,sad,3\nb.png,happy,NA\nc.png,happy,\n")
    with pytest.raises(InputError, match=r"row 1: agreement must be a number, got 'NA' for 'b\.png'"):
        read(str(root / "t.csv"), options)
    (root / "t.csv").write_text("file,label,agreement\na.png,sad,3\nb.png,happy,2\nc.png,happy,\n")
    assert read(str(root / "t.csv"), options).table["path"].tolist() == ["a.png", "b.png"]


@pytest.mark.parametrize("cell", ["NA", "nan", "None", "many"])
def test_a_cell_of_a_saved_manifest_that_is_no_number_is_named(plant: Plant, cell: str) -> None:
    root = plant("a.png", "b.png")
    table = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["sad", "happy"]})
    boxes = pd.DataFrame({"path": ["a.png", "b.png"], "x0": 1, "y0": 1, "x1": [5, 6], "y1": 7})
    made = make_manifest(table.assign(votes_sad=[1, 2], votes_happy=[3, 4]), root, name="x").with_boxes(boxes)
    file = made.save(root / "m.csv")
    good = file.read_text()
    file.write_text(good.replace("2,4", f"{cell},4").replace("2.0,4", f"{cell},4"))
    with pytest.raises(InputError, match=rf"m\.csv: row 2 below the header: votes_sad must be a number, got '{cell}'"):
        read(str(file))
    file.write_text(good)
    beside = root / "m.csv.boxes.csv"
    beside.write_text(beside.read_text().replace("6.0", cell))
    with pytest.raises(InputError, match=rf"boxes\.csv: row 2 below the header: x1 must be a number, got '{cell}'"):
        read(str(file))
