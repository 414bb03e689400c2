"""A run made before it begins: it can begin while the store is away, and one that never begins can be taken back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.errors import InputError
from results.tracking import store
from results.tracking.logger import TrackingLogger
from results.tracking.runs import children, find_runs, replay_spools

NewLogger = Callable[..., TrackingLogger]


def away(*_: object, **__: object) -> None:
    msg = "MLFLOW_TRACKING_URI: the tracking store must answer"
    raise InputError(msg)


def test_a_reserved_run_begins_without_the_store(
    mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = new_logger(run_name="parent")
    run_id = new_logger(run_name="fold 1", parent_run_id=parent.run_id, tags={"fold": "1"}).reserve()
    assert run_id not in replay_spools()
    (before,) = children(str(parent.run_id)).to_dict("records")
    assert (before["run_id"], before["status"], before["tags.fold"]) == (run_id, "SCHEDULED", "1")
    assert "tags.git_commit" not in before

    begun = new_logger(run_id=run_id, run_name="fold 1 of faces", tags={"manifest": "abc"})
    with monkeypatch.context() as patch:
        patch.setattr(store, "open_client", away)
        with pytest.raises(InputError, match="must answer"):
            new_logger(run_name="new").open()
        begun.log_metrics({"val/f1_macro": 0.5}, 0)
        begun.finalize("success")
    (after,) = children(str(parent.run_id)).to_dict("records")
    assert (after["run_id"], after["status"], after["name"]) == (run_id, "FINISHED", "fold 1 of faces")
    assert (after["tags.manifest"], after["metrics.val/f1_macro"]) == ("abc", 0.5)
    assert after["tags.git_commit"]  # the environment is that of the beginning, and kept once
    journal = [json.loads(line) for line in (begun.run_folder / "spool" / "journal.jsonl").read_text().splitlines()]
    assert [one["to"] for one in journal if one["op"] == "file"] == ["environment.json"]

    again = new_logger(run_id=run_id, tags={"manifest": "other"})
    again.log_metrics({"val/f1_macro": 0.6}, 1)
    again.finalize("success")
    assert children(str(parent.run_id)).iloc[0]["tags.manifest"] == "abc"


def test_a_run_goes_on_without_the_store_where_its_spool_is(
    mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_logger()
    first.log_metrics({"loss": 1.0}, 0)
    first.finalize("interrupted")
    with monkeypatch.context() as patch:
        patch.setattr(store, "open_client", away)
        second = new_logger(run_id=first.run_id)
        second.log_metrics({"loss": 2.0}, 0)  # a step that was logged stays as it is
        second.log_metrics({"loss": 3.0}, 1)
        second.finalize("success")
        with pytest.raises(InputError, match="must answer"):
            new_logger(run_id="f" * 32).open()
    history = second.experiment.get_metric_history(str(first.run_id), "loss")
    assert sorted((one.step, one.value) for one in history) == [(0, 1.0), (1, 3.0)]


def test_only_a_run_that_never_began_is_withdrawn(mlruns: Path, new_logger: NewLogger) -> None:
    never, begun = new_logger(run_name="never"), new_logger(run_name="begun")
    never.reserve()
    begun.reserve()
    begun.log_metrics({"loss": 1.0}, 0)
    begun.finalize("interrupted")
    never.withdraw()
    begun.withdraw()
    assert dict(find_runs()[["name", "status"]].to_numpy()) == {"begun": "KILLED"}
    assert not never.run_folder.exists()
    assert begun.run_folder.exists()
