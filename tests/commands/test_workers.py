"""Several processes for one cross-validation, and what a command says that trains nothing."""

import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

PARENT = "tags.kind = 'cross-validation'"
pytestmark = pytest.mark.usefixtures("store")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_two_workers_give_the_numbers_of_one_and_each_has_its_gpu(
    emotion: Any, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of GPUs is made up; each process reports which it was given."""
    words = ("cross-validate", *tiny, "--folds", "2", "--resamples", "100")
    emotion(*words)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    emotion(*words, "--workers", "2")
    two, one = (run.info.run_id for run in emotion.runs(PARENT))
    first, second = (emotion.table(run, "predictions").sort_values("row", ignore_index=True) for run in (one, two))
    assert first["row"].equals(second["row"])
    columns = [name for name in first if name.startswith("prob_")]
    np.testing.assert_allclose(first[columns], second[columns], atol=1e-6)
    workers = sorted(run.data.tags["worker"] for run in emotion.children(two))
    assert [re.findall(r"DEVICES=(\d)", worker) for worker in workers] == [["5"], ["7"]]
    identities = {run: emotion.client.get_run(run).data.tags["identity"] for run in (one, two)}
    assert identities[one] == identities[two]


@pytest.mark.slow
def test_a_killed_worker_is_named_and_its_fold_goes_on(emotion: Any, tiny: tuple[str, ...]) -> None:
    words = ("cross-validate", *tiny, "--folds", "3", "--trainer.max_epochs", "6", "--workers", "2")
    process = emotion.start(*words)
    said = ""
    for line in process.stdout:
        said += line
        if "epoch 1/6" in line:
            break
    spawned = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    spawned[-1].send_signal(signal.SIGKILL)
    said += emotion.finish(process, status=1)
    assert "its process was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert "RUNNING" not in {run.info.status for run in emotion.runs()}
    emotion(*words, "--resume")
    (parent,) = emotion.runs(PARENT)
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in emotion.children(parent.info.run_id)] == ["FINISHED"] * 3


def test_a_dry_run_says_what_a_run_would_do(emotion: Any, fitted: str, tiny: tuple[str, ...]) -> None:
    said = emotion("fit", *tiny, "--data.folds", "4", "--dry-run").out
    assert len(emotion.runs()) == 1
    shown = dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line)
    assert shown["identity"] == emotion.client.get_run(fitted).data.tags["identity"]
    split = emotion.split(fitted)
    for part in ("val", "test"):
        assert shown[part].startswith(f"{len(emotion.rows(fitted, part))} images")
    drawn = (split["part"] == "train").sum()
    assert f"{len(emotion.rows(fitted, 'train'))} images; an epoch has {drawn} rows" in shown["train"]
    assert shown["steps"].startswith(f"{-(-drawn // 32)} in an epoch of batch size 32")
    assert "note: this trains only" in said
    assert re.search(r"note: the val part has \d+ images of 8 classes, so which epoch is kept is partly chance", said)
    larger = emotion("fit", *tiny, "--data.folds", "4", "--data.inner_fraction", "0.5", "--dry-run").out
    assert "note: the val part has" not in larger
    assert "this trains only" not in emotion("fit", *tiny, "--trainer.max_epochs", "60", "--dry-run").out
    several = emotion("cross-validate", *tiny, "--folds", "2", "--seeds", "0", "1", "--dry-run").out
    assert re.search(r"^runs +4$", several, re.MULTILINE)
    assert len(emotion.runs()) == 1


def test_checkpoints_are_kept_as_asked(emotion: Any, tiny: tuple[str, ...]) -> None:
    short = ("fit", *tiny, "--data.folds", "4", "--trainer.max_epochs", "1")
    for keep, left in (("none", set()), ("last", {"best.ckpt", "last.ckpt"})):
        emotion(*short, "--run.keep", keep)
        run_id = emotion.runs()[0].info.run_id
        found = [path for path in Path("mlruns").rglob("*.ckpt") if run_id in path.parts]
        assert {path.name for path in found if "artifacts" not in path.parts} == left
        picture = next(Path("mlruns").rglob("confusion_matrix.png"))
        done = emotion("predict", "--run", run_id, "--data", str(picture), status=int(keep == "none"))
        if keep == "none":
            assert "was trained with --run.keep none, so it has no checkpoint" in done.errors[0]
