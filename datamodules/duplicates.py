"""Finds pictures that are the same one, and the clusters of rows that must never be divided.

Exact duplicates have equal decoded pixels. Near duplicates are the same picture resized, re-encoded, mirrored,
lightened or cut a little differently. Faces that are cut out alike resemble each other (two strangers reach a
correlation of .9 at 32 x 32 pixels), so the decision falls on fine structure: the correlation of a band of details
between one and three pixels of a 48 x 48 picture, which strangers do not share. It must agree nearly everywhere: two
drawn or staged faces share the strokes of eyes and hair, but not what lies around them.
"""

import os
from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from datamodules.cache import PixelCache
from datamodules.manifest import Manifest

NEAR_VERSION = 1  # raised whenever the search below would find other pairs
# Calibrated on FER2013, where the largest band correlation of a picture with a stranger's mirror image is about .77.
ALIKE_COARSE = 0.87  # correlation at 16 x 16; below it pairs are not looked at
ALIKE_FINE = 0.78  # correlation of the band of details
ALIKE_PLACES = 0.58  # correlation that four fifths of the places with any detail must reach
_BLOCK = 2048  # rows of a block of the product
_KEPT = 64  # principal directions that bound the distance from below
_GRID = 48
_PLACES = 6  # the picture is cut into 6 x 6 places
_FLAT = 2.0  # standard deviation of grey levels below which there is nothing to compare
_PAIRS = 2048  # pairs whose details are in memory at once


def near_duplicates(cache: PixelCache) -> pd.DataFrame:
    """Return pairs of rows that show one picture without being equal: ``a < b``, ``mirrored``, ``alike`` (0 to 1).

    Of equal pictures only the first row takes part. The result is kept beside the cache.
    """
    kept = cache.directory / f"near-{NEAR_VERSION}.parquet"
    if kept.is_file():
        return pd.read_parquet(kept)
    content = cache.index["content"].to_numpy(str)
    _, first = np.unique(content, return_index=True)
    rows = np.sort(first[content[first] != ""])
    found = [part for part in _verified(cache, rows) if len(part)]
    empty = pd.DataFrame({"a": [], "b": [], "mirrored": [], "alike": []})
    pairs = pd.concat(found) if found else empty
    pairs = pairs.astype({"a": "int64", "b": "int64", "mirrored": "bool", "alike": "float64"})
    pairs = pairs.sort_values(["a", "b", "alike"]).drop_duplicates(["a", "b"], keep="last").reset_index(drop=True)
    draft = kept.with_name(f".{kept.name}.{os.getpid()}")
    pairs.to_parquet(draft)
    os.replace(draft, kept)
    return pairs


def find_clusters(manifest: Manifest, cache: PixelCache, *, near: bool = True) -> np.ndarray:
    """Return the cluster of each row, int64 (N,), numbered by first appearance.

    Rows share a cluster when a chain of equal content, near duplicates (if ``near``) and equal subjects joins them. A
    row without a subject, or that cannot be read, is joined by nothing on that account.
    """
    joined = [_chain(cache.index["content"].to_numpy(object))]
    if manifest.subjects is not None:
        joined.append(_chain(manifest.subjects))
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
    """Return pairs of rows (n, 2) that link the rows of each value in a chain; ``""`` and missing link nothing."""
    codes = pd.factorize(pd.Series(values).replace("", None))[0]
    rows = np.flatnonzero(codes >= 0)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    same = codes[rows[1:]] == codes[rows[:-1]]
    return np.stack([rows[:-1][same], rows[1:][same]], 1)


