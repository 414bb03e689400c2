"""Grad-CAM through pytorch-grad-cam, on the last stage of whatever network it is handed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from datamodules.errors import InputError, did_you_mean, invalid
from records.explain.gradients import undisturbed

Logits = Callable[[Tensor], Tensor]


class _Whole(nn.Module):
    """The network as pytorch-grad-cam calls it: pictures float (M, 3, H, W) in 0..255 to logits (M, K)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)


def grad_cam(network: nn.Module, backbone: nn.Module, images: np.ndarray, target: np.ndarray, layer: str) -> np.ndarray:
    """Return Grad-CAM maps (Selvaraju et al. 2017), float32 (N, H, W) in 0..1, of the logit of a class.

    Args:
        network: pictures float (M, 3, H, W) in 0..255 to logits (M, K); not changed.
        backbone: the part of it that `layer` is named in.
        images: uint8 (N, H, W, 3).
        target: int (N,), the classes.
        layer: what :func:`last_layer` returned, or another layer with an activation for every place of the picture.

    Raises:
        InputError: there is no such layer, or its output cannot be laid out as a picture.
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
    """Return how many rows and columns the map of a layer has before it is enlarged to the picture.

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
    """Return the name of the last layer that knows where in the picture it is.

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
                f"--layer: the output of {self.layer!r}, {shape}, has no place for every part of the picture; name a "
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
