"""What a process of the fixture `start_python` does: forked from a server that has imported the third-party stack.

Run by runpy with `REQUEST`: code, arguments, environment, folder, pipe, and address of the server.
"""

import atexit
import gc
import io
import os
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection


def main(
    code: str, arguments: list[str], environment: dict[str, str], folder: str, output: Connection, server: str
) -> None:
    """Become what `python -u -c CODE ARGUMENTS` is, in a session of its own, and run the code."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.write(1, b"\n")  # from here on, signals to the process group arrive
    for name, number in (("stdout", 1), ("stderr", 2)):  # the server's own may belong to a file, which can seek
        raw = open(number, "wb", buffering=0, closefd=False)
        setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", line_buffering=True, write_through=True))
    sys.argv = ["-c", *arguments]
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    # what this process starts through the fork server comes from the same one: Python would start another
    forkserver._forkserver._forkserver_address = server  # type: ignore[attr-defined]
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    gc.freeze()  # what the server imported stays for good
    try:
        exec(code, {"__name__": "__main__"})
    finally:
        threading._shutdown()  # type: ignore[attr-defined] # as an interpreter does before it runs these
        atexit._run_exitfuncs()


if __name__ == "__forked__":
    main(*globals()["REQUEST"])
