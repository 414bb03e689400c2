"""What a map says of each superpixel, and the order that this puts them in."""

import numpy as np


def numbered(segments: np.ndarray) -> np.ndarray:
    """Return the segments of one image numbered from 0 without gaps, int (H, W)."""
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape)


def segment_sums(picture: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the sum of a map (H, W) over each segment, (S,): its importance; segments are numbered without gaps."""
    return np.bincount(segments.ravel(), weights=picture.ravel().astype(np.float64))


def segment_means(picture: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the mean of a map (H, W) over each segment, (S,): its importance for its size."""
    return segment_sums(picture, segments) / np.bincount(segments.ravel())


def descending(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the segments from the most important on; equal ones in random order, so that no order is made up."""
    return np.lexsort((generator.random(len(values)), -values))


def marked(picture: np.ndarray, segments: np.ndarray, top: int) -> np.ndarray:
    """Return the pixels of the `top` segments that speak most for the class, bool (H, W), at most half of them."""
    segments = numbered(segments)
    values = segment_sums(picture, segments)
    chosen = descending(values, np.random.default_rng(0))[: max(1, min(top, len(values) // 2))]
    chosen = chosen[values[chosen] > 0]
    return np.isin(segments, chosen)
