"""Views of the MLflow page: what is stored for the page, and what the page shows of it."""

import base64
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
import webbrowser
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from emotion.cli.runs import main
from results.tracking import ui
from results.tracking.logger import TrackingLogger
from results.tracking.store import open_client
from results.tracking.views import TAG, experiment_pages

COLUMNS = [
    *("test/f1_macro", "f1_macro_interval", "test/accuracy", "worst_class"),
    *("recipe", "backbone", "data", "test_images", "seed", "protocol"),
]


@pytest.fixture
def experiment(mlruns: Path, new_logger: Callable[..., TrackingLogger]) -> str:
    """Two cross-validations of two folds and a search of three trials; returns the id of their experiment."""
    for name, score in (("weak", 0.31), ("strong", 0.62)):
        tags = {"kind": "cross-validation", "recipe": "balanced", "backbone": "test_resnet", "seed": "0"}
        parent = new_logger(run_name=name, tags=tags | {"protocol": "honest"})
        # MLflow shows a column only if a run has a value for it
        tags = {"f1_macro_interval": "0.300 to 0.700", "worst_class": f"fear {score / 2}", "test_images": "40"}
        parent.set_tags(tags)
        parent.log_dataset("drawn", "drawn", "0" * 16)
        parent.log_metrics({"test/f1_macro": score, "test/accuracy": score})
        for fold in range(2):
            child = new_logger(run_name=f"{name} fold {fold}", parent_run_id=parent.run_id, tags={"kind": "run"})
            for epoch in range(3):
                child.log_metrics({"epoch": epoch, "val/f1_macro": score * epoch, "val/loss": 2 - epoch}, 10 * epoch)
            child.finalize()
        parent.finalize()
    search = new_logger(run_name="search", tags={"kind": "search"})
    for number, rate in enumerate((0.1, 0.01, 0.001)):
        trial = new_logger(
            run_name=f"trial {number}", parent_run_id=search.run_id, tags={"kind": "trial", "trial": str(number)}
        )
        own = {"model.momentum": 0.9} if number else {}  # an option that only some trials have
        trial.log_hyperparams({"model.learning_rate": rate, "model.optimizer": "sgd", **own})
        trial.log_metrics({"search/f1_macro": 0.3 + rate})
        trial.finalize()
    search.finalize()
    return str(open_client(mlruns).get_experiment_by_name("emotion").experiment_id)


def _state(client: MlflowClient, experiment: str, view: str) -> dict[str, Any]:
    value = client.get_experiment(experiment).tags[f"{TAG}emotion-{view}"]
    assert len(value) < 5000
    kind, _, packed = json.loads(value)["state"].partition(";")
    assert kind == "deflate"
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def test_views_select_runs_columns_and_charts(mlruns: Path, experiment: str) -> None:
    client = open_client(mlruns)
    pages = experiment_pages(client, experiment)
    start = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=emotion-"
    assert [page.address for page in pages] == [
        f"{start}results",
        f"{start}folds",
        f"{start}curves&compareRunsMode=CHART",
        f"{start}trials&compareRunsMode=CHART",
    ]
    results = _state(client, experiment, "results")
    assert [name.split("`")[1] for name in results["selectedColumns"]] == COLUMNS
    shown = client.search_runs([experiment], results["searchFilter"], order_by=[f"{results['orderByKey']} DESC"])
    assert [run.info.run_name for run in shown] == ["strong", "weak", "search"]
    curves = _state(client, experiment, "curves")
    assert len(client.search_runs([experiment], curves["searchFilter"])) == 4
    charts = {chart.get("metricKey"): chart for chart in curves["compareRunCharts"]}
    assert {charts[name]["selectedXAxisMetricKey"] for name in ("val/f1_macro", "val/loss")} == {"epoch"}
    trials = _state(client, experiment, "trials")
    assert len(client.search_runs([experiment], trials["searchFilter"])) == 3
    assert trials["compareRunCharts"][0]["selectedParams"] == ["model.learning_rate"]


@pytest.fixture
def one_run(new_logger: Callable[..., TrackingLogger], mlruns: Path) -> str:
    """A run in a second experiment; returns the id of that experiment."""
    client = open_client(mlruns)
    client.create_experiment("first")
    logger = new_logger(experiment="second")
    logger.log_metrics({"test/f1_macro": 0.5})
    logger.finalize()
    return str(client.get_experiment_by_name("second").experiment_id)


