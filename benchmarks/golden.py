"""Run the same small commands at two commits and compare what they compute.

Both commits run in this Python environment, each from a checkout of its own and through the command line only. Nothing
of the project is imported here, so renamed modules do not matter. Compared are exit statuses, folds, over-sampled
copies, probabilities, scores, intervals, p-values, verdicts and trials; not compared are seconds, wording, run ids,
versions and paths. Exit status: 0 no difference, 1 differences, 2 the commands could not be run.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import mlflow.entities
import numpy as np
import optuna
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.distributions import CategoricalDistribution
from sqlalchemy.exc import SQLAlchemyError

REPOSITORY = Path(__file__).resolve().parents[1]
CLOSE = 1e-4  # of what a network computes
EXACT = 1e-6  # of what is computed from equal prediction tables
SECONDS = 1200  # after which a command counts as hanging
NOTE = "note"

# Old names -> new names. A commit that renames on purpose adds its names here, so that the values are still compared.
ROLE_NAMES = {"inner": "val", "outer": "test"}
METRIC_NAMES = {"inner/f1_macro": "val/best_f1_macro"}


class Table(NamedTuple):
    """How a table is compared: the columns that identify a row (none: all columns of text), and those left out.

    A commit that renames columns on purpose adds the old and the new names, so that the values are still compared.
    """

    key: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    renamed: Mapping[str, str] = {}


TABLES = {
    "predictions": Table(("row",), ("path",)),
    "split": Table(("fold", "row", "role", "is_copy")),
    "intervals": Table(("metric", "class")),
    "folds": Table(("seed", "fold"), ("run_id",)),
    "seeds": Table(("seed",)),
    "trials": Table(("trial",), ("run_id", "error", "fold_scores")),
    "search.db": Table(("trial", "name")),
    "faces.csv": Table(("path",)),
    "fixed.csv": Table(("path",)),
    "check.csv": Table(("kind", "rows"), ("message",)),
    "predicted.csv": Table(("path",), (), {"predicted": "label", "error": "note"}),
    "compare.csv": Table(("metric",), ("a", "b")),
    "composition.csv": Table((), ("run",)),
}


# ---------------------------------------------------------------------------------------------------- the commands
DRAWN = "drawn:largest=40,ratio=2,size=32"
SHORT = (
    "--data.size 32 --data.batch_size 8 --data.n_min 0.9 --model.backbone test_resnet --model.weights none "
    "--model.learning_rate 0.005 --trainer.max_epochs 2 --trainer.accelerator cpu --trainer.enable_progress_bar false"
)
FIT = f"fit {SHORT} --run.resamples 200 --data.folds 4"
FEW = "--resamples 200 --permutations 199"
SPACE = """\
model.learning_rate: {real: [0.001, 0.01], log: true}
model.loss: {choice: [CrossEntropy, Focal]}
model.loss.gamma: {real: [0.5, 3.0], when: {model.loss: Focal}}
"""
KILL_AT_STEP = 40  # in the second of two epochs
KILLER = """\
import os, signal
if os.environ.get("GOLDEN_KILL_AT_STEP"):
    from torch.optim.optimizer import register_optimizer_step_post_hook
    left = [int(os.environ["GOLDEN_KILL_AT_STEP"])]
    def count(*_):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    register_optimizer_step_post_hook(count)
