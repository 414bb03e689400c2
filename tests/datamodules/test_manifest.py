"""The rules of the manifest, each broken once, and what saving keeps."""

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.manifest import Manifest, check_paths, make_manifest, side_car


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "deep/d.png"):
        (folder / name).write_bytes(b"not read here")
    return folder


def table(**changes: list) -> pd.DataFrame:
    columns = {
        "path": ["a.png", "b.png", "c.png", "deep/d.png"],
        "label": ["sad", "happy", "happy", "angry"],
        **changes,
    }
    return pd.DataFrame(columns)


def test_labels_follow_the_class_order_not_the_rows(root: Path) -> None:
    manifest = make_manifest(table(), root, name="faces")
    assert manifest.classes == ("angry", "happy", "sad")
    assert manifest.labels.tolist() == [2, 1, 1, 0]
    assert manifest.labels.dtype == np.int64
    assert (len(manifest), manifest.groups, manifest.votes, manifest.subjects) == (4, (), None, None)


def test_groups_subjects_and_votes_are_told_apart(root: Path) -> None:
    given = table(
        subject=["p1", None, "p1", "p2"],
        gender=["F", "M", np.nan, "F"],
        age=[20, 30, 40, 50],
        votes_sad=[3, 0, 1, 0],
        votes_happy=[1, 4, 1, 0],
        votes_angry=[0, 0, 0, 2],
    )
    manifest = make_manifest(given, root, name="faces")
    assert manifest.groups == ("gender", "age")
    assert manifest.subjects is not None
    assert manifest.subjects.tolist() == ["p1", "", "p1", "p2"]
    assert manifest.table["gender"].tolist() == ["F", "M", "", "F"]
    assert manifest.table["age"].tolist() == ["20", "30", "40", "50"]
    assert manifest.votes is not None
    expected = [[0, 0.25, 0.75], [0, 1, 0], [0, 0.5, 0.5], [1, 0, 0]]  # angry, happy, sad
    assert manifest.votes.tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"path": ["a.png", "../x.png", "c.png", "deep/d.png"]},
            r"row 1: path may not leave .* by '\.\.', got '\.\./x",
        ),
        ({"path": ["a.png", "deep/../../x.png", "c.png", "b.png"]}, r"row 1: path may not leave"),
        ({"path": ["a.png", "b.png", "/etc/passwd", "deep/d.png"]}, r"row 2: path must be relative .* '/etc/passwd'"),
        ({"path": ["C:\\x.png", "b.png", "c.png", "deep/d.png"]}, r"row 0: path must be relative"),
        ({"path": ["a.png", "b.png", "a.png", "deep/d.png"]}, r"row 2: path appears twice, got 'a.png'"),
        ({"path": ["a.png", "b.png", "./a.png", "deep//d.png"]}, r"row 2: path appears twice"),
        ({"path": ["a.png", "b.png", "no.png", "nowhere/e.png"]}, r"row 2 \(and 1 more rows\): path must be a file"),
        ({"path": ["a.png", "b.png", "deep", "deep/d.png"]}, r"row 2: path must be a file .* got 'deep'"),
        ({"path": ["a.png", "", "c.png", "deep/d.png"]}, r"row 1: path may not be empty"),
        ({"label": ["sad", np.nan, "happy", "sad"]}, r"row 1: label may not be empty, got '' for 'b.png'"),
        ({"label": ["sad", "sad", " ", "happy"]}, r"row 2: label may not be empty"),
        ({"label": ["sad"] * 4}, r"fewer than 2 classes, every image is 'sad'"),
        ({"split": ["train", "test", "holdout", "test"]}, r"row 2: split must be one of train.*got 'holdout'"),
        ({"votes_sad": [1, 1, 1, -1]}, r"row 3: votes_sad must be a number of at least 0, got -1"),
        ({"votes_sad": [1, 1, "x", 1]}, r"row 2: votes_sad must be a number .* got 'x' for 'c.png'"),
        ({"votes_sad": [1, 1, "NA", 1]}, r"row 2: votes_sad must be a number .* got 'NA' for 'c.png'"),
        ({"votes_sad": [1, 0, 1, 1]}, r"row 1: votes must sum to more than 0"),
        ({"votes_bored": [1, 1, 1, 1]}, r"the votes column 'votes_bored' belongs to no class"),
    ],
)
def test_a_broken_rule_names_the_row(root: Path, changes: dict[str, list], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_manifest(table(**changes), root, name="faces")


@pytest.mark.parametrize("column", ["path", "label"])
def test_missing_column_is_named_with_what_is_there(root: Path, column: str) -> None:
    with pytest.raises(InputError, match=f"the column '{column}' is missing; found "):
        make_manifest(table().drop(columns=column), root, name="faces")


def test_empty_table_and_missing_root(root: Path) -> None:
    with pytest.raises(InputError, match="no images found"):
        make_manifest(table().iloc[:0], root, name="faces")
    with pytest.raises(InputError, match="does not exist"):
        make_manifest(table(), root / "gone", name="faces")


def test_label_outside_the_given_classes(root: Path) -> None:
    with pytest.raises(InputError, match="row 3: label must be one of sad, happy, got 'angry'"):
        make_manifest(table(), root, name="faces", classes=("sad", "happy"))
    manifest = make_manifest(table(), root, name="faces", classes=("sad", "happy", "angry", "fear"))
    assert manifest.labels.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_symlink_out_of_the_root_is_followed_but_not_out_of_the_cache(
    root: Path, linked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(b"x")
    if linked == "file":
        (root / "l.png").symlink_to(outside / "x.png")
        path = "l.png"
    else:
        (root / "l").symlink_to(outside)
        path = "l/x.png"
    linked_table = table(path=["a.png", path, "c.png", "deep/d.png"])
    assert make_manifest(linked_table, root, name="faces").file(1) == outside / "x.png"
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(root.parent))
    with pytest.raises(InputError, match=f"row 1: path may not leave .* through a symlink, got '{path}'"):
        make_manifest(linked_table, root, name="faces")
    (root / "in.png").symlink_to(root / "a.png")
    manifest = make_manifest(table(path=["in.png", "b.png", "c.png", "deep/d.png"]), root, name="faces")
    assert manifest.file(0) == root / "a.png"


def test_symlink_that_changes_later_is_refused_when_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(root.parent))
    manifest = make_manifest(table(), root, name="faces")
    (root.parent / "secret.png").write_bytes(b"x")
    (root / "b.png").unlink()
    (root / "b.png").symlink_to(root.parent / "secret.png")
    with pytest.raises(InputError, match=r"row 1: 'b.png' leads out of"):
        manifest.file(1)


