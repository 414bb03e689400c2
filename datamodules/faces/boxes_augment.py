"""Pictures changed together with their boxes, and as batches."""

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.batches import Batch
from datamodules.cache import PixelCache
from datamodules.errors import InputError
from datamodules.pixels import GREY
from datamodules.transforms import reseed

SEEN = 0.4  # share of a box that must stay in the picture
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
    """Whole batches of pictures with boxes.

    A batch is ``image`` (B, 3, S, S) uint8, ``boxes``, a list of B tensors float32 (M_i, 4) in pixels of the square,
    and ``row`` (B,) of the manifest.
    """

    def __init__(
        self, cache: PixelCache, boxes: list[np.ndarray], rows: np.ndarray, transform: A.Compose | None = None
    ) -> None:
        """Bind pixels and boxes.

        Args:
            cache: Where pixels come from.
            boxes: Of every row of the manifest, float32 (M, 4), in the square.
            rows: (N,) rows of the manifest that this set holds.
            transform: What a picture goes through with its boxes.
        """
        self.cache, self.boxes, self.rows, self.transform = cache, boxes, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, wanted: Batch | list[int]) -> dict[str, torch.Tensor | list[torch.Tensor]] | InputError:
        """Return a batch; a loading process returns the error of a picture for `PlainLoader` to raise."""
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
            for place, found in enumerate(boxes):
                changed = self.transform(image=images[place], bboxes=found)
                images[place] = changed["image"]
                boxes[place] = np.asarray(changed["bboxes"], np.float32).reshape(-1, 4)
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "boxes": [torch.from_numpy(np.array(found, np.float32)) for found in boxes],
            "row": torch.from_numpy(rows),
        }
