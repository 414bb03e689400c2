"""What a run says about the commit it was made with."""

import hashlib
import subprocess
from pathlib import Path

from records.environment import environment, git_state


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_and_changes_are_told(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"git_commit": "unknown", "git_dirty": "unknown"}
    _git(tmp_path, "init", "-q")
    (tmp_path / "requirements.lock").write_text("numpy==1\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "one")
    clean = environment(tmp_path)
    assert clean["git_commit"] == _git(tmp_path, "rev-parse", "HEAD")
    assert clean["git_dirty"] == "false"
    assert clean["lock_sha256"] == hashlib.sha256(b"numpy==1\n").hexdigest()
    (tmp_path / "requirements.lock").write_text("numpy==2\n")
    changed = environment(tmp_path)
    assert changed["git_dirty"] == "true"
    assert {name for name in clean if clean[name] != changed[name]} == {"git_dirty", "lock_sha256"}
    inner = tmp_path / "site-packages"
    inner.mkdir()
    assert git_state(inner)["git_commit"] == "unknown"  # somebody else's repository


def test_a_module_that_was_never_committed_counts_as_a_change(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    (tmp_path / "requirements.lock").write_text("numpy==1\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "one")
    (tmp_path / "notes.txt").write_text("not code")
    assert git_state(tmp_path)["git_dirty"] == "false"
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "new.py").write_text("x = 1\n")
    assert git_state(tmp_path)["git_dirty"] == "true"
