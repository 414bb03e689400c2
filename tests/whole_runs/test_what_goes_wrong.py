"""What ends a training by itself: each is one clear error, the run says so, and what was logged is kept."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import emotion
from lightning_modules.classifier import EmotionClassifier
from records.runs import find_runs

Capture = pytest.CaptureFixture[str]
Step = Callable[[EmotionClassifier, dict[str, torch.Tensor], int], torch.Tensor]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, happens: Step) -> None:
    step = EmotionClassifier.training_step

    def training_step(self: EmotionClassifier, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        return (happens if self.global_step == number else step)(self, batch, index)

    monkeypatch.setattr(EmotionClassifier, "training_step", training_step)


def failing(error: BaseException) -> Step:
    def fail(*_: object) -> torch.Tensor:
        raise error

    return fail


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["device", "host"])
def test_out_of_memory_names_the_batch_size_to_try(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: BaseException
) -> None:
    at_step(monkeypatch, 8, failing(error))
    assert emotion.main(["fit", *one_run]) == 1
    said = capsys.readouterr().err
    assert "error: out of memory with data.batch_size 32: try --data.batch_size 16" in said
    assert "--resume" in said
    assert find_runs().iloc[0]["status"] == "FAILED"


def test_a_loss_that_is_not_finite_names_the_rows(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen: list[int] = []

    def breaks(self: EmotionClassifier, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        seen.extend(batch["row"].tolist())
        return self.logits(self.normalise(batch["image"])).sum() * float("nan")

    at_step(monkeypatch, 8, breaks)
    assert emotion.main(["fit", *one_run]) == 1
    said = capsys.readouterr().err
    assert (
        f"the loss is not finite at step 8; rows of the manifest in this batch: {', '.join(map(str, seen[:16]))}"
        in said
    )
    assert find_runs().iloc[0]["status"] == "FAILED"


def test_too_high_a_learning_rate_is_stopped(place: Path, one_run: tuple[str, ...], capsys: Capture) -> None:
    assert emotion.main(["fit", *one_run, "--model.learning_rate", "1e30"]) == 1
    said = capsys.readouterr().err
    assert "not finite" in said or "val/loss is" in said
    assert "Lower model.learning_rate" in said
    assert find_runs().iloc[0]["status"] == "FAILED"


def test_any_other_error_keeps_its_trace(
    place: Path, one_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 1, failing(FileNotFoundError(errno.ENOENT, "No such file or directory", "face.png")))
    with pytest.raises(FileNotFoundError, match=r"face\.png"):
        emotion.main(["fit", *one_run])
    assert find_runs().iloc[0]["status"] == "FAILED"


def test_a_run_without_an_epoch_cannot_be_evaluated(place: Path, one_run: tuple[str, ...], capsys: Capture) -> None:
    assert emotion.main(["fit", *one_run, "--trainer.max_epochs", "0"]) == 1
    assert "give --trainer.max_epochs at least 1" in capsys.readouterr().err
    assert emotion.main(["fit", *one_run, "--run.evaluate", "false"]) == 0