def test_a_root_that_is_itself_a_link_is_fine(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert make_manifest(table(), link, name="faces").file(3) == root / "deep/d.png"


def test_select_keeps_classes_and_renumbers(root: Path) -> None:
    chosen = make_manifest(table(), root, name="faces").select([3, 0])
    assert chosen.table["path"].tolist() == ["deep/d.png", "a.png"]
    assert chosen.table.index.tolist() == [0, 1]
    assert (chosen.classes, chosen.labels.tolist()) == (("angry", "happy", "sad"), [0, 2])


def test_fingerprint_is_of_the_content(root: Path) -> None:
    first = make_manifest(table(), root, name="faces")
    assert first.fingerprint() == make_manifest(table(), root, name="other").fingerprint()
    changed = make_manifest(table(label=["sad", "happy", "sad", "angry"]), root, name="faces")
    other_classes = make_manifest(table(), root, name="faces", classes=("happy", "sad", "angry"))
    # The same characters in other cells are other tables.
    left = make_manifest(table(g=["ab", "", "", ""], h=["", "", "", ""]), root, name="faces")
    right = make_manifest(table(g=["a", "b", "", ""], h=["", "", "", ""]), root, name="faces")
    prints = {m.fingerprint() for m in (first, changed, other_classes, left, right, first.select([1, 0, 2, 3]))}
    assert len(prints) == 6


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_saved_manifest_opens_as_it_was(root: Path, tmp_path: Path, suffix: str) -> None:
    given = table(
        subject=["NA", "", "001", "p,2"],  # words that CSV readers like to change
        gender=["None", "F", 'say "x"', "여"],
        votes_sad=[1 / 3, 0.1, 1, 0],
        votes_happy=[2 / 3, 0.9, 1e-9, 0],
        votes_angry=[0, 0, 0, 2],
    )
    classes = ("happy", "sad", "angry")
    made = make_manifest(given, root, name="얼굴", classes=classes, notes=("2 left out",))
    file = made.save(tmp_path / f"m{suffix}")
    again = Manifest.load(file)
    assert (again.classes, again.name, again.root, again.notes) == (classes, "얼굴", root, ("2 left out",))
    assert again.fingerprint() == made.fingerprint()
    pd.testing.assert_frame_equal(again.table, made.table)
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_manifest_beside_its_images_moves_with_them(root: Path, suffix: str) -> None:
    make_manifest(table(), root, name="faces").save(root / f"m{suffix}")
    moved = root.rename(root.with_name("elsewhere"))
    assert Manifest.load(moved / f"m{suffix}").root == moved


def test_saving_and_loading_say_what_is_wrong(root: Path, tmp_path: Path) -> None:
    manifest = make_manifest(table(), root, name="faces")
    with pytest.raises(InputError, match=r"a manifest is a \.csv or \.parquet file, got 'm\.txt'"):
        manifest.save(tmp_path / "m.txt")
    with pytest.raises(InputError, match="cannot write the manifest"):
        manifest.save(tmp_path / "no" / "m.csv")
    with pytest.raises(InputError, match="no file"):
        Manifest.load(tmp_path / "m.csv")
    side_car(manifest.save(tmp_path / "m.csv")).unlink()
    with pytest.raises(InputError, match="is not a saved manifest"):
        Manifest.load(tmp_path / "m.csv")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot open the manifest"):
        Manifest.load(tmp_path / "m.parquet")


def test_manifest_can_be_sent_to_a_worker(root: Path) -> None:
    manifest = make_manifest(table(), root, name="faces")
    again = pickle.loads(pickle.dumps(manifest))
    assert again.fingerprint() == manifest.fingerprint()
    assert again.labels.tolist() == manifest.labels.tolist()


def test_files_are_checked_by_listing_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a million images must not cost half a million questions to the file system."""
    for i in range(300):
        (root / f"n{i}.png").touch()
    calls = []
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda p, **k: (calls.append(p), real(p, **k))[1])
    paths = [f"n{i}.png" for i in range(300)]
    frame = pd.DataFrame({"path": paths, "label": ["sad", "happy"] * 150})
    check_paths(frame, root, "faces")
    assert 1 <= len(calls) <= 3
