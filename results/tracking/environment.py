"""Environment of a run and of this machine: git commit, lock file, package versions, devices and disks."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from datamodules.errors import InputError
from datamodules.files.paths import CACHE_BUDGET_GB, cache_root, folder_bytes
from results.tracking import runs, store

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = ("*.py", "*.yaml", "*.toml", "*.lock")  # files that affect results

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "torchmetrics",
    "albumentations",
    "imbalanced-learn",
    "scikit-learn",
    "numpy",
    "pandas",
    "pillow",
    "opencv-python-headless",
    "mlflow",
)


def git_state(root: Path = ROOT) -> dict[str, str]:
    """Return `git_commit` and `git_dirty` ("true" if source files differ from it); "unknown" outside a clone."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():  # installed inside another repository
        return {"git_commit": "unknown", "git_dirty": "unknown"}
    # a module that was never committed makes a result just as hard to reproduce as a changed one
    changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *_PROGRAM)
    return {
        "git_commit": _git(root, "rev-parse", "HEAD") or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }


def _git(root: Path, *arguments: str) -> str | None:
    output = _git_output(root, *arguments)
    return None if output is None else output.decode(errors="replace").strip()


def _git_output(root: Path, *arguments: str) -> bytes | None:
    """Return what a git command prints, None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def lock_hash(root: Path = ROOT) -> str:
    """Return the SHA-256 of requirements.lock, "unknown" if the package was installed without it."""
    path = root / "requirements.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "unknown"


def environment(root: Path = ROOT) -> dict[str, str]:
    """Return commit, lock hash, Python, platform, processors and the versions of the packages that affect results."""
    entries = {**git_state(root), "lock_sha256": lock_hash(root)}
    entries |= {"python": platform.python_version(), "platform": platform.platform()}
    entries |= {"processor": platform.processor() or platform.machine(), "cores": str(os.cpu_count())}
    entries |= {f"version_{package}": _version(package) for package in PACKAGES}
    torch = sys.modules.get("torch")  # a command that only reads runs should not import it
    if torch is not None and torch.cuda.is_available():
        entries["accelerator"] = torch.cuda.get_device_name()
        entries["cuda"] = str(torch.version.cuda)
    return entries


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class Installation:
    """What is installed on this machine, and where runs and caches are kept.

    Attributes:
        versions: Of Python, this project, torch, lightning, timm and mlflow.
        commit: Git commit of this project, "unknown" outside a clone.
        changed: Whether tracked files differ from the commit.
        cores: Logical CPU cores.
        gpus: Name and bytes of memory of each GPU that torch can use.
        store: Address of the tracking store, without a password.
        answer: "reachable", "created by the first run", or the error of the store.
        runs: Number of runs in the store, None if it cannot be reached.
        cache: The cache folder.
        cache_bytes: Its size.
        pixel_bytes: Size of the pixel caches, which the budget limits.
        budget_bytes: Default budget of the pixel caches.
        free: Free bytes on the disk of the folder of the runs and of the cache, by folder.
    """

    versions: dict[str, str]
    commit: str
    changed: bool
    cores: int
    gpus: tuple[tuple[str, int], ...]
    store: str
    answer: str
    runs: int | None
    cache: Path
    cache_bytes: int
    pixel_bytes: int
    budget_bytes: int
    free: dict[Path, int]


def installation(directory: str | Path = store.DIRECTORY) -> Installation:
    """Return versions, devices, and the state of the tracking store in `directory`, the cache and the disks."""
    versions = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in ("emotion-pipeline", "torch", "lightning", "timm", "mlflow")}
    git = git_state()
    answer, count = _store_state(directory)
    cache, home = cache_root(), Path(directory).absolute()
    return Installation(
        versions=versions,
        commit=git["git_commit"],
        changed=git["git_dirty"] == "true",
        cores=os.cpu_count() or 1,
        gpus=_gpus(),
        store=store.without_password(store.tracking_uri(directory)),
        answer=answer,
        runs=count,
        cache=cache,
        cache_bytes=folder_bytes(cache),
        pixel_bytes=folder_bytes(cache / "pixels"),
        budget_bytes=int(CACHE_BUDGET_GB * 1e9),
        free={folder: _free(folder) for folder in (home, cache)},
    )


def _store_state(directory: str | Path) -> tuple[str, int | None]:
    if not runs.has_store(directory):
        return "created by the first run", 0
    try:
        return "reachable", len(runs.find_runs(directory=directory, limit=runs.ALL))
    except InputError as error:
        return str(error), None


def _gpus() -> tuple[tuple[str, int], ...]:
    try:
        import torch  # takes seconds
    except ImportError:
        return ()
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple((str(gpu.name), int(gpu.total_memory)) for gpu in properties)


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or will be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


class SystemMetrics:
    """Thread that samples the use of the system every `interval` seconds and calls `write(metrics, step)`.

    MLflow's SystemMetricsMonitor sends each sample itself and ends at the first failed request; this thread writes to
    the spool, so that its curve has no gap after an outage of the store.
    """

    def __init__(
        self, write: Callable[[Mapping[str, float], int], None], first_step: int, interval: float = 10.0
    ) -> None:
        self._write, self._step, self._interval = write, first_step, interval
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(Exception):  # no NVIDIA library, or no such GPU
            monitors.append(GPUMonitor())
        for monitor in monitors:  # the first reading of a processor's use is always zero
            with contextlib.suppress(Exception):
                monitor.collect_metrics()
                monitor.clear_metrics()
        pause = min(1.0, self._interval)  # the first sample soon, so that a short run has one
        while not self._ending.wait(pause):
            metrics: dict[str, float] = {}
            for monitor in monitors:
                with contextlib.suppress(Exception):  # a sensor that fails must not end the run
                    monitor.collect_metrics()
                    metrics |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            try:
                self._write({f"system/{key}": float(value) for key, value in metrics.items()}, self._step)
            except Exception:  # a full disk, which the training thread reports
                return
            self._step += 1
            pause = self._interval


def known_commit(commit: str, root: Path = ROOT) -> bool:
    """Whether the repository has this commit; false outside of a repository."""
    return _at_commits(root, "cat-file", "-e", f"{commit}^{{commit}}", commits=commit) is not None


def lock_of(commit: str, root: Path = ROOT) -> str | None:
    """Return the SHA-256 of requirements.lock at a commit, None if it is not known."""
    text = _at_commits(root, "show", f"{commit}:requirements.lock", commits=commit)
    return None if text is None else hashlib.sha256(text).hexdigest()


def changed_between(first: str, second: str, root: Path = ROOT) -> bool:
    """Whether the program differs between two commits; also true if one of them is not known."""
    paths = (first, second, "--", *_PROGRAM, ":(exclude)tests", ":(exclude)benchmarks")
    changed = _at_commits(root, "diff", "--name-only", *paths, commits=first + second)
    return changed is None or bool(changed.strip())


def _at_commits(root: Path, *arguments: str, commits: str) -> bytes | None:
    # a tag of a run must not become an option of git
    if not re.fullmatch(r"(?:[0-9a-f]{40}){1,2}", commits) or not (root / ".git").exists():
        return None
    return _git_output(root, *arguments)
