"""Runs the measurements, prints a table and writes ``benchmarks/results.json``: ``python -m benchmarks``."""

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: it would ask the network for a newer one

from benchmarks.report import Figure, as_table, machine, say, write

# those that start processes come first, while this one is small
BENCHMARKS = (
    "mapping",
    "startup",
    "faces",
    "pipeline",
    "training",
    "explaining",
    "decoding",
    "tracking",
    "searching",
    "pruning",
    "workers",
    "gpu",
)
RESULTS = Path(__file__).resolve().parent / "results.json"


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Make an empty folder the current one and the place of all caches and runs; take it away again."""
    kept = {name: os.environ.get(name) for name in ("EMOTION_CACHE_DIR", "MLFLOW_TRACKING_URI")}
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="emotion-bench-", ignore_cleanup_errors=True) as folder:
        os.environ["EMOTION_CACHE_DIR"] = f"{folder}/cache"
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            for name, value in kept.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def measure(name: str, folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return the figures of one measurement, working in ``folder``; ``toy`` only tries the code."""
    return list(importlib.import_module(f"benchmarks.{name}").measure(folder, toy=toy))


def main(args: list[str] | None = None) -> int:
    """Measure, print and write; return 1 if a measurement broke, 0 otherwise, also where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, help="run these; writes no file")
    parser.add_argument("--toy", action="store_true", help="smallest sizes, to try the code; writes no file")
    parser.add_argument("--output", type=Path, help="write the results here")
    options = parser.parse_args(args)
    whole = not options.toy and set(options.only) == set(BENCHMARKS)
    output = options.output.resolve() if options.output else RESULTS if whole else None
    about, began, broken = machine(), time.perf_counter(), False
    figures: list[Figure] = []
    for number, name in enumerate(options.only, 1):
        print(f"[{number}/{len(options.only)}] {name}", flush=True)
        start = time.perf_counter()
        try:
            with workplace() as folder:
                figures += measure(name, folder, toy=options.toy)
        except Exception as error:  # the others are still worth having
            traceback.print_exc()
            broken = True
            figures.append(Figure(name, None, f"not measured: {type(error).__name__}: {str(error)[:200]}"))
        say(f"{time.perf_counter() - start:.0f} s")
    print(f"\n{as_table(figures)}\n\n{time.perf_counter() - began:.0f} s in all")
    if output is not None:
        given = sys.argv[1:] if args is None else args
        write(output, figures, " ".join(["python -m benchmarks", *given]), about)
        print(f"written to {output}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
