"""Input pipeline against torchvision's ImageFolder, images decoded for five folds, face crops, and large tables."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import Figure, median_ratio
from datamodules.duplicates import find_clusters
from datamodules.emotion import EmotionDataModule
from datamodules.faces.crop import CutOptions
from datamodules.faces.detectors import open_detector
from datamodules.faces.prepare import prepare_faces
from datamodules.files.images import decode_count
from datamodules.files.paths import CACHE_BUDGET_GB
from datamodules.manifest import make_manifest
from datamodules.synthetic import DrawnFaces, draw
from datamodules.synthetic.scenes import DrawnScenes, draw_scene

YUNET = "yunet/yunet_n_640.onnx"
LONG_SIDE = 640  # of photographs
TEN = ["blur", "crop", "flip", "rotation", "translation", "cutout", "contrast", "height", "width", "zoom"]
SAME = "files, number of images, 2 workers, batch size, shuffling, one of ten transforms on every image, uint8 batches"
DIFFERS = (
    "height and width stretch one axis, torchvision zooms both; we fill edges by reflection, torchvision with black; "
    "ours decodes 1 % more images (the split's other parts), hashes each and makes its thumbnail on the first epoch; "
    "the near-duplicate search, which ImageFolder has not, is left out and timed apart"
)


def write_photos(root: Path, spec: DrawnFaces, side: int) -> None:
    """Write drawn faces as JPEG that decode as slowly as photographs: ``train/<class>``, two per class in ``test``."""

    def write(row: int) -> None:
        """Enlarge a drawing and add smooth noise, as sensors and skin have it."""
        image = cv2.resize(draw(spec, row).image, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        grain = np.random.default_rng(row).integers(-14, 15, (side // 2, side // 2, 3)).astype(np.int16)
        image = np.add(image, cv2.resize(grain, (side, side), interpolation=cv2.INTER_LINEAR))
        folder = root / ("test" if row % spec.largest < 2 else "train") / spec.label_of(row)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{row:05}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(len(spec))))


def nearest_transforms(size: int) -> v2.Transform:
    """Return torchvision's nearest to ours, on PIL images as ImageFolder gives them, which is its usual way."""
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


def seconds_per_image(make_loader: Callable[[], Any], size: int) -> float:
    """Return the seconds per image of making a loader and going through one epoch."""
    start, count = time.perf_counter(), 0
    for batch in make_loader():
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            msg = f"a batch of {images.dtype} {tuple(images.shape)} is not comparable"
            raise RuntimeError(msg)
        count += len(images)
    return (time.perf_counter() - start) / count


