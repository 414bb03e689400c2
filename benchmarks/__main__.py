"""Measure speed, print a table of ratios and their targets, and write ``benchmarks/results.json``."""

import argparse
import contextlib
import importlib
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: it would ask the network for a newer one

from benchmarks import Figure
from datamodules.files.paths import replacing
from results.tracking.environment import environment

# The function and its module; those that start processes come first, while this one is small.
MEASUREMENTS = {
    "startup": "commands",
    "workers": "commands",
    "memory": "commands",
    "faces": "data",
    "pipeline": "data",
    "decoding": "data",
    "rows": "data",
    "training": "training",
    "throughput": "training",
    "tracking": "training",
    "prediction": "training",
    "gpu": "training",
}
RESULTS = Path(__file__).resolve().parent / "results.json"


def measure(name: str, *, toy: bool = False) -> list[Figure]:
    """Run a measurement in an empty current folder, with its own cache and runs; ``toy`` only tries the code."""
    with (
        tempfile.TemporaryDirectory(prefix="emotion-bench-", ignore_cleanup_errors=True) as folder,
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"EMOTION_CACHE_DIR": f"{folder}/cache"}),
    ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        module = importlib.import_module(f"benchmarks.{MEASUREMENTS[name]}")
        figures: list[Figure] = getattr(module, name)(Path(folder), toy=toy)
        return figures


def machine() -> dict[str, Any]:
    """Return what the numbers depend on; the load shows whether something else was running."""
    found: dict[str, Any] = environment()
    with contextlib.suppress(OSError, AttributeError):
        found["processor"] = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]  # type: ignore[index]
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    return found | {
        "usable_cores": len(psutil.Process().cpu_affinity()),
        "memory_gb": memory,
        "load": os.getloadavg()[0],
    }


def as_table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned lines: name, value, target, verdict, what was measured."""
    verdicts = {True: "met", False: "MISSED", None: "-"}
    lines = [f"{'figure':<32}  {'value':>12}  {'target':<8}"]
    for figure in figures:
        value = "not measured" if figure.value is None else f"{figure.value:.4g}"
        lines.append(f"{figure.name:<32}  {value:>12}  {figure.target:<8}  {verdicts[figure.met]:<6}  {figure.about}")
    return "\n".join(lines)


def write(path: Path, figures: Sequence[Figure], command: str, about: dict[str, Any]) -> None:
    """Write the figures with date, command and machine; the old file stays until the new one is complete."""
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "machine": {key: value for key, value in about.items() if not key.startswith("version_")},
        "versions": {key[8:]: value for key, value in about.items() if key.startswith("version_")},
        "figures": [
            {
                "figure": figure.name,
                "value": figure.value,
                "target": figure.target,
                "met": figure.met,
                "about": figure.about,
                "detail": figure.detail,
            }
            for figure in figures
        ],
    }
    rounded = json.loads(json.dumps(content), parse_float=lambda digits: float(f"{float(digits):.6g}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(args: list[str] | None = None) -> int:
    """Measure, print and write; return 1 if a measurement broke, 0 otherwise, also where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=[*MEASUREMENTS], help="writes no file")
    parser.add_argument("--toy", action="store_true", help="smallest sizes, to try the code; writes no file")
    parser.add_argument("--output", type=Path, help="write the results here")
    options = parser.parse_args(args)
    complete = not options.toy and set(options.only) == set(MEASUREMENTS)
    output = options.output.resolve() if options.output else RESULTS if complete else None
    about, began, broken = machine(), time.perf_counter(), False
    figures: list[Figure] = []
    for number, name in enumerate(options.only, 1):
        print(f"[{number}/{len(options.only)}] {name}", flush=True)
        start = time.perf_counter()
        try:
            figures += measure(name, toy=options.toy)
        except Exception as error:  # the others are still worth having
            traceback.print_exc()
            broken = True
            figures.append(Figure(name, None, f"not measured: {type(error).__name__}: {str(error)[:200]}"))
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{as_table(figures)}\n\n{time.perf_counter() - began:.0f} s in all")
    if output is not None:
        write(output, figures, " ".join(["python -m benchmarks", *(sys.argv[1:] if args is None else args)]), about)
        print(f"written to {output}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
