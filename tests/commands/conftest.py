"""Tests of the commands, from outside: exit status, printed lines, files, and what MLflow shows.

They import nothing of the project but `emotion.main`, so that they stay as they are when the code is restructured.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from torch.utils.hooks import RemovableHandle

ROOT = Path(__file__).resolve().parents[2]
FACES = "drawn:largest=40,ratio=2,size=32"
# the shortest options of `emotion fit`, without the number of folds, which a cross-validation sets
TINY = (
    *("--data", FACES, "--data.size", "32", "--data.batch_size", "32"),
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--model.loss", "CrossEntropy"),
    *("--data.n_min", "0.9", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--run.resamples", "100"),
    *("--trainer.enable_progress_bar", "false"),
)
# read by Python at its start: stops or slows a process at its N-th optimizer step, whatever the project looks like
AT_STEP = """
import os
if os.environ.get("AT_STEP"):
    import signal, sys, time
    from torch.optim.optimizer import register_optimizer_step_post_hook
    number, action = os.environ["AT_STEP"].split(":")
    done = 0
    def count(*_):
        global done
        done += 1
        if done >= int(number):
            print(f"step {done} done", flush=True)
            if action == "wait":  # until the test has done what it came for
                time.sleep(0.5)
            elif done == int(number):
                os.kill(os.getpid(), getattr(signal, action))
    register_optimizer_step_post_hook(count)
"""


PARTS = {"train": "train", "val": "val", "test": "test"}  # the names of the parts in the table `split`


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what was wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class Emotion:
    """Runs `emotion ...` in the current folder, and looks at what it left."""

    def __init__(self, capsys: pytest.CaptureFixture[str], site: Path, start_python: Callable[..., Any]) -> None:
        self._capsys, self._site, self._start_python = capsys, site, start_python
        self._started: list[Any] = []

    def __call__(self, *words: str, status: int | None = 0) -> Done:
        """Run a command in this process; `status` is the exit status that it must have, None if any will do."""
        from emotion import main

        self._capsys.readouterr()
        try:
            found = main(list(words))
        except SystemExit as end:  # of argparse, or of a process that was asked to end
            found = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = self._capsys.readouterr()
        done = Done(found, said.out, said.err)
        assert status is None or found == status, f"emotion {' '.join(words)}: status {found}\n{said.out}\n{said.err}"
        return done

    def start(self, *words: str, at_step: str = "", fresh: bool = False, **environment: str) -> Any:
        """Start a command as a process of its own, with standard error in its output.

        Args:
            words: the command and its options.
            fresh: start a new interpreter, as a user does, and not one forked after the imports; `ddp` always does.
            at_step: `7:SIGKILL` sends itself the signal after the seventh optimizer step; `7:wait` prints a line
                `step 7 done` after the seventh and every later step, and waits half a second.
            environment: more variables.
        """
        new = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "AT_STEP": at_step, **environment}
        program = "import sys; from emotion import main; sys.exit(main())"
        if not fresh and "ddp" not in words:
            new["PYTHONPATH"] = str(ROOT)
            self._started.append(self._start_python(AT_STEP + program, words, new))
            return self._started[-1]
        new["PYTHONPATH"] = f"{self._site}:{ROOT}" if at_step else str(ROOT)
        if "ddp" in words:  # the other ranks are started by running sys.argv again: it must be a file
            file = self._site / "command.py"
            file.write_text(f"if __name__ == '__main__':\n    {program}\n")
            command = [sys.executable, "-u", str(file), *words]
        else:
            command = [sys.executable, "-u", "-c", program, *words]
        self._started.append(
            subprocess.Popen(
                command, env=new, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        )
        return self._started[-1]

    def finish(self, process: Any, *, status: int = 0, seconds: float = 600) -> str:
        """Wait for a process of `start`, and return what it printed."""
        said, _ = process.communicate(timeout=seconds)
        assert process.returncode == status, said[-4000:]
        return said

    def kill(self, process: Any) -> None:
        """End a process of `start` and those that it started, as kill -9 does."""
        os.killpg(process.pid, 9)
        process.communicate(timeout=60)

    def kill_all(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.communicate(timeout=60)

    @property
    def client(self) -> MlflowClient:
        """The embedded store of the current folder."""
        return MlflowClient(f"sqlite:///{Path('mlruns/mlflow.db').absolute()}")

    def runs(self, where: str = "") -> list[Run]:
        """Return the runs that are not deleted, the newest first; `where` as in MLflow's search."""
        experiments = [one.experiment_id for one in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, where, order_by=["attributes.start_time DESC"]))

    def children(self, run_id: str) -> list[Run]:
        """Return the runs below a run, by seed, fold and name."""
        below = self.runs(f"tags.mlflow.parentRunId = '{run_id}'")
        tags = {run.info.run_id: run.data.tags for run in below}
        at = {run_id: (one.get("seed", ""), one.get("fold", "")) for run_id, one in tags.items()}
        return sorted(below, key=lambda run: (*at[run.info.run_id], run.info.run_name))

    def artifact(self, run_id: str, name: str) -> Path:
        """Return an artifact's file in the current folder's store."""
        (found,) = (path for path in Path("mlruns").rglob(name) if run_id in path.parts and "artifacts" in path.parts)
        return found

    def table(self, run_id: str, name: str) -> pd.DataFrame:
        """Return a table that a run left, such as `predictions` or `split`."""
        return pd.read_parquet(self.artifact(run_id, f"tables/{name}.parquet"))

    def split(self, run_id: str) -> pd.DataFrame:
        """Return the table `split` of a run, with a column `part`: "train", "val" or "test"."""
        split = self.table(run_id, "split")
        names = {stored: part for part, stored in PARTS.items()}
        return split.assign(part=split["role"].map(names).fillna("none"))

    def rows(self, run_id: str, part: str, fold: int | None = None) -> set[int]:
        """Return the rows of a part ("train", "val" or "test") of a run; with `fold` of that fold alone."""
        split = self.split(run_id)
        chosen = split["part"] == part
        if fold is not None:
            chosen &= split["fold"] == fold
        return set(split.loc[chosen, "row"])

    def summary(self, run_id: str) -> dict[str, float]:
        """Return the last value of each metric of a run, without what was measured of the machine."""
        metrics = self.client.get_run(run_id).data.metrics
        return {name: value for name, value in metrics.items() if not name.startswith("system/")}

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """Return a metric by step; each step was logged once."""
        history = self.client.get_metric_history(run_id, metric)
        steps = {one.step: one.value for one in history}
        assert len(history) == len(steps), f"{metric}: a step was logged twice"
        return steps


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "commands" in item.path.parts:  # LightningCLI 2.6 calls what jsonargparse 4.49 deprecated
            item.add_marker(
                pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
            )


