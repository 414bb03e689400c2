"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau

from datamodules.errors import InputError

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "one_cycle", "cosine", "plateau"]


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters so that biases and normalisation layers (one dimension) do not decay.

    Frozen parameters are included: they have no gradient, so the optimizer skips them until they are unfrozen.
    """
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Build an optimizer; "adam" adds the decay to the gradient, "adamw" decouples it, "sgd" has momentum 0.9."""
    groups = [group for group in parameter_groups(parameters, weight_decay) if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(groups, lr=learning_rate)


def cosine_factor(step: int, steps: int, warm: int) -> float:
    """Return the share of the learning rate at ``step``: up in a line over ``warm`` steps, then half a cosine to 0."""
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def build_schedules(
    name: ScheduleName,
    optimizer: Optimizer,
    learning_rate: float,
    steps: float,
    warmup: float,
    monitor: str,
    every: int = 1,
) -> list[dict[str, Any]]:
    """Build schedules in the form Lightning takes.

    Args:
        name: "constant"; "one_cycle", up to ``learning_rate`` and down to nearly zero; "cosine"; or "plateau",
            halved after three validations in which ``monitor`` did not rise.
        optimizer: the optimizer.
        learning_rate: the highest rate.
        steps: steps of the whole run, may be infinite if no schedule needs its end.
        warmup: share of the steps in which the rate rises, in [0, 1).
        monitor: metric that "plateau" watches.
        every: epochs from one validation to the next; "plateau" looks only then.

    Raises:
        InputError: If the schedule needs the number of steps and the run has no end.
    """
    if math.isinf(steps) and (name in ("one_cycle", "cosine") or warmup):
        msg = f"schedule {name!r} with warmup {warmup} needs an end: set trainer.max_epochs or trainer.max_steps"
        raise InputError(msg)
    warm = 0 if math.isinf(steps) else round(warmup * steps)
    if name == "one_cycle":
        total = int(steps)
        if total == 1:
            return []  # the only step uses the highest rate
        # a rise of exactly one step ends at step 0, and torch divides by that
        rising = 0.0 if math.isclose(warmup * total, 1) else warmup
        cycle = OneCycleLR(optimizer, max_lr=learning_rate, total_steps=total, pct_start=rising)
        return [{"scheduler": cycle, "interval": "step"}]
    if name == "cosine":
        total = int(steps)
        curve = LambdaLR(optimizer, lambda step: cosine_factor(step, total, warm))
        return [{"scheduler": curve, "interval": "step"}]
    schedules: list[dict[str, Any]] = []
    if warm:
        rise = LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
        schedules.append({"scheduler": rise, "interval": "step"})
    if name == "plateau":
        plateau = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)
        watch = {"interval": "epoch", "frequency": every, "monitor": monitor, "strict": False}
        schedules.append({"scheduler": plateau, **watch})
    return schedules
