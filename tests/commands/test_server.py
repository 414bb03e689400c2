"""A tracking server that dies during a run and between two folds: `emotion sync` delivers everything afterwards."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run


class Server:
    """An MLflow server with a store of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "served")]
        plain = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        with (self._folder / "server.log").open("ab") as log:
            quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=plain | quiet)
        end = time.monotonic() + 300
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2):
                return
            time.sleep(0.5)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def runs(self, where: str = "") -> list[Run]:
        client = MlflowClient(self.address)
        return list(client.search_runs([one.experiment_id for one in client.search_experiments()], where))

    def table(self, run_id: str, name: str, folder: Path) -> pd.DataFrame:
        file = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=f"tables/{name}.parquet", dst_path=str(folder), tracking_uri=self.address
        )
        return pd.read_parquet(file)


@pytest.fixture
def server(tmp_path: Path, emotion: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that runs; commands log to it."""
    folder = tmp_path / "server"
    folder.mkdir()
    made = Server(folder)
    made.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield made
    made.kill()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read what a process prints up to a line with a text."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said)[-4000:])


def steps_are_single(server: Server, run_id: str, *names: str) -> None:
    client = MlflowClient(server.address)
    for name in names:
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        assert len(steps) == len(set(steps)) > 0, name


@pytest.mark.slow
def test_a_run_outlives_its_server(
    emotion: Any, tiny: tuple[str, ...], server: Server, faces: Path, tmp_path: Path
) -> None:
    process = emotion.start("fit", *tiny, "--data.folds", "4", at_step="8:wait")
    read_until(process, "step 8 done")  # in the second epoch
    server.kill()
    said = emotion.finish(process)
    assert "macro F1" in said
    assert "Traceback" not in said
    assert "not sent" in emotion("sync", status=1).out

    server.start()
    (before,) = server.runs()
    assert before.info.status == "RUNNING"
    emotion("sync")
    (after,) = server.runs()
    assert (after.info.status, after.info.run_id) == ("FINISHED", before.info.run_id)
    steps_are_single(server, after.info.run_id, "train/loss", "val/f1_macro")
    assert len(MlflowClient(server.address).get_metric_history(after.info.run_id, "val/f1_macro")) == 2
    table = server.table(after.info.run_id, "predictions", tmp_path)
    assert (table["label"] == table["predicted"]).mean() == pytest.approx(after.data.metrics["test/accuracy"])
    emotion("predict", "--run", after.info.run_id, "--data", str(faces), "--output", "predicted.csv")
    assert "Nothing to send" in emotion("sync").out


@pytest.mark.slow
def test_a_cross_validation_outlives_its_server(
    emotion: Any, tiny: tuple[str, ...], server: Server, tmp_path: Path
) -> None:
    process = emotion.start("cross-validate", *tiny, "--folds", "2")
    read_until(process, "(1 of 2): macro F1")  # the first fold is done
    server.kill()
    said = emotion.finish(process)
    assert "macro F1 of the folds" in said
    assert "Traceback" not in said

    server.start()
    before = {run.info.run_id for run in server.runs()}
    emotion("sync")
    runs = server.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert {run.info.run_id for run in runs} == before
    (parent,) = server.runs("tags.kind = 'cross-validation'")
    table = server.table(parent.info.run_id, "predictions", tmp_path)
    assert sorted(table["row"]) == list(range(len(table)))
    folds = server.runs(f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(folds) == 2
    for run in folds:
        assert "test/f1_macro" in run.data.metrics
        steps_are_single(server, run.info.run_id, "train/loss", "val/f1_macro")
