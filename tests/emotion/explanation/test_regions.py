"""Regions of the face: shares by hand, on rotated and on drawn faces; alignment of faces; tests between groups."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from skimage.transform import SimilarityTransform

from datamodules.synthetic.action_units import DrawnFaces
from datamodules.synthetic.faces import draw
from emotion.explanation.faithfulness import group_difference, group_table, mean_interval, region_table, sign_flip_test
from emotion.explanation.methods import ExplainedImages
from emotion.explanation.regions import (
    EYES,
    FRAME,
    REGIONS,
    alignable,
    in_frame,
    region_map,
    shares_of,
    similarity,
    transform_points,
)
from results.bias.groups import groupings

SIDE = 200
AT = {name: number for number, name in enumerate(REGIONS)}


def _aligned(count: int = 1) -> np.ndarray:
    return np.repeat(FRAME[None] * SIDE, count, axis=0)


def test_places_of_a_frontal_face_are_in_their_regions() -> None:
    found = region_map(FRAME * SIDE, SIDE, SIDE)
    right, left, nose, mouth_right, mouth_left = (FRAME * SIDE).astype(int)
    step = EYES * SIDE  # the distance of the eyes
    places = {
        "eyes": [right, left, right + np.array([int(0.25 * step), 0])],
        "brows": [right - [0, int(0.4 * step)], left - [-int(0.2 * step), int(0.35 * step)]],
        "between the brows": [(right + left) // 2 - [0, int(0.2 * step)]],
        "nose": [nose, (nose + (right + left) // 2) // 2],
        "mouth": [mouth_right, mouth_left, (mouth_right + mouth_left) // 2],
        "rest": [np.array([2, 2]), right + np.array([0, int(0.6 * step)]), np.array([SIDE // 2, int(0.15 * SIDE)])],
    }
    assert {name: {REGIONS[found[y, x]] for x, y in points} for name, points in places.items()} == {
        name: {name} for name in REGIONS
    }


def test_the_area_of_the_eyes_is_that_of_two_ellipses() -> None:
    found = region_map(FRAME * SIDE, SIDE, SIDE)
    assert (found == AT["eyes"]).mean() == pytest.approx(2 * np.pi * 0.29 * 0.19 * EYES**2, rel=0.03)


def test_an_even_map_has_density_one_everywhere() -> None:
    shares = shares_of(np.full((1, SIDE, SIDE), 0.3, np.float32), _aligned())
    np.testing.assert_allclose(shares.density, 1, rtol=1e-5)
    np.testing.assert_allclose(shares.share.sum(), 1)


def test_share_over_area_by_hand() -> None:
    """Twice 3 x 3 pixels: 2 each at the eye, 1 each at the mouth; what speaks against the class at the nose."""
    maps = np.zeros((2, SIDE, SIDE), np.float32)
    for point, value in ((FRAME[0], 2.0), (FRAME[3], 1.0), (FRAME[2], -3.0)):
        x, y = (point * SIDE).astype(int)
        maps[0, y - 1 : y + 2, x - 1 : x + 2] = value
    landmarks = _aligned(2)
    positive, absolute = (shares_of(maps, landmarks, absolute=one) for one in (False, True))
    found = region_map(landmarks[0], SIDE, SIDE)
    area = np.array([(found == number).sum() for number in range(len(REGIONS))]) / SIDE**2
    by_hand = dict.fromkeys(REGIONS, 0.0) | {"eyes": 18 / 27, "mouth": 9 / 27}
    np.testing.assert_allclose(positive.share[0], list(by_hand.values()), atol=1e-6)
    np.testing.assert_allclose(positive.density[0, AT["eyes"]], 18 / 27 / area[AT["eyes"]], rtol=1e-5)
    with_absolute = dict.fromkeys(REGIONS, 0.0) | {"eyes": 18 / 54, "mouth": 9 / 54, "nose": 27 / 54}
    np.testing.assert_allclose(absolute.share[0], list(with_absolute.values()), atol=1e-6)
    assert np.isnan(positive.share[1]).all()  # a map of zeros lies nowhere
    np.testing.assert_allclose(positive.area[1], area)


def test_unknown_landmarks_say_nothing() -> None:
    landmarks = _aligned(2)
    landmarks[0, 2] = np.nan
    shares = shares_of(np.ones((2, SIDE, SIDE), np.float32), landmarks)
    assert np.isnan(shares.share[0]).all()
    assert np.isnan(shares.area[0]).all()
    assert np.isfinite(shares.density[1]).all()


@pytest.mark.parametrize(("angle", "scale"), [(0.5, 120), (-0.9, 90), (0.1, 60)])
def test_regions_turn_and_grow_with_the_face(angle: float, scale: float) -> None:
    turn = SimilarityTransform(scale=scale, rotation=angle)
    turn = SimilarityTransform(scale=scale, rotation=angle, translation=np.array([100, 100]) - turn(FRAME).mean(axis=0))
    found = region_map(turn(FRAME), SIDE, SIDE)
    straight = region_map(FRAME * SIDE, SIDE, SIDE)
    rows, columns = np.nonzero(found != AT["rest"])
    back = (turn.inverse(np.stack([columns + 0.5, rows + 0.5], axis=1)) * SIDE).astype(int)
    assert (straight[back[:, 1], back[:, 0]] == found[rows, columns]).mean() > 0.93  # all but pixels on borders
    assert (found != AT["rest"]).sum() == pytest.approx((straight != AT["rest"]).mean() * scale**2, rel=0.03)


def test_regions_cover_the_painted_parts_of_drawn_faces() -> None:
    """The pixels that were painted as eyes, brows, nose and mouth are known, and share nothing with the regions."""
    spec = DrawnFaces(largest=10, ratio=1, size=96, confusion=0.0)
    counts = {name: np.zeros(len(REGIONS)) for name in ("eyes", "brows", "nose", "mouth")}
    for row in range(0, len(spec), 4):
        face = draw(spec, row)
        found = region_map(face.landmarks, 96, 96)
        for name, count in counts.items():
            count += np.bincount(found[face.masks[name]], minlength=len(REGIONS))
    inside = {name: count[AT[name]] / count.sum() for name, count in counts.items()}
    least = {"eyes": 0.85, "brows": 0.65, "nose": 0.85, "mouth": 0.85}
    assert {name: share for name, share in inside.items() if share < least[name]} == {}


# --- means, intervals and tests ---------------------------------------------------------------------------------------


def test_the_mean_and_its_interval_agree_with_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(2, 1, 200)
    found = mean_interval(values, np.arange(200))
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (found.value, found.images, found.clusters) == (pytest.approx(values.mean()), 200, 200)
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.02)


def test_copies_make_no_interval_narrower() -> None:
    values = np.random.default_rng(0).normal(2, 1, 50)
    once = mean_interval(values, np.arange(50))
    copied = mean_interval(values.repeat(9), np.arange(50).repeat(9))
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.02)
    assert (copied.images, copied.clusters) == (450, 50)


def test_one_cluster_has_a_mean_and_no_interval_and_nothing_has_neither() -> None:
    one = mean_interval(np.array([1.0, 3.0, np.nan]), np.zeros(3, int))
    assert (one.value, one.images, one.clusters) == (2.0, 2, 1)
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(mean_interval(np.full(3, np.nan), np.arange(3)).value)


def test_signs_of_few_clusters_are_all_taken() -> None:
    assert (
        sign_flip_test(np.array([1.0, 2.0, 3.0]), np.arange(3)) == 1 / 8
    )  # of 2 x 2 x 2 sums only the seen one is as high
    assert sign_flip_test(np.array([1.0, 2.0, -3.0]), np.arange(3)) == 5 / 8  # 0 is reached by 6, 4, 2, 0 and 0
    assert sign_flip_test(np.array([1.0, 2.0, 3.0]), np.zeros(3)) == 1 / 2
    assert sign_flip_test(np.zeros(4), np.arange(4)) == 1
    assert np.isnan(sign_flip_test(np.array([np.nan]), np.arange(1)))


def test_many_signs_are_drawn_and_agree_with_a_t_test() -> None:
    values = np.random.default_rng(3).normal(0.15, 1, 60)
    expected = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert sign_flip_test(values, np.arange(60)) == pytest.approx(expected, abs=0.02)
    assert sign_flip_test(values + 5, np.arange(60)) == 1 / 10_000


def test_p_values_are_uniform_when_nothing_differs() -> None:
    """Clusters of one to three images that are alike, values skewed, classes of unequal level and mix."""
    generator = np.random.default_rng(0)
    of_groups, of_zero = [], []
    for seed in range(300):
        cluster = np.arange(40).repeat(generator.integers(1, 4, 40))
        stratum = (np.arange(40) % 4 == 0).astype(int)[cluster]
        inside = (generator.random(40) < np.where(np.arange(40) % 4 == 0, 0.7, 0.3))[cluster]
        noise = generator.exponential(size=40)[cluster] + 0.3 * generator.normal(size=len(cluster))
        found = group_difference(
            noise + 4 * stratum, inside, cluster, stratum, permutations=199, resamples=100, seed=seed
        )
        of_groups.append(found.p_value)
        of_zero.append(sign_flip_test(generator.normal(size=40)[cluster], cluster, permutations=199, seed=seed))
    for p_values in (of_groups, of_zero):
        assert stats.kstest(p_values, "uniform").pvalue > 0.01
        assert np.mean(np.array(p_values) <= 0.05) < 0.09


def test_people_who_show_every_class_are_dealt_whole() -> None:
    """20 people with a level of their own, each with an image of 5 classes: a person is one unit, and not five."""
    generator = np.random.default_rng(0)
    person, stratum = np.repeat(np.arange(20), 5), np.tile(np.arange(5), 20)
    found = [
        group_difference(
            generator.normal(size=20)[person] + generator.normal(size=100), person < 10, person, stratum,
            permutations=99, resamples=100, seed=seed,
        )
        for seed in range(120)
    ]  # fmt: skip
    assert np.mean([one.p_value <= 0.05 for one in found]) < 0.12
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.85


def test_groups_within_a_person_change_places_within_the_person() -> None:
    """Each person is in both groups, such as looking at the camera and away: levels of people cancel."""
    person, inside = np.repeat(np.arange(12), 4), np.tile([True, True, False, False], 12)
    values = 50.0 * person + 2 * inside + np.random.default_rng(0).normal(size=48)
    found = group_difference(values, inside, person, np.tile([0, 1], 24))
    assert found.p_value < 0.01
    assert 0 < found.low < 2 < found.high < 3


def test_a_difference_is_found_within_classes_and_not_made_by_their_mix() -> None:
    generator = np.random.default_rng(1)
    stratum = np.arange(120) % 2
    inside = generator.random(120) < np.where(stratum == 1, 0.8, 0.2)  # the group has more of the second class
    level = 5.0 * stratum + generator.normal(size=120)
    none = group_difference(level, inside, np.arange(120), stratum)
    there = group_difference(level + 1.5 * inside, inside, np.arange(120), stratum)
    assert none.p_value > 0.05
    assert none.low < 0 < none.high
    assert there.p_value == 1 / 10_000
    assert there.low < 1.5 < there.high
    assert (there.inside, there.outside) == (inside.sum(), (~inside).sum())


def test_the_difference_by_hand() -> None:
    """Class 0: 3 - 1 = 2 with weight 1 * 2 / 3; class 1: 10 - 4 = 6 with weight 1 * 1 / 2; class 2 has one side."""
    values, inside = np.array([3.0, 1, 1, 10, 4, 99]), np.array([True, False, False, True, False, True])
    found = group_difference(values, inside, np.arange(6), np.array([0, 0, 0, 1, 1, 2]))
    assert found.value == pytest.approx((2 * 2 / 3 + 6 / 2) / (2 / 3 + 1 / 2))
    nothing = group_difference(values, np.ones(6, bool), np.arange(6), np.zeros(6, int))
    assert np.isnan([nothing.value, nothing.p_value, nothing.low]).all()


# --- tables -----------------------------------------------------------------------------------------------------------


def _explained(maps: np.ndarray, group: list[str], predicted: list[str] | None = None) -> ExplainedImages:
    count = len(maps)
    label = ["happy" if i % 2 else "sad" for i in range(count)]
    table = pd.DataFrame({"label": label, "predicted": predicted or label, "cluster": range(count), "age": group})
    return ExplainedImages(
        table=table,
        classes=("happy", "sad", "fear"),
        images=np.zeros((count, SIDE, SIDE, 3), np.uint8),
        maps=maps,
        target=np.zeros(count, np.int64),
        segments=np.zeros((count, SIDE, SIDE), np.int32),
        landmarks=_aligned(count),
        masks=None,
        method="lime",
        options={},
    )


def _looks(count: int, child: np.ndarray) -> np.ndarray:
    """Maps whose importance lies on the mouth, of children also on the rest of the picture."""
    generator, found = np.random.default_rng(0), region_map(FRAME * SIDE, SIDE, SIDE)
    maps = [(found == AT["mouth"]) * generator.uniform(1, 2) + one * generator.uniform(0.02, 0.1) for one in child]
    return np.array(maps, np.float32)


def test_tables_tell_groups_apart_and_leave_wrong_answers_out() -> None:
    child = np.arange(24) % 4 < 2
    label = ["happy" if i % 2 else "sad" for i in range(24)]
    explained = _explained(_looks(24, child), np.where(child, "child", "adult").tolist(), ["happy"] * 4 + label[4:])
    by = groupings(explained.table, ["age"])
    shares = shares_of(explained.maps, explained.landmarks)
    table = region_table(explained, shares, by, importance="positive", resamples=200).set_index(
        ["by", "group", "class", "region"]
    )
    assert table.loc[("", "", "", "mouth"), "images"] == 22  # two sad images were taken for happy ones
    assert table.loc[("age", "adult", "", "rest"), "share"] == 0
    child_rest = table.loc[("age", "child", "sad", "rest")]
    assert child_rest["share_low"] <= child_rest["share"] <= child_rest["share_high"]
    assert child_rest["density"] == pytest.approx(child_rest["share"] / child_rest["area"])
    assert "fear" not in table.index.get_level_values("class")
    tests = group_table(explained, shares, by, permutations=999, resamples=200)
    assert (tests["group"] == "adult").all()  # of two groups one is tested against the other
    assert (tests["others"] == "child").all()
    found = tests.set_index("region")
    assert found.loc["rest", "p_holm"] < 0.02
    assert found.loc["rest", "difference"] < 0 < found.loc["mouth", "difference"]
    expected = np.sort(tests["p_value"])[0] * len(tests)
    assert tests["p_holm"].min() == pytest.approx(expected)


def test_three_groups_are_each_tested_against_all_others() -> None:
    explained = _explained(_looks(30, np.arange(30) % 3 == 0), [["child", "adult", "old"][i % 3] for i in range(30)])
    by = groupings(explained.table, ["age"])
    tests = group_table(explained, shares_of(explained.maps, explained.landmarks), by, permutations=199, resamples=100)
    assert tests[["group", "others"]].drop_duplicates().to_numpy().tolist() == [
        ["adult", "others"], ["child", "others"], ["old", "others"]
    ]  # fmt: skip
    assert len(tests) == 3 * len(REGIONS)
    assert tests[tests["group"] == "child"].set_index("region").loc["rest", "difference"] > 0


def test_one_group_has_nothing_to_be_compared_with() -> None:
    explained = _explained(_looks(6, np.zeros(6)), ["adult"] * 6)
    shares = shares_of(explained.maps, explained.landmarks)
    assert not len(group_table(explained, shares, groupings(explained.table, ["age"]), permutations=99, resamples=100))


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0.0, 1.0, (0, 0)), (0.6, 80.0, (12, -3)), (-2.0, 0.3, (5, 40))])
def test_a_known_turn_scale_and_shift_are_undone(angle: float, scale: float, shift: tuple[float, float]) -> None:
    was = SimilarityTransform(scale=scale, rotation=angle, translation=shift)
    found = similarity(was(FRAME))
    np.testing.assert_allclose(transform_points(was(FRAME), found), FRAME, atol=1e-9)
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
    assert alignable(landmarks).tolist() == [True, False, False, False]
    assert alignable(np.zeros((0, 5, 2))).tolist() == []


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
    place = transform_points(centre[None], similarity(landmarks))[0] * 80
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
