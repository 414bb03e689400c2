"""YuNet, a small and quick neural face detector that also tells the eyes, through OpenCV."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datamodules.errors import InputError
from datamodules.faces.detector import Faces, as_faces, read_model, reduced

WHERE = (
    "YuNet's file is face_detection_yunet_2023mar.onnx of the OpenCV Zoo "
    "(github.com/opencv/opencv_zoo, models/face_detection_yunet)."
)
SUPPRESS = 0.3  # OpenCV's own defaults
MOST = 5000
LEAST = 64  # pixels a side: at 320 x 32 OpenCV 4.14 reads memory that nobody has written, and sees faces in it


class YuNet:
    """YuNet (Wu, Peng and Yu 2023) from a file with a fixed input, which is searched at any size all the same.

    Args:
        path: the ONNX file.
        long_side: larger pictures are searched on a copy of this size; faces of 10 to 300 pixels are found there.
        score: how sure it must be, 0 to 1.

    Raises:
        InputError: the file is missing, damaged or some other model.
    """

    tells_eyes = True

    def __init__(self, path: Path, long_side: int = 320, score: float = 0.6) -> None:
        if not path.exists():
            msg = f"faces: no file {path}. {WHERE}"
            raise InputError(msg)
        data = read_model(path)
        try:
            self._net = cv2.FaceDetectorYN.create(
                "onnx", np.frombuffer(data, np.uint8), np.empty(0, np.uint8), (64, 64), score, SUPPRESS, MOST
            )
            self._net.detect(np.zeros((64, 64, 3), np.uint8))  # another model shows only now
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
        """Return the faces of RGB pictures with five landmarks each; the score lies within 0 to 1."""
        return [self._search(image) for image in images]

    def _search(self, image: np.ndarray) -> Faces:
        small, back = reduced(image, self.long_side)
        missing = [max(0, LEAST - side) for side in small.shape[:2]]
        padded = cv2.copyMakeBorder(small, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
        self._net.setInputSize(padded.shape[1::-1])
        found = self._net.detect(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))[1]  # (F, 15): x, y, w, h, 5 points, score
        found = np.zeros((0, 15), np.float32) if found is None else found
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
        return as_faces(boxes, found[:, 14], found[:, 4:14], small, back)