"""


class Command(NamedTuple):
    """A command: its words, in which `{run:NAME}` is the id of the first run that command NAME made."""

    name: str
    words: str
    statuses: tuple[int, ...] = (0,)
    files: tuple[str, ...] = ()  # that it writes and that are compared
    killed: bool = False
    after: tuple[str, ...] = ("prepare",)

    @property
    def needs(self) -> set[str]:
        """Return the commands that must run before."""
        return {*self.after, *re.findall(r"{run:(\S+?)}", self.words)}

    @property
    def trains(self) -> bool:
        """Return whether it makes runs with tables."""
        return self.words.startswith(("fit ", "cross-validate ", "search ")) and "--resume" not in self.words


COMMANDS = (
    Command("prepare", f"data prepare --data {DRAWN} --output faces.csv", files=("faces.csv",), after=()),
    Command("describe", "data describe --data people.csv"),
    Command(
        "check",
        "data check --data people.csv --table check.csv --fix fixed.csv",
        statuses=(0, 1),
        files=("check.csv", "fixed.csv"),
    ),
    Command("fit-quick", f"{FIT} --recipe quick --data {DRAWN}", after=()),
    Command("fit-balanced", f"{FIT} --recipe balanced --data people.csv"),
    Command("fit-paper", f"{FIT} --recipe paper-balanced --data people.csv"),
    Command("kill", f"{FIT} --recipe balanced --seed 1 --data people.csv", statuses=(-9,), killed=True),
    Command("resume", f"{FIT} --recipe balanced --seed 1 --data people.csv --resume", after=("kill",)),
    Command("cross-validate", f"cross-validate {SHORT} --data people.csv --folds 3 --seeds 0 1 --resamples 200"),
    Command(
        "search",
        f"search {SHORT} --data people.csv --run.resamples 200 --space space.yaml --trials 3 --folds 2 "
        "--storage sqlite:///search.db --name golden --pruner none --sampler-seed 0",
        files=("search.db",),
    ),
    Command(
        "predict", "predict --run {run:fit-balanced} --data faces --output predicted.csv", files=("predicted.csv",)
    ),
    Command(
        "compare",
        f"report compare {{run:fit-balanced}} {{run:fit-paper}} {{run:cross-validate}} {FEW} --out compare",
        files=("compare/compare.csv",),
    ),
    Command(
        "certify",
        "report certify {run:cross-validate} --out certify",
        statuses=(0, 1),
        files=("certify/certificate-*.json",),
    ),
    Command(
        "bias",
        f"report bias {{run:cross-validate}} --by age gender {FEW} --out bias",
        files=("bias/groups.csv", "bias/classes.csv", "bias/gaps.csv", "bias/composition.csv"),
    ),
    Command("study", "study leakage --dry-run", after=()),
)
FOREIGN = 120  # status of a command that loads code of the project from elsewhere, such as an editable installation
RUNNER = f"""\
import os, sys
def check():
    code, own = os.environ["GOLDEN_CODE"], os.environ["GOLDEN_OWN"].split()
    for name, module in list(sys.modules.items()):
        path = os.path.realpath(getattr(module, "__file__", None) or code)
        if name.partition(".")[0] in own and not path.startswith(code):
            print(f"must load its own code, it loaded {{path}}", flush=True)
            os._exit({FOREIGN})
import emotion
check()
try:
    sys.exit(emotion.main())
finally:
    check()
"""


class CannotRunError(Exception):
    """The commands could not be run, so nothing can be compared."""


@dataclass
class Run:
    """A run of MLflow's store."""

    label: str
    status: str
    metrics: dict[str, float]
    parameters: dict[str, str]
    artifacts: Path

    @property
    def tables(self) -> dict[str, Path]:
        """Return the files of the tables by name."""
        return {path.stem: path for path in (self.artifacts / "tables").glob("*.parquet")}


@dataclass
class Outcome:
    """What one command left."""

    status: int
    output: str
    runs: list[Run] = field(default_factory=list)


