"""The four ways to explain an image, behind one call."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, KernelShap, Lime
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.errors import InputError, did_you_mean, invalid
from emotion.explanation.superpixels import FILLS, Fill, filled, spread

Score = Callable[[Tensor], Tensor]
"""Images uint8 (M, 3, H, W) to probabilities (M, K)."""

KERNEL_WIDTH = 0.25  # of LIME's similarity, for cosine distances
RIDGE = 1.0  # LIME's penalty


@dataclass(frozen=True)
class Samples:
    """How superpixels are taken away.

    Attributes:
        number: samples of an image.
        batch: samples in one pass through the network.
        seed: of the samples.
    """

    number: int = 1000
    batch: int = 64
    seed: int = 0


class Surrogate:
    """The linear model in place of captum's, which computes in single precision: weighted ridge regression.

    With ``top`` it is fitted twice: to find the strongest superpixels by absolute weight, and on these alone (the way
    that the authors' program of LIME calls the highest weights).
    """

    def __init__(self, penalty: float, top: int | None = None) -> None:
        self.penalty, self.top = penalty, top
        self.fit_quality = math.nan

    def fit(self, train_data: DataLoader) -> None:
        """Fit to one batch: vectors (M, F), scores (M,), similarities (M,)."""
        here, scores, weights = (part.double().cpu().numpy() for part in next(iter(train_data)))
        model = self._fitted(here, scores, weights)
        self._coefficients = model.coef_
        if self.top is not None and self.top < here.shape[1]:
            kept = np.sort(np.argsort(-np.abs(model.coef_), kind="stable")[: self.top])
            here = here[:, kept]
            model = self._fitted(here, scores, weights)
            self._coefficients = np.zeros(len(self._coefficients))
            self._coefficients[kept] = model.coef_
        self.fit_quality = float(model.score(here, scores, weights))

    def _fitted(self, here: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Ridge | LinearRegression:
        return (Ridge(alpha=self.penalty) if self.penalty else LinearRegression()).fit(here, scores, weights)

    def representation(self) -> Tensor:
        """Return the weight of each superpixel (1, F)."""
        return torch.from_numpy(self._coefficients)[None]


def lime(
    score: Score,
    image: np.ndarray,
    segments: np.ndarray,
    off: np.ndarray,
    target: int,
    samples: Samples,
    *,
    top: int | None = None,
) -> tuple[np.ndarray, float]:
    """Return the weight of each superpixel by LIME (Ribeiro et al. 2016), and how well the linear model fits.

    Each superpixel is there with probability 1/2, the first sample is the image itself. A sample counts by
    exp(-d^2 / (2 * 0.25^2)), d being the cosine distance of its vector from that of the image.

    Args:
        score: the network.
        image: uint8 (H, W, 3).
        segments: int (H, W), superpixels from 0.
        off: uint8 (H, W, 3), what stands where superpixels are taken away.
        target: the class.
        samples: how many, and their seed.
        top: keep so many superpixels, by absolute weight; the others weigh 0.

    Returns:
        Weights float64 (F,), and the weighted R^2 of the linear model.
    """
    features = int(segments.max()) + 1
    surrogate = Surrogate(RIDGE, top)

    def drawn(*_: object, **__: object) -> Iterator[Tensor]:
        here = (torch.rand(samples.number, features) < 0.5).long()
        here[0] = 1
        yield from here.split(1)

    explainer = Lime(_composed(score, image, segments, off), surrogate, _similarity, drawn)
    weights = _attribute(explainer, features, target, samples)
    return weights, surrogate.fit_quality


def kernel_shap(
    score: Score, image: np.ndarray, segments: np.ndarray, off: np.ndarray, target: int, samples: Samples
) -> np.ndarray:
    """Return the Shapley value of each superpixel by Kernel SHAP (Lundberg and Lee 2017), float64 (F,).

    They sum to the score of the image minus the score of ``off``.
    """
    explainer = KernelShap(_composed(score, image, segments, off))
    explainer.interpretable_model = Surrogate(0)
    return _attribute(explainer, int(segments.max()) + 1, target, samples)


def _similarity(_: object, __: object, here: Tensor, **___: object) -> float:
    distance = 1 - math.sqrt(float(here.float().mean()))  # cosine distance from a vector of ones
    return math.exp(-(distance**2) / (2 * KERNEL_WIDTH**2))


def _composed(score: Score, image: np.ndarray, segments: np.ndarray, off: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Return the score of vectors (M, F) that say which superpixels are there."""
    there, gone = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in (image, off))
    places = torch.from_numpy(segments.astype(np.int64))

    def forward(here: Tensor) -> Tensor:
        shown = here.bool()[:, places][:, None]  # (M, 1, H, W)
        return score(torch.where(shown, there, gone))

    return forward


