"""JPEG files as large as photographs, made from drawn faces with noise, so that decoding them takes as long."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.processes import cores, processes
from datamodules.synthetic import EMOTIONS, DrawnFaces, draw

SIDE, QUALITY, NOISE = 640, 90, 14
FEW = 64  # below this, starting processes costs more than it saves


def write_photos(root: Path, pictures: int, *, side: int = SIDE) -> float:
    """Write ``pictures`` (or a few more) as ``root/train/<class>/*.jpg``, and two a class as ``root/test``.

    Returns:
        Kilobytes of a file on average.
    """
    classes = len(EMOTIONS)
    spec = DrawnFaces(largest=-(-pictures // classes) + 2, ratio=1, annotators=0)
    jobs: list[tuple[DrawnFaces, int, Path, int]] = []
    for row in range(len(spec)):
        place = row % spec.largest
        part = "test" if place < 2 else "train"
        jobs.append((spec, row, root / part / spec.label_of(row) / f"{row:05}.jpg", side))
    for folder in {job[2].parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    with processes(cores() if len(jobs) > FEW else 1) as pool:
        written = pool.map(_write, jobs, chunksize=16) if pool else map(_write, jobs)
        sizes = list(tqdm(written, total=len(jobs), desc="drawing photographs", delay=1, disable=None))
    return sum(sizes) / len(sizes) / 1000


def _write(job: tuple[DrawnFaces, int, Path, int]) -> int:
    """Upscale one drawing, add smooth noise as sensors and skin have it, and save it."""
    spec, row, path, side = job
    image = cv2.resize(draw(spec, row).image, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grain = np.random.default_rng(row).integers(-NOISE, NOISE + 1, (side // 2, side // 2, 3)).astype(np.int16)
    image = np.add(image, cv2.resize(grain, (side, side), interpolation=cv2.INTER_LINEAR))
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return path.stat().st_size
