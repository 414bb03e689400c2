"""What does not depend on the processor is as `expected.json` says; see `write_expected.py`."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
_SPEC = importlib.util.spec_from_file_location("write_expected", HERE / "write_expected.py")
assert _SPEC is not None
assert _SPEC.loader is not None
writer: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["write_expected"] = writer
_SPEC.loader.exec_module(writer)
STORED = json.loads(writer.FILE.read_text(encoding="utf-8"))


def check(group: str, entry: str, found: object) -> None:
    lines = writer.differences(STORED[group][entry], json.loads(json.dumps(found)))
    assert not lines, "\n".join(
        [
            f"expected.json, {group}, {entry} differs:",
            *lines[:20],
            *([f"... and {len(lines) - 20} more"] if len(lines) > 20 else []),
            f"If it is meant to: python tests/commands/write_expected.py {group}, and give the reason in the commit.",
        ]
    )


def test_every_entry_is_checked() -> None:
    assert {group: list(entries) for group, entries in STORED.items()} == writer.names_of_entries()


@pytest.mark.parametrize("source", writer.SOURCES)
def test_images(emotion: Any, source: str) -> None:
    found = writer.images(emotion, source)
    assert len(found) == 50
    check("images", source, found)


@pytest.mark.filterwarnings("ignore:protocol. selected on the reported fold")  # a leak on purpose says so
@pytest.mark.parametrize("setting", writer.SETTINGS)
def test_splits(emotion: Any, tiny: tuple[str, ...], roles: dict[str, str], setting: str) -> None:
    check("splits", setting, writer.splits(emotion, setting, tiny, roles))


def test_a_cross_validations_split(cross_validated: str, roles: dict[str, str]) -> None:
    check("cross-validation", "all", writer.cross_validation(cross_validated, roles))


def test_reports(emotion: Any, fitted: str, roles: dict[str, str]) -> None:
    emotion("runs", "export", "exported")
    check("reports", "all", writer.reports(emotion, Path("exported", fitted), roles))
