"""K-EmotionNet: the layers that were published, counted; and a backbone like any other."""

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from datamodules.errors import InputError
from lightning_modules.backbones import BLOCKS, build_backbone

NAME = "k_emotionnet"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(NAME, num_classes=7)


def test_54_weighted_layers(model: nn.Module) -> None:
    weighted = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    counted = [name for name, _ in weighted if "downsample" not in name]  # the shortcuts' projections do not count
    assert len(counted) == 54
    assert counted[0] == "conv1"
    assert counted[-1] == "fc"
    assert all(m.kernel_size == (3, 3) for name, m in weighted if name in counted[1:-1])
    assert all(m.kernel_size == (1, 1) for name, m in weighted if "downsample" in name)


def test_26_basic_blocks_and_no_bottleneck(model: nn.Module) -> None:
    assert sum(BLOCKS) == 26
    assert sum(isinstance(m, BasicBlock) for m in model.modules()) == 26
    assert not any(isinstance(m, Bottleneck) for m in model.modules())
    stages = [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)]
    assert tuple(stages) == BLOCKS == (4, 6, 12, 4)


def test_shape_and_parameters_by_hand(model: nn.Module) -> None:
    widths = (64, 128, 256, 512)
    expected = 3 * 64 * 49 + 2 * 64
    before = 64
    for width, blocks in zip(widths, BLOCKS, strict=True):
        for block in range(blocks):
            inner = before if block == 0 else width
            expected += inner * width * 9 + width * width * 9 + 4 * width
            expected += inner * width + 2 * width if inner != width else 0
        before = width
    expected += 512 * 7 + 7
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model(torch.empty(2, 3, 96, 96, device="meta")).shape == (2, 7)


def test_it_is_a_backbone_like_any_other() -> None:
    assert timm.is_model(NAME)
    assert NAME in timm.list_models("k_*")
    backbone, features, config = build_backbone(NAME, "none", drop_path=0.1)
    assert features == 512
    assert config.mean == (0.485, 0.456, 0.406)
    found = backbone.eval()(torch.rand(2, 3, 32, 32))
    assert found.shape == (2, 512)
    assert torch.isfinite(found).all()
    maps = timm.create_model(NAME, features_only=True)  # what a detector takes
    assert maps.feature_info.channels() == [64, 64, 128, 256, 512]


def test_its_weights_come_from_a_file_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    source = timm.create_model(NAME, num_classes=7)
    torch.save(source.state_dict(), file)
    backbone, _, _ = build_backbone(NAME, str(file))
    assert torch.equal(backbone.state_dict()["layer3.11.conv2.weight"], source.state_dict()["layer3.11.conv2.weight"])
    for weights, message in (("embedded", "embedded weights .* exist only for"), ("hub", "could not be loaded from")):
        with pytest.raises(InputError, match=message):
            build_backbone(NAME, weights)
    with pytest.raises(InputError, match="did you mean k_emotionnet"):
        build_backbone("k_emotionet", "none")


def test_its_recipe_is_the_papers() -> None:
    file = Path(__file__).resolve().parents[2] / "lightning_modules" / "recipes" / "k-emotionnet.yaml"
    recipe = yaml.safe_load(file.read_text())
    model, data = recipe["model"]["init_args"], recipe["data"]["init_args"]
    assert (model["backbone"], model["weights"], model["optimizer"]) == (NAME, "none", "adam")
    assert data["erasing"] > 0
    assert recipe["trainer"]["max_epochs"] == 150
    test = 1 / data["folds"]
    validation = (1 - test) * data["inner_fraction"]
    assert (1 - test - validation, validation, test) == pytest.approx((0.8, 0.1, 0.1), abs=1e-3)
    assert re.search("--run.patience", file.read_text())
    assert "split" not in data, "a cross-validation sets it, and a given split replaces it"
