"""Offline queue of a run: entries are written to its local folder first and sent to the tracking store later."""

import functools
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from datamodules.files.paths import replacing
from results.tracking.store import local_path, reason

Operation = dict[str, Any]


class Spool:
    """Queue of log operations on disk: a journal of JSON lines, and the position up to which it was sent.

    Notes:
        * Sending an operation twice has the same effect as once (metrics have their timestamp), so sending first and
          marking afterwards neither loses nor repeats an entry.
        * An incomplete last line of a killed process is removed when the journal is opened again.
        * Files wait in `files/<number>/<artifact path>`. A file that is logged again gets a new number, so that
          removing a copy that was sent never removes one that was not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self._cursor = folder / "sent"
        self._files = folder / "files"
        self._lock = threading.Lock()
        self._guard(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        self._cut_incomplete_line()
        self._number = max((int(path.name) for path in self._files.glob("[0-9]*")), default=-1) + 1

    def append(self, operation: Operation) -> None:
        """Add an operation, which outlives this process once this returns.

        Raises:
            InputError: The folder cannot be written.
        """
        line = (json.dumps(operation, ensure_ascii=False) + "\n").encode()

        def write() -> None:
            with open(self.journal, "ab") as file:
                file.write(line)

        with self._lock:
            self._guard(write)

    def new_file(self, artifact: str) -> Path:
        """Return a new path for a file that will be logged as `artifact`; write it, then call `append_file`."""
        with self._lock:
            path = self._files / str(self._number) / artifact
            self._number += 1
        self._guard(lambda: path.parent.mkdir(parents=True, exist_ok=True))
        return path

    def append_file(self, path: Path, artifact: str) -> None:
        """Queue a file written at a path from `new_file`."""
        self.append({"op": "file", "from": path.relative_to(self.folder).as_posix(), "to": artifact})

    def copy_file(self, source: Path, artifact: str) -> None:
        """Queue a copy of `source`, which may change or be deleted afterwards."""
        path = self.new_file(artifact)
        self._guard(lambda: shutil.copyfile(source, path))
        self.append_file(path, artifact)

    @staticmethod
    def peek(folder: Path, artifact: str) -> Path | None:
        """Return the newest copy of `artifact` in the spool `folder` that was not sent, if any; changes nothing."""
        numbers = sorted((int(path.name) for path in folder.glob("files/[0-9]*")), reverse=True)
        paths = (folder / "files" / str(number) / artifact for number in numbers)
        return next((path for path in paths if path.exists()), None)

    @staticmethod
    def has_pending(folder: Path) -> bool:
        """Whether the spool `folder` has operations that were not sent; changes nothing."""
        journal, cursor = folder / "journal.jsonl", folder / "sent"
        done = int(cursor.read_text()) if cursor.exists() else 0
        return journal.exists() and journal.stat().st_size > done

    @staticmethod
    def state(folder: Path) -> tuple[str, dict[str, str]]:
        """Return the last status (or "") and the tags in the spool `folder`; changes nothing."""
        status = ""
        tags: dict[str, str] = {}
        for operation in _read(folder / "journal.jsonl", 0, -1)[0]:
            if operation["op"] == "status":
                status = operation["value"]
            elif operation["op"] == "tags":
                tags |= operation["values"]
        return status, tags

    def clear_files(self) -> None:
        """Remove the folders of files, if everything was sent."""
        if not self.pending:
            shutil.rmtree(self._files, ignore_errors=True)

    @property
    def sent(self) -> int:
        """Number of bytes of the journal that were sent."""
        try:
            return int(self._cursor.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    @property
    def pending(self) -> bool:
        """Whether there are operations that were not sent."""
        return self.journal.exists() and self.journal.stat().st_size > self.sent

    def read(self, start: int, limit: int = 256) -> tuple[list[Operation], int]:
        """Return at most `limit` complete operations from byte `start`, and the position after them."""
        return _read(self.journal, start, limit)

    def all(self) -> list[Operation]:
        """Return all operations since the run was created."""
        return self.read(0, limit=-1)[0]

    def mark_sent(self, end: int) -> None:
        """Store that everything before byte `end` was sent."""
        with replacing(self._cursor) as draft:
            draft.write_text(str(end))

    def reject(self, operation: Operation, reason: str) -> None:
        """Set aside an operation that the store will never accept, so that it does not block the others."""
        with open(self.folder / "rejected.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, **operation}, ensure_ascii=False) + "\n")

    def _cut_incomplete_line(self) -> None:
        if not self.journal.exists():
            return
        data = self.journal.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            os.truncate(self.journal, end)

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            msg = f"directory: writing to {self.folder} failed: {error}; free disk space or choose another folder"
            raise InputError(msg) from error


def write_address(spool: Spool, run_id: str, address: str | None) -> None:
    """Store the run id and the tracking URI of a spool in its folder, for `emotion sync`."""
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
_MODEL_PARAMS = ("model.backbone", "model.loss.class_path", "data.size", "data.source", "seed_everything")
_LONGEST_PAUSE = 30.0


def send(client: MlflowClient, run_id: str, spool: Spool, operations: list[Operation]) -> None:
    """Send operations in order; sending the same operations again changes nothing."""
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
    model = model_of(client, run_id) if any("dataset" in operation for operation in operations) else None
    entries = []
    for operation in operations:
        of_model = {}
        if model is not None and "dataset" in operation:
            of_model = dict(zip(("dataset_name", "dataset_digest"), operation["dataset"], strict=True))
            of_model["model_id"] = model
        entries += [
            Metric(key, float(value), operation["time"], operation["step"], **of_model)
            for key, value in operation["values"].items()
        ]
    try:
        for start in range(0, len(entries), _METRICS_IN_A_REQUEST):
            client.log_batch(run_id, metrics=entries[start : start + _METRICS_IN_A_REQUEST])
    except MlflowException as error:
        if not _refused(error):
            raise
        for entry in entries:  # find the refused entry and keep the others
            single = {"op": "metrics", "step": entry.step, "time": entry.timestamp, "values": {entry.key: entry.value}}
            _or_reject(spool, single, functools.partial(client.log_batch, run_id, metrics=[entry]))


def _send_one(client: MlflowClient, run_id: str, spool: Spool, operation: Operation) -> None:
    kind = operation["op"]
    if kind == "params":
        for pairs in _requests(operation["values"]):
            client.log_batch(run_id, params=[Param(key, value) for key, value in pairs])
    elif kind == "tags":
        for pairs in _requests(operation["values"]):
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in pairs])
    elif kind == "dataset":
        source, profile = operation["source"], operation["profile"]
        dataset = Dataset(operation["name"], operation["digest"], "local", source, profile=profile)
        entries = [DatasetInput(dataset, [InputTag("mlflow.data.context", operation["context"])])]
        try:
            client.log_inputs(run_id, entries)
        except MlflowException as error:
            if "IntegrityError" not in str(error):
                raise
            # another run, such as the parent, made the entry of the same data set between MLflow's look and its insert
            client.log_inputs(run_id, entries)
    elif kind == "status":
        if operation["value"] in ("RUNNING", "SCHEDULED"):
            client.update_run(run_id, status=operation["value"])
        else:
            client.set_terminated(run_id, operation["value"], operation["time"])
    elif kind == "model":
        add_model(client, run_id, operation["of"])
    elif kind == "file":
        _send_file(client, run_id, spool.folder / operation["from"], operation["to"])


def model_of(client: MlflowClient, run_id: str) -> str | None:
    """Return the id of the LoggedModel that a run made, else of the only one that it evaluated, else None."""
    run = client.get_run(run_id)
    made = run.outputs.model_outputs if run.outputs else []
    used = run.inputs.model_inputs if run.inputs else []
    models = [str(model.model_id) for model in (made or used)]
    return models[0] if len(models) == 1 else None


def add_model(client: MlflowClient, run_id: str, evaluated: Sequence[str] | None) -> None:
    """Make the LoggedModel of a run, which MLflow's page Models lists, or link those of the evaluated runs.

    It has no files: the run's checkpoint is the model, and `emotion register` writes one that can be served. A run that
    has its model keeps it.
    """
    if model_of(client, run_id) is not None:  # sent before, by a process that ended before it was marked
        return
    if evaluated is not None:
        models = [model for model in (model_of(client, run) for run in evaluated) if model is not None]
        if models:
            client.log_inputs(run_id, models=[LoggedModelInput(model) for model in models])
        return
    run = client.get_run(run_id)
    params = {name: run.data.params[name] for name in _MODEL_PARAMS if name in run.data.params}
    # MLflow allows no / : . % or quotes in the name of a model
    name = re.sub(r"[^\w -]", "_", str(run.info.run_name)) or run_id
    # a process that ended between these requests has left a model that no run names
    made = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    model = (
        made[0]
        if made
        else client.create_logged_model(
            run.info.experiment_id, name, run_id, {"predict": f"emotion predict {run_id} IMAGE"}, params, "emotion"
        )
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def _requests(values: dict[str, str]) -> Iterator[list[tuple[str, str]]]:
    """Yield names and values in portions that MLflow accepts."""
    pairs = list(values.items())
    for start in range(0, len(pairs), _PARAMS_IN_A_REQUEST):
        yield pairs[start : start + _PARAMS_IN_A_REQUEST]


def _send_file(client: MlflowClient, run_id: str, path: Path, artifact: str) -> None:
    if not path.exists():  # it was sent, and the process ended before it was marked
        return
    target = local_path(client.get_run(run_id).info.artifact_uri)
    if target is None:
        client.log_artifact(run_id, str(path), str(Path(artifact).parent) if "/" in artifact else None)
    else:  # MLflow's copy is not atomic: a page could read half a file
        final = target / artifact
        final.parent.mkdir(parents=True, exist_ok=True)
        with replacing(final) as draft:
            shutil.copyfile(path, draft)
    path.unlink()


def _refused(error: MlflowException) -> bool:
    """Whether the store will never accept the request; old servers know no models."""
    return error.error_code in ("INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")


def _or_reject(spool: Spool, operation: Operation, request: Callable[[], object]) -> None:
    try:
        request()
    except MlflowException as error:
        if not _refused(error):
            raise
        spool.reject(operation, reason(error))
        log.warning(
            "The tracking store refuses an entry, which is kept in %s: %s",
            spool.folder / "rejected.jsonl",
            reason(error),
        )


def send_all(client: MlflowClient, run_id: str, spool: Spool) -> None:
    """Send all pending operations.

    Raises:
        MlflowException: The store does not answer.
    """
    while spool.pending:
        operations, end = spool.read(spool.sent)
        if not operations:
            return
        send(client, run_id, spool, operations)
        spool.mark_sent(end)


class Sender:
    """Thread that sends a spool every `interval` seconds; training never waits for it.

    While the store does not answer, the pauses grow to at most 30 seconds.
    """

    def __init__(self, client: MlflowClient, run_id: str, spool: Spool, interval: float = 2.0) -> None:
        self._client, self._run_id, self._spool, self._interval = client, run_id, spool, interval
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.failures = 0

    def start(self) -> None:
        """Start the thread, unless it is running."""
        if self._thread is None or not self._thread.is_alive():
            self._closing.clear()
            self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
            self._thread.start()

    def drain(self) -> bool:
        """Send what is left and end the thread; False if the store does not answer (the spool stays)."""
        self.start()
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        return not self._spool.pending

    def _run(self) -> None:
        pause = self._interval
        while True:
            closing = self._closing.wait(pause)  # before sending, so that everything appended until now is sent
            try:
                send_all(self._client, self._run_id, self._spool)
            except Exception as error:  # a failure here must not end the training
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
