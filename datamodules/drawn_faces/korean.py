"""Writes drawn scenes in the very layout of AI-Hub's Korean set, as its miniature: for tests, and to try things on."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.drawn_faces.scenes import KOREAN, DrawnScene, DrawnScenes, draw_scene
from datamodules.errors import InputError
from datamodules.labels import ALIASES
from datamodules.places import build_once, cache_root
from datamodules.processes import cores, processes

LAYOUT_VERSION = 1
NAMES = {label: next(name for name in ALIASES[label] if not name.isascii()) for label in KOREAN}  # happy: 기쁨
_AGES = {"child": 10, "young": 20, "adult": 30, "middle-aged": 50, "elderly": 60}
_PLACES = ("숙박 및 거주공간", "공공시설&종교&의료시설", "교통&이동시설", "자연물")
_FEW = 200  # below this, starting processes costs more than it saves
_JITTER = 0.03  # of a face's side, between annotators
_SIDEWAYS = 8  # every so many photographs one is stored turned, with an EXIF tag, as telephones do


def prepare_korean(spec: DrawnScenes, directory: Path | None = None, *, workers: int | None = None) -> Path:
    """Return the folder of the miniature, drawing and writing it first unless it stands.

    Args:
        spec: The scenes. The uploader's label is the emotion that was drawn; annotators may see another one.
        directory: Where sets are kept; default ``drawn`` under :func:`~datamodules.places.cache_root`.
        workers: Drawing processes; default one a core, and none for a small set.

    Raises:
        InputError: The scenes' classes are not the set's, there are not three annotators, or nothing can be written.
    """
    if not set(spec.classes) <= set(KOREAN) or spec.annotators != len("ABC"):
        msg = (
            f"the Korean miniature has 3 annotators and classes among {', '.join(KOREAN)}, got "
            f"{spec.annotators} and {', '.join(spec.classes)}"
        )
        raise InputError(msg)
    folder = (directory or cache_root() / "drawn") / f"korean{LAYOUT_VERSION}-{spec.fingerprint()}"
    if folder.is_dir():
        return folder
    if workers is None:
        workers = 0 if len(spec) < _FEW else cores()
    with processes(workers) as pool, build_once(folder) as (_, draft):
        if draft is not None:
            jobs = [(spec, draft, row) for row in range(len(spec))]
            done = map(_write_scene, jobs) if pool is None else pool.map(_write_scene, jobs, chunksize=8)
            bar = tqdm(done, "Drawing scenes", total=len(jobs), unit="", delay=1, disable=None)
            _write_records(list(bar), draft)
    return folder


def _write_records(records: list[tuple[str, str, dict[str, Any]]], folder: Path) -> None:
    """Write one JSON a part and emotion; every other one with a byte-order mark, as both are met."""
    files: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for part, emotion, record in records:
        files.setdefault((part, emotion), []).append(record)
    for number, ((part, emotion), held) in enumerate(sorted(files.items())):
        short, long = ("TRAIN", "training") if part == "Training" else ("VALID", "validation")
        place = folder / part / f"[라벨]EMOIMG_{emotion}_{short}"
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(held, ensure_ascii=False, indent=4)
        encoding = "utf-8-sig" if number % 2 else "utf-8"
        (place / f"img_emotion_{long}_data({emotion}).json").write_text(text, encoding=encoding)


def _write_scene(job: tuple[DrawnScenes, Path, int]) -> tuple[str, str, dict[str, Any]]:
    spec, folder, row = job
    scene = draw_scene(spec, row)
    generator = np.random.default_rng([spec.seed, 23, row])
    part = "Validation" if row % 10 == 9 else "Training"
    emotion, place = NAMES[scene.label], str(generator.choice(_PLACES))
    gender, age = "여" if scene.person.gender == "woman" else "남", _AGES[scene.person.age]
    code = hashlib.sha256(f"{spec.seed}-{scene.subject}".encode()).hexdigest()
    ending = ".jpeg" if row % 13 == 12 else ".jpg"
    name = f"{code}_{gender}_{age}_{emotion}_{place}_20210126{row:06d}-{row % 7:03d}-{row % 40:03d}{ending}"
    source = "EMOIMG_{}_TRAIN_01" if part == "Training" else "EMOIMG_{}_VALID"
    home = folder / part / f"[원천]{source.format(emotion)}"
    home.mkdir(parents=True, exist_ok=True)
    _write_jpeg(home / name, scene.image, sideways=row % _SIDEWAYS == _SIDEWAYS - 1)
    record: dict[str, Any] = {
        "filename": name,
        "gender": gender,
        "age": age,
        "isProf": "전문인" if scene.subject % 3 == 0 else "일반인",
        "faceExp_uploader": emotion,
        "bg_uploader": place,
    }
    answers = generator.permutation(np.repeat([NAMES[label] for label in spec.classes], scene.votes))
    for letter, answer in zip("ABC", answers.tolist(), strict=True):
        record[f"annot_{letter}"] = {"boxes": _seen_box(generator, scene), "faceExp": answer, "bg": place}
    return part, emotion, record


def _seen_box(generator: np.random.Generator, scene: DrawnScene) -> dict[str, float]:
    """Return the main face's box as one annotator draws it."""
    box = scene.boxes[0]
    side = np.tile(box[2:] - box[:2], 2)
    high, wide = scene.image.shape[:2]
    drawn = np.clip(box + side * generator.normal(0, _JITTER, 4), 0, [wide, high, wide, high])
    minimum_x, minimum_y, maximum_x, maximum_y = np.round(drawn, 4).tolist()
    return {"maxX": maximum_x, "maxY": maximum_y, "minX": minimum_x, "minY": minimum_y}


def _write_jpeg(path: Path, image: np.ndarray, *, sideways: bool) -> None:
    """Write a photograph; a sideways one holds its pixels turned, and the EXIF tag that turns them back."""
    exif = Image.Exif()
    if sideways:
        image = cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
        exif[0x0112] = 6
    draft = path.with_name(f".{path.stem[:40]}.part")
    Image.fromarray(image).save(draft, "JPEG", quality=92, exif=exif)
    os.replace(draft, path)
