"""The same image is found however it was saved; other images, however alike, are left apart."""

import io
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter, ImageOps

from datamodules.cache import PixelCache, build_cache
from datamodules.duplicates import ALIKE_COARSE, _candidates, _unit, find_clusters, join, near_duplicates, spread
from datamodules.files.images import Fit
from datamodules.manifest import Manifest, make_manifest
from datamodules.synthetic import DrawnFaces, draw, prepare

FACES = DrawnFaces(largest=9, ratio=1, size=80, seed=21)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
    return small.resize(image.size, Image.Resampling.BILINEAR)


WAYS = {
    "jpeg": lambda image: jpeg(image, 40),
    "halved": halved,
    "smaller": lambda image: image.resize((60, 60), Image.Resampling.LANCZOS),
    "mirror": ImageOps.mirror,
    "mirror_jpeg": lambda image: jpeg(ImageOps.mirror(image), 60),
    "lighter": lambda image: image.point(lambda value: min(255, value * 0.8 + 25)),
}


@pytest.fixture(scope="module")
def altered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, PixelCache, pd.DataFrame]:
    """72 drawn faces, each with one altered copy of every kind."""
    root = tmp_path_factory.mktemp("altered")
    drawn = prepare(FACES, root / "drawn")
    rows = []
    for row in range(len(drawn)):
        image = Image.open(drawn.file(row)).convert("RGB")
        for way, change in {"as_is": lambda same: same, **WAYS}.items():
            change(image).save(root / f"{row:03d}_{way}.png")
            rows.append((f"{row:03d}_{way}.png", drawn.table["label"][row], row, way))
    table = pd.DataFrame(rows, columns=["path", "label", "source", "way"])
    manifest = make_manifest(table[["path", "label"]], root, name="altered")
    return manifest, build_cache(manifest, 64, directory=root / "cache"), table


@pytest.mark.parametrize("way", WAYS)
def test_altered_copies_are_found(altered: tuple[Manifest, PixelCache, pd.DataFrame], way: str) -> None:
    manifest, cache, table = altered
    cluster = pd.Series(find_clusters(manifest, cache))
    of_source = cluster[table["way"] == "as_is"].to_numpy()
    assert np.mean(cluster[table["way"] == way].to_numpy() == of_source) >= 0.97


def test_different_faces_stay_apart(altered: tuple[Manifest, PixelCache, pd.DataFrame]) -> None:
    manifest, cache, table = altered
    clusters = find_clusters(manifest, cache)
    assert table["source"].groupby(clusters).nunique().max() == 1
    mirrored = near_duplicates(cache).query("mirrored")
    kinds = table["way"].to_numpy()
    turned = np.char.startswith(kinds.astype(str), "mirror")
    assert len(mirrored) > 0
    assert np.all(turned[mirrored["a"]] != turned[mirrored["b"]])


def test_without_near_only_equal_pixels_join(altered: tuple[Manifest, PixelCache, pd.DataFrame]) -> None:
    manifest, cache, _ = altered
    assert len(np.unique(find_clusters(manifest, cache, near=False))) == len(manifest)


@pytest.mark.parametrize(("size", "fit"), [(16, "crop"), (112, "pad")])
def test_pairs_are_the_same_at_every_size(
    altered: tuple[Manifest, PixelCache, pd.DataFrame], tmp_path: Path, size: int, fit: Fit
) -> None:
    """Else a small and a large model would be compared on different folds."""
    manifest, cache, _ = altered
    other = near_duplicates(build_cache(manifest, size, fit=fit, directory=tmp_path))
    pd.testing.assert_frame_equal(other, near_duplicates(cache))