def test_the_experiment_of_the_newest_run_is_shown(mlruns: Path, one_run: str) -> None:
    pages = ui.ui_pages(mlruns, 5001)
    assert len(pages) == 3  # none of trials, since there are none
    assert all(page.address.startswith(f"http://127.0.0.1:5001/#/experiments/{one_run}/runs?") for page in pages)
    first = open_client(mlruns).get_experiment_by_name("first")
    assert f"{TAG}emotion-results" in first.tags  # its menu lists the views, too


def test_another_version_of_mlflow_opens_the_plain_page(
    mlruns: Path, one_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "__version__", "3.18.0")
    (page,) = experiment_pages(open_client(mlruns), one_run)
    assert page.address == f"/#/experiments/{one_run}/runs?workflowType=machine_learning"
    assert not [key for key in open_client(mlruns).get_experiment(one_run).tags if key.startswith(TAG)]


def test_a_store_that_may_only_be_read_opens_the_plain_page(
    mlruns: Path, one_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(mlruns)

    def refuse(*_: str) -> None:
        raise MlflowException("attempt to write a readonly database\nits trace")

    monkeypatch.setattr(client, "set_experiment_tag", refuse)
    (page,) = experiment_pages(client, one_run)
    assert page.address.endswith("/runs?workflowType=machine_learning")
    assert page.about.endswith("(views cannot be stored: attempt to write a readonly database)")


@pytest.mark.parametrize("browser", [True, False])
def test_the_command_prints_the_addresses_and_opens_the_first(
    one_run: str, browser: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(ui, "has_display", lambda: True)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(ui, "open_when_ready", lambda address, _, ready: ready(address))
    monkeypatch.setattr(ui, "serve", lambda _: 0)
    port = _free_port()
    assert main(["ui", "--port", str(port), *([] if browser else ["--no-browser"])]) == 0
    out = capsys.readouterr().out
    assert out.endswith("ready\n")
    printed = re.findall(r"http://\S+", out)
    assert len(printed) == 3
    assert printed[0] == f"http://127.0.0.1:{port}/#/experiments/{one_run}/runs?workflowType=machine_learning" + (
        "&viewStateShareKey=emotion-results"
    )
    assert opened == (printed[:1] if browser else [])


def test_a_browser_needs_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    assert not ui.has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert ui.has_display()
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    assert not ui.has_display()


def test_the_browser_waits_for_the_server() -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    opened: list[str] = []
    port = _free_port()
    waiting = ui.open_when_ready("the address", port, opened.append)
    waiting.join(0.2)
    assert waiting.is_alive()
    assert not opened
    with HTTPServer((ui.HOST, port), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        waiting.join(10)
        server.shutdown()
    assert opened == ["the address"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ui.HOST, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(mlruns: Path, experiment: str) -> Iterator[list[str]]:
    """Addresses of the pages, on a server that runs."""
    port = _free_port()
    command, pages = ui.ui_command(mlruns, port), ui.ui_pages(mlruns, port)
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Path("server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=os.environ | quiet)
    try:
        for _ in range(240):
            with suppress(OSError):
                urllib.request.urlopen(f"http://{ui.HOST}:{port}/health", timeout=2).close()
                break
            time.sleep(0.5)
        yield [page.address for page in pages]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.mark.slow  # starts a server and a browser: half a minute
def test_the_page_shows_the_views(served: list[str], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium, which is not installed")

    def read(address: str) -> str:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=2600,900"]
        options += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=30000", "--dump-dom"]
        done = subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=200, check=True)
        return html.unescape(re.sub(r"<[^>]+>", "\n", re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.S)))

    results, folds, curves, trials = (read(address).splitlines() for address in served)
    assert set(COLUMNS) <= set(results)
    assert [line for line in results if line in ("strong", "weak", "search")] == ["strong", "weak", "search"]
    assert {"0.300 to 0.700", "fear 0.31", "test_resnet", "drawn", "honest"} <= set(results)
    assert "strong fold 0" not in results
    assert [line for line in folds if line in ("strong", "weak", "search")] == ["search", "strong", "weak"]
    assert {"strong fold 0", "weak fold 1", "val/f1_macro", "val/loss", "epoch"} <= set(curves)
    assert {"trial 0", "trial 2", "Parallel Coordinates", "model.learning_rate"} <= set(trials)
