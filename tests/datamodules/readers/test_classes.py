"""Some classes of a data set: which stay, what is counted, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read


def folders(root: Path, counts: dict[str, int]) -> Path:
    """One folder a class with so many images."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            color = np.random.default_rng([index, len(label)]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(color).save(root / label / f"{index}.png")
    return root


def test_the_others_are_left_out_and_counted(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 3, "sad": 2, "fear": 4, "anger": 1})

    manifest = read(str(root), ReadOptions(classes=["Sadness", "happy"]))  # an alias, and any order

    assert manifest.classes == ("happy", "sad")
    assert manifest.table["label"].value_counts().to_dict() == {"happy": 3, "sad": 2}
    assert sorted(set(manifest.labels.tolist())) == [0, 1]
    assert manifest.notes[-1] == "5 images left out, their classes were not chosen: angry 1, fear 4"


def test_all_classes_change_nothing(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 2, "sad": 2})
    plain, chosen = read(str(root)), read(str(root), ReadOptions(classes=["sad", "happy"]))
    assert chosen.fingerprint() == plain.fingerprint()
    assert chosen.notes == plain.notes


def test_a_mistyped_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 2, "sad": 2, "surprise": 1})
    with pytest.raises(InputError, match=r"--classes: .*surprise 1.*'suprize'; did you mean surprise\?"):
        read(str(root), ReadOptions(classes=["happy", "suprize"]))


def test_two_names_of_one_class_are_not_enough(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 2, "sad": 2})
    with pytest.raises(InputError, match="at least 2 different classes"):
        read(str(root), ReadOptions(classes=["happy", "joy"]))


def test_unknown_labels_are_classes_where_they_are_chosen_and_counted_where_not(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 2, "sad": 2, "confused": 3, "blurry": 1})
    manifest = read(str(root), ReadOptions(classes=["happy", "confused"]))
    assert manifest.classes == ("happy", "confused")
    assert manifest.notes == (
        "1 images left out, their labels are unknown: 'blurry' (1)",
        "2 images left out, their classes were not chosen: sad 2",
    )


def test_a_class_is_merged_into_another(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"disgust": 2, "contempt": 1, "sad": 2})
    manifest = read(str(root), ReadOptions(aliases={"contempt": "disgust"}))
    assert manifest.table["label"].value_counts().to_dict() == {"disgust": 3, "sad": 2}


def test_a_saved_manifest_keeps_its_own_classes(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 2, "sad": 2, "confused": 3})
    saved = read(str(root), ReadOptions(unknown_labels="keep")).save(tmp_path / "all.csv")
    manifest = read(str(saved), ReadOptions(classes=["confused", "sad"]))
    assert manifest.classes == ("sad", "confused")
    assert len(manifest) == 5


def test_votes_for_other_classes_are_left_out(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", {"happy": 2, "sad": 2})
    table = pd.DataFrame(
        {
            "path": ["happy/0.png", "happy/1.png", "sad/0.png", "sad/1.png"],
            "label": ["happy", "happy", "sad", "fear"],
            "votes_happy": [5, 4, 0, 0],
            "votes_sad": [0, 1, 8, 0],
            "votes_fear": [5, 0, 2, 9],
        }
    )
    table.to_csv(root / "labels.csv", index=False)
    manifest = read(str(root / "labels.csv"), ReadOptions(classes=["happy", "sad"], votes="soft"))
    assert isinstance(manifest, Manifest)
    assert manifest.classes == ("happy", "sad")
    assert manifest.votes is not None
    assert manifest.votes.tolist() == [[1, 0], [0.8, 0.2], [0, 1]]


def test_of_joined_sets_one_may_lack_a_chosen_class(tmp_path: Path) -> None:
    first = folders(tmp_path / "a", {"happy": 2, "sad": 2, "fear": 2})
    second = folders(tmp_path / "b", {"happy": 3, "fear": 1})
    manifest = read(f"folder:{first}+folder:{second}", ReadOptions(classes=["happy", "sad"]))
    assert manifest.classes == ("happy", "sad")
    assert len(manifest) == 7
