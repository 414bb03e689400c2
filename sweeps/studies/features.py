"""Features of every picture by a frozen backbone, computed once and kept beside the pixel cache."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from datamodules.contents import file_hashes
from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.pixels import DECODE_POLICY
from datamodules.places import cache_root, replacing
from lightning_modules.backbones import EMBEDDED, build_backbone
from lightning_modules.device import best_device

FEATURES_VERSION = 1
"""Version of the computation; features of another version are computed again."""


def features(data: EmotionDataModule, backbone: str, weights: str, *, flipped: bool = False) -> np.ndarray:
    """Return (N, F) float32 features of every picture, computed once and kept beside the pixel cache.

    They are cached under a hash of everything that they depend on, including the decoded pixels in the order of the
    rows. With weights ``none`` the backbone is random, always with the same seed.

    Args:
        data: The pictures.
        backbone: Name of a timm model.
        weights: Of it, as in `EmotionClassifier`.
        flipped: Mirror the pictures, left to right.

    Raises:
        InputError: The backbone is unknown, or its weights cannot be read.
    """
    root = Path(data.cache_dir) if data.cache_dir else cache_root()
    file = root / "features" / f"{_key(data, backbone, weights, flipped)}.npy"
    if file.is_file():
        return np.load(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _, expected = build_backbone(backbone, weights)
    device = best_device()
    mean, std = (255 * torch.tensor(one, device=device).view(1, 3, 1, 1) for one in (expected.mean, expected.std))
    model.to(device).eval()
    parts = []
    loader = data.evaluation_loader(np.arange(len(data.manifest)))
    for batch in tqdm(loader, desc="features", unit="batch", disable=None):
        image = batch["image"].to(device)
        image = image.flip(-1) if flipped else image
        with torch.inference_mode():
            parts.append(model((image - mean) / std).float().cpu().numpy())
    found = np.concatenate(parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, suffix=".npy") as draft:
        np.save(draft, found)
    return found


def _key(data: EmotionDataModule, backbone: str, weights: str, flipped: bool) -> str:
    """Return a hash of everything that the features depend on."""
    parts = {
        "version": [FEATURES_VERSION, DECODE_POLICY, version("timm")],
        "contents": hashlib.sha256("\n".join(data.contents).encode()).hexdigest(),
        "backbone": backbone,
        "weights": _weights_identity(backbone, weights),
        "size": data.size,
        "fit": data.fit,
        "device": best_device().type,  # a GPU's convolutions round in another way
        "flipped": flipped,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _weights_identity(backbone: str, weights: str) -> str:
    """Identify the weights: by the version of an installed package, or by the content of a file."""
    if weights == "embedded" and backbone in EMBEDDED:
        return f"embedded {version(EMBEDDED[backbone][0].replace('_', '-'))}"
    if weights in ("embedded", "hub", "none"):
        return weights
    file = Path(weights).expanduser().absolute()
    (content,) = file_hashes(file.parent, [file.name])
    if not content:
        msg = f"weights: cannot read {weights}; give a .safetensors or .pth file, embedded, hub or none"
        raise InputError(msg)
    return f"file {content}"
