"""LIME and Kernel SHAP through captum: superpixels are taken away at random, a linear model tells what each is worth.

captum explains the vector that says which superpixels are there, and the forward function makes pictures of a whole
batch of such vectors at once: what captum does sample by sample is then a few numbers, and the time is the network's.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import KernelShap, Lime
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor
from torch.utils.data import DataLoader

Score = Callable[[Tensor], Tensor]
"""Pictures uint8 (M, 3, H, W) to probabilities (M, K)."""

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
