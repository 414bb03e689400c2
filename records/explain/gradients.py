"""Integrated gradients through captum, and a network that is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import nn

from records.explain.perturbation import Score


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
        score: pictures float (M, 3, H, W) in 0..255 to probabilities (M, K), differentiable.
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
