"""Whole runs on a few drawn faces: an empty place to run in, the shortest options, and one run made once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import emotion
from datamodules.readers import read
from records.runs import find_runs
from records.store import ensure_store

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("--data", "drawn:largest=40,ratio=2,size=32", "--data.size", "32", "--data.batch_size", "32"),
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--model.loss", "CrossEntropy"),
    *("--data.n_min", "0.9", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--run.resamples", "100"),
    *("--trainer.enable_progress_bar", "false"),
)
ONE_RUN = (*TINY, "--data.folds", "4")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "whole_runs" in item.path.parts:  # LightningCLI 2.6 calls what jsonargparse 4.49 deprecated
            item.add_marker(
                pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
            )
            item.add_marker(pytest.mark.filterwarnings("ignore:transform_where is copies, but no class"))


@pytest.fixture(scope="session")
def one_run() -> tuple[str, ...]:
    """Options of the shortest `emotion fit`."""
    return ONE_RUN


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The same without the number of folds, which a cross-validation sets."""
    return TINY


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "mlruns"
    ensure_store(directory)
    return directory


@pytest.fixture(autouse=True)
def _no_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run sets these for the processes it starts; no other test may see them."""
    for name in ("EMOTION_RUN_ID", "PL_GLOBAL_SEED", "PL_SEED_WORKERS", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with an empty store."""
    shutil.copytree(empty_store, tmp_path / "mlruns")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(empty_store, folder / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert emotion.main(["fit", *ONE_RUN]) == 0
        return folder, str(find_runs().iloc[0]["run_id"])


@pytest.fixture
def finished(_finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a finished run in a copy of its folder, which is the current one: runs may be moved."""
    folder, run_id = _finished
    shutil.copytree(folder / "mlruns", tmp_path / "mlruns")
    monkeypatch.chdir(tmp_path)
    return run_id


@pytest.fixture
def few_pictures(tmp_path: Path) -> Path:
    """A folder a class: ten happy and ten sad faces, 32 pixels wide."""
    faces = read("drawn:largest=40,ratio=2,size=32")
    for name in ("happy", "sad"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for row in faces.table.index[faces.table["label"] == name][:10]:
            shutil.copy(faces.file(row), tmp_path / "few" / name / f"{row}.png")
    return tmp_path / "few"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `emotion ...` as a process of its own in the current folder; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, **environment: str) -> subprocess.Popen[str]:
        new = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
        started.append(
            subprocess.Popen(
                [sys.executable, "-u", str(ROOT / "emotion.py"), *words],
                env=new,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.communicate()