@dataclass
class Side:
    """One of the two commits: its checkout, its work folder, and what its commands left there."""

    name: str
    code: Path
    work: Path
    own_modules: set[str]  # the top-level modules of both commits
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    run_ids: dict[str, list[str]] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def run(self, commands: Iterable[Command], stop: threading.Event) -> None:
        """Run the commands one after another, until one cannot be run or the other side sets `stop`."""
        self.work.mkdir(parents=True)
        (self.work / "space.yaml").write_text(SPACE)
        (self.work / "killer").mkdir()
        (self.work / "killer" / "sitecustomize.py").write_text(KILLER)
        for command in commands:
            if stop.is_set():
                return
            try:
                self._run_one(command)
            except BaseException:
                stop.set()  # the other side need not go on
                raise

    def end(self) -> None:
        """End the command that is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def _run_one(self, command: Command) -> None:
        try:
            words = [
                re.sub(r"{run:(\S+?)}", lambda found: self.run_ids[found[1]][0], word) for word in command.words.split()
            ]
        except (KeyError, IndexError):
            self.outcomes[command.name] = Outcome(-1000, "not run: a command that it needs left no run")
            return
        before, began = set(self._runs()), time.monotonic()
        log = self.work / f"{command.name}.log"
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, *words], cwd=self.work, env=self.environment(command),
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                status = self.process.wait(SECONDS)
            finally:
                self.end()
        output = log.read_text(errors="replace")
        print(f"{self.name:<4}  {command.name:<14}  {time.monotonic() - began:4.0f} s  status {status}", flush=True)
        if status == FOREIGN or (self.name == "BASE" and status not in command.statuses):
            tail = "\n".join(output.splitlines()[-15:])
            msg = f"{command.name} ended with status {status} at {self.name}, expected {command.statuses}:\n{tail}"
            raise CannotRunError(msg)
        missing = [pattern for pattern in command.files if not any(self.work.glob(pattern))]
        if self.name == "BASE" and missing:
            msg = f"{command.name} must write {', '.join(missing)} at BASE; correct `files` or the words in COMMANDS"
            raise CannotRunError(msg)
        self.outcomes[command.name] = Outcome(status, output)
        self.run_ids[command.name] = [run for run in self._runs() if run not in before]
        if command.name == "prepare" and status == 0:
            add_people(self.work)

    def environment(self, command: Command) -> dict[str, str]:
        """Return the environment of a command: nothing of this process's settings, one thread, no GPU."""
        ours = ("PYTHON", "MLFLOW_", "OPTUNA_", "EMOTION_", "PL_", "GOLDEN_")
        path = [str(self.work / "killer")] if command.killed else []
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "PYTHONPATH": os.pathsep.join([*path, str(self.code)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "EMOTION_CACHE_DIR": str(self.work / "cache"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "GOLDEN_CODE": str(self.code),
            "GOLDEN_OWN": " ".join(self.own_modules),
            **({"GOLDEN_KILL_AT_STEP": str(KILL_AT_STEP)} if command.killed else {}),
        }

    def _runs(self) -> dict[str, mlflow.entities.Run]:
        """Return all runs by their ids: parents first, then by seed, fold and start."""
        database = self.work / "mlruns" / "mlflow.db"
        if not database.exists():
            return {}
        client = MlflowClient(f"sqlite:///{database}")
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])

        def order(run: mlflow.entities.Run) -> tuple[int, ...]:
            numbers = [run.data.params.get(name, "") for name in ("seed_everything", "data.fold")]
            places = [int(text) if text.isdecimal() else -1 for text in numbers]
            return ("mlflow.parentRunId" in run.data.tags, *places, run.info.start_time)

        return {run.info.run_id: run for run in sorted(runs, key=order)}

    def read_runs(self) -> None:
        """Read every run after the last command; a resumed run counts for the command that began it."""
        known = self._runs()
        for name, ids in self.run_ids.items():
            for number, run in enumerate((known[run_id] for run_id in ids), 1):
                metrics = {METRIC_NAMES.get(key, key): value for key, value in run.data.metrics.items()}
                parameters = {key.replace(".init_args", ""): value for key, value in run.data.params.items()}
                artifacts = Path(unquote(urlsplit(run.info.artifact_uri).path))
                label = f"run {number} of {len(ids)}"
                self.outcomes[name].runs.append(Run(label, run.info.status, metrics, parameters, artifacts))
        for command in [command for command in COMMANDS if command.trains and command.name in self.outcomes]:
            runs = self.outcomes[command.name].runs
            kept = [name for run in runs for name in ("predictions", "split", "intervals") if name in run.tables]
            if self.name == "BASE" and len(set(kept)) < 3 and not (command.killed and "resume" not in self.outcomes):
                msg = f"{command.name} must leave tables of predictions, split and intervals at BASE; there are {kept}"
                raise CannotRunError(msg)


def add_people(work: Path) -> None:
    """Write the prepared faces as class folders and as a table with people, each of two images, and five duplicates."""
    table = pd.read_csv(work / "faces.csv", dtype=str, keep_default_na=False)
    files = {"/".join(file.parts[-2:]): file for file in (work / "cache").rglob("*.png")}
    rows = []
    for number, row in enumerate(table.to_dict("records")):
        for suffix in ("", "-again") if number % 50 == 7 else ("",):
            path = Path("faces", row["label"], f"{Path(row['path']).stem}{suffix}.png")
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[row["path"]], work / path)
            person = f"person {number // 2}" if not suffix else f"another {number}"
            rows.append({**row, "path": path.as_posix(), "subject": person})
    pd.DataFrame(rows).to_csv(work / "people.csv", index=False)


# -------------------------------------------------------------------------------------------------- the comparison
class Finding(NamedTuple):
    """A line of the result; `verdict` is equal, differs, only in BASE, only in HEAD, or note."""

    command: str
    what: str
    verdict: str
    detail: str = ""


Difference = tuple[str, str]  # verdict and detail


