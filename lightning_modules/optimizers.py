"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # exported without __all__
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau

from datamodules.errors import InputError, invalid

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


def layered_groups(
    backbone: nn.Module, head: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Return parameter groups whose learning rate falls from the last layer to the first.

    The head uses ``learning_rate``, and so does the last layer of the backbone; a layer that is k layers earlier uses
    ``learning_rate * layer_decay ** k``. timm knows the layers of its models (Clark et al. 2020, arXiv:2003.10555).

    Args:
        backbone: a timm model.
        head: the layers behind it.
        learning_rate: the highest rate.
        weight_decay: of all parameters but biases and normalisation layers.
        layer_decay: factor from one layer to the one before, above 0 and at most 1.

    Raises:
        InputError: timm does not list the layers of this model.
    """
    layers: list[dict[str, Any]] = param_groups_layer_decay(backbone, weight_decay, layer_decay=layer_decay)
    if len({group["lr_scale"] for group in layers}) == 1:
        rule = f"must be 1, since timm knows no layers of {type(backbone).__name__}"
        raise invalid("--model.layer_decay", rule, layer_decay)
    groups = [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr": learning_rate * group["lr_scale"]}
        for group in layers
    ]
    return groups + [{**group, "lr": learning_rate} for group in parameter_groups(head.parameters(), weight_decay)]


class SharpnessAware(Optimizer):
    """Mixin of an optimizer that makes its steps sharpness-aware (SAM; Foret et al. 2021, arXiv:2010.01412).

    Each step moves the weights by ``radius * g / |g|``, up the gradient ``g`` of all parameters together, computes the
    gradient there, moves them back, and lets the optimizer step with that gradient. It takes two passes over the batch,
    and both update the running statistics of normalisation layers.
    """

    radius = 0.05
    moved = False  # while the weights are those up the gradient

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - the loss
        """Take one step; ``closure`` computes the loss and its gradients anew, and its first result is returned."""
        if closure is None:
            msg = "a sharpness-aware step needs a closure that computes the loss again"
            raise TypeError(msg)
        loss = closure()
        with torch.no_grad():
            moved = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
            before = [each.clone() for each in moved]
            norm = torch.stack([each.grad.norm() for each in moved]).norm() + 1e-12
            for each in moved:
                each.add_(each.grad * (self.radius / norm))  # a tensor, so that a GPU need not be waited for
        self.moved = True
        try:
            closure()
        finally:
            self.moved = False
        with torch.no_grad():
            for each, value in zip(moved, before, strict=True):
                each.copy_(value)
        super().step()
        return loss


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
    learning_rate: float,
    weight_decay: float,
    sam_radius: float = 0.0,
) -> Optimizer:
    """Build an optimizer; "adam" adds the decay to the gradient, "adamw" decouples it, "sgd" has momentum 0.9.

    Args:
        name: of the optimizer.
        parameters: parameters, which are divided by `parameter_groups`; or groups, such as those of `layered_groups`.
        learning_rate: of groups that name none.
        weight_decay: of groups that name none.
        sam_radius: radius of `SharpnessAware` steps; 0: usual steps.
    """
    given: list[Any] = list(parameters)
    groups = given if given and isinstance(given[0], dict) else parameter_groups(given, weight_decay)
    groups = [group for group in groups if group["params"]]
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kind, options = kinds[name], {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    if sam_radius:
        kind = type(f"SharpnessAware{kind.__name__}", (SharpnessAware, kind), {"radius": sam_radius})
    optimizer: Optimizer = kind(groups, lr=learning_rate, **options)
    return optimizer


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
        msg = f"schedule {name!r} with warmup {warmup} needs an end: give --trainer.max_epochs or --trainer.max_steps"
        raise InputError(msg)
    warm = 0 if math.isinf(steps) else round(warmup * steps)
    if name == "one_cycle":
        total = int(steps)
        if total == 1:
            return []  # the only step uses the highest rate
        # a rise of exactly one step ends at step 0, and torch divides by that
        rising = 0.0 if math.isclose(warmup * total, 1) else warmup
        rates = [group["lr"] for group in optimizer.param_groups]  # with layer-wise decay they differ
        highest = [learning_rate * (rate / max(rates)) for rate in rates]
        cycle = OneCycleLR(optimizer, max_lr=highest, total_steps=total, pct_start=rising)
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
        plateau = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=2)  # torch halves after one more
        watch = {"interval": "epoch", "frequency": every, "monitor": monitor, "strict": False}
        schedules.append({"scheduler": plateau, **watch})
    return schedules
