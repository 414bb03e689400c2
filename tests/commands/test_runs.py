"""`emotion runs` and `emotion sync`: runs are listed, exported, imported, pushed and pulled whole, under their ids."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient


def stored(folder: Path) -> MlflowClient:
    """The embedded store in a folder."""
    return MlflowClient(f"sqlite:///{(folder / 'mlflow.db').absolute()}")


def seen(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """What a store shows of a run, without where its files are."""
    run = client.get_run(run_id)
    history = {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in ("train/loss", "val/f1_macro", "test/f1_macro")
        if name in run.data.metrics
    }
    shown = {"name": run.info.run_name, "status": run.info.status, "end": run.info.end_time, "history": history}
    data = [(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs]
    return shown | {"params": run.data.params, "tags": run.data.tags, "metrics": run.data.metrics, "data": data}


def table(folder: Path, run_id: str, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "artifacts" / run_id / "artifacts" / "tables" / f"{name}.parquet")


def test_export_and_import_carry_whole_runs(emotion: Any, cross_validated: str, tmp_path: Path) -> None:
    listed = emotion("runs", "list").out.splitlines()
    members = emotion.children(cross_validated)
    ids = [cross_validated, *(run.info.run_id for run in members)]
    lines = [line for line in listed if any(run_id[:8] in line for run_id in ids)]
    assert len(lines) == 5
    assert [line.startswith("  ") for line in lines] == [False, True, True, True, True]  # folds below their parent

    assert "5 exported" in emotion("runs", "export", "out").out
    assert not list(Path("out").rglob("*.ckpt"))
    assert emotion("runs", "list", "out").out.splitlines() == listed
    before = {run_id: seen(emotion.client, run_id) for run_id in ids}
    tables = {run_id: emotion.table(run_id, "predictions") for run_id in ids}
    Path("mlruns").rename(tmp_path / "away")  # an import needs nothing of where it came from
    other = tmp_path / "another person" / "mlruns"
    other.parent.mkdir()
    assert "5 new" in emotion("runs", "import", "out", "--directory", str(other)).out
    for run_id in ids:
        assert seen(stored(other), run_id) == before[run_id]
        pd.testing.assert_frame_equal(table(other, run_id, "predictions"), tables[run_id])
    assert "5 unchanged" in emotion("runs", "import", "out", "--directory", str(other)).out
    emotion("report", "certify", cross_validated, "--directory", str(other), "--out", "certificate", status=None)
    (certificate,) = Path("certificate").glob("*.json")
    wrong = [line for line in json.loads(certificate.read_text())["lines"] if line["verdict"] == "fails"]
    assert not [line for line in wrong if "commit" not in line["statement"]]  # that one fails while you edit


def test_a_run_exported_with_its_model_predicts_elsewhere(
    emotion: Any, fitted: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", "--run", fitted, "--data", str(faces.absolute()), "--output")
    emotion(*words, "here.csv")
    emotion("runs", "export", "out", "--run", fitted, "--models")
    (tmp_path / "elsewhere").mkdir()
    shutil.move("out", tmp_path / "elsewhere" / "out")
    Path("mlruns").rename(tmp_path / "away")
    here = pd.read_csv("here.csv")
    monkeypatch.chdir(tmp_path / "elsewhere")
    emotion("runs", "import", "out")
    emotion(*words, "there.csv")
    pd.testing.assert_frame_equal(pd.read_csv("there.csv"), here)


def test_a_damaged_export_is_refused(emotion: Any, fitted: str, tmp_path: Path) -> None:
    emotion("runs", "export", "out")
    (predictions,) = Path("out").rglob("predictions.parquet")
    predictions.write_bytes(predictions.read_bytes()[:-10])
    other = str(tmp_path / "other")
    said = emotion("runs", "import", "out", "--directory", other, status=1).out
    assert "refused" in said
    assert "predictions.parquet" in said
    assert "no runs" in emotion("runs", "list", "--directory", other, status=None).out.lower()
    assert len(emotion("runs", "import", "nowhere", status=1).errors) == 1
    assert len(emotion("runs", "export", "out", "--run", "nope", status=1).errors) == 1


def test_nothing_waits_to_be_sent(emotion: Any, fitted: str) -> None:
    assert "Nothing to send" in emotion("sync").out


needs_dvc = pytest.mark.skipif(
    importlib.util.find_spec("dvc") is None or shutil.which("git") is None, reason="DVC and git are not installed here"
)


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@needs_dvc
def test_push_and_pull_share_runs_through_a_folder(
    emotion: Any, fitted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "settings" / name))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    one, two = Path.cwd(), tmp_path / "two"
    git(one, "init", "-q", "-b", "main")
    (one / ".dvc").mkdir()
    (one / ".dvc" / "config").write_text(f"[core]\nremote = shelf\n['remote \"shelf\"']\nurl = {tmp_path / 'shelf'}\n")
    (one / ".gitignore").write_text("/mlruns\n")
    expected = emotion.table(fitted, "predictions")
    emotion("runs", "push")
    assert Path("mlruns.dvc").is_file()
    assert any(path.is_file() for path in (tmp_path / "shelf").rglob("*"))
    git(one, "add", ".gitignore", ".dvc", "mlruns.dvc")
    git(one, "commit", "-qm", "runs")

    git(tmp_path, "clone", "-q", str(one), str(two))
    monkeypatch.chdir(two)
    assert "1 new" in emotion("runs", "pull").out
    (run,) = emotion.runs()
    assert run.info.run_id == fitted
    pd.testing.assert_frame_equal(emotion.table(fitted, "predictions"), expected)
    assert not list(two.rglob("*.ckpt"))
    assert "1 unchanged" in emotion("runs", "pull").out
    assert git(two, "status", "--short") == ""

    shutil.rmtree(tmp_path / "shelf")
    shutil.rmtree(two / ".dvc" / "cache", ignore_errors=True)
    done = emotion("runs", "pull", status=1)
    assert len(done.errors) == 1
    assert "Traceback" not in done.err
