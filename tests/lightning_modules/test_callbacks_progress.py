"""A file gets one line an epoch, a terminal the bar; a checkpoint that was refused is told."""

import errno
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from tiny_task import TinyTask, classifier, trainer

from lightning_modules.callbacks import CheckedCheckpointIO, EpochLines, RunProgress, run_progress

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def test_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(2, callbacks=[EpochLines()], enable_progress_bar=False)
    run.fit(classifier(), datamodule=TinyTask())
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"epoch {number}/2: loss \d\.\d+, val macro F1 \d\.\d+, \d+\.\d s", line), line
    assert float(lines[-1].split()[3].rstrip(",")) == pytest.approx(float(run.callback_metrics["train/loss"]), abs=6e-4)
    assert said.out == ""


def test_other_ranks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for first, count in ((True, 1), (False, 0)):
        run: Any = SimpleNamespace(is_global_zero=first, callback_metrics={}, current_epoch=0, max_epochs=1)
        EpochLines("fold 2: ").on_train_epoch_end(run, Any)
        assert capsys.readouterr().err.count("fold 2: epoch 1/1: ") == count


@pytest.mark.parametrize(("terminal", "kind"), [(True, RunProgress), (False, EpochLines)])
def test_the_bar_needs_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: type) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert type(run_progress()) is kind


def refuse(*_: object, **__: object) -> Any:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_refused_checkpoint_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an older one stands; one that is written is as Lightning writes it."""
    path, writer = tmp_path / "last.ckpt", CheckedCheckpointIO()
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "open", refuse)
        with pytest.raises(PermissionError, match=r"Permission denied: '.*last\.ckpt'"):
            writer.save_checkpoint({"step": 1}, path)
        assert not path.exists()
    for step in (1, 2):  # the second within the clock's tick, and as long as the first
        writer.save_checkpoint({"step": step}, path)
        assert torch.load(path, weights_only=True) == {"step": step}
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "open", refuse)
        with pytest.raises(PermissionError, match=r"last\.ckpt"):
            writer.save_checkpoint({"step": 3}, path)
