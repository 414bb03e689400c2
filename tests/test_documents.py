"""The documentation: examples and tutorials run as they stand, links lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = [
    pytest.param(block, id=f"{file.stem}-{number}")
    for file in [ROOT / "docs" / "using_models.md"]
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_in_a_fresh_interpreter(example: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


PAGES = {
    page.relative_to(ROOT / "docs").with_suffix("").as_posix(): re.findall(
        r"^```\{run\} (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if "_build" not in page.parts
}


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    """The module that runs the commands while the documentation is built."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install -e '.[docs]'")
    spec = importlib.util.spec_from_file_location("run_commands", ROOT / "docs" / "_ext" / "run_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_every_snippet_is_on_one_page() -> None:
    used = sorted(name for names in PAGES.values() for name in names)
    assert used == sorted(file.name for file in (ROOT / "docs" / "snippets").glob("*.sh"))


@pytest.mark.parametrize("page", [page for page, snippets in PAGES.items() if snippets])
def test_a_page_shows_the_commands_of_its_snippets(page: str, commands: ModuleType) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for name in PAGES[page]:
        shown = commands.as_shown((commands.SNIPPETS / name).read_text(encoding="utf-8"))
        assert f"```{{run}} {name}\n{shown}\n```" in text


def test_steps_of_a_snippet(commands: ModuleType) -> None:
    text = "# a comment\nemotion a \\\n  --b\n\n# status 1\n# lines 3\nemotion c\nemotion d\n"
    assert list(commands.steps(text)) == [
        commands.Step("emotion a \\\n  --b"),
        commands.Step("emotion c", 1, 3),
        commands.Step("emotion d"),
    ]


def test_a_command_that_ends_otherwise_than_the_page_says_stops_the_build(commands: ModuleType, tmp_path: Path) -> None:
    assert commands.run(commands.Step("echo fine; exit 3", status=3), tmp_path, tmp_path) == "fine"
    with pytest.raises(RuntimeError, match="ended with status 1, not 0"):
        commands.run(commands.Step("exit 1"), tmp_path, tmp_path)


def test_long_outputs_are_shortened(commands: ModuleType) -> None:
    assert commands.shortened("a\nb", 2) == "a\nb"
    assert commands.shortened("\n".join("abcdefghi"), 6) == "a\nb\nc\nd\n...\nh\ni"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, snippets in PAGES.items() if snippets])
def test_the_commands_of_a_page_run(page: str, commands: ModuleType, tmp_path: Path) -> None:
    for name in PAGES[page]:
        for step in commands.steps((commands.SNIPPETS / name).read_text(encoding="utf-8")):
            assert commands.run(step, tmp_path, tmp_path / "cache") or "make_folder" in step.command


def test_links_between_files_lead_to_files() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs" / f"{name}.md" for name in PAGES)]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target = link.partition("#")[0]
            if target and "://" not in link and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []
