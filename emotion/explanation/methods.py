"""Four explanation methods: LIME, Kernel SHAP, Grad-CAM and integrated gradients."""

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, KernelShap, Lime
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.errors import InputError, did_you_mean, invalid
from emotion.explanation.superpixels import FILLS, Fill, baseline_image, weights_to_map

Score = Callable[[Tensor], Tensor]
"""Images uint8 (M, 3, H, W) to probabilities (M, K)."""

KERNEL_WIDTH = 0.25  # of LIME's similarity, for cosine distances
RIDGE = 1.0  # LIME's penalty
LINE_EVERY = 20.0  # seconds between two lines of progress
Item = TypeVar("Item")


@dataclass(frozen=True)
class Samples:
    """Sampling of removed superpixels.

    Attributes:
        number: Samples of an image.
        batch: Samples in one pass through the network.
        seed: Seed of the samples.
    """

    number: int = 1000
    batch: int = 64
    seed: int = 0


class Surrogate:
    """Weighted ridge regression, instead of captum's linear model, which computes in single precision.

    With ``top`` it is fitted twice: on all superpixels, and on the ``top`` ones with the highest absolute weight (the
    option ``highest_weights`` of the LIME authors' implementation).
    """

    def __init__(self, penalty: float, top: int | None = None) -> None:
        self.penalty, self.top = penalty, top
        self.fit_quality = math.nan

    def fit(self, train_data: DataLoader) -> None:
        """Fit to one batch: present superpixels (M, F), scores (M,), similarities (M,)."""
        present, scores, weights = (part.double().cpu().numpy() for part in next(iter(train_data)))
        model = self._fitted(present, scores, weights)
        self._coefficients = model.coef_
        if self.top is not None and self.top < present.shape[1]:
            strongest = np.sort(np.argsort(-np.abs(model.coef_), kind="stable")[: self.top])
            present = present[:, strongest]
            model = self._fitted(present, scores, weights)
            self._coefficients = np.zeros(len(self._coefficients))
            self._coefficients[strongest] = model.coef_
        self.fit_quality = float(model.score(present, scores, weights))

    def _fitted(self, present: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Ridge | LinearRegression:
        return (Ridge(alpha=self.penalty) if self.penalty else LinearRegression()).fit(present, scores, weights)

    def representation(self) -> Tensor:
        """Return the weight of each superpixel (1, F)."""
        return torch.from_numpy(self._coefficients)[None]


def lime(
    score: Score,
    image: np.ndarray,
    segments: np.ndarray,
    baseline: np.ndarray,
    target: int,
    samples: Samples,
    *,
    top: int | None = None,
) -> tuple[np.ndarray, float]:
    """Return the weight of each superpixel by LIME (Ribeiro et al. 2016), and the fit of the linear model.

    Each superpixel is present with probability 1/2; the first sample is the image itself. The weight of a sample is
    exp(-d^2 / (2 * 0.25^2)), where d is the cosine distance of its vector from that of the image.

    Args:
        score: The network.
        image: uint8 (H, W, 3).
        segments: Superpixels, int (H, W), from 0.
        baseline: Pixels that replace removed superpixels, uint8 (H, W, 3).
        target: The class.
        samples: Number, batch size and seed of the samples.
        top: Keep this number of superpixels, by absolute weight; the others have weight 0.

    Returns:
        Weights float64 (F,), and the weighted R^2 of the linear model.
    """
    features = int(segments.max()) + 1
    surrogate = Surrogate(RIDGE, top)

    def drawn(*_: object, **__: object) -> Iterator[Tensor]:
        present = (torch.rand(samples.number, features) < 0.5).long()
        present[0] = 1
        yield from present.split(1)

    explainer = Lime(_composed(score, image, segments, baseline), surrogate, _similarity, drawn)
    weights = _attribute(explainer, features, target, samples)
    return weights, surrogate.fit_quality


def kernel_shap(
    score: Score, image: np.ndarray, segments: np.ndarray, baseline: np.ndarray, target: int, samples: Samples
) -> np.ndarray:
    """Return the Shapley value of each superpixel by Kernel SHAP (Lundberg and Lee 2017), float64 (F,).

    They sum to the score of the image minus the score of the baseline.
    """
    explainer = KernelShap(_composed(score, image, segments, baseline))
    explainer.interpretable_model = Surrogate(0)
    return _attribute(explainer, int(segments.max()) + 1, target, samples)


def _similarity(_: object, __: object, present: Tensor, **___: object) -> float:
    distance = 1 - math.sqrt(float(present.float().mean()))  # cosine distance from a vector of ones
    return math.exp(-(distance**2) / (2 * KERNEL_WIDTH**2))


def _composed(
    score: Score, image: np.ndarray, segments: np.ndarray, baseline: np.ndarray
) -> Callable[[Tensor], Tensor]:
    """Return the score as a function of vectors (M, F) of present superpixels."""
    image_tensor, baseline_tensor = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (image, baseline))
    labels = torch.from_numpy(segments.astype(np.int64))

    def forward(present: Tensor) -> Tensor:
        shown = present.bool()[:, labels][:, None]  # (M, 1, H, W)
        return score(torch.where(shown, image_tensor, baseline_tensor))

    return forward


