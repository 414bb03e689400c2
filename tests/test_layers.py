"""Imports go one way: datamodules <- results <- lightning_modules <- sweeps <- emotion."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "datamodules": {"datamodules"},
    "results": {"results", "datamodules.labels", "datamodules.manifest", "datamodules.errors", "datamodules.paths"},
    "lightning_modules": {"lightning_modules", "results", "datamodules"},
    "sweeps": {"sweeps", "lightning_modules", "results", "datamodules"},
    "emotion": {"emotion", "sweeps", "lightning_modules", "results", "datamodules"},
}

MAY_READ_ARGUMENTS = {"sweeps/search_worker.py"}  # a process that a search starts, with a name as its argument


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong(room: str, source: str) -> list[str]:
    ours = [name for name in imported(source) if name.split(".")[0] in MAY_IMPORT]
    return [name for name in ours if not any(name == may or name.startswith(may + ".") for may in MAY_IMPORT[room])]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_arrow_points_back(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): wrong(room, file.read_text(encoding="utf-8")) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_the_guard_sees_an_arrow_that_points_back() -> None:
    assert wrong("datamodules", "from results.tracking.runs import find_runs") == ["results.tracking.runs.find_runs"]
    assert wrong("results", "import lightning_modules.config") == ["lightning_modules.config"]
    assert wrong("results", "from datamodules.splits.folds import Fold") == ["datamodules.splits.folds.Fold"]
    assert wrong("sweeps", "from emotion.cli.main import say_what_begins") == ["emotion.cli.main.say_what_begins"]
    assert wrong("sweeps", "from lightning_modules.training import train") == []


def reads_words(source: str) -> bool:
    """Whether a module parses a command line: imports argparse (a type of it is allowed), or looks at sys.argv."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and "argparse" in [alias.name for alias in node.names]:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "argparse" and node.names[0].name != "Namespace":
            return True
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv":
            return True
    return False


def test_only_the_command_line_parses_words() -> None:
    files = [file for package in MAY_IMPORT for file in (ROOT / package).rglob("*.py")]
    found = {file.relative_to(ROOT).as_posix() for file in files if reads_words(file.read_text(encoding="utf-8"))}
    assert "emotion/cli/data.py" in found
    assert {file for file in found if not file.startswith("emotion/cli/")} <= MAY_READ_ARGUMENTS
