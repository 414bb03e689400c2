"""Photographs cut to face crops a second with YuNet, next to the detector alone, and whether memory stays flat."""

import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
from PIL import Image
from tqdm import tqdm

from benchmarks.report import Figure, say
from datamodules.faces.crop import CutOptions
from datamodules.faces.detectors import open_detector
from datamodules.faces.prepare import prepare_faces
from datamodules.manifest import make_manifest
from datamodules.processes import cores
from datamodules.synthetic.scenes import DrawnScenes, draw_scene

LONG_SIDE, QUALITY = 640, 92
YUNET = "yunet/yunet_n_640.onnx"
EVERY = 0.2  # seconds between looks at the memory


class Memory:
    """Looks at what this process and its children hold, from a thread."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(EVERY):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.megabytes.append(total / 1e6)

    def growth(self) -> float:
        """Return the peak of the last third over that of the second; the first third is for starting."""
        third = len(self.megabytes) // 3
        return max(self.megabytes[2 * third :]) / max(self.megabytes[third : 2 * third]) if third else 1.0


def write_scenes(folder: Path, drawn: int, photographs: int) -> pd.DataFrame:
    """Write drawn scenes of several people, each under several names, as JPEG whose long side is 640 pixels."""
    scenes = DrawnScenes(images=drawn, size=700, others=3, distractors=2)
    rows: list[tuple[str, str]] = []
    for row in tqdm(range(drawn), desc="drawing scenes", delay=1, disable=None):
        image = draw_scene(scenes, row).image
        scale = LONG_SIDE / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        first = folder / f"{row:04}.jpg"
        Image.fromarray(image).save(first, quality=QUALITY)
        rows.append((first.name, scenes.label_of(row)))
        for copy in range(1, photographs // drawn):
            name = f"{row:04}-{copy:04}.jpg"
            os.link(first, folder / name)
            rows.append((name, scenes.label_of(row)))
    return pd.DataFrame(rows, columns=["path", "label"])


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return crops a second, the detector's own pictures a second, and how much memory grew."""
    place = Path(os.environ.get("EMOTION_DATA_DIR", "")) / YUNET
    if not os.environ.get("EMOTION_DATA_DIR") or not place.is_file():
        why = f"not measured: no {YUNET} in EMOTION_DATA_DIR"
        return [Figure("face_crops_per_second", None, why, at_least=40)]
    drawn, photographs = (4, 12) if toy else (50, 10_000)
    source = folder / "photographs"
    source.mkdir()
    manifest = make_manifest(write_scenes(source, drawn, photographs), source, name="scenes")
    say(f"{len(manifest)} photographs of {LONG_SIDE} px, {drawn} of them different; {cores()} cores")
    name = f"yunet:{place}"
    start = time.perf_counter()
    with Memory() as memory:
        done = prepare_faces(manifest, name, folder / "crops", CutOptions(no_face="centre"))
    seconds = time.perf_counter() - start
    rate = len(manifest) / seconds

    detector = open_detector(name)
    images = [np.asarray(Image.open(source / path)) for path in manifest.table["path"][:: photographs // drawn]]
    detector.detect(images[:1])
    alone = []
    for _ in range(1 if toy else 3):
        start = time.perf_counter()
        detector.detect(images)
        alone.append(len(images) / (time.perf_counter() - start))
    detail = {
        "photographs": len(manifest),
        "different": drawn,
        "with_a_face": done.found,
        "with_several": done.several,
        "faces": len(pd.read_csv(folder / "crops" / "boxes.csv")),
        "seconds": round(seconds, 2),
        "long_side": LONG_SIDE,
        "crop": 500,
    }
    return [
        Figure(
            "face_crops_per_second",
            rate,
            f"photographs of {LONG_SIDE} px decoded, searched by YuNet, cut to 500 px and written, all cores",
            at_least=40,
            detail=detail,
        ),
        Figure(
            "face_detector_alone_per_second",
            float(np.median(alone)),
            "the same photographs, decoded beforehand, through YuNet alone with OpenCV's threads",
            detail={"runs": [round(value, 1) for value in alone]},
        ),
        Figure(
            "face_crops_memory_growth",
            memory.growth(),
            "memory of all processes in the last third of the photographs over that in the second third",
            at_most=1.1,
            detail={"peak_megabytes": round(max(memory.megabytes, default=0.0)), "looks": len(memory.megabytes)},
        ),
    ]
