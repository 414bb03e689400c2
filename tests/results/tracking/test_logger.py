"""A run in the embedded store: entries arrive once, also after a crash or a resume; heartbeat; reserved runs."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch.utils.data import DataLoader, TensorDataset

from datamodules.errors import InputError
from results.tracking import logger, store
from results.tracking.logger import FRESH, TAG, TrackingLogger, refuse_written, this_process
from results.tracking.runs import (
    children,
    download,
    find_run,
    find_runs,
    find_trained_run,
    find_whole_run,
    load_table,
    replay_spools,
    run_config,
    run_row,
)
from results.tracking.store import ensure_store, tracking_uri

NewLogger = Callable[..., TrackingLogger]
ROOT = str(Path(__file__).resolve().parents[3])


def _history(logger: TrackingLogger, key: str) -> list[tuple[int, float]]:
    history = logger.experiment.get_metric_history(str(logger.run_id), key)
    return sorted((metric.step, metric.value) for metric in history)


def test_a_run_has_a_model_with_its_scores_and_an_evaluation_adds_to_it(mlruns: Path, new_logger: NewLogger) -> None:
    trained = new_logger(run_name="quick, fold 1/5")
    trained.log_hyperparams({"data": {"size": 48}})
    trained.log_dataset("faces", "drawn", "0" * 40)
    trained.log_metrics({"test/f1_macro": 0.25}, 7)
    trained.log_model_scores({"test/f1_macro": 0.25, "test/f1_macro_low": 0.125})
    trained.log_model_scores({"test/f1_macro": 0.25, "test/f1_macro_low": 0.125})
    trained.finalize()
    spool = trained.run_folder / "spool"
    (spool / "sent").unlink()  # as if the process had ended before anything was marked as sent
    new_logger(run_id=trained.run_id).open().close()

    evaluation = new_logger(run_name="quick on others")
    evaluation.log_dataset("others", "folder", "1" * 40)
    evaluation.log_model_scores({"test/f1_macro": 0.5}, evaluated=[str(trained.run_id)])
    evaluation.finalize()
    ensemble = new_logger(run_name="two networks")
    ensemble.log_model_scores({"test/f1_macro": 0.75}, evaluated=[])
    ensemble.finalize()

    client = trained.experiment
    experiment = client.get_run(str(trained.run_id)).info.experiment_id
    (model,) = client.search_logged_models([experiment])
    assert (model.name, str(model.status), model.source_run_id) == (
        "quick_ fold 1_5", "READY", trained.run_id
    )  # fmt: skip
    assert model.params == {"data.size": "48"}
    scores = {(score.key, score.value, score.dataset_name, score.run_id) for score in model.metrics}
    assert scores == {
        ("test/f1_macro", 0.25, "faces", trained.run_id),
        ("test/f1_macro_low", 0.125, "faces", trained.run_id),
        ("test/f1_macro", 0.5, "others", evaluation.run_id),
    }
    assert _history(trained, "test/f1_macro") == [(7, 0.25)]
    used = client.get_run(str(evaluation.run_id)).inputs.model_inputs
    assert [entry.model_id for entry in used] == [model.model_id]


def test_two_runs_that_log_one_data_set_at_once_both_arrive(
    mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_inputs, refused = MlflowClient.log_inputs, []

    def refuse_first(client: MlflowClient, run_id: str, *args: Any, **options: Any) -> None:
        if not refused:  # as SQLite answers when the other run's entry came first
            refused.append(run_id)
            message = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name"
            raise MlflowException(message)
        log_inputs(client, run_id, *args, **options)

    monkeypatch.setattr(MlflowClient, "log_inputs", refuse_first)
    logger = new_logger()
    logger.log_dataset("faces", "drawn", "0" * 40)
    logger.finalize()
    run = logger.experiment.get_run(str(logger.run_id))
    assert refused == [logger.run_id]
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["faces"]
    assert run.info.status == "FINISHED"


def test_everything_a_run_logs_arrives(mlruns: Path, new_logger: NewLogger, tmp_path: Path) -> None:
    logger = new_logger(experiment="faces", run_name="처음 run", tags={"recipe": "quick"})
    logger.log_hyperparams({"model": {"loss": {"gamma": 2.0}}, "classes": ["a", "b"], "empty": None})
    for step in range(5):
        logger.log_metrics({"train/loss": torch.tensor(1.0 / (step + 1)), "val/f1 [%]": step}, step)
    logger.log_metrics({"bad": float("nan"), "big": float("inf")}, 0)
    table = pd.DataFrame({"row": [1, 2], "label": ["기쁨", "sad"]})
    logger.log_table(table, "predictions")
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    logger.log_figure(figure, "curves")
    logger.log_text("model: {loss: focal}\n", "config.yaml")
    (tmp_path / "note.txt").write_text("hello")
    logger.log_file(tmp_path / "note.txt", "notes")
    logger.log_dataset("drawn", "drawn:largest=10", "f" * 64, profile={"images": 20})
    logger.finalize("success")

    run = logger.experiment.get_run(logger.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "처음 run")
    assert run.data.params == {"model.loss.gamma": "2.0", "classes": "['a', 'b']", "empty": "None"}
    assert _history(logger, "train/loss") == [(step, pytest.approx(1 / (step + 1))) for step in range(5)]
    assert _history(logger, "val/f1 ___") == [(step, float(step)) for step in range(5)]
    assert np.isnan(run.data.metrics["bad"])
    assert run.data.metrics["big"] > 1e300
    assert {"recipe", "git_commit", "lock_sha256", "python"} <= run.data.tags.keys()
    dataset = run.inputs.dataset_inputs[0].dataset
    profile = {"images": 20, "digest": "f" * 64}
    assert (dataset.name, dataset.digest, json.loads(dataset.profile)) == ("drawn", "f" * 36, profile)
    pd.testing.assert_frame_equal(load_table(logger.run_id, "predictions"), table)
    assert run_config(logger.run_id) == {"model": {"loss": "focal"}}
    assert download(logger.run_id, "notes/note.txt").read_text() == "hello"
    assert download(logger.run_id, "figures/curves.png").stat().st_size > 1000
    assert "version_torch" in json.loads(download(logger.run_id, "environment.json").read_text())
    assert not list(logger.run_folder.glob("spool/files/*"))  # nothing is kept twice
    assert 0 < logger.seconds < 10


def test_runs_are_found(mlruns: Path, new_logger: NewLogger) -> None:
    parent = new_logger(run_name="cv", tags={"kind": "cross-validation"})
    parent.open()
    for fold in range(2):
        child = new_logger(run_name=f"fold {fold}", parent_run_id=parent.run_id)
        child.log_metrics({"test/f1_macro": 0.5 + fold / 10})
        child.finalize("failed" if fold else "success")
    found = children(str(parent.run_id))
    assert found["name"].tolist() == ["fold 0", "fold 1"]
    assert found["status"].tolist() == ["FINISHED", "FAILED"]
    assert found["metrics.test/f1_macro"].tolist() == [0.5, 0.6]
    assert len(find_runs()) == 3
    assert len(find_runs("another")) == 0
    assert find_runs(where='metrics."test/f1_macro" > 0.55')["name"].tolist() == ["fold 1"]
    assert find_run("cv") == find_run(str(parent.run_id)[:12]) == parent.run_id
    assert find_run("latest") == child.run_id
    assert find_whole_run("latest") == parent.run_id  # what reports speak of
    assert find_whole_run("fold 1") == child.run_id
    with pytest.raises(InputError, match="there is no run 'fold'"):
        find_run("fold")
    with pytest.raises(InputError, match=r"no artifact 'tables/none\.parquet'; its artifacts: environment\.json"):
        load_table(str(child.run_id), "none")


def test_the_latest_trained_run_has_a_classifier(mlruns: Path, new_logger: NewLogger) -> None:
    runs = {}
    for kind, parent in (("run", None), ("trial", None), ("run", "trial"), ("detector", None), ("evaluation", None)):
        logger = new_logger(
            run_name=f"{kind} of {parent}", tags={"kind": kind}, parent_run_id=runs.get(parent) if parent else None
        )
        logger.open()
        logger.finalize("success")
        runs[kind if parent is None else f"{kind} of {parent}"] = logger.run_id
    assert find_run("latest") == runs["evaluation"]
    assert find_trained_run("latest") == runs["run"]  # a search keeps no model of a trial's folds
    assert find_trained_run("latest", finished=False) == runs["detector"]  # to be resumed


def test_resumed_run_has_one_value_a_step_and_ends_finished(mlruns: Path, new_logger: NewLogger) -> None:
    first = new_logger()
    first.log_hyperparams({"epochs": 5})
    for step in range(10):
        first.log_metrics({"train/loss": step}, step)
    first.log_metrics({"best": 1.0})
    first.finalize("failed")
    second = new_logger(run_id=first.run_id)
    for step in range(7, 13):  # three steps are done again
        second.log_metrics({"train/loss": 100 + step}, step)
    second.log_metrics({"best": 1.0})
    second.log_hyperparams({"epochs": 8, "more": 1})
    second.finalize("success")
    expected = [(step, float(step)) for step in range(10)] + [(step, 100.0 + step) for step in range(10, 13)]
    assert _history(second, "train/loss") == expected
    assert _history(second, "best") == [(0, 1.0)]
    assert second.history("train/loss")["train/loss"].tolist() == [value for _, value in expected]
    run = second.experiment.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "5", "more": "1"}
    assert run.data.tags["resumed.epochs"] == "8"
    assert len(find_runs()) == 1


def test_resume_without_the_local_folder_asks_the_store(mlruns: Path, new_logger: NewLogger) -> None:
    first = new_logger()
    first.log_metrics({"loss": 1.0}, 3)
    first.finalize("interrupted")
    assert first.experiment.get_run(first.run_id).info.status == "KILLED"
    shutil.rmtree(first.run_folder)
    second = new_logger(run_id=first.run_id)
    second.log_metrics({"loss": 2.0}, 3)
    second.log_metrics({"loss": 3.0}, 4)
    second.finalize()
    assert _history(second, "loss") == [(3, 1.0), (4, 3.0)]


def test_killed_process_loses_nothing(mlruns: Path, new_logger: NewLogger, start_python: Callable[..., Any]) -> None:
    script = """
