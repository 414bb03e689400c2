"""A full disk gives one line of error, nothing is lost, and `--resume` goes on when there is room again.

The slow tests mount a small file system over `mlruns` and fill it in the middle of a run; the fast ones let Lightning
and fsspec fail.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileSystem
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]
ROOM = "64m"
PROGRAM = "import sys; from emotion import main; sys.exit(main())"


class Disk:
    """A file system of its own over the current folder's `mlruns`, seen only by the commands that it runs."""

    def __init__(self, holder: int, site: Path) -> None:
        self._holder, self._site, self._place = holder, site, Path.cwd()
        self.mlruns = Path(f"/proc/{holder}/root{self._place}/mlruns")

    def start(self, *words: str, at_step: str = "") -> subprocess.Popen[str]:
        """Start `emotion` where the file system is mounted."""
        new = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "AT_STEP": at_step}
        new["PYTHONPATH"] = f"{self._site}:{ROOT}"
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(self._place), sys.executable, "-u", "-c", PROGRAM, *words]
        return subprocess.Popen(
            ["nsenter", "--target", str(self._holder), "--mount", *inside],
            env=new, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def fill(self, leave: int = 0) -> None:
        """Write until nothing fits any more, then give back so many bytes."""
        with (self.mlruns / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            if leave:
                file.truncate(file.tell() - leave)

    def make_room(self) -> None:
        (self.mlruns / "filler").unlink()

    def store(self) -> MlflowClient:
        """The store as it is now, in a copy: nothing is written to the full disk."""
        copy = Path(tempfile.mkdtemp(dir=self._place))  # a new one each time: MLflow keeps connections by path
        for file in self.mlruns.glob("mlflow.db*"):
            shutil.copy(file, copy)
        return MlflowClient(f"sqlite:///{copy / 'mlflow.db'}")

    def runs(self) -> list[Any]:
        """The runs of the store."""
        client = self.store()
        return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


@pytest.fixture
def disk(emotion: Any, tmp_path: Path) -> Iterator[Disk]:
    """A file system of 64 MB over `mlruns`."""
    Path("mlruns").mkdir()
    mount = f'mount -t tmpfs -o size={ROOM} tmpfs "$0" && echo mounted && exec sleep 3600'
    try:
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mount, str(Path("mlruns").absolute())],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    assert holder.stdout is not None
    said = holder.stdout.readline()
    if said != "mounted\n" or shutil.which("nsenter") is None:
        holder.kill()
        holder.communicate()
        pytest.skip(f"no file system can be mounted here: {said.strip() or 'nsenter is missing'}")
    yield Disk(holder.pid, tmp_path / "site")
    holder.kill()
    holder.communicate()


def finish(process: subprocess.Popen[str], status: int) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == status, said[-4000:]
    return said


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said[-4000:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "leave",
    [pytest.param(300_000, id="while a checkpoint is written"), pytest.param(0, id="while metrics are written")],
)
def test_a_full_disk_is_one_line_and_resuming_goes_on(disk: Disk, tiny: tuple[str, ...], leave: int) -> None:
    words = ("fit", *tiny, "--data.folds", "4")
    process = disk.start(*words, at_step="8:wait")
    wait_for(process, "step 8 done")  # in the second epoch: a checkpoint of the first is there
    disk.fill(leave)
    said = finish(process, 1)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "No space left on device" in errors[0]
    assert "Traceback" not in said, said[-6000:]
    (before,) = disk.runs()

    disk.make_room()
    finish(disk.start(*words, "--resume"), 0)
    (after,) = disk.runs()
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    (table,) = disk.mlruns.rglob("predictions.parquet")
    predictions = pd.read_parquet(table)
    right = (predictions["label"] == predictions["predicted"]).mean()
    assert after.data.metrics["test/accuracy"] == pytest.approx(right)
    client = disk.store()
    for name in ("train/loss", "val/f1_macro"):
        steps = [point.step for point in client.get_metric_history(after.info.run_id, name)]
        assert len(steps) == len(set(steps)) == 2, (name, steps)


def is_resumed(emotion: Any, tiny: tuple[str, ...]) -> None:
    """Whether the failed run can be resumed and stays one run."""
    (failed,) = emotion.runs()
    assert failed.info.status == "FAILED"
    emotion("fit", *tiny, "--resume")
    (run,) = emotion.runs()
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    assert len(emotion.table(run.info.run_id, "predictions"))
    assert len(emotion.history(run.info.run_id, "val/f1_macro")) == 2


def test_no_room_for_a_checkpoint(
    emotion: Any, store: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "mlruns/runs/x/last.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.trainer.Trainer.save_checkpoint", full)
        done = emotion("fit", *tiny, status=1)
    (error,) = done.errors
    assert "mlruns/runs/x/last.ckpt" in error
    assert "No space left on device" in error
    assert "free space" in error
    assert "Traceback" not in done.err
    is_resumed(emotion, tiny)


def test_a_refused_checkpoint_does_not_go_unnoticed(
    emotion: Any,
    store: Path,
    tiny: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    at_step: Callable[[int, Callable[[], object]], None],
) -> None:
    """Lightning catches the PermissionError of the writing and goes on."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        at_step(8, lambda: patch.setattr(LocalFileSystem, "open", refuse))  # an older checkpoint is there
        done = emotion("fit", *tiny, status=1)
    (error,) = done.errors
    (run,) = emotion.runs()
    assert f"{run.info.run_id}/" in error
    assert ".ckpt: Permission denied" in error
    is_resumed(emotion, tiny)
