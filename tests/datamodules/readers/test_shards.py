"""Images that are packed into Parquet files and tar files: written out once, named, divided, and never printed."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.files.images import decode
from datamodules.readers import ReadOptions, read, recognise, shards
from datamodules.readers.shards import find_shards, shard_images, unpack_shard

NAMES = ["angry", "happy", "sad"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / "cache"))


def encoded(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def parquet(
    path: Path,
    values: list[int | None],
    labels: list | None = None,
    names: list[str] | dict[str, str] | None = NAMES,
    *,
    plain: bool = False,
    label: str = "label",
    **more: list,
) -> Path:
    """Write a shard as Hugging Face does: one image of the grey level of each value, None for no image."""
    data = [None if value is None else encoded(value) for value in values]
    structs = [{"bytes": item, "path": f"{row} x.png"} for row, item in enumerate(data)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(data, pa.binary()) if plain else pa.array(structs, kind)}
    features: dict = {"image": {"_type": "Image"}}
    if labels is not None:
        columns[label] = pa.array(labels)
        features[label] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    table = pa.table(columns | {name: pa.array(column) for name, column in more.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path, row_group_size=2)
    return path


def greys(manifest_files: list[Path]) -> list[int]:
    return [int(decode(path)[0, 0, 0]) for path in manifest_files]


def test_a_shard_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    shard = parquet(tmp_path / "faces.parquet", [10, 20, 30, 40], [0, 2, 1, 0], gender=["f", None, "m", "f"])
    assert recognise(shard) == "shards"
    manifest = read(str(shard))
    assert manifest.table["label"].tolist() == ["angry", "sad", "happy", "angry"]
    assert manifest.table["gender"].tolist() == ["f", "", "m", "f"]
    assert greys([manifest.file(row) for row in range(4)]) == [10, 20, 30, 40]
    assert manifest.table["path"].str.endswith(".png").all()
    assert "split" not in manifest.table
    written = manifest.file(0).stat().st_mtime_ns
    assert read(str(shard)).file(0).stat().st_mtime_ns == written
    parquet(shard, [99, 20, 30, 40], [0, 2, 1, 0])
    assert greys([read(str(shard)).file(0)]) == [99]
    assert shard_images(shard)[0] == read(str(shard)).file(0)


@pytest.mark.parametrize("where", ["{}", "data/{}", "default/{}", "default/{part}/0000.parquet"])
def test_several_shards_give_the_parts(tmp_path: Path, where: str) -> None:
    number = 0
    for part in ("train", "test"):
        for index in range(1 if "0000" in where else 2):
            name = where.format(f"{part}-{index:05d}-of-00002.parquet", part=part)
            parquet(tmp_path / "hub" / name, [number, number + 1], [0, 1])
            number += 2
    manifest = read(str(tmp_path / "hub"))
    assert manifest.name == "hub"
    assert manifest.table["split"].value_counts().to_dict() == {"train": number // 2, "test": number // 2}
    assert sorted(greys([manifest.file(row) for row in range(number)])) == list(range(number))
    assert not manifest.notes


def test_missing_shards_are_noted(tmp_path: Path) -> None:
    parquet(tmp_path / "hub/train-00000-of-00003.parquet", [1, 2], [0, 1])
    assert "only 1 of 3 shards of train exist here" in read(str(tmp_path / "hub")).notes


def test_a_plain_column_of_bytes_and_names_by_key(tmp_path: Path) -> None:
    shard = parquet(tmp_path / "x.parquet", [1, 2], [1, 0], {"1": "sad", "0": "happy"}, plain=True, label="feeling")
    assert read(str(shard)).table["label"].tolist() == ["sad", "happy"]


def test_numbers_without_names_are_listed_short(tmp_path: Path) -> None:
    shard = parquet(tmp_path / "x.parquet", [1, 2, 3], [0, 1, 1], None)
    with pytest.raises(InputError, match=r"the labels are the numbers \(images\) 0 \(1\), 1 \(2\)") as error:
        read(str(shard))
    assert len(str(error.value)) < 500
    manifest = read(str(shard), ReadOptions(aliases={"0": "angry", "1": "happy"}))
    assert manifest.table["label"].tolist() == ["angry", "happy", "happy"]
    float_shard = parquet(tmp_path / "y.parquet", [1, 2, 3], [0.0, 1.0, None], None)
    manifest = read(str(float_shard), ReadOptions(aliases={"0": "angry", "1": "happy"}))
    assert manifest.table["label"].tolist() == ["angry", "happy"]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    shard = parquet(tmp_path / "x.parquet", [1, None, 3, 4], [0, 1, -1, 2])
    manifest = read(str(shard))
    assert manifest.table["label"].tolist() == ["angry", "sad"]
    assert manifest.notes == (
        "1 rows of x.parquet left out: they hold no image",
        "1 images left out: they have no label",
    )


def test_images_without_labels_are_for_predict(tmp_path: Path) -> None:
    shard = parquet(tmp_path / "x.parquet", [5, 6], None)
    assert greys(shard_images(shard)) == [5, 6]
    with pytest.raises(InputError, match="the column 'label' is missing"):
        read(str(shard))


def test_errors_print_no_bytes(tmp_path: Path) -> None:
    shard = parquet(tmp_path / "x.parquet", [1, 2], [0, 1])
    for source, options in (
        (f"csv:{shard}", ReadOptions()),
        (str(shard), ReadOptions(label_column="image")),
        (str(shard), ReadOptions(path_column="label")),
    ):
        with pytest.raises(InputError) as error:
            read(source, options)
        assert "PNG" not in str(error.value)
        assert len(str(error.value)) < 400
    (tmp_path / "broken.parquet").write_bytes(shard.read_bytes()[:-300] + b"x" * 300)
    with pytest.raises(InputError, match="cannot"):
        read(str(tmp_path / "broken.parquet"))


def test_a_parquet_table_of_files_is_no_shard(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(3))
    pd.DataFrame({"path": ["a.png", "b.png"], "label": ["sad", "happy"]}).to_parquet(tmp_path / "t.parquet")
    assert recognise(tmp_path / "t.parquet") == "csv"
    assert find_shards(tmp_path) == []


# WebDataset


def tar(path: Path, files: dict[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "labels",
    [
        {"000.cls": "happy", "001.cls": "sad"},
        {"000.txt": "Happiness", "001.txt": "슬픔\n"},
        {"000.json": '{"emotion": "happy", "gender": "f"}', "001.json": '{"emotion": "sad", "gender": "m"}'},
    ],
)
def test_labels_beside_images_in_a_tar(tmp_path: Path, labels: dict[str, str]) -> None:
    shard = tar(tmp_path / "faces.tar", {"000.png": encoded(1), "001.png": encoded(2), **labels})
    assert recognise(shard) == "shards"
    manifest = read(str(shard))
    assert manifest.table["label"].tolist() == ["happy", "sad"]
    assert greys([manifest.file(0), manifest.file(1)]) == [1, 2]
    assert ("gender" in manifest.table) == ("000.json" in labels)


def test_several_tars_give_the_parts(tmp_path: Path) -> None:
    for number, name in enumerate(("train-0000.tar", "train-0001.tar", "val-0000.tar.gz")):
        files = {"a/0.jpg": encoded(number, "JPEG"), "a/0.cls": "0", "a/1.jpg": encoded(number, "JPEG"), "a/1.cls": "1"}
        tar(tmp_path / "web" / name, files, "w:gz" if name.endswith("gz") else "w")
    manifest = read(str(tmp_path / "web"), ReadOptions(aliases={"0": "sad", "1": "happy"}))
    assert manifest.table["split"].value_counts().to_dict() == {"train": 4, "validation": 2}
    assert manifest.table["label"].value_counts().to_dict() == {"sad": 3, "happy": 3}
    assert len(shard_images(tmp_path / "web")) == 6


def test_what_a_tar_lacks_is_counted(tmp_path: Path) -> None:
    files = {
        "0.png": encoded(1),
        "0.cls": "sad",
        "0.npy": b"x",
        "1.cls": "happy",
        "2.png": encoded(2),
        "3.png": encoded(3),
    }
    shard = tar(tmp_path / "x.tar", files | {"3.cls": "happy"})
    manifest = read(str(shard))
    assert manifest.table["label"].tolist() == ["sad", "happy"]
    assert manifest.notes == (
        "1 .npy files of x.tar left out",
        "1 labels of x.tar left out: they have no image",
        "1 images left out: they have no label",
    )


@pytest.mark.parametrize("first", ["cls", "json"])
def test_a_sample_with_two_labels_is_an_error_that_names_it(tmp_path: Path, first: str) -> None:
    """Whichever file stands first in the tar; other spellings of one class, and numbers without meaning, agree."""
    pairs = {"0": ("happy", "joy"), "1": ("sad", "happy"), "2": ("3", "sad"), "3": ("happy", "happy")}
    files: dict[str, bytes | str] = {}
    for key, (cls, word) in pairs.items():
        texts = {"cls": cls, "json": json.dumps({"label": word, "gender": "f"})}
        files[f"{key}.png"] = encoded(int(key))
        files |= {f"{key}.{kind}": texts[kind] for kind in sorted(texts, reverse=first == "json")}
    shard = tar(tmp_path / "x.tar", files)
    named = {"3": "sad"}
    wanted = r"1 samples have files that give different labels: '1' \(\.cls sad, \.json happy\).*--bad-records drop"
    with pytest.raises(InputError, match=wanted):
        read(str(shard), ReadOptions(aliases=named))
    manifest = read(str(shard), ReadOptions(aliases=named, bad_records="drop"))
    assert manifest.table["label"].tolist() == ["happy", "sad", "happy"]
    assert set(manifest.groups) == {"gender"}
    assert manifest.notes == ("1 samples left out: their files give different labels: '1' (.cls sad, .json happy)",)
    with pytest.raises(InputError, match="2 samples have files that give different labels"):
        read(str(shard), ReadOptions(aliases={"3": "fear"}))


@pytest.mark.parametrize("name", ["../0.png", "/tmp/0.png", "a/../../0.png"])
def test_no_name_in_a_tar_leaves_its_folder(tmp_path: Path, name: str) -> None:
    shard = tar(tmp_path / "x.tar", {"1.png": encoded(1), "1.cls": "sad", name: encoded(2)})
    with pytest.raises(InputError, match="leads out of the archive's folder; nothing was unpacked"):
        read(str(shard))
    assert not list((tmp_path / "cache").rglob("*.png"))


def test_a_link_in_a_tar_is_refused(tmp_path: Path) -> None:
    shard = tar(tmp_path / "x.tar", {"1.png": encoded(1), "1.cls": "sad"})
    with tarfile.open(shard, "a") as archive:
        info = tarfile.TarInfo("2.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="is a link or a device"):
        read(str(shard))


def test_a_tar_of_class_folders_is_unpacked_as_before(tmp_path: Path) -> None:
    shard = tar(tmp_path / "x.tar", {"sad/0.png": encoded(1), "happy/1.png": encoded(2), "readme.txt": "hello"})
    assert find_shards(shard) == []
    assert sorted(read(str(shard)).table["path"]) == ["happy/1.png", "sad/0.png"]


def test_each_column_of_images_has_its_own_files(tmp_path: Path) -> None:
    names = ("left eye", "right eye")
    images = {
        name: pa.array([{"bytes": encoded(value), "path": ""}]) for name, value in zip(names, (1, 2), strict=True)
    }
    pq.write_table(pa.table({**images, "label": ["sad"]}), tmp_path / "x.parquet")
    found = [unpack_shard(tmp_path / "x.parquet", name) / "images/0000000.png" for name in names]
    assert greys(found) == [1, 2]


def test_files_beside_shards_that_are_none_are_counted(tmp_path: Path) -> None:
    parquet(tmp_path / "hub/a.parquet", [1, 2], [0, 1])
    (tmp_path / "hub/b.parquet").write_bytes(b"PAR1 cut short")
    (tmp_path / "hub/c.tar").write_bytes(b"")
    notes = read(str(tmp_path / "hub")).notes
    assert "2 files left out: no labelled images are found in b.parquet" in notes


def test_a_parquet_file_is_not_unpacked_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = parquet(tmp_path / "x.parquet", [1, 2], [0, 1])
    monkeypatch.setenv("EMOTION_UNPACK_LIMIT_GB", "1e-7")
    with pytest.raises(InputError, match="more than the limit of 1e-07 GB"):
        read(str(shard))


def test_all_shards_of_a_large_folder_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MOST", 2)
    for number in range(4):
        parquet(tmp_path / f"hub/{number}.parquet", [number, 9], [0, 1])
    assert len(read(str(tmp_path / "hub"))) == 8