def lacking(base: Collection[Any], head: Collection[Any]) -> list[tuple[str, list[Any]]]:
    """Return the sides that hold something which the other lacks, and what that is."""
    only = {"BASE": [name for name in base if name not in head], "HEAD": [name for name in head if name not in base]}
    return [(side, names) for side, names in only.items() if names]


def compare_values(base: Mapping[str, Any], head: Mapping[str, Any], tolerance: float = 0.0) -> list[Difference]:
    """Return what differs between named values: numbers beyond the tolerance, all else as text."""
    found = [(f"only in {side}", ", ".join(sorted(names))) for side, names in lacking(base, head)]
    both = [name for name in base if name in head]
    wrong = [name for name in both if not _equal(base[name], head[name], tolerance)]
    if wrong:
        shown = "; ".join(f"{name}: {_short(base[name])} / {_short(head[name])}" for name in wrong[:3])
        found.append(("differs", f"{len(wrong)} of {len(both)}: {shown}"))
    return found


def _equal(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, Number) and isinstance(other, Number):
        return bool(np.isclose(one, other, rtol=0, atol=tolerance, equal_nan=True))  # type: ignore[call-overload]
    texts = ["" if pd.isna(value) is True else str(value) for value in (one, other)]
    return texts[0] == texts[1]  # an empty cell equals an empty cell


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def compare_tables(base: pd.DataFrame, head: pd.DataFrame, kind: Table, tolerance: float) -> list[Difference]:
    """Return what differs between two tables: classes, rows that one of them lacks, and values by column.

    A column that one of them lacks is a note.
    """
    base, head = (_prepared(table, kind) for table in (base, head))
    found = [(NOTE, f"columns only in {side}: {', '.join(sorted(names))}") for side, names in lacking([*base], [*head])]
    classes = [" ".join(name for name in table if name.startswith("prob_")) for table in (base, head)]
    if classes[0] != classes[1]:
        found.append(("differs", f"classes {classes[0]} / {classes[1]}"))
    common = [name for name in base if name in head]
    key = [name for name in kind.key if name in common] or [
        name for name in common if not all(pd.api.types.is_numeric_dtype(table[name]) for table in (base, head))
    ]
    left, right = (_by_row(table[common], key) for table in (base, head))
    for side, rows in lacking(left.index, right.index):
        count = len(base if side == "BASE" else head)
        found.append(
            (f"only in {side}", f"{len(rows)} of {count} rows, by {' '.join(key)}, count: {'; '.join(rows[:3])}")
        )
    both = left.index.intersection(right.index)
    for name in [name for name in common if name not in key]:
        differing = compare_values(left.loc[both, name].to_dict(), right.loc[both, name].to_dict(), tolerance)
        found += [(verdict, f"{name} in {detail}") for verdict, detail in differing]
    return found


def _prepared(table: pd.DataFrame, kind: Table) -> pd.DataFrame:
    """Return a table under the new names, clusters named by their first row, and without what is left out."""
    table = table.rename(columns=kind.renamed).drop(columns=[name for name in kind.left_out if name in table])
    if "role" in table:
        table = table.assign(role=table["role"].astype(str).replace(ROLE_NAMES))
    if {"cluster", "row"} <= set(table):
        groups = ["cluster", "fold"] if "fold" in table else ["cluster"]
        table = table.assign(cluster=table.groupby(groups)["row"].transform("min"))
    return table


