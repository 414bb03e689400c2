"""`--help` imports no slow module, and what it says agrees with the code."""

import dataclasses
import json
import subprocess
import sys
from typing import get_args

from datamodules.cache import KINDS
from datamodules.faces import crop
from datamodules.files.images import Fit
from datamodules.readers import READERS
from emotion.cli import calibrate, data, explain, main, report
from emotion.explanation import methods
from emotion.explanation.explainer import ExplainOptions
from lightning_modules.config import StepName
from results.bias import groups
from results.tracking import store

MAY_IMPORT_TORCH = {"study", "detector"}  # their options are those of classes
BELOW = {
    "data": ("describe", "check", "prepare", "cache", "layouts"),
    "runs": ("list", "export", "import", "push", "pull", "du", "delete"),
    "report": ("compare", "certify", "bias", "labels", "errors"),
}
PROGRAM = """
import contextlib, io, json, sys
from emotion import main
failed = []
for words in json.loads(sys.argv[1]):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            status = main([*words, "--help"])
        except SystemExit as end:
            status = end.code
    if status or not printed.getvalue().startswith(f"usage: emotion {' '.join(words)}"):
        failed.append((words, status, printed.getvalue()))
heavy = {"torch", "lightning", "mlflow", "pandas", "cv2"}
print(json.dumps({"failed": failed, "imported": sorted(heavy & set(sys.modules))}))
"""


def test_help_imports_nothing_that_takes_seconds() -> None:
    ours = [name for name, (module, _) in main.COMMANDS.items() if module.startswith("emotion.cli.")]
    light = [name for name in ours if name not in MAY_IMPORT_TORCH]
    commands = [[name] for name in light] + [[name, sub] for name in light for sub in BELOW.get(name, ())]
    assert len(commands) >= 23

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == {"failed": [], "imported": []}
    assert done.stderr == ""  # nothing "starts" for its help


def test_names_that_are_written_out_agree_with_the_modules_that_define_them() -> None:
    assert data.READERS == tuple(READERS)
    assert data.FITS == get_args(Fit)
    assert data.RULES == get_args(crop.Rule)
    assert data.BORDERS == get_args(crop.Border)
    assert data.NO_FACE == get_args(crop.NoFace)
    assert data.CUT_OPTIONS == tuple(field.name for field in dataclasses.fields(crop.CutOptions))
    assert data.CACHES == tuple(KINDS)
    assert main.DIRECTORY == store.DIRECTORY
    assert report.MINIMUM == groups.MINIMUM
    assert explain.METHODS == methods.METHODS
    assert calibrate.DECISIONS == get_args(StepName)


def test_defaults_of_explain_are_those_of_its_function() -> None:
    parsed = vars(explain._parser().parse_args(["latest"]))
    defaults = dataclasses.asdict(ExplainOptions("latest"))
    assert {name: tuple(value) if isinstance(value, list) else value for name, value in parsed.items()} == defaults
