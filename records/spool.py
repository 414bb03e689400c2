"""Everything a run logs, written to its own folder first, so that no outage of the tracking server loses it."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.places import replacing

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
