"""Write sets of drawn faces and scenes to the cache, once, and read them again."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import filelock
import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.paths import cache_root, remove_drafts, replacing
from datamodules.manifest import SIDES, VOTES, Manifest, make_manifest, read_table
from datamodules.processes import cores, processes
from datamodules.synthetic.action_units import DrawnFaces
from datamodules.synthetic.faces import draw
from datamodules.synthetic.scenes import DrawnScenes, draw_scene

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
BOXES = "boxes.csv"
_CHUNK = 64
_FEW = 512  # below this, starting processes costs more than it saves


def prepare(spec: DrawnFaces, directory: Path | None = None, *, workers: int | None = None) -> Manifest:
    """Return the manifest of a set of drawn faces, which is drawn and written first if it does not exist.

    The folder holds the images (``<class>/<row>.png``), ``manifest.csv``, and ``boxes.csv``: face box and landmarks
    keyed by path. Masks are not written; ``draw(spec, row).masks`` gives them. A second process waits.

    Args:
        spec: The set.
        directory: Folder of the sets; default ``drawn`` under :func:`~datamodules.files.paths.cache_root`.
        workers: Drawing processes; default one per core, none for a small set.

    Raises:
        InputError: If the folder cannot be written.
    """
    parent = Path(directory) if directory is not None else cache_root() / "drawn"
    final = parent / spec.fingerprint()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(parent / f"{final.name}.lock")
        with lock:
            if manifest := _existing(final):
                return manifest
        if workers is None:
            workers = 0 if len(spec) < _FEW else min(cores(), -(-len(spec) // _CHUNK))
        with processes(workers) as pool, lock:
            return _existing(final) or _write(spec, final, pool)  # another process may have been faster
    except BrokenProcessPool as error:
        msg = f"a process that draws faces was killed, most often because memory ran out ({error}); try again"
        raise InputError(msg) from error
    except OSError as error:
        msg = f"drawn faces cannot be written to {parent}: {error}. Set EMOTION_CACHE_DIR to a folder with free space"
        raise InputError(msg) from error


def _existing(final: Path) -> Manifest | None:
    """Return the set that was written before; None if it is missing or incomplete."""
    if not (final / "manifest.csv").is_file():
        return None
    try:
        return Manifest.load(final / "manifest.csv").with_boxes(read_table(final / BOXES))
    except InputError:
        return None


def _write(spec: DrawnFaces, final: Path, pool: ProcessPoolExecutor | None) -> Manifest:
    remove_drafts(final)
    with replacing(final) as work:
        for name in spec.classes:
            (work / name).mkdir(parents=True)
        jobs = [(spec, work, first, min(first + _CHUNK, len(spec))) for first in range(0, len(spec), _CHUNK)]
        rows: list[dict[str, object]] = []
        boxes: list[dict[str, object]] = []
        with tqdm(total=len(spec), desc="Drawing faces", unit="", delay=1, disable=None) as bar:
            for known, seen in _results(jobs, pool):
                rows += known
                boxes += seen
                bar.update(len(known))
        pd.DataFrame(boxes).to_csv(work / BOXES, index=False, float_format="%.2f")
        make_manifest(pd.DataFrame(rows), work, name="drawn", classes=spec.classes).save(work / "manifest.csv")
    return Manifest.load(final / "manifest.csv").with_boxes(read_table(final / BOXES))


Job = tuple[DrawnFaces, Path, int, int]
Rows = list[dict[str, object]]


def _results(jobs: list[Job], pool: ProcessPoolExecutor | None) -> Iterator[tuple[Rows, Rows]]:
    if pool is None:
        yield from map(_draw_chunk, jobs)
    else:
        yield from pool.map(_draw_chunk, jobs)


def _draw_chunk(job: Job) -> tuple[Rows, Rows]:
    spec, folder, first, last = job
    rows: Rows = []
    boxes: Rows = []
    for row in range(first, last):
        face = draw(spec, row)
        path = f"{face.label}/{row:06d}.png"
        write_png(folder / path, face.image)
        known: dict[str, object] = {"path": path, "label": face.label}
        if spec.subjects is not None:
            known["subject"] = f"person{face.subject:05d}"
        known |= {"age": face.age, "gender": face.gender, "skin": face.skin}
        if spec.annotators:
            known |= {VOTES + name: int(votes) for name, votes in zip(spec.classes, face.votes, strict=True)}
        rows.append(known)
        box = dict(zip(("x0", "y0", "x1", "y1"), face.box.tolist(), strict=True))
        points = {
            f"{name}_{axis}": value
            for name, point in zip(LANDMARKS, face.landmarks.tolist(), strict=True)
            for axis, value in zip("xy", point, strict=True)
        }
        boxes.append({"path": path, **box, **points})
    return rows, boxes


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image; fast compression, and an error where cv2 would only return False."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        msg = f"cannot encode {path} as PNG"
        raise OSError(msg)
    path.write_bytes(data.tobytes())


_SCENE_CHUNK = 16
_FEW_SCENES = 64  # below this, starting processes costs more than it saves


def prepare_scenes(spec: DrawnScenes, directory: Path | None = None, *, workers: int | None = None) -> Path:
    """Return the folder of a set of scenes, ``<row>.png`` and ``boxes.csv``; drawn first if it does not exist.

    An image without a visible face has a row with empty corners. A second process waits.

    Args:
        spec: The set.
        directory: Folder of the sets; default ``scenes`` under :func:`~datamodules.files.paths.cache_root`.
        workers: Drawing processes; default one per core, none for a small set.

    Raises:
        InputError: If the folder cannot be written.
    """
    parent = Path(directory) if directory is not None else cache_root() / "scenes"
    final = parent / f"boxes-{spec.fingerprint()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(parent / f"{final.name}.lock"):
            if _complete_scenes(final, len(spec)):
                return final
        if workers is None:
            workers = 0 if len(spec) < _FEW_SCENES else min(cores(), -(-len(spec) // _SCENE_CHUNK))
        with processes(workers) as pool, filelock.FileLock(parent / f"{final.name}.lock"):
            if _complete_scenes(final, len(spec)):  # another process may have been faster
                return final
            remove_drafts(final)
            with replacing(final) as work:
                work.mkdir()
                jobs = [
                    (spec, work, first, min(first + _SCENE_CHUNK, len(spec)))
                    for first in range(0, len(spec), _SCENE_CHUNK)
                ]
                rows: list[dict[str, object]] = []
                with tqdm(total=len(spec), desc="Drawing scenes", unit="", delay=1, disable=None) as bar:
                    for done, (_, _, first, last) in zip((pool.map if pool else map)(_draw, jobs), jobs, strict=True):
                        rows += done
                        bar.update(last - first)
                pd.DataFrame(rows).to_csv(work / "boxes.csv", index=False, float_format="%.2f")
    except OSError as error:
        msg = f"drawn scenes cannot be written to {parent}: {error}. Set EMOTION_CACHE_DIR to a folder with free space"
        raise InputError(msg) from error
    return final


def _complete_scenes(final: Path, images: int) -> bool:
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
            {"path": path, "subject": f"person{scene.subject}", **dict(zip(SIDES, box, strict=True))} for box in boxes
        ]
    return rows