def _by_row(table: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return a table indexed by its key and by the count of rows with the same key, as one text."""
    texts = table[key].astype(str)
    count = texts.groupby(key, sort=False).cumcount() if key else pd.Series(range(len(table)), table.index)
    return table.set_index(texts.assign(count=count.astype(str)).agg(", ".join, axis=1))


def compare_metrics(base: dict[str, float], head: dict[str, float]) -> list[Difference]:
    """Return what differs between two sets of metrics, measurements of the machine left out."""
    base, head = (
        {name: value for name, value in metrics.items() if not re.search("^system/|second|duration|memory", name)}
        for metrics in (base, head)
    )
    return compare_values(base, head, CLOSE)


def compare_parameters(base: dict[str, str], head: dict[str, str]) -> list[Difference]:
    """Return the parameters that both have with different values, as notes; paths of classes and files left out."""
    base = {name: value for name, value in base.items() if "class_path" not in name and "/" not in value}
    return [(NOTE, detail) for verdict, detail in compare_values(base, head) if verdict == "differs"]


def compare_certificates(base: dict[str, Any], head: dict[str, Any]) -> list[Difference]:
    """Return what differs between two certificates: the verdict as a whole, and those of statements with one name."""
    left, right = (
        {"the run holds": certificate["holds"], **{line["statement"]: line["verdict"] for line in certificate["lines"]}}
        for certificate in (base, head)
    )
    return [
        (verdict if verdict == "differs" else NOTE, f"statements {verdict}: {detail}")
        for verdict, detail in compare_values(left, right)
    ]


def read_trials(database: Path) -> pd.DataFrame:
    """Return the states, options and values of the trials in Optuna's SQLite file, one row each."""
    # the file may hold studies for other jobs, such as training the winner
    study = optuna.load_study(study_name="golden", storage=f"sqlite:///{database}")
    rows: list[tuple[int, str, float | None, str | None]] = []
    for trial in study.trials:
        for name, value in trial.params.items():
            choice = isinstance(trial.distributions[name], CategoricalDistribution)
            rows.append((trial.number, name, *((None, str(value)) if choice else (value, None))))
        rows += [(trial.number, f"value {place}", value, None) for place, value in enumerate(trial.values or [])]
        rows.append((trial.number, "state", None, trial.state.name))
    return pd.DataFrame(rows, columns=["trial", "name", "number", "text"]).astype({"number": float})


def compare_sides(base: Side, head: Side, commands: Iterable[Command]) -> list[Finding]:
    """Return everything that was compared, in the order of the commands."""
    findings: list[Finding] = []

    def add(what: str, differences: Sequence[Difference], where: str = "") -> None:
        known = [Finding(command.name, what, verdict, f"{where}{detail}") for verdict, detail in differences]
        if all(one.verdict == NOTE for one in known):
            known.append(Finding(command.name, what, "equal"))
        findings.extend(known)

    tolerance = EXACT if largest_drift(base, head) <= EXACT else CLOSE
    for command in commands:
        left, right = base.outcomes[command.name], head.outcomes[command.name]
        statuses = f"{left.status} / {right.status}: {right.output.strip().rpartition(chr(10))[2]}"
        add("exit status", [] if left.status == right.status else [("differs", statuses)])
        if command.name == "describe":
            numbers = [re.findall(r"\d[\d,.]*", one.output) for one in (left, right)]
            add("output", [] if numbers[0] == numbers[1] else [(NOTE, "the printed numbers are not the same")])
        if len(left.runs) != len(right.runs):
            add("runs", [("differs", f"{len(left.runs)} / {len(right.runs)} runs")])
            continue
        for one, other in zip(left.runs, right.runs, strict=True):
            where = f"{one.label}: " if len(left.runs) > 1 else ""
            add("run status", compare_values({"status": one.status}, {"status": other.status}), where)
            add("metrics", compare_metrics(one.metrics, other.metrics), where)
            add("parameters", compare_parameters(one.parameters, other.parameters), where)
            for name in sorted(one.tables | other.tables):
                limit = CLOSE if name == "predictions" else tolerance
                paths = [run.tables.get(name) for run in (one, other)]
                add(name, _compare_files(paths, TABLES.get(name, Table()), limit), where)
            files = [_file_names(run.artifacts) for run in (one, other)]
            add("artifacts", [(NOTE, f"only on one side: {name}") for name in sorted(files[0] ^ files[1])], where)
        for pattern in command.files:
            paths = [next(iter(sorted(side.work.glob(pattern))), None) for side in (base, head)]
            limit = CLOSE if pattern in ("predicted.csv", "search.db") else tolerance
            add(pattern, _compare_files(paths, TABLES.get(Path(pattern).name, Table()), limit))
    return findings


def largest_drift(base: Side, head: Side) -> float:
    """Return the largest difference of a probability over all prediction tables."""
    largest = 0.0
    for name, outcome in base.outcomes.items():
        for one, other in zip(outcome.runs, head.outcomes[name].runs, strict=False):
            paths = [run.tables.get("predictions") for run in (one, other)]
            if None not in paths:
                left, right = (pd.read_parquet(path).filter(like="prob_").to_numpy(np.float64) for path in paths)
                largest = max(largest, np.abs(left - right).max() if left.shape == right.shape else 1.0)
    return largest


def _compare_files(paths: Sequence[Path | None], kind: Table, tolerance: float) -> list[Difference]:
    there = [path is not None and path.exists() for path in paths]
    if not all(there):
        return [("only in BASE" if there[0] else "only in HEAD", "the file")]
    try:
        base, head = (_read(path) for path in paths if path is not None)
        if isinstance(base, dict) and isinstance(head, dict):
            return compare_certificates(base, head)
        return compare_tables(base, head, kind, tolerance)
    except (KeyError, TypeError, ValueError, SQLAlchemyError) as error:  # a file of another form
        return [("differs", f"cannot be compared: {error!r}")]


def _read(path: Path) -> dict[str, Any] | pd.DataFrame:
    if path.suffix == ".json":
        return dict(json.loads(path.read_text()))
    if path.suffix == ".db":
        return read_trials(path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def _file_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def result_text(findings: Sequence[Finding]) -> str:
    """Return one line for everything of a command that is equal, and one for each difference and note."""
    counts: dict[tuple[str, str, str], int] = {}
    lines = [f"{'command':<14}  {'what':<28}  result"]
    for one in findings:
        if one.verdict == "equal":
            counts[one[:3]] = counts.get(one[:3], 0) + 1
    for one in dict.fromkeys(findings):
        detail = f"({counts[one[:3]]})" if one.verdict == "equal" and counts[one[:3]] > 1 else one.detail
        lines.append(f"{one.command:<14}  {one.what:<28}  {one.verdict}  {detail}".rstrip())
    wrong = sum(one.verdict not in ("equal", NOTE) for one in findings)
    notes = sum(one.verdict == NOTE for one in findings)
    return "\n".join([*lines, "", f"{len(findings) - notes} comparisons, {wrong} differences, {notes} notes"])


# ------------------------------------------------------------------------------------------------ the command line
def git(*words: str) -> str:
    """Run git in this repository and return what it prints."""
    done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"git {' '.join(words)}: {done.stderr.strip()}"
        raise CannotRunError(msg)
    return done.stdout.strip()


@contextlib.contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Give a checkout of a commit for as long as the block takes."""
    git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def chosen_commands(names: Sequence[str]) -> list[Command]:
    """Return the named commands (all if there are none) and those that they need, in order."""
    known = {command.name: command for command in COMMANDS}
    left, wanted = list(names or known), set[str]()
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += known[name].needs
    return [command for command in COMMANDS if command.name in wanted]


def run_and_compare(base: str, head: str, commands: Sequence[Command], keep: Path | None) -> list[Finding]:
    """Run the commands at both commits at the same time and return what was compared."""
    commits = {
        name: git("rev-parse", "--verify", f"{text}^{{commit}}") for name, text in (("BASE", base), ("HEAD", head))
    }
    if head == "HEAD" and git("status", "--porcelain", "--untracked-files=no"):
        print("note: uncommitted changes are not looked at", file=sys.stderr)
    with (
        tempfile.TemporaryDirectory(prefix="golden-", ignore_cleanup_errors=True) as place_name,
        contextlib.ExitStack() as end,
    ):
        folder = Path(place_name).resolve()
        place = keep.resolve() if keep else folder / "work"
        for side, commit in commits.items():
            print(f"{side}  {git('log', '-1', '--format=%h %s', commit)}", flush=True)
            end.enter_context(checkout(commit, folder / side))
        own = {
            path.stem
            for name in commits
            for path in (folder / name).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        sides = [Side(name, folder / name, place / name, own) for name in commits]
        stop = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(one.run, commands, stop) for one in sides]
            try:
                for job in running:
                    job.result()
            except BaseException:  # Ctrl-C, too
                stop.set()
                for one in sides:
                    one.end()
                raise
        for one in sides:
            one.read_runs()
        return compare_sides(sides[0], sides[1], commands)


def main(args: Sequence[str] | None = None) -> int:
    """Run the commands at both commits, print what was compared and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [command.name for command in COMMANDS]
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("--head", default="HEAD", metavar="COMMIT", help="the other commit (default: HEAD)")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=names, metavar="NAME",
        help=f"run only these commands and those that they need: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the work folders BASE and HEAD in this new folder"
    )
    options = parser.parse_args(args)
    began = time.monotonic()
    try:
        if options.keep and options.keep.exists():
            msg = f"--keep: must be a new folder, {options.keep} exists; name another"
            raise CannotRunError(msg)
        findings = run_and_compare(options.base, options.head, chosen_commands(options.only), options.keep)
    except (CannotRunError, OSError, MlflowException, SQLAlchemyError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was compared", file=sys.stderr)
        return 2
    print(f"\n{result_text(findings)} in {time.monotonic() - began:.0f} s")
    return int(any(one.verdict not in ("equal", NOTE) for one in findings))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the checkouts are removed
    sys.exit(main())