def test_pairs_are_searched_once_for_all_sizes(
    altered: tuple[Manifest, PixelCache, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, cache, _ = altered
    first = near_duplicates(cache)
    monkeypatch.setattr("datamodules.duplicates._verified", None)  # a second search would fail
    pd.testing.assert_frame_equal(first, near_duplicates(cache))
    smaller = build_cache(manifest, 16, directory=cache.directory.parent)
    pd.testing.assert_frame_equal(first, near_duplicates(smaller))
    with pytest.raises(TypeError, match="not callable"):  # other images, other pairs
        near_duplicates(build_cache(manifest.select(range(100)), 16, directory=cache.directory.parent))


def test_two_who_ask_at_once_search_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [Image.fromarray(draw(FACES, row).image) for row in range(4)]
    _, cache = save_set(tmp_path, [*images, jpeg(images[0], 60)])
    searches = []

    def slow(greys: np.ndarray, rows: np.ndarray) -> Iterator[pd.DataFrame]:
        searches.append(len(rows))
        time.sleep(0.3)
        yield pd.DataFrame({"a": [0], "b": [4], "mirrored": False, "alike": 0.9})

    monkeypatch.setattr("datamodules.duplicates._verified", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(near_duplicates, [cache] * 3))
    assert searches == [5]
    assert [pairs["b"].tolist() for pairs in found] == [[4]] * 3


def test_spread_takes_little_memory() -> None:
    greys = np.random.default_rng(0).integers(0, 256, (12_000, 48, 48), np.uint8)  # 28 MB
    tracemalloc.start()
    try:
        found = spread(greys)
        assert tracemalloc.get_traced_memory()[1] < 45e6
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(found[5_000:5_050], greys[5_000:5_050].reshape(50, -1).std(1), rtol=1e-4)


def save_set(root: Path, images: list[Image.Image], **columns: list[str]) -> tuple[Manifest, PixelCache]:
    for number, image in enumerate(images):
        image.save(root / f"{number}.png")
    table = pd.DataFrame({"path": [f"{n}.png" for n in range(len(images))], **columns})
    table["label"] = ["happy", "sad"] * (len(images) // 2) + ["happy"] * (len(images) % 2)
    manifest = make_manifest(table, root, name="set")
    return manifest, build_cache(manifest, 32, directory=root / "cache")


def test_equal_pixels_in_other_files_and_subjects_join(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = [Image.fromarray(generator.integers(0, 255, (40, 40, 3), np.uint8)) for _ in range(6)]
    images = [noise[0], noise[1], noise[0], noise[2], noise[3], noise[4], noise[5]]
    manifest, cache = save_set(tmp_path, images, subject=["", "a", "", "b", "", "a", "b"])
    assert find_clusters(manifest, cache, near=False).tolist() == [0, 1, 0, 2, 3, 1, 2]
    assert find_clusters(manifest, cache).tolist() == [0, 1, 0, 2, 3, 1, 2]


def test_flat_and_unreadable_pictures_join_nothing(tmp_path: Path) -> None:
    images = [Image.new("RGB", (40, 40), (tone, tone, tone)) for tone in (10, 20, 30, 40)]
    manifest, cache = save_set(tmp_path, images)
    for broken in (0, 1):
        (tmp_path / f"{broken}.png").write_bytes(b"not an image")
    cache = build_cache(manifest, 32, directory=tmp_path / "cache")
    assert len(np.unique(find_clusters(manifest, cache))) == 4


def test_pictures_without_common_detail_stay_apart(tmp_path: Path) -> None:
    """Soft blobs correlate above .9 as a whole, which says nothing."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    images = []
    for _ in range(12):
        blob = 200 * np.exp(-((x / 0.6) ** 2 + (y / 0.7) ** 2)) + generator.normal(0, 18, (64, 64))
        images.append(Image.fromarray(np.clip(blob, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7)))
    manifest, cache = save_set(tmp_path, images)
    assert np.corrcoef(cache.greys.reshape(12, -1)).min() > 0.9
    assert len(np.unique(find_clusters(manifest, cache))) == 12


@pytest.mark.parametrize("seed", range(5))
def test_join_agrees_with_union_by_hand(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = generator.integers(0, 60, (40, 2))
    group = list(range(60))
    for a, b in pairs.tolist():
        old, new = group[b], group[a]
        group = [new if g == old else g for g in group]
    numbers: dict[int, int] = {}
    expected = [numbers.setdefault(g, len(numbers)) for g in group]
    assert join(60, pairs).tolist() == expected


def test_candidates_are_those_of_a_comparison_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (60, 16, 16)).astype(np.float32)
    noisy = [base + random.normal(0, width, base.shape) for width in (10, 40, 45, 50, 300)]
    images = np.concatenate([base, base[:, :, ::-1], *noisy, noisy[1][:, :, ::-1]])
    images = np.concatenate([images] * 6 + [random.permutation(images)])  # more than one block of the product
    vectors = _unit(images.astype(np.float32))
    turned = _unit(images[:, :, ::-1].astype(np.float32))
    found = {(int(a), int(b), flip) for pairs, flip in _candidates(vectors) for a, b in pairs}
    expected, doubtful = set(), set()
    for flip, others in ((False, vectors), (True, turned)):
        likeness = vectors @ others.T
        upper = np.triu(np.ones(likeness.shape, bool), 1)
        expected |= {(int(a), int(b), flip) for a, b in np.argwhere(upper & (likeness >= ALIKE_COARSE))}
        near = upper & (abs(likeness - ALIKE_COARSE) < 1e-5)
        doubtful |= {(int(a), int(b), flip) for a, b in np.argwhere(near)}
    assert len(images) > 2048
    assert len(expected) > 5000
    assert found ^ expected <= doubtful
