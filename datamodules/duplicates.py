"""Find exact and near-duplicates, and the clusters of rows that must stay in one part.

Exact duplicates have equal decoded pixels. Near-duplicates are the same image resized, re-encoded, mirrored,
brightened or cropped slightly differently. Crops of different faces resemble each other (two strangers reach a
correlation of .9 at 32 x 32 pixels), so the decision depends on fine detail: the correlation of a band of details
between 1.2 and 3 pixels of a 48 x 48 image, which strangers do not share. It must be high nearly everywhere: two
drawn or posed faces share the lines of eyes and hair, but not what is around them.
"""

import hashlib
from collections.abc import Iterator

import cv2
import filelock
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from datamodules.cache import PixelCache
from datamodules.files.images import DECODE_POLICY, GREY_SIDE
from datamodules.files.paths import replacing
from datamodules.manifest import FACE_SOURCE, Manifest

NEAR_VERSION = 2  # increased whenever the search below would find other pairs
# Calibrated on FER2013, where 2,405 pairs are found; of the 41 closest to the thresholds, 40 show the same image.
ALIKE_COARSE = 0.87  # correlation at 16 x 16; pairs below it are not examined
ALIKE_FINE = 0.78  # correlation of the band of details
ALIKE_REGIONS = 0.58  # correlation that four fifths of the regions with any detail must reach
_BLOCK = 2048  # rows of a block of the product
_TILE = 256  # rows that are compared with a block at once; their distances stay in the processor's cache
_ROUNDING = 1e-5  # of float32 distances; a pair too many is compared in full
_KEPT = 64  # principal directions that bound the distance from below
_COARSE = 16
_REGIONS = 6  # the image is divided into 6 x 6 regions
_FLAT = 2.0  # standard deviation of grey levels below which there is nothing to compare
_PAIRS = 2048  # pairs whose details are in memory at once


def near_duplicates(cache: PixelCache) -> pd.DataFrame:
    """Return pairs of near-duplicates: rows ``a < b``, ``mirrored``, and the correlation ``alike`` (0 to 1).

    Of exact duplicates only the first row is compared. Pairs do not depend on the size of the cached images, so folds
    are the same at every size, and one search serves all sizes.
    """
    content = cache.index["content"].to_numpy(str)
    digest = hashlib.sha256(repr((NEAR_VERSION, DECODE_POLICY)).encode())
    digest.update("\n".join(content).encode())
    kept = cache.directory.parent / f"near-{digest.hexdigest()[:24]}.parquet"
    with filelock.FileLock(kept.with_suffix(".lock")):
        if kept.is_file():
            return pd.read_parquet(kept)
        pairs = near_pairs(cache.greys, content)
        with replacing(kept) as draft:
            pairs.to_parquet(draft)
        return pairs


def near_pairs(greys: np.ndarray, content: np.ndarray) -> pd.DataFrame:
    """Return pairs of near-duplicates as `near_duplicates` does, of grey images uint8 (N, 48, 48) and their hashes."""
    _, first = np.unique(content, return_index=True)
    rows = np.sort(first[content[first] != ""])
    parts = [part for part in _verified(greys, rows) if len(part)]
    empty = pd.DataFrame({"a": [], "b": [], "mirrored": [], "alike": []})
    pairs = pd.concat(parts) if parts else empty
    pairs = pairs.astype({"a": "int64", "b": "int64", "mirrored": "bool", "alike": "float64"})
    return pairs.sort_values(["a", "b", "alike"]).drop_duplicates(["a", "b"], keep="last").reset_index(drop=True)


def find_clusters(manifest: Manifest, cache: PixelCache, *, near: bool = True) -> np.ndarray:
    """Return the cluster of each row, int64 (N,), numbered by first appearance.

    Rows are in one cluster if equal content, near-duplicates (if ``near``), equal subjects or, for face crops, the same
    photograph link them, directly or through other rows. A missing subject or an unreadable image links nothing.
    """
    joined = [_chain(cache.index["content"].to_numpy(object))]
    if manifest.subjects is not None:
        joined.append(_chain(manifest.subjects))
    if FACE_SOURCE in manifest.table:
        joined.append(_chain(manifest.table[FACE_SOURCE].to_numpy(object)))
    if near:
        joined.append(near_duplicates(cache)[["a", "b"]].to_numpy(np.int64))
    return join(len(manifest), np.concatenate(joined))


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the cluster of each of ``count`` rows, int64, given pairs of rows (n, 2) that belong together."""
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return first.argsort().argsort()[inverse].astype(np.int64)


def _chain(values: np.ndarray) -> np.ndarray:
    """Return pairs of rows (n, 2) that link all rows of the same value; ``""`` and missing values link nothing."""
    codes = pd.factorize(pd.Series(values).replace("", None))[0]
    rows = np.flatnonzero(codes >= 0)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    same = codes[rows[1:]] == codes[rows[:-1]]
    return np.stack([rows[:-1][same], rows[1:][same]], 1)


def _unit(images: np.ndarray) -> np.ndarray:
    """Return images as vectors of mean 0 and length 1, float32 (N, pixels)."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def spread(greys: np.ndarray) -> np.ndarray:
    """Return the standard deviation (N,) of grey levels, blockwise: numpy would make all images float64 at once."""
    blocks = (greys[i : i + _BLOCK].reshape(-1, GREY_SIDE**2) for i in range(0, len(greys), _BLOCK))
    return np.concatenate([np.empty(0, np.float32), *(block.std(1, dtype=np.float32) for block in blocks)])


