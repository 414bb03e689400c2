"""Losses and assignment of the face detector against torchvision and cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou, sigmoid_focal_loss

from datamodules.errors import InputError
from datamodules.faces.boxes import decode, encode, grid
from lightning_modules.face_detector.losses import (
    STRIDES,
    Objective,
    assign,
    giou,
    iou,
    nwd,
    quality_focal,
    repel_from_each_other,
    repel_from_neighbours,
    smooth_ln,
)


def some_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 40
    return torch.cat([low, low + 1 + torch.rand(count, 2, generator=generator) * 30], 1)


def cells(side: int = 64) -> tuple[Tensor, Tensor]:
    centres, scales = grid(side, side, STRIDES)
    return torch.from_numpy(centres), torch.from_numpy(scales)


def test_overlap_is_that_of_torchvision() -> None:
    one, two = some_boxes(50, 0), some_boxes(50, 1)
    torch.testing.assert_close(iou(one, two), box_iou(one, two).diagonal())
    torch.testing.assert_close(giou(one, two), generalized_box_iou(one, two).diagonal())
    assert giou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([2.0, 0, 3, 1])) == pytest.approx(-1 / 3)


def test_wasserstein_distance_by_hand() -> None:
    one, moved = torch.tensor([0.0, 0, 8, 8]), torch.tensor([3.0, 4, 11, 12])
    assert nwd(one, moved) == pytest.approx(math.exp(-5 / 12.8), rel=1e-4)  # moved by 3, 4
    grown = torch.tensor([-3.0, -4, 11, 12])  # the half sides grow by 3 and 4
    assert nwd(one, grown, constant=5.0) == pytest.approx(math.exp(-1), rel=1e-4)
    assert nwd(one, one) == pytest.approx(1, abs=1e-4)
    apart = torch.tensor([9.0, 0, 17, 8], requires_grad=True)
    nwd(one, apart).backward()
    assert apart.grad is not None
    assert apart.grad.abs().sum() > 0  # where IoU has no slope any more


def test_smooth_ln_by_hand() -> None:
    values = smooth_ln(torch.tensor([0.0, 0.5, 0.9, 0.95, 1.0]), 0.9)
    wanted = torch.tensor([0, math.log(2), math.log(10), 0.5 + math.log(10), 1 + math.log(10)])
    torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-6)


def test_repulsion_from_the_face_beside_by_hand() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [80, 80, 90, 90]])
    predicted = torch.tensor([[0.0, 0, 10, 10], [80, 80, 90, 90]])
    value = repel_from_neighbours(predicted, torch.tensor([0, 2]), truth)
    assert value == pytest.approx(math.log(2), rel=1e-4)  # half of the neighbour is covered; the other touches none
    assert repel_from_neighbours(predicted, torch.tensor([0, 0]), truth[:1]) == 0


def test_repulsion_of_predictions_by_hand() -> None:
    predicted = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]])
    wanted = (1 / 3 - 0.1) / 0.9 - math.log(0.9)  # IoU 1 / 3, beyond sigma
    assert repel_from_each_other(predicted[:2], torch.tensor([0, 1])) == pytest.approx(wanted, rel=1e-4)
    assert repel_from_each_other(predicted[::2], torch.tensor([0, 0])) == 0  # both are of one face


def test_quality_focal_is_focal_loss_where_quality_is_zero_or_one() -> None:
    logit = torch.linspace(-4, 4, 9)
    for quality in (torch.zeros(9), torch.ones(9)):
        torch.testing.assert_close(quality_focal(logit, quality), sigmoid_focal_loss(logit, quality, alpha=-1, gamma=2))
    assert quality_focal(torch.tensor(0.0), torch.tensor(0.5)) == 0
    assert quality_focal(torch.tensor(0.0), torch.tensor(0.75)) == pytest.approx(0.25**2 * math.log(2))


def test_a_face_is_given_to_the_nine_cells_around_its_centre() -> None:
    centres, scales = cells()
    owner = assign(torch.tensor([[10.0, 10, 30, 30]]), centres, scales)
    chosen = centres[owner == 0][:, :2].tolist()
    assert chosen == [[x, y] for y in (12.0, 20.0, 28.0) for x in (12.0, 20.0, 28.0)]
    assert set(scales[owner == 0][:, 2].tolist()) == {8.0}


@pytest.mark.parametrize(("side", "stride"), [(10, 8), (48, 8), (49, 16), (96, 16), (97, 32), (300, 32)])
def test_large_faces_belong_to_coarse_levels(side: float, stride: float) -> None:
    centres, scales = cells(320)
    owner = assign(torch.tensor([[8.0, 8, 8 + side, 8 + side]]), centres, scales)
    assert set(scales[owner == 0][:, 2].tolist()) == {stride}


def test_the_smallest_face_has_one_cell_and_the_smaller_of_two_wins() -> None:
    centres, scales = cells()
    owner = assign(torch.tensor([[5.0, 5, 9, 9]]), centres, scales)
    assert centres[owner == 0][:, :2].tolist() == [[4.0, 4.0]]
    nested = assign(torch.tensor([[4.0, 4, 44, 44], [22, 22, 32, 32]]), centres, scales)
    fine = nested[scales[:, 2] == 8].reshape(8, 8)
    assert fine[2:4, 2:4].tolist() == [[0, 0], [0, 1]]
    assert (nested >= 0).sum() == 4
    assert (assign(torch.empty(0, 4), centres, scales) == -1).all()


def perfect(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Raw output that finds the boxes exactly, and which cells say so."""
    centres, scales = cells()
    owner = assign(boxes, centres, scales)
    raw = torch.full((1, len(centres), 5), -12.0)
    raw[..., :4] = 1.0
    found = owner >= 0
    raw[0, found, :4] = encode(boxes[owner[found]], centres[found], scales[found])
    raw[0, found, 4] = 12.0
    return raw, found


