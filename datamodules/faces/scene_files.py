"""Drawn scenes as files with their table of boxes, written once: what a detector learns from without photographs."""

import os
import shutil
import uuid
from pathlib import Path

import filelock
import pandas as pd
from tqdm import tqdm

from datamodules.drawn_faces.files import write_png
from datamodules.drawn_faces.scenes import DrawnScenes, draw_scene
from datamodules.errors import InputError
from datamodules.faces.boxes_table import CORNERS
from datamodules.places import cache_root
from datamodules.processes import cores, processes

_CHUNK = 16
_FEW = 64  # below this, starting processes costs more than it saves


def prepare_scenes(spec: DrawnScenes, directory: Path | None = None, *, workers: int | None = None) -> Path:
    """Return the folder of a set of scenes, ``<row>.png`` and ``boxes.csv``; drawn first unless it stands complete.

    A picture without a seen face has a row with empty corners. Whoever comes second waits.

    Args:
        spec: The set.
        directory: Where sets are kept; default ``scenes`` under :func:`~datamodules.places.cache_root`.
        workers: Drawing processes; default one a core, and none for a small set.

    Raises:
        InputError: If the folder cannot be written.
    """
    parent = Path(directory) if directory is not None else cache_root() / "scenes"
    final = parent / f"boxes-{spec.fingerprint()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(parent / f"{final.name}.lock"):
            if _standing(final, len(spec)):
                return final
        if workers is None:
            workers = 0 if len(spec) < _FEW else min(cores(), -(-len(spec) // _CHUNK))
        with processes(workers) as pool, filelock.FileLock(parent / f"{final.name}.lock"):
            if _standing(final, len(spec)):  # another process may have been faster
                return final
            shutil.rmtree(final, ignore_errors=True)
            work = parent / f".{final.name}.{uuid.uuid4().hex[:8]}"
            work.mkdir()
            try:
                jobs = [(spec, work, first, min(first + _CHUNK, len(spec))) for first in range(0, len(spec), _CHUNK)]
                rows: list[dict[str, object]] = []
                with tqdm(total=len(spec), desc="Drawing scenes", unit="", delay=1, disable=None) as bar:
                    for done, (_, _, first, last) in zip((pool.map if pool else map)(_draw, jobs), jobs, strict=True):
                        rows += done
                        bar.update(last - first)
                pd.DataFrame(rows).to_csv(work / "boxes.csv", index=False, float_format="%.2f")
                os.replace(work, final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        msg = f"drawn scenes cannot be written to {parent}: {error}. Set EMOTION_CACHE_DIR to a folder with room"
        raise InputError(msg) from error
    return final


def _standing(final: Path, images: int) -> bool:
    return (final / "boxes.csv").is_file() and sum(1 for _ in final.glob("*.png")) == images


def _draw(job: tuple[DrawnScenes, Path, int, int]) -> list[dict[str, object]]:
    spec, folder, first, last = job
    rows: list[dict[str, object]] = []
    for row in range(first, last):
        scene = draw_scene(spec, row)
        path = f"{row:06d}.png"
        write_png(folder / path, scene.image)
        boxes = scene.boxes.tolist() or [[None] * 4]
        rows += [
            {"path": path, "subject": f"person{scene.subject}", **dict(zip(CORNERS, box, strict=True))} for box in boxes
        ]
    return rows
