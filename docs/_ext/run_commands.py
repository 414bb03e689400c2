"""Directives that run commands while the documentation is built, and show what they print.

``{run} NAME.sh`` runs the commands of ``docs/snippets/NAME.sh`` one after the other. Below it the page repeats the
commands for readers of the file. All snippets of a page share one empty folder, so a later one finds the runs of an
earlier one. The build fails if a command ends with another exit status than 0, or than the number in a comment ``#
status 1`` on the line before it; ``# lines 12`` shows at most 12 lines of what follows. ``{help} COMMAND ...`` shows
the help text of each command.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
SNIPPETS = ROOT / "docs" / "snippets"
SETTING = re.compile(r"# (status|lines) (\d+)")
LINES = 24  # of an output that are shown, unless the snippet says otherwise


@dataclass(frozen=True)
class Step:
    """One command of a snippet, the exit status that it must end with, and the lines of output to show."""

    command: str
    status: int = 0
    lines: int = LINES


def steps(text: str) -> Iterator[Step]:
    """Yield the commands of a snippet; a line that ends in a backslash goes on in the next one."""
    settings: dict[str, int] = {}
    for block in text.replace("\\\n", "\\\0").splitlines():
        line = block.replace("\\\0", "\\\n")
        if match := SETTING.fullmatch(line):
            settings[match[1]] = int(match[2])
        elif line.strip() and not line.startswith("#"):
            yield Step(line, **settings)
            settings = {}


def as_shown(text: str) -> str:
    """Return a snippet as its page repeats it: without settings of the build, files named from the repository."""
    lines = [line for line in text.splitlines() if not SETTING.fullmatch(line)]
    return "\n".join(lines).replace("$EMOTION_DOCS", "docs/snippets").strip("\n")


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of the commands: this installation, one cache, no terminal, no tracking server."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "EMOTION_"))}
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "EMOTION_CACHE_DIR": str(cache),
        "EMOTION_DOCS": str(SNIPPETS),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "COLUMNS": "100",
    }


def run(step: Step, folder: Path, cache: Path) -> str:
    """Run a command in a folder and return what it printed to standard output.

    Raises:
        RuntimeError: It ended with another exit status.
    """
    done = subprocess.run(
        ["bash", "-c", step.command],
        cwd=folder,
        env=environment(cache),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != step.status:
        msg = f"{step.command}\nended with status {done.returncode}, not {step.status}:\n{done.stdout}{done.stderr}"
        raise RuntimeError(msg)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]  # what a page explains
    return "\n".join([*done.stdout.rstrip().splitlines(), *errors])


def shortened(text: str, most: int) -> str:
    """Return at most this many lines, with ``...`` where lines are left out; long lines are cut."""
    lines = [line if len(line) <= 110 else f"{line[:107]}..." for line in text.splitlines()]
    if len(lines) <= most:
        return "\n".join(lines)
    last = most // 3
    return "\n".join([*lines[: most - last], "...", *lines[len(lines) - last :]])


class Run(SphinxDirective):
    """``{run} NAME.sh``: run the commands of a snippet and show them with their output."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return one block for each command.

        Raises:
            RuntimeError: The page shows other commands than the file has.
        """
        file = SNIPPETS / self.arguments[0]
        if "\n".join(self.content) != as_shown(file.read_text(encoding="utf-8")):
            msg = (
                f"{self.env.docname}: the commands below {{run}} {file.name} must be those of docs/snippets/{file.name}"
            )
            raise RuntimeError(msg)
        self.env.note_dependency(str(file))
        work = ROOT / "docs" / "_build" / "runs"
        folder = work / self.env.docname.replace("/", "-")
        if self.env.temp_data.setdefault("runs of", "") != self.env.docname:  # the first snippet of the page
            shutil.rmtree(folder, ignore_errors=True)
            self.env.temp_data["runs of"] = self.env.docname
        folder.mkdir(parents=True, exist_ok=True)
        blocks: list[nodes.Node] = []
        for step in steps(file.read_text(encoding="utf-8")):
            printed = run(step, folder, work / "cache") if self.config.run_commands else ""
            printed = shortened(printed.replace(str(ROOT), "."), step.lines)
            text = f"$ {as_shown(step.command)}\n{printed}".rstrip()
            blocks.append(nodes.literal_block(text, text, language="console"))
        return blocks


class Help(SphinxDirective):
    """``{help} COMMAND ...``: the help text of each command, given as the words after `emotion`, below a heading."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a section for each command."""
        sections: list[nodes.Node] = []
        for line in self.content:
            words = line.split()
            name = f"emotion {' '.join(word for word in words if not word.startswith('--'))}"
            section = nodes.section(ids=[nodes.make_id(line)], names=[name])
            section += nodes.title(name, name)
            text = run(Step(f"python -m emotion {' '.join(words if '--help-all' in words else [*words, '--help'])}"),
                       ROOT, ROOT / "docs" / "_build" / "cache")  # fmt: skip
            section += nodes.literal_block(text, text, language="text")
            sections.append(section)
        return sections


def setup(app: Any) -> dict[str, Any]:  # noqa: ANN401 - Sphinx
    """Add the directives."""
    app.add_config_value("run_commands", True, "env")  # -D run_commands=0 builds quickly, without any output
    app.add_directive("run", Run)
    app.add_directive("help", Help)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
