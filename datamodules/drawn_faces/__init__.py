"""Faces drawn from action units of emotions: the embedded default data, with the truth about every picture."""

from datamodules.drawn_faces.drawing import DrawnFace, contact_sheet, draw
from datamodules.drawn_faces.files import prepare
from datamodules.drawn_faces.scenes import KOREAN, DrawnScene, DrawnScenes, draw_scene
from datamodules.drawn_faces.spec import EMOTIONS, DrawnFaces, parse_spec

__all__ = [
    "EMOTIONS",
    "KOREAN",
    "DrawnFace",
    "DrawnFaces",
    "DrawnScene",
    "DrawnScenes",
    "contact_sheet",
    "draw",
    "draw_scene",
    "parse_spec",
    "prepare",
]
