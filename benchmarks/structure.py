"""Figures of the code: modules, statements, the largest folder, and how many modules a cross-validation loads."""

import ast
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "results", "lightning_modules", "sweeps", "emotion")
CROSS_VALIDATION = """
import sys
from emotion import main
words = "cross-validate --folds 2 --data drawn:largest=12,ratio=2,size=32 --data.size 32 --model.backbone test_resnet"
words += " --model.weights none --trainer.max_epochs 1 --trainer.accelerator cpu --run.resamples 100"
status = main(words.split())
print(status, sum(name.partition(".")[0] in {packages} for name in sys.modules))
"""


def statements(files: list[Path]) -> int:
    """Return the number of statements (`ast.stmt`) in Python files."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    return sum(isinstance(node, ast.stmt) for tree in trees for node in ast.walk(tree))


def modules_of_a_cross_validation() -> int:
    """Return how many modules of the project a small cross-validation loads in one process."""
    with tempfile.TemporaryDirectory() as folder:
        code = CROSS_VALIDATION.replace("{packages}", repr(PACKAGES))
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    status, loaded = done.stdout.split()[-2:]
    if status != "0":
        raise RuntimeError(done.stderr)
    return int(loaded)


def main() -> None:
    """Print the figures."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    ours = [Path(name) for name in listed if name.split("/")[0] in PACKAGES]
    folders = Counter(file.parent for file in ours)
    folder, files = folders.most_common(1)[0]
    print(f"modules                              {len(ours)}")
    print(f"statements                           {statements([REPOSITORY / file for file in ours])}")
    print(f"lines                                {sum(len((REPOSITORY / f).read_text().splitlines()) for f in ours)}")
    print(f"files in the largest folder          {files} ({folder})")
    benchmarks = [REPOSITORY / name for name in listed if name.startswith("benchmarks/")]
    print(f"lines of benchmarks                  {sum(len(file.read_text().splitlines()) for file in benchmarks)}")
    print(f"modules that cross-validate loads    {modules_of_a_cross_validation()}")


if __name__ == "__main__":
    main()
