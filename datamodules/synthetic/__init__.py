"""Faces drawn from action units of emotions: the embedded default data, with the truth about every image."""

from datamodules.synthetic.action_units import EMOTIONS, DrawnFaces, parse_spec
from datamodules.synthetic.faces import DrawnFace, contact_sheet, draw
from datamodules.synthetic.files import prepare
from datamodules.synthetic.scenes import KOREAN, DrawnScene, DrawnScenes, draw_scene

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
