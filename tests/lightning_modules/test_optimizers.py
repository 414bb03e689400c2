"""The learning rate over the steps of a run."""

import pytest
import torch

from lightning_modules.optimizers import build_schedules


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
