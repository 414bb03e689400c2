"""Features of every picture by a frozen backbone, computed once and kept beside the pixel cache."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from datamodules.emotion import EmotionDataModule
from datamodules.places import cache_root, replacing
from lightning_modules.backbones import build_backbone


def features(data: EmotionDataModule, backbone: str, weights: str, *, flipped: bool = False) -> np.ndarray:
    """Return (N, F) float32 features of every picture, computed once and kept beside the pixel cache.

    Args:
        data: The pictures.
        backbone: Name of a timm model.
        weights: Of it, as in `EmotionClassifier`.
        flipped: Mirror the pictures, left to right.
    """
    of = [data.manifest.fingerprint(), backbone, weights, data.size, data.fit, flipped]
    key = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:24]
    root = Path(data.cache_dir) if data.cache_dir else cache_root()
    file = root / "features" / f"{key}.npy"
    if file.is_file():
        return np.load(file)
    model, _, expected = build_backbone(backbone, weights)
    mean, std = (255 * torch.tensor(one).view(1, 3, 1, 1) for one in (expected.mean, expected.std))
    model.eval()
    parts = []
    loader = data.evaluation_loader(np.arange(len(data.manifest)))
    for batch in tqdm(loader, desc="features", unit="batch", disable=None):
        image = batch["image"].flip(-1) if flipped else batch["image"]
        with torch.inference_mode():
            parts.append(model((image - mean) / std).float().numpy())
    found = np.concatenate(parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, suffix=".npy") as draft:
        np.save(draft, found)
    return found
