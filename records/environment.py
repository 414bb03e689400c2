"""What a run was made with: git commit, lock file, package versions, machine."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

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
    for package in PACKAGES:
        try:
            found[f"version_{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[f"version_{package}"] = "absent"
    torch = sys.modules.get("torch")  # a command that only reads records should not load it
    if torch is not None and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    return found
