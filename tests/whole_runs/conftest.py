"""Whole runs on a few drawn faces: an empty place to run in and the shortest options."""

import shutil
from pathlib import Path

import pytest

from results.tracking.store import ensure_store

TINY = (
    *("--data", "drawn:largest=40,ratio=2,size=32", "--data.size", "32", "--data.batch_size", "32"),
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--model.loss", "CrossEntropy"),
    *("--data.n_min", "0.9", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--run.resamples", "100"),
    *("--trainer.enable_progress_bar", "false"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "whole_runs" in item.path.parts:  # LightningCLI 2.6 calls what jsonargparse 4.49 deprecated
            item.add_marker(
                pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
            )


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The shortest options of a training, without the number of folds."""
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


@pytest.fixture(autouse=True)
def _not_drawn(blank_figures: None) -> None:
    """The figures of a run that a test makes are blank."""


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with an empty store."""
    shutil.copytree(empty_store, tmp_path / "mlruns")
    monkeypatch.chdir(tmp_path)
    return tmp_path
