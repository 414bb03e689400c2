"""Our input pipeline against torchvision's ImageFolder: JPEG files of 640 px to transformed batches of 224 px."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.photos import QUALITY, SIDE, write_photos
from benchmarks.report import Figure, paired, say
from datamodules.duplicates import find_clusters
from datamodules.emotion import EmotionDataModule

TEN = ["blur", "crop", "flip", "rotation", "translation", "cutout", "contrast", "height", "width", "zoom"]
SAME = (
    "files, number of pictures, 2 workers, batch size, shuffling, one of ten transforms on every picture, uint8 batches"
)
DIFFERS = (
    "height and width stretch one axis, torchvision zooms both; we fill edges by reflection, torchvision with black; "
    "ours decodes 1 % more pictures (the split's other parts), hashes each and makes its thumbnail on the first epoch; "
    "the near-duplicate search, which ImageFolder has not, is left out and timed apart"
)


def nearest_transforms(size: int) -> v2.Transform:
    """Return torchvision's nearest to ours, on PIL pictures as ImageFolder gives them, which is its usual way."""
    smooth = v2.InterpolationMode.BILINEAR
    side, cut = round(200 * size / 224), (70 / 224) ** 2
    zoom = v2.RandomAffine(0, scale=(0.7, 1.3), interpolation=smooth)
    nearest = [
        v2.RandomChoice([v2.GaussianBlur(kernel) for kernel in (3, 5, 7)]),
        v2.Compose([v2.RandomCrop(side), v2.Resize(size)]),
        v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]),
        v2.RandomRotation(45, interpolation=smooth),
        v2.RandomAffine(0, translate=(0.3, 0.3), interpolation=smooth),
        v2.ColorJitter(contrast=0.3),
        *[zoom] * 3,
    ]
    ways: list[Any] = [v2.Compose([step, v2.PILToTensor()]) for step in nearest]
    ways.append(v2.Compose([v2.PILToTensor(), v2.RandomErasing(1.0, scale=(cut / 100, cut), ratio=(1, 1), value=128)]))
    return v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.RandomChoice(ways)])


def our_loader(root: Path, size: int, batch: int, cache: Path) -> tuple[EmotionDataModule, Iterable[Any]]:
    """Return a data module with an empty cache, read and filled, and its training loader."""
    data = EmotionDataModule(
        f"folder:{root}",
        size,
        batch_size=batch,
        split="given",
        near_duplicates=False,
        inner_fraction=0.005,
        transforms=TEN,
        transform_where="all",
        num_workers=2,
        cache_dir=str(cache),
        seed=0,
    )
    data.prepare_data()
    data.setup("fit")
    return data, data.train_dataloader()


def their_loader(root: Path, size: int, batch: int) -> Iterable[Any]:
    """Return torchvision's loader of the training folder."""
    dataset = ImageFolder(str(root / "train"), transform=nearest_transforms(size))
    return DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=2, persistent_workers=True)


def drain(loader: Iterable[Any], size: int) -> int:
    """Go through an epoch and return its number of pictures."""
    pictures = 0
    for batch in loader:
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            msg = f"a batch of {images.dtype} {tuple(images.shape)} is not comparable"
            raise RuntimeError(msg)
        pictures += len(images)
    return pictures


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return torchvision's seconds over ours, both for the same number of pictures, first epoch and later ones."""
    pictures, side, size, batch, cold, later = (32, 64, 32, 8, 1, 1) if toy else (3000, SIDE, 224, 64, 2, 2)
    root = folder / "photos"
    kilobytes = write_photos(root, pictures, side=side)
    ours: dict[str, list[float]] = {"first": [], "later": []}
    theirs: dict[str, list[float]] = {"first": [], "later": []}
    data, our, their = None, None, None
    for turn in range(cold):
        say(f"first epoch {turn + 1} of {cold}: ours, then ImageFolder's")
        our = their = None  # ends the workers of the turn before
        start = time.perf_counter()
        data, our = our_loader(root, size, batch, folder / f"cache{turn}")
        seen = drain(our, size)
        ours["first"].append((time.perf_counter() - start) / seen)
        start = time.perf_counter()
        their = their_loader(root, size, batch)
        seen = drain(their, size)
        theirs["first"].append((time.perf_counter() - start) / seen)
    assert data is not None
    assert our is not None and their is not None  # noqa: PT018
    for turn in range(later):
        say(f"later epoch {turn + 1} of {later}: ours, then ImageFolder's")
        for loader, kept in ((our, ours), (their, theirs)):
            start = time.perf_counter()
            seen = drain(loader, size)
            kept["later"].append((time.perf_counter() - start) / seen)
    start = time.perf_counter()
    find_clusters(data.manifest, data.cache, near=True)
    setting = {
        "pictures": pictures,
        "setting": f"JPEG {side} px quality {QUALITY}, {kilobytes:.0f} kB each, to {size} px, batch {batch}",
        "same": SAME,
        "differs": DIFFERS,
        "unit": "seconds a picture; files are in the system's page cache on both sides",
        "near_duplicate_search_seconds": round(time.perf_counter() - start, 2),
    }
    figures = []
    for part, goal in (("first", 1.0), ("later", 3.0)):
        ratio, detail = paired(ours[part], theirs[part])
        rate = {"images_per_second": round(1 / min(ours[part]), 1)}
        about = "cold, cache build included" if part == "first" else "from the cache"
        name = f"input_pipeline_{part}_epoch"
        about = f"images/s of ours over ImageFolder's, {part} epoch ({about})"
        figures.append(Figure(name, ratio, about, at_least=goal, detail=detail | rate | setting))
    return figures
