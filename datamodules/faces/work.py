"""What one process does with some pictures: decode, find faces, choose one, cut it out, write it whole.

The processes are spawned and import this file, so it leaves out what is slow to import and they do not need (pandas).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from datamodules.errors import InputError
from datamodules.faces.choose import RULES, Rule, choose
from datamodules.faces.cut import BORDERS, Border, cut
from datamodules.faces.detector import Detector, Faces, open_detector
from datamodules.faces.upright import turn_of
from datamodules.pixels import PIXEL_LIMIT, decode_file, fit_to_square
from datamodules.places import rename

NoFace = Literal["list", "drop", "keep", "centre"]
NO_FACE: tuple[NoFace, ...] = get_args(NoFace)
PARTS = ".part"  # where files are written before they get their name
HELD = 24_000_000  # pixels of pictures that are decoded at a time, unless a single one has more
QUALITY = 95

Record = dict[str, Any]
"""What is known of one picture, as it stands in the journal: path, state, found, cut, size, faces, chosen, shown,
crop, bytes, error. ``faces`` are rows of 15 numbers: box, score and five landmarks (None where not told)."""


@dataclass(frozen=True)
class CutOptions:
    """How faces are chosen and cut.

    Args:
        margin: share of the box's longer side that is added on each of the four sides, 0 to 10.
        size: side of the crops in pixels, 8 to 4096.
        rule: the ``largest`` face of a picture or the most ``central``.
        border: where the square leaves the picture: ``reflect`` (its mirror image) or ``pad`` (grey).
        upright: turn the face so that the eyes are level.
        no_face: pictures without a face: ``list`` and ``drop`` leave them out, ``keep`` takes the whole picture with
            grey beside it, ``centre`` its middle square. They are listed in any case.

    Raises:
        InputError: a value outside of these.
    """

    margin: float = 0.25
    size: int = 500
    rule: Rule = "largest"
    border: Border = "reflect"
    upright: bool = False
    no_face: NoFace = "list"

    def __post_init__(self) -> None:
        rules = (
            (0 <= self.margin <= 10, "margin must lie in 0..10", self.margin),
            (8 <= self.size <= 4096, "size must lie in 8..4096 pixels", self.size),
            (self.rule in RULES, f"rule must be one of {', '.join(RULES)}", self.rule),
            (self.border in BORDERS, f"border must be one of {', '.join(BORDERS)}", self.border),
            (self.no_face in NO_FACE, f"no_face must be one of {', '.join(NO_FACE)}", self.no_face),
        )
        for holds, rule, value in rules:
            if not holds:
                msg = f"{rule}, got {value}"
                raise InputError(msg)


@dataclass(frozen=True)
class Job:
    """One picture. ``known`` is its record where the faces need not be found again."""

    path: str  # as in the manifest
    file: Path
    state: str  # hash of the file's bytes, to notice changes
    crop: str  # where its crop goes, below the output folder
    cut_key: str
    empty_key: str  # stands for the options that matter where there is no face
    known: Record | None = None


def work(
    name: str, found_key: str, output: Path, options: CutOptions, jobs: Sequence[Job], detector: Detector | None = None
) -> list[Record]:
    """Do some pictures and return their records, in any order; an unreadable one has its record, too.

    Args:
        name: the detector's, to open it in this process.
        found_key: stands for the detector in the records.
        output: the folder.
        options: how to cut.
        jobs: the pictures; few are held in memory at a time.
        detector: one that is open already.

    Raises:
        InputError: a crop cannot be written.
    """
    detector = detector or _opened(name)
    records: list[Record] = []
    batch: list[tuple[Job, np.ndarray]] = []
    held = 0
    for job in jobs:
        try:
            image = decode_file(job.file, pixel_limit=PIXEL_LIMIT).image
        except InputError as error:
            records.append(_record(job, found_key) | {"error": str(error)})
            continue
        if batch and held + image.size // 3 > HELD:
            records += _batch(detector, found_key, output, options, batch)
            batch, held = [], 0
        batch.append((job, image))
        held += image.size // 3
    return records + _batch(detector, found_key, output, options, batch)


@lru_cache(maxsize=1)
def _opened(name: str) -> Detector:
    return open_detector(name, threads=1)  # there is a process for each core


def _record(job: Job, found_key: str) -> Record:
    return {
        "path": job.path,
        "state": job.state,
        "found": found_key,
        "cut": job.empty_key,
        "size": [0, 0],
        "faces": [],
        "chosen": None,
        "shown": "",
        "crop": "",
        "bytes": 0,
        "error": "",
    }


def _batch(
    detector: Detector, found_key: str, output: Path, options: CutOptions, batch: list[tuple[Job, np.ndarray]]
) -> list[Record]:
    new = [image for job, image in batch if job.known is None]
    found = iter(detector.detect(new) if new else [])
    records = []
    for job, image in batch:
        record = _record(job, found_key) | {"size": [image.shape[1], image.shape[0]]}
        record["faces"] = _rows(next(found)) if job.known is None else job.known["faces"]
        faces = as_found(record["faces"])
        record["chosen"] = chosen = choose(faces, image.shape[0], image.shape[1], options.rule)
        if chosen is not None:
            box, points = faces.boxes[chosen], faces.landmarks[chosen]
            turn = turn_of(detector, image, box, points) if options.upright else 0.0
            picture = cut(image, box, options.size, margin=options.margin, border=options.border, turn=turn)
            record |= {"shown": "face", "cut": job.cut_key}
        elif options.no_face == "keep":
            picture, record["shown"] = fit_to_square(image, options.size, "pad"), "whole"
        elif options.no_face == "centre":
            picture, record["shown"] = fit_to_square(image, options.size, "crop"), "centre"
        if record["shown"]:
            record |= {"crop": job.crop, "bytes": write_crop(output, job.crop, picture)}
        records.append(record)
    return records


def _rows(faces: Faces) -> list[list[float | None]]:
    """Return boxes, scores and landmarks as rounded numbers, so that a crop is the same when they were kept."""
    numbers = np.column_stack([faces.boxes, faces.scores, faces.landmarks.reshape(-1, 10)]).astype(np.float64)
    rounded = np.round(numbers, 4).tolist()
    return [[None if value != value else value for value in row] for row in rounded]


def as_found(rows: list[list[float | None]]) -> Faces:
    """Return a record's faces as a detector gives them."""
    numbers = np.array(rows, np.float64).reshape(-1, 15)
    return Faces(numbers[:, :4], numbers[:, 4], numbers[:, 5:].reshape(-1, 5, 2))


def write_crop(output: Path, crop: str, picture: np.ndarray) -> int:
    """Write an RGB picture as JPEG under its name or not at all; return its bytes.

    Raises:
        InputError: the folder is full, read-only or gone.
    """
    flags = [
        *(cv2.IMWRITE_JPEG_QUALITY, QUALITY),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),  # no second loss of colour
    ]
    data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)[1]
    part = output / PARTS / uuid.uuid4().hex
    try:
        (output / crop).parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data.data)
        rename(part, output / crop)
    except OSError as error:
        part.unlink(missing_ok=True)
        msg = (
            f"cannot write {output / crop}: {error.strerror}. Free some disk or choose another --output; the same "
            "command goes on where this one stopped"
        )
        raise InputError(msg) from error
    return int(data.size)
