"""Fault injection: put small faults into copies of the code, one at a time, and report which of them the tests notice.

Not collected by pytest and no part of `make test`. Every fault is data: an exact text of one file and what replaces it.
When a restructured file no longer holds that text, tests/test_faults.py says which fault has to be adapted.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
LEAST = 27  # faults that must be noticed when all are tried
LIMIT = 900  # seconds for the tests of one fault

SPLITS = tuple(
    f"tests/datamodules/{name}.py"
    for name in ("splits/test_folds", "splits/test_protocol", "test_duplicates", "test_emotion")
)
SAMPLING = tuple(f"tests/datamodules/test_{name}.py" for name in ("sampling", "sampling_batches", "dataset", "emotion"))
CACHES = tuple(f"tests/datamodules/{name}.py" for name in ("test_cache", "test_cache_contents", "files/test_images"))
STATISTICS = (
    "tests/results/test_statistics.py",
    "tests/results/test_significance.py",
    "tests/lightning_modules/test_metrics.py",
)
COMPARISON = (
    "tests/results/test_compare.py",
    "tests/results/certify/test_checks.py",
    "tests/results/certify/test_certificate.py",
)
IDENTITY = (
    "tests/lightning_modules/test_training_division.py",
    "tests/commands/test_resume.py::test_images_that_changed_since_are_noticed",
    "tests/commands/test_resume.py::test_a_run_killed_before_its_first_checkpoint_begins_again_in_itself",
    "tests/commands/test_cross_validate.py::test_sigterm_after_the_last_fold_closes_the_parent",
)
LEARNING = (
    "tests/datamodules/test_labels.py",
    "tests/datamodules/test_manifest.py",
    "tests/lightning_modules/test_losses.py",
    "tests/lightning_modules/test_ema.py",
)
QUEUE = ("tests/sweeps/test_workers.py",)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        topic: What part of the program it breaks.
        file: The file it is put into, relative to the repository.
        what: The fault in words.
        old: Text that occurs exactly once in the file.
        new: What replaces it.
        tests: Test files, or single tests where training takes long, that are run in this order until one fails.
    """

    topic: str
    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "splits",
        "datamodules/splits/protocol.py",
        "the fold before the requested one is used",
        "folds=self.folds, **common)[self.fold]",
        "folds=self.folds, **common)[self.fold - 1]",
        SPLITS,
    ),
    Fault(
        "splits",
        "datamodules/duplicates.py",
        "exact duplicates are forgotten where the data name people",
        "joined.append(_chain(manifest.subjects))",
        "joined = [_chain(manifest.subjects)]",
        SPLITS,
    ),
    Fault(
        "splits",
        "datamodules/splits/folds.py",
        "clusters are no longer placed largest first",
        'for cluster in many[np.argsort(-size[many], kind="stable")]:',
        "for cluster in many:",
        SPLITS,
    ),
    Fault(
        "splits",
        "datamodules/splits/folds.py",
        "folds are not verified after they are made",
        "        verify(made[-1], labels, clusters, len(classes))\n",
        "",
        SPLITS,
    ),
    Fault(
        "splits",
        "datamodules/emotion.py",
        "the holdout is drawn with the training seed",
        "            fold_seed=fold_seed,\n",
        '            fold_seed=seed if split == "holdout" and seed is not None else fold_seed,\n',
        SPLITS,
    ),
    Fault(
        "sampling",
        "datamodules/sampling.py",
        "a fraction of the largest class is rounded down",
        "return round(n_min * largest)",
        "return int(n_min * largest)",
        SAMPLING,
    ),
    Fault(
        "sampling",
        "datamodules/emotion.py",
        "over-sampling draws from the val part, too",
        "return oversample(balanced, self.fold_rows.train, self.n_min, self.seed)",
        "rows = np.concatenate([self.fold_rows.train, self.fold_rows.val])\n"
        "        return oversample(balanced, rows, self.n_min, self.seed)",
        SAMPLING,
    ),
    Fault(
        "sampling",
        "datamodules/emotion.py",
        "the doubled set transforms its originals, too",
        'self.for_originals = full if transform_where == "all" else plain',
        'self.for_originals = plain if transform_where == "copies" else full',
        SAMPLING,
    ),
    Fault(
        "sampling",
        "datamodules/sampling.py",
        "transforms draw the same random numbers in every epoch",
        "(self.seed, AUGMENT, epoch, number, self.rank)",
        "(self.seed, AUGMENT, number, self.rank)",
        SAMPLING,
    ),
    Fault(
        "caches",
        "datamodules/cache.py",
        "the pixel cache's key leaves out how images are fitted",
        "str(root), size, fit))",
        "str(root), size))",
        CACHES,
    ),
    Fault(
        "caches",
        "datamodules/files/paths.py",
        "an image that is replaced by one of equal size and time of modification is not read again",
        "{status.st_size} {status.st_ctime_ns} {status.st_mtime_ns} {status.st_ino}",
        "{status.st_size} {status.st_mtime_ns} {status.st_mtime_ns} {status.st_ino}",
        CACHES,
    ),
    Fault(
        "caches",
        "datamodules/cache.py",
        "a pixel file that was cut short is accepted",
        'return "whole" if (final / "pixels.bin").stat().st_size == meta["pixel_bytes"] else "nothing"',
        'return "whole" if (final / "pixels.bin").is_file() else "nothing"',
        CACHES,
    ),
    Fault(
        "statistics",
        "results/statistics.py",
        "the macro F1 counts classes without images as 0",
        '"f1_macro": _ratio((f1 * averaged).sum(axis=-1), averaged.sum(axis=-1))',
        '"f1_macro": f1.mean(axis=-1)',
        STATISTICS,
    ),
    Fault(
        "statistics",
        "results/statistics.py",
        "the bootstrap draws images instead of clusters",
        "kinds = _kinds(cluster, label, [label * count + predicted], count)",
        "kinds = _kinds(np.arange(len(label)), label, [label * count + predicted], count)",
        STATISTICS,
    ),
    Fault(
        "statistics",
        "results/statistics.py",
        "the interval of a difference leaves out twice as much as its level says",
        "    tails = [50 * (1 - level), 50 * (1 + level)]\n    rows = []\n",
        "    tails = [100 * (1 - level), 100 * level]\n    rows = []\n",
        STATISTICS,
    ),
    Fault(
        "statistics",
        "results/significance.py",
        "the permutation test is one-sided",
        "return np.abs(_score(b_counts, images, metric) - _score(a_counts, images, metric))",
        "return _score(b_counts, images, metric) - _score(a_counts, images, metric)",
        STATISTICS,
    ),
    Fault(
        "statistics",
        "results/significance.py",
        "Holm's correction lacks its running maximum",
        'return np.asarray(multipletests(values, method="holm")[1])',
        "ranks = values.argsort().argsort()\n    return np.minimum(values * (len(values) - ranks), 1.0)",
        STATISTICS,
    ),
    Fault(
        "statistics",
        "lightning_modules/metrics.py",
        "a confidence on the edge of a calibration bin falls into the next bin",
        "((confidence * CALIBRATION_BINS).ceil().nan_to_num() - 1).long()",
        "(confidence * CALIBRATION_BINS).floor().nan_to_num().long()",
        STATISTICS,
    ),
    Fault(
        "comparison",
        "results/predictions.py",
        "runs are matched by path instead of content",
        'if by_source else table["content"].astype(str)',
        'if by_source else table["path"].astype(str)',
        COMPARISON,
    ),
    Fault(
        "certificate",
        "results/certify/run_artifacts.py",
        "the check of the tables' hashes always holds",
        'if self.tags.get(f"sha256.{name}", digest) != digest]',
        "if self.digests.get(name, digest) != digest]",
        COMPARISON,
    ),
    Fault(
        "certificate",
        "results/certify/checks.py",
        "clusters in two roles of a fold are not counted, only those in three",
        "divided = roles[roles > 1]",
        "divided = roles[roles > 2]",
        COMPARISON,
    ),
    Fault(
        "identity",
        "lightning_modules/config.py",
        "weight averaging is left out of a run's identity",
        '"resume", "evaluate", "accelerator", "keep"}',
        '"resume", "evaluate", "accelerator", "keep", "ema_decay"}',
        IDENTITY,
    ),
    Fault(
        "resume",
        "lightning_modules/training.py",
        "the division of a stopped run is looked up under another name, so other data are accepted",
        'known.get("tags.division")',
        'known.get("tags.division_hash")',
        IDENTITY,
    ),
    Fault(
        "resume",
        "sweeps/cross_validation.py",
        "a resumed cross-validation trains its finished folds again",
        "left = [at for at in todo if at not in results]",
        "left = list(todo)",
        IDENTITY,
    ),
    Fault(
        "identity",
        "lightning_modules/training.py",
        "the hash of a division leaves out the roles",
        'data.split_table()[["fold", "row", "role", "is_copy"]]',
        'data.split_table()[["fold", "row", "is_copy"]]',
        IDENTITY,
    ),
    Fault(
        "labels",
        "datamodules/labels.py",
        "classes stand in the order of the alphabet",
        "return tuple(sorted(labels, key=lambda name: "
        "(CANONICAL.index(name) if name in ALIASES else len(CANONICAL), name)))",
        "return tuple(sorted(labels))",
        LEARNING,
    ),
    Fault(
        "losses",
        "lightning_modules/losses.py",
        "the option gamma of the focal loss is ignored",
        "losses = focal(logits, target, self._alpha, self.gamma)",
        "losses = focal(logits, target, self._alpha)",
        LEARNING,
    ),
    Fault(
        "losses",
        "lightning_modules/callbacks.py",
        "validation looks at the weights instead of their average",
        "if trainer.state.fn == TrainerFn.FITTING and not self.average.swapped:",
        "if trainer.state.fn == TrainerFn.VALIDATING and not self.average.swapped:",
        LEARNING,
    ),
    Fault(
        "queue",
        "sweeps/workers.py",
        "trials that were lost and queued again count twice",
        "KEY in trial.user_attrs and not was_stopped(trial) and not (",
        "KEY in trial.user_attrs and not (",
        QUEUE,
    ),
    Fault(
        "queue",
        "sweeps/workers.py",
        "equal trials are queued again when their parameters stand in another order",
        "key = json.dumps(fixed, sort_keys=True)",
        "key = json.dumps(fixed)",
        QUEUE,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: by which test it was noticed, or why it was not."""

    number: int
    verdict: Literal["noticed", "NOT NOTICED", "INVALID"]
    detail: str
    seconds: float


def faulty_text(number: int, root: Path = ROOT) -> str:
    """Return the text of a fault's file with the fault in it.

    Raises:
        ValueError: Its old text does not occur exactly once in the file.
    """
    fault = FAULTS[number - 1]
    path = root / fault.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = text.count(fault.old)
    if found != 1:
        msg = (
            f"fault {number} ({fault.what}): its old text must occur exactly once in {fault.file}, it occurs "
            f"{found} times; adapt FAULTS in tests/faults.py to the code: {fault.old!r}"
        )
        raise ValueError(msg)
    return text.replace(fault.old, fault.new)


def copy_tracked_files(target: Path) -> None:
    """Copy the tracked files as they are in the work tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@contextmanager
def copy_of(code: Path) -> Iterator[Path]:
    """Make a temporary copy of a folder."""
    with tempfile.TemporaryDirectory(prefix="emotion-faults-") as folder:
        yield Path(shutil.copytree(code, Path(folder).resolve() / "code"))


def python(root: Path, *words: str) -> tuple[int, str]:
    """Run Python in a copy, with the modules of that copy alone, and return exit status and output; 124: too long."""
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "EMOTION_DATA_DIR")}
    known |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *words]
    with subprocess.Popen(
        command, cwd=root, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output = process.communicate(timeout=LIMIT)[0]
            return process.returncode, output
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then ends what its fixtures have started
            try:
                return 124, process.communicate(timeout=60)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                return 124, process.communicate()[0]


_FIRST = "tests/test_modules_are_those_of_the_copy.py"
_FIRST_TEST = """
import importlib
from pathlib import Path

def test_modules_are_those_of_the_copy():
    for name in {names!r}:
        assert Path(importlib.import_module(name).__file__).is_relative_to({root!r}), name
"""


def run_tests(root: Path, modules: Sequence[str], tests: Sequence[str]) -> tuple[int, str]:
    """Run tests in a copy until one fails; return pytest's exit status, and the test or the last line.

    The first test imports the modules, and checks that they are those of the copy: the environment may hold others.
    """
    (root / _FIRST).write_text(_FIRST_TEST.format(names=tuple(modules), root=str(root)), encoding="utf-8")
    options = ["-x", "--tb=no", "-rfE", "-p", "no:cacheprovider", f"--basetemp={root.parent / 'tmp'}"]
    status, output = python(root, "-m", "pytest", *options, _FIRST, *tests)
    lines = output.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    if failed:
        return status, failed[0].partition(" ")[2].partition(" - ")[0]
    return status, lines[-1] if lines else "no output"


def try_unchanged(code: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests on an unchanged copy."""
    with copy_of(code) as root:
        return run_tests(root, ("datamodules", "results", "lightning_modules", "sweeps", "emotion"), tests)


def try_fault(code: Path, number: int) -> Outcome:
    """Put one fault into a copy of the code and run its tests there."""
    fault, start = FAULTS[number - 1], time.monotonic()

    def outcome(verdict: Literal["noticed", "NOT NOTICED", "INVALID"], detail: str) -> Outcome:
        return Outcome(number, verdict, detail, time.monotonic() - start)

    with copy_of(code) as root:
        text = faulty_text(number, root)
        try:
            compile(text, fault.file, "exec")
        except SyntaxError as error:
            return outcome("INVALID", f"does not compile: {error}")
        (root / fault.file).write_text(text, encoding="utf-8")
        module = fault.file.removesuffix(".py").replace("/", ".")
        status, detail = run_tests(root, (module,), fault.tests)
    if status == 0:
        return outcome("NOT NOTICED", detail)
    if status == 1 and not detail.startswith(_FIRST):
        return outcome("noticed", detail)
    if status == 124:
        return outcome("INVALID", f"the tests took more than {LIMIT} seconds")
    return outcome("INVALID", f"a module cannot be imported, or pytest cannot run: {detail}, exit status {status}")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as aligned columns."""
    rows = [("no", "topic", "file", "fault", "result", "seconds")]
    for one in sorted(outcomes, key=lambda one: one.number):
        fault = FAULTS[one.number - 1]
        result = f"noticed by {one.detail}" if one.verdict == "noticed" else f"{one.verdict} ({one.detail})"
        rows.append((str(one.number), fault.topic, fault.file, fault.what, result, f"{one.seconds:.0f}"))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main(words: Sequence[str] | None = None) -> int:
    """Try the faults and print which were noticed; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="tests/faults.py",
        description=(
            f"Put small faults into copies of the code, one at a time, run the tests of their topic, and print which "
            f"faults the tests notice. The work tree is not changed. {AT_ONCE} faults are tried at a time; all "
            f"{len(FAULTS)} take up to an hour on two cores."
        ),
        epilog=(
            f"Exit status: 0 if at least {LEAST} of all {len(FAULTS)} faults are noticed (with --only: every one), 1 "
            "if fewer are, 2 if the tests fail on the unchanged code or a fault no longer fits the code."
        ),
    )
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="try only these faults")
    parser.add_argument("--list", action="store_true", help="list the faults and run nothing")
    options = parser.parse_args(words)
    if options.list:
        named = [(str(i), fault.topic, fault.file, fault.what) for i, fault in enumerate(FAULTS, 1)]
        print(_aligned([("no", "topic", "file", "fault"), *named]))
        return 0
    numbers = sorted(set(options.only or range(1, len(FAULTS) + 1)))
    if wrong := [number for number in numbers if not 1 <= number <= len(FAULTS)]:
        parser.error(f"--only: faults are numbered 1 to {len(FAULTS)} (--list shows them), got {wrong[0]}")
    try:
        for number in numbers:
            faulty_text(number)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _try_all(numbers)


def _try_all(numbers: Sequence[int]) -> int:
    tests = list(dict.fromkeys(file for number in numbers for file in FAULTS[number - 1].tests))
    start = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="emotion-faults-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        code = Path(folder)
        copy_tracked_files(code)  # once, so that the work tree may be edited meanwhile
        for status, detail in pool.map(
            lambda part: try_unchanged(code, part), [tests[i::AT_ONCE] for i in range(AT_ONCE)]
        ):
            if status:
                print(f"error: the tests must pass on the unchanged code, they do not: {detail}", file=sys.stderr)
                return 2
        print(
            f"unchanged code: the tests of {len(tests)} files pass ({time.monotonic() - start:.0f} seconds)", flush=True
        )
        waiting = [pool.submit(try_fault, code, number) for number in numbers]
        try:
            for done in as_completed(waiting):
                outcomes.append(done.result())
                one = outcomes[-1]
                print(f"fault {one.number}: {one.verdict} ({one.detail}), {one.seconds:.0f} seconds", flush=True)
        finally:
            for future in waiting:
                future.cancel()
    noticed = sum(one.verdict == "noticed" for one in outcomes)
    print(f"\n{table(outcomes)}\n\nfaults noticed: {noticed} of {len(outcomes)}")
    needed = LEAST if len(outcomes) == len(FAULTS) else len(outcomes)
    return 0 if noticed >= needed else 1


if __name__ == "__main__":
    sys.exit(main())