def _attribute(explainer: Lime, features: int, target: int, samples: Samples) -> np.ndarray:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(samples.seed)  # captum draws from the global stream
        warnings.simplefilter("ignore")  # of sklearn, where two samples are the same
        found = explainer.attribute(
            torch.ones(1, features),
            baselines=torch.zeros(1, features),
            target=target,
            feature_mask=torch.arange(features)[None],
            n_samples=samples.number,
            perturbations_per_eval=samples.batch,
            return_input_shape=False,
        )
    return found.double().cpu().numpy().reshape(-1)


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[nn.Module]:
    """Lend a network for gradients of its input: in evaluation mode, and with no gradients of its weights.

    Afterwards every module is in the mode it was in, and every weight has the gradient it had, if any.
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
        for weight, wanted, gradient in weights:
            weight.requires_grad_(wanted)
            weight.grad = gradient


def integrated_gradients(
    score: Score, image: np.ndarray, off: np.ndarray, target: int, *, steps: int = 64, batch: int = 64
) -> tuple[np.ndarray, float]:
    """Return the integrated gradients (Sundararajan et al. 2017) of a class on the way from ``off`` to the image.

    Args:
        score: images float (M, 3, H, W) in 0..255 to probabilities (M, K), differentiable.
        image: uint8 (H, W, 3).
        off: uint8 (H, W, 3), where the way begins.
        target: the class.
        steps: of the sum that stands for the integral (Gauss-Legendre).
        batch: steps in one pass through the network.

    Returns:
        Map float32 (H, W), the channels added up, whose sum is the score of the image minus that of ``off``; and by how
        much it misses that.
    """
    picture, start = (torch.from_numpy(one).permute(2, 0, 1)[None].float() for one in (image, off))
    found, gap = IntegratedGradients(score).attribute(
        picture, start, target, n_steps=steps, internal_batch_size=batch, return_convergence_delta=True
    )
    return found[0].sum(dim=0).float().cpu().numpy(), float(gap.abs())


Logits = Callable[[Tensor], Tensor]


class _Whole(nn.Module):
    """The network as pytorch-grad-cam calls it: images float (M, 3, H, W) in 0..255 to logits (M, K)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)


def grad_cam(network: nn.Module, backbone: nn.Module, images: np.ndarray, target: np.ndarray, layer: str) -> np.ndarray:
    """Return Grad-CAM maps (Selvaraju et al. 2017), float32 (N, H, W) in 0..1, of the logit of a class.

    Args:
        network: images float (M, 3, H, W) in 0..255 to logits (M, K); not changed.
        backbone: the part of it that `layer` is named in.
        images: uint8 (N, H, W, 3).
        target: int (N,), the classes.
        layer: what :func:`last_layer` returned, or another layer with an activation for every place of the image.

    Raises:
        InputError: there is no such layer, or its output cannot be laid out as an image.
    """
    chosen, places = find_layer(backbone, layer), Places(backbone, layer)
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pictures.requires_grad_(True)  # or there would be no gradient to follow: the weights ask for none
    with undisturbed(network):
        cam = GradCAM(_Whole(network), [chosen], reshape_transform=places)
        try:  # as a context it would hide an IndexError of the network
            maps = cam(pictures, [ClassifierOutputTarget(int(one)) for one in target])
        finally:
            cam.activations_and_grads.release()
    return np.asarray(maps, np.float32)


def cells(network: nn.Module, backbone: nn.Module, image: np.ndarray, layer: str) -> tuple[int, int]:
    """Return how many rows and columns the map of a layer has before it is enlarged to the image.

    Raises:
        InputError: there is no such layer, the network does not use it, or its output has no rows and columns.
    """
    places = Places(backbone, layer)
    hook = find_layer(backbone, layer).register_forward_hook(lambda _module, _given, output: places.look(output))
    try:
        with undisturbed(network), torch.no_grad():
            device = next(network.parameters()).device
            network(torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device))
    finally:
        hook.remove()
    if places.shape == (0, 0):
        msg = f"--layer: the network does not use its layer {layer!r}; name another one"
        raise InputError(msg)
    return places.shape


