"""Assign GPUs to worker processes."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from datamodules.errors import invalid
from datamodules.processes import cores

if TYPE_CHECKING:  # a worker's own process needs none of this, and imports it in seconds
    from lightning_modules.config import RunConfig

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def require_one_device(config: "RunConfig", command: str) -> None:
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
    import torch

    count = torch.cuda.device_count()
    if workers < 2 or not count:
        return [None] * workers
    listed = os.environ.get(VISIBLE_GPUS)
    visible = [name.strip() for name in listed.split(",")][:count] if listed else [str(gpu) for gpu in range(count)]
    return [visible[worker % len(visible)] for worker in range(workers)]


def worker_variables(workers: int) -> list[dict[str, str]]:
    """Return the environment variables that each worker gets besides those of this process.

    Threads are divided, unless OMP_NUM_THREADS is set: otherwise each worker would use all cores.
    """
    alone = workers == 1 or "OMP_NUM_THREADS" in os.environ
    threads = {} if alone else {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
    return [threads | ({} if gpu is None else {VISIBLE_GPUS: gpu}) for gpu in worker_gpus(workers)]


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
