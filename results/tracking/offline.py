"""Everything a run logs, written to its own folder first, so that no outage of the tracking server loses it."""

import functools
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from datamodules.paths import replacing
from results.tracking.store import local_path, reason

Operation = dict[str, Any]


class Spool:
    """A journal of JSON lines, and how far it has been sent.

    Notes:
        * A line is an operation that may be sent twice with the same effect (metrics carry their timestamp), so
          sending first and marking afterwards neither loses nor doubles anything.
        * A line torn by a killed process is cut off when the journal is opened again.
        * Files wait in `files/<number>/<artifact path>`; a file logged again gets a new number, so that removing the
          copy that was sent never removes one that was not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self._cursor = folder / "sent"
        self._files = folder / "files"
        self._lock = threading.Lock()
        self._guard(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        self._cut_torn_line()
        self._number = max((int(path.name) for path in self._files.glob("[0-9]*")), default=-1) + 1

    def append(self, operation: Operation) -> None:
        """Add one operation; it is on disk when this returns (flushed to the system, which outlives this process)."""
        line = (json.dumps(operation, ensure_ascii=False) + "\n").encode()

        def write() -> None:
            with open(self.journal, "ab") as file:
                file.write(line)

        with self._lock:
            self._guard(write)

    def new_file(self, artifact: str) -> Path:
        """Return a fresh place for a file that will be logged as `artifact`; write it, then call `append_file`."""
        with self._lock:
            path = self._files / str(self._number) / artifact
            self._number += 1
        self._guard(lambda: path.parent.mkdir(parents=True, exist_ok=True))
        return path

    def append_file(self, path: Path, artifact: str) -> None:
        """Queue a file written at a place from `new_file`."""
        self.append({"op": "file", "from": path.relative_to(self.folder).as_posix(), "to": artifact})

    def copy_file(self, source: Path, artifact: str) -> None:
        """Queue a copy of `source`, which may change or vanish afterwards."""
        path = self.new_file(artifact)
        self._guard(lambda: shutil.copyfile(source, path))
        self.append_file(path, artifact)

    @staticmethod
    def peek(folder: Path, artifact: str) -> Path | None:
        """Return the newest copy of `artifact` in the spool `folder` that has not been sent; changes nothing."""
        numbers = sorted((int(path.name) for path in folder.glob("files/[0-9]*")), reverse=True)
        places = (folder / "files" / str(number) / artifact for number in numbers)
        return next((path for path in places if path.exists()), None)

    @staticmethod
    def has_pending(folder: Path) -> bool:
        """Whether something in the spool `folder` has not been sent; changes nothing."""
        journal, cursor = folder / "journal.jsonl", folder / "sent"
        done = int(cursor.read_text()) if cursor.exists() else 0
        return journal.exists() and journal.stat().st_size > done

    @staticmethod
    def state(folder: Path) -> tuple[str, dict[str, str]]:
        """Return the last status and the tags in the spool `folder`, "" and none without one; changes nothing."""
        status = ""
        tags: dict[str, str] = {}
        for one in _read(folder / "journal.jsonl", 0, -1)[0]:
            if one["op"] == "status":
                status = one["value"]
            elif one["op"] == "tags":
                tags |= one["values"]
        return status, tags

    def clear_files(self) -> None:
        """Remove the places of files that were all sent."""
        if not self.pending:
            shutil.rmtree(self._files, ignore_errors=True)

    @property
    def sent(self) -> int:
        """Bytes of the journal that the server has."""
        try:
            return int(self._cursor.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    @property
    def pending(self) -> bool:
        """Whether something has not been sent yet."""
        return self.journal.exists() and self.journal.stat().st_size > self.sent

    def read(self, start: int, limit: int = 256) -> tuple[list[Operation], int]:
        """Return at most `limit` whole operations from byte `start`, and the byte after them."""
        return _read(self.journal, start, limit)

    def all(self) -> list[Operation]:
        """Return every operation since the run began."""
        return self.read(0, limit=-1)[0]

    def mark_sent(self, end: int) -> None:
        """Remember that the server has everything before byte `end`."""
        with replacing(self._cursor) as draft:
            draft.write_text(str(end))

    def reject(self, operation: Operation, reason: str) -> None:
        """Keep an operation that the server refuses for good, so that it does not hold up the rest."""
        with open(self.folder / "rejected.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, **operation}, ensure_ascii=False) + "\n")

    def _cut_torn_line(self) -> None:
        if not self.journal.exists():
            return
        data = self.journal.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.journal, whole)

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            msg = f"directory: writing to {self.folder} failed: {error}. Free space or choose another folder."
            raise InputError(msg) from error


def write_address(spool: Spool, run_id: str, address: str | None) -> None:
    """Write beside a spool which run of which store it belongs to, for `emotion sync`."""
    (spool.folder / "address.json").write_text(json.dumps({"run_id": run_id, "tracking_uri": address}))


def _read(journal: Path, start: int, limit: int) -> tuple[list[Operation], int]:
    operations: list[Operation] = []
    if not journal.exists():
        return operations, start
    with open(journal, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n") or len(operations) == limit:
                break
            operations.append(json.loads(line))
            start += len(line)
    return operations, start


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
