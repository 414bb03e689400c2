"""Cutting: where each pixel of a crop comes from, on images whose colours are their positions."""

import math
import tracemalloc

import cv2
import numpy as np
import pytest

from datamodules.faces.crop import cut, roll


def positions(width: int, height: int, step: float = 1.0) -> np.ndarray:
    """Return an image whose red is x * step and whose green is y * step."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.round(np.arange(width) * step)[None]
    image[..., 1] = np.round(np.arange(height) * step)[:, None]
    return image


def expected(box: tuple[float, ...], size: int, margin: float, turn: float, step: float) -> np.ndarray:
    """Return the colours that the crop must have, worked out point by point: (size, size, 2)."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    along = ((np.arange(size) + 0.5) / size - 0.5) * side
    across, down = np.meshgrid(along, along)
    x = (x0 + x1) / 2 + across * math.cos(turn) - down * math.sin(turn)
    y = (y0 + y1) / 2 + across * math.sin(turn) + down * math.cos(turn)
    return (np.stack([x, y], -1) - 0.5) * step  # a pixel's own position is its middle


@pytest.mark.parametrize("turn", [0.0, 0.3, -1.2])
@pytest.mark.parametrize(
    ("box", "size", "step"),
    [
        ((100.25, 90.5, 120.75, 116.0), 96, 1.0),  # enlarged, between the pixels
        ((60, 50, 160, 150), 64, 1.0),  # shrunk
        ((380, 340, 600, 700), 50, 0.25),  # shrunk to a tenth, taller than wide
        ((110, 100, 150, 140), 60, 1.0),  # as it is
    ],
)
def test_every_pixel_comes_from_its_place(box: tuple[float, ...], size: int, step: float, turn: float) -> None:
    side = round(255 / step)
    image = positions(side, side, step)

    crop = cut(image, np.array(box), size, margin=0.25, turn=turn)

    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    wanted = expected(box, size, 0.25, turn, step)
    # half a grey level of rounding in the image, half in the result, half a pixel where the square is put on pixels
    assert np.abs(crop[..., :2].astype(float) - wanted).max() <= 1.75


def test_a_square_inside_is_cut_without_any_loss() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    crop = cut(image, np.array([20, 10, 50, 40]), 30, margin=0)

    np.testing.assert_array_equal(crop, image[10:40, 20:50])


def test_shrinking_averages_the_area() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    crop = cut(image, np.array([20, 10, 50, 40]), 10, margin=0)

    means = image[10:40, 20:50].reshape(10, 3, 10, 3, 3).mean((1, 3))
    assert np.abs(crop - means).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("box", [(-10, 5, 20, 35), (50, 30, 90, 70), (30, -12, 50, 8)])
@pytest.mark.parametrize("factor", [1, 2])
def test_beyond_the_border_lies_the_mirror_image_or_grey(box: tuple[int, ...], factor: int) -> None:
    """The image is padded by numpy first, so that the same square lies inside."""
    wide = 40
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)  # shrunk back by the cut
    size = max(box[2] - box[0], box[3] - box[1])
    place = np.array(box) * factor
    padding = ((wide * factor, wide * factor), (wide * factor, wide * factor), (0, 0))

    grey = cut(image, place, size, margin=0, border="pad")
    padded = np.pad(image, padding, constant_values=128)
    np.testing.assert_array_equal(grey, cut(padded, place + wide * factor, size, margin=0))

    small = image[::factor, ::factor]  # a mirror image of what the crop shows: the outermost row is not doubled
    mirrored = np.pad(small, ((wide, wide), (wide, wide), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(
        cut(image, place, size, margin=0, border="reflect"), cut(mirrored, np.array(box) + wide, size, margin=0)
    )


def test_eyes_become_level() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    left, right = np.array([70.0, 80.0]), np.array([120.0, 115.0])  # the right eye hangs
    for eye in (left, right):
        cv2.circle(image, (int(eye[0]), int(eye[1])), 5, (255, 255, 255), -1)
    landmarks = np.array([left, right, [90, 120], [70, 140], [100, 150]])

    turn = roll(landmarks)
    crop = cut(image, np.array([50, 50, 150, 150]), 100, turn=turn)

    assert turn == pytest.approx(math.atan2(35, 50))
    count, _, _, middles = cv2.connectedComponentsWithStats((crop[..., 0] > 127).astype(np.uint8))
    assert count == 3
    assert abs(middles[1, 1] - middles[2, 1]) < 1
    assert abs(middles[1, 0] - middles[2, 0]) == pytest.approx(math.hypot(35, 50) / 1.5, abs=1)  # not stretched
    assert roll(np.full((5, 2), np.nan)) == 0


def test_pictures_of_one_pixel_or_one_line() -> None:
    point = np.full((1, 1, 3), 77, np.uint8)
    assert np.unique(cut(point, np.array([0, 0, 1, 1]), 16)).tolist() == [77]
    line = np.zeros((20, 20_000, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None]
    crop = cut(line, np.array([9000, 0, 9020, 20]), 20, margin=0)
    assert crop[:, 7, 0].tolist() == list(range(20))
    outside = cut(line, np.array([-500, -500, -400, -400]), 20, border="pad")
    assert np.unique(outside).tolist() == [128]


def test_memory_is_that_of_the_result_however_large_the_square() -> None:
    line = np.zeros((20, 20_000, 3), np.uint8)
    tracemalloc.start()
    cut(line, np.array([0, 0, 20_000, 20]), 100, margin=1, turn=0.2)  # a square of 60,000 pixels a side
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
