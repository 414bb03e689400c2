"""Choice of the images to explain, and the positions of landmarks and masks in the network's input."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.faces.detectors import Faces
from datamodules.files.images import FITS, Fit, fit_to_square
from datamodules.manifest import Manifest
from emotion.explanation import explainer
from emotion.explanation.select import (
    Answers,
    cell_lines,
    choose_images,
    emotion_masks,
    found_landmarks,
    known_landmarks,
    onto_square,
    targets_of,
)
from results.bias.groups import groupings

CLASSES = ("happy", "sad", "fear")


def predictions() -> pd.DataFrame:
    """12 happy (9 of them right: 6 adults, 3 children), 6 sad (2 right, both adults), no fear; in pairs."""
    label = ["happy"] * 12 + ["sad"] * 6
    predicted = ["happy"] * 9 + ["sad"] * 3 + ["sad"] * 2 + ["happy"] * 4
    age = ["adult"] * 6 + ["child"] * 6 + ["adult"] * 3 + ["child"] * 3
    table = pd.DataFrame({"row": np.arange(18) * 10, "cluster": np.arange(18) // 2})
    table["subject"] = ""
    table["label"], table["predicted"], table["age"] = label, predicted, age
    table["gender"] = ["woman", "man"] * 9
    return table


def chosen(number: int, *by: str, answers: Answers = "correct", seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = predictions()
    places, cells = choose_images(table, CLASSES, number, groupings(table, by), answers=answers, seed=seed)
    assert (np.diff(places) > 0).all()
    return table.iloc[places], cells


def test_so_many_correct_ones_of_every_class() -> None:
    found, cells = chosen(4)

    assert (found["label"] == found["predicted"]).all()
    assert found["label"].value_counts().to_dict() == {"happy": 4, "sad": 2}
    assert cells.set_index("class")[["chosen", "eligible", "images"]].to_numpy().tolist() == [
        [4, 9, 12],
        [2, 2, 6],
        [0, 0, 0],
    ]
    assert found["cluster"].nunique() == 5  # of the happy ones no two are near-duplicates, as long as there are others
    assert chosen(4)[0].equals(found)
    assert not chosen(4, seed=1)[0].equals(found)


def test_so_many_of_every_class_and_group() -> None:
    found, cells = chosen(2, "age")

    assert found.groupby(["label", "age"]).size().to_dict() == {
        ("happy", "adult"): 2,
        ("happy", "child"): 2,
        ("sad", "adult"): 2,
    }
    assert cell_lines(cells, predictions(), 2, "correct") == [
        "fear / adult: only 0 of 2 images, since 0 of its 0 images are predicted correctly",
        "sad / child: only 0 of 2 images, since 0 of its 3 images are predicted correctly",
        "fear / child: only 0 of 2 images, since 0 of its 0 images are predicted correctly",
        "fear was never predicted",
    ]
    both, _ = chosen(2, "age", "gender")  # the same images serve both where they can
    counts = both[both["label"] == "happy"].groupby("gender").size()
    assert (counts >= 2).all()
    assert len(both[both["label"] == "happy"]) <= 6


def test_wrong_ones_and_all() -> None:
    found, _ = chosen(3, answers="wrong")
    assert (found["label"] != found["predicted"]).all()
    assert len(chosen(100, answers="any")[0]) == 18
    table = predictions().assign(predicted="fear")
    with pytest.raises(InputError, match="none of the 18 held-out images was predicted correctly"):
        choose_images(table, CLASSES, 3)
    with pytest.raises(InputError, match="--images: must be at least 1, got 0"):
        choose_images(table, CLASSES, 0)


def test_targets() -> None:
    table = predictions().iloc[[0, 9, 17]].assign(label=["happy", "happy", ""])
    assert targets_of(table, CLASSES, "predicted").tolist() == [0, 1, 0]
    assert targets_of(table, CLASSES, "label").tolist() == [0, 0, 0]  # of a new image what was predicted
    assert targets_of(table, CLASSES, "fear").tolist() == [2, 2, 2]
    with pytest.raises(InputError, match="got 'feer'; did you mean fear"):
        targets_of(table, CLASSES, "feer")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(120, 80), (60, 96), (40, 40)])
def test_a_point_lies_where_its_dot_is_seen(fit: Fit, shape: tuple[int, int]) -> None:
    height, width = shape
    points = np.array([[width / 2 + 5, height / 2 - 8], [width / 2 - 11, height / 2 + 3]])
    for point in points:
        image = np.zeros((*shape, 3), np.uint8)
        cv2.circle(image, tuple(point.astype(int).tolist()), 5, (255, 255, 255), -1)
        seen = fit_to_square(image, 48, fit)[..., 0].astype(float)
        seen[seen == 128] = 0  # the grey beside a padded image
        y, x = np.indices(seen.shape)
        centre = np.array([(x * seen).sum(), (y * seen).sum()]) / seen.sum()
        assert onto_square(point.astype(int) + 0.5, height, width, 48, fit) == pytest.approx(centre + 0.5, abs=0.25)


def manifest(boxes: pd.DataFrame | None) -> Manifest:
    return Manifest(Path(), pd.DataFrame({"path": ["a.png", "b.png", "c.png"]}), CLASSES, "faces", boxes=boxes)


def test_landmarks_of_the_datas_own_table() -> None:
    names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    row = {f"{name}_{axis}": 10 * number + one for number, name in enumerate(names) for one, axis in enumerate("xy")}
    boxes = pd.DataFrame([{"path": "a.png", **row}, {"path": "c.png", **row}, {"path": "c.png", **row}])
    found = known_landmarks(manifest(boxes), np.array([0, 1, 2]), [(64, 64)] * 3, 32, "crop")

    assert found[0] == pytest.approx(np.arange(5)[:, None] * 5 + [0.0, 0.5], abs=1e-5)
    assert np.isnan(found[1:]).all()  # unknown, and one of two faces
    marked = known_landmarks(manifest(boxes.assign(chosen=[1, 0, 1])), np.array([2]), [(64, 64)], 32, "crop")
    assert np.isfinite(marked).all()
    assert np.isnan(known_landmarks(manifest(None), np.array([0]), [(64, 64)], 32, "crop")).all()


def test_landmarks_of_a_detector_are_those_of_the_largest_face() -> None:
    class Two:
        name, identity, has_landmarks = "two", "two", True

        def detect(self, images: object) -> list[Faces]:
            boxes = np.array([[0, 0, 9, 9], [20, 20, 60, 60]], np.float32)
            return [Faces(boxes, np.ones(2, np.float32), np.stack([np.zeros((5, 2)), np.full((5, 2), 31.5)]))]

    class Nobody(Two):
        def detect(self, images: object) -> list[Faces]:
            return [Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))]

    image = np.zeros((64, 64, 3), np.uint8)
    assert found_landmarks(Two(), image, 32, "crop") == pytest.approx(np.full((5, 2), 15.75))
    assert np.isnan(found_landmarks(Nobody(), image, 32, "crop")).all()


def test_only_drawn_faces_tell_what_carries_the_emotion() -> None:
    assert emotion_masks("photographs", manifest(None), np.array([0]), 32, "crop") is None
    assert emotion_masks("drawn:size=64+folder:/photographs", manifest(None), np.array([0]), 32, "crop") is None
    assert emotion_masks("scenes:images=4", manifest(None), np.array([0]), 32, "crop") is None
    drawn = Manifest(Path(), pd.DataFrame({"path": ["happy/000002.png"]}), CLASSES, "drawn")
    large = emotion_masks("drawn:size=64", drawn, np.array([0]), 64, "crop")
    small = emotion_masks("drawn:size=64", drawn, np.array([0]), 32, "crop")
    assert large is not None
    assert small is not None
    assert 0.02 < large.mean() < 0.3
    assert small.mean() == pytest.approx(large.mean(), rel=0.3)
    assert not large[0, :8].any()


def test_new_images_have_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explainer, "sort_paths", lambda *_: ([], [Path("new.png")]))
    options = SimpleNamespace(rows=None, paths=["new.png"], fold=None, by=["age"])
    networks, source = SimpleNamespace(held_out=None), SimpleNamespace(manifest=None)
    with pytest.raises(InputError, match="--by: new images have no group, got age; leave --by out"):
        explainer._inputs(options, networks, source, groupings(predictions(), ["age"]), None)  # type: ignore[arg-type]