def _attribute(explainer: Lime, features: int, target: int, samples: Samples) -> np.ndarray:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(samples.seed)  # captum draws from the global stream
        warnings.simplefilter("ignore")  # from sklearn, if two samples are equal
        attribution = explainer.attribute(
            torch.ones(1, features),
            baselines=torch.zeros(1, features),
            target=target,
            feature_mask=torch.arange(features)[None],
            n_samples=samples.number,
            perturbations_per_eval=samples.batch,
            return_input_shape=False,
        )
    return attribution.double().cpu().numpy().reshape(-1)


@contextmanager
def temporarily_frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Set a network to evaluation mode without gradients of its weights, for gradients of its input.

    Afterwards modes and gradients are restored.
    """
    modes = [(module, module.training) for module in network.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in network.parameters()]
    try:
        network.eval()
        for weight, _, _ in weights:
            weight.requires_grad_(False)
        yield network
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, requires_grad, gradient in weights:
            weight.requires_grad_(requires_grad)
            weight.grad = gradient


def integrated_gradients(
    score: Score, image: np.ndarray, baseline: np.ndarray, target: int, *, steps: int = 64, batch: int = 64
) -> tuple[np.ndarray, float]:
    """Return the integrated gradients (Sundararajan et al. 2017) of a class from the baseline to the image.

    Args:
        score: Images float (M, 3, H, W) in 0..255 to probabilities (M, K), differentiable.
        image: uint8 (H, W, 3).
        baseline: uint8 (H, W, 3).
        target: The class.
        steps: Steps of the Gauss-Legendre quadrature.
        batch: Steps in one pass through the network.

    Returns:
        Map float32 (H, W), summed over channels, whose sum is the score of the image minus that of the baseline; and
        the error of this sum.
    """
    image_tensor, baseline_tensor = (
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float() for pixels in (image, baseline)
    )
    attribution, gap = IntegratedGradients(score).attribute(
        image_tensor, baseline_tensor, target, n_steps=steps, internal_batch_size=batch, return_convergence_delta=True
    )
    return attribution[0].sum(dim=0).float().cpu().numpy(), float(gap.abs())


Logits = Callable[[Tensor], Tensor]


def grad_cam(network: nn.Module, backbone: nn.Module, images: np.ndarray, target: np.ndarray, layer: str) -> np.ndarray:
    """Return Grad-CAM maps (Selvaraju et al. 2017), float32 (N, H, W) in 0..1, of the logit of a class.

    Args:
        network: Images float (M, 3, H, W) in 0..255 to logits (M, K); it is not changed.
        backbone: The part of the network that has `layer`.
        images: uint8 (N, H, W, 3).
        target: Classes, int (N,).
        layer: Name from :func:`last_layer`, or of another layer with a spatial output.

    Raises:
        InputError: There is no such layer, or its output is not spatial.
    """
    module, grid = find_layer(backbone, layer), FeatureGrid(backbone, layer)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    inputs.requires_grad_(True)  # the weights require no gradient, so the input must
    with temporarily_frozen(network):
        cam = GradCAM(network, [module], reshape_transform=grid)
        try:  # used as a context manager, it would hide an IndexError of the network
            maps = cam(inputs, [ClassifierOutputTarget(int(index)) for index in target])
        finally:
            cam.activations_and_grads.release()
    return np.asarray(maps, np.float32)


def grid_shape(network: nn.Module, backbone: nn.Module, image: np.ndarray, layer: str) -> tuple[int, int]:
    """Return the rows and columns of the map of a layer, before it is enlarged to the image.

    Raises:
        InputError: There is no such layer, the network does not use it, or its output is not spatial.
    """
    grid = FeatureGrid(backbone, layer)
    hook = find_layer(backbone, layer).register_forward_hook(lambda _module, _given, output: grid.look(output))
    try:
        with temporarily_frozen(network), torch.no_grad():
            device = next(network.parameters()).device
            network(torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device))
    finally:
        hook.remove()
    if grid.shape == (0, 0):
        msg = f"--layer: must be a layer that the network uses, got {layer!r}; choose another"
        raise InputError(msg)
    return grid.shape


def last_layer(backbone: nn.Module) -> str:
    """Return the name of the last layer with a spatial output.

    It is timm's last feature map (``feature_info``), otherwise the last convolution. In a transformer whose head reads
    only the class token it is the norm before the last attention, since later gradients do not reach the patches.

    Raises:
        InputError: There is none; ``--layer`` must name one.
    """
    known = dict(backbone.named_modules())
    stages: Any = getattr(backbone, "feature_info", None)
    names = [stage.get("module") for stage in stages or [] if isinstance(stage, dict)]
    if names and names[-1] in known:
        name = str(names[-1])
        return f"{name}.norm1" if _reads_class_token(backbone) and f"{name}.norm1" in known else name
    convolutions = [name for name, module in known.items() if isinstance(module, nn.Conv2d)]
    if convolutions:
        return convolutions[-1]
    msg = (
        f"--layer: {type(backbone).__name__} has no convolution, and timm does not name its last feature map; "
        f"choose a layer with --layer, such as {', '.join([name for name in known if name][-3:])}"
    )
    raise InputError(msg)


def _reads_class_token(backbone: nn.Module) -> bool:
    return bool(getattr(backbone, "num_prefix_tokens", 0)) and getattr(backbone, "global_pool", "") == "token"


def find_layer(backbone: nn.Module, name: str) -> nn.Module:
    """Return a layer by its name in the module tree.

    Raises:
        InputError: There is none; the message suggests the nearest names.
    """
    known = dict(backbone.named_modules())
    if name in known and name:
        return known[name]
    hint = did_you_mean(name, filter(None, known), cutoff=0.3) or f"such as {', '.join(list(known)[1:4])}"
    raise invalid("--layer", "must be the name of a layer of the backbone", name, hint)


class FeatureGrid:
    """Converts the output of a layer to the shape (M, C, rows, columns)."""

    def __init__(self, backbone: nn.Module, layer: str) -> None:
        self.backbone, self.layer = backbone, layer
        self.prefix = int(getattr(backbone, "num_prefix_tokens", 0))
        self.shape: tuple[int, int] = (0, 0)  # rows and columns of the last output

    def look(self, output: Tensor) -> None:
        """Store the rows and columns of an output."""
        self(output)

    def __call__(self, output: Tensor) -> Tensor:
        """Return a copy, since the next layer may overwrite the output.

        Raises:
            InputError: The output is not spatial.
        """
        laid = self._laid(output)
        if laid is None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            msg = (
                f"--layer: must be a layer with a spatial output, got {self.layer!r} with output {shape}; choose a "
                "layer before the pooling"
            )
            raise InputError(msg)
        self.shape = (laid.shape[2], laid.shape[3])
        return laid.clone()

    def _laid(self, output: Tensor) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        if output.ndim == 4:  # timm's window transformers keep channels last
            last = output.shape[1] == output.shape[2] != output.shape[3]  # the images are square
            return output.permute(0, 3, 1, 2) if last else output
        if output.ndim == 3:  # tokens (M, L, C)
            grid: Any = getattr(getattr(self.backbone, "patch_embed", None), "grid_size", None)
            count = output.shape[1] - self.prefix
            rows, columns = grid or (math.isqrt(max(count, 0)),) * 2
            if count > 0 and rows * columns == count:
                return output[:, self.prefix :].transpose(1, 2).unflatten(2, (rows, columns))
        return None


Method = Literal["lime", "kernel-shap", "grad-cam", "integrated-gradients"]
METHODS: tuple[Method, ...] = get_args(Method)

QUALITY: dict[str, str] = {
    "lime": "linear_fit_r2",  # of the linear model and the scores
    "kernel-shap": "sum_misses_by",  # |sum of the map - (score of the image - score of the baseline)|
    "integrated-gradients": "sum_misses_by",
    "grad-cam": "",
}
"""Column with a method's own measure of quality."""


