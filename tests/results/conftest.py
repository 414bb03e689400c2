"""A store that is created once and copied for each test, and random prediction tables."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.tracking.logger import TrackingLogger
from results.tracking.store import ensure_store

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 deprecates; nothing here can change that.
_NOLOAD = "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(_NOLOAD))


CLASSES = ("angry", "happy", "sad", "neutral")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "mlruns"
    ensure_store(directory)
    return directory


@pytest.fixture
def mlruns(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `mlruns` with an empty store, in the current folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(empty_store, tmp_path / "mlruns"))


@pytest.fixture
def new_logger() -> Iterator[Callable[..., TrackingLogger]]:
    """Makes loggers that send often and measure nothing, and closes them."""
    made: list[TrackingLogger] = []

    def make(**options: object) -> TrackingLogger:
        made.append(TrackingLogger(**{"system_metrics": False, "send_every": 0.05, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for logger in made:
        logger.close()


@pytest.fixture
def draw_predictions() -> Callable[..., pd.DataFrame]:
    """Draws a prediction table: `skill` moves probability to the true class, clusters hold `cluster_size` images."""

    def draw(images: int = 400, *, seed: int = 0, skill: float = 1.5, cluster_size: int = 1) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        count = len(CLASSES)
        label = np.repeat(generator.choice(count, -(-images // cluster_size), p=[0.1, 0.5, 0.2, 0.2]), cluster_size)
        label = label[:images]
        logits = generator.normal(size=(images, count))
        logits[np.arange(images), label] += skill
        probability = np.exp(logits)
        probability /= probability.sum(axis=1, keepdims=True)
        names = np.array(CLASSES, dtype=object)
        table = pd.DataFrame({"row": np.arange(images), "path": [f"{i}.png" for i in range(images)]})
        table["content"] = [f"{i:032x}" for i in range(images)]
        table["cluster"] = np.arange(images) // cluster_size
        table["subject"] = ""
        table["fold"] = table["cluster"] % 5
        table["label"] = names[label]
        table["predicted"] = names[probability.argmax(axis=1)]
        return pd.concat([table, pd.DataFrame(probability, columns=[f"prob_{name}" for name in CLASSES])], axis=1)

    return draw
