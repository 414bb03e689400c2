"""`exclude` leaves listed images out, counts them, and names what it does not know."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.readers import ReadOptions, read

Plant = Callable[..., Path]
FILES = ("happy/a.png", "happy/b.png", "sad/c.png", "sad/d.png", "fear/e.png")


def listed(folder: Path, content: str) -> ReadOptions:
    (folder / "doubtful.csv").write_text(content)
    return ReadOptions(exclude=str(folder / "doubtful.csv"))


@pytest.mark.parametrize(
    "content",
    [
        "row,path,label,suggested,score\n9,happy/b.png,happy,sad,0.1\n9,sad/c.png,sad,happy,0.2\n",  # the path counts
        "path\nsad/c.png\nhappy/b.png\nsad/c.png\n",  # twice is once
    ],
)
def test_listed_paths_are_left_out_and_counted(plant: Plant, tmp_path: Path, content: str) -> None:
    found = read(str(plant(*FILES)), listed(tmp_path, content))
    assert list(found.table["path"]) == ["fear/e.png", "happy/a.png", "sad/d.png"]
    assert any(note.startswith("2 of 5 images left out, which ") for note in found.notes)
    assert any(note.endswith("doubtful.csv lists: happy 1, sad 1") for note in found.notes)


def test_rows_count_where_there_is_no_path(plant: Plant, tmp_path: Path) -> None:
    root = plant(*FILES)
    whole = list(read(str(root)).table["path"])
    found = read(str(root), listed(tmp_path, "row\n1\n3.0\n"))
    assert list(found.table["path"]) == [whole[0], whole[2], whole[4]]
    table = pd.DataFrame({"row": [1, 3]})
    table.to_parquet(tmp_path / "rows.parquet")
    again = read(str(root), ReadOptions(exclude=str(tmp_path / "rows.parquet")))
    assert list(again.table["path"]) == list(found.table["path"])
    assert len(read(str(root), listed(tmp_path, "row\n")).table) == 5


def test_it_comes_after_all_other_options(plant: Plant, tmp_path: Path) -> None:
    options = listed(tmp_path, "path\nhappy/b.png\n")
    some = read(str(plant(*FILES)), ReadOptions(exclude=options.exclude, classes=["happy", "sad"]))
    assert list(some.table["path"]) == ["happy/a.png", "sad/c.png", "sad/d.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path\nhappy/x.png\nhappy/a.png\nhappy/y.png\n",
            r"lists paths that are not in set \(5 images\): 'happy/x.png' \(line 2\), 'happy/y.png' \(line 4\)",
        ),
        ("row\n5\n", r"lists rows that are not in set \(5 images\): '5' \(line 2\)"),
        ("row\n-1\nsome\n1.5\n", r"'-1' \(line 2\), 'some' \(line 3\), '1.5' \(line 4\)"),
        ("path\n" + "".join(f"{n}.png\n" for n in range(8)), r"'4.png' \(line 6\) and 3 more; read the data as"),
        ("file,label\na,b\n", "the table must have a column path or row, got .*file, label"),
        ("path\nfear/e.png\n", "leaves no image of class fear; shorten the table"),
        ("", "--exclude: cannot read the table"),
    ],
)
def test_what_cannot_be_left_out_is_named(plant: Plant, tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(str(plant(*FILES)), listed(tmp_path, content))
    assert str(error.value).startswith("--exclude: ")


def test_a_table_that_is_not_there(plant: Plant) -> None:
    with pytest.raises(InputError, match=r"--exclude: must be a table of images that exists, got 'gone\.csv'"):
        read(str(plant(*FILES)), ReadOptions(exclude="gone.csv"))
