"""How many processes to use, and starting them safely: what the pixel cache and the drawn faces share."""

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
    """Give a pool that is known to work, or None where one process is enough or others cannot be started.

    They are spawned, never forked: the caller may have threads (torch, tracking), and a forked lock stays locked. So
    they import the caller's script, which fails when it has no ``__main__`` guard or comes from standard input. That
    must show before the caller takes a lock, for a process that runs such a script asks for the same lock.
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
