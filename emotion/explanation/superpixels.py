"""Superpixels of images, and the pixels that replace removed superpixels."""

from typing import Literal, get_args

import cv2
import numpy as np
from skimage.segmentation import slic

from datamodules.errors import InputError

Fill = Literal["superpixel", "mean", "blur", "grey", "black"]
FILLS: tuple[Fill, ...] = get_args(Fill)
GREY = 128
SMOOTHING = 0.5  # pixels; without it, noise makes tiny regions, which SLIC merges into a neighbour
BLUR = 0.125  # standard deviation of the blur, as a share of the image's side


def superpixels(images: np.ndarray, number: int = 50, compactness: float = 20.0) -> np.ndarray:
    """Segment each image into superpixels with SLIC (Achanta et al. 2012).

    Args:
        images: uint8 (N, H, W, 3) RGB.
        number: Approximate number of superpixels.
        compactness: Weight of distance against colour; higher values give squarer regions.

    Returns:
        int32 (N, H, W), each image numbered from 0 without gaps.

    Raises:
        InputError: `number` is below 2 or above the number of pixels, or an image is a single superpixel.
    """
    height, width = images.shape[1:3]
    if number < 2:
        msg = f"--superpixels: must be at least 2, got {number}; 50 is usual at 64 pixels"
        raise InputError(msg)
    if number > height * width:
        msg = (
            f"--superpixels: must be at most the number of pixels of the network's input, {height} x {width} = "
            f"{height * width}, got {number}; give fewer"
        )
        raise InputError(msg)
    if not compactness > 0:
        msg = f"--compactness: must be above 0, got {compactness}; 20 is usual, higher values give squarer regions"
        raise InputError(msg)
    cut = np.stack([_cut(image, number, compactness) for image in images])
    whole = np.flatnonzero(cut.max(axis=(1, 2)) == 0)
    if len(whole):
        msg = (
            f"--superpixels: with {number}, image {whole[0]} of {len(images)} is a single superpixel, so no part of it "
            "can be removed; give more superpixels, or a higher --compactness"
        )
        raise InputError(msg)
    return cut


def _cut(image: np.ndarray, number: int, compactness: float) -> np.ndarray:
    segments = slic(image, n_segments=number, compactness=compactness, sigma=SMOOTHING, start_label=0)
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape).astype(np.int32)


def baseline_image(image: np.ndarray, segments: np.ndarray, fill: Fill) -> np.ndarray:
    """Return the pixels that replace removed superpixels, uint8 (H, W, 3).

    Args:
        image: uint8 (H, W, 3).
        segments: int (H, W).
        fill: ``superpixel``: its own mean colour; ``mean``: the mean colour of the image; ``blur``: the blurred image;
            ``grey`` or ``black``.
    """
    if fill == "superpixel":
        flat, count = segments.ravel(), np.bincount(segments.ravel())
        means = [np.bincount(flat, image[..., channel].ravel()) / count for channel in range(3)]
        return np.rint(np.stack(means, axis=1))[segments].astype(np.uint8)
    if fill == "blur":
        return cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape[:2]), borderType=cv2.BORDER_REFLECT)
    colour = np.rint(image.mean(axis=(0, 1))) if fill == "mean" else {"grey": GREY, "black": 0}[fill]
    return np.broadcast_to(np.asarray(colour, np.uint8), image.shape).copy()


def weights_to_map(weights: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return a map float32 (H, W) whose sum within each superpixel is the superpixel's weight.

    So the shares of regions do not depend on the borders of superpixels.
    """
    area = np.bincount(segments.ravel(), minlength=len(weights))
    return (weights / area)[segments].astype(np.float32)
