"""What a measurement is, how all of them are printed, and the file in which they are kept."""

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from datamodules.paths import replacing
from results.tracking.environment import environment


@dataclass(frozen=True)
class Figure:
    """One measured number and what it should be."""

    name: str
    value: float | None  # None: not measured
    about: str  # one sentence: what is over what, or why it was not measured
    at_least: float | None = None
    at_most: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The rule in words, such as ``>= 0.95``; empty for a number that is only reported."""
        if self.at_least is not None and self.at_least == self.at_most:
            return f"= {self.at_least:g}"
        low = "" if self.at_least is None else f">= {self.at_least:g}"
        return low or ("" if self.at_most is None else f"<= {self.at_most:g}")

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is no number or no target."""
        if self.value is None or not self.target:
            return None
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, dict[str, Any]]:
    """Return the median of ``theirs[i] / ours[i]`` over neighbouring repeats, and all seconds for the record."""
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), {
        "seconds": [float(f"{value:.4g}") for value in ours],
        "reference_seconds": [float(f"{value:.4g}") for value in theirs],
        "ratios": [round(value, 4) for value in ratios],
    }


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f"  {text}", flush=True)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on; the load tells whether something else was running."""
    found: dict[str, Any] = {key: value for key, value in environment().items() if not key.startswith("version_")}
    found["processor"] = _processor() or found["processor"]
    if hasattr(os, "sched_getaffinity"):
        found["usable_cores"] = len(os.sched_getaffinity(0))
    found["memory_gb"] = round(psutil.virtual_memory().total / 1e9, 1)
    found["load_at_start"] = round(os.getloadavg()[0], 2)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str]:
    """Return the versions of the packages that shape a number."""
    found = environment()
    return {key.removeprefix("version_"): value for key, value in found.items() if key.startswith("version_")}


def as_table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned lines: name, value, target, verdict, what it is."""
    verdict = {True: "met", False: "MISSED", None: "-"}
    rows = [("figure", "value", "target", "", "")]
    for figure in figures:
        value = "not measured" if figure.value is None else f"{figure.value:.4g}"
        rows.append((figure.name, value, figure.target, verdict[figure.met], figure.about))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * min(120, max(map(len, lines))), *lines[1:]])


def write(path: Path, figures: Sequence[Figure], command: str, about: dict[str, Any]) -> None:
    """Write all figures with command, machine, date and versions; the old file stays until the new one is whole."""
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "machine": about,
        "versions": versions(),
        "figures": [
            {
                "figure": figure.name,
                "value": None if figure.value is None else float(f"{figure.value:.6g}"),
                "target": figure.target,
                "met": figure.met,
                "about": figure.about,
                "detail": figure.detail,
            }
            for figure in figures
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
