"""Face detectors: Haar cascade, YuNet, and detectors trained by this project (ONNX)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import onnxruntime

from datamodules.errors import InputError
from datamodules.faces.boxes import clip, decode, grid, suppress

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""As seen in the image, in the order of the drawn faces."""


FIND_VERSION = "1"
"""Version of the processing before and after a detector; results of another version are computed again."""


class Faces(NamedTuple):
    """The faces of one image, in its own pixels."""

    boxes: np.ndarray  # float32 (F, 4): x0, y0, x1, y1; may extend over the border, where a face is cut off
    scores: np.ndarray  # float32 (F,), higher is more certain; each detector has its own scale
    landmarks: np.ndarray  # float32 (F, 5, 2) x, y, see LANDMARKS; NaN if the detector gives none

    def rounded(self) -> "Faces":
        """Return the same faces as float64 with four decimals, as tables keep them: crops do not depend on the way."""
        return Faces(*(np.round(np.asarray(numbers, np.float64), 4) for numbers in self))


class Detector(Protocol):
    """Interface of a face detector.

    Attributes:
        name: name in tables.
        identity: text that differs between detectors whose results can differ.
        has_landmarks: whether it gives landmarks (else they are NaN).
    """

    name: str
    identity: str
    has_landmarks: bool

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Return the faces of RGB images, uint8 (H, W, 3) of any size; a large one is searched on a reduced copy.

        The faces of an image do not depend on the other images.
        """


def reduced(image: np.ndarray, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy whose long side is at most ``long_side``, and the factors (2,) from its x, y to the image's."""
    height, width = image.shape[:2]
    scale = min(1.0, long_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.array([width / size[0], height / size[1]], np.float32)


def as_faces(
    boxes: np.ndarray, scores: np.ndarray, landmarks: np.ndarray | None, small: np.ndarray, back: np.ndarray
) -> Faces:
    """Return faces found on a reduced copy in pixels of the image; none that is empty, not finite or outside."""
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
        name: one of these.
        threads: processor threads; default all. OpenCV's are set for the whole process.

    Raises:
        InputError: no such detector, or its file is missing, damaged or of another kind.
    """
    if threads is not None:
        cv2.setNumThreads(threads)
    kind, _, file = name.partition(":")
    if name == "haar":
        return Haar()
    if kind == "yunet" and file:
        return YuNet(Path(file).expanduser())
    if name.lower().endswith(".onnx"):
        return TrainedDetector(Path(name).expanduser(), threads=threads)
    if kind == "yunet":
        msg = f"faces: yunet needs its file, as yunet:FILE. {WHERE}"
        raise InputError(msg)
    msg = f"faces must be haar, yunet:FILE or FILE.onnx (a detector trained here), got {name!r}"
    raise InputError(msg)


def model_file(name: str) -> Path | None:
    """Return the file that a detector's name names, None for one that comes with OpenCV."""
    kind, _, file = name.partition(":")
    if kind == "yunet" and file:
        return Path(file).expanduser()
    return Path(name).expanduser() if name.lower().endswith(".onnx") else None


def with_whole_path(name: str) -> str:
    """Return a detector's name with the absolute path of its file, if it has one."""
    file = model_file(name)
    return name if file is None else f"{'yunet:' if name.startswith('yunet:') else ''}{file.absolute()}"


def model_digest(name: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a detector's file; "" where there is none to read."""
    file = model_file(name)
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file is not None and file.is_file() else ""


def read_model(path: Path) -> bytes:
    """Return the bytes of a model file, for OpenCV or onnxruntime.

    Raises:
        InputError: missing, a folder, not readable, or empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = (
            f"faces: cannot read the detector's file {path}: {error.strerror}; give a file that exists and is readable"
        )
        raise InputError(msg) from error
    if not data:
        msg = f"faces: the detector's file {path} is empty (0 bytes); copy it again"
        raise InputError(msg)
    return data


CASCADE = "haarcascade_frontalface_default.xml"
STEP, NEIGHBOURS = 1.1, 5
WINDOW, SHARE = 24, 16  # the cascade's own window in pixels; a face is at least this part of the image's long side


class Haar:
    """The cascade that comes with OpenCV 4 (Viola and Jones 2001), on grey images.

    Args:
        long_side: larger images are searched on a copy of this size.
    """

    has_landmarks = False

    def __init__(self, long_side: int = 640) -> None:
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        cascade = cv2.CascadeClassifier(f"{folder}{CASCADE}") if hasattr(cv2, "CascadeClassifier") else None
        if cascade is None or cascade.empty():
            msg = f"faces: OpenCV {cv2.__version__} comes without {CASCADE}; install opencv-python-headless 4"
            raise InputError(msg)
        self._cascade = cascade
        self.long_side = long_side
        self.name = "haar"
        self.identity = f"haar {CASCADE} opencv {cv2.__version__} {long_side} {STEP} {NEIGHBOURS} {WINDOW} {SHARE}"

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Return the faces of RGB images; the score is the last stage's weight, about 0 to 10."""
        return [self._search(image) for image in images]

    def _search(self, image: np.ndarray) -> Faces:
        small, back = reduced(image, self.long_side)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        smallest = max(WINDOW, max(grey.shape) // SHARE)
        rectangles, _, weights = self._cascade.detectMultiScale3(
            grey, STEP, NEIGHBOURS, minSize=(smallest, smallest), outputRejectLevels=True
        )
        boxes = np.asarray(rectangles, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return as_faces(boxes, np.asarray(weights, np.float32), None, small, back)


WHERE = (
    "YuNet's file is face_detection_yunet_2023mar.onnx of the OpenCV Zoo "
    "(github.com/opencv/opencv_zoo, models/face_detection_yunet)."
)
SUPPRESS = 0.3  # OpenCV's own defaults
MOST = 5000
LEAST = 64  # pixels per side; at 320 x 32 OpenCV 4.14 reads uninitialised memory and finds faces in it


class YuNet:
    """YuNet (Wu, Peng and Yu 2023) from an ONNX file with a fixed input size; images of any size are searched.

    Args:
        path: the ONNX file.
        long_side: larger images are searched on a copy of this size; faces of 10 to 300 pixels are found there.
        score: lowest score of a face, 0 to 1.

    Raises:
        InputError: the file is missing, damaged or some other model.
    """

    has_landmarks = True

    def __init__(self, path: Path, long_side: int = 320, score: float = 0.6) -> None:
        if not path.exists():
            msg = f"faces: no file {path}. {WHERE}"
            raise InputError(msg)
        data = read_model(path)
        try:
            self._net = cv2.FaceDetectorYN.create(
                "onnx", np.frombuffer(data, np.uint8), np.empty(0, np.uint8), (64, 64), score, SUPPRESS, MOST
            )
            self._net.detect(np.zeros((64, 64, 3), np.uint8))  # another model fails only here
        except cv2.error as error:
            msg = (
                f"faces: OpenCV {cv2.__version__} cannot use {path} as YuNet (cut short, another model, or one whose "
                f"input has no fixed size). {WHERE}"
            )
            raise InputError(msg) from error
        self.long_side, self.score = long_side, score
        self.name = "yunet"
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.identity = f"yunet {digest} opencv {cv2.__version__} {long_side} {score} {SUPPRESS}"

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Return the faces of RGB images with five landmarks each; the score lies within 0 to 1."""
        return [self._search(image) for image in images]

    def _search(self, image: np.ndarray) -> Faces:
        small, back = reduced(image, self.long_side)
        missing = [max(0, LEAST - side) for side in small.shape[:2]]
        padded = cv2.copyMakeBorder(small, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
        self._net.setInputSize(padded.shape[1::-1])
        detections = self._net.detect(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))[
            1
        ]  # (F, 15): x, y, w, h, 5 points, score
        detections = np.zeros((0, 15), np.float32) if detections is None else detections
        boxes = np.concatenate([detections[:, :2], detections[:, :2] + detections[:, 2:4]], 1)
        return as_faces(boxes, detections[:, 14], detections[:, 4:14], small, back)


KIND = "face-detector"
PADDING = 114  # grey below and right of an image that does not fill whole cells


class TrainedDetector:
    """A detector trained by this project, exported as ONNX.

    Args:
        path: the ONNX file.
        score: lowest score of a face, 0 to 1.
        overlap: boxes that overlap a better one by more than this are removed; by default the value in the file.
        threads: processor threads; default all.

    Raises:
        InputError: the file is missing, damaged or some other model.
    """

    has_landmarks = False

    def __init__(
        self, path: Path, score: float = 0.5, overlap: float | None = None, threads: int | None = None
    ) -> None:
        data = read_model(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors about bad files are raised anyway
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen exceptions without a common parent
            msg = f"faces: {path} is not an ONNX model or was cut short ({_first_line(error)}); export or copy it again"
            raise InputError(msg) from error
        about = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if about.get("kind") != KIND or len(inputs) != 1 or len(outputs) != 1:
            looks = "; give YuNet as yunet:FILE" if any(output.name == "cls_8" for output in outputs) else ""
            msg = f"faces: {path} is not a face detector that was trained here (its metadata has no kind={KIND}){looks}"
            raise InputError(msg)
        self.strides: tuple[int, ...] = tuple(json.loads(about["strides"]))
        self.long_side = int(about["long_side"])
        self._input = inputs[0].name
        self._fixed = [side if isinstance(side, int) else None for side in inputs[0].shape]
        if self._fixed[2] and self._fixed[3]:
            self.long_side = min(self.long_side, self._fixed[2], self._fixed[3])
        self.score, self.overlap = score, float(about.get("overlap", 0.5)) if overlap is None else overlap
        self.name = path.stem
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.identity = f"own {digest} {self.long_side} {score} {self.overlap}"

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Return the faces of RGB images; equally large reduced copies go through the model together."""
        small = [reduced(image, self.long_side) for image in images]
        shapes = [self._padded(copy.shape[0], copy.shape[1]) for copy, _ in small]
        faces: dict[int, Faces] = {}
        for shape in sorted(set(shapes)):
            places = [place for place, own in enumerate(shapes) if own == shape]
            batch = np.full((len(places), *shape, 3), PADDING, np.uint8)
            for row, place in enumerate(places):
                copy = small[place][0]
                batch[row, : copy.shape[0], : copy.shape[1]] = copy
            for raw, place in zip(self._run(batch), places, strict=True):
                faces[place] = self._faces(raw, shape, *small[place])
        return [faces[place] for place in range(len(images))]

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        largest = max(self.strides)
        rows, columns = (-(-side // largest) * largest for side in (height, width))
        return self._fixed[2] or rows, self._fixed[3] or columns

    def _run(self, batch: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        step = self._fixed[0] or len(pixels)
        parts: list[Any] = [
            self._session.run(None, {self._input: pixels[first : first + step]})[0]
            for first in range(0, len(pixels), step)
        ]
        return np.concatenate(parts)

    def _faces(self, raw: np.ndarray, shape: tuple[int, int], small: np.ndarray, back: np.ndarray) -> Faces:
        centres, scales = grid(*shape, self.strides)
        if raw.shape != (len(centres), 5):
            msg = (
                f"faces: {self.name} returns shape {raw.shape} for {shape[0]} x {shape[1]} pixels, but its strides "
                f"{self.strides} need {(len(centres), 5)}; export it again"
            )
            raise InputError(msg)
        scores = 1 / (1 + np.exp(-np.clip(raw[:, 4], -50, 50)))
        sure = scores >= self.score
        boxes, scores = decode(raw[sure, :4], centres[sure], scales[sure]), scores[sure]
        kept = suppress(boxes, scores, self.overlap)
        return as_faces(boxes[kept], scores[kept], None, small, back)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
