"""OpenCV's Haar cascade for frontal faces: the classical detector that better ones are compared with."""

from collections.abc import Sequence

import cv2
import numpy as np

from datamodules.errors import InputError
from datamodules.faces.detector import Faces, as_faces, reduced

CASCADE = "haarcascade_frontalface_default.xml"
STEP, NEIGHBOURS = 1.1, 5
WINDOW, SHARE = 24, 16  # the cascade's own window in pixels; a face is at least this part of the picture's long side


class Haar:
    """The cascade that comes with OpenCV 4 (Viola and Jones 2001), on grey pictures.

    Args:
        long_side: larger pictures are searched on a copy of this size.
    """

    tells_eyes = False

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
        """Return the faces of RGB pictures; the score is the last stage's weight, about 0 to 10."""
        return [self._search(image) for image in images]

    def _search(self, image: np.ndarray) -> Faces:
        small, back = reduced(image, self.long_side)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        smallest = max(WINDOW, max(grey.shape) // SHARE)
        found, _, weights = self._cascade.detectMultiScale3(
            grey, STEP, NEIGHBOURS, minSize=(smallest, smallest), outputRejectLevels=True
        )
        boxes = np.asarray(found, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return as_faces(boxes, np.asarray(weights, np.float32), None, small, back)
