"""What each transform does to pixels, and that its strength is the paper's."""

import itertools

import cv2
import numpy as np
import pytest

from datamodules.errors import InputError
from datamodules.transforms import TRANSFORMS, Policy, build_transform, reseed

TEN = ("blur", "crop", "flip", "rotation", "translation", "cutout", "contrast", "height", "width", "zoom")
SIZE = 112


def apply(name: str, image: np.ndarray, times: int = 60) -> list[np.ndarray]:
    transform = build_transform([name], image.shape[0])
    assert transform is not None
    reseed(transform, 0)
    return [transform(image=image)["image"] for _ in range(times)]


def square(size: int = SIZE, side: int = 24) -> np.ndarray:
    """A white square in the middle of black."""
    image = np.zeros((size, size, 3), dtype=np.uint8)
    start = (size - side) // 2
    image[start : start + side, start : start + side] = 255
    return image


def noise(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def extent(image: np.ndarray) -> tuple[float, float]:
    """Height and width of the white square, by its area along the middle row and column."""
    middle = image.shape[0] // 2
    return image[:, middle, 0].sum() / 255, image[middle, :, 0].sum() / 255


def moment(image: np.ndarray) -> tuple[float, float]:
    """Centre of the white pixels, (x, y), from the image's centre as a fraction of its side."""
    moments = cv2.moments(image[..., 0])
    size = image.shape[0]
    return (moments["m10"] / moments["m00"] + 0.5) / size - 0.5, (moments["m01"] / moments["m00"] + 0.5) / size - 0.5


@pytest.mark.parametrize("size", [48, 64, 224])
@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_shape_and_type_stay_and_pixels_change(name: str, size: int) -> None:
    image = noise(size)
    before = image.copy()
    out = apply(name, image, 20)
    assert {(one.shape, one.dtype.name) for one in out} == {((size, size, 3), "uint8")}
    assert sum((one != image).any() for one in out) >= 10
    np.testing.assert_array_equal(image, before)


def test_all_ten_are_there() -> None:
    assert set(TRANSFORMS) == {*TEN, "erasing"}


def test_blur_is_gaussian_with_kernels_3_to_7() -> None:
    image = noise(224)
    wanted = {k: cv2.GaussianBlur(image, (k, k), 0, borderType=cv2.BORDER_REFLECT) for k in (3, 5, 7)}
    met = {k for one in apply("blur", image) for k, blurred in wanted.items() if (one == blurred).all()}
    assert met == {3, 5, 7}
    for one in apply("blur", image, 10):
        assert any((one == blurred).all() for blurred in wanted.values())


def test_crop_keeps_200_of_224() -> None:
    position = np.arange(224, dtype=np.uint8)
    image = np.stack([*np.meshgrid(position, position), np.zeros((224, 224))], axis=-1).astype(np.uint8)
    corners = set()
    for one in apply("crop", image):
        left, right, top, bottom = (
            int(one[112, 0, 0]),
            int(one[112, -1, 0]),
            int(one[0, 112, 1]),
            int(one[-1, 112, 1]),
        )
        assert abs(right - left - 199) <= 1
        assert abs(bottom - top - 199) <= 1
        corners.add((left, top))
    assert len(corners) > 20
    assert max(left for left, _ in corners) <= 24


def test_flip_is_along_both_axes() -> None:
    image = noise()
    kinds = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    met = [
        next(number for number, kind in enumerate(kinds) if (one == kind).all()) for one in apply("flip", image, 200)
    ]
    assert np.bincount(met, minlength=4).min() > 25  # 50 expected of each


def test_rotation_is_within_an_eighth_of_a_turn() -> None:
    angles = []
    for one in apply("rotation", square(side=40)):
        points = np.argwhere(one[..., 0] > 127)[:, ::-1].astype(np.float32)
        angle = cv2.minAreaRect(points)[2] % 90
        angles.append(min(angle, 90 - angle))
        assert abs((one > 127)[..., 0].sum() - 1600) < 120  # nothing is scaled
        np.testing.assert_allclose(moment(one), 0, atol=0.01)
    assert max(angles) > 35
    pointer = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    pointer[10:20, 50:62] = 255  # straight up; a square cannot tell 45 degrees from more
    for one in apply("rotation", pointer):
        x, y = np.argwhere(one[..., 0] > 127)[:, ::-1].mean(axis=0) - (SIZE - 1) / 2
        assert abs(np.degrees(np.arctan2(x, -y))) <= 46


def test_translation_is_up_to_three_tenths_both_ways() -> None:
    shifts = np.array([moment(one) for one in apply("translation", square(side=8), 200)])
    assert np.abs(shifts).max() <= 0.31
    assert (np.ptp(shifts, axis=0) > 0.5).all()
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.3  # the two axes are drawn apart


def test_cutout_is_one_grey_square_of_at_most_70_of_224() -> None:
    image = np.full((224, 224, 3), 200, dtype=np.uint8)
    sides = []
    for one in apply("cutout", image, 200):
        rows, columns = np.flatnonzero((one != 200).any(axis=(1, 2))), np.flatnonzero((one != 200).any(axis=(0, 2)))
        assert len(rows) == len(columns)
        if len(rows):
            assert (one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 128).all()
        sides.append(len(rows))
    assert max(sides) <= 70
    assert max(sides) > 60
    assert min(sides) < 10
    assert max((one == 128).all(axis=2).sum() for one in apply("cutout", np.full((64, 64, 3), 200, np.uint8))) <= 20**2


def test_contrast_scales_the_distance_from_each_channels_mean() -> None:
    image = np.random.default_rng(0).integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
    image[..., 1] -= 40
    factors = []
    for one in apply("contrast", image):
        np.testing.assert_allclose(one.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.6)
        ratio = one.std(axis=(0, 1)) / image.std(axis=(0, 1))
        assert np.ptp(ratio) < 0.02
        factors.append(ratio.mean())
    assert 0.69 < min(factors) < 0.76
    assert 1.24 < max(factors) < 1.31


@pytest.mark.parametrize(("name", "axis"), [("height", 0), ("width", 1)])
def test_height_and_width_stretch_one_axis(name: str, axis: int) -> None:
    sizes = np.array([extent(one) for one in apply(name, square())]) / 24
    np.testing.assert_allclose(sizes[:, 1 - axis], 1, atol=0.06)
    assert 0.65 < sizes[:, axis].min() < 0.78
    assert 1.22 < sizes[:, axis].max() < 1.35


def test_zoom_scales_content_by_the_inverse_of_a_uniform_factor() -> None:
    """Keras multiplies the coordinates it samples at by 0.7 to 1.3."""
    sizes = np.array([extent(one) for one in apply("zoom", square())]) / 24
    np.testing.assert_allclose(sizes[:, 0], sizes[:, 1], atol=0.06)
    assert 0.72 < sizes.min() < 0.82  # 1 / 1.3
    assert 1.32 < sizes.max() < 1.5  # 1 / 0.7
    assert abs(np.median(sizes[:, 0]) - 1) < 0.06  # half of the factors shrink, half enlarge


@pytest.mark.parametrize("name", ["rotation", "translation", "height", "width", "zoom"])
def test_edges_are_filled_by_reflection(name: str) -> None:
    """No black appears in an image without black, and a bright rim stays at the rim."""
    image = np.full((SIZE, SIZE, 3), 60, dtype=np.uint8)
    image[:3] = image[-3:] = image[:, :3] = image[:, -3:] = 250
    for one in apply(name, image, 20):
        assert one.min() >= 59
    shrunk = apply("zoom", image, 40)
    assert any((one[SIZE // 2] > 200).sum() > 8 for one in shrunk)  # the rim and its mirror image


def test_erasing_is_a_grey_rectangle() -> None:
    for one in apply("erasing", np.full((SIZE, SIZE, 3), 200, dtype=np.uint8), 30):
        grey = (one == 128).all(axis=2)
        assert 0.01 < grey.mean() < 0.35
        assert ((one == 200).all(axis=2) | grey).all()


def test_one_of_draws_each_name_equally_often_and_one_at_a_time() -> None:
    image = np.where(square() > 0, 180, 60).astype(np.uint8)
    transform = build_transform(["flip", "cutout", "contrast"], SIZE)
    assert transform is not None
    counts = np.zeros(3)
    for number in range(600):
        reseed(transform, number)
        out = transform(image=image)["image"]
        if (out == 128).any():
            counts[1] += 1
            out = np.where(out == 128, image, out)
            assert (out == image).all()
        elif (out == image).all():
            counts[0] += 1  # the square is its own mirror image
        else:
            counts[2] += 1
    np.testing.assert_allclose(counts / 600, 1 / 3, atol=0.07)


def test_steps_are_drawn_independently() -> None:
    """Under set_random_seed every step has a generator of its own with one seed: what is flipped would be erased."""
    transform = build_transform([], SIZE, base="mild", erasing=0.5)
    assert transform is not None
    image = np.full((SIZE, SIZE, 3), 60, dtype=np.uint8)
    image[:, : SIZE // 2] = 250
    counts = np.zeros((2, 2))
    for number in range(300):
        reseed(transform, 7, number)
        out = transform(image=image)["image"]
        erased = (out == 128).all(axis=2)
        light = np.where(erased[..., None], np.nan, out)
        flipped = np.nanmean(light[:, 60:]) > np.nanmean(light[:, :52])
        counts[int(flipped), int(erased.sum() > 100)] += 1
    assert counts.min() > 40  # 75 expected of each


def test_mild_policy_is_mild() -> None:
    transform = build_transform([], SIZE, "mild")
    assert transform is not None
    image = square(side=40)
    out = [transform(image=image)["image"] for _ in range(60)]
    assert max(np.abs(moment(one)).max() for one in out) < 0.1
    areas = np.array([(one[..., 0] > 127).sum() for one in out]) / 1600
    assert areas.min() > 0.75
    assert areas.max() < 1.3


@pytest.mark.parametrize("policy", ["trivial_augment", "rand_augment", "aug_mix"])
def test_policies_of_many_operations_do_many_things(policy: Policy) -> None:
    transform = build_transform([], SIZE, policy)
    assert transform is not None
    reseed(transform, 0)
    image = cv2.GaussianBlur(noise(), (9, 9), 0)
    out = [transform(image=image)["image"] for _ in range(60)]
    assert {(one.shape, one.dtype.name) for one in out} == {((SIZE, SIZE, 3), "uint8")}
    assert len({one.tobytes() for one in out}) > 40
    if policy == "trivial_augment":
        assert any((one == image).all() for one in out)
    reseed(transform, 0)
    again = [transform(image=image)["image"] for _ in range(60)]
    assert all((a == b).all() for a, b in zip(out, again, strict=True))


def test_aug_mix_stays_nearer_to_the_image_than_the_chains_it_mixes() -> None:
    image = cv2.GaussianBlur(noise(), (9, 9), 0)
    mean = {}
    for policy in ("rand_augment", "aug_mix"):
        transform = build_transform([], SIZE, policy)
        assert transform is not None
        transform.transforms = transform.transforms[1:]  # without the flip
        reseed(transform, 0)
        changes = [np.abs(transform(image=image)["image"].astype(int) - image).mean() for _ in range(80)]
        mean[policy] = np.mean(changes)
    assert 0 < mean["aug_mix"] < mean["rand_augment"]


def test_base_policy_comes_besides() -> None:
    image = square(side=40)
    transform = build_transform(["cutout"], SIZE, base="mild", erasing=0.0)
    assert transform is not None
    reseed(transform, 0)
    out = [transform(image=image)["image"] for _ in range(30)]
    assert sum((one == 128).sum() > 30 for one in out) > 15
    assert sum(np.abs(moment(one)).max() > 0.02 for one in out) > 15


def test_nothing_asked_is_nothing_done() -> None:
    assert build_transform([], 64) is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"names": ["spin"]}, r"--data.transforms: must be among blur, .*got 'spin'"),
        ({"names": ["flip"], "policy": "mild"}, "must be empty with --data.policy mild"),
        ({"names": [], "policy": "wild"}, "--data.policy: must be one_of, mild, trivial_augment"),
        ({"names": [], "erasing": 1.5}, "--data.erasing: must be a probability"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_transform(size=64, **arguments)  # type: ignore[arg-type]


def test_reseeding_repeats_and_nothing_else_does() -> None:
    transform = build_transform(TEN, SIZE)
    assert transform is not None
    image = noise()
    streams = []
    for seed in ((1, 0), (1, 1), (1, 0)):
        reseed(transform, *seed)
        streams.append(np.stack([transform(image=image)["image"] for _ in range(8)]))
    np.testing.assert_array_equal(streams[0], streams[2])
    assert all((a != b).any() for a, b in itertools.product(streams[0], streams[1]))


@pytest.mark.parametrize("magnitude", [0.5, 1.0, 2.0])
def test_a_magnitude_multiplies_the_papers(magnitude: float) -> None:
    image = square(112, 12)

    def many(name: str, start: np.ndarray) -> list[np.ndarray]:
        transform = build_transform([name], start.shape[0], magnitude=magnitude)
        assert transform is not None
        reseed(transform, 0)
        return [transform(image=start)["image"] for _ in range(150)]

    if magnitude <= 1:  # beyond, the square leaves the image
        farthest = max(abs(moment(one)[0]) for one in many("translation", image))
        assert 0.27 * magnitude < farthest <= 0.3 * magnitude + 0.01
    tallest = max(extent(one)[0] for one in many("height", image))
    assert 12 * (1 + 0.27 * magnitude) < tallest < 12 * (1 + 0.3 * magnitude) + 1.5
    grey = max(np.sqrt((one == 128).all(-1).sum()) for one in many("cutout", image))
    assert 32 * magnitude <= grey <= 35 * magnitude + 1
    line = np.zeros((112, 112, 3), dtype=np.uint8)
    line[54:58, 20:92] = 255
    turned = [
        cv2.minAreaRect(np.argwhere(one[..., 0] > 127)[:, ::-1].astype(np.float32)) for one in many("rotation", line)
    ]
    steep = [min(angle % 90, 90 - angle % 90) for *_, angle in turned]
    assert max(steep) <= 45 * min(1, magnitude) + 1
    if magnitude < 1:
        assert max(steep) > 20


def test_magnitudes_that_mean_nothing_are_refused() -> None:
    for wrong in (0.0, -1.0, 3.1, float("nan")):
        with pytest.raises(InputError, match=r"--data.magnitude: must be above 0 and at most 3, got"):
            build_transform(["zoom"], 64, magnitude=wrong)
    with pytest.raises(
        InputError, match=r"--data.magnitude: applies to --data.transforms, of which there are none, got 2.0"
    ):
        build_transform([], 64, "mild", magnitude=2.0)
    for name in TRANSFORMS:
        transform = build_transform([name], 64, magnitude=3.0)
        assert transform is not None
        assert transform(image=noise(64))["image"].shape == (64, 64, 3)
