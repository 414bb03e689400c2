"""A real MLflow server: a running fit is visible there, and an outage loses, repeats and delays nothing."""

import contextlib
import json
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
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from datamodules.errors import InputError
from emotion.cli.runs import main
from results.tracking.logger import TrackingLogger
from results.tracking.runs import find_runs, load_table
from results.tracking.ui import ui_command


class Server:
    """An MLflow server on a port of its own that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "served")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        end = time.monotonic() + 90
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run as the server's own interface gives it."""
        with urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=10) as answer:
            return dict(json.load(answer)["run"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store / "mlflow.db", folder)
    made = Server(folder)
    yield made
    made.kill()


class _Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class _Reader(pl.Callback):
    """Before the second step, waits until the server has the first one's loss, for 30 seconds at most."""

    def __init__(self, server: Server, logger: TrackingLogger) -> None:
        self._server, self._logger = server, logger
        self.seen: dict[str, Any] = {}
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        end = time.monotonic() + 30
        while index == 1 and not self.losses and time.monotonic() < end:
            self.seen = self._server.run(str(self._logger.run_id))
            metrics = self.seen["data"].get("metrics", [])
            self.losses = [metric["value"] for metric in metrics if metric["key"] == "train/loss"]
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning under torch 2.15
@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
def test_a_metric_of_a_running_fit_is_visible_at_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    try:
        server.start()
    except AssertionError as error:
        pytest.skip(f"mlflow server does not start here: {str(error)[-300:]}")
    logger = TrackingLogger(experiment="visible", system_metrics=False)
    reader = _Reader(server, logger)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=logger,
        callbacks=[reader],
        accelerator="cpu",
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Line(), DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2))
    assert len(reader.losses) == 1
    assert reader.seen["info"]["status"] == "RUNNING"
    assert server.run(str(logger.run_id))["info"]["status"] == "FINISHED"


def test_outage_loses_and_doubles_nothing(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_logger: Callable[..., TrackingLogger],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.start()
    through, across = new_logger(run_name="through"), new_logger(run_name="across")

    def log(logger: TrackingLogger, steps: range) -> None:
        for step in steps:
            logger.log_metrics({"train/loss": 1 / (step + 1), "val/f1_macro": step / 1000}, step)
            time.sleep(0.002)

    for logger in (through, across):
        log(logger, range(150))
    server.kill()  # in the middle of sending
    before = [logger.seconds for logger in (through, across)]
    for logger in (through, across):
        log(logger, range(150, 300))
        logger.log_table(pd.DataFrame({"row": [1, 2, 3]}), "predictions")
    waited = sum(logger.seconds for logger in (through, across)) - sum(before)
    assert waited < 3  # 300 calls and two tables wrote to disk; none waited for the server

    across.finalize("success")  # its process ends while the server is away
    assert any("emotion sync" in record.getMessage() for record in caplog.records)
    assert load_table(str(across.run_id), "predictions")["row"].tolist() == [1, 2, 3]
    assert main(["sync"]) == 1
    assert "not sent" in capsys.readouterr().out

    server.start()
    log(through, range(300, 350))
    through.finalize("success")
    assert main(["sync"]) == 0
    assert str(across.run_id) in capsys.readouterr().out
    assert main(["sync"]) == 0
    assert "Nothing to send" in capsys.readouterr().out

    for logger, steps in ((through, 350), (across, 300)):
        client, run_id = logger.experiment, str(logger.run_id)
        loss = sorted((one.step, one.value) for one in client.get_metric_history(run_id, "train/loss"))
        assert loss == [(step, 1 / (step + 1)) for step in range(steps)]
        assert len(client.get_metric_history(run_id, "val/f1_macro")) == steps
        assert client.get_run(run_id).info.status == "FINISHED"
        assert load_table(run_id, "predictions")["row"].tolist() == [1, 2, 3]
        assert not list(logger.run_folder.glob("spool/files/*"))
    assert len(find_runs("emotion")) == 2


def test_page_needs_runs_and_a_free_port(mlruns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port} cannot be used"):
            main(["ui", "--port", str(port)])
    with pytest.raises(SystemExit, match="2"):
        main(["ui", "--directory", "nowhere"])
    Path("empty").mkdir()
    with pytest.raises(InputError, match="no runs are kept here"):
        main(["ui", "--directory", "empty"])
    command = ui_command(mlruns, port)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{mlruns}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracking.example")
    with pytest.raises(InputError, match=r"open its page http://tracking\.example") as error:
        main(["ui"])
    assert "secret" not in str(error.value)
