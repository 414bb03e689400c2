"""Processes: their cores and memory, how many workers to use, and a pool that is started safely."""

import contextlib
import ctypes
import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from datamodules.errors import InputError


def cores() -> int:
    """Return how many processor cores this process may use, which in a container or job is fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's numbers of these options of mallopt
_ALLOCATOR = ("GLIBC_TUNABLES", "LD_PRELOAD")  # and MALLOC_...: choices of the user


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, instead of giving it back to the system; return whether it does.

    The C library of Linux (glibc) asks the system for new memory for every large tensor, and the system clears all of
    it, which takes a good part of a training on the CPU (docs/results/speed.md). Nothing is changed where an
    environment variable chooses an allocator (LD_PRELOAD, GLIBC_TUNABLES, MALLOC_...), or on other systems.
    """
    if any(name in _ALLOCATOR or name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        change = ctypes.CDLL("libc.so.6").mallopt
        return bool(change(_MMAP_MAX, 0) and change(_TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):  # another system, or another C library
        return False


def give_memory_back() -> None:
    """Give all freed memory back to the system once, before a process is forked.

    The new process would share it, and what the old one then writes would be copied: kept memory would be there twice.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


SHARED_MEMORY = Path("/dev/shm")  # where loading processes put batches; containers have 64 MB unless told otherwise
PREFETCH = 2  # batches that each loading process prepares ahead
LOADERS = 2  # that may hold batches at the same time: of the training and of the validation


def shared_memory_free() -> float:
    """Return the free bytes of the shared memory; infinity on a system without such a folder."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return math.inf
    return status.f_bavail * status.f_frsize


def shared_memory_needed(workers: int, batch_bytes: int) -> int:
    """Return the bytes of shared memory that the loading processes of a run need at most."""
    return LOADERS * (PREFETCH * workers + 1) * batch_bytes if workers else 0


def workers_that_fit(workers: int, batch_bytes: int, *, chosen: bool) -> int:
    """Return how many loading processes the shared memory has room for; without room they hang, then are killed.

    Args:
        workers: The processes that are wanted.
        batch_bytes: Size of a batch.
        chosen: Whether the program chose their number; then fewer are used, with a warning.

    Raises:
        InputError: It has no room for those that the user wants.
    """
    free, wanted = shared_memory_free(), workers
    while workers and shared_memory_needed(workers, batch_bytes) > free:
        workers -= 1
    if workers == wanted:
        return workers
    needed = shared_memory_needed(wanted, batch_bytes)
    problem = f"{wanted} loading processes need {needed / 1e6:,.0f} MB of shared memory ({SHARED_MEMORY}), "
    problem += f"{free / 1e6:,.0f} MB are free"
    advice = f"more shared memory (docker run --shm-size {-(-2 * needed // 10**9)}g)"
    if not chosen:
        fewer = "--data.num_workers 0" if workers == 0 else f"--data.num_workers {workers} (or 0)"
        msg = f"--data.num_workers: {problem}; give {fewer}, a smaller --data.batch_size, or {advice}"
        raise InputError(msg)
    warnings.warn(f"{problem}, so {workers} are used; for more speed give {advice}", stacklevel=3)
    return workers


@contextlib.contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Yield a working pool of processes, or None if one process is enough or others cannot be started.

    They are spawned, not forked, since the caller may have threads (torch, tracking) and a forked lock stays locked.
    Spawned processes import the caller's script, which fails without a ``__main__`` guard or from standard input. Call
    this before taking a lock, since a process that runs such a script would wait for the same lock.
    """
    if workers <= 1:
        yield None
        return
    import cv2  # a search counts cores without it

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        try:
            pool.submit(int).result()
        except BrokenProcessPool:
            works = False
        else:
            works = True
        try:
            yield pool if works else None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C, do not finish what was queued
