"""Only the command line reads `sys.argv`; import-linter checks that only it imports argparse."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("datamodules", "results", "lightning_modules", "sweeps", "emotion")


def test_only_the_command_line_reads_sys_argv() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = set()
    for file in files:
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if any(isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv" for node in nodes):
            found.add(file.relative_to(ROOT).as_posix())
    assert found == {"emotion/cli/main.py"}
