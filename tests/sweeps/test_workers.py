"""Queue of trials: they are added once, run once, fail alone, and are queued again if their worker ends."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from datamodules.errors import InputError
from results.tracking.store import DIRECTORY
from sweeps.workers import (
    MOST_RETRIES,
    _claim,
    address,
    close,
    distinct_trials,
    enqueue,
    exclusive,
    only_worker,
    open_storage,
    outcome_of,
    require_one_worker,
    work,
)

HERE = Path(__file__).parent
Start = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def url(workplace: Path) -> str:
    return f"sqlite:///{workplace}/optuna.db"


_opened: list[RDBStorage] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _opened:
        close(_opened.pop())


def new_study(url: str, name: str = "s") -> optuna.Study:
    _opened.append(open_storage(url, heartbeat=1, grace=3))
    return optuna.create_study(study_name=name, storage=_opened[-1], direction="minimize")


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)


def test_adding_twice_adds_once(url: str) -> None:
    study = new_study(url)
    assert enqueue(study, [{"a": 1}, {"a": 2}, {}, {}]) == 4
    assert enqueue(study, [{"a": 2}, {"a": 1}, {}, {}, {}]) == 1
    assert [trial.user_attrs["enqueued"] for trial in study.get_trials()] == [{"a": 1}, {"a": 2}, {}, {}, {}]
    assert {trial.state for trial in study.get_trials()} == {TrialState.WAITING}
    assert enqueue(study, [{"a": 1, "b": 2}]) == 1
    assert enqueue(study, [{"b": 2, "a": 1}]) == 0  # the order of parameters means nothing


def test_a_lost_trial_that_was_queued_again_counts_once(url: str) -> None:
    study = new_study(url)
    enqueue(study, [{"a": 1}])
    with pytest.warns(UserWarning, match="Heartbeat"):
        study.ask()
    study.tell(0, state=TrialState.FAIL)  # without a reason of its own: it was lost with its worker
    RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[0])  # as the next worker does
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]
    assert enqueue(study, [{"a": 1}]) == 0
    assert enqueue(study, [{"a": 1}, {"a": 1}]) == 1


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_a_trial_that_was_stopped_too_often_is_added_again(url: str) -> None:
    study = new_study(url)
    enqueue(study, [{"x": 1}])
    stops = 0
    while (trial := _claim(study)) is not None:  # it is queued again by itself a few times
        study.tell(trial.number, state=TrialState.FAIL)
        stops += 1
    assert stops == 1 + MOST_RETRIES
    assert enqueue(study, [{"x": 1}]) == 1
    assert _claim(study) is not None


def test_every_trial_runs_once_and_a_bad_one_fails_alone(url: str, workplace: Path) -> None:
    study = new_study(url)
    hows = ["raises", "explains", "exits", "leaves", "killed", "pruned", "nan", "inf", "two", "fine"]
    enqueue(study, [{"how": how} for how in hows])
    work("s", url, "queue_tasks:ends", {"folder": str(workplace)}, progress=False)
    found = {trial.user_attrs["enqueued"]["how"]: trial for trial in study.get_trials()}
    states = {how: trial.state for how, trial in found.items()}
    assert states == {
        **dict.fromkeys(hows, TrialState.FAIL),
        "pruned": TrialState.PRUNED,
        "fine": TrialState.COMPLETE,
    }
    reasons = {how: trial.user_attrs.get("error") for how, trial in found.items()}
    assert reasons == {
        "raises": "RuntimeError: CUDA out of memory, or so",
        "explains": "data: no such folder",
        "exits": "SystemExit: 3",
        "leaves": "its process ended with status 4 and left no result",
        "killed": "its process was ended by SIGKILL; the system does so when memory runs out",
        "pruned": None,
        "nan": "the objective must be a finite number, got nan",
        "inf": "the objective must be a finite number, got inf",
        "two": "the study has 1 objectives, the trial gave 2",
        "fine": None,
    }
    assert "ends" in found["raises"].user_attrs["traceback"]
    assert study.best_trial.user_attrs["enqueued"] == {"how": "fine"}

    work("s", url, "queue_tasks:ends", {}, progress=False)  # nothing is left: nothing is run again
    assert len(study.get_trials()) == len(hows)
    assert enqueue(study, [{"how": how} for how in hows]) == 0
    assert enqueue(study, [{"how": how} for how in hows], retry_failed=True) == 8


def test_an_objective_is_finite_and_of_the_right_number() -> None:
    assert outcome_of(1, 1).values == (1.0,)
    assert outcome_of((1.0, 2.0), 2).state == TrialState.COMPLETE
    assert outcome_of((1.0, float("-inf")), 2).state == TrialState.FAIL


def test_a_killed_worker_takes_its_trial_along_and_loses_nothing(
    url: str, workplace: Path, start_worker: Start
) -> None:
    from queue_tasks import lines

    study = new_study(url)
    enqueue(study, [{}, {}])
    worker = start_worker("s", url, "queue_tasks:waits", {"folder": str(workplace)}, fresh=True)
    until(lambda: lines(workplace))
    pids = [int(pid) for pid in lines(workplace)[0].split()]
    with pytest.raises(InputError, match=r"--storage: another worker is using .*one at a time"):
        work("s", url, "queue_tasks:waits", {}, progress=False)
    worker.kill()
    worker.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 20)

    (workplace / "go").touch()
    work("s", url, "queue_tasks:waits", {"folder": str(workplace)}, progress=False)
    assert Counter(trial.state for trial in study.get_trials()) == {TrialState.COMPLETE: 2, TrialState.FAIL: 1}
    assert [trial.state for trial in distinct_trials(study)] == [TrialState.COMPLETE] * 2
    assert enqueue(study, [{}, {}]) == 0


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_a_stopped_worker_queues_its_trial_at_once(
    url: str, workplace: Path, start_worker: Start, how: int, status: int
) -> None:
    from queue_tasks import lines

    study = new_study(url)
    enqueue(study, [{}])
    worker = start_worker("s", url, "queue_tasks:waits", {"folder": str(workplace)})
    until(lambda: lines(workplace))
    worker.send_signal(how)
    assert worker.wait(20) in (status, 130, 1)
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]
    assert not os.path.exists(f"/proc/{lines(workplace)[0].split()[0]}")


def test_what_was_failed_for_lost_but_not_queued_is_queued_later(url: str, workplace: Path) -> None:
    """Its finder was killed between the two."""
    study = new_study(url)
    enqueue(study, [{}])
    with pytest.warns(UserWarning, match="Heartbeat"):
        study.ask()
    study.tell(0, state=TrialState.FAIL)
    work("s", url, "queue_tasks:square", {"folder": str(workplace)}, progress=False)
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.COMPLETE]
    work("s", url, "queue_tasks:square", {"folder": str(workplace)}, progress=False)
    assert len(study.get_trials()) == 2


def test_workers_on_postgresql_share_the_trials(postgresql: str, workplace: Path, start_worker: Start) -> None:
    """One of two is killed in the middle of a trial: that trial alone is run a second time."""
    from queue_tasks import lines

    study = new_study(postgresql, "shared")
    enqueue(study, [{}] * 12)
    settings = {"folder": str(workplace), "seconds": 0.4}
    workers = [start_worker("shared", postgresql, "queue_tasks:square", settings) for _ in range(2)]
    complete = (TrialState.COMPLETE,)
    until(lambda: len({trial.user_attrs["worker"] for trial in study.get_trials(states=complete)}) == 2)
    workers[0].kill()
    assert workers[1].wait(120) == 0
    each = distinct_trials(study)
    assert len(each) == 12
    assert {trial.state for trial in each} == {TrialState.COMPLETE}
    assert Counter(trial.state for trial in study.get_trials())[TrialState.FAIL] <= 1
    ran = [line.split()[0] for line in lines(workplace)]
    assert len(ran) == len(set(ran)) <= 13
    # a worker that is killed right after it took a trial has not written its name there
    assert len({trial.user_attrs["worker"] for trial in study.get_trials() if "worker" in trial.user_attrs}) == 2
    assert len({trial.params["x"] for trial in each}) == 12


def test_adding_at_once_on_postgresql_adds_once(
    postgresql: str, workplace: Path, start_python: Callable[..., Any]
) -> None:
    new_study(postgresql, "at once")
    code = (
        "import optuna; from sweeps.workers import enqueue; from sweeps.workers import open_storage;"
        f"study = optuna.load_study(study_name='at once', storage=open_storage('{postgresql}'));"
        "print(enqueue(study, [{}] * 20))"
    )
    both = [start_python(code, (), {**os.environ, "PYTHONPATH": str(HERE.parents[1])}) for _ in range(2)]
    assert sum(int(one.communicate()[0].split()[-1]) for one in both) == 20


def test_kinds_of_storage() -> None:
    assert address("postgres://me:secret@host/db") == "postgresql+psycopg://me:secret@host/db"
    assert address("sqlite:////absolute/x.db") == "sqlite:////absolute/x.db"
    for wrong in ("mysql://me:secret@host/db", "optuna.db", "sqlite://", "sqlite:///:memory:", "postgresql://"):
        with pytest.raises(InputError, match=r"--storage: a file .* or PostgreSQL .*, got ") as caught:
            address(wrong)
        assert "secret" not in str(caught.value)


def test_the_environment_names_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://host/db")
    assert address() == "postgresql+psycopg://host/db"
    monkeypatch.delenv("OPTUNA_STORAGE")
    assert address() == f"sqlite:///{DIRECTORY}/optuna.db"


def test_a_server_that_does_not_answer_is_told_without_the_password() -> None:
    with pytest.raises(InputError, match=r"127.0.0.1:1/db must be a database that answers") as caught:
        open_storage("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_storage_is_reached_without_what_takes_seconds() -> None:
    code = "import sys, sweeps.workers; print(sorted({'mlflow', 'torch'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[1], check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_lock_is_of_one_study(url: str) -> None:
    storage = new_study(url)._storage._backend  # type: ignore[attr-defined] # behind Optuna's cache
    with exclusive(storage, "one winner"):  # which trains for minutes
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "two")
        assert enqueue(optuna.load_study(study_name="two", storage=storage), [{}]) == 1


def test_several_workers_need_postgresql(url: str) -> None:
    require_one_worker("postgresql+psycopg://host/db", 4)
    require_one_worker(url, 1)
    with pytest.raises(InputError, match=r"--workers: 2 workers need PostgreSQL.*database is locked"):
        require_one_worker(url, 2)
    with only_worker(url), pytest.raises(InputError, match="another worker is using"), only_worker(url):
        pass
