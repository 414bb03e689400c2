"""Draws the README's pictures of drawn faces and scenes: python docs/draw_figures.py DETECTOR.onnx."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datamodules.faces.crop import choose, cut
from datamodules.faces.detectors import Detector, open_detector
from datamodules.synthetic import DrawnFaces, DrawnScenes, contact_sheet, draw_scene

HERE = Path(__file__).parent
HIGH, CROP, GAP = 240, 112, 8
HAAR, OURS = (213, 94, 0), (0, 158, 115)  # vermilion and green of Okabe and Ito, told apart by everybody
SCENES = DrawnScenes(images=40, size=480, seed=7, classes=("happy", "angry", "sad", "neutral"), distractors=3)
SHOWN = (1, 6, 9, 14)


def faces() -> np.ndarray:
    """Return drawn faces: a column per class, at 96 pixels a face."""
    return contact_sheet(DrawnFaces(largest=40, ratio=1, size=96, seed=5, confusion=0.3), 5)


def scenes(detector: Detector) -> np.ndarray:
    """Return drawn scenes with the boxes of the cascade and of a detector, and below the face that each cuts."""
    columns = []
    for row in SHOWN:
        image = draw_scene(SCENES, row).image
        image = cv2.resize(image, None, fx=HIGH / len(image), fy=HIGH / len(image), interpolation=cv2.INTER_AREA)
        shown, crops = image.copy(), []
        for one, colour in ((open_detector("haar"), HAAR), (detector, OURS)):
            found = one.detect([image])[0]
            for box in found.boxes:
                (x0, y0), (x1, y1) = np.round(box.reshape(2, 2)).astype(int).tolist()
                cv2.rectangle(shown, (x0, y0), (x1, y1), colour, 2)
            meant = choose(found, *image.shape[:2])
            crop = np.full((CROP, CROP, 3), 255, np.uint8)
            if meant is not None:
                crop = cut(image, found.boxes[meant], CROP, margin=0.1)
            cv2.rectangle(crop, (0, 0), (CROP - 1, CROP - 1), colour, 3)
            crops.append(crop)
        below = cv2.hconcat([crops[0], np.full((CROP, GAP, 3), 255, np.uint8), crops[1]])
        wide = max(shown.shape[1], below.shape[1])
        parts = [_centred(part, wide) for part in (shown, np.full((GAP, wide, 3), 255, np.uint8), below)]
        columns += [cv2.vconcat(parts), np.full((HIGH + GAP + CROP, GAP, 3), 255, np.uint8)]
    return cv2.hconcat(columns[:-1])


def _centred(part: np.ndarray, wide: int) -> np.ndarray:
    left = (wide - part.shape[1]) // 2
    return cv2.copyMakeBorder(part, 0, 0, left, wide - part.shape[1] - left, cv2.BORDER_CONSTANT, value=(255,) * 3)


def write(name: str, image: np.ndarray) -> None:
    """Write a picture of 256 colours, to keep the repository small."""
    draft = HERE / f".{name}.part.png"
    Image.fromarray(image).quantize(256, dither=Image.Dither.NONE).save(draft, optimize=True)
    os.replace(draft, HERE / f"{name}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/draw_figures.py DETECTOR.onnx (emotion detector export writes one)")
    write("drawn_scenes", scenes(open_detector(sys.argv[1])))
    write("drawn_faces", faces())
