"""What every face detector here can do, and opening one by its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from datamodules.errors import InputError
from datamodules.faces.boxes import clip

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""As seen in the picture, in the order of the drawn faces."""


FIND_VERSION = "1"
"""Version of what happens to pictures before and to boxes after a detector; others' results are found anew."""


class Faces(NamedTuple):
    """The faces of one picture, in its own pixels."""

    boxes: np.ndarray  # float32 (F, 4): x0, y0, x1, y1; may reach over the border, where a face is cut off
    scores: np.ndarray  # float32 (F,), higher is surer; each detector has its own scale
    landmarks: np.ndarray  # float32 (F, 5, 2) x, y, see LANDMARKS; NaN where the detector tells none


class Detector(Protocol):
    """Finds faces.

    Attributes:
        name: what tables call it.
        identity: changes with anything that could change what it finds.
        tells_eyes: whether its landmarks are more than NaN.
    """

    name: str
    identity: str
    tells_eyes: bool

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Return the faces of RGB pictures, uint8 (H, W, 3) of any size; a large one is searched on a reduced copy.

        What is found in a picture does not depend on the others.
        """


def reduced(image: np.ndarray, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy whose long side is at most ``long_side``, and what brings its x, y back to the picture, (2,)."""
    height, width = image.shape[:2]
    scale = min(1.0, long_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.array([width / size[0], height / size[1]], np.float32)


def as_faces(
    boxes: np.ndarray, scores: np.ndarray, landmarks: np.ndarray | None, small: np.ndarray, back: np.ndarray
) -> Faces:
    """Return faces found on a reduced copy in pixels of the picture; none that is empty, not finite or outside."""
    boxes, scores = boxes.reshape(-1, 4).astype(np.float32), scores.reshape(-1).astype(np.float32)
    points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    if landmarks is not None:
        points = landmarks.reshape(-1, 5, 2).astype(np.float32)
    inside = clip(boxes, *small.shape[:2])
    good = np.isfinite(boxes).all(1) & np.isfinite(scores) & (inside[:, 2:] > inside[:, :2]).all(1)
    return Faces(boxes[good] * np.tile(back, 2), scores[good], points[good] * back)


def open_detector(name: str, *, threads: int | None = None) -> Detector:
    """Open ``haar``, ``yunet:FILE``, or ``FILE.onnx``, a detector trained here.

    Args:
        name: which.
        threads: processor threads of the search; default all. OpenCV's are set for the whole process.

    Raises:
        InputError: no such detector, or its file is missing, damaged or of another kind.
    """
    from datamodules.faces.haar import Haar
    from datamodules.faces.yunet import WHERE, YuNet

    if threads is not None:
        cv2.setNumThreads(threads)
    kind, _, file = name.partition(":")
    if name == "haar":
        return Haar()
    if kind == "yunet" and file:
        return YuNet(Path(file).expanduser())
    if name.lower().endswith(".onnx"):
        from datamodules.faces.own_onnx import OwnDetector  # onnxruntime takes a while to import

        return OwnDetector(Path(name).expanduser(), threads=threads)
    if kind == "yunet":
        msg = f"faces: yunet needs its file, as yunet:FILE. {WHERE}"
        raise InputError(msg)
    msg = f"faces must be haar, yunet:FILE or FILE.onnx (a detector trained here), got {name!r}"
    raise InputError(msg)


def read_model(path: Path) -> bytes:
    """Return a model file's bytes; both OpenCV and onnxruntime take them, whatever the file is called.

    Raises:
        InputError: missing, a folder, not readable, or empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"faces: cannot read the detector's file {path}: {error.strerror}; name the file that you have"
        raise InputError(msg) from error
    if not data:
        msg = f"faces: the detector's file {path} is empty (0 bytes); copy it again"
        raise InputError(msg)
    return data