import os, signal
from results.tracking.logger import TrackingLogger
logger = TrackingLogger(system_metrics=False, send_every=60)
print(logger.run_id, flush=True)
for step in range(40):
    logger.log_metrics({"loss": step / 2}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start_python(script, (), {**os.environ, "PYTHONPATH": ROOT})
    out, _ = process.communicate(timeout=120)
    assert process.returncode == -9, out
    run_id = out.split()[-1]
    journal = mlruns / "runs" / run_id / "spool" / "journal.jsonl"
    with open(journal, "a") as file:
        file.write('{"op": "metrics", "step": 4')  # a line that the kill tore
    second = new_logger(run_id=run_id)
    for step in range(30, 50):
        second.log_metrics({"loss": step / 2}, step)
    second.finalize()
    assert _history(second, "loss") == [(step, step / 2) for step in range(50)]
    assert second.experiment.get_run(run_id).info.status == "FINISHED"


def test_two_processes_make_one_store_quietly(tmp_path: Path, start_python: Callable[..., Any]) -> None:
    script = "import sys; from results.tracking.store import ensure_store; print(ensure_store(sys.argv[1]))"
    both = [start_python(script, [str(tmp_path / "mlruns")], {**os.environ, "PYTHONPATH": ROOT}) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, f"sqlite:///{tmp_path}/mlruns/mlflow.db\n")


def test_a_lost_answer_doubles_nothing(
    mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = new_logger()
    client = logger.open().client
    send, failures, lost = client.log_batch, iter([True, True, False]), MlflowException("the answer was lost")

    def unreliable(*args: Any, **kwargs: Any) -> None:
        send(*args, **kwargs)
        if kwargs.get("metrics") and next(failures, False):
            raise lost

    monkeypatch.setattr(client, "log_batch", unreliable)
    for step in range(20):
        logger.log_metrics({"loss": step}, step)
    logger.close()
    monkeypatch.undo()
    logger.log_metrics({"loss": 20}, 20)
    logger.finalize()
    assert _history(logger, "loss") == [(step, float(step)) for step in range(21)]
    assert any("does not answer" in record.message for record in caplog.records)


def test_an_entry_the_store_refuses_holds_up_nothing(
    mlruns: Path, new_logger: NewLogger, caplog: pytest.LogCaptureFixture
) -> None:
    logger = new_logger()
    logger.log_metrics({"x" * 300: 1.0, "good": 2.0}, 0)
    logger.log_metrics({"good": 3.0}, 1)
    logger.finalize()
    assert _history(logger, "good") == [(0, 2.0), (1, 3.0)]
    assert "x" * 300 in (logger.run_folder / "spool" / "rejected.jsonl").read_text()
    assert any("refuses an entry" in record.getMessage() for record in caplog.records)


def test_moved_and_copied_folders_keep_their_artifacts(mlruns: Path, new_logger: NewLogger) -> None:
    logger = new_logger()
    logger.log_table(pd.DataFrame({"a": [1]}), "t")
    logger.finalize()
    run_id = str(logger.run_id)
    copied = Path(shutil.copytree(mlruns, mlruns.parent / "copied" / "mlruns"))
    moved = Path(shutil.move(mlruns, mlruns.parent / "moved"))
    before = (moved / "mlflow.db").read_bytes()
    assert load_table(run_id, "t", directory=moved)["a"].tolist() == [1]
    assert (moved / "mlflow.db").read_bytes() == before  # reading writes nothing
    for directory in (moved, copied):
        second = new_logger(run_id=run_id, directory=str(directory))
        second.log_text("here", "where.txt")
        second.finalize()
        third = new_logger(directory=str(directory))
        third.log_text("new", "new.txt")
        third.finalize()
        assert (directory / "artifacts" / run_id / "artifacts" / "where.txt").read_text() == "here"
        assert (directory / "artifacts" / str(third.run_id) / "artifacts" / "new.txt").exists()
        uri = second.experiment.get_run(run_id).info.artifact_uri
        assert uri == str(directory / "artifacts" / run_id / "artifacts")
    assert not mlruns.exists()


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TrackingLogger()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.log_hyperparams({"a": 1})
    logger.log_table(pd.DataFrame({"a": [1]}), "t")
    assert logger.experiment is not None
    assert logger.version is None
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_every_page_are_found(mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = new_logger(experiment="a")
    made = {new_logger(experiment=name, parent_run_id=parent.run_id).run_id for name in ("b", "c", "d")}
    experiments, runs = MlflowClient.search_experiments, MlflowClient.search_runs

    def one(self: MlflowClient, view: int = 1, page_token: str | None = None, **_: object) -> object:
        return experiments(self, view, max_results=1, page_token=page_token)

    def two(self: MlflowClient, of: list[str], where: str, view: int, most: int, page_token: str | None) -> object:
        return runs(self, of, where, view, min(most, 2), page_token=page_token)

    monkeypatch.setattr(MlflowClient, "search_experiments", one)
    monkeypatch.setattr(MlflowClient, "search_runs", two)
    assert set(find_runs()["run_id"]) == {*made, parent.run_id}
    assert set(children(str(parent.run_id))["run_id"]) == made


def test_one_process_at_a_time_writes_a_run(
    mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = new_logger()
    logger.log_metrics({"loss": 1.0}, 0)
    monkeypatch.setattr("results.tracking.logger.LOCK_SECONDS", 0.2)
    with pytest.raises(InputError, match="is being written by another process"):
        new_logger(run_id=logger.run_id).open()
    assert all("left" in what for what in replay_spools().values())
    travelled = pickle.loads(pickle.dumps(logger))  # spawned processes get the logger so
    travelled.log_metrics({"loss": 2.0}, 1)
    travelled.finalize()
    assert _history(travelled, "loss") == [(0, 1.0), (1, 2.0)]


def test_bad_addresses_are_clear_errors(mlruns: Path, new_logger: NewLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="run_id: no run 'nothing' in sqlite"):
        new_logger(run_id="nothing").open()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    assert tracking_uri() == "http://user:secret@127.0.0.1:9"
    with pytest.raises(InputError, match=r"must answer, http://127\.0\.0\.1:9 did not") as caught:
        new_logger().open()
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: the tracking store must answer"):
        new_logger().open()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match="no runs are kept here"):
        find_runs(directory="elsewhere")
    assert not Path("elsewhere").exists()
    Path("file").write_text("")
    with pytest.raises(InputError, match=r"directory: writing runs to .*file"):
        ensure_store("file")


class _Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"width": 1})
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def test_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("test/loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning under torch 2.15
@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
def test_lightning_writes_one_run_over_fit_and_test(mlruns: Path, new_logger: NewLogger) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logger = new_logger()
    data = DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=2,
        logger=logger,
        accelerator="cpu",
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Line(), data)
    assert logger.experiment.get_run(logger.run_id).info.status == "FINISHED"
    trainer.test(_Line(), data, verbose=False)
    logger.finalize("success")
    run = logger.experiment.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert len(_history(logger, "train/loss")) == 8
    assert len(_history(logger, "test/loss")) == 1
    assert run.data.params["width"] == "1"
    assert list(logger.run_folder.glob("checkpoints/*.ckpt"))
    assert len(find_runs()) == 1


def tags(**changes: Any) -> dict[str, str]:
    return {TAG: json.dumps({**this_process(), "seen": time.time(), **changes})}


def seen(run_id: str) -> float:
    return float(json.loads(run_row(run_id).get(f"tags.{TAG}", '{"seen": 0}'))["seen"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_is_tagged_while_it_is_written(
    mlruns: Path, new_logger: Callable[..., TrackingLogger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "EVERY", 0.1)
    tracker = new_logger()
    run_id = str(tracker.run_id)
    until(lambda: seen(run_id) > 0)
    first = seen(run_id)
    until(lambda: seen(run_id) > first)
    writer = json.loads(run_row(run_id)[f"tags.{TAG}"])
    assert {name: writer[name] for name in this_process()} == this_process()
    tracker.finalize("success")
    last = seen(run_id)
    time.sleep(0.3)
    assert seen(run_id) == last


def test_on_this_machine_the_process_counts_and_not_the_heartbeat() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        written = tags(pid=process.pid, started=psutil.Process(process.pid).create_time(), seen=0.0)
        with pytest.raises(
            InputError, match=rf"--resume: run abc is running on this machine \(process {process.pid}\)"
        ):
            refuse_written("abc", "RUNNING", written, "--resume")
        refuse_written("abc", "FAILED", written, "--resume")
        reused = tags(pid=process.pid, started=1.0)  # the number belongs to another process by now
        refuse_written("abc", "RUNNING", reused, "--resume")
    finally:
        process.kill()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    just_now = tags(pid=process.pid, started=psutil.Process(process.pid).create_time())
    refuse_written("abc", "RUNNING", just_now, "--resume")  # dead, and not yet waited for
    process.wait()
    refuse_written("abc", "RUNNING", just_now, "--resume")
    refuse_written("abc", "RUNNING", tags(), "--resume")  # this process
    refuse_written("abc", "RUNNING", {}, "--resume")  # of an older version


@pytest.mark.parametrize("other", [{"host": "node7"}, {"boot": "another"}, {"namespace": "pid:[1]"}])
def test_of_another_machine_the_heartbeat_counts(other: dict[str, str]) -> None:
    host = other.get("host", this_process()["host"])
    with pytest.raises(InputError, match=rf"run abc is running on {host} \(process 9\), last seen 4[0-9] s ago"):
        refuse_written("abc", "RUNNING", tags(pid=9, seen=time.time() - 40, **other), "--resume")
    refuse_written("abc", "RUNNING", tags(pid=9, seen=time.time() - FRESH - 1, **other), "--resume")
    refuse_written("abc", "KILLED", tags(pid=9, **other), "--resume")


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
