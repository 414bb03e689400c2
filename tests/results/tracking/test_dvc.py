"""Runs shared by DVC between two clones: pushed, pulled and merged; the committed reference runs."""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from datamodules.errors import InputError
from emotion.cli.runs import main
from results.tracking import dvc
from results.tracking.logger import TrackingLogger
from results.tracking.runs import find_runs, load_table

ROOT = Path(__file__).resolve().parents[3]
needs_dvc = pytest.mark.skipif(importlib.util.find_spec("dvc") is None, reason="DVC is an extra, not installed here")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed here")
pytestmark = [needs_dvc, needs_git]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "settings" / name))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def clones(tmp_path: Path, empty_store: Path) -> tuple[Path, Path]:
    """Two clones of one repository with this project's DVC settings, each with a store of its own."""
    origin, one, two = tmp_path / "origin.git", tmp_path / "one", tmp_path / "elsewhere" / "two"
    _git(tmp_path, "init", "-q", "--bare", "-b", "main", str(origin))
    _git(tmp_path, "clone", "-q", str(origin), str(one))
    (one / ".gitignore").write_text("mlruns/\n")
    (one / ".dvc").mkdir()
    for name in ("config", ".gitignore", ".gitattributes"):
        shutil.copy(ROOT / ".dvc" / name, one / ".dvc" / name)
    _git(one, "add", ".")
    _git(one, "commit", "-qm", "start")
    _git(one, "push", "-q", "origin", "HEAD:main")
    _git(tmp_path, "clone", "-q", "-b", "main", str(origin), str(two))
    for clone in (one, two):
        shutil.copytree(empty_store, clone / "mlruns")
    return one, two


def _run(clone: Path, name: str, new_logger: Callable[..., TrackingLogger]) -> str:
    logger = new_logger(run_name=name, directory=str(clone / "mlruns"))
    logger.log_metrics({"test/f1_macro": 0.5}, 0)
    logger.log_text(name, "report.md")
    logger.finalize()
    return str(logger.run_id)


def _share(clone: Path) -> None:
    _git(clone, "add", "mlruns.dvc", ".dvc")
    _git(clone, "commit", "-qm", "runs")
    _git(clone, "push", "-q", "origin", "HEAD:main")


def _objects(folder: Path) -> int:
    return sum(path.is_file() for path in folder.glob("files/md5/*/*"))


@pytest.mark.slow
def test_two_people_share_their_runs(
    clones: tuple[Path, Path],
    new_logger: Callable[..., TrackingLogger],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = clones
    first, second = _run(one, "first", new_logger), _run(two, "second", new_logger)
    monkeypatch.chdir(one)
    assert main(["runs", "push"]) == 0
    assert "mlruns.dvc names 1 runs" in capsys.readouterr().out
    assert _git(one, "status", "--short").split() == ["??", ".dvc/reference/", "??", "mlruns.dvc"]
    _share(one)

    monkeypatch.chdir(two)
    _git(two, "pull", "-q")
    assert main(["runs", "push"]) == 0  # without a pull first: nobody's runs may be lost
    assert not (two / "mlruns" / "exchange").exists()
    _share(two)

    monkeypatch.chdir(one)
    _git(one, "pull", "-q")
    capsys.readouterr()
    assert main(["runs", "pull"]) == 0
    assert "2 runs: 1 new, 1 unchanged" in capsys.readouterr().out
    assert main(["runs", "pull"]) == 0  # what was taken in is no longer DVC's, so a second pull works
    assert "2 runs: 2 unchanged" in capsys.readouterr().out
    for clone in clones:
        assert set(find_runs(directory=clone / "mlruns")["run_id"]) == {first, second}
        assert (clone / "mlruns" / "artifacts" / second / "artifacts" / "report.md").read_text() == "second"
    assert _git(one, "status", "--short") == ""

    before = _objects(one / ".dvc" / "reference")
    assert (
        main(["runs", "push", "--run", "first", "--replace"]) == 0
    )  # and what is no longer named leaves the repository
    assert 0 < _objects(one / ".dvc" / "reference") < before
    assert yaml.safe_load(Path("mlruns.dvc").read_text())["outs"][0]["nfiles"] == 5


@pytest.mark.slow  # tests/commands/test_runs.py pushes to a folder and pulls from it
def test_a_push_that_fails_changes_nothing_and_a_remote_may_be_a_path(
    clones: tuple[Path, Path],
    new_logger: Callable[..., TrackingLogger],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    clone = clones[0]
    monkeypatch.chdir(clone)
    _run(clone, "first", new_logger)
    with pytest.raises(InputError, match=r"'team' is not a DVC remote here \(known: reference\)"):
        main(["runs", "push", "--remote", "team"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"`dvc push --remote given mlruns\.dvc` failed"):
        main(["runs", "push", "--remote", str(tmp_path / "file" / "below")])
    assert not Path("mlruns.dvc").exists()
    monkeypatch.setattr(dvc, "LIMIT_MB", 0.001)
    with pytest.raises(InputError, match="too much for a remote inside the repository"):
        main(["runs", "push"])
    assert not Path("mlruns.dvc").exists()
    assert main(["runs", "push", "--remote", str(tmp_path / "disk")]) == 0
    assert _objects(tmp_path / "disk") == 6  # five files and their list
    assert "given" not in (clone / ".dvc" / "config").read_text()  # an address may hold secrets


def test_nothing_to_pull_is_a_clear_error(clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clone = clones[0]
    monkeypatch.chdir(clone)
    with pytest.raises(InputError, match="it names no runs yet"):
        main(["runs", "pull"])
    with pytest.raises(InputError, match="there is no run to share"):
        main(["runs", "push"])
    with pytest.raises(InputError, match="--replace: needs the runs to share, got none"):
        main(["runs", "push", "--replace"])
    Path("mlruns.dvc").write_text("<<<<<<< HEAD\n- md5: a\n=======\n- md5: b\n>>>>>>> other\n")
    with pytest.raises(InputError, match=r"git left two versions in it; take theirs"):
        main(["runs", "pull"])
    monkeypatch.chdir(clone.parent)
    with pytest.raises(InputError, match=r"is in none; go to the clone"):
        main(["runs", "pull"])
    monkeypatch.chdir(clone)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="dvc: it is not installed"):
        main(["runs", "pull"])


@pytest.mark.slow  # the test of two people pulls runs into a clone
def test_the_reference_runs_open_in_a_clone(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / ".dvc", clone / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(ROOT / "mlruns.dvc", clone)
    reference = [path for path in (clone / ".dvc" / "reference").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in reference) < dvc.LIMIT_MB * 1e6
    _git(clone, "init", "-q")
    monkeypatch.chdir(clone)
    shutil.copytree(empty_store, clone / "mlruns")
    assert main(["runs", "pull"]) == 0
    found = find_runs()
    assert len(found)
    kept = [path.parents[2].name for path in (clone / "mlruns" / "artifacts").rglob("predictions.parquet")]
    assert set(kept) <= set(found["run_id"])
    assert all(len(load_table(run_id, "predictions")) for run_id in kept)
    assert kept
    assert not [path for path in clone.rglob("*.ckpt")]
