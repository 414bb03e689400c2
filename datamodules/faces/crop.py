"""Face crops: a square with a margin around the box, not stretched, turned upright on request."""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from datamodules.errors import InputError
from datamodules.faces.boxes import areas, clip
from datamodules.faces.detectors import Detector, Faces, open_detector
from datamodules.files.images import GREY, Decoded, decode_file, fit_to_square
from datamodules.files.paths import rename

Border = Literal["reflect", "pad"]
BORDERS: tuple[Border, ...] = get_args(Border)
CUT_VERSION = "1"
"""Version of everything this file does to pixels; crops made by another version are made anew."""

_MODES = {"reflect": cv2.BORDER_REFLECT_101, "pad": cv2.BORDER_CONSTANT}


def roll(landmarks: np.ndarray) -> float:
    """Return how far the line between the eyes falls to the right, in radians; 0 if the eyes are unknown.

    Args:
        landmarks: (5, 2), the left eye in the image first, then the right one.
    """
    across, down = (landmarks[1] - landmarks[0]).tolist()
    return math.atan2(down, across) if math.isfinite(across) and math.isfinite(down) else 0.0


def cut(
    image: np.ndarray,
    box: np.ndarray,
    size: int,
    *,
    margin: float = 0.25,
    border: Border = "reflect",
    turn: float = 0.0,
) -> np.ndarray:
    """Return the face as (size, size, 3) uint8: the square around the box's middle.

    The side of the square is the longer side of the box plus ``margin`` of it on each of the four sides. Shrinking
    averages areas, enlarging is bilinear. Apart from the image, memory is that of the result.

    Args:
        image: (H, W, 3) uint8.
        box: x0, y0, x1, y1 in pixels; may reach over the border.
        size: side of the result in pixels.
        margin: share of the box's longer side.
        border: how pixels outside the image are filled: with its reflection, or with grey.
        turn: rotation of the square around its middle in radians, clockwise in the image; the :func:`roll` of a face
            makes it upright.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(x1 - x0, y1 - y0, 1e-3) * (1 + 2 * margin)
    scale = side / size  # image pixels per pixel of the result
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    if scale > 1 and not turn:  # on whole pixels a square inside the image is shrunk exactly, without a second blur
        side = float(round(side))
        scale = side / size
        middle = np.round(middle - side / 2) + side / 2

    # the image's part under the square, and as far inside as a mirror image outside of the border shows
    reach = side / 2 * (abs(math.cos(turn)) + abs(math.sin(turn))) + (0 if scale > 1 and not turn else 2)
    ends = [_part(x - reach, x + reach, most, scale) for x, most in zip(middle, image.shape[1::-1], strict=True)]
    (left, right), (top, bottom) = ends
    part = image[top:bottom, left:right]
    grain = np.ones(2)  # image pixels per pixel of the part
    if scale > 1:
        smaller = [max(1, round(length / scale)) for length in part.shape[1::-1]]
        grain = np.array(part.shape[1::-1]) / smaller
        part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)

    # from positions in the result to positions in the part; both count from the middle of the first pixel
    turned = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    offset = turned @ np.full(2, 0.5 - size / 2) + middle - np.array([left, top])
    matrix = np.column_stack([turned / grain[:, None], offset / grain - 0.5])
    if part.shape[:2] == (size, size) and np.allclose(matrix, np.eye(2, 3), atol=1e-6):
        return np.ascontiguousarray(part)
    return cv2.warpAffine(
        part,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=_MODES[border],
        borderValue=(GREY, GREY, GREY),
    )


def _part(low: float, high: float, most: int, scale: float) -> tuple[int, int]:
    """Return start and end of the range that is needed of a row of ``most`` pixels; at least one pixel."""
    beyond = math.ceil(scale)  # the outermost pixel of the result is not doubled by the mirror
    first = low if high <= most else min(low, 2 * most - high - beyond)
    end = high if low >= 0 else max(high, beyond - low)
    start = min(max(math.floor(first), 0), most - 1)
    return start, min(max(math.ceil(end), start + 1), most)


Rule = Literal["largest", "central"]
RULES: tuple[Rule, ...] = get_args(Rule)


def choose(faces: Faces, height: int, width: int, rule: Rule = "largest") -> int | None:
    """Return the index of the face to cut out, None if there is none.

    ``largest``: the face with the greatest area within the image; ``central``: the face nearest to the image's
    middle. Ties go to the higher score, then to the first.

    Raises:
        InputError: no such rule.
    """
    if rule not in RULES:
        msg = f"rule must be one of {', '.join(RULES)}, got {rule!r}"
        raise InputError(msg)
    if not len(faces.boxes):
        return None
    if rule == "largest":
        worth = areas(clip(faces.boxes, height, width))
    else:
        middles = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        worth = -np.hypot(*(middles - np.array([width / 2, height / 2])).T)
    return int(np.lexsort((-faces.scores, -worth))[0])


VIEW, AROUND = 320, 0.4  # pixels of the close view, and its margin
LOOKS, ENOUGH = 4, math.radians(1.5)


def turn_of(detector: Detector, image: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> float:
    """Return the angle for :func:`~datamodules.faces.crop.cut`, radians; 0 if the eyes are unknown.

    Eye positions on a reduced copy are coarse, and YuNet underestimates the tilt of a face (13 degrees for 25, or 21
    on a larger face). So the detector runs again on a close view, turned by the angle so far, until the remaining
    angle is small.

    Args:
        detector: one with eye landmarks.
        image: (H, W, 3) uint8.
        box: the face's.
        landmarks: the face's, (5, 2).
    """
    turn = roll(landmarks)
    for _ in range(LOOKS):
        view = cut(image, box, VIEW, margin=AROUND, turn=turn)
        faces = detector.detect([view])[0]
        index = choose(faces, VIEW, VIEW, "central")
        if index is None or np.abs(faces.boxes[index].reshape(2, 2).mean(0) - VIEW / 2).max() > VIEW / 5:
            break  # another face was detected
        rest = roll(faces.landmarks[index])
        turn += rest
        if abs(rest) < ENOUGH:
            break
    return turn


NoFace = Literal["list", "drop", "keep", "centre"]
NO_FACE: tuple[NoFace, ...] = get_args(NoFace)
PARTS = ".part"  # where files are written before they get their name
DECODED_PIXELS = 24_000_000  # pixels of decoded images in memory at a time, unless a single one has more
QUALITY = 95

Record = dict[str, Any]
"""One image's entry in the journal: path, state, found, cut, size, faces, chosen, shown,
crop, bytes, error. ``faces`` are rows of 15 numbers: box, score and five landmarks (None where unknown)."""


@dataclass(frozen=True)
class CutOptions:
    """How faces are chosen and cut.

    Args:
        margin: share of the box's longer side that is added on each of the four sides, 0 to 10.
        size: side of the crops in pixels, 8 to 4096.
        rule: the ``largest`` face of an image or the most ``central``.
        border: where the square leaves the image: ``reflect`` (its mirror image) or ``pad`` (grey).
        upright: turn the face so that the eyes are level.
        no_face: images without a face: ``list`` and ``drop`` leave them out, ``keep`` takes the whole image with
            grey beside it, ``centre`` its middle square. They are listed in all cases.

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
    """One image. ``known`` is its record where the faces need not be found again."""

    path: str  # as in the manifest
    file: Path
    state: str  # hash of the file's bytes, to notice changes
    crop: str  # where its crop goes, below the output folder
    cut_key: str
    empty_key: str  # hash of the options that matter for an image without a face
    known: Record | None = None


