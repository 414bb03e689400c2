"""Images cut into superpixels, and the image that stands where superpixels are taken away."""

from typing import Literal, get_args

import cv2
import numpy as np
from skimage.segmentation import slic

from datamodules.errors import InputError

Fill = Literal["superpixel", "mean", "blur", "grey", "black"]
FILLS: tuple[Fill, ...] = get_args(Fill)
GREY = 128
SMOOTHING = 0.5  # pixels; without it noise leaves regions too small, which SLIC then gives to a neighbour
BLUR = 0.125  # spread of the blur, as a share of the image's side


def superpixels(images: np.ndarray, number: int = 50, compactness: float = 20.0) -> np.ndarray:
    """Cut each image into regions of like colour with SLIC (Achanta et al. 2012).

    Args:
        images: uint8 (N, H, W, 3) RGB.
        number: how many to ask for; SLIC makes about so many.
        compactness: how much nearness counts over likeness of colour; higher makes squarer regions.

    Returns:
        int32 (N, H, W), each image numbered from 0 without gaps.

    Raises:
        InputError: fewer than 2 are asked for, more than there are pixels, or an image comes out as one piece.
    """
    height, width = images.shape[1:3]
    if number < 2:
        msg = f"--superpixels: at least 2, got {number}; 50 is usual at 64 pixels"
        raise InputError(msg)
    if number > height * width:
        msg = (
            f"--superpixels: {number} are asked for, but the network sees {height} x {width} = {height * width} "
            "pixels, and a superpixel is at least one; ask for fewer"
        )
        raise InputError(msg)
    if not compactness > 0:
        msg = f"--compactness: above 0, got {compactness}; 20 is usual, higher makes squarer regions"
        raise InputError(msg)
    cut = np.stack([_cut(image, number, compactness) for image in images])
    whole = np.flatnonzero(cut.max(axis=(1, 2)) == 0)
    if len(whole):
        msg = (
            f"--superpixels: image {whole[0]} of {len(images)} comes out as one piece when {number} are asked for, so "
            "no part of it can be taken away; ask for more, or a higher --compactness"
        )
        raise InputError(msg)
    return cut


def _cut(image: np.ndarray, number: int, compactness: float) -> np.ndarray:
    found = slic(image, n_segments=number, compactness=compactness, sigma=SMOOTHING, start_label=0)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)


def filled(image: np.ndarray, segments: np.ndarray, fill: Fill) -> np.ndarray:
    """Return an image all of whose superpixels are taken away, uint8 (H, W, 3).

    Args:
        image: uint8 (H, W, 3).
        segments: int (H, W).
        fill: ``superpixel``: its own mean colour; ``mean``: the mean colour of the image; ``blur``: the image out of
            focus; ``grey`` or ``black``.
    """
    if fill == "superpixel":
        flat, count = segments.ravel(), np.bincount(segments.ravel())
        means = [np.bincount(flat, image[..., channel].ravel()) / count for channel in range(3)]
        return np.rint(np.stack(means, axis=1))[segments].astype(np.uint8)
    if fill == "blur":
        return cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape[:2]), borderType=cv2.BORDER_REFLECT)
    colour = np.rint(image.mean(axis=(0, 1))) if fill == "mean" else {"grey": GREY, "black": 0}[fill]
    return np.broadcast_to(np.asarray(colour, np.uint8), image.shape).copy()


def spread(weights: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return a map float32 (H, W) whose sum within each superpixel is the superpixel's weight.

    A pixel of a large superpixel says less than one of a small superpixel with the same weight, so that shares of
    regions do not depend on where the borders of superpixels fall.
    """
    area = np.bincount(segments.ravel(), minlength=len(weights))
    return (weights / area)[segments].astype(np.float32)
