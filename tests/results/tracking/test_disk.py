"""`emotion runs du` and `emotion runs delete`: the disk space of runs, and how it is freed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from datamodules.errors import InputError
from emotion.cli.runs import main
from results.tracking.disk import delete_runs, disk_use
from results.tracking.logger import TAG, TrackingLogger, this_process
from results.tracking.runs import download, find_runs
from results.tracking.store import embedded_uri

NewLogger = Callable[..., TrackingLogger]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(mlruns: Path, new_logger: NewLogger) -> tuple[str, str, str]:
    """A cross-validation with one fold, and a run alone; with files of known sizes."""
    parent = new_logger(run_name="cv", tags={"kind": "cross-validation"})
    fold = new_logger(run_name="fold", parent_run_id=parent.run_id)
    alone = new_logger(run_name="alone")
    fold.log_text("x" * 3_000_000, "checkpoint/best.ckpt")
    fold.log_text("x" * 1_000_000, "figures/curve.svg")
    alone.log_text("x" * 500_000, "report.md")
    for logger in (parent, fold, alone):
        logger.finalize()
    ids = (str(parent.run_id), str(fold.run_id), str(alone.run_id))
    (mlruns / "runs" / ids[1] / "last.ckpt").write_bytes(b"x" * 2_000_000)
    return ids


def client() -> MlflowClient:
    return MlflowClient(embedded_uri("mlruns"))


def files(run_id: str) -> list[Path]:
    return [path for path in Path("mlruns").rglob("*") if run_id in path.parts]


def test_du_counts_local_folder_artifacts_and_checkpoints(runs: tuple[str, str, str], capsys: Capture) -> None:
    _, fold, alone = runs
    found = disk_use().set_index("run_id")

    assert list(found.index[:2]) == [fold, alone]  # the largest first
    assert found.loc[fold, "checkpoints"] == 5_000_000
    assert found.loc[fold, "artifacts"] == pytest.approx(1_000_000, rel=0.1)
    assert found.loc[fold, "folder"] < 100_000
    assert found.loc[alone, "artifacts"] == pytest.approx(500_000, rel=0.2)
    for run_id in runs:
        assert found.loc[run_id, "total"] == sum(path.stat().st_size for path in files(run_id) if path.is_file())

    assert main(["runs", "du"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "run", "status", "folder", "artifacts", "checkpoints", "total"]
    assert lines[2].split()[:3] == ["fold", fold[:8], "FINISHED"]
    assert lines[-1] == f"3 runs, {found['total'].sum() / 1e6:.1f} MB, of which checkpoints 5.0 MB"


def test_du_counts_what_no_record_knows(runs: tuple[str, str, str]) -> None:
    shutil.copytree(Path("mlruns/artifacts", runs[1]), Path("mlruns/artifacts/left-behind"))
    client().delete_run(runs[2])
    status = disk_use().set_index("run_id")["status"]
    assert dict(status[[runs[1], runs[2], "left-behind"]]) == {
        runs[1]: "FINISHED",
        runs[2]: "deleted",
        "left-behind": "unknown",
    }


def test_du_of_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "du"]) == 0
    assert "No run has files in" in capsys.readouterr().out
    assert not Path("mlruns").exists()


def test_delete_frees_the_space_of_a_run_and_of_those_below_it(runs: tuple[str, str, str], capsys: Capture) -> None:
    parent, fold, alone = runs
    total = disk_use().set_index("run_id")["total"]

    assert main(["runs", "delete", "cv"]) == 0

    out = capsys.readouterr().out
    assert f"deleted: cv [{parent[:8]}], {total[parent] / 1e6:.1f} MB freed" in out
    assert f"deleted: fold [{fold[:8]}], {total[fold] / 1e6:.1f} MB freed" in out
    assert f"2 runs, {(total[parent] + total[fold]) / 1e6:.1f} MB freed" in out
    assert not files(parent) + files(fold)
    assert files(alone)
    assert find_runs()["run_id"].tolist() == [alone]
    assert f"mlflow runs restore --run-id {parent}" in out
    client().restore_run(parent)
    assert client().get_run(parent).data.tags["kind"] == "cross-validation"


def test_delete_may_keep_the_files_and_free_them_later(runs: tuple[str, str, str], capsys: Capture) -> None:
    parent, fold, _ = runs
    assert main(["runs", "delete", parent, "--keep-files"]) == 0
    assert "files kept" in capsys.readouterr().out
    client().restore_run(fold)
    assert download(fold, "checkpoint/best.ckpt").stat().st_size == 3_000_000

    assert main(["runs", "delete", parent]) == 0  # it is deleted already, and its fold is not
    assert not files(parent) + files(fold)


def test_a_run_that_is_being_written_is_not_deleted(
    runs: tuple[str, str, str], new_logger: NewLogger, capsys: Capture
) -> None:
    _, fold, alone = runs
    writing = new_logger(run_name="writing")
    writing.log_metrics({"loss": 1.0}, 0)
    with pytest.raises(InputError, match=r"is being written by another process; end that process first"):
        delete_runs([alone, str(writing.run_id)])
    assert files(alone)
    assert client().get_run(alone).info.lifecycle_stage == "active"  # nothing is done by halves
    writing.finalize()

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        started = psutil.Process(process.pid).create_time()
        client().update_run(fold, status="RUNNING")
        client().set_tag(fold, TAG, json.dumps({**this_process(), "pid": process.pid, "started": started, "seen": 0}))
        with pytest.raises(InputError, match=f"RUN: run {fold} is running on this machine"):
            main(["runs", "delete", "cv"])
    finally:
        process.kill()
        process.wait()
    assert files(fold)
    assert main(["runs", "delete", "cv"]) == 0


def test_a_copied_store_does_not_delete_the_files_of_the_original(
    runs: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy" / "mlruns"
    copy.mkdir(parents=True)
    shutil.copy("mlruns/mlflow.db", copy)  # its addresses name the artifacts of the original
    before = files(runs[1])
    assert delete_runs([runs[1]], directory=copy)[0].freed == 0
    assert files(runs[1]) == before


def test_a_run_that_does_not_exist(runs: tuple[str, str, str]) -> None:
    with pytest.raises(InputError, match="run: there is no run 'nothing'"):
        main(["runs", "delete", runs[2], "nothing"])
    assert files(runs[2])
