"""What an explanation of some images is: what the network saw, and how much each pixel spoke for the class."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

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
            LANDMARKS (right is the person's right, so it stands left in the picture); NaN where unknown.
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