def work(
    name: str, found_key: str, output: Path, options: CutOptions, jobs: Sequence[Job], detector: Detector | None = None
) -> list[Record]:
    """Detect and cut the faces of some images; return their records, in any order, also of unreadable images.

    Args:
        name: name of the detector, to open it in this process.
        found_key: key of the detector in the records.
        output: folder of the crops.
        options: how to cut.
        jobs: the images; only a few are in memory at a time.
        detector: an open detector, instead of opening ``name``.

    Raises:
        InputError: a crop cannot be written.
    """
    detector = detector or _opened(name)
    records: list[Record] = []
    batch: list[tuple[Job, Decoded]] = []
    pixels = 0
    for job in jobs:
        try:
            decoded = decode_file(job.file)
        except InputError as error:
            records.append(_record(job, found_key) | {"error": str(error)})
            continue
        if batch and pixels + decoded.image.size // 3 > DECODED_PIXELS:
            records += _batch(detector, found_key, output, options, batch)
            batch, pixels = [], 0
        batch.append((job, decoded))
        pixels += decoded.image.size // 3
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
        "reduced": 1,
        "faces": [],
        "chosen": None,
        "shown": "",
        "crop": "",
        "bytes": 0,
        "error": "",
    }


def _batch(
    detector: Detector, found_key: str, output: Path, options: CutOptions, batch: list[tuple[Job, Decoded]]
) -> list[Record]:
    new = [decoded.image for job, decoded in batch if job.known is None]
    detections = iter(detector.detect(new) if new else [])
    records = []
    for job, (image, *_, reduced) in batch:  # boxes in records are those of the image as it was decoded
        record = _record(job, found_key) | {"size": [image.shape[1], image.shape[0]], "reduced": reduced}
        record["faces"] = _rows(next(detections)) if job.known is None else job.known["faces"]
        faces = faces_of(record["faces"])
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
    """Return boxes, scores and landmarks as rounded numbers, so that stored ones give the same crop."""
    exact = faces.rounded()
    rounded = np.column_stack([exact.boxes, exact.scores, exact.landmarks.reshape(-1, 10)]).tolist()
    return [[None if value != value else value for value in row] for row in rounded]


def faces_of(rows: list[list[float | None]]) -> Faces:
    """Return the faces of a record, as a detector returns them."""
    numbers = np.array(rows, np.float64).reshape(-1, 15)
    return Faces(numbers[:, :4], numbers[:, 4], numbers[:, 5:].reshape(-1, 5, 2))


def encode_crop(image: np.ndarray) -> bytes:
    """Return an RGB image uint8 (H, W, 3) as the bytes of a JPEG file."""
    flags = [
        *(cv2.IMWRITE_JPEG_QUALITY, QUALITY),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),  # keep the full resolution of colour
    ]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def write_crop(output: Path, crop: str, picture: np.ndarray) -> int:
    """Write an RGB image as JPEG, completely or not at all; return the size of the file in bytes.

    Raises:
        InputError: the folder is full, read-only or gone.
    """
    data = encode_crop(picture)
    part = output / PARTS / uuid.uuid4().hex
    try:
        (output / crop).parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        rename(part, output / crop)
    except OSError as error:
        part.unlink(missing_ok=True)
        msg = (
            f"cannot write {output / crop}: {error.strerror}. Free disk space or choose another --output; the same "
            "command continues where this one stopped"
        )
        raise InputError(msg) from error
    return len(data)
