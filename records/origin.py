"""What the repository around this program knows of commits: whether it holds one, its lock file, what changed."""

import hashlib
import re
import subprocess
from pathlib import Path

from records.environment import ROOT

_PROGRAM = ("*.py", "*.yaml", "*.toml", "*.lock")  # what makes a run's numbers


def known_commit(commit: str, root: Path = ROOT) -> bool:
    """Whether the repository holds this commit; false outside of a repository."""
    return _git(root, "cat-file", "-e", f"{commit}^{{commit}}", commit=commit) is not None


def lock_of(commit: str, root: Path = ROOT) -> str | None:
    """Return the SHA-256 of requirements.lock at a commit, None where that is not known."""
    text = _git(root, "show", f"{commit}:requirements.lock", commit=commit)
    return None if text is None else hashlib.sha256(text).hexdigest()


def changed_between(one: str, other: str, root: Path = ROOT) -> bool:
    """Whether the program differs between two commits; also where one of them is not known."""
    where = (one, other, "--", *_PROGRAM, ":(exclude)tests", ":(exclude)benchmarks")
    changed = _git(root, "diff", "--name-only", *where, commit=one + other)
    return changed is None or bool(changed.strip())


def _git(root: Path, *arguments: str, commit: str) -> bytes | None:
    # what a record says must not become an option of git
    if not re.fullmatch(r"(?:[0-9a-f]{40}){1,2}", commit) or not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
