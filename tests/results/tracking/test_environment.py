"""What a run records of its commit, and `emotion info`."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from emotion.cli.runs import main
from results.tracking.environment import environment, git_state


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


def test_info_shows_versions_devices_store_cache_and_disk(
    mlruns: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = mlruns.parent / "cache"
    (cache / "pixels").mkdir(parents=True)
    (cache / "pixels" / "one").write_bytes(b"x" * 30_000_000)
    monkeypatch.setenv("EMOTION_CACHE_DIR", str(cache))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="H200", total_memory=140_000_000_000)
    )

    assert main(["info"]) == 0

    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["python"] == platform.python_version()
    assert lines["torch"] == importlib.metadata.version("torch")
    assert lines["git"].split()[1] == git_state()["git_commit"]
    assert lines["CPU"] == f"cores         {os.cpu_count()}"
    assert lines["GPU"] == "H200, 140.0 GB"
    assert lines["tracking"].endswith("mlflow.db: reachable, 0 runs")
    assert lines["cache"] == f"{cache}: 0.03 GB; 0.03 of the 20 GB for pixel caches"
    assert "GB for" in lines["free"]


def test_info_says_when_the_store_does_not_answer(
    mlruns: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "http://127.0.0.1:9: MLFLOW_TRACKING_URI: the tracking store must answer" in out
    assert "secret" not in out
