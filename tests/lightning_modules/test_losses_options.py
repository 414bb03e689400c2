"""Losses and their options by name, as the options of a run build them."""

import pytest

from datamodules.errors import InputError
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import RunConfig
from lightning_modules.losses import Focal

BACKBONE = ("--model.backbone", "test_resnet", "--model.weights", "none")


def test_a_loss_and_its_options_come_from_the_command_line() -> None:
    for name in ("Focal", "lightning_modules.losses.Focal"):
        words = [*BACKBONE, "--model.loss.gamma=1", "--model.loss.alpha=[1.0,2.0,3.0]", f"--model.loss={name}"]
        model = EmotionClassifier(classes=["a", "b", "c"], **RunConfig.resolve(words).instantiate().model)
        assert isinstance(model.loss, Focal)
        assert (model.loss.gamma, model.loss.alpha) == (1.0, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("loss", ["LDAM", "lightning_modules.losses.LDAM"])
def test_an_option_the_loss_cannot_use_is_an_error(loss: str) -> None:
    with pytest.raises(InputError, match=r"--model.loss.label_smoothing: not an option of LDAM; it takes"):
        RunConfig.resolve([*BACKBONE, f"--model.loss={loss}", "--model.loss.label_smoothing=0.1"])