@dataclass(frozen=True)
class MethodOptions:
    """Method and its options.

    Attributes:
        method: One of METHODS.
        superpixels: Number of superpixels of an image.
        compactness: Compactness of SLIC.
        samples: Samples of LIME and Kernel SHAP.
        features: LIME keeps this number of superpixels, by absolute weight; None: all.
        fill: What replaces removed superpixels; also the baseline of integrated gradients.
        steps: Steps of integrated gradients.
        layer: Layer of Grad-CAM, by its name in the backbone; None: the last one with a spatial output.
        batch: Samples or steps in one pass through the network.
        seed: Seed of the samples.
    """

    method: Method = "lime"
    superpixels: int = 50
    compactness: float = 20.0
    samples: int = 1000
    features: int | None = None
    fill: Fill = "mean"
    steps: int = 64
    layer: str | None = None
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: An option is not valid.
        """
        known_method(self.method)
        if not 0 < self.compactness < inf:
            raise invalid("--compactness", "must be above 0 and finite", self.compactness)
        if self.fill not in FILLS:
            raise invalid("--fill", f"must be one of {', '.join(FILLS)}", self.fill, did_you_mean(self.fill, FILLS))
        for name, least in (("samples", 2), ("steps", 1), ("batch", 1), ("seed", 0), ("features", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise invalid(f"--{name}", f"must be at least {least}", value)
        if self.method in ("lime", "kernel-shap") and self.samples < self.superpixels + 2:
            msg = (
                f"--samples: a linear model of {self.superpixels} superpixels needs at least {self.superpixels + 2}, "
                f"got {self.samples}; give more (1000 is usual), or fewer --superpixels"
            )
            raise InputError(msg)


def known_method(name: str, option: str = "--method") -> Method:
    """Return a method by its name.

    Raises:
        InputError: There is none; the message suggests the nearest.
    """
    for method in METHODS:
        if method == name:
            return method
    raise invalid(option, f"must be one of {', '.join(METHODS)}", name, did_you_mean(name, METHODS, cutoff=0.4))


@dataclass(frozen=True)
class Network:
    """A trained network for explanation methods; images are (M, 3, H, W), uint8 or float in 0..255.

    Attributes:
        logits: The network, to logits (M, K).
        probabilities: The network as it is evaluated, to probabilities (M, K).
        backbone: Its backbone.
    """

    logits: nn.Module
    probabilities: Callable[[Tensor], Tensor]
    backbone: nn.Module

    @property
    def device(self) -> torch.device:
        """Device of its weights."""
        return next(self.logits.parameters()).device

    def fast(self, images: Tensor) -> Tensor:
        """Return probabilities without gradients."""
        with torch.inference_mode():
            return self.probabilities(images.to(self.device)).float().cpu()

    def differentiable(self, images: Tensor) -> Tensor:
        """Return probabilities with gradients to the images."""
        return self.probabilities(images.to(self.device)).float()

    def scores(self, images: np.ndarray, batch: int = 256) -> np.ndarray:
        """Return probabilities float32 (M, K) of images uint8 (M, H, W, 3)."""
        inputs = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        with temporarily_frozen(self.logits):
            return torch.cat([self.fast(part) for part in inputs.split(batch)]).numpy()


def explain_image(
    network: Network, image: np.ndarray, segments: np.ndarray, target: int, row: int, options: MethodOptions
) -> tuple[np.ndarray, float]:
    """Explain one image.

    Args:
        network: The network.
        image: Its input, uint8 (H, W, 3).
        segments: Superpixels, int32 (H, W).
        target: The class.
        row: Number of the image; together with the seed it seeds the samples, whatever other images are explained.
        options: The method and its options.

    Returns:
        Map float32 (H, W), and the value of the column that QUALITY names; NaN if there is none.
    """
    if options.method == "grad-cam":
        layer = options.layer or last_layer(network.backbone)
        return grad_cam(network.logits, network.backbone, image[None], np.array([target]), layer)[0], math.nan
    baseline = baseline_image(image, segments, options.fill)
    if options.method == "integrated-gradients":
        with temporarily_frozen(network.logits):
            return integrated_gradients(
                network.differentiable, image, baseline, target, steps=options.steps, batch=options.batch
            )
    seed = int(np.random.SeedSequence([options.seed, row]).generate_state(1)[0])
    samples = Samples(options.samples, options.batch, seed)
    with temporarily_frozen(network.logits):
        if options.method == "lime":
            weights, quality = lime(network.fast, image, segments, baseline, target, samples, top=options.features)
        else:
            weights = kernel_shap(network.fast, image, segments, baseline, target, samples)
            ends = network.scores(np.stack([image, baseline]))[:, target].astype(np.float64)
            quality = abs(float(weights.sum() - (ends[0] - ends[1])))
    return weights_to_map(weights, segments), quality


ALL_IMAGES = ""

Probabilities = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images uint8 (M, H, W, 3) and their rows (M,), which select the checkpoint, to probabilities float32 (M, K)."""

