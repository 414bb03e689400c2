"""Average precision: cases worked out by hand, and ours against torchmetrics on chance boxes."""

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from datamodules.faces.boxes import encode
from lightning_modules.face_detector import FaceDetector
from lightning_modules.face_detector.network import average_precision, difference, intervals, match

Found = list[tuple[list[float], float]]
A, B, C = [8.0, 8.0, 24.0, 24.0], [36.0, 36.0, 56.0, 56.0], [40.0, 0.0, 60.0, 20.0]
SHORT = [8.0, 8.0, 24.0, 8 + 16 * 0.62]  # overlaps A by .62

# found and true boxes of each image, mAP@.5, mAP@.5:.95
CASES: list[tuple[str, list[tuple[Found, list[list[float]]]], float, float]] = [
    ("all found", [([(A, 0.9), (B, 0.8)], [A, B])], 1.0, 1.0),
    ("nothing found", [([], [A])], 0.0, 0.0),
    # recall .5 at precision 1, recall 1 at 2 / 3: 51 and 50 of the 101 recalls
    ("one wrong between", [([(A, 0.9), (C, 0.8), (B, 0.7)], [A, B])], *[(51 + 50 * 2 / 3) / 101] * 2),
    ("half of the faces", [([(A, 0.9)], [A, B])], *[51 / 101] * 2),
    # enough for .5, .55 and .6 only
    ("too short", [([(SHORT, 0.9)], [A])], 1.0, 0.3),
    ("wrong in an image without faces, and surest", [([(A, 0.95)], []), ([(A, 0.9)], [A])], 0.5, 0.5),
]  # fmt: skip


def fixed_detector(case: list[tuple[Found, list[list[float]]]]) -> tuple[FaceDetector, dict]:
    """A detector whose network always gives the case's boxes, and the batch that it belongs to."""
    model = FaceDetector("mobilenetv3_small_050", "none", size=64, width=8)
    raw = torch.full((len(case), len(model.centres), 5), -20.0)
    raw[..., :4] = 0.1
    for picture, (found, _) in enumerate(case):
        for cell, (box, score) in enumerate(found):
            raw[picture, cell, :4] = encode(torch.tensor(box), model.centres[cell], model.scales[cell])
            raw[picture, cell, 4] = torch.logit(torch.tensor(score))
    model.network.forward = lambda image: raw  # type: ignore[method-assign]
    truth = [torch.tensor(boxes).reshape(-1, 4) for _, boxes in case]
    image = torch.zeros(len(case), 3, 64, 64, dtype=torch.uint8)
    return model.eval(), {"image": image, "boxes": truth, "row": torch.arange(len(case))}


@pytest.mark.parametrize(("case", "map_50", "map_all"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_hand_computed_cases(case: list, map_50: float, map_all: float) -> None:
    model, batch = fixed_detector(case)
    model.validation_step(batch, 0)
    values = model.val_map.compute()
    assert values["map_50"] == pytest.approx(map_50, abs=1e-5)
    assert values["map"] == pytest.approx(map_all, abs=1e-5)
    pictures = [
        match(np.array([box for box, _ in found]).reshape(-1, 4), np.array([score for _, score in found]),
              np.array(truth).reshape(-1, 4))
        for found, truth in case
    ]  # fmt: skip
    ours = average_precision(pictures)
    assert ours[0] == pytest.approx(map_50, abs=1e-9)
    assert ours.mean() == pytest.approx(map_all, abs=1e-9)


def test_a_second_box_of_one_face_is_suppressed_or_wrong() -> None:
    near = [9.0, 8.0, 25.0, 24.0]
    model, batch = fixed_detector([([(A, 0.9), (near, 0.8)], [A])])
    ((boxes, scores),) = model.decode(model(batch["image"]))
    np.testing.assert_allclose(boxes, [A], atol=1e-3)
    np.testing.assert_allclose(scores, [0.9], atol=1e-4)
    pictures = [match(np.array([A, near]), np.array([0.8, 0.9]), np.array([A]))]
    assert pictures[0].hits[0].tolist() == [True, False]  # the surer one has it, though it fits less well
    neighbours = np.array([[0.0, 0, 20, 20], [4, 0, 24, 20]])
    beside = match(np.array([[0.0, 0, 20, 20], [1, 0, 21, 20]]), np.array([0.9, 0.8]), neighbours)
    assert beside.hits[0].tolist() == [True, True]  # the face it fits best is taken, so it has the other one


def test_ours_is_torchmetrics_on_chance_boxes() -> None:
    generator = np.random.default_rng(3)
    theirs = FaceDetector("mobilenetv3_small_050", "none", size=64, width=8).test_map
    pictures = []
    for _ in range(25):
        low = generator.uniform(0, 50, (generator.integers(0, 5), 2))
        truth = np.concatenate([low, low + generator.uniform(5, 30, low.shape)], 1)
        copies = np.repeat(truth, 2, 0) + generator.normal(0, 2, (2 * len(truth), 4))
        stray = generator.uniform(0, 40, (2, 2))
        boxes = np.concatenate([copies, np.concatenate([stray, stray + 15], 1)])
        scores = generator.uniform(0, 1, len(boxes))
        pictures.append(match(boxes, scores, truth))
        label = {"labels": torch.zeros(len(boxes)).long()}
        theirs.update(
            [{"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), **label}],
            [{"boxes": torch.tensor(truth), "labels": torch.zeros(len(truth)).long()}],
        )
    values, ours = theirs.compute(), average_precision(pictures)
    assert 0.2 < ours[0] < 0.9
    assert ours[0] == pytest.approx(float(values["map_50"]), abs=1e-5)
    assert ours.mean() == pytest.approx(float(values["map"]), abs=1e-5)


def test_intervals_hold_the_value_and_a_pairing_is_narrower() -> None:
    good = [match(np.array([A]), np.array([0.9]), np.array([A])) for _ in range(30)]
    bad = [match(np.array([B]), np.array([0.9]), np.array([A])) for _ in range(10)]
    table = intervals(good + bad, resamples=200).set_index("metric")
    assert table.loc["map_50", "low"] < table.loc["map_50", "value"] < table.loc["map_50", "high"]
    assert intervals(good, resamples=100)["low"].tolist() == [1.0, 1.0]
    same = difference(good + bad, good + bad, resamples=100)
    assert same[["value", "low", "high"]].to_numpy().tolist() == [[0.0] * 3] * 2
    gain = difference(good + bad, good + good[:10], resamples=200).set_index("metric")
    assert gain.loc["map_50", "low"] > 0
    with pytest.raises(InputError, match=r"of the same images, got 30 and 29"):
        difference(good, good[:29])
