"""Files around the code: commands that they name exist, versions agree, and no address is invented."""

import re
import sqlite3
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
AROUND = sorted(
    path
    for pattern in ("CITATION.cff", "SECURITY.md", ".pre-commit-config.yaml", ".github/**/*", "Makefile")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("path", AROUND, ids=lambda path: path.name)
def test_targets_of_make_exist_and_there_is_no_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:`|run: |run )make ([a-z-]+)", text)) <= TARGETS
    assert not re.findall(r"https?://|@[\w-]+\.\w+|\bpypi\b", text)


@pytest.mark.parametrize("path", [path for path in AROUND if path.suffix in (".yml", ".yaml", ".cff")], ids=str)
def test_yaml_is_readable(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_test_that_opens_the_runs_of_the_working_copy_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="opened the runs of this working copy"):
        sqlite3.connect(ROOT / "mlruns" / "mlflow.db")


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == version


def test_actions_test_every_python_that_is_supported() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    assert set(jobs) == {"lint", "tests", "docs"}
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11"


def test_help_lists_every_target_in_a_group() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    groups = re.split(r"^(?=\w)", shown, flags=re.MULTILINE)
    assert [group.split("\n")[0] for group in groups if "  make " in group and "e.g." not in group][:3] == [
        "Start",
        "Many runs",
        "Development",
    ]
    assert set(re.findall(r"^  make ([a-z-]+)  ", shown, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize(
    ("uv", "tool"), [("/somewhere/uv", "/somewhere/uv pip install"), ("", "python -m pip install")]
)
def test_setup_uses_uv_where_there_is_one_and_enforces_hashes(uv: str, tool: str) -> None:
    command = ["make", "--dry-run", "--always-make", "setup", f"UV={uv}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (install,) = (line for line in shown.splitlines() if "requirements.lock" in line and "install" in line)
    assert tool in install
    assert "--require-hashes" in install
    assert "--quiet" not in shown  # a silence of minutes looks like a fault


@pytest.mark.slow  # waits for two lines that come 20 seconds apart
@pytest.mark.parametrize("status", [0, 3])
def test_setup_with_pip_is_not_silent_and_fails_as_pip_does(tmp_path: Path, status: int) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    stub = tmp_path / ".venv" / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(
        f'#!/bin/sh\ncase "$*" in *requirements.lock*) sleep {25 if not status else 1}; exit {status};; esac\n'
    )
    stub.chmod(0o755)
    done = subprocess.run(["make", "setup", "UV="], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (status == 0)
    assert len(re.findall(r"\d+ of about 7100 MB", done.stdout)) == (1 if not status else 0)
    assert (tmp_path / ".venv" / ".ready").exists() == (status == 0)


def test_hooks_refuse_photographs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    refused = [hook for hook in hooks if hook["language"] == "fail"]

    def refuses(name: str) -> bool:
        return any(
            re.search(hook["files"], name) and not re.search(hook.get("exclude", "(?!)"), name) for hook in refused
        )

    assert all(map(refuses, ("tests/face.JPG", "face.png", "tests/run.parquet", "model.ckpt")))
    assert not any(map(refuses, ("docs/drawn_faces.png", "tests/test_repository.py", "results/tracking/views.json")))