@pytest.fixture(autouse=True)
def _no_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run sets these for the processes it starts; no other test may see them."""
    names = ("EMOTION_RUN_ID", "PL_GLOBAL_SEED", "PL_SEED_WORKERS", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")
    for name in (*names, "MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _not_drawn(blank_figures: None) -> None:
    """The figures of a run that a test makes are blank; those of `fitted` and `cross_validated` are drawn."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def emotion(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start_python: Callable[..., Any]
) -> Iterator[Emotion]:
    """`emotion ...` in an empty current folder."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(AT_STEP)
    commands = Emotion(capsys, site, start_python)
    yield commands
    commands.kill_all()


@pytest.fixture(scope="session")
def _tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "mlruns"
    (folder / "artifacts").mkdir(parents=True)
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder


@pytest.fixture
def store(place: Path, _tables: Path) -> Path:
    """An empty MLflow store in the current folder; every test that makes its own waits seconds for its tables."""
    shutil.copytree(_tables, "mlruns")
    return place / "mlruns"


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The shortest options of a training; a `fit` adds nothing, a cross-validation its number of folds."""
    return TINY


@pytest.fixture
def at_step() -> Iterator[Callable[[int, Callable[[], object]], None]]:
    """Calls a function after the N-th optimizer step of this process, counted from now, until the next call."""
    hooks: list[RemovableHandle] = []

    def at(number: int, action: Callable[[], object]) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        done = itertools.count(1)

        def count(*_: object) -> None:
            if next(done) == number:
                action()

        while hooks:
            hooks.pop().remove()
        hooks.append(register_optimizer_step_post_hook(count))

    yield at
    while hooks:
        hooks.pop().remove()


def _made(name: str, tmp_path_factory: pytest.TempPathFactory, tables: Path, *words: str) -> Path:
    """Run a training in a folder of its own, once a test process."""
    from emotion import main

    folder = tmp_path_factory.mktemp(name)
    shutil.copytree(tables, folder / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*words]) == 0
    return folder


@pytest.fixture(scope="session")
def _fitted(tmp_path_factory: pytest.TempPathFactory, _tables: Path) -> Path:
    return _made("fitted", tmp_path_factory, _tables, "fit", *TINY, "--data.folds", "4")


@pytest.fixture(scope="session")
def _cross_validated(tmp_path_factory: pytest.TempPathFactory, _tables: Path) -> Path:
    return _made(
        "cross-validated", tmp_path_factory, _tables, "cross-validate", *TINY, "--folds", "2", "--seeds", "0", "1"
    )


@pytest.fixture
def fitted(emotion: Emotion, _fitted: Path) -> str:
    """The id of a finished `fit`, in a copy of its store: runs may be moved."""
    shutil.copytree(_fitted / "mlruns", "mlruns", dirs_exist_ok=True)
    (run,) = emotion.runs()
    return str(run.info.run_id)


@pytest.fixture
def cross_validated(emotion: Emotion, _cross_validated: Path) -> str:
    """The id of a finished cross-validation (two folds, two seeds), in a copy of its store."""
    shutil.copytree(_cross_validated / "mlruns", "mlruns", dirs_exist_ok=True)
    (run,) = emotion.runs("tags.kind = 'cross-validation'")
    return str(run.info.run_id)


@pytest.fixture(scope="session")
def _faces_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faces-cache")


@pytest.fixture
def faces(emotion: Emotion, _faces_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `faces`: one folder a class, ten drawn images of happy and ten of sad, 32 px wide."""
    cached = _faces_cache  # of its own: other sets have files of the same names
    with monkeypatch.context() as patch:
        patch.setenv("EMOTION_CACHE_DIR", str(cached))
        emotion("data", "prepare", "--data", FACES, "--output", "drawn.csv")
    table = pd.read_csv("drawn.csv")
    files = {path.name: path for path in cached.rglob("*.png")}
    for label in ("happy", "sad"):
        Path("faces", label).mkdir(parents=True)
        for path in table.loc[table["label"] == label, "path"].head(10):
            shutil.copy(files[Path(path).name], Path("faces", label))
    return Path("faces")


@pytest.fixture(scope="session")
def roles() -> dict[str, str]:
    """What the split table calls the train, val and test part."""
    return PARTS


@pytest.fixture(scope="session")
def drawn() -> str:
    """The data that `tiny` trains on."""
    return FACES


@pytest.fixture(autouse=True)
def _artifacts_where_they_are() -> None:
    """MLflow remembers a run's artifact folder by its id for the whole process; copies of a run are in many folders."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
