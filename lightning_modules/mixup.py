"""Mixup and cutmix of a batch that is already on its device, drawn by timm."""

from math import inf

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor

from datamodules.errors import invalid


class Mixing:
    """Mixup or cutmix of each batch with itself in reverse order; each batch draws one strength."""

    def __init__(self, mixup: float, cutmix: float) -> None:
        """Store the strengths.

        Args:
            mixup: alpha of the beta distribution, 0 for none.
            cutmix: the same for cutmix; if both are given, each batch draws one of them.

        Raises:
            InputError: If one is below 0.
        """
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < inf:
                raise invalid(f"--model.{name}", "must be at least 0 and finite", alpha)
        self.mixup, self.cutmix = mixup, cutmix

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix float images (B, C, H, W) in place and return them with their soft targets (B, classes).

        Args:
            images: the batch.
            target: float (B, classes).
            seed: seed of this batch, so that a resumed run mixes like an uninterrupted one.
        """
        even = len(images) // 2 * 2  # timm needs pairs: the last image of an odd batch is not mixed
        if even == 0:
            return images, target
        mixer = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=even)
        before = np.random.get_state()  # timm draws from NumPy's global generator
        np.random.seed(seed % 2**32)
        try:
            # mixing row numbers gives the matrix of shares, which mixes hard and soft targets alike
            _, shares = mixer(images[:even], torch.arange(even, device=images.device))
        finally:
            np.random.set_state(before)
        mixed = shares.to(target.dtype) @ target[:even]
        return images, torch.cat([mixed, target[even:]])
