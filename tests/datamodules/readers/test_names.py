"""CAFE and NIMH-ChEFS in small, drawn faces under their names: person, expression and how it was posed are read."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import emotion
from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read
from datamodules.splits.folds import k_fold

POSED = ["angry", "angryopen", "disgust", "disgustwithtongue", "fearful", "happyopen", "neutral", "sad", "surprise"]
CHILDREN = ["F-AA-01", "M-EA-12", "F-LA-03", "M-AS-07", "F-SA-02", "M-EA-13"]
CAFE = [f"{child}_{word}.jpg" for child in CHILDREN for word in POSED]
NIMH = [
    f"{person}{letter}{gaze}_{number:04d}.jpg"
    for number, person in enumerate(("M10", "F12", "F07", "M03"), start=4986)
    for letter in "AFHNS"
    for gaze in "SA"
]


def planted(root: Path, names: Sequence[str]) -> Path:
    """Drawn faces under these names; which expression is drawn does not matter here."""
    faces = read("drawn:largest=54,ratio=1,size=32,classes=happy+sad")
    root.mkdir(parents=True)
    for row, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(faces.file(row), root / name)
    return root


def test_cafe(tmp_path: Path) -> None:
    table = read(f"cafe:{planted(tmp_path / 'CAFE', CAFE)}").table.set_index("path")
    assert sorted(set(table["label"])) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert sorted(set(table["subject"])) == ["FAA01", "FLA03", "FSA02", "MAS07", "MEA12", "MEA13"]
    assert set(table["age"]) == {"child"}
    row = table.loc["M-AS-07_angryopen.jpg"]
    assert row[["label", "gender", "race", "mouth"]].tolist() == ["angry", "male", "Asian", "open"]
    mouths = {word: table.loc[f"F-AA-01_{word}.jpg", "mouth"] for word in ("angry", "disgustwithtongue", "surprise")}
    assert mouths == {"angry": "closed", "disgustwithtongue": "tongue", "surprise": "open"}
    assert read(f"cafe:{tmp_path / 'CAFE'}").groups == ("age", "gender", "race", "mouth")


def test_nimh(tmp_path: Path) -> None:
    table = read(f"nimh:{planted(tmp_path / 'NIMH', NIMH)}").table.set_index("path")
    assert table["label"].value_counts().to_dict() == dict.fromkeys(("angry", "fear", "happy", "neutral", "sad"), 8)
    assert table["gaze"].value_counts().to_dict() == {"direct": 20, "averted": 20}
    assert table.loc["M10HS_4986.jpg", ["label", "gender", "gaze", "age", "subject"]].tolist() == [
        "happy", "male", "direct", "adolescent", "M10",
    ]  # fmt: skip


@pytest.mark.parametrize(("reader", "names"), [("cafe", CAFE), ("nimh", NIMH)])
def test_a_person_stays_in_one_fold(tmp_path: Path, reader: str, names: list[str]) -> None:
    manifest = read(f"{reader}:{planted(tmp_path / 'set', names)}")
    assert manifest.subjects is not None
    clusters = np.unique(manifest.subjects.astype(str), return_inverse=True)[1]
    for fold in k_fold(manifest.labels, clusters, manifest.classes, folds=2, seed=0, inner_fraction=0):
        assert not set(manifest.subjects[fold.train]) & set(manifest.subjects[fold.test])


def test_names_of_another_release(tmp_path: Path) -> None:
    """Own pattern, the set's meanings: letters, spelling of the child, and the age."""
    root = planted(tmp_path / "CAFE", ["f_aa_01/Anger-o.png", "F-AA-01/Joy-c.png", "m_la_02/Anger-c.png"])
    own = r"(?P<subject>(?P<gender>[FMfm]).(?P<race>\w\w).\d+)/(?P<label>\w+)-(?P<mouth>[oc])"
    table = read(f"cafe:{root}", ReadOptions(pattern=own)).table
    assert table["subject"].tolist() == ["FAA01", "FAA01", "MLA02"]
    assert table["label"].tolist() == ["happy", "angry", "angry"]
    assert (table["gender"].tolist(), table["age"].tolist()) == (["female", "female", "male"], ["child"] * 3)
    assert table["mouth"].tolist() == ["c", "o", "c"]
    with pytest.raises(InputError, match=r"has no group named subject; .* must stay in one fold"):
        read(f"cafe:{root}", ReadOptions(pattern=r"/(?P<label>\w+)-"))
    with pytest.raises(InputError, match=r"cafe: 3 of 3 images do not match .* give its pattern with --pattern"):
        read(f"cafe:{root}")
    (root / "notes").mkdir()
    for broken in ("M10XS_1.png", "M10HSX_1.png", "XM10HS_1.png"):
        shutil.copyfile(root / "f_aa_01/Anger-o.png", root / "notes" / broken)
    with pytest.raises(InputError, match="nimh: 3 of 3 images do not match"):
        read(f"nimh:{root / 'notes'}")