def pipeline(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure images/s of ours over ImageFolder's, from JPEG files to transformed batches, in turns."""
    largest, side, size, batch, repeats = (6, 64, 32, 8, 1) if toy else (377, LONG_SIDE, 224, 64, 2)
    photos = folder / "photos"
    write_photos(photos, DrawnFaces(largest=largest, ratio=1, annotators=0), side)
    loaders: dict[str, Any] = {}

    def ours(name: str = "ours", budget: float = CACHE_BUDGET_GB) -> Iterable[Any]:
        data = EmotionDataModule(
            f"folder:{photos}", size, batch_size=batch, split="given", near_duplicates=False, inner_fraction=0.005,
            transforms=TEN, transform_where="all", num_workers=2, cache_dir=str(folder / f"cache{time.time_ns()}"),
            cache_budget_gb=budget, seed=0,
        )  # fmt: skip
        data.prepare_data()
        data.setup("fit")
        loaders[name], loaders[f"{name} data"] = data.train_dataloader(), data
        return loaders[name]

    def theirs() -> Iterable[Any]:
        images = ImageFolder(str(photos / "train"), transform=nearest_transforms(size))
        loaders["theirs"] = DataLoader(images, batch, shuffle=True, num_workers=2, persistent_workers=True)
        return loaders["theirs"]

    first, later = [], []
    for _ in range(repeats):
        loaders.clear()  # ends the workers of the turn before
        first.append([seconds_per_image(make, size) for make in (ours, theirs)])
    for _ in range(repeats):
        later.append([seconds_per_image(partial(loaders.get, name), size) for name in ("ours", "theirs")])
    data = loaders["ours data"]
    start = time.perf_counter()
    find_clusters(data.manifest, data.cache, near=True)
    near_seconds = time.perf_counter() - start
    ours("without cache", budget=0)
    if loaders["without cache data"].cache.pixels is not None:
        msg = "a cache was built although its budget is 0"
        raise RuntimeError(msg)
    fly = [
        [seconds_per_image(partial(loaders.get, name), size) for name in ("without cache", "theirs")]
        for _ in range(repeats)
    ]
    setting = {
        "setting": f"JPEG {side} px quality 90 to {size} px, batch {batch}, in the system's page cache on both sides",
        "same": SAME,
        "differs": DIFFERS,
        "near_duplicate_search_seconds": near_seconds,
    }
    figures = []
    for name, turns, about, target in (
        ("first", first, "first epoch (cache build included)", ">= 1"),
        ("later", later, "later epoch (from the cache)", ">= 3"),
        ("uncached", fly, "an epoch that decodes every image, as the cache exceeds its budget", ""),
    ):
        own, reference = zip(*turns, strict=True)
        detail = {"seconds_per_image": own, "reference_seconds_per_image": reference, **setting}
        about = f"images/s of ours over ImageFolder's, {about}"
        figures.append(Figure(f"input_pipeline_{name}_epoch", median_ratio(reference, own), about, target, detail))
    return figures


def decoding(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Count the images decoded for five folds over those for one: each should be decoded once for all of them."""
    write_photos(folder, DrawnFaces(largest=12 if toy else 32, ratio=1, annotators=0), 64)  # few: decoded in-process
    counts = []
    for folds in (1, 5):
        before = decode_count()
        for fold in range(folds):
            data = EmotionDataModule(
                f"folder:{folder / 'train'}", 32, fold=fold, batch_size=32, cache_dir=f"{folder}/cache-{folds}",
                num_workers=0, seed=0,
            )  # fmt: skip
            data.prepare_data()
            data.setup("fit")
            for loader in (*[data.train_dataloader()] * 2, data.val_dataloader(), data.test_dataloader()):
                for _ in loader:
                    pass
        counts.append(decode_count() - before)
    detail = {"images": len(data.manifest), "opened_one_fold": counts[0], "opened_five_folds": counts[1]}
    about = "images decoded for 5 folds over those for 1, counted where they are decoded"
    return [Figure("decodes_of_five_folds", counts[1] / counts[0], about, "= 1", detail)]


def faces(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure the photographs cut to face crops per second with YuNet, and the detector alone."""
    name, target = "face_crops_per_second", ">= 40"
    if not (model := Path(os.environ.get("EMOTION_DATA_DIR", "/nowhere"), YUNET)).is_file():
        return [Figure(name, None, f"not measured: no {YUNET} in EMOTION_DATA_DIR", target)]
    count, repeats = (4, 3) if toy else (50, 40)
    spec, images, labels = DrawnScenes(images=count, size=700, others=3, distractors=2), [], {}
    photos = folder / "photos"
    photos.mkdir()
    for row in range(count):
        image = draw_scene(spec, row).image
        scale = LONG_SIDE / max(image.shape[:2])
        images.append(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))
        for copy in range(repeats):  # encoded anew each time, so that each file is decoded and searched
            Image.fromarray(images[-1]).save(photos / f"{row}-{copy}.jpg", quality=92 - copy)
            labels[f"{row}-{copy}.jpg"] = spec.label_of(row)
    yunet = f"yunet:{model}"
    manifest = make_manifest(pd.DataFrame(labels.items(), columns=["path", "label"]), photos, name="scenes")
    start = time.perf_counter()
    done = prepare_faces(manifest, yunet, folder / "crops", CutOptions(no_face="centre"))
    rate = len(manifest) / (time.perf_counter() - start)
    detector = open_detector(yunet)
    detector.detect(images[:1])
    start = time.perf_counter()
    detector.detect(images)
    alone = len(images) / (time.perf_counter() - start)
    detail = {"photographs": len(manifest), "different": count, "with_a_face": done.found, "long_side": LONG_SIDE}
    return [
        Figure(name, rate, "photographs decoded, searched by YuNet, cut and written, all cores", target, detail),
        Figure(
            "face_detector_alone_per_second", alone, "the same photographs, decoded, through YuNet alone", "", detail
        ),
    ]


STEPS = """
import json, resource, sys, time
from datamodules.describe import describe
from datamodules.emotion import EmotionDataModule
start, seconds = time.perf_counter(), {}
def done(step):
    global start
    now = time.perf_counter()
    seconds[step], start = now - start, now
data = EmotionDataModule(sys.argv[1], 8, near_duplicates=False, seed=0)
data.manifest; done("read")
describe(data.manifest); done("describe")
data.prepare_data(); done("cache")
data.setup("fit"); data.fold_rows; data.draws; done("split")
next(iter(data.train_dataloader())); done("first batch")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak_gigabytes": peak / 1e9, "rows": len(data.manifest)}))
"""


def rows(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure reading, describing, caching and dividing a table of half a million different images of 8 x 8 pixels."""
    count = 2_000 if toy else 500_000
    rng = np.random.default_rng(0)
    lines = ["path,label,subject"]
    for place in range(500):
        (folder / f"images/{place:03d}").mkdir(parents=True)
    for row in range(count):
        path = f"images/{row % 500:03d}/{row:07d}.bmp"
        cv2.imwrite(str(folder / path), rng.integers(0, 256, (8, 8), dtype=np.uint8))
        lines.append(f"{path.removeprefix('images/')},{('happy', 'sad', 'angry')[row % 3]},p{row // 50}")
    (folder / "labels.csv").write_text("\n".join(lines))
    command = [sys.executable, "-c", STEPS, str(folder / "labels.csv")]
    code = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=code)
    detail = json.loads(done.stdout.splitlines()[-1])
    setting = "names without their folder, people of 50 images, decoding included, near-duplicate search left out"
    return [
        Figure(
            "table_minutes", sum(detail["seconds"].values()) / 60, f"minutes to the first batch; {setting}", "", detail
        ),
        Figure("table_peak_gigabytes", detail["peak_gigabytes"], "memory of the main process", "<= 4", detail),
    ]
