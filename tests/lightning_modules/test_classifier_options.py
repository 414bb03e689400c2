"""The classifier as LightningCLI in subclass mode builds it: losses by class path, their options by name."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from tiny_task import CLASSES, TinyTask

from lightning_modules.classifier import EmotionClassifier
from lightning_modules.losses import CrossEntropy, Focal

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    # LightningCLI 2.6 uses what jsonargparse 4.49 deprecated
    pytest.mark.filterwarnings(r"ignore:[\s\S]*(JsonargparseDeprecationWarning|deprecated in v4\.49)"),
]


@pytest.fixture(autouse=True)
def _seed_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # which Lightning sets for the whole process


class NamedTask(TinyTask):
    """The tiny task with the attribute that real data links to the model."""

    classes = CLASSES


class Cli(LightningCLI):
    def add_arguments_to_parser(self, parser: object) -> None:
        parser.link_arguments("data.classes", "model.init_args.classes", apply_on="instantiate")  # type: ignore[attr-defined]


def command(folder: Path, *words: str) -> EmotionClassifier:
    fixed = "--trainer.max_epochs=1 --trainer.accelerator=cpu --trainer.logger=false"
    quiet = "--trainer.enable_progress_bar=false --seed_everything=0"
    name = "lightning_modules.classifier.EmotionClassifier"
    args = ["fit", *fixed.split(), *quiet.split(), f"--trainer.default_root_dir={folder}", f"--model={name}"]
    args += ["--model.backbone=resnet10t", "--model.weights=none", *words]
    cli = Cli(EmotionClassifier, NamedTask, subclass_mode_model=True, args=args, save_config_callback=None)
    assert isinstance(cli.model, EmotionClassifier)
    return cli.model


def test_a_loss_and_its_options_come_from_the_command_line(tmp_path: Path) -> None:
    focal = "--model.loss=lightning_modules.losses.Focal"
    model = command(tmp_path, focal, "--model.loss.gamma=1", "--model.loss.alpha=[1.0,2.0,3.0]")
    assert isinstance(model.loss, Focal)
    assert (model.loss.gamma, model.loss.alpha) == (1.0, [1.0, 2.0, 3.0])
    assert model.classes == CLASSES
    (path,) = tmp_path.rglob("*.ckpt")
    assert "hyper_parameters" not in torch.load(path, weights_only=True)
    again = EmotionClassifier.from_checkpoint(path, CLASSES)
    assert isinstance(again.loss, CrossEntropy)
    assert again.classes == CLASSES


def test_an_option_the_loss_cannot_use_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(tmp_path, "--model.loss=lightning_modules.losses.LDAM", "--model.loss.label_smoothing=0.1")
    assert "label_smoothing" in capsys.readouterr().err
