"""People to draw: skin, hair, age, gender presentation and the proportions of a face."""

from dataclasses import dataclass

import numpy as np

AGES = ("child", "young", "adult", "middle-aged", "elderly")
GENDERS = ("woman", "man")
SKINS = ("very light", "light", "medium", "olive", "brown", "dark")
_AGE_SHARES = (0.16, 0.26, 0.26, 0.16, 0.16)
# RGB of the six skins, and of hair
_SKIN_RGB = ((244, 214, 196), (230, 188, 160), (212, 165, 128), (186, 138, 98), (139, 94, 62), (88, 58, 42))
_HAIR_RGB = ((28, 22, 20), (52, 34, 24), (88, 56, 34), (130, 86, 48), (190, 150, 90), (150, 70, 36))
_EYE_RGB = ((60, 38, 22), (88, 58, 30), (96, 110, 70), (90, 120, 150), (110, 120, 125))
HAIR_STYLES = ("short", "side", "fringe", "long", "bob", "afro", "bun", "bald", "receding", "scarf", "cap")


@dataclass(frozen=True)
class Person:
    """A person. Colours are RGB, lengths are in half heights of the face below the eyes' line."""

    age: str
    gender: str
    skin: str
    childness: float
    oldness: float
    skin_rgb: np.ndarray
    hair_rgb: np.ndarray
    eye_rgb: np.ndarray
    lip_rgb: np.ndarray
    hair_style: str
    beard: str
    glasses: bool
    width: float
    jaw: float
    taper: float
    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    tilt: float
    brow_gap: float
    brow_weight: float
    nose_w: float
    nose_y: float
    mouth_y: float
    mouth_w: float
    lip: float
    rest: np.ndarray  # (4,) resting offsets: inner brow, outer brow, mouth corners, lid opening


def _varied(generator: np.random.Generator, rgb: tuple[int, int, int], spread: float) -> np.ndarray:
    shared = generator.normal(0, spread)
    return np.clip(np.array(rgb) + shared + generator.normal(0, spread / 3, 3), 8, 252)


def make_person(generator: np.random.Generator, childlike: float = 1.0) -> Person:
    """Draw a person; features are independent except where age, gender presentation and skin go together.

    Args:
        generator: Source of randomness.
        childlike: Multiplies how far a child's proportions are from an adult's.
    """
    age = int(generator.choice(len(AGES), p=_AGE_SHARES))
    man = bool(generator.random() < 0.5)
    skin = int(generator.integers(len(SKINS)))
    childness = (childlike, 0.18, 0.0, 0.0, 0.0)[age] * generator.uniform(0.7, 1.0)
    oldness = (0.0, 0.0, 0.12, 0.5, 1.0)[age] * generator.uniform(0.75, 1.1)
    male = (1.0 if man else 0.0) * (1 - 0.8 * min(childness, 1.0))
    normal = generator.normal

    skin_rgb = _varied(generator, _SKIN_RGB[skin], 8)
    fair = int(generator.integers(len(_HAIR_RGB))) if skin < 2 else int(generator.integers(3 if skin < 4 else 2))
    hair_rgb = _varied(generator, _HAIR_RGB[fair], 7)
    if generator.random() < oldness * 0.9:
        hair_rgb = hair_rgb * 0.2 + np.array([190, 190, 192]) * 0.8 * generator.uniform(0.75, 1.1)
    eye = int(generator.integers(len(_EYE_RGB))) if skin < 2 else int(generator.integers(2))
    redness = np.array([16, -30, -22]) * (0.8 if skin < 4 else 0.55)
    lip_rgb = np.clip(skin_rgb + redness, 0, 255)
    if not man and childness < 0.5 and generator.random() < 0.4:
        lip_rgb = lip_rgb * 0.5 + np.array([170, 40, 60]) * 0.5  # lipstick

    if man:
        styles, shares = ("short", "side", "fringe", "afro", "bald", "receding", "cap", "long"), None
        weights = np.array([4, 3, 2, 1.0 + (skin > 3), 0.3 + oldness, 2.5 * oldness, 0.8, 0.6])
    else:
        styles, shares = ("long", "bob", "bun", "fringe", "afro", "scarf", "short", "side"), None
        weights = np.array([4, 3, 2, 2, 0.8 + 1.2 * (skin > 3), 0.8, 0.7 + oldness, 0.8])
    shares = weights / weights.sum()
    style = str(generator.choice(np.array(styles), p=shares))
    beard = "none"
    if man and age >= 1:
        beard = str(generator.choice(np.array(("none", "stubble", "moustache", "full")), p=(0.5, 0.22, 0.1, 0.18)))
    return Person(
        age=AGES[age],
        gender=GENDERS[int(man)],
        skin=SKINS[skin],
        childness=childness,
        oldness=oldness,
        skin_rgb=skin_rgb,
        hair_rgb=hair_rgb,
        eye_rgb=_varied(generator, _EYE_RGB[eye], 6),
        lip_rgb=lip_rgb,
        hair_style=style,
        beard=beard,
        glasses=bool(generator.random() < 0.10 + 0.2 * oldness),
        width=0.80 + 0.06 * childness + 0.02 * male + normal(0, 0.035),
        jaw=0.90 - 0.12 * male + normal(0, 0.04),
        taper=0.30 - 0.08 * male - 0.10 * childness + 0.04 * oldness * male + normal(0, 0.04),
        eye_x=0.36 + normal(0, 0.018),
        eye_y=-0.06 + 0.13 * childness + normal(0, 0.015),
        eye_w=0.165 + 0.035 * childness - 0.01 * male + normal(0, 0.010),
        eye_h=0.088 + 0.028 * childness - 0.010 * male - 0.014 * oldness + normal(0, 0.010),
        tilt=normal(0.02, 0.035) - 0.03 * oldness,
        brow_gap=0.245 + 0.02 * childness - 0.025 * male + normal(0, 0.015),
        brow_weight=0.036 + 0.018 * male - 0.012 * childness + normal(0, 0.006),
        nose_w=0.145 - 0.035 * childness + 0.018 * male + 0.015 * (skin > 3) + normal(0, 0.012),
        nose_y=0.37 + 0.02 * childness + 0.03 * oldness + normal(0, 0.02),
        mouth_y=0.66 + 0.015 * childness + normal(0, 0.02),
        mouth_w=0.27 - 0.03 * childness + 0.01 * male + normal(0, 0.018),
        lip=0.062 - 0.012 * male - 0.02 * oldness + 0.014 * (skin > 3) + normal(0, 0.007),
        rest=normal(0, 1, 4) * np.array([0.010, 0.012, 0.012, 0.008]),
    )