def _unit(images: np.ndarray) -> np.ndarray:
    """Return pictures as vectors of mean 0 and length 1, float32 (N, pixels)."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _candidates(thumbnails: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield pairs (n, 2) alike at 16 x 16, and whether the second is mirrored; blockwise, so memory stays bounded.

    Distances between projections on orthonormal directions never exceed the true ones, so that nothing is lost by
    comparing 64 numbers instead of 256 first.
    """
    small = np.asarray(thumbnails).reshape(-1, 16, 2, 16, 2).mean((2, 4), dtype=np.float32)
    plain, mirrored = _unit(small), _unit(small[:, :, ::-1])
    sample = plain[:: max(1, len(plain) // 4096)]
    directions = np.linalg.eigh(sample.T @ sample)[1][:, -_KEPT:].astype(np.float32)  # (256, 64)
    left, turned = plain @ directions, mirrored @ directions
    half, half_turned = (left**2).sum(1) / 2, (turned**2).sum(1) / 2
    starts = range(0, len(plain), _BLOCK)
    with tqdm(total=len(starts) * (len(starts) + 1) // 2, desc="Comparing pictures", delay=1, disable=None) as bar:
        for i in starts:
            for j in range(i, len(plain), _BLOCK):
                a, b = slice(i, i + _BLOCK), slice(j, j + _BLOCK)
                for whole, other, norm, flip in ((plain, left, half, False), (mirrored, turned, half_turned, True)):
                    distance = half[a, None] + norm[b] - left[a] @ other[b].T  # half the squared distance
                    pairs = np.argwhere(distance <= 1 - ALIKE_COARSE) + (i, j)  # noqa: RUF005
                    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
                    for part in np.array_split(pairs, len(pairs) // 65536 + 1):
                        likeness = np.einsum("ij,ij->i", plain[part[:, 0]], whole[part[:, 1]])
                        yield part[likeness >= ALIKE_COARSE], flip
                bar.update()


def _verified(cache: PixelCache, rows: np.ndarray) -> Iterator[pd.DataFrame]:
    """Yield the candidates among ``rows`` whose details agree."""
    thumbnails = np.asarray(cache.thumbnails)[rows]
    lively = thumbnails.reshape(len(rows), -1).std(1) >= _FLAT
    rows, thumbnails = rows[lively], thumbnails[lively]
    if len(rows) < 2:
        return
    for pairs, flip in _candidates(thumbnails):
        for part in np.array_split(pairs, len(pairs) // _PAIRS + 1):
            if not len(part):
                continue
            used, place = np.unique(part, return_inverse=True)
            detail = details(cache, rows[used])
            one, two = detail[place.reshape(-1, 2)[:, 0]], detail[place.reshape(-1, 2)[:, 1]]
            two = two[:, :, ::-1] if flip else two
            alike = (_unit(one) * _unit(two)).sum(1)
            good = (alike >= ALIKE_FINE) & (_agreement(one, two) >= ALIKE_PLACES)
            chosen = rows[part[good]]
            yield pd.DataFrame({"a": chosen[:, 0], "b": chosen[:, 1], "mirrored": flip, "alike": alike[good]})


def _agreement(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the correlation (B,) that four fifths of the places reach; places that are flat in both do not count."""
    side = _GRID // _PLACES
    shape = (-1, _PLACES, side, _PLACES, side)
    left, right = (x.reshape(shape).transpose(0, 1, 3, 2, 4).reshape(len(x), _PLACES**2, -1) for x in (one, two))
    left, right = left - left.mean(2, keepdims=True), right - right.mean(2, keepdims=True)
    power = (left**2).sum(2), (right**2).sum(2)  # (B, 36)
    alike = (left * right).sum(2) / np.sqrt(power[0] * power[1] + 1e-3)
    alike[np.maximum(*power) < side**2] = 1.0  # less than one grey level of detail
    count = (np.maximum(*power) >= side**2).sum(1)
    lowest = np.sort(alike, axis=1)
    return np.where(count > 0, lowest[np.arange(len(one)), np.minimum(count // 5, _PLACES**2 - 1)], 0.0)


def details(cache: PixelCache, rows: np.ndarray) -> np.ndarray:
    """Return the band of details of pictures, float32 (B, 48, 48)."""
    bands = np.empty((len(rows), _GRID, _GRID), np.float32)
    for place, image in enumerate(cache.read(rows)):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        way = cv2.INTER_AREA if len(grey) > _GRID else cv2.INTER_LINEAR
        grid = cv2.resize(grey, (_GRID, _GRID), interpolation=way).astype(np.float32)
        bands[place] = cv2.GaussianBlur(grid, (0, 0), 1) - cv2.GaussianBlur(grid, (0, 0), 3)
    return bands
