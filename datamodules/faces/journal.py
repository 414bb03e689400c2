"""The notes of a folder of crops: what was done for each picture, so that a run that is killed or repeated goes on."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from datamodules.faces.work import Record
from datamodules.places import replacing

NAME = ".faces.jsonl"


class Journal:
    """One line a picture, added as soon as its crop stands; the last line of a path counts.

    A line that was cut short by the end of a process is passed over, so that its picture is done again.

    Args:
        folder: the crops' folder.
        fresh: forget what was done, but not which files are ours.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / NAME
        self.records: dict[str, Record] = {}
        self.crops: set[str] = set()  # every crop that was ever written, also by options that are no longer chosen
        for record in _lines(self.path):
            self.crops.add(record["crop"])
            self.records[record["path"]] = record
        self.crops.discard("")
        if fresh:
            self.records.clear()

    def __enter__(self) -> "Journal":
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        self._file = self.path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, records: Iterable[Record]) -> None:
        """Keep records, and see that they outlast this process."""
        for record in records:
            self.records[record["path"]] = record
            if record["crop"]:
                self.crops.add(record["crop"])
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def tidy(self, paths: Iterable[str]) -> int:
        """Delete the crops that no picture among ``paths`` has any more, shorten the notes; return how many went."""
        kept = {path: self.records[path] for path in paths}
        folder = self.path.parent
        gone = 0
        for crop in sorted(self.crops - {record["crop"] for record in kept.values()}):
            if (folder / crop).resolve().is_relative_to(folder.resolve()) and (folder / crop).is_file():
                (folder / crop).unlink()
                gone += 1
        with replacing(self.path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept.values())
        return gone


def _lines(path: Path) -> Iterator[Record]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and {"path", "state", "found", "cut", "faces", "crop", "error"} <= set(record):
                yield record
