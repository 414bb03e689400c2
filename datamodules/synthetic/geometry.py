"""Who is drawn, and where the parts of a face lie: people, poses and shapes."""

import math
from dataclasses import dataclass

import numpy as np

from datamodules.synthetic.action_units import Expression

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


_BOW = np.linspace(-1, 1, 11)  # along an eyelid or a lip
_TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)  # around the head
_ROUNDNESS = np.array([1.0, 1 / 1.4**2])  # the head is an egg 1 wide and 1.4 high


class Pose:
    """How the head is turned (radians), where it stands and how large it is (pixels)."""

    def __init__(self, yaw: float, pitch: float, roll: float, centre: tuple[float, float], unit: float) -> None:
        self.yaw, self.pitch, self.roll, self.centre, self.unit = yaw, pitch, roll, np.array(centre), unit
        sy, cy, sp, cp = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        turn = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]]) * unit
        self._flat = np.array([[cy, -sy * sp], [0.0, cp]]) @ turn  # what x and y add to a position
        self._deep = np.array([sy, cy * sp]) @ turn  # what depth adds

    def place(self, points: np.ndarray, depth: float | None = None) -> np.ndarray:
        """Return pixel positions (n, 2) of face points (n, 2); depth None puts them on the face, 0 on the outline."""
        if depth is not None:
            return points @ self._flat + (depth * self._deep + self.centre)
        z = 0.80 * np.sqrt(np.maximum(1 - points**2 @ _ROUNDNESS, 0))
        return points @ self._flat + z[:, None] * self._deep + self.centre


@dataclass(frozen=True)
class Shapes:
    """Outlines in face coordinates. Pairs are (left, right) as seen in the image."""

    outline: np.ndarray
    eyes: tuple[np.ndarray, np.ndarray]
    eye_centres: np.ndarray  # (2, 2)
    brows: tuple[np.ndarray, np.ndarray]
    nose: np.ndarray
    nose_tip: np.ndarray  # (2,)
    upper_lip: np.ndarray
    lower_lip: np.ndarray
    mouth_inside: np.ndarray
    upper_teeth: np.ndarray
    mouth: np.ndarray  # outer edge of both lips
    corners: np.ndarray  # (2, 2)
    chin_y: float


def outline_of(person: Person, chin_y: float, grow: float = 1.0) -> np.ndarray:
    """Return the edge of the head, (48, 2), clockwise from the crown."""
    height = np.where(np.cos(_TURN) > 0, 1.13, chin_y)
    y = -np.cos(_TURN) * height
    x = np.sign(np.sin(_TURN)) * np.abs(np.sin(_TURN)) ** person.jaw * person.width
    below = np.clip(y / chin_y, 0, None)
    x *= 1 - person.taper * below**2.2
    sag = 0.03 * person.oldness * np.exp(-(((y - 0.65) / 0.2) ** 2))  # cheeks sink with age
    return np.stack([x * (1 + sag), y], 1) * grow


def _eye(person: Person, face: Expression, side: int) -> tuple[np.ndarray, np.ndarray]:
    half, rest = person.eye_w, person.eye_h * (1 + 4 * person.rest[3])
    upper = rest * (1 + 0.75 * face["lid_raise"] - 0.45 * face["lid_tight"] - 0.65 * face["droop"])
    upper *= 1 - 0.22 * face["cheek"] - 0.25 * face["nose_wrinkle"]
    lower = rest * 0.55 * (1 + 0.25 * face["lid_raise"] - 0.75 * face["cheek"] - 0.6 * face["lid_tight"])
    lower *= 1 - 0.3 * face["nose_wrinkle"]
    upper, lower = max(upper, 0.012), max(lower, -0.010)
    edge = 1 - np.abs(_BOW) ** 2.2
    slant = -person.tilt * _BOW * side - 0.04 * face["droop"] * _BOW * side * -1
    top = np.stack([_BOW * half, -upper * edge + slant], 1)
    bottom = np.stack([_BOW[::-1] * half, lower * edge + slant[::-1]], 1)
    centre = np.array([side * person.eye_x, person.eye_y])
    return np.concatenate([top, bottom[1:-1]]) + centre, centre


def _brow(person: Person, face: Expression, side: int) -> np.ndarray:
    base = person.eye_y - person.brow_gap
    along = np.array([0.13, 0.22, 0.33, 0.44, 0.54])
    inner, middle, outer = (
        np.array([1, 0.65, 0.2, 0, 0]),
        np.array([0.3, 0.8, 1, 0.8, 0.4]),
        np.array([0, 0.1, 0.45, 0.8, 1]),
    )
    rest = np.array([0.0, -0.025, -0.05, -0.035, 0.02])
    lift = face["inner_brow"] * (0.17 * inner + 0.05 * middle) + face["outer_brow"] * (0.13 * outer + 0.08 * middle)
    drop = face["frown"] * (0.15 * inner + 0.09 * middle + 0.01 * outer) + 0.06 * face["nose_wrinkle"] * (
        inner + middle
    )
    drop = drop + 0.05 * face["inner_brow"] * (1 - face["outer_brow"]) * outer  # grief slopes the brow outwards
    y = base + rest - lift + drop - person.rest[0] * inner - person.rest[1] * outer
    x = along - 0.045 * face["frown"] * inner
    weight = person.brow_weight * np.array([0.9, 1.1, 1.0, 0.75, 0.15]) * (1 + 0.2 * face["frown"])
    upper, lower = np.stack([x, y - weight], 1), np.stack([x, y + weight], 1)[::-1]
    return np.concatenate([upper, lower]) * np.array([side, 1])


