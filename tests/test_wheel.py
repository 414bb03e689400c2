"""The wheel: it holds everything that the program reads at run time, and works without the source tree."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "emotion", "lightning_modules", "results", "sweeps")
RECIPES = sorted(path.stem for path in (ROOT / "lightning_modules" / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from a copy of the source tree, without a network."""
    pytest.importorskip("setuptools", reason="a wheel is built by setuptools, which is not installed here")
    pytest.importorskip("pip", reason="a wheel is built by pip, which is not installed here")
    tree, built = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(built), str(tree)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (file,) = built.glob("*.whl")
    return file


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"{package}/py.typed" for package in PACKAGES}
    for package in PACKAGES:
        files = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        wanted |= {path.relative_to(ROOT).as_posix() for path in files}
    assert {f"lightning_modules/recipes/{name}.yaml" for name in RECIPES} <= wanted
    assert not wanted - names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_its_metadata_names_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = message_from_bytes(archive.read(f"{folder}/METADATA"))
        assert metadata["License-Expression"] == "Apache-2.0"
        (licence,) = metadata.get_all("License-File", [])
        assert archive.read(f"{folder}/licenses/{licence}") == (ROOT / "LICENSE").read_bytes()
        assert b"emotion = emotion:main" in archive.read(f"{folder}/entry_points.txt")


def test_unpacked_elsewhere_it_knows_its_recipes_and_commands(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    (tmp_path / "empty").mkdir()
    code = (
        "import sys, emotion, emotion.cli.main, lightning_modules.config as config\n"
        "assert 'torch' not in sys.modules\n"
        "print(emotion.__file__, *config.recipe_names(), *map(config.recipe_path, config.recipe_names()))\n"
        "print(emotion.cli.main.usage())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")},
        check=True,
        capture_output=True,
        text=True,
    )
    first, _, usage = done.stdout.partition("\n")
    unpacked = tmp_path / "unpacked"
    paths = [unpacked / "lightning_modules" / "recipes" / f"{name}.yaml" for name in RECIPES]
    assert first.split() == [str(unpacked / "emotion" / "__init__.py"), *RECIPES, *map(str, paths)]
    assert all(path.is_file() for path in paths)
    assert usage.startswith("usage: emotion <command>")
    assert "cross-validate" in usage
