"""Which face of a picture is meant: the largest or the most central one."""

from typing import Literal, get_args

import numpy as np

from datamodules.errors import InputError
from datamodules.faces.boxes import areas, clip
from datamodules.faces.detector import Faces

Rule = Literal["largest", "central"]
RULES: tuple[Rule, ...] = get_args(Rule)


def choose(faces: Faces, height: int, width: int, rule: Rule = "largest") -> int | None:
    """Return the number of the face that is meant, None where there is none.

    ``largest`` has the greatest area within the picture; ``central`` has its middle nearest to the picture's. Of equals
    the surer one is meant, then the first.

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
