"""Drawn scenes: the same wherever they are drawn, with boxes, landmarks and expressions that are where they say."""

import numpy as np
import pytest

from datamodules.errors import InputError
from datamodules.synthetic import KOREAN, DrawnScenes, draw_scene
from datamodules.synthetic.action_units import express, vote

SPEC = DrawnScenes(images=28, size=160, seed=1, occlusion=0.3)


@pytest.fixture(scope="module")
def scenes() -> list:
    return [draw_scene(SPEC, row) for row in range(len(SPEC))]


def test_a_row_is_the_same_whatever_was_drawn_before(scenes: list) -> None:
    again = draw_scene(SPEC, 5)
    assert np.array_equal(again.image, scenes[5].image)
    assert np.array_equal(again.boxes, scenes[5].boxes)
    other = draw_scene(DrawnScenes(images=28, size=160, seed=2, occlusion=0.3), 5)
    assert other.image.shape != again.image.shape or not np.array_equal(other.image, again.image)


def test_classes_take_turns_and_pictures_differ_in_shape(scenes: list) -> None:
    assert [s.label for s in scenes] == [*KOREAN] * 4
    assert len({s.image.shape for s in scenes}) > 10
    assert all(0.69 * 160 <= max(s.image.shape[:2]) <= 160 for s in scenes)
    assert {s.image.dtype for s in scenes} == {np.dtype(np.uint8)}


def test_boxes_lie_in_the_picture_and_hold_their_landmarks(scenes: list) -> None:
    several = 0
    for scene in scenes:
        high, wide = scene.image.shape[:2]
        assert scene.boxes.shape == (len(scene.boxes), 4)
        assert scene.landmarks.shape == (len(scene.boxes), 5, 2)
        assert np.all(scene.boxes[:, :2] >= 0)
        assert np.all(scene.boxes[:, 2:] <= [wide, high])
        assert np.all(scene.boxes[:, 2:] - scene.boxes[:, :2] >= 6)
        areas = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], 1)
        assert areas.argmax() == 0
        x0, y0, x1, y1 = scene.boxes[0]
        assert min(wide, high) * 0.19 <= y1 - y0 <= min(wide, high) * 0.6
        points = scene.landmarks[0]
        assert np.all((points > [x0, y0]) & (points < [x1, y1]))
        left, right, nose, mouth_left, mouth_right = points
        assert left[0] < right[0]
        assert mouth_left[0] < mouth_right[0]
        assert left[1] < nose[1] < mouth_left[1] + 0.1 * (y1 - y0)
        assert np.all((scene.visible >= 0.3) & (scene.visible <= 1))
        several += len(scene.boxes) > 1
    assert several > 8


def test_the_face_is_where_the_box_says() -> None:
    """Two scenes that differ only in the emotion differ inside the main box and hardly outside of it."""
    inside, outside = [], []
    for row in range(6):
        one, two = (
            draw_scene(DrawnScenes(images=6, size=160, seed=9, occlusion=0, others=0, distractors=0, classes=(c,)), row)
            for c in ("happy", "angry")
        )
        changed = np.abs(one.image.astype(int) - two.image.astype(int)).max(2) > 60
        x0, y0, x1, y1 = np.rint(one.boxes[0]).astype(int)
        inside.append(changed[y0:y1, x0:x1].mean())
        changed[y0:y1, x0:x1] = False
        outside.append(changed.mean())
    assert np.median(inside) > 5 * np.median(outside)


def test_options_do_what_they_say(scenes: list) -> None:
    alone = [draw_scene(DrawnScenes(images=5, size=96, others=0, distractors=0), row) for row in range(5)]
    assert all(len(s.boxes) == 1 and len(s.distractors) == 0 for s in alone)
    assert sum(len(s.distractors) for s in scenes) > 5
    evening = [draw_scene(DrawnScenes(images=5, size=96, others=0, distractors=0, dim=1), row) for row in range(5)]
    assert np.mean([s.image.mean() for s in evening]) < 0.75 * np.mean([s.image.mean() for s in alone])
    few = [draw_scene(DrawnScenes(images=8, size=96, subjects=2, others=0), row) for row in range(8)]
    assert {s.subject for s in few} == {0, 1}
    skins = {s.subject: {tuple(t.person.skin_rgb) for t in few if t.subject == s.subject} for s in few}
    assert all(len(rgb) == 1 for rgb in skins.values())


def test_a_thing_before_a_face_hides_a_part_of_it() -> None:
    seen = {}
    for chance in (0.0, 1.0):
        spec = DrawnScenes(images=10, size=128, others=0, occlusion=chance)
        seen[chance] = np.mean([draw_scene(spec, row).visible[0] for row in range(10)])
    assert seen[0.0] > 0.97
    assert 0.5 < seen[1.0] < 0.95


@pytest.mark.parametrize("emotion", KOREAN)
def test_annotators_see_the_korean_emotions(emotion: str) -> None:
    generator = np.random.default_rng(0)
    votes = sum(vote(generator, express(generator, emotion, 0.2), KOREAN, 3) for _ in range(200)) / 600
    assert np.argmax(votes) == KOREAN.index(emotion)
    assert votes.max() > 0.55


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"size": 20}, "size must lie in 96..4096, got 20"),
        ({"smallest": 0.6, "largest": 0.3}, "smallest <= largest"),
        ({"classes": ("happy", "bored")}, "classes must be among"),
        ({"dim": 2.0}, "dim must lie in 0..1, got 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DrawnScenes(**options)


def test_a_row_outside_is_refused() -> None:
    with pytest.raises(InputError, match=r"row must lie in 0\.\.27, got 28"):
        draw_scene(SPEC, 28)
