"""BoxesDataModule: batches for the face detector, from drawn scenes or from photographs with a table of boxes."""

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import cv2
import lightning as L
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.cache import PixelCache, build_cache
from datamodules.dataset import keep, start_worker
from datamodules.duplicates import find_clusters
from datamodules.errors import InputError, invalid
from datamodules.files.images import GREY
from datamodules.manifest import Manifest, boxes_by_row, find_table, manifest_of, read_boxes, saved_meta, to_square
from datamodules.processes import cores, workers_that_fit
from datamodules.readers import read
from datamodules.sampling import Batch, EpochBatchSampler, PlainLoader, ResumableLoader
from datamodules.splits.folds import Fold, given_split, hold_out
from datamodules.splits.protocol import SeenImages
from datamodules.synthetic.files import prepare_scenes
from datamodules.synthetic.scenes import parse_scenes
from datamodules.transforms import reseed

SEEN = 0.4  # share of a box that must stay in the image
SMALLEST = 3.0  # pixels of the shorter side


def build_augmentation() -> A.Compose:
    """Return the training transform: mirror, move, zoom and turn with the boxes; light, colour, blur and noise."""
    moves = A.Affine(
        scale=(0.5, 1.6),
        translate_percent=(-0.2, 0.2),
        rotate=(-12, 12),
        keep_ratio=True,
        rotate_method="ellipse",  # a turned face is no larger; the box around a turned box would be
        border_mode=cv2.BORDER_CONSTANT,
        fill=GREY,
        p=0.8,
    )
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            moves,
            A.RandomBrightnessContrast(0.3, 0.3, p=0.5),
            A.HueSaturationValue(10, 30, 10, p=0.3),
            A.ToGray(p=0.05),
            A.OneOf([A.GaussianBlur((3, 5), p=1.0), A.GaussNoise((0.02, 0.08), p=1.0)], p=0.2),
        ],
        bbox_params=A.BboxParams(
            "pascal_voc",
            min_visibility=SEEN,
            min_width=SMALLEST,
            min_height=SMALLEST,
            clip=True,
            filter_invalid_bboxes=True,
        ),
    )


class BoxesDataset(Dataset):
    """Whole batches of images with boxes.

    A batch is ``image`` (B, 3, S, S) uint8, ``boxes``, a list of B tensors float32 (M_i, 4) in pixels of the square,
    and ``row`` (B,) of the manifest.
    """

    def __init__(
        self, cache: PixelCache, boxes: list[np.ndarray], rows: np.ndarray, transform: A.Compose | None = None
    ) -> None:
        """Create the dataset.

        Args:
            cache: The decoded images.
            boxes: Boxes of every row of the manifest, float32 (M, 4), in pixels of the square.
            rows: (N,) rows of the manifest in this dataset.
            transform: Transform of an image with its boxes.
        """
        self.cache, self.boxes, self.rows, self.transform = cache, boxes, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, wanted: Batch | list[int]) -> dict[str, torch.Tensor | list[torch.Tensor]] | InputError:
        """Return a batch; a worker returns the error of an unreadable image, which `PlainLoader` raises."""
        try:
            return self._read(wanted)
        except InputError as error:
            if get_worker_info() is None:
                raise
            return error

    def _read(self, wanted: Batch | list[int]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        positions = wanted.positions if isinstance(wanted, Batch) else np.asarray(wanted, np.int64)
        rows = self.rows[positions]
        images, boxes = self.cache.read(rows), [self.boxes[row] for row in rows]
        if self.transform is not None:
            images = images.copy()  # may be the read-only map
            reseed(self.transform, *(wanted.seed if isinstance(wanted, Batch) else (0,)))
            for place, image_boxes in enumerate(boxes):
                changed = self.transform(image=images[place], bboxes=image_boxes)
                images[place] = changed["image"]
                boxes[place] = np.asarray(changed["bboxes"], np.float32).reshape(-1, 4)
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "boxes": [torch.from_numpy(np.array(image_boxes, np.float32)) for image_boxes in boxes],
            "row": torch.from_numpy(rows),
        }


MULTIPLE = 32  # the side of the square is a multiple of the coarsest level's stride
MOST_WORKERS = 8
SCENES = "scenes:images=400,size=320"  # trains for some minutes on two cores with the other defaults
Split = Literal["holdout", "given"]


