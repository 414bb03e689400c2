"""Batches of pixels: right rows, untouched originals, and augmentations that never repeat nor depend on workers."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.cache import PixelCache, build_cache
from datamodules.dataset import EmotionDataset, keep, start_worker
from datamodules.manifest import make_manifest
from datamodules.sampling import Batch, Draws, EpochBatchSampler, ResumableLoader, doubled, each_once, oversample
from datamodules.transforms import build_transform

SIZE = 64
LABELS = np.repeat([0, 1], [18, 6])
NAMES = ["rotation", "zoom"]  # continuous: two results alike would be no chance


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    root: Path = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(root / f"{number}.png")
    table = pd.DataFrame({"path": [f"{n}.png" for n in range(24)], "label": [("happy", "sad")[n] for n in LABELS]})
    manifest = make_manifest(table, root, name="noise")
    return build_cache(manifest, SIZE, directory=root / "cache", workers=0)


def dataset(cache: PixelCache, draws: Draws, where: str = "copies", once: bool = False) -> EmotionDataset:
    transform = build_transform(NAMES, SIZE)
    originals = transform if where == "all" else None
    return EmotionDataset(cache, LABELS, draws, originals=originals, copies=transform, once=once, seed=5)


def run_epochs(
    data: EmotionDataset, workers: int, epochs: int = 2, persistent: bool = True
) -> list[dict[str, torch.Tensor]]:
    """Every batch of some epochs."""
    sampler = EpochBatchSampler(len(data), 8, seed=5)
    loader = ResumableLoader(
        data,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=keep,
        worker_init_fn=start_worker,
        persistent_workers=persistent and workers > 0,
    )
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += [{name: value.clone() for name, value in batch.items()} for batch in loader]
    return batches


def digests(images: torch.Tensor) -> list[str]:
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in images]


def test_batch_has_the_promised_form(cache: PixelCache) -> None:
    draws = each_once(np.arange(24))
    votes = np.tile([0.25, 0.75], (24, 1))
    data = EmotionDataset(cache, LABELS, draws, votes=votes)
    batch = data.__getitems__([20, 3])
    assert batch["image"].shape == (2, 3, SIZE, SIZE)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch["image"].permute(0, 2, 3, 1).numpy(), cache.read([20, 3]))
    assert batch["label"].tolist() == [1, 0]
    assert batch["row"].tolist() == [20, 3]
    assert (batch["label"].dtype, batch["row"].dtype, batch["is_copy"].dtype) == (torch.int64, torch.int64, torch.bool)
    assert batch["target"].dtype == torch.float32
    assert batch["target"].tolist() == [[0.25, 0.75]] * 2
    one = data[20]
    assert one["image"].shape == (3, SIZE, SIZE)
    assert one["label"].item() == 1


def test_only_copies_are_transformed(cache: PixelCache) -> None:
    draws = oversample(LABELS, np.arange(24), "max", seed=0)
    seen: list[int] = []
    for batch in run_epochs(dataset(cache, draws), workers=0, epochs=1):
        pixels = batch["image"].permute(0, 2, 3, 1).numpy()
        same = (pixels == cache.read(batch["row"].numpy())).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(same, ~batch["is_copy"].numpy())
        seen += batch["row"].tolist()
    assert sorted(seen) == sorted(draws.rows.tolist())


def test_everything_is_transformed_on_request(cache: PixelCache) -> None:
    for batch in run_epochs(dataset(cache, each_once(np.arange(24)), "all"), workers=0, epochs=1):
        pixels = batch["image"].permute(0, 2, 3, 1).numpy()
        assert not (pixels == cache.read(batch["row"].numpy())).all(axis=(1, 2, 3)).any()


def test_doubled_set_holds_each_picture_plain_and_transformed(cache: PixelCache) -> None:
    plain: set[int] = set()
    changed: set[int] = set()
    for batch in run_epochs(dataset(cache, doubled(np.arange(24))), workers=0, epochs=1):
        pixels = batch["image"].permute(0, 2, 3, 1).numpy()
        same = (pixels == cache.read(batch["row"].numpy())).all(axis=(1, 2, 3))
        plain |= set(batch["row"].numpy()[same].tolist())
        changed |= set(batch["row"].numpy()[~same].tolist())
    assert plain == changed == set(range(24))


def test_two_workers_and_two_epochs_never_repeat_an_augmentation(cache: PixelCache) -> None:
    """One image drawn 48 times: every one of the 96 results of two epochs must differ.

    Left to itself, albumentations gives both workers one stream and starts it anew in every epoch.
    """
    draws = Draws(np.zeros(48, dtype=np.int64), np.ones(48, dtype=bool))
    for persistent in (True, False):
        batches = run_epochs(dataset(cache, draws), workers=2, persistent=persistent)
        results = [digest for batch in batches for digest in digests(batch["image"])]
        assert len(results) == 96
        assert len(set(results)) == 96


def test_this_test_would_see_albumentations_repeat_itself(cache: PixelCache) -> None:
    """The same count with a plain loader, as a user would write it, shows what is guarded against."""
    transform = build_transform(NAMES, SIZE)
    assert transform is not None
    loader = DataLoader(_Naive(cache.read([0])[0], transform), batch_size=8, num_workers=2)
    results = [digest for _ in range(2) for batch in loader for digest in digests(batch)]
    assert len(set(results)) < len(results)


class _Naive(torch.utils.data.Dataset):
    def __init__(self, image: np.ndarray, transform: object) -> None:
        self.image, self.transform = image, transform

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.transform(image=self.image)["image"])  # type: ignore[operator]


@pytest.mark.parametrize("where", ["copies", "all"])
def test_batches_are_the_same_with_any_number_of_workers(cache: PixelCache, where: str) -> None:
    draws = oversample(LABELS, np.arange(24), "max", seed=0)
    alone, two, fresh = (
        run_epochs(dataset(cache, draws, where), workers, persistent=persistent)
        for workers, persistent in ((0, False), (2, True), (2, False))
    )
    assert len(alone) == len(two) == len(fresh) > 4
    for one, other, third in zip(alone, two, fresh, strict=True):
        for name in one:
            assert torch.equal(one[name], other[name])
            assert torch.equal(one[name], third[name])


def test_spawned_worker_reads_the_same(cache: PixelCache) -> None:
    data = dataset(cache, oversample(LABELS, np.arange(24), "max", seed=0))
    sampler = EpochBatchSampler(len(data), 8, seed=5)
    loader = ResumableLoader(
        data, batch_sampler=sampler, num_workers=1, collate_fn=keep, multiprocessing_context="spawn"
    )
    for one, other in zip(loader, run_epochs(data, 0, epochs=1), strict=True):
        assert torch.equal(one["image"], other["image"])


def test_once_gives_each_copy_one_augmentation_for_the_whole_run(cache: PixelCache) -> None:
    draws = Draws(np.zeros(16, dtype=np.int64), np.ones(16, dtype=bool))
    first, second = (
        run_epochs(dataset(cache, draws, once=True), 0)[:2],
        run_epochs(dataset(cache, draws, once=True), 2)[2:],
    )
    one, two = ({d for batch in epoch for d in digests(batch["image"])} for epoch in (first, second))
    assert one == two
    assert len(one) == 16  # and no two copies the same
    other = EmotionDataset(cache, LABELS, draws, copies=build_transform(NAMES, SIZE), once=True, seed=6)
    assert {d for batch in run_epochs(other, 0, epochs=1) for d in digests(batch["image"])} != one


def test_ranks_draw_different_augmentations(cache: PixelCache) -> None:
    draws = Draws(np.zeros(16, dtype=np.int64), np.ones(16, dtype=bool))
    data = dataset(cache, draws)
    results = [
        digest
        for rank in (0, 1)
        for batch in EpochBatchSampler(16, 8, seed=5, rank=rank, world_size=2)
        for digest in digests(data.__getitems__(batch)["image"])
    ]
    assert len(set(results)) == len(results) == 16


def test_single_items_do_not_disturb_the_batches(cache: PixelCache) -> None:
    data = dataset(cache, Draws(np.zeros(16, dtype=np.int64), np.ones(16, dtype=bool)))
    batch = Batch(np.arange(8), (5, 1, 0, 0, 0))
    before = data.__getitems__(batch)["image"]
    assert torch.equal(data[3]["image"], data[3]["image"])
    assert torch.equal(data.__getitems__(batch)["image"], before)
