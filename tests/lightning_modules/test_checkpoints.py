"""Checkpoints that are damaged, foreign or malicious, by `from_checkpoint` and by Lightning's `ckpt_path`."""

from pathlib import Path

import pytest
import torch
from tiny_task import CLASSES, TinyTask, classifier, trainer

from datamodules.errors import InputError
from lightning_modules.classifier import EmotionClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model.ckpt"
    test = trainer()
    test.test(classifier(), datamodule=TinyTask(), verbose=False)
    test.save_checkpoint(path, weights_only=True)
    return path


class RunsCode:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("cut", [0, 100, 0.5, 0.999])
def test_a_truncated_checkpoint_is_a_clear_error(checkpoint: Path, tmp_path: Path, cut: float) -> None:
    content, path = checkpoint.read_bytes(), tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    with pytest.raises(InputError, match=r"cut\.ckpt is damaged"):
        EmotionClassifier.from_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_not_opened(checkpoint: Path, tmp_path: Path) -> None:
    path, touched = tmp_path / "evil.ckpt", tmp_path / "touched"
    torch.save(torch.load(checkpoint, weights_only=True) | {"extra": RunsCode(touched)}, path)
    with pytest.raises(InputError, match=r"evil\.ckpt contains objects that would run code, so it was not opened"):
        EmotionClassifier.from_checkpoint(path)
    assert not touched.exists()


def test_a_checkpoint_of_other_classes_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="on the classes happy, neutral, sad; the data has happy, sad, neutral"):
        EmotionClassifier.from_checkpoint(checkpoint, ["happy", "sad", "neutral"])
    other = EmotionClassifier(["a", "b", "c"], backbone="resnet10t", weights="none")
    with pytest.raises(InputError, match="trained on the classes happy, neutral, sad; the data has a, b, c"):
        trainer().test(other, datamodule=TinyTask(), ckpt_path=str(checkpoint), weights_only=True)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    other = EmotionClassifier(CLASSES, backbone="resnet18", weights="none")
    with pytest.raises(InputError, match="the checkpoint has backbone 'resnet10t', this run 'resnet18'"):
        trainer().test(other, datamodule=TinyTask(), ckpt_path=str(checkpoint), weights_only=True)


def test_foreign_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        EmotionClassifier.from_checkpoint(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match=r"foreign\.ckpt is not a checkpoint of an emotion classifier"):
        EmotionClassifier.from_checkpoint(tmp_path / "foreign.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["head.1.bias"]
    torch.save(content, tmp_path / "short.ckpt")
    with pytest.raises(InputError, match=r"short\.ckpt is damaged: its tensors are not those of resnet10t"):
        EmotionClassifier.from_checkpoint(tmp_path / "short.ckpt")


def test_a_checkpoint_serves_as_weights_for_another_task(checkpoint: Path) -> None:
    model = EmotionClassifier(["a", "b"], backbone="resnet10t", weights=str(checkpoint))
    source = EmotionClassifier.from_checkpoint(checkpoint)
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name]), name
