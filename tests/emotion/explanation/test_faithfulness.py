"""Faithfulness: a network that sees one patch of each image, and maps that show it or are wrong on purpose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.synthetic import draw, parse_spec
from emotion.explanation.faithfulness import (
    BLOB,
    OTHER,
    RANDOM,
    ChanceComparison,
    Curves,
    against_baselines,
    against_masks,
    agreement,
    centred_blob,
    curves,
    other_fill,
    other_images,
    verdict,
)
from emotion.explanation.methods import ExplainedImages
from emotion.explanation.select import emotion_masks
from emotion.explanation.superpixels import baseline_image, superpixels

SIDE, COUNT = 24, 12
SEGMENTS = np.arange(36).reshape(6, 6).repeat(4, 0).repeat(4, 1)
CORNERS = [(0, 0), (0, 8), (0, 16), (8, 0), (8, 16), (16, 0), (16, 8), (16, 16), (4, 0), (12, 16), (0, 4), (16, 12)]
# of each image four of the 36 superpixels, none of them in the centre
PATCHES = np.zeros((COUNT, SIDE, SIDE), bool)
for _row, (_top, _left) in enumerate(CORNERS):
    PATCHES[_row, _top : _top + 8, _left : _left + 8] = True


def network(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The brighter the patch of its row, the more probable is class 1; nothing else matters."""
    assert len(images) == len(rows)
    bright = np.array([image[PATCHES[row]].mean() for image, row in zip(images, rows, strict=True)]) / 255
    return np.stack([1 - bright, bright], axis=1).astype(np.float32)


def _explained(maps: np.ndarray | None = None, options: dict[str, object] | None = None) -> ExplainedImages:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    masks = PATCHES.copy()
    images[masks] += 180
    true = masks + 0.1 * generator.random((COUNT, 36))[:, SEGMENTS]
    return ExplainedImages(
        table=pd.DataFrame({"fold": np.arange(COUNT) % 3, "label": ["yes"] * COUNT, "predicted": ["yes"] * COUNT}),
        classes=("no", "yes"),
        images=images,
        maps=(true if maps is None else maps).astype(np.float32),
        target=np.ones(COUNT, np.int64),
        segments=np.repeat(SEGMENTS[None], COUNT, axis=0).astype(np.int32),
        landmarks=np.full((COUNT, 5, 2), np.nan, np.float32),
        masks=masks,
        method="lime",
        options=options or {"fill": "mean"},
    )


def _shuffled(seed: int) -> np.ndarray:
    """Maps that name random superpixels."""
    return np.random.default_rng(seed).random((COUNT, 36))[:, SEGMENTS]


def _tried(explained: ExplainedImages, **options: int) -> tuple[Curves, tuple[ChanceComparison, ...]]:
    found = curves(explained, network, fill="black", **options)  # type: ignore[arg-type]
    return found, against_baselines(explained.table, found)


def test_a_true_map_beats_every_baseline_on_both_curves() -> None:
    found, tests = _tried(_explained())
    deletion, insertion = tests[:2]
    assert [(test.against, test.name) for test in tests] == [
        (against, name) for against in (RANDOM, BLOB, OTHER) for name in ("deletion", "insertion")
    ]
    assert all(test.p_value < 0.01 for test in tests)
    assert deletion.p_value < 0.001
    assert insertion.p_value < 0.001
    assert 0 < deletion.gain.low < deletion.gain.value < deletion.gain.high
    holds, first = verdict(tests)
    assert holds
    assert first.startswith(
        "HOLDS against random orders, a centred blob and the map of another image (12 images); gain over random orders:"
    )
    # four of 36 superpixels matter: after 4/36 nothing is left, so both areas are known
    bright = found.deletion[:, 0].mean()
    assert deletion.value.value == pytest.approx(bright * 2 / 36, abs=0.01)
    assert insertion.value.value == pytest.approx(bright * 34 / 36, abs=0.01)
    assert deletion.chance.value == pytest.approx(bright / 2, abs=0.05)
    assert found.deletion[:, -1].max() == 0


ALL = "random orders (deletion and insertion), a centred blob (deletion and insertion) and the map of another image"


