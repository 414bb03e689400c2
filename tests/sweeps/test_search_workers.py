"""Several workers of a search: a GPU each, their errors reported, and the winner claimed by one of them."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

import emotion
from datamodules.errors import InputError
from sweeps import search, search_report, workers
from sweeps.search import OPTIONS
from sweeps.workers import address, close, enqueue, exclusive, open_storage, work, work_together, worker_gpus

HERE = Path(__file__).parent
VISIBLE = "CUDA_VISIBLE_DEVICES"
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parents[1]}:{HERE}")


@pytest.fixture
def opened() -> Iterator[Callable[[str], RDBStorage]]:
    """Opens storages that are closed after the test."""
    found: list[RDBStorage] = []

    def begin(url: str) -> RDBStorage:
        found.append(open_storage(url, heartbeat=1, grace=3))
        return found[-1]

    yield begin
    for storage in found:
        close(storage)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None) -> None:
    """Pretend that so many GPUs are visible."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)


@pytest.mark.parametrize(
    ("count", "visible", "workers", "given"),
    [
        (2, None, 5, ["0", "1", "0", "1", "0"]),
        (4, None, 2, ["0", "1"]),
        (2, "5,GPU-7", 3, ["5", "GPU-7", "5"]),
        (1, "3, -1, 4", 2, ["3", "3"]),
        (2, None, 1, [None]),
        (0, None, 2, [None, None]),
        (0, "", 2, [None, None]),
    ],
)
def test_gpus_are_shared_out_in_turn(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None, workers: int, given: list[str | None]
) -> None:
    gpus(monkeypatch, count, visible)
    assert worker_gpus(workers) == given


@pytest.mark.parametrize(("count", "visible", "seen"), [(2, "5,7", ["5", "7"]), (0, None, ["None", "None"])])
def test_each_worker_sees_its_gpu(
    postgresql: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: Callable[[str], RDBStorage],
    count: int,
    visible: str | None,
    seen: list[str],
) -> None:
    from queue_tasks import lines

    gpus(monkeypatch, count, visible)
    name = f"gpus {count}"
    study = optuna.create_study(study_name=name, storage=opened(postgresql), direction="minimize")
    enqueue(study, [{}, {}])
    settings = {"folder": str(workplace), "workers": 2}
    assert work_together(name, address(postgresql), "queue_tasks:gpus", settings, 2) == 0
    assert sorted(lines(workplace)) == seen
    ours = {t.number for t in study.get_trials() if t.user_attrs["worker"].endswith(f":{os.getpid()}")}
    assert len(ours) == 1
    assert os.environ.get(VISIBLE) == visible


@pytest.mark.parametrize(
    ("end", "failed", "told"),
    [("exit 3", 1, "failed with status 3"), ("kill -9 $$", 0, "was killed by SIGKILL"), ("exit 0", 0, None)],
)
def test_the_end_of_a_worker_is_told(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    opened: Callable[[str], RDBStorage],
    end: str,
    failed: int,
    told: str | None,
) -> None:
    url = f"sqlite:///{workplace}/optuna.db"
    study = optuna.create_study(study_name="s", storage=opened(url), direction="minimize")
    enqueue(study, [{}])
    worker = workplace / "worker"
    worker.write_text(f"#!/bin/sh\n{end}\n")
    worker.chmod(0o755)
    monkeypatch.setattr(workers, "sys", SimpleNamespace(executable=str(worker), stderr=workers.sys.stderr))
    assert work_together("s", url, "queue_tasks:square", {"folder": str(workplace)}, 2) == failed
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert lines == ([f"warning: worker 2 of 2 {told}; the others ran its trials"] if told else [])
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE]


