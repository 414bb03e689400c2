"""Boxes: cells of a pyramid, decoding, overlap and suppression, against cases computed by hand."""

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from datamodules.faces.boxes import areas, clip, decode, encode, grid, overlaps, suppress
from datamodules.faces.crop import choose
from datamodules.faces.detectors import Faces


def test_cells_follow_level_by_level_and_row_by_row() -> None:
    centres, scales = grid(16, 24, (8, 16))

    # two rows of three cells of 8, then a row of one cell of 16, for what is not a whole cell has none
    assert centres[:, :2].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert centres[:, 2:].tolist() == centres[:, :2].tolist()
    assert scales.tolist() == [[-8, -8, 8, 8]] * 6 + [[-16, -16, 16, 16]]


def test_distances_are_in_units_of_the_stride() -> None:
    centres, scales = grid(16, 16, (8, 16))
    raw = np.zeros((2, 5, 4), np.float32)
    raw[0, 1] = [0.5, 0.25, 1, 2]  # cell at (12, 4) of stride 8
    raw[1, 4] = [0.5, 0.25, 1, 2]  # cell at (8, 8) of stride 16

    boxes = decode(raw, centres, scales)

    assert boxes[0, 1].tolist() == [8, 2, 20, 20]
    assert boxes[1, 4].tolist() == [0, 4, 24, 40]
    np.testing.assert_allclose(encode(boxes, centres, scales), raw, atol=1e-6)
    same = decode(torch.from_numpy(raw), torch.from_numpy(centres), torch.from_numpy(scales))
    assert torch.equal(same, torch.from_numpy(boxes))


def test_overlap_by_hand() -> None:
    first = np.array([[0, 0, 10, 10], [0, 0, 0, 0]])
    second = np.array([[5, 0, 15, 10], [0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 0, 0]])

    np.testing.assert_allclose(overlaps(first, second), [[50 / 150, 0.5, 0, 0], [0, 0, 0, 0]])
    assert areas(np.array([[0, 0, 4, 5], [4, 5, 0, 0]])).tolist() == [20, 0]


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [5, 0, 15, 10], [2, 0, 12, 10]], np.float32)
    scores = np.array([0.7, 0.9, 0.6, 0.5, 0.8])

    # 1 takes 0 and 4 (9/11 each) but not 3, whose overlap of 6/14 is allowed
    assert suppress(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert suppress(boxes, scores, 0.4).tolist() == [1, 2]
    assert suppress(boxes, scores, 0.5, most=2).tolist() == [1]
    assert suppress(boxes[:0], scores[:0], 0.5).tolist() == []


def test_clip() -> None:
    assert clip(np.array([[-5.0, 2, 30, 40]]), 20, 10).tolist() == [[0, 2, 10, 20]]


def faces(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] | None = None) -> Faces:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    given = np.ones(len(array)) if scores is None else np.array(scores)
    return Faces(array, given, np.full((len(array), 5, 2), np.nan))


def test_the_largest_or_the_most_central_face() -> None:
    found = faces((0, 0, 40, 40), (48, 48, 60, 60), (60, 60, 90, 90))

    assert choose(found, 100, 100, "largest") == 0
    assert choose(found, 100, 100, "central") == 1
    assert choose(faces(), 100, 100) is None


def test_what_lies_outside_of_the_picture_does_not_make_a_face_large() -> None:
    assert choose(faces((-60, 0, 30, 30), (40, 40, 75, 75)), 100, 100, "largest") == 1


def test_of_equal_faces_the_surer_one_then_the_first() -> None:
    twins = ((0.0, 0.0, 10.0, 10.0), (90.0, 90.0, 100.0, 100.0))

    for rule in ("largest", "central"):
        assert choose(faces(*twins, scores=(0.7, 0.9)), 100, 100, rule) == 1
        assert choose(faces(*twins, scores=(0.9, 0.9)), 100, 100, rule) == 0


def test_a_rule_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="rule must be one of largest, central, got 'nicest'"):
        choose(faces(), 10, 10, "nicest")  # type: ignore[arg-type]
