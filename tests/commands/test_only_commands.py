"""Tests of the commands import nothing of the project but `emotion.main`."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSIDE = ("datamodules", "results", "lightning_modules", "sweeps")


@pytest.mark.parametrize("file", sorted(HERE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_file_imports_internals(file: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, f"{file.name}:{node.lineno}: a relative import"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            words = str(node.args[0].value)  # import_module("...") and setattr("...", value)
            found += [words] if words.split(".")[0] in INSIDE else []
    assert [name for name in found if name.split(".")[0] in INSIDE] == []
    assert {name for name in found if name == "emotion" or name.startswith("emotion.")} <= {"emotion.main"}
