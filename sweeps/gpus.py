"""Assign GPUs to worker processes."""

import contextlib
import os
from collections.abc import Iterator, Mapping

import torch

from datamodules.errors import invalid
from lightning_modules.config import RunConfig

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def require_one_device(config: RunConfig, command: str) -> None:
    """Refuse several devices where each training is one process.

    Raises:
        InputError: so.
    """
    devices, nodes = config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1)
    if (str(devices) not in ("1", "auto") and not (isinstance(devices, list) and len(devices) == 1)) or nodes != 1:
        hint = "give --workers N, which uses one GPU for each worker"
        raise invalid("--trainer.devices", f"must be 1 in {command}, with one node", devices, hint)


def worker_gpus(workers: int) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each worker: worker i gets GPU i modulo the number of GPUs.

    None leaves the variable as it is: without a GPU, and for a single worker, whose trainings may use several GPUs.
    """
    count = torch.cuda.device_count()
    if workers < 2 or not count:
        return [None] * workers
    listed = os.environ.get(VISIBLE_GPUS)
    visible = [name.strip() for name in listed.split(",")][:count] if listed else [str(gpu) for gpu in range(count)]
    return [visible[worker % len(visible)] for worker in range(workers)]


@contextlib.contextmanager
def environment_variables(new: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started in this context."""
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
