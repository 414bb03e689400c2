"""Dry run: the parts, steps and estimated time of a training, from a few timed batches."""

import time

import numpy as np
import torch
from torch.nn import functional as F

from datamodules.emotion import EmotionDataModule
from lightning_modules.backbones import build_backbone
from lightning_modules.config import RunConfig, data_module
from lightning_modules.device import best_device, describe_device
from lightning_modules.heads import build_head
from lightning_modules.training import check_options, prepare

STARTUP = 5.0  # seconds of a run besides training: checks, tables and figures
FORWARD = 3.0  # an image that is only predicted costs a third of one that is trained on
TIMED = 3  # batches after the first


def seconds_an_image(config: RunConfig) -> float:
    """Return the seconds of training per image on the best device, measured on a few batches."""
    model, size, batch = config.model, config.data["size"], config.data["batch_size"]
    backbone, features, _ = build_backbone(model["backbone"], "none")
    network = torch.nn.Sequential(backbone, build_head("linear", features, 8)).train()
    device = best_device()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.randint(8, (batch,), device=device)
    start = 0.0
    for step in range(TIMED + 1):
        if step == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), label)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device
    return (time.perf_counter() - start) / (TIMED * batch)


def duration(seconds: float) -> str:
    """Return a duration as text."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def describe_run(config: RunConfig, runs: int = 1, identity: str = "", workers: int = 1) -> str:
    """Describe what `emotion fit` or a cross-validation would do, without training or storing a run.

    Args:
        config: The options; of a cross-validation those of its first fold.
        runs: Number of trainings like this one.
        identity: Of a cross-validation; by default that of the run.
        workers: Trainings at the same time.

    Raises:
        InputError: Wrong options or data, as in training.
    """
    check_options(config)
    data = data_module(config)
    prepare(data)
    data.setup("fit")
    epochs = int(config.trainer["max_epochs"])
    drawn, val, test = len(data.draws), len(data.selected_on), len(data.fold_rows.outer)
    steps = -(-drawn // data.batch_size)
    rounds = -(-runs // max(1, workers))
    seconds = STARTUP + seconds_an_image(config) * (epochs * drawn + (epochs * val + test) / FORWARD)
    selected = "the same as the test part (protocol paper)" if data.plan.protocol == "paper" else "to select the epoch"
    first = "of fold 0" if runs > 1 else ""
    lines = [
        ("data", f"{data.manifest.name}: {len(data.manifest):,} images, {len(data.classes)} classes"),
        ("classes", ", ".join(f"{name} {count:,}" for name, count in zip(data.classes, _counts(data), strict=True))),
        (f"train {first}", f"{len(data.fold_rows.train):,} images; an epoch has {drawn:,} rows after over-sampling"),
        (f"val {first}", f"{val:,} images, {selected}"),
        (f"test {first}", f"{test:,} images, evaluated once"),
        ("steps", f"{steps:,} in an epoch of batch size {data.batch_size}, {epochs * steps:,} in {epochs} epochs"),
        ("runs", str(runs)),
        ("time", f"about {duration(rounds * seconds)} on {describe_device(best_device())}, at its current load"),
        ("identity", identity or config.identity(data.content_hash)),
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join([*(f"{name.strip():<{width}}{text}" for name, text in lines), "nothing was trained"])


def _counts(data: EmotionDataModule) -> list[int]:
    return np.bincount(data.manifest.labels, minlength=len(data.classes)).tolist()
