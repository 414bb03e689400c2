"""By how much a face must be turned so that its eyes are level."""

import math

import numpy as np

from datamodules.faces.choose import choose
from datamodules.faces.cut import cut, roll
from datamodules.faces.detector import Detector

VIEW, AROUND = 320, 0.4  # pixels of the close view, and its margin
LOOKS, ENOUGH = 4, math.radians(1.5)


def turn_of(detector: Detector, image: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> float:
    """Return the angle for :func:`~datamodules.faces.cut.cut`, radians; 0 where the eyes are not known.

    Eyes on a reduced copy are rough, and YuNet takes a tilted face for less tilted than it is (13 degrees for 25, 21
    when it sees the face larger). So the face is looked at from close by, turned by what is known, until what is left
    is little.

    Args:
        detector: one that tells the eyes.
        image: (H, W, 3) uint8.
        box: the face's.
        landmarks: the face's, (5, 2).
    """
    turn = roll(landmarks)
    for _ in range(LOOKS):
        view = cut(image, box, VIEW, margin=AROUND, turn=turn)
        faces = detector.detect([view])[0]
        found = choose(faces, VIEW, VIEW, "central")
        if found is None or np.abs(faces.boxes[found].reshape(2, 2).mean(0) - VIEW / 2).max() > VIEW / 5:
            break  # not this face
        rest = roll(faces.landmarks[found])
        turn += rest
        if abs(rest) < ENOUGH:
            break
    return turn