def last_layer(backbone: nn.Module) -> str:
    """Return the name of the last layer that knows where in the image it is.

    timm tells it (``feature_info``); of a transformer whose class token alone is read out it is the norm before the
    last attention, since nothing after that flows back to the places; of other networks the last convolution.

    Raises:
        InputError: there is none; ``--layer`` must name one.
    """
    known = dict(backbone.named_modules())
    told: Any = getattr(backbone, "feature_info", None)
    names = [one.get("module") for one in told or [] if isinstance(one, dict)]
    if names and names[-1] in known:
        name = str(names[-1])
        return f"{name}.norm1" if _reads_class_token(backbone) and f"{name}.norm1" in known else name
    convolutions = [name for name, module in known.items() if isinstance(module, nn.Conv2d)]
    if convolutions:
        return convolutions[-1]
    msg = (
        f"--layer: {type(backbone).__name__} has no convolution, and timm does not tell its last layer with places; "
        f"name one with --layer, such as {', '.join([name for name in known if name][-3:])}"
    )
    raise InputError(msg)


def _reads_class_token(backbone: nn.Module) -> bool:
    return bool(getattr(backbone, "num_prefix_tokens", 0)) and getattr(backbone, "global_pool", "") == "token"


def find_layer(backbone: nn.Module, name: str) -> nn.Module:
    """Return a layer by its name in the module tree.

    Raises:
        InputError: there is none; the nearest names are offered.
    """
    known = dict(backbone.named_modules())
    if name in known and name:
        return known[name]
    hint = did_you_mean(name, filter(None, known), cutoff=0.3) or f"such as {', '.join(list(known)[1:4])}"
    raise invalid("--layer", "must be the name of a layer of the backbone", name, hint)


class Places:
    """Lays a layer's output out as (M, C, rows, columns), whatever order the network keeps it in."""

    def __init__(self, backbone: nn.Module, layer: str) -> None:
        self.backbone, self.layer = backbone, layer
        told: Any = getattr(backbone, "feature_info", None) or [{}]
        self.channels = told[-1].get("num_chs") if isinstance(told[-1], dict) else None
        self.prefix = int(getattr(backbone, "num_prefix_tokens", 0))
        self.shape: tuple[int, int] = (0, 0)  # rows and columns that were seen

    def look(self, output: Tensor) -> None:
        """Take note of the rows and columns of an output."""
        self(output)

    def __call__(self, output: Tensor) -> Tensor:
        """Return a copy, since the layer after may write over the output.

        Raises:
            InputError: it has no rows and columns.
        """
        laid = self._laid(output)
        if laid is None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            msg = (
                f"--layer: the output of {self.layer!r}, {shape}, has no place for every part of the image; name a "
                "layer before the pooling"
            )
            raise InputError(msg)
        self.shape = (laid.shape[2], laid.shape[3])
        return laid.clone()

    def _laid(self, output: Tensor) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        if output.ndim == 4:  # timm's window transformers keep channels last
            last = output.shape[3] == self.channels != output.shape[1]
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
    "lime": "linear_fit_r2",  # how much of the network's answers the linear model explains
    "kernel-shap": "sum_misses_by",  # |sum of the map - (score of the image - score of what stands for nothing)|
    "integrated-gradients": "sum_misses_by",
    "grad-cam": "",
}
"""Column of a table that tells how well an explanation did by its own measure."""


@dataclass(frozen=True)
class MethodOptions:
    """How images are explained.

    Attributes:
        method: one of METHODS.
        superpixels: how many to cut an image into.
        compactness: of SLIC.
        samples: of LIME and Kernel SHAP.
        features: of LIME: keep so many superpixels, by absolute weight.
        fill: what stands where superpixels are taken away, and where integrated gradients begin.
        steps: of integrated gradients.
        layer: of Grad-CAM, by its name in the backbone; the last one with places where none is given.
        batch: samples or steps in one pass through the network.
        seed: of the samples.
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
        """Refuse what cannot work.

        Raises:
            InputError: so.
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
                f"--samples: {self.samples} samples cannot tell {self.superpixels} superpixels apart, a linear model "
                f"needs at least {self.superpixels + 2}; 1000 are usual, or ask for fewer --superpixels"
            )
            raise InputError(msg)


