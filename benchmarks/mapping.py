"""How much memory eight loading processes hold of the pixel cache that all of them map."""

import re
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import Figure, say
from datamodules.emotion import EmotionDataModule

NAME, WORKERS, GOAL = "cache_mapping_memory", 8, 1.1
ABOUT = "proportional memory of the mapping over all workers and their parent, over the file's size"
HEADER = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S{4} ")


def mapped(pid: int, file: Path) -> tuple[int, int]:
    """Return (proportional, resident) bytes of the mappings of ``file`` in a process; the former shares out pages."""
    found = {"Pss": 0, "Rss": 0}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if HEADER.match(line):
            inside = line.endswith(str(file))
        elif inside and (name := line.partition(":")[0]) in found:
            found[name] += int(line.split()[1]) * 1024
    return found["Pss"], found["Rss"]


def own_memory(pid: int) -> int:
    """Return the bytes that a process shares with no other: what one more worker costs."""
    return int(psutil.Process(pid).memory_full_info().uss)


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return the ratio, read while the workers live and after each has read its part of two epochs."""
    if not Path("/proc/self/smaps").is_file():
        return [Figure(NAME, None, "not measured: this system has no /proc/*/smaps", at_most=GOAL)]
    largest, size, batch, wanted = (8, 32, 4, 2) if toy else (250, 160, 32, WORKERS)
    data = EmotionDataModule(
        f"drawn:largest={largest},ratio=1",
        size,
        batch_size=batch,
        split="holdout",
        near_duplicates=False,
        num_workers=wanted,
        seed=0,
    )
    data.prepare_data()
    data.setup("fit")
    file = (data.cache.directory / "pixels.bin").resolve()
    before = {child.pid for child in psutil.Process().children()}
    say(f"two epochs with {wanted} workers, cache of {file.stat().st_size / 1e6:.0f} MB")
    loader: Any = data.train_dataloader()
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        for _ in loader:
            pass
    workers = [child.pid for child in psutil.Process().children() if child.pid not in before]
    readings = [mapped(pid, file) for pid in [psutil.Process().pid, *workers]]
    reading = sum(1 for _, resident in readings[1:] if resident)
    if reading < wanted:
        about = f"not measured: only {reading} of {wanted} workers have the cache mapped"
        return [Figure(NAME, None, about, at_most=GOAL)]
    held, bytes_ = sum(share for share, _ in readings), file.stat().st_size
    detail = {
        "workers": len(workers),
        "file_mb": round(bytes_ / 1e6, 1),
        "proportional_mb": round(held / 1e6, 1),
        "resident_mb_if_counted_in_each": round(sum(resident for _, resident in readings) / 1e6, 1),
        "own_memory_of_a_worker_mb": round(max(own_memory(pid) for pid in workers) / 1e6, 1),
    }
    return [Figure(NAME, held / bytes_, ABOUT, at_most=GOAL, detail=detail)]
