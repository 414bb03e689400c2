"""What ends a training by itself: each is one clear error, the run says so, and what was logged is kept."""

import errno
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

import emotion
from lightning_modules.classifier import EmotionClassifier
from records.runs import find_runs, load_table
from records.spool import Spool

Capture = pytest.CaptureFixture[str]
Step = Callable[[EmotionClassifier, dict[str, torch.Tensor], int], torch.Tensor]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, happens: Step) -> None:
    step = EmotionClassifier.training_step

    def training_step(self: EmotionClassifier, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        return (happens if self.global_step == number else step)(self, batch, index)

    monkeypatch.setattr(EmotionClassifier, "training_step", training_step)


def test_a_full_disk_while_a_checkpoint_is_written(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "mlruns/runs/x/last.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.trainer.Trainer.save_checkpoint", full)
        assert emotion.main(["fit", *one_run]) == 1
    assert "cannot write to mlruns/runs/x/last.ckpt: No space left on device; free space" in capsys.readouterr().err
    assert find_runs().iloc[0]["status"] == "FAILED"
    assert emotion.main(["fit", *one_run, "--resume"]) == 0  # there is room again
    found = find_runs()
    assert list(found["status"]) == ["FINISHED"]
    assert len(load_table(str(found.iloc[0]["run_id"]), "predictions"))


def test_a_refused_checkpoint_does_not_go_unnoticed(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Lightning catches the PermissionError of the writing and goes on."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def from_now_on(self: EmotionClassifier, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        patch.setattr(LocalFileSystem, "open", refuse)
        return self.logits(self.normalise(batch["image"])).sum()

    with monkeypatch.context() as patch:
        at_step(patch, 8, from_now_on)  # in the second epoch: an older checkpoint is there
        assert emotion.main(["fit", *one_run]) == 1
    said = capsys.readouterr().err
    run = find_runs().iloc[0]
    assert re.search(
        rf"{run['run_id']}/(last|best).ckpt: Permission denied; let this user write there, then go on", said
    )
    assert run["status"] == "FAILED"
    assert emotion.main(["fit", *one_run, "--resume"]) == 0
    assert list(find_runs()["status"]) == ["FINISHED"]


def test_a_full_disk_while_metrics_are_written(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    append = Spool.append

    def full(self: Spool, operation: dict[str, object]) -> None:
        if operation.get("op") == "metrics":
            raise OSError(errno.ENOSPC, "No space left on device", "journal.jsonl")
        append(self, operation)

    monkeypatch.setattr(Spool, "append", full)
    assert emotion.main(["fit", *one_run]) == 1
    assert "cannot write to journal.jsonl: No space left on device" in capsys.readouterr().err
    assert find_runs().iloc[0]["status"] == "FAILED"
