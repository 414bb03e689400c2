"""A tracking server that wants another user: what is said, before anything is trained."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datamodules.errors import InputError
from results.tracking import store
from results.tracking.logger import TrackingLogger

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Refusing(BaseHTTPRequestHandler):
    """Answers every request with one status; writing with another where the path says so."""

    status, writing = 401, None

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        reads = "search" in self.path or "get" in self.path
        status = self.writing if self.writing and not reads else 200 if self.writing else self.status
        body = b'{"experiments": [], "experiment": {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}}'
        body = body if status == 200 else b"You are not authenticated."
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [401, 403])
def test_the_variables_of_a_login_are_named(serve: str, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(Refusing, "status", status)
    with pytest.raises(InputError) as raised:
        store.open_client(uri=serve)
    assert all(name in str(raised.value) for name in VARIABLES)
    assert f"({status})" in str(raised.value)
    assert "no login is set" in str(raised.value)


def test_a_login_that_is_not_accepted_is_named_without_its_secret(serve: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refusing, "status", 401)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden-word")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD is not acc") as raised:
        store.open_client(uri=serve)
    assert "hidden-word" not in str(raised.value)


def test_a_user_who_may_only_read_is_told_at_the_start(
    serve: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(Refusing, "writing", 403)
    logger = TrackingLogger(directory=str(tmp_path), tracking_uri=serve, experiment="e", system_metrics=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_TOKEN"):
        logger.open()
