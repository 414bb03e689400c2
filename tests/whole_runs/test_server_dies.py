"""A tracking server that dies in the middle of a run costs no training, and gets everything when it is back."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import emotion
from lightning_modules.classifier import EmotionClassifier
from records.runs import children, find_runs, load_table
from sweeps import cross_validation


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """The address of an MLflow server, and how to start and how to kill it."""
    shutil.copy(empty_store / "mlflow.db", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(tmp_path / "served")]
        plain = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        log = (tmp_path / "server.log").open("ab")
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=plain | quiet))
        log.close()
        end = time.monotonic() + 240
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
                return
            time.sleep(0.2)
        raise AssertionError((tmp_path / "server.log").read_text())

    def kill() -> None:
        while running:
            process = running.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    yield address, start, kill
    kill()


@pytest.mark.slow
def test_a_run_outlives_its_server(
    server: tuple[str, Callable[[], None], Callable[[], None]],
    tmp_path: Path,
    one_run: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, start, kill = server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    start()
    step = EmotionClassifier.training_step

    def dies(self: EmotionClassifier, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
        if self.global_step == 8:  # in the second epoch
            kill()
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(EmotionClassifier, "training_step", dies)
        assert emotion.main(["fit", *one_run]) == 0
    said = capsys.readouterr()
    assert "macro F1" in said.out
    start()
    (before,) = find_runs().to_dict("records")
    assert before["status"] == "RUNNING"
    assert emotion.main(["sync"]) == 0
    (after,) = find_runs().to_dict("records")
    assert after["status"] == "FINISHED"
    assert after["run_id"] == before["run_id"]
    client = MlflowClient(address)
    for name in ("train/loss", "val/f1_macro"):
        steps = [one.step for one in client.get_metric_history(after["run_id"], name)]
        assert len(steps) == len(set(steps)) == 2, name
    assert set(load_table(after["run_id"], "predictions")) >= {"row", "label", "predicted"}
    figure = next(tmp_path.rglob("confusion_matrix.png"))  # any picture will do
    assert emotion.main(["predict", "--run", after["run_id"], "--data", str(figure)]) == 0


@pytest.mark.slow
def test_a_cross_validation_outlives_its_server(
    server: tuple[str, Callable[[], None], Callable[[], None]],
    tmp_path: Path,
    tiny: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, start, kill = server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    start()
    run_fold = cross_validation._run_fold

    def then_kill(*args: object) -> object:
        done = run_fold(*args)  # type: ignore[arg-type]
        kill()  # after the first fold; there is none to kill after the second
        return done

    words = ["cross-validate", *tiny, "--folds", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(cross_validation, "_run_fold", then_kill)
        assert emotion.main(words) == 0
    assert "macro F1 of the folds" in capsys.readouterr().out
    start()
    assert sorted(find_runs()["status"]) == ["FINISHED", "RUNNING", "SCHEDULED"]
    before = set(find_runs()["run_id"])
    assert emotion.main(["sync"]) == 0
    after = find_runs()
    assert list(after["status"]) == ["FINISHED"] * 3
    assert set(after["run_id"]) == before
    (parent,) = find_runs(where="tags.kind = 'cross-validation'").to_dict("records")
    table = load_table(parent["run_id"], "predictions")
    assert sorted(table["row"]) == list(range(len(table)))
    assert children(parent["run_id"])["metrics.test/f1_macro"].notna().all()