def known_method(name: str, option: str = "--method") -> Method:
    """Return a method by its name.

    Raises:
        InputError: there is none; the nearest is offered.
    """
    for method in METHODS:
        if method == name:
            return method
    raise invalid(option, f"must be one of {', '.join(METHODS)}", name, did_you_mean(name, METHODS, cutoff=0.4))


@dataclass(frozen=True)
class Network:
    """A trained network as explainers see it; images are (M, 3, H, W), uint8 or float in 0..255.

    Attributes:
        logits: the whole network, to (M, K).
        probabilities: the same as it is evaluated, to (M, K).
        backbone: the part of it whose layers have places in the image.
    """

    logits: nn.Module
    probabilities: Callable[[Tensor], Tensor]
    backbone: nn.Module

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.logits.parameters()).device

    def fast(self, images: Tensor) -> Tensor:
        """Return probabilities without what gradients would need."""
        with torch.inference_mode():
            return self.probabilities(images.to(self.device)).float().cpu()

    def differentiable(self, images: Tensor) -> Tensor:
        """Return probabilities that gradients can follow back to the images."""
        return self.probabilities(images.to(self.device)).float()

    def scores(self, images: np.ndarray, batch: int = 256) -> np.ndarray:
        """Return probabilities float32 (M, K) of images uint8 (M, H, W, 3)."""
        pictures = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        with undisturbed(self.logits):
            return torch.cat([self.fast(part) for part in pictures.split(batch)]).numpy()


def explain_image(
    network: Network, image: np.ndarray, segments: np.ndarray, target: int, row: int, options: MethodOptions
) -> tuple[np.ndarray, float]:
    """Explain one image.

    Args:
        network: that classifies it.
        image: uint8 (H, W, 3), as the network sees it.
        segments: int32 (H, W), its superpixels.
        target: the class.
        row: a number of the image; with the seed it settles the samples, whatever else is explained beside it.
        options: the method and its options.

    Returns:
        Map float32 (H, W), and the number that QUALITY names, NaN where there is none.
    """
    if options.method == "grad-cam":
        layer = options.layer or last_layer(network.backbone)
        return grad_cam(network.logits, network.backbone, image[None], np.array([target]), layer)[0], math.nan
    off = filled(image, segments, options.fill)
    if options.method == "integrated-gradients":
        with undisturbed(network.logits):
            return integrated_gradients(
                network.differentiable, image, off, target, steps=options.steps, batch=options.batch
            )
    seed = int(np.random.SeedSequence([options.seed, row]).generate_state(1)[0])
    samples = Samples(options.samples, options.batch, seed)
    with undisturbed(network.logits):
        if options.method == "lime":
            weights, quality = lime(network.fast, image, segments, off, target, samples, top=options.features)
        else:
            weights = kernel_shap(network.fast, image, segments, off, target, samples)
            ends = network.scores(np.stack([image, off]))[:, target].astype(np.float64)
            quality = abs(float(weights.sum() - (ends[0] - ends[1])))
    return spread(weights, segments), quality


LANDMARKS = ("right eye", "left eye", "nose", "right mouth corner", "left mouth corner")

EVERYBODY = ""

Probabilities = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images uint8 (M, H, W, 3) and rows int64 (M,), which pick the checkpoint, to probabilities float32 (M, K)."""

ExplainAgain = Callable[[str, int], np.ndarray]
"""A method and a seed to maps float32 (N, H, W) of the same images: for agreement and stability."""


@dataclass(frozen=True)
class Explained:
    """Images that were explained, one row of each table and array an image.

    Attributes:
        table: rows of the prediction table: row, path, fold, label, predicted, prob_<class>, and the group columns.
        classes: index of a class is its label.
        images: uint8 (N, H, W, 3), what the network saw.
        maps: float32 (N, H, W), signed importance for the explained class; of LIME and Kernel SHAP the sum over a
            superpixel is its weight, so a pixel of a large one says less than one of a small one with that weight.
        target: int64 (N,), the class explained.
        segments: int32 (N, H, W), the superpixels of each image, from 0.
        landmarks: float32 (N, 5, 2), x and y in pixels of `images`, from the corner of the first one, in the order of
            LANDMARKS (right is the person's right, so it stands left in the image); NaN where unknown.
        masks: bool (N, H, W), the pixels that carry the emotion, known on drawn faces only.
        method: which explainer made the maps.
        options: everything needed to repeat it, the seed included.
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
