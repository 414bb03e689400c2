"""The learning rate over the steps of a run."""

import math

import pytest
import torch

from datamodules.errors import InputError
from lightning_modules.backbones import build_backbone
from lightning_modules.optimizers import build_optimizer, build_schedules, layered_groups


def rates(steps: int, warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    built = build_schedules("one_cycle", optimizer, 0.1, steps, warmup, "val/f1_macro")
    seen = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        built[0]["scheduler"].step()
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0.3), (1, 1 / 3), (4, 0.25), (5, 0.2), (10, 0.1), (3, 1 / 3), (2, 0.0)]
)
def test_one_cycle_of_few_steps_falls(steps: int, warmup: float) -> None:
    seen = rates(steps, warmup)
    assert seen[0] > 0.03  # it begins at or near the highest rate, since there is no step to rise in
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.01 or steps == 1


def test_one_cycle_rises_for_its_warmup_share() -> None:
    seen = rates(50, 0.2)
    assert seen.index(max(seen)) == 9
    assert max(seen) == pytest.approx(0.1)
    assert seen[-1] < 1e-5


def test_layer_decay_falls_to_the_first_layer_and_through_the_schedule() -> None:
    backbone, features, _ = build_backbone("tf_efficientnet_lite0", "none")
    head = torch.nn.Linear(features, 3)
    optimizer = build_optimizer("adamw", layered_groups(backbone, head, 0.1, 0.05, 0.5), 0.1, 0.05)
    rate = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    names = dict(backbone.named_parameters())
    assert len(rate) == len(names) + 2  # every parameter once
    assert rate[id(head.weight)] == rate[id(head.bias)] == rate[id(names["conv_head.weight"])] == 0.1
    by_depth = [rate[id(names[name])] for name in ("conv_stem.weight", "blocks.0.0.conv_dw.weight")]
    by_depth += [rate[id(names[f"blocks.{stage}.0.conv_pw.weight"])] for stage in range(1, 7)]
    assert by_depth == sorted(by_depth)
    assert len(set(by_depth)) == len(by_depth)
    assert all(math.log2(0.1 / each) == pytest.approx(round(math.log2(0.1 / each))) for each in by_depth)
    for group in optimizer.param_groups:
        assert {each.ndim > 1 for each in group["params"]} == {group["weight_decay"] > 0}
    shares = [group["lr"] / 0.1 for group in optimizer.param_groups]
    for name in ("one_cycle", "cosine"):
        (schedule,) = build_schedules(name, optimizer, 0.1, 10, 0.2, "val/f1_macro")  # type: ignore[arg-type]
        for _ in range(5):
            optimizer.step()
            schedule["scheduler"].step()
            rates = [group["lr"] for group in optimizer.param_groups]
            assert [each / rates[-1] for each in rates] == pytest.approx(shares)


def test_a_network_of_unknown_layers_has_no_layer_decay() -> None:
    with pytest.raises(InputError, match=r"--model.layer_decay: must be 1, since timm knows no layers of Linear"):
        layered_groups(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), 0.1, 0.0, 0.5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_sharpness_aware_step_uses_the_gradient_uphill(name: str) -> None:
    """On half the squared length the gradient is the place itself, so at radius r it is longer by r."""
    start = torch.tensor([3.0, 4.0])
    sharp, plain = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = build_optimizer(name, [sharp], 0.1, 0.01, sam_radius=0.5)  # type: ignore[arg-type]
    reference = build_optimizer(name, [plain], 0.1, 0.01)  # type: ignore[arg-type]
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (sharp**2).sum() / 2
        loss.backward()
        losses.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == 12.5
    plain.grad = start * 5.5 / 5
    reference.step()
    assert losses == pytest.approx([12.5, 5.5**2 / 2])
    torch.testing.assert_close(sharp, plain)
    again = build_optimizer(name, [sharp], 0.1, 0.01, sam_radius=0.5)  # type: ignore[arg-type]
    again.load_state_dict(optimizer.state_dict())
    with pytest.raises(TypeError, match="needs a closure"):
        again.step()
