"""The four ways to explain an image, behind one call."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.errors import InputError, did_you_mean, invalid
from records.explain.grad_cam import grad_cam, last_layer
from records.explain.gradients import integrated_gradients, undisturbed
from records.explain.perturbation import Samples, kernel_shap, lime
from records.explain.superpixels import FILLS, Fill, filled, spread

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
    """A trained network as explainers see it; pictures are (M, 3, H, W), uint8 or float in 0..255.

    Attributes:
        logits: the whole network, to (M, K).
        probabilities: the same as it is evaluated, to (M, K).
        backbone: the part of it whose layers have places in the picture.
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
        """Return probabilities that gradients can follow back to the pictures."""
        return self.probabilities(images.to(self.device)).float()

    def scores(self, images: np.ndarray, batch: int = 256) -> np.ndarray:
        """Return probabilities float32 (M, K) of pictures uint8 (M, H, W, 3)."""
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