def test_a_worker_that_cannot_begin_says_why_in_one_line(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, why in (
        ("postgresql://me:secret@127.0.0.1:1/db", "--storage: postgresql+psycopg://127.0.0.1:1/db must be a data"),
        (f"sqlite:///{workplace}/optuna.db", "KeyError"),
    ):
        monkeypatch.setenv("OPTUNA_STORAGE", url)
        monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
        assert workers.main("nothing", search.TRIAL_TASK) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: a worker of search nothing failed: {why}"), line


def test_a_search_whose_worker_failed_ends_with_status_1(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = SimpleNamespace(failed_workers=0, run_id="parent", winner=SimpleNamespace(run_id="won"))
    monkeypatch.setattr(search, "search", lambda *_, **__: found)
    monkeypatch.setattr(search_report, "search_text", lambda _: "trials")
    assert emotion.main(["search", "--space", "size"]) == 0
    found.failed_workers = 1
    assert emotion.main(["search", "--space", "size"]) == 1
    assert capsys.readouterr().out.count("winner won") == 2


@pytest.fixture
def quick_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner whose training is a wait, and whose run is finished as soon as it is known."""
    monkeypatch.setattr(search, "WINNER_TASK", "queue_tasks:scores")
    monkeypatch.setattr(search, "work", partial(work, heartbeat=1, grace=3))
    monkeypatch.setattr(search, "find_runs", lambda **_: pd.DataFrame({"status": ["FINISHED"]}))
    monkeypatch.setattr(search, "load_table", lambda *_: pd.DataFrame())


def best(number: int) -> optuna.trial.FrozenTrial:
    trial = create_trial(value=0.5, user_attrs={OPTIONS: {}})
    trial.number = number
    return trial


class Scoring(threading.Thread):
    """A machine that scores the winner of a search."""

    def __init__(self, storage: RDBStorage, url: str, name: str, folder: Path, number: int = 3) -> None:
        super().__init__(daemon=True)
        config = SimpleNamespace(as_dict=dict)  # of no use to the wait
        self._given = (name, storage, address(url), config, best(number), str(folder))
        self.found: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.found = search.scored_winner(*self._given)
        except InputError as error:
            self.found = str(error)

    def ended(self) -> Any:
        self.join(90)
        assert not self.is_alive()
        return self.found


def until(true: Callable[[], object]) -> None:
    for _ in range(1200):
        if true():
            return
        threading.Event().wait(0.05)
    pytest.fail("nothing came")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_lock_is_held_while_the_winner_trains(
    kind: str,
    workplace: Path,
    quick_winner: None,
    request: pytest.FixtureRequest,
    opened: Callable[[str], RDBStorage],
) -> None:
    from queue_tasks import lines

    url = f"sqlite:///{workplace}/optuna.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    machine = Scoring(opened(url), url, f"lock {kind}", workplace)
    until(lambda: lines(workplace))
    entered = threading.Event()

    def enter(storage: RDBStorage) -> None:
        with exclusive(storage, f"lock {kind}"), exclusive(storage, f"lock {kind} winner"):
            entered.set()

    threading.Thread(target=enter, args=(opened(url),), daemon=True).start()
    assert entered.wait(20)
    (workplace / "go").touch()
    assert machine.ended() == (search.Winner(3, "run 0", machine.found[0].intervals), ())
    assert Scoring(opened(url), url, f"lock {kind}", workplace).ended()[0].run_id == "run 0"  # not trained again
    later, earlier = Scoring(opened(url), url, f"lock {kind}", workplace, number=4).ended()
    assert (later.trial, later.run_id, earlier) == (4, "run 1", (3,))
    assert len(lines(workplace)) == 2


def test_another_machine_waits_for_the_winner(
    postgresql: str, workplace: Path, quick_winner: None, opened: Callable[[str], RDBStorage]
) -> None:
    from queue_tasks import lines

    both = [Scoring(opened(postgresql), postgresql, "both", workplace) for _ in range(2)]
    until(lambda: lines(workplace))
    threading.Event().wait(3)
    assert all(machine.is_alive() for machine in both)
    (workplace / "go").touch()
    assert {machine.ended()[0].run_id for machine in both} == {"run 0"}
    assert len(lines(workplace)) == 1


def test_another_machine_goes_on_when_the_one_that_trains_the_winner_dies(
    postgresql: str,
    workplace: Path,
    quick_winner: None,
    opened: Callable[[str], RDBStorage],
    start_worker: Callable[..., Any],
) -> None:
    from queue_tasks import lines

    study = optuna.create_study(study_name="dies winner", storage=opened(postgresql), direction="maximize")
    enqueue(study, [{"trial": 3, "options": {}, "attempt": 0}])
    worker = start_worker("dies winner", postgresql, "queue_tasks:scores", {"parent": str(workplace)})
    until(lambda: lines(workplace))
    machine = Scoring(opened(postgresql), postgresql, "dies", workplace)
    worker.kill()
    until(lambda: len(lines(workplace)) == 2)
    (workplace / "go").touch()
    assert machine.ended()[0].run_id == "run 1"
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_winner_that_cannot_be_trained_is_told_and_tried_again(
    workplace: Path, quick_winner: None, opened: Callable[[str], RDBStorage]
) -> None:
    url = f"sqlite:///{workplace}/optuna.db"
    for name in ("go", "fails"):
        (workplace / name).touch()
    told = Scoring(opened(url), url, "poor", workplace).ended()
    assert told == "search poor: the winner (trial 3) was not scored: no memory; run the same command again"
    (workplace / "fails").unlink()
    assert Scoring(opened(url), url, "poor", workplace).ended()[0].run_id == "run 1"