def test_data_check_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = planted(tmp_path / "CAFE", CAFE)
    emotion.main(["data", "check", "--data", f"cafe:{root}"])
    assert "CAFE: 54 images, 7 classes" in capsys.readouterr().out


def test_both_sets_are_joined(tmp_path: Path) -> None:
    """As the paper uses them: one set's classes are a part of the other's, people and paths stay apart."""
    planted(tmp_path / "CAFE", CAFE)
    planted(tmp_path / "more" / "NIMH", NIMH)
    both = read(f"cafe:{tmp_path / 'CAFE'}+nimh:{tmp_path / 'more' / 'NIMH'}")
    assert (len(both), both.name, both.root) == (len(CAFE) + len(NIMH), "CAFE+NIMH", tmp_path)
    assert both.classes == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert both.file(len(CAFE)).name.startswith(("F", "M"))
    assert set(both.table["path"].str.split("/").str[0]) == {"CAFE", "more"}
    ages = both.table.groupby("set")["age"].unique().map(list).to_dict()
    assert ages == {"CAFE": ["child"], "NIMH": ["adolescent"]}
    assert set(both.table["subject"].str.split().str[0]) == {"CAFE", "NIMH"}
    assert (both.table.loc[both.table["set"] == "CAFE", "gaze"] == "").all()
    with pytest.raises(InputError, match=r"have different names, got CAFE \+ CAFE"):
        read(f"cafe:{tmp_path / 'CAFE'}+cafe:{tmp_path / 'CAFE'}")
    (tmp_path / "split" / "train" / "happy").mkdir(parents=True)
    shutil.copyfile(both.file(0), tmp_path / "split" / "train" / "happy" / "1.png")
    (tmp_path / "split" / "test" / "sad").mkdir(parents=True)
    shutil.copyfile(both.file(0), tmp_path / "split" / "test" / "sad" / "1.png")
    with pytest.raises(InputError, match="a given split must be in all sets that are joined or in none, CAFE has none"):
        read(f"cafe:{tmp_path / 'CAFE'}+folder:{tmp_path / 'split'}")


@pytest.mark.parametrize("faces", [None, "haar"])
def test_joined_sets_have_one_identity_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: str | None
) -> None:
    """One of the sets is an archive, which is unpacked below the cache; the sets and the cache lie in two places."""
    found = []
    for where, cache in (("first", "first/cache"), ("second/deeper", "elsewhere/cache")):
        monkeypatch.setenv("EMOTION_CACHE_DIR", str(tmp_path / cache))
        planted(tmp_path / where / "CAFE", CAFE[:8])
        planted(tmp_path / where / "unpacked" / "NIMH", NIMH[:8])
        shutil.make_archive(str(tmp_path / where / "NIMH"), "zip", tmp_path / where / "unpacked", "NIMH")
        source = f"cafe:{tmp_path / where / 'CAFE'}+nimh:{tmp_path / where / 'NIMH.zip'}"
        both = read(source, ReadOptions(faces=faces, face_size=16))
        assert len(both) == 16
        saved = Manifest.load(both.save(tmp_path / where / "both.csv"))
        again = read(str(tmp_path / where / "both.csv"), ReadOptions(unknown_labels="drop"))
        part = read(source, ReadOptions(faces=faces, face_size=16, classes=["happy", "sad", "angry", "fear"]))
        found.append([manifest.fingerprint() for manifest in (both, saved, again, part)])
    assert found[0] == found[1]
    assert found[0][0] == found[0][1] == found[0][2] != found[0][3]
    other = both.table.assign(path=both.table["path"].iloc[::-1].to_numpy())
    assert replace(both, table=other).fingerprint() != both.fingerprint()