ExplainAgain = Callable[[str, int], np.ndarray]
"""A method and a seed to maps float32 (N, H, W) of the same images, to measure agreement."""


@dataclass(frozen=True)
class ExplainedImages:
    """Explained images with their maps; tables and arrays have one row per image.

    Attributes:
        table: Rows of the prediction table: row, path, fold, label, predicted, prob_<class>, and the group columns.
        classes: Names of the classes, by index.
        images: Input of the network, uint8 (N, H, W, 3).
        maps: Signed importance for the explained class, float32 (N, H, W). For LIME and Kernel SHAP, the sum over a
            superpixel is its weight.
        target: The explained class, int64 (N,).
        segments: Superpixels of each image, int32 (N, H, W), from 0.
        landmarks: x and y in pixels of `images`, from the corner of the first pixel, in the order of
            `datamodules.faces.detectors.LANDMARKS`, float32 (N, 5, 2); NaN if unknown.
        masks: Pixels that show the emotion, bool (N, H, W); known for drawn faces only, otherwise None.
        method: Method of the maps.
        options: Options and seed, which are needed to repeat it.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    images: np.ndarray
    maps: np.ndarray
    target: np.ndarray
    segments: np.ndarray
    landmarks: np.ndarray
    masks: np.ndarray | None
    method: str
    options: dict[str, object]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.table)


def counted(items: Sequence[Item], text: str) -> Iterator[Item]:
    """Yield one item per image: with a progress bar on a terminal, else with lines at the start and now and then."""
    if sys.stderr.isatty():
        yield from tqdm(items, text, unit="image", delay=1)
        return
    print(f"{text}: {len(items)} images", file=sys.stderr, flush=True)
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > LINE_EVERY:
            print(f"{text}: {done} of {len(items)} images", file=sys.stderr, flush=True)
            last = time.monotonic()
        yield item
