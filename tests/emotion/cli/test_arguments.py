"""Only the command line reads `sys.argv`; list options before a run; what is printed of leaks.

import-linter checks who imports argparse.
"""

import ast
import os
from pathlib import Path

import pytest

from emotion.cli import main
from emotion.cli.train import _leak_sentences

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


@pytest.mark.parametrize(
    ("load", "given", "policy"), [(9.0, None, "passive"), (0.0, None, None), (9.0, "active", "active")]
)
def test_threads_sleep_on_a_busy_machine(
    load: float, given: str | None, policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main.main(["--help"]) == 0
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize(
    ("words", "option", "missing"),
    [
        (["report", "bias", "--by", "age", "latest"], "--by", "RUN"),
        (["report", "labels", "--votes", "latest"], "--votes", "RUN"),
        (["explain", "--paths", "a.png", "latest"], "--paths", "RUN"),
        (["calibrate", "--classes", "happy", "sad", "latest"], "--classes", "RUN"),
        (["study", "--cells", "first", "balancing"], "--cells", "name"),
    ],
)
def test_a_list_option_before_the_run_is_explained(
    words: list[str], option: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(words)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(f"required: {missing}; {option} takes the words that follow it: write {missing} before it")


@pytest.mark.parametrize(
    ("record", "sentences"),
    [
        ({}, []),
        ({"leak": "drop_twins", "leaking_clusters": 0, "unused_rows": 3},
         ["3 images are in no part of the given split and are not used"]),
        (
            {
                "leak": "drop_twins", "leaking_clusters": 2, "leaking_train_rows": 4, "leaking_val_rows": 1,
                "leaking_test_rows": 2, "dropped_rows": 5, "dropped_train_rows": 4, "dropped_val_rows": 1,
                "unused_rows": 0,
            },
            [
                "2 groups of duplicates or images of one person cross the parts: 4 images of train, 1 images of val, "
                "2 images of test",
                "4 images are dropped from train, 1 from val",
            ],
        ),
        (
            {"leak": "oversample_first", "leaking_clusters": 2, "leaking_train_rows": 4, "leaking_test_rows": 2},
            [
                "2 groups of duplicates or images of one person cross the parts: 4 images of train, 2 images of test",
                "they are left in, so the scores may be too high (--data.leak oversample_first)",
            ],
        ),
    ],
)  # fmt: skip
def test_leaks_are_told_in_sentences(record: dict[str, object], sentences: list[str]) -> None:
    assert _leak_sentences(record) == sentences
