"""Explanations of networks with known results: linear in superpixels, one convolution, or computed by hand."""

from itertools import combinations
from math import factorial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from emotion.explanation.explainer import MAPS, load, save
from emotion.explanation.methods import (
    METHODS,
    ExplainedImages,
    MethodOptions,
    Network,
    explain_image,
    grad_cam,
    grid_shape,
    known_method,
    last_layer,
    temporarily_frozen,
)
from emotion.explanation.superpixels import baseline_image, superpixels, weights_to_map

SIDE = 16
SEGMENTS = (np.arange(SIDE)[:, None] // 8 * 3 + np.arange(SIDE)[None] // 6).astype(np.int32)  # 2 x 3 blocks
TRUTH = np.array([0.30, -0.20, 0.05, 0.0, 0.10, -0.15])
IMAGE = np.full((SIDE, SIDE, 3), 250, np.uint8)


class Linear(nn.Module):
    """Says 0.4 and what is added by each block that is bright; the other class gets the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(TRUTH, dtype=torch.float32))
        self.seen: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(len(image))
        bright = image.float().mean(dim=1) / 250  # (M, H, W)
        blocks = [bright[:, torch.from_numpy(block == SEGMENTS)].mean(dim=1) for block in range(len(TRUTH))]
        says = 0.4 + torch.stack(blocks, dim=1) @ self.weight
        return torch.stack([says, 1 - says], dim=1)


class Bent(Linear):
    """The same through a bend, so that the value of a block depends on the others."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(3 * super().forward(image)).pow(2)


def network(module: nn.Module) -> Network:
    return Network(module, module, module)


def explained(module: nn.Module, **options: object) -> tuple[np.ndarray, float]:
    chosen = MethodOptions(**{"superpixels": 6, "fill": "black", "samples": 400, **options})
    return explain_image(network(module), IMAGE, SEGMENTS, 0, 3, chosen)


def weights(found: np.ndarray) -> np.ndarray:
    return np.bincount(SEGMENTS.ravel(), found.ravel())


def shapley(module: nn.Module) -> np.ndarray:
    """Shapley values by their definition: over all orders of the blocks, through every subset."""
    blocks = range(len(TRUTH))

    def value(there: tuple[int, ...]) -> float:
        shown = np.where(np.isin(SEGMENTS, there)[..., None], IMAGE, 0).astype(np.uint8)
        with torch.no_grad():
            return float(module(torch.from_numpy(shown).permute(2, 0, 1)[None])[0, 0])

    found = np.zeros(len(TRUTH))
    for block in blocks:
        others = [one for one in blocks if one != block]
        for size in range(len(others) + 1):
            share = factorial(size) * factorial(len(others) - size) / factorial(len(TRUTH))
            for there in combinations(others, size):
                found[block] += share * (value((*there, block)) - value(there))
    return found


def test_lime_finds_the_coefficients_of_a_linear_model() -> None:
    found, fit = explained(Linear(), samples=1000)

    assert weights(found) == pytest.approx(TRUTH, abs=0.01)  # its ridge pulls them a little towards 0
    assert fit > 0.99
    assert found[SEGMENTS == 0].std() == 0


def test_lime_keeps_the_strongest_and_fits_them_again() -> None:
    found, _ = explained(Linear(), samples=1000, features=2)

    assert np.flatnonzero(np.abs(weights(found)) > 1e-9).tolist() == [0, 1]
    assert weights(found)[:2] == pytest.approx(TRUTH[:2], abs=0.02)


def test_kernel_shap_finds_shapley_values_of_a_bent_model_and_they_add_up() -> None:
    found, gap = explained(Linear(), method="kernel-shap")
    assert weights(found) == pytest.approx(TRUTH, abs=1e-3)
    assert gap < 1e-4

    bent = Bent()
    found, gap = explained(bent, method="kernel-shap", samples=1000)
    truth = shapley(bent)
    assert weights(found) == pytest.approx(truth, abs=0.015)
    assert not np.allclose(truth, TRUTH, atol=0.03)  # so the test can tell
    ends = network(bent).scores(np.stack([IMAGE, np.zeros_like(IMAGE)]))[:, 0]
    assert found.sum() == pytest.approx(ends[0] - ends[1], abs=1e-4)


def test_integrated_gradients_are_complete() -> None:
    found, gap = explained(Linear(), method="integrated-gradients")
    assert weights(found) == pytest.approx(TRUTH, abs=1e-5)

    bent = Bent()
    found, gap = explained(bent, method="integrated-gradients")
    ends = network(bent).scores(np.stack([IMAGE, np.zeros_like(IMAGE)]))[:, 0]
    assert found.sum() == pytest.approx(ends[0] - ends[1], abs=1e-4)
    assert gap < 1e-5
    assert explained(bent, method="integrated-gradients", steps=1)[1] > 5e-5  # a step is not enough


class TwoChannels(nn.Module):
    """Two convolutions of one pixel, pooled, then weighed: its Grad-CAM can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.unused = nn.Conv2d(3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, -1.0]]).reshape(2, 3, 1, 1))
            self.head.weight.copy_(torch.tensor([[1.0, -0.5], [-1.0, 2.0]]))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.act(self.conv(image.float())).mean(dim=(2, 3)))


def test_grad_cam_is_the_map_computed_by_hand() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    module = TwoChannels()
    found = grad_cam(module, module, np.stack([image, image]), np.array([0, 1]), "conv")

    red, green, blue = (image[..., channel].astype(float) for channel in range(3))
    activations = np.stack([red, green - blue])  # before the ReLU, which writes over them
    passes = (activations > 0).mean(axis=(1, 2))  # of a pixel's gradient through ReLU and mean, times the pixels
    for target, head in enumerate(([1.0, -0.5], [-1.0, 2.0])):
        by_hand = np.maximum(np.tensordot(np.array(head) * passes, activations, 1), 0)
        by_hand = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
        assert found[target] == pytest.approx(by_hand, abs=1e-5)


def test_a_network_is_left_as_it_was() -> None:
    module = TwoChannels().train()
    module.act.eval()
    module.conv.weight.requires_grad_(False)
    module.head.weight.grad = torch.ones(2, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    given = network(module)
    for method in METHODS:
        options = MethodOptions(method=method, superpixels=6, samples=20, layer="conv", steps=4)
        explain_image(given, IMAGE, SEGMENTS, 1, 0, options)
    grid_shape(module, module, IMAGE, "conv")

    assert [one.training for one in (module, module.conv, module.act)] == [True, True, False]
    assert [one.requires_grad for one in (module.conv.weight, module.head.weight)] == [False, True]
    assert torch.equal(module.head.weight.grad, torch.ones(2, 2))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    hooks = [len(one._forward_hooks) + len(one._backward_hooks) for one in module.modules()]
    assert sum(hooks) == 0


def test_undisturbed_gives_back_what_it_lent_after_an_error() -> None:
    module = TwoChannels().train()
    lent = temporarily_frozen(module)
    with pytest.raises(RuntimeError, match="channels"), lent:
        module(torch.zeros(1, 5, 2, 2))
    assert module.training
    assert module.conv.weight.requires_grad


@pytest.mark.parametrize("method", ["lime", "kernel-shap"])
def test_same_seed_same_numbers_whatever_the_batch_and_the_global_stream(method: str) -> None:
    first, _ = explained(Bent(), method=method, samples=60, seed=1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, _ = explained(Bent(), method=method, samples=60, seed=1, batch=7)
    other, _ = explained(Bent(), method=method, samples=60, seed=2)

    assert again == pytest.approx(first, abs=1e-7)
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.allclose(first, other)


def test_samples_go_through_the_network_in_batches() -> None:
    module = Linear()
    explained(module, samples=100, batch=32)
    assert module.seen == [32, 32, 32, 4]


def test_superpixels_follow_colours_and_have_no_gaps() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = (250, 40, 40)
    found = superpixels(np.stack([image, image]), 20)

    assert found.dtype == np.int32
    for one in found:
        assert np.unique(one).tolist() == list(range(one.max() + 1))
        bright = np.bincount(one.ravel(), image[..., 0].ravel() > 0) / np.bincount(one.ravel())
        assert np.abs(bright - bright.round()).mean() < 0.03  # pieces are of one colour, but for a pixel at a border
        assert 0.15 < bright.mean() < 0.4
    assert np.array_equal(found[0], superpixels(image[None], 20)[0])


def test_what_stands_where_nothing_is_left() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 101
    segments = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    image[0, 2] = 5

    assert (
        baseline_image(image, segments, "superpixel")[:, 2:].max()
        == baseline_image(image, segments, "superpixel")[0, 2].max()
        == 89
    )
    assert np.unique(baseline_image(image, segments, "mean")).tolist() == [44]
    assert np.unique(baseline_image(image, segments, "grey")).tolist() == [128]
    assert baseline_image(image, segments, "black").max() == 0
    blurred = baseline_image(np.tile(image, (4, 4, 1)), np.tile(segments, (4, 4)), "blur")
    assert 20 < blurred.min() <= blurred.max() < 90
    assert image.max() == 101


def test_a_map_sums_to_the_weights() -> None:
    segments = np.array([[0, 0, 0, 1]])
    assert weights_to_map(np.array([3.0, -2.0]), segments).tolist() == [[1.0, 1.0, 1.0, -2.0]]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, "at least 2, got 1"),
        (65, r"network's input, 8 x 8 = 64, got 65"),
        (2, "is a single superpixel"),
    ],
)
def test_superpixels_that_cannot_be(number: int, message: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=message):
        superpixels(images, number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 51}, "50 superpixels needs at least 52, got 51"),
        ({"samples": 0, "method": "grad-cam"}, "--samples: must be at least 2, got 0"),
        ({"method": "limes"}, "got 'limes'; did you mean lime"),
        ({"fill": "gray"}, "got 'gray'; did you mean grey"),
        ({"features": 0}, "--features: must be at least 1, got 0"),
        ({"seed": -1}, "--seed: must be at least 0, got -1"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MethodOptions(**options)
    assert known_method("kernel-shap") == "kernel-shap"
    with pytest.raises(InputError, match="did you mean kernel-shap"):
        known_method("Kernel_SHAP")


def test_layers_that_cannot_be() -> None:
    module = TwoChannels()
    assert last_layer(module) == "unused"  # the last convolution; whether it is used is seen when it runs
    assert grid_shape(module, module, IMAGE, "conv") == (SIDE, SIDE)
    window = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=64).eval()
    image = np.zeros((64, 64, 3), np.uint8)
    found = [grid_shape(window, window, image, f"layers.{stage}") for stage in range(4)]
    assert found == [(16, 16), (8, 8), (4, 4), (2, 2)]  # its channels come last
    with pytest.raises(InputError, match=r"--layer: must be .* got 'con'; did you mean conv"):
        grid_shape(module, module, IMAGE, "con")
    with pytest.raises(InputError, match="a layer that the network uses, got 'unused'"):
        grid_shape(module, module, IMAGE, "unused")
    with pytest.raises(InputError, match=r"spatial output, got 'head' with output \(1, 2\)"):
        grid_shape(module, module, IMAGE, "head")
    with pytest.raises(InputError, match=r"Sequential has no convolution.*choose a layer with --layer, such as 0, 1"):
        last_layer(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    assert not any(len(one._forward_hooks) for one in module.modules())


def test_saved_explanations_are_read_again_without_running_code(tmp_path: Path) -> None:
    folder = tmp_path
    table = pd.DataFrame({"row": [3, 5], "path": ["a.png", "b.png"], "fold": [0, 1], "label": ["x", "NA"]})
    count = len(table)
    made = ExplainedImages(
        table.assign(predicted=["x", "NA"], prob_x=[0.7, 0.1], prob_NA=[0.3, 0.9], age=["", "child"]),
        ("x", "NA"),
        np.arange(count * 48, dtype=np.uint8).reshape(count, 4, 4, 3),
        np.linspace(-1, 1, count * 16, dtype=np.float32).reshape(count, 4, 4),
        np.array([0, 1]),
        np.zeros((count, 4, 4), np.int32),
        np.full((count, 5, 2), np.nan, np.float32),
        np.ones((count, 4, 4), bool),
        "lime",
        {"seed": 0, "fill": "mean", "features": None},
    )
    save(made, folder, pd.DataFrame({"linear_fit_r2": [0.5, 0.25]}))
    again = load(folder)

    for name in ("images", "maps", "target", "segments", "landmarks", "masks"):
        assert np.array_equal(getattr(again, name), getattr(made, name), equal_nan=name == "landmarks")
    assert (again.classes, again.method, again.options) == (made.classes, made.method, made.options)
    assert again.table["linear_fit_r2"].tolist() == [0.5, 0.25]
    pd.testing.assert_frame_equal(again.table[made.table.columns], made.table, check_dtype=False)
    with np.load(folder / MAPS, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays)
    (folder / MAPS).write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="has no complete explanation"):
        load(folder)
