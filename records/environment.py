"""Environment of a run and of this machine: git commit, lock file, package versions, devices, disks."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import InputError
from datamodules.places import CACHE_BUDGET_GB, cache_root, folder_bytes
from records import runs, store

ROOT = Path(__file__).resolve().parents[1]

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
    """Return `git_commit` and `git_dirty` ("true" when tracked files differ), "unknown" outside a clone."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():  # installed inside somebody else's repository
        return {"git_commit": "unknown", "git_dirty": "unknown"}
    # a module that was never committed makes a result just as hard to have again as one that was changed
    changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", "*.py", "*.yaml", "*.toml", "*.lock")
    return {
        "git_commit": _git(root, "rev-parse", "HEAD") or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def lock_hash(root: Path = ROOT) -> str:
    """Return the sha256 of requirements.lock, "unknown" when the package was installed without it."""
    path = root / "requirements.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "unknown"


def environment(root: Path = ROOT) -> dict[str, str]:
    """Return commit, lock, Python, platform, processors and the versions of the packages that shape a result."""
    found = {**git_state(root), "lock_sha256": lock_hash(root)}
    found |= {"python": platform.python_version(), "platform": platform.platform()}
    found |= {"processor": platform.processor() or platform.machine(), "cores": str(os.cpu_count())}
    found |= {f"version_{package}": _version(package) for package in PACKAGES}
    torch = sys.modules.get("torch")  # a command that only reads records should not load it
    if torch is not None and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    return found


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
    answer, count = _ask_store(directory)
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


def _ask_store(directory: str | Path) -> tuple[str, int | None]:
    if not runs.has_store(directory):
        return "created by the first run", 0
    try:
        return "reachable", len(runs.find_runs(directory=directory, limit=1_000_000))
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
