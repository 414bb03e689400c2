"""Faces come to lie on each other: the transform is the one that was undone, and pictures follow their landmarks."""

import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from emotion.explanation.regions import FRAME, in_frame, known, moved, similarity


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0.0, 1.0, (0, 0)), (0.6, 80.0, (12, -3)), (-2.0, 0.3, (5, 40))])
def test_a_known_turn_scale_and_shift_are_undone(angle: float, scale: float, shift: tuple[float, float]) -> None:
    was = SimilarityTransform(scale=scale, rotation=angle, translation=shift)
    found = similarity(was(FRAME))
    np.testing.assert_allclose(moved(was(FRAME), found), FRAME, atol=1e-9)
    np.testing.assert_allclose(found, np.linalg.inv(was.params)[:2], atol=1e-9)


def test_points_that_do_not_fit_are_brought_as_near_as_scikit_image_brings_them() -> None:
    points = np.random.default_rng(0).normal(size=(5, 2)) * 0.05 + FRAME * 64 + 3
    expected = SimilarityTransform.from_estimate(points, FRAME).params[:2]
    np.testing.assert_allclose(similarity(points), expected, atol=1e-9)


def test_a_face_is_never_mirrored() -> None:
    mirrored = FRAME * [-1, 1]
    assert np.linalg.det(similarity(mirrored)[:, :2]) > 0


def test_unknown_and_collapsed_landmarks_are_told_apart_from_known_ones() -> None:
    landmarks = np.repeat(FRAME[None] * 64, 4, axis=0)
    landmarks[1, 3, 0] = np.nan
    landmarks[2] = 7.0
    landmarks[3] = np.nan
    assert known(landmarks).tolist() == [True, False, False, False]
    assert known(np.zeros((0, 5, 2))).tolist() == []


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_picture_goes_where_its_landmarks_go(turn: int) -> None:
    picture = np.zeros((41, 41), np.uint8)
    picture[10:13, 28:31] = 255  # centred on column 29.5, row 11.5 in pixel coordinates
    centre = np.array([29.5, 11.5])
    landmarks = FRAME * 40
    for _ in range(turn):  # a quarter turn of picture and points together
        picture = np.ascontiguousarray(np.rot90(picture))
        landmarks, centre = (
            np.stack([landmarks[:, 1], 41 - landmarks[:, 0]], axis=1),
            np.array([centre[1], 41 - centre[0]]),
        )
    found = in_frame(picture, landmarks, 80)
    rows, columns = np.nonzero(np.nan_to_num(found) > 127)
    place = moved(centre[None], similarity(landmarks))[0] * 80
    assert abs(columns.mean() + 0.5 - place[0]) < 0.6
    assert abs(rows.mean() + 0.5 - place[1]) < 0.6
    assert abs(place[0] - 59) < 1e-6  # the same place for every turn
    assert abs(place[1] - 23) < 1e-6


def test_what_lies_outside_of_the_picture_is_unknown() -> None:
    found = in_frame(np.full((20, 20), 9, np.uint8), FRAME * 20 + [10, 0], 40)  # the face hangs over the right border
    assert np.isfinite(found[1:-1, 1:19]).all()
    assert np.isnan(found[:, 21:]).all()


def test_without_landmarks_a_picture_is_only_scaled() -> None:
    assert in_frame(np.full((7, 7, 3), 5, np.uint8), None, 12).tolist() == np.full((12, 12, 3), 5.0).tolist()