def _coarse(greys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return images at 16 x 16 as unit vectors, float32 (B, 256); made blockwise from the map."""
    step = GREY_SIDE // _COARSE
    vectors = np.empty((len(rows), _COARSE**2), np.float32)
    for i in range(0, len(rows), _BLOCK):
        block = greys[rows[i : i + _BLOCK]].reshape(-1, _COARSE, step, _COARSE, step)
        vectors[i : i + _BLOCK] = _unit(block.mean((2, 4), dtype=np.float32))
    return vectors


def _candidates(plain: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield pairs (n, 2) alike at 16 x 16, and whether the second is mirrored; blockwise, so memory stays bounded.

    Distances between projections on orthonormal directions never exceed the true ones, so comparing 64 numbers before
    all 256 misses no pair. The projection of a mirrored image is that of the image on mirrored directions.
    """
    sample = plain[:: max(1, len(plain) // 4096)]
    directions = np.linalg.eigh(sample.T @ sample)[1][:, -_KEPT:].astype(np.float32)  # (256, 64)
    opposite = np.ascontiguousarray(_flipped(directions.T).T)
    left = _with_norms(plain @ directions, others=False)
    starts = range(0, len(plain), _BLOCK)
    distances, close = np.empty((_TILE, _BLOCK), np.float32), np.empty((_TILE, _BLOCK), bool)  # used again and again
    with tqdm(total=len(starts) * (len(starts) + 1) // 2, desc="Comparing images", delay=1, disable=None) as bar:
        for j in starts:
            block = plain[j : j + _BLOCK]
            sides = [
                (np.ascontiguousarray(_with_norms(block @ side, others=True).T), side is opposite)
                for side in (directions, opposite)
            ]
            for i in range(0, j + len(block), _TILE):
                tile = left[i : min(i + _TILE, j + len(block))]
                for other, flip in sides:
                    shape = (slice(len(tile)), slice(len(block)))
                    np.matmul(tile, other, out=distances[shape])
                    np.less_equal(distances[shape], 1 - ALIKE_COARSE + _ROUNDING, out=close[shape])
                    first, second = np.divmod(np.flatnonzero(close[shape]), len(block))
                    pairs = np.stack([first + i, second + j], axis=1)
                    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
                    for part in np.array_split(pairs, len(pairs) // 65536 + 1) if len(pairs) else ():
                        theirs = plain[part[:, 1]]
                        theirs = _flipped(theirs) if flip else theirs
                        likeness = np.einsum("ij,ij->i", plain[part[:, 0]], theirs)
                        yield part[likeness >= ALIKE_COARSE], flip
                if i % _BLOCK == 0:
                    bar.update()


def _with_norms(projected: np.ndarray, *, others: bool) -> np.ndarray:
    """Return projections (B, K) with two more columns, by which a product of both kinds is half a squared distance."""
    half = (projected**2).sum(1, keepdims=True) / 2
    ones = np.ones_like(half)
    return np.concatenate([-projected, ones, half] if others else [projected, half, ones], axis=1)


def _flipped(vectors: np.ndarray) -> np.ndarray:
    """Return the mirror images of images at 16 x 16, (B, 256)."""
    return vectors.reshape(-1, _COARSE, _COARSE)[:, :, ::-1].reshape(vectors.shape)


def _verified(greys: np.ndarray, rows: np.ndarray) -> Iterator[pd.DataFrame]:
    """Yield the candidates among ``rows`` whose details agree."""
    rows = rows[spread(greys)[rows] >= _FLAT]
    if len(rows) < 2:
        return
    for pairs, flip in _candidates(_coarse(greys, rows)):
        for part in np.array_split(pairs, len(pairs) // _PAIRS + 1):
            if not len(part):
                continue
            used, place = np.unique(part, return_inverse=True)
            detail = details(greys[rows[used]])
            first, second = detail[place.reshape(-1, 2)[:, 0]], detail[place.reshape(-1, 2)[:, 1]]
            second = second[:, :, ::-1] if flip else second
            alike = (_unit(first) * _unit(second)).sum(1)
            good = (alike >= ALIKE_FINE) & (_agreement(first, second) >= ALIKE_REGIONS)
            chosen = rows[part[good]]
            yield pd.DataFrame({"a": chosen[:, 0], "b": chosen[:, 1], "mirrored": flip, "alike": alike[good]})


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation (B,) that four fifths of the regions reach; regions flat in both do not count."""
    side = GREY_SIDE // _REGIONS
    shape = (-1, _REGIONS, side, _REGIONS, side)
    left, right = (x.reshape(shape).transpose(0, 1, 3, 2, 4).reshape(len(x), _REGIONS**2, -1) for x in (first, second))
    left, right = left - left.mean(2, keepdims=True), right - right.mean(2, keepdims=True)
    power = (left**2).sum(2), (right**2).sum(2)  # (B, 36)
    alike = (left * right).sum(2) / np.sqrt(power[0] * power[1] + 1e-3)
    alike[np.maximum(*power) < side**2] = 1.0  # less than one grey level of detail
    count = (np.maximum(*power) >= side**2).sum(1)
    lowest = np.sort(alike, axis=1)
    return np.where(count > 0, lowest[np.arange(len(first)), np.minimum(count // 5, _REGIONS**2 - 1)], 0.0)


def details(greys: np.ndarray) -> np.ndarray:
    """Return the band of details of grey images (B, 48, 48), as float32."""
    bands = np.empty(greys.shape, np.float32)
    for place, grey in enumerate(greys.astype(np.float32)):
        bands[place] = cv2.GaussianBlur(grey, (0, 0), 1.2) - cv2.GaussianBlur(grey, (0, 0), 3)
    return bands
