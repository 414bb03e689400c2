"""Worker processes: how many to use, and a pool that is started safely."""

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool


def cores() -> int:
    """Return how many processor cores this process may use, which in a container or job is fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