def _nose(person: Person, face: Expression) -> tuple[np.ndarray, np.ndarray]:
    base = person.nose_y - 0.05 * face["nose_wrinkle"] - 0.02 * face["upper_lip"]
    half = person.nose_w * (1 + 0.16 * face["nose_wrinkle"] + 0.06 * (face["smile_left"] + face["smile_right"]))
    top = person.eye_y + 0.02
    right = np.array(
        [[0.055, top], [0.06, base - 0.20], [half * 0.95, base - 0.07], [half, base], [half * 0.55, base + 0.05]]
    )
    left = (right * np.array([-1, 1]))[::-1]
    return np.concatenate([right, [[0, base + 0.065]], left]), np.array([0.0, base - 0.04])


def _lips(person: Person, face: Expression, chin: float) -> dict[str, np.ndarray]:
    """Return lip outlines. Curves run from the left corner to the right one; gap is what lies between the lips."""
    smile = np.array([face["smile_left"], face["smile_right"]])
    rounding = face["jaw"] * max(0.0, 1 - smile.mean() - face["stretch"] - face["upper_lip"])
    half = person.mouth_w * (1 + 0.34 * smile + 0.30 * face["stretch"] - 0.16 * face["lip_tight"] - 0.30 * rounding)
    rise = -0.13 * smile + 0.12 * face["corner_down"] + 0.03 * face["stretch"] - person.rest[2]
    y = person.mouth_y - 0.02 * face["chin"]
    corner = np.array([[-half[0], y + rise[0]], [half[1], y + rise[1]]])
    gap = 0.075 * face["part"] + 0.30 * face["jaw"] + 0.03 * face["part"] * face["stretch"]
    gap *= 1.0 if gap > 0.02 else 0.0
    top = y - 0.045 * face["upper_lip"] - 0.025 * face["nose_wrinkle"] - 0.15 * gap + 0.02 * smile.mean()
    low = top + gap
    thick = person.lip * (1 - 0.55 * face["lip_tight"] - 0.2 * smile.mean() * (gap > 0))
    side = (_BOW + 1) / 2
    line = corner[0] + (corner[1] - corner[0]) * side[:, None]  # (11, 2)
    arch = (1 - np.abs(_BOW) ** (2.4 + 0.8 * face["stretch"]))[:, None]

    def curve(middle: float, bow: float = 0.0) -> np.ndarray:
        shaped = line + arch * np.array([0, 1.0]) * (middle - line[:, 1:])
        shaped[:, 1] += bow * np.exp(-((_BOW / 0.22) ** 2))
        return shaped

    lift = np.abs(_BOW)[:, None] * np.array([0, -0.04 * face["upper_lip"]]) * arch
    upper_in, lower_in = curve(top) + lift, curve(low)
    upper_out = curve(top - thick * 0.85, 0.25 * thick) + lift
    lower_out = curve(low + thick * (1.15 + 0.25 * face["chin"]))
    show = min(gap, 0.055 + 0.03 * max(smile.mean(), face["stretch"], face["upper_lip"])) * (rounding < 0.55)
    teeth = np.concatenate([upper_in, (curve(top + show) + lift)[::-1]])
    return {
        "upper": np.concatenate([upper_out, upper_in[::-1]]),
        "lower": np.concatenate([lower_in, lower_out[::-1]]),
        "inside": np.concatenate([upper_in, lower_in[::-1]]),
        "teeth": teeth,
        "mouth": np.concatenate([upper_out, lower_out[::-1]]),
        "corners": corner,
    }


def shapes_of(person: Person, face: Expression) -> Shapes:
    """Return the outlines of a face before it is turned."""
    chin = 1.0 - 0.05 * person.childness + 0.15 * face["jaw"] - 0.02 * face["chin"]
    left, right = _eye(person, face, -1), _eye(person, face, 1)
    nose, tip = _nose(person, face)
    lips = _lips(person, face, chin)
    return Shapes(
        outline=outline_of(person, chin),
        eyes=(left[0], right[0]),
        eye_centres=np.stack([left[1], right[1]]),
        brows=(_brow(person, face, -1), _brow(person, face, 1)),
        nose=nose,
        nose_tip=tip,
        upper_lip=lips["upper"],
        lower_lip=lips["lower"],
        mouth_inside=lips["inside"],
        upper_teeth=lips["teeth"],
        mouth=lips["mouth"],
        corners=lips["corners"],
        chin_y=chin,
    )