@pytest.mark.parametrize("maps", ["inverted", "shuffled", "the same everywhere"])
def test_maps_that_are_not_true_fail(maps: str) -> None:
    made = {
        "inverted": -_explained().maps,
        "shuffled": _shuffled(5),
        "the same everywhere": np.zeros((COUNT, SIDE, SIDE)),
    }
    tests = _tried(_explained(made[maps]))[1]
    assert not any(test.shown for test in tests[:2])
    holds, first = verdict(tests)
    assert not holds
    assert first.startswith("FAILS: it did not beat random orders (deletion and insertion)")
    if maps == "the same everywhere":
        assert first.startswith(f"FAILS: it did not beat {ALL} (deletion and insertion) (12 images); gain over random")


def test_a_blob_in_the_middle_fails_where_the_middle_matters_more_than_the_border() -> None:
    """A network that sees the whole image, the middle most: a blob beats random orders, and is no explanation."""
    weight = centred_blob(SIDE, SIDE)[..., None]
    explained = _explained(np.repeat(weight[None, ..., 0], COUNT, axis=0))
    explained.images[:] = np.random.default_rng(0).integers(100, 200, explained.images.shape)

    def middle(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        bright = (images * weight).sum(axis=(1, 2, 3)) / (255 * 3 * weight.sum())
        return np.stack([1 - bright, bright], axis=1)

    tests = against_baselines(explained.table, curves(explained, middle, fill="black"))
    assert [test.shown for test in tests[:4]] == [True, True, False, False]
    holds, first = verdict(tests)
    assert not holds
    assert first.startswith("FAILS: it did not beat a centred blob (deletion and insertion)")
    assert "gain over a centred blob: deletion +0.000" in first
    assert "random" not in first


def test_the_map_of_another_image_fails() -> None:
    """Patches lie on the border, so each map beats a blob; but it shows the patch of its neighbour."""
    explained = _explained()
    images, masks = explained.images, explained.masks
    assert masks is not None
    for row in range(COUNT):  # the network sees most of the border, and its own patch more than the rest
        images[row] = np.where(PATCHES.any(axis=0)[..., None], 200, images[row])
    others = np.roll(np.arange(COUNT), 1)

    def border(shown: np.ndarray, rows: np.ndarray) -> np.ndarray:
        bright = 0.7 * shown[:, PATCHES.any(axis=0)].mean(axis=(1, 2)) / 255 + 0.3 * network(shown, rows)[:, 1]
        return np.stack([1 - bright, bright], axis=1)

    for maps, holds in ((explained.maps + PATCHES.any(axis=0), True), (explained.maps[others], False)):
        swapped = ExplainedImages(**{**vars(explained), "maps": maps.astype(np.float32)})
        tests = against_baselines(swapped.table, curves(swapped, border, fill="black"))
        assert verdict(tests)[0] is holds, verdict(tests)[1]
        assert all(test.shown for test in tests if test.against == BLOB)
        assert all(test.shown is holds for test in tests if test.against == OTHER)


@pytest.fixture(scope="module")
def drawn() -> ExplainedImages:
    """24 drawn faces with the pixels that show their emotion, which are all that `moving_parts` sees."""
    source = "drawn:largest=8,ratio=1,size=64,seed=2,classes=happy+sad+surprise"
    spec, rows = parse_spec(source), np.arange(24)
    images = np.stack([draw(spec, row).image for row in rows])
    labels = [spec.label_of(row) for row in rows]
    table = pd.DataFrame({"path": [f"{row:06d}.png" for row in rows], "label": labels, "predicted": labels})
    masks = emotion_masks(source, Manifest(Path(), table, spec.classes, "drawn"), rows, 64, "crop")
    assert masks is not None
    return ExplainedImages(
        table=table,
        classes=spec.classes,
        images=images,
        maps=masks.astype(np.float32),
        target=pd.Index(spec.classes).get_indexer(pd.Index(labels)).astype(np.int64),
        segments=superpixels(images, 50),
        landmarks=np.full((24, 5, 2), np.nan, np.float32),
        masks=masks,
        method="lime",
        options={"fill": "mean"},
    )


@pytest.mark.parametrize("maps", ["true", "centred blob", "another image", "random", "inverted"])
def test_on_drawn_faces_only_the_right_pixels_hold(drawn: ExplainedImages, maps: str) -> None:
    assert drawn.masks is not None
    masks, classes = drawn.masks, len(drawn.classes)

    def moving_parts(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        changed = np.abs(images.astype(float) - drawn.images[rows]).mean(axis=3)  # (M, H, W)
        seen = np.array([one[masks[row]].mean() for one, row in zip(changed, rows, strict=True)]) / 64
        own = np.clip(1 - seen, 0, 1)
        answer = np.repeat((1 - own)[:, None] / (classes - 1), classes, axis=1)
        answer[np.arange(len(rows)), drawn.target[rows]] = own
        return answer

    made = {
        "true": masks,
        "centred blob": np.repeat(centred_blob(64, 64)[None], len(masks), axis=0),
        "another image": masks[other_images(drawn, 9)],
        "random": np.random.default_rng(0).random((len(masks), 60))[
            np.arange(len(masks))[:, None, None], drawn.segments
        ],
        "inverted": ~masks,
    }[maps]
    explained = replace(drawn, maps=made.astype(np.float32))
    holds, first = verdict(against_baselines(drawn.table, curves(explained, moving_parts, fill="blur")))
    assert holds == (maps == "true"), first
    missed = {
        "centred blob": "a centred blob (",
        "another image": "the map of another image (",
        "random": "random orders (",
    }
    assert missed.get(maps, "") in first


def test_the_other_image_is_of_another_cluster_and_of_the_same_class_where_there_is_one() -> None:
    explained = _explained()
    explained.target[:] = [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 2]
    table = explained.table.assign(cluster=[0, 0, 1, 2, 2, 2, 3, 4, 5, 2, 2, 6])
    explained = ExplainedImages(**{**vars(explained), "table": table})
    for seed in range(5):
        other = other_images(explained, seed)
        assert (table["cluster"].to_numpy()[other] != table["cluster"].to_numpy()).all()
        assert (explained.target[other] == 0)[explained.target == 0].all()  # class 1 is one cluster, 2 is one image
    assert len({tuple(other_images(explained, seed)) for seed in range(5)}) > 1
    together = ExplainedImages(**{**vars(explained), "table": table.assign(cluster=0)})
    assert (other_images(together) != np.arange(COUNT)).all()


def test_maps_without_a_clue_pass_no_more_often_than_one_in_twenty() -> None:
    passed = [_tried(_explained(_shuffled(seed)), steps=9, draws=2)[1][0].shown for seed in range(40)]
    assert sum(passed) <= 6  # 40 x .05 = 2 are expected, and 7 or more have a chance of .3 %


def test_one_good_curve_is_not_enough() -> None:
    good, bad = _tried(_explained())[1], _tried(_explained(_shuffled(5)))[1]
    holds, first = verdict([*good[:1], bad[1], *good[2:]])
    assert not holds
    assert first.startswith(
        "FAILS: it did not beat random orders (insertion) (12 images); gain over random orders: ins"
    )


def test_few_images_cannot_be_told_from_chance_and_the_verdict_says_so() -> None:
    explained = _explained()
    found = curves(explained, network, fill="black", images=4)
    holds, first = verdict(against_baselines(explained.table, found))
    assert len(found.rows) == 4
    assert not holds
    assert "too few images were tried (4 clusters, p < .05 needs at least 5)" in first
    found = curves(explained, network, fill="black", images=5)
    assert verdict(against_baselines(explained.table, found))[0]
    one_person = explained.table.assign(cluster=0)  # twelve images of one person are one
    found = curves(explained, network, fill="black")
    assert "(1 cluster, " in verdict(against_baselines(one_person, found))[1]
    alone = ExplainedImages(**{**vars(explained), **{name: getattr(explained, name)[:1] for name in PER_IMAGE}})
    assert "map of another image: deletion not defined" in verdict(_tried(alone)[1])[1]


PER_IMAGE = ("table", "images", "maps", "target", "segments", "landmarks", "masks")


def test_curves_are_those_of_a_plain_loop() -> None:
    explained = _explained()
    explained.segments[:] = np.minimum(SEGMENTS, 9)  # of unequal sizes
    found = curves(explained, network, fill="mean", steps=100, draws=1)
    for i in range(3):
        segments, image = explained.segments[i], explained.images[i]
        base = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)
        means = [explained.maps[i][segments == number].mean() for number in range(10)]
        order = sorted(range(10), key=lambda number: -means[number])
        for name, start, end in (("deletion", image, base), ("insertion", base, image)):
            picture = np.broadcast_to(start, image.shape).copy()
            heights, share = [network(picture[None], np.array([i]))[0, 1]], [0.0]
            for number in order:
                picture[segments == number] = np.broadcast_to(end, image.shape)[segments == number]
                heights.append(network(picture[None], np.array([i]))[0, 1])
                share.append(share[-1] + (segments == number).mean())
            area = sum((share[k + 1] - share[k]) * (heights[k] + heights[k + 1]) / 2 for k in range(10))
            assert getattr(found, f"{name}_area")[i] == pytest.approx(area, abs=1e-5)
            np.testing.assert_allclose(getattr(found, name)[i], np.interp(found.grid, share, heights), atol=1e-5)


def test_images_are_predicted_in_batches_with_their_row() -> None:
    sizes, seen = [], set()
    explained = _explained()

    def counting(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        seen.update(rows.tolist())
        pictures = explained.images[rows]  # what is not deleted is this row's own
        assert ((images == pictures) | (images == 0)).all()
        return network(images, rows)

    found = curves(explained, counting, fill="black", steps=6, draws=2, batch=50)
    assert max(sizes) <= 50
    assert seen == set(range(COUNT))
    assert found.passes == sum(sizes) == COUNT * (2 + (3 * 2 + 2) * 5)
    other = curves(explained, network, fill="black", steps=6, draws=2, batch=7)
    np.testing.assert_array_equal(found.random_area, other.random_area)
    assert not np.array_equal(
        found.random_area, curves(explained, network, fill="black", steps=6, draws=2, seed=1).random_area
    )


def test_an_order_gains_nothing_by_the_sizes_of_superpixels() -> None:
    """A network that sees how much of the picture is left is fooled by no order, whatever sizes come first."""
    explained = _explained()
    explained.segments[:] = np.minimum(SEGMENTS, 20)
    explained.maps[:] = np.where(explained.segments == 20, 9.0, 1.0)
    explained.images[:] = 200

    def share(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        left = images.mean(axis=(1, 2, 3)) / 200
        return np.stack([1 - left, left], axis=1)

    found = curves(explained, share, fill="black", steps=100, draws=3)
    others = (area for base in found.baselines for area in (base.deletion_area, base.insertion_area))
    for area in (found.deletion_area, found.insertion_area, found.random_area, *others):
        np.testing.assert_allclose(area, 0.5, atol=1e-6)


def test_the_fill_is_another_than_the_explainers() -> None:
    assert other_fill(_explained(options={"fill": "mean"})) == "blur"
    assert other_fill(_explained(options={"fill": "blur"})) == "mean"
    assert other_fill(_explained(options={"layer": "x"})) == "blur"
    assert other_fill(_explained(options={"fill": "blur"}), "grey") == "grey"
    with pytest.raises(InputError, match="fill: the curves need another fill than the explainer, got blur for both"):
        other_fill(_explained(options={"fill": "blur"}), "blur")
    with pytest.raises(InputError, match="fill: must be one of auto, superpixel, mean, blur, grey, black, got 'pink'"):
        other_fill(_explained(), "pink")
    with pytest.raises(InputError, match="draws: must be at least 1, got 0"):
        curves(_explained(), network, draws=0)


def test_what_is_taken_away_shows_the_fill() -> None:
    explained = _explained()
    shown = []

    def keeping(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        shown.append(images)
        return network(images, rows)

    curves(explained, keeping, fill="blur", steps=2, draws=1, images=1)
    whole, empty = np.concatenate(shown)[:2]
    row = next(i for i in range(COUNT) if (explained.images[i] == whole).all())
    np.testing.assert_array_equal(empty, baseline_image(explained.images[row], explained.segments[row], "blur"))


# --- known pixels -----------------------------------------------------------------------------------------------------


def test_share_inside_and_pointing_game_by_hand() -> None:
    explained = _explained()
    maps, masks = explained.maps, np.zeros((COUNT, SIDE, SIDE), bool)
    masks[:, :6, :12] = True  # 1/8 of the area
    masks[3] = False
    maps[:] = 0
    maps[0, 0, :4] = 1.0  # all inside
    maps[1, 0, 0], maps[1, 20, 20:23] = 1.0, 1.0  # a quarter inside, four equally high
    maps[2, 20, 20] = 1.0  # nothing inside
    maps[4] = -1.0
    maps[4, 0, 0] = -0.5  # speaks against the class everywhere
    maps[5] = 1.0  # the same everywhere
    found = against_masks(ExplainedImages(**{**vars(explained), "masks": masks}))
    assert found is not None
    inside, pointing = found
    assert (inside.gain.images, pointing.gain.images) == (3, 3)
    assert inside.value.value == pytest.approx(np.mean([8.0, 2.0, 0.0]))
    assert pointing.value.value == pytest.approx(np.mean([1.0, 0.25, 0.0]))
    assert (inside.chance.value, pointing.chance.value) == (1.0, pytest.approx(1 / 8))


def test_a_true_map_lies_inside_and_one_by_chance_does_not() -> None:
    true, random = against_masks(_explained()), against_masks(_explained(_shuffled(5)))
    assert true is not None
    assert random is not None
    assert [one.shown for one in true] == [True, True]
    assert true[1].value.value == 1
    assert true[0].value.low > 2
    assert [one.shown for one in random] == [False, False]
    assert random[0].value.value == pytest.approx(1, abs=0.2)


def test_maps_that_say_nothing_are_not_counted_and_unknown_pixels_give_nothing() -> None:
    found = against_masks(_explained(np.zeros((COUNT, SIDE, SIDE))))
    assert found is not None
    assert [one.gain.images for one in found] == [0, 0]
    assert np.isnan([one.p_value for one in found]).all()
    assert against_masks(ExplainedImages(**{**vars(_explained()), "masks": None})) is None


# --- agreement --------------------------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    segments = np.arange(4).reshape(1, 2, 2).repeat(3, axis=0)
    one = np.array([[4.0, 3, 2, 1]] * 3).reshape(3, 2, 2)
    two = np.array([[8.0, 6, 5, 0], [0, 1, 2, 3], [1, 1, 1, 1]]).reshape(3, 2, 2)
    found = agreement(one, two, segments, top=2)
    assert found["rank"].tolist()[:2] == [pytest.approx(1), pytest.approx(-1)]
    assert found["overlap"].tolist()[:2] == [1, 0]
    assert found["chance"].tolist()[:2] == [0.5, 0.5]
    assert found.iloc[2].isna().all()  # a map that says the same everywhere ranks nothing


def test_what_a_map_says_of_a_superpixel_is_for_its_size() -> None:
    segments = np.array([[[0, 0, 0, 1]]])
    one, two = np.array([[[1.0, 1, 1, 2]]]), np.array([[[1.0, 0, 0, 2]]])  # sums would say 3 > 2 and 1 < 2
    assert agreement(one, two, segments, top=1).iloc[0].tolist() == [pytest.approx(1), 1, 0.5]


def test_random_maps_agree_by_chance_even_where_values_are_equal() -> None:
    generator = np.random.default_rng(0)
    segments = np.repeat(np.arange(40).reshape(1, 5, 8), 200, axis=0)
    one, two = ((generator.random((200, 5, 8)) < 0.05).astype(float) for _ in range(2))  # most superpixels are 0
    found = agreement(one, two, segments, top=8).dropna()
    assert found["rank"].mean() == pytest.approx(0, abs=0.05)
    assert found["overlap"].mean() == pytest.approx(found["chance"].mean(), abs=0.05)


def test_sizes_of_superpixels_make_no_agreement() -> None:
    """Two maps of independent positive numbers, on superpixels of 1 to 16 rows: large ones have larger sums in both."""
    generator = np.random.default_rng(0)
    rows = np.repeat(np.arange(12), [1, 16, 2, 12, 1, 8, 3, 1, 14, 2, 6, 2])  # (68,)
    segments = np.broadcast_to(rows[:, None], (68, 8))[None].repeat(200, axis=0)
    one, two = (generator.uniform(1, 2, (200, 12))[:, rows][..., None].repeat(8, axis=2) for _ in range(2))
    found = agreement(one, two, segments, top=3)
    assert abs(found["rank"].mean()) < 0.1
    assert found["overlap"].mean() == pytest.approx(found["chance"].mean(), abs=0.06)