class BoxesDataModule(L.LightningDataModule):
    """Images with face boxes in three parts: train to train on, val to select on, test to report on.

    Batches are those of `BoxesDataset`. A photograph is fitted into the square with grey around it. Duplicates and
    images of one person (column ``subject``) stay in one part.
    """

    def __init__(
        self,
        source: str = SCENES,
        boxes: str | None = None,
        size: int = 192,
        batch_size: int = 8,
        split: Split = "holdout",
        outer_fraction: float = 0.2,
        inner_fraction: float = 0.1,
        fold_seed: int = 0,
        augment: bool = True,
        num_workers: int | None = None,
        cache_dir: str | None = None,
        seed: int | None = None,
    ) -> None:
        """Store the options; data is read on first use.

        Args:
            source: "scenes:images=400,size=320,dim=1" for drawn scenes; a folder with boxes.csv; a table of
                boxes; or a manifest or data set, as for `emotion fit --data`.
            boxes: table of boxes (path, x0, y0, x1, y1 in pixels); by default boxes.csv beside the images.
            size: side of the model's square input in pixels, a multiple of 32.
            batch_size: images per step.
            split: "holdout" (one test part) or "given" (the column "split" of the data).
            outer_fraction: share of the images in the test part, with "holdout".
            inner_fraction: share of the other images in the val part.
            fold_seed: seed of the split.
            augment: whether to mirror, move, zoom, turn and recolour training images.
            num_workers: loading processes; by default chosen by the number of cores.
            cache_dir: folder of the decoded images.
            seed: seed of order and augmentation; by default the run's seed.

        Raises:
            InputError: an option out of range.
        """
        super().__init__()
        if size < MULTIPLE or size % MULTIPLE:
            raise invalid("--data.size", f"must be a multiple of {MULTIPLE}, such as 320 or 640", size)
        if batch_size < 2:
            raise invalid("--data.batch_size", "must be at least 2, which batch normalisation needs", batch_size)
        if num_workers is not None and num_workers < 0:
            raise invalid("--data.num_workers", "must be at least 0", num_workers)
        if boxes and source.strip().partition(":")[0] == "scenes":
            raise invalid("--data.boxes", "scenes are drawn with their boxes", boxes, "leave it out")
        for name, value in (("outer_fraction", outer_fraction), ("inner_fraction", inner_fraction)):
            if not 0 < value < 1:
                raise invalid(f"--data.{name}", "must be above 0 and below 1", value)
        self.source, self.boxes_file, self.size, self.batch_size = source, boxes, size, batch_size
        self.split, self.outer_fraction, self.inner_fraction = split, outer_fraction, inner_fraction
        self.fold_seed, self.augment, self.num_workers, self.cache_dir = fold_seed, augment, num_workers, cache_dir
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.seen_before = SeenImages()  # by the model that the run starts from

    @cached_property
    def _read(self) -> tuple[Manifest, pd.DataFrame]:
        source = self.source.strip()
        if source == "scenes" or source.startswith("scenes:"):
            folder = prepare_scenes(parse_scenes(source))
            table = read_boxes(folder / "boxes.csv")
            return manifest_of(table, folder, "scenes"), table
        place = Path(source).expanduser()
        file = Path(self.boxes_file).expanduser() if self.boxes_file else find_table(place)
        if file is None:
            msg = (
                f"--data: {source} has no boxes.csv beside its images; give the table with --data.boxes FILE "
                "(columns path, x0, y0, x1, y1), or scenes to draw some"
            )
            raise InputError(msg)
        table = read_boxes(file)
        if place.is_dir() and not (place / "manifest.csv").is_file():
            return manifest_of(table, place, place.resolve().name), table
        if place.is_dir():
            return Manifest.load(place / "manifest.csv"), table
        if place.is_file() and place.resolve() == file.resolve():
            return manifest_of(table, place.parent, place.resolve().parent.name), table
        if place.is_file() and place.suffix in (".csv", ".parquet") and saved_meta(place):
            return Manifest.load(place), table
        return read(source), table

    @property
    def manifest(self) -> Manifest:
        """The table of images."""
        return self._read[0]

    @cached_property
    def cache(self) -> PixelCache:
        """The decoded images in their squares, built on first use.

        Raises:
            InputError: Images that cannot be read.
        """
        directory = Path(self.cache_dir) if self.cache_dir else None
        cache = build_cache(self.manifest, self.size, fit="pad", directory=directory)
        bad = cache.index[cache.index["error"] != ""]
        if len(bad):
            shown = "; ".join(f"{row.path}: {row.error}" for row in bad.head(3).itertuples())
            msg = f"{len(bad)} of {len(self.manifest)} images cannot be used: {shown}; take them out of the table"
            raise InputError(msg)
        return cache

    @property
    def contents(self) -> list[str]:
        """Hash of each row's decoded pixels."""
        return [str(content) for content in self.cache.index["content"]]

    @property
    def content_hash(self) -> str:
        """SHA-256 of the images' decoded pixels, of the table, and of the boxes."""
        digest = hashlib.sha256("\n".join([self.manifest.fingerprint(), *self.contents]).encode())
        for boxes in self.boxes:
            digest.update(boxes.tobytes() + b";")
        return digest.hexdigest()

    @cached_property
    def _boxes(self) -> tuple[list[np.ndarray], int]:
        sizes = self.cache.index[["width", "height"]].to_numpy(np.int64)
        row_boxes, clipped = boxes_by_row(self._read[1], self.manifest, sizes)
        return [to_square(box, w, h, self.size) for box, (w, h) in zip(row_boxes, sizes.tolist(), strict=True)], clipped

    @property
    def boxes(self) -> list[np.ndarray]:
        """Boxes of each row in pixels of the square, float32 (M, 4)."""
        return self._boxes[0]

    @property
    def clipped(self) -> int:
        """Number of boxes that extended over the border and were clipped."""
        return self._boxes[1]

    @cached_property
    def clusters(self) -> np.ndarray:
        """(N,) int64: rows with equal numbers are near-duplicates or one person and stay in one part."""
        return find_clusters(self.manifest, self.cache)

    @cached_property
    def fold(self) -> Fold:
        """Rows of the training, val and test part.

        Raises:
            InputError: Too few images, a given split that leaks, or a part without any face.
        """
        no_strata = np.zeros(len(self.manifest), np.int64)  # parts need not agree in anything but their size
        if self.split == "given":
            if "split" not in self.manifest.table:
                msg = f"--data.split given: {self.manifest.name} has no column split; choose --data.split holdout"
                raise InputError(msg)
            given = self.manifest.table["split"].to_numpy(object)
            outer: Literal["test", "validation"] = "test" if (given == "test").any() else "validation"
            fold, _ = given_split(
                no_strata, self.clusters, ("picture",), given, outer=outer, seed=self.fold_seed,
                inner_fraction=self.inner_fraction,
            )  # fmt: skip
        else:
            fold = hold_out(
                no_strata, self.clusters, ("picture",), fraction=self.outer_fraction, seed=self.fold_seed,
                inner_fraction=self.inner_fraction,
            )  # fmt: skip
        for name, rows in (("training", fold.train), ("val", fold.val), ("test", fold.test)):
            if not sum(len(self.boxes[row]) for row in rows):
                msg = f"the {name} part ({len(rows)} images) has no face; use more images or another --data.fold_seed"
                raise InputError(msg)
        return fold

    def split_table(self) -> pd.DataFrame:
        """Return row, content, path, role (train, val, test), cluster and number of faces of each image in use."""
        parts = {"train": self.fold.train, "val": self.fold.val, "test": self.fold.test}
        table = pd.concat(
            [pd.DataFrame({"row": rows, "role": role}) for role, rows in parts.items()], ignore_index=True
        )
        table.insert(1, "content", np.asarray(self.contents, dtype=object)[table["row"]])
        table["path"] = self.manifest.table["path"].to_numpy()[table["row"]]
        table["cluster"] = self.clusters[table["row"]]
        table["faces"] = [len(self.boxes[row]) for row in table["row"]]
        return table

    def prepare_data(self) -> None:
        """Draw scenes and decode images."""
        _ = self.clusters

    def setup(self, stage: str) -> None:
        """Divide."""
        _ = self.fold

    @property
    def seen(self) -> SeenImages:
        """The images that this run trains and selects on, and those that the model it starts from has seen."""
        contents = np.asarray(self.contents, dtype=object)
        return SeenImages.of(contents[self.fold.train], contents[self.fold.val]).joined(self.seen_before)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint records: how images are prepared for its model, and which images it has seen."""
        return {"size": self.size, "fit": "pad", "seen": self.seen.state()}

    def train_dataloader(self) -> DataLoader:
        """Return the batches of an epoch; a batch is the same whichever process loads it."""
        sampler = EpochBatchSampler(len(self.fold.train), self.batch_size, seed=self.seed)
        transform = build_augmentation() if self.augment else None
        dataset = BoxesDataset(self.cache, self.boxes, self.fold.train, transform)
        workers = self.num_workers
        if workers is None:
            workers = min(MOST_WORKERS, cores()) if transform is not None and len(dataset) > 500 else 0
        batch_bytes = min(self.batch_size, len(dataset)) * 3 * self.size**2
        workers = workers_that_fit(workers, batch_bytes, chosen=self.num_workers is None)
        options: dict[str, Any] = {
            "batch_sampler": sampler,
            "trained": self._trained,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "worker_init_fn": start_worker,
            "collate_fn": keep,
            "pin_memory": torch.cuda.is_available(),
        }
        return ResumableLoader(dataset, **options)

    def val_dataloader(self) -> DataLoader:
        """Return the val part without augmentation."""
        return self.loader(self.fold.val)

    def test_dataloader(self) -> DataLoader:
        """Return the test part without augmentation."""
        return self.loader(self.fold.test)

    def loader(self, rows: np.ndarray) -> DataLoader:
        """Return a loader of some rows without augmentation."""
        dataset = BoxesDataset(self.cache, self.boxes, rows)
        options: dict[str, Any] = {"batch_size": self.batch_size, "collate_fn": keep}
        return PlainLoader(dataset, **options)

    def _trained(self) -> int:
        """Return the number of batches of the current epoch that have been trained on."""
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current if self.trainer else None
        return int(progress.processed) if progress else 0
