"""Carries what a run spooled to the tracking store: in the background while it trains, and by `emotion sync`."""

import functools
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from datamodules.places import replacing
from records.spool import Operation, Spool
from records.store import local_path, reason

log = logging.getLogger("emotion.records")

_METRICS_IN_A_REQUEST = 1000
_PARAMS_IN_A_REQUEST = 100
_LONGEST_PAUSE = 30.0


def deliver(client: MlflowClient, run_id: str, spool: Spool, operations: list[Operation]) -> None:
    """Send operations in order; sending the same ones again changes nothing."""
    metrics: list[Operation] = []
    for operation in [*operations, {"op": "end"}]:
        if operation["op"] == "metrics":
            metrics.append(operation)
            continue
        if metrics:
            _send_metrics(client, run_id, spool, metrics)
            metrics = []
        if operation["op"] != "end":
            _or_reject(spool, operation, functools.partial(_send_one, client, run_id, spool, operation))


def _send_metrics(client: MlflowClient, run_id: str, spool: Spool, operations: list[Operation]) -> None:
    entries = [
        Metric(key, float(value), one["time"], one["step"])
        for one in operations
        for key, value in one["values"].items()
    ]
    try:
        for start in range(0, len(entries), _METRICS_IN_A_REQUEST):
            client.log_batch(run_id, metrics=entries[start : start + _METRICS_IN_A_REQUEST])
    except MlflowException as error:
        if not _refused(error):
            raise
        for one in operations:  # find the one that is refused, keep the others
            for key, value in one["values"].items():
                entry = Metric(key, float(value), one["time"], one["step"])
                single = {**one, "values": {key: value}}
                _or_reject(spool, single, functools.partial(client.log_batch, run_id, metrics=[entry]))


def _send_one(client: MlflowClient, run_id: str, spool: Spool, one: Operation) -> None:
    if one["op"] == "params":
        params = [Param(key, value) for key, value in one["values"].items()]
        for start in range(0, len(params), _PARAMS_IN_A_REQUEST):
            client.log_batch(run_id, params=params[start : start + _PARAMS_IN_A_REQUEST])
    elif one["op"] == "tags":
        tags = [RunTag(key, value) for key, value in one["values"].items()]
        for start in range(0, len(tags), _PARAMS_IN_A_REQUEST):
            client.log_batch(run_id, tags=tags[start : start + _PARAMS_IN_A_REQUEST])
    elif one["op"] == "dataset":
        dataset = Dataset(one["name"], one["digest"], "local", one["source"], profile=one["profile"])
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", one["context"])])])
    elif one["op"] == "status":
        if one["value"] in ("RUNNING", "SCHEDULED"):
            client.update_run(run_id, status=one["value"])
        else:
            client.set_terminated(run_id, one["value"], one["time"])
    elif one["op"] == "file":
        _send_file(client, run_id, spool.folder / one["from"], one["to"])


def _send_file(client: MlflowClient, run_id: str, path: Path, artifact: str) -> None:
    if not path.exists():  # sent before, and the process ended before it was marked
        return
    target = local_path(client.get_run(run_id).info.artifact_uri)
    if target is None:
        client.log_artifact(run_id, str(path), str(Path(artifact).parent) if "/" in artifact else None)
    else:  # by a temporary name, so that a page or a reader never meets half a file
        final = target / artifact
        final.parent.mkdir(parents=True, exist_ok=True)
        with replacing(final) as draft:
            shutil.copyfile(path, draft)
    path.unlink()


def _refused(error: MlflowException) -> bool:
    """Whether sending again could never succeed."""
    return error.error_code == "INVALID_PARAMETER_VALUE"


def _or_reject(spool: Spool, operation: Operation, send: Callable[[], object]) -> None:
    try:
        send()
    except MlflowException as error:
        if not _refused(error):
            raise
        spool.reject(operation, reason(error))
        log.warning(
            "The tracking store refuses an entry, kept in %s: %s", spool.folder / "rejected.jsonl", reason(error)
        )


def send_all(client: MlflowClient, run_id: str, spool: Spool) -> None:
    """Send what is pending, in this thread; raises when the store does not answer."""
    while spool.pending:
        operations, end = spool.read(spool.sent)
        if not operations:
            return
        deliver(client, run_id, spool, operations)
        spool.mark_sent(end)


class Sender:
    """A thread that sends a spool every `interval` seconds and waits out an outage; training never waits for it."""

    def __init__(self, client: MlflowClient, run_id: str, spool: Spool, interval: float = 2.0) -> None:
        self._client, self._run_id, self._spool, self._interval = client, run_id, spool, interval
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.failures = 0

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self._thread is None or not self._thread.is_alive():
            self._closing.clear()
            self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
            self._thread.start()

    def drain(self) -> bool:
        """Send what is left and end the thread; False when the store does not answer (the spool stays)."""
        self.start()
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        return not self._spool.pending

    def _run(self) -> None:
        pause = self._interval
        while True:
            closing = self._closing.wait(pause)  # read before sending, so that nothing appended earlier is left behind
            try:
                send_all(self._client, self._run_id, self._spool)
            except Exception as error:  # whatever fails here must not end the training
                self.failures += 1
                if self.failures == 1:
                    log.warning(
                        "The tracking store does not answer; training goes on, entries wait in %s (%s)",
                        self._spool.folder,
                        reason(error),
                    )
                pause = min(_LONGEST_PAUSE, self._interval * 2**self.failures)
            else:
                if self.failures:
                    log.warning("The tracking store answers again; the waiting entries were sent.")
                self.failures, pause = 0, self._interval
            if closing:
                return
