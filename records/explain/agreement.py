"""Whether two explanations of the same images say the same: of two methods, or of one method with two seeds."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from records.explain.ordering import descending, numbered, segment_means


def agreement(one: np.ndarray, two: np.ndarray, segments: np.ndarray, *, top: int = 5, seed: int = 0) -> pd.DataFrame:
    """Compare maps (N, H, W) by what they say of each superpixel, for its size: by sums large ones alone would agree.

    Returns:
        One row an image: `rank` (Spearman's correlation), `overlap` (share of the `top` most important superpixels
        that both name) and `chance` (the overlap of two random choices). NaN where a map says the same of all of them.
    """
    generator = np.random.default_rng(seed)
    found = []
    for first, second, parts in zip(one, two, segments, strict=True):
        parts = numbered(parts)
        values = [segment_means(picture, parts) for picture in (first, second)]
        count, size = len(values[0]), min(top, len(values[0]))
        if any(np.ptp(value) <= 1e-12 * np.abs(value).max() for value in values):
            found.append((np.nan, np.nan, np.nan))
            continue
        chosen = [set(descending(value, generator)[:size].tolist()) for value in values]
        rank = float(spearmanr(*values).statistic)
        found.append((rank, len(chosen[0] & chosen[1]) / size, size / count))
    return pd.DataFrame(found, columns=["rank", "overlap", "chance"])