def test_a_perfect_answer_costs_nothing_and_a_shifted_one_what_giou_says() -> None:
    boxes = torch.tensor([[8.0, 8, 48, 48]])
    centres, scales = cells()
    raw, found = perfect(boxes)
    torch.testing.assert_close(decode(raw[0, found, :4], centres[found], scales[found]), boxes.expand(9, 4))
    parts = Objective()(raw, [boxes], centres, scales)
    assert parts["loss"] == pytest.approx(0, abs=1e-5)
    raw[0, found, 2] += 1.0  # the right edge lies one stride too far: 40 of 48 columns are right
    parts = Objective(nwd=0.9)(raw, [boxes], centres, scales)
    assert parts["box"] == pytest.approx(1 - 40 / 48, rel=1e-4)  # 40 x 40 is not small
    small = torch.tensor([[8.0, 8, 32, 32]])
    raw, found = perfect(small)
    raw[0, found, 2] += 1.0
    mixed = Objective(nwd=0.25)(raw, [small], centres, scales)["box"]
    assert mixed == pytest.approx(0.75 * (1 - 24 / 32) + 0.25 * (1 - math.exp(-math.sqrt(32) / 12.8)), rel=1e-4)


def test_repulsion_is_part_of_the_loss_only_where_it_is_asked_for() -> None:
    boxes = torch.tensor([[8.0, 8, 32, 32], [20, 8, 44, 32]])
    centres, scales = cells()
    raw, _ = perfect(boxes)
    without, with_it = (Objective(repulsion=weight)(raw, [boxes], centres, scales) for weight in (0.0, 2.0))
    assert without["repulsion"] == 0
    assert with_it["repulsion"] > 0.1
    assert with_it["loss"] - without["loss"] == pytest.approx(2 * float(with_it["repulsion"]), rel=1e-4)


def test_a_batch_without_faces_has_a_finite_loss_with_a_slope() -> None:
    centres, scales = cells()
    raw = torch.zeros(2, len(centres), 5, requires_grad=True)
    parts = Objective()(raw, [torch.empty(0, 4)] * 2, centres, scales)
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert raw.grad is not None
    assert raw.grad[..., 4].abs().sum() > 0


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"--model.nwd: must be in 0 to 1, got 1.5"):
        Objective(nwd=1.5)
    with pytest.raises(InputError, match=r"--model.repulsion: must be at least 0 and finite, got -1"):
        Objective(repulsion=-1)
