"""Drawn scenes: a main person, passers-by, posters and statues, with the ground truth of every face."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.paths import build_once, cache_root
from datamodules.labels import ALIASES
from datamodules.processes import cores, processes
from datamodules.synthetic.action_units import PROTOTYPES, Expression, express, parse_fields, vote
from datamodules.synthetic.geometry import Person, Pose, Shapes, make_person, shapes_of
from datamodules.synthetic.painting import Painter, colour, fill, oval, shift


def background(generator: np.random.Generator, side: int) -> np.ndarray:
    """Return a canvas (side, side, 3): plain, clouded, striped, a shelf of things, or lights out of focus."""
    kind = int(generator.integers(5))
    base = generator.uniform(30, 225) + generator.normal(0, 28, 3)
    if kind == 1:
        clouds = np.clip(base + generator.normal(0, 26, (5, 5, 3)), 0, 255).astype(np.uint8)
        return cv2.resize(clouds, (side, side), interpolation=cv2.INTER_CUBIC)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = base.astype(np.uint8)
    if kind == 0:
        ramp = np.linspace(0.65, 1.2, side)[:, None, None]
        canvas[:] = np.clip(base * (ramp if generator.random() < 0.5 else ramp.transpose(1, 0, 2)), 0, 255)
    elif kind == 2:
        step, slope = generator.uniform(0.06, 0.2) * side, generator.uniform(-0.4, 0.4)
        ink = colour(base, generator.uniform(0.6, 0.85))
        for at in np.arange(-side, 2 * side, step):
            band = np.array(
                [[at, 0], [at + step / 2, 0], [at + step / 2 + slope * side, side], [at + slope * side, side]]
            )
            fill(canvas, band if generator.random() < 0.97 else band + 2, ink)
    else:
        for _ in range(12):
            ink = colour(base * 0.6 + generator.uniform(0, 255, 3) * 0.4)
            x, y, wide, high = generator.random(4) * [side, side, 0.3 * side, 0.35 * side]
            box = np.array([[x, y], [x + wide, y], [x + wide, y + high], [x, y + high]])
            fill(canvas, box if kind == 3 else oval(x, y, wide / 2, wide / 2), ink)
        if kind == 4:
            blur = int(0.06 * side) | 1
            canvas[:] = cv2.GaussianBlur(canvas, (blur, blur), 0)
    return canvas


def foreground(generator: np.random.Generator, canvas: np.ndarray) -> None:
    """Sometimes put an object in front of the face: a blurred edge, a bar, a cup or a hand at the border."""
    if generator.random() > 0.22:
        return
    side = canvas.shape[0]
    ink = colour(generator.uniform(10, 240, 3))
    kind = int(generator.integers(3))
    if kind == 0:
        left, wide = generator.random() < 0.5, generator.uniform(0.05, 0.22) * side
        x = 0.0 if left else side - wide
        fill(canvas, np.array([[x, 0], [x + wide, 0], [x + wide * 0.8, side], [x, side]]), ink)
    elif kind == 1:
        x, y = generator.choice(np.array([0.1, 0.9])) * side, generator.uniform(0.7, 1.0) * side
        fill(canvas, oval(x, y, 0.18 * side, 0.16 * side), ink)
    else:
        y = generator.uniform(0.90, 0.98) * side
        fill(canvas, np.array([[0, y], [side, y - 0.05 * side], [side, side], [0, side]]), ink)


def photograph(generator: np.random.Generator, canvas: np.ndarray, size: int, light: tuple[float, float]) -> np.ndarray:
    """Return the canvas as a camera would take it, (size, size, 3): light, colour cast, blur, grain, grey at times."""
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if generator.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), generator.uniform(0.3, 1.1) * size / 64)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    lit = 1 + 0.42 * (light[0] * across[None, :] + light[1] * across[:, None])  # (S, S)
    exposure = np.float32(np.exp(generator.normal(0, 0.17)))
    cast = (1 + generator.normal(0, 0.05, 3)).astype(np.float32) * exposure
    out = image.astype(np.float32) * (lit[:, :, None] * cast)
    contrast = np.float32(generator.uniform(0.65, 1.15))
    out = (out - 120) * contrast + np.float32(120 + generator.normal(0, 10))
    out += generator.standard_normal(out.shape, dtype=np.float32) * np.float32(generator.gamma(2.0, 1.9))
    if generator.random() < 0.12:
        out[:] = out.mean(2, keepdims=True)
    return np.clip(out, 0, 255).astype(np.uint8)


FACE_HEIGHT = 2.13  # of an outline from crown to chin, in units of the pose
_REACH = 6.0  # of a body to both sides of the head, in units
_ABOVE = 2.8


def paint_head(
    generator: np.random.Generator,
    canvas: np.ndarray,
    person: Person,
    face: Expression,
    pose: Pose,
    light: tuple[float, float],
) -> tuple[Shapes, np.ndarray]:
    """Paint a head with its body on a canvas of any shape; return its shapes, and which pixels changed, bool (H, W)."""
    shapes = shapes_of(person, face)
    changed = np.zeros(canvas.shape[:2], bool)
    x, y = pose.centre.tolist()
    left, right = (round(np.clip(x + side * _REACH * pose.unit, 0, canvas.shape[1])) for side in (-1, 1))
    top = round(np.clip(y - _ABOVE * pose.unit, 0, canvas.shape[0]))
    part = canvas[top:, left:right]
    if part.size:
        before = part.copy()
        near = Pose(pose.yaw, pose.pitch, pose.roll, (x - left, y - top), pose.unit)
        Painter(part, person, face, shapes, near, light, generator).paint()
        changed[top:, left:right] = _differs(part, before)
    return shapes, changed


def _differs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(cv2.absdiff(first, second))
    return cv2.bitwise_or(cv2.bitwise_or(red, green), blue).astype(bool)


def outline_box(shapes: Shapes, pose: Pose) -> np.ndarray:
    """Return the box of a face from crown to chin, float (4,): x0, y0, x1, y1, also where it leaves the image."""
    outline = pose.place(shapes.outline, 0)
    return np.concatenate([outline.min(0), outline.max(0)])


def poster(
    generator: np.random.Generator, canvas: np.ndarray, person: Person, face: Expression, place: tuple[int, int, int]
) -> np.ndarray:
    """Paint a poster with a face: few inks, a frame, lines of text. Return the box of the face, float (4,).

    Args:
        generator: Source of randomness.
        canvas: (H, W, 3), painted upon.
        person: The person on the poster.
        face: The expression.
        place: x and y of the upper left corner, and the height; the width is two thirds of it.
    """
    x, y, high = place
    wide = round(high / 1.5)
    sheet = background(generator, high)[:, :wide].copy()
    pose = Pose(generator.normal(0, 0.15), 0.0, generator.normal(0, 0.05), (wide / 2, high * 0.40), high * 0.26)
    shapes, _ = paint_head(generator, sheet, person, face, pose, (0.0, 0.0))
    grey = cv2.cvtColor(sheet, cv2.COLOR_RGB2GRAY)
    inks = int(generator.integers(3, 6))
    level = np.floor(grey / 256 * inks)[:, :, None] / (inks - 1)  # (h, w, 1), in steps as prints have
    dark, pale = generator.uniform(0, 110, 3), generator.uniform(150, 255, 3)
    sheet[:] = np.clip(dark + level * (pale - dark), 0, 255).astype(np.uint8)
    for line in range(int(generator.integers(1, 4))):
        at = high * (0.84 + 0.045 * line)
        run = wide * generator.uniform(0.4, 0.8)
        ends = np.array([[wide * 0.1, at], [wide * 0.1 + run, at]])
        fill(sheet, np.concatenate([ends, ends[::-1] + shift(0, high * 0.025)]), colour(dark))
    frame = max(2, round(high * 0.025))
    cv2.rectangle(sheet, (0, 0), (wide - 1, high - 1), colour(generator.uniform(0, 255, 3)), frame)
    _paste(canvas, sheet, x, y)
    return outline_box(shapes, pose) + np.array([x, y, x, y])


def _paste(canvas: np.ndarray, sheet: np.ndarray, x: int, y: int) -> None:
    high, wide = canvas.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + sheet.shape[1], wide), min(y + sheet.shape[0], high)
    if x1 > x0 and y1 > y0:
        canvas[y0:y1, x0:x1] = sheet[y0 - y : y1 - y, x0 - x : x1 - x]


def statue(
    generator: np.random.Generator, canvas: np.ndarray, person: Person, face: Expression, pose: Pose
) -> np.ndarray:
    """Paint a bust of stone or bronze on a plinth; return the box of its face, float (4,)."""
    ink = generator.uniform(70, 190) * np.array([1.0, generator.uniform(0.9, 1.05), generator.uniform(0.75, 1.05)])
    figure = canvas.copy()
    shapes, changed = paint_head(generator, figure, person, face, pose, (0.0, 0.0))
    changed[max(0, round(pose.centre[1] + 2.1 * pose.unit)) :] = False
    worn = cv2.resize(generator.normal(0, 14, (9, 9)).astype(np.float32), canvas.shape[1::-1])  # (H, W)
    grey = figure[changed].astype(np.float32).mean(1)  # (n,)
    stone = (0.45 + 0.55 * grey / 160)[:, None] * ink + worn[changed][:, None]
    canvas[changed] = np.clip(stone, 0, 255).astype(np.uint8)
    x, y = pose.centre.tolist()
    half, top = 1.3 * pose.unit, y + 2.05 * pose.unit
    plinth = np.array([[x - half, top], [x + half, top], [x + half, canvas.shape[0]], [x - half, canvas.shape[0]]])
    fill(canvas, plinth, colour(ink, 0.8))
    return outline_box(shapes, pose)


def cover(
    generator: np.random.Generator, canvas: np.ndarray, shapes: Shapes, pose: Pose, skin: np.ndarray, *, mask: bool
) -> np.ndarray:
    """Cover a face with an object: a hand, a cup, a post, or a mask over nose and mouth. Return its pixels, (H, W).

    Only the mask reaches the middle of the face, so that an expression stays visible.
    """
    before = canvas.copy()
    side = generator.choice(np.array([-1.0, 1.0]))
    kind = 3 if mask else int(generator.integers(3))
    if kind == 0:  # a hand at the cheek
        hand = oval(side * 0.85, 0.75, 0.42, 0.30)
        fill(canvas, pose.place(hand, 0.4), colour(skin, 0.95))
        for finger in range(4):
            tip = oval(side * (0.62 + 0.13 * finger), 0.42 - 0.04 * finger, 0.085, 0.34, 14)
            fill(canvas, pose.place(tip, 0.4), colour(skin, 0.90 + 0.03 * finger))
    elif kind == 1:  # a cup before the chin
        cup = np.array([[-0.38, 0.80], [0.38, 0.80], [0.30, 1.7], [-0.30, 1.7]]) + shift(side * 0.35, 0.0)
        fill(canvas, pose.place(cup, 0.5), colour(generator.uniform(10, 245, 3)))
    elif kind == 2:  # a post or a shoulder from the side
        post = np.array([[0.55, -3.0], [1.3, -3.0], [1.3, 4.0], [0.55, 4.0]]) * [side, 1.0]
        fill(canvas, pose.place(post, 0.0), colour(generator.uniform(10, 240, 3)))
    else:
        low = shapes.outline[shapes.outline[:, 1] > 0.18]
        edge = low[np.argsort(low[:, 0])]
        fill(canvas, pose.place(np.concatenate([edge, [[0.4, 0.12], [0.0, 0.05], [-0.4, 0.12]]]), 0.1), (225.0,) * 3)
        for fold in (0.35, 0.55):
            line = np.array([[-0.55, fold], [0.55, fold], [0.55, fold + 0.02], [-0.55, fold + 0.02]])
            fill(canvas, pose.place(line, None), (190.0, 200.0, 205.0))
    return _differs(canvas, before)


def camera(
    generator: np.random.Generator, image: np.ndarray, light: tuple[float, float], dim: float, scale: float
) -> np.ndarray:
    """Return an image as a camera would take it: light, colour cast, blur, grain; ``dim`` 1 is evening."""
    high, wide = image.shape[:2]
    blur = generator.uniform(0.2, 0.9) * scale * (generator.random() < 0.25) + 1.2 * scale * dim
    if blur > 0.15:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    across = np.linspace(-1, 1, wide, dtype=np.float32)
    down = np.linspace(-1, 1, high, dtype=np.float32)
    lit = 1 + 0.30 * (light[0] * across[None, :] + light[1] * down[:, None])  # (H, W)
    exposure = float(np.exp(generator.normal(0, 0.15))) * (1 - 0.65 * dim)
    cast = 1 + generator.normal(0, 0.05, 3) + dim * np.array([0.25, 0.0, -0.25])  # lamps are yellow
    out = image.astype(np.float32) * (lit[:, :, None] * (cast * exposure).astype(np.float32))
    out = (out - 120) * np.float32(generator.uniform(0.75, 1.15)) + np.float32(120 + generator.normal(0, 8))
    grain = np.float32(generator.gamma(2.0, 1.5) + 9 * dim)
    out += generator.standard_normal(out.shape, dtype=np.float32) * grain
    return np.clip(out, 0, 255).astype(np.uint8)


KOREAN = ("happy", "angry", "sad", "anxious", "embarrassed", "hurt", "neutral")
SCENE_VERSION = 1  # increased whenever the same seed would give other pixels
SHAPES = (3 / 4, 9 / 16, 1.0, 4 / 3, 16 / 9)  # width over height of what phones take
_PERSON, _SCENE = 21, 22  # random streams, so that a person looks the same in every scene
_SEEN = 0.3  # share of a face that must be visible for it to count
_TINY = 6.0  # pixels


@dataclass(frozen=True)
class DrawnScenes:
    """A set of drawn scenes; the same fields give the same pixels. Classes take turns, row by row.

    Attributes:
        images: Number of scenes.
        size: Longer side of the largest images, 96 to 4096; the smallest are 0.7 of it.
        seed: Seed of people, expressions and scenes.
        subjects: Number of people who are photographed; None draws another person in every scene.
        annotators: Votes for the main face.
        confusion: 0 draws clear expressions, 1 faint and mixed ones.
        classes: Emotions of the main face.
        smallest: Smallest height of the main face, as a share of the shorter side.
        largest: Largest such height.
        others: Largest number of passers-by, whose faces are smaller and count as faces.
        distractors: Largest number of posters and statues, whose faces do not count.
        occlusion: Probability that an object covers part of a face.
        dim: 0 is day; 1 is evening with noise, blur and yellow light: a shifted domain.
    """

    images: int = 700
    size: int = 640
    seed: int = 0
    subjects: int | None = None
    annotators: int = 3
    confusion: float = 0.2
    classes: tuple[str, ...] = KOREAN
    smallest: float = 0.2
    largest: float = 0.5
    others: int = 3
    distractors: int = 2
    occlusion: float = 0.2
    dim: float = 0.0

    def __post_init__(self) -> None:
        rules = (
            (self.images >= 1, "images must be at least 1", self.images),
            (96 <= self.size <= 4096, "size must lie in 96..4096", self.size),
            (self.seed >= 0, "seed must be at least 0", self.seed),
            (self.subjects is None or self.subjects >= 1, "subjects must be at least 1", self.subjects),
            (self.annotators >= 0, "annotators must be at least 0", self.annotators),
            (0 <= self.confusion <= 1, "confusion must lie in 0..1", self.confusion),
            (len(self.classes) >= 1, "classes must name an emotion", self.classes),
            (set(self.classes) <= set(PROTOTYPES), f"classes must be among {', '.join(PROTOTYPES)}", self.classes),
            (0.05 <= self.smallest <= self.largest <= 0.7, "0.05 <= smallest <= largest <= 0.7 must hold",
             (self.smallest, self.largest)),
            (0 <= self.others <= 20, "others must lie in 0..20", self.others),
            (0 <= self.distractors <= 20, "distractors must lie in 0..20", self.distractors),
            (0 <= self.occlusion <= 1, "occlusion must lie in 0..1", self.occlusion),
            (0 <= self.dim <= 1, "dim must lie in 0..1", self.dim),
        )  # fmt: skip
        for holds, rule, value in rules:
            if not holds:
                msg = f"drawn scenes: {rule}, got {value}"
                raise InputError(msg)

    def __len__(self) -> int:
        return self.images

    def label_of(self, row: int) -> str:
        """Return the emotion of the main face of a row."""
        if not 0 <= row < self.images:
            msg = f"row must lie in 0..{self.images - 1}, got {row}"
            raise InputError(msg)
        return self.classes[row % len(self.classes)]

    def fingerprint(self) -> str:
        """Return a hash, 16 hexadecimal digits, of the fields and the version of the drawing."""
        fields = json.dumps([SCENE_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]


def parse_scenes(text: str) -> DrawnScenes:
    """Return the set that ``scenes:images=700,size=640,seed=0`` describes; classes are joined by ``+``.

    Raises:
        InputError: If a key is unknown or a value does not fit.
    """
    return parse_fields(DrawnScenes, text.removeprefix("scenes").removeprefix(":"), "scenes")


@dataclass(frozen=True)
class DrawnScene:
    """A drawn scene and its ground truth; row 0 of boxes and landmarks is the main face, which is the largest.

    Attributes:
        image: RGB image, uint8 (H, W, 3).
        boxes: Faces of people from crown to chin, float (N, 4): x0, y0, x1, y1 in pixels, within the image.
        landmarks: float (N, 5, 2) x, y: eye left in the image, right eye, tip of the nose, mouth corners; those of
            a face that the border cuts may lie outside.
        label: Emotion of the main face.
        visible: Visible share of each face, float (N,).
        distractors: Visible faces on posters and statues, float (M, 4).
        subject: Number of the main person.
        person: The main person.
        votes: int64 (C,) votes for the main face in the order of the set's classes.
    """

    image: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    label: str
    visible: np.ndarray
    distractors: np.ndarray
    subject: int
    person: Person
    votes: np.ndarray


@dataclass
class _Face:
    shapes: Shapes
    pose: Pose
    skin: np.ndarray


def draw_scene(spec: DrawnScenes, row: int) -> DrawnScene:
    """Draw one row; the result depends only on the fields of the set and the row number."""
    label = spec.label_of(row)
    generator = np.random.default_rng([spec.seed, _SCENE, row])
    subject = row if spec.subjects is None else int(generator.integers(spec.subjects))
    person = make_person(np.random.default_rng([spec.seed, _PERSON, subject]))
    finer = 2 if spec.size <= 800 else 1  # canvas over image, which smooths the edges of small ones
    long_side = round(spec.size * generator.uniform(0.7, 1.0))
    shape = float(generator.choice(SHAPES, p=(0.4, 0.2, 0.1, 0.2, 0.1)))
    wide, high = (round(long_side * min(1.0, shape)), round(long_side * min(1.0, 1 / shape)))
    canvas = background(generator, max(wide, high) * finer)[: high * finer, : wide * finer].copy()
    angle, power = generator.uniform(0, 2 * np.pi), generator.beta(1.5, 2.0)
    light = (float(np.cos(angle) * power), float(np.sin(angle) * power))

    main = _main_pose(generator, spec, wide * finer, high * finer)
    owner = np.full(canvas.shape[:2], -1, np.int16)  # which face a pixel belongs to; distractors are -2, -3 ...
    distractors = []
    for index in range(generator.integers(spec.distractors + 1)):
        distractors.append(_distractor(generator, spec, canvas, main))
        _part(owner, distractors[-1])[:] = -2 - index
    faces: list[_Face] = []
    poses = _passers_by(generator, int(generator.integers(spec.others + 1)), main, wide * finer, high * finer)
    for pose in [*poses, main]:  # from far to near
        first = pose is main
        who = person if first else make_person(generator)
        mood = express(generator, label if first else str(generator.choice(spec.classes)), spec.confusion)
        shapes, changed = paint_head(generator, canvas, who, mood, pose, light)
        owner[changed] = len(faces)
        faces.append(_Face(shapes, pose, who.skin_rgb))
        if generator.random() < spec.occlusion:
            masked = not first and generator.random() < 0.4
            owner[cover(generator, canvas, shapes, pose, who.skin_rgb, mask=masked)] = -1
        if first:
            votes = vote(generator, mood, spec.classes, spec.annotators)
    visible = np.array([_visible(owner, index, face) for index, face in enumerate(faces)])
    boxes = np.stack([outline_box(face.shapes, face.pose) for face in faces]) / finer
    points = np.stack([_landmarks(face) for face in faces]) / finer
    inside = np.clip(boxes, 0, [wide, high, wide, high])
    seen = (visible >= _SEEN) & ((inside[:, 2:] - inside[:, :2]).min(1) >= _TINY)
    seen[-1] = True
    order = np.flatnonzero(seen)[::-1]  # the main face was painted last
    shown = [box for index, box in enumerate(distractors) if np.mean(_part(owner, box) == -2 - index) >= _SEEN]
    image = cv2.resize(canvas, (wide, high), interpolation=cv2.INTER_AREA)
    return DrawnScene(
        image=camera(generator, image, light, spec.dim, max(wide, high) / 640),
        boxes=inside[order],
        landmarks=points[order],
        label=label,
        visible=visible[order],
        distractors=np.clip(np.reshape(shown, (-1, 4)) / finer, 0, [wide, high, wide, high]),
        subject=subject,
        person=person,
        votes=votes,
    )


def _main_pose(generator: np.random.Generator, spec: DrawnScenes, wide: int, high: int) -> Pose:
    face = min(wide, high) * generator.uniform(spec.smallest, spec.largest)
    edge = 0.62 * face  # the whole head stays in the image
    return Pose(
        yaw=float(np.clip(generator.normal(0, 0.2), -0.5, 0.5)),
        pitch=float(np.clip(generator.normal(0, 0.11), -0.28, 0.28)),
        roll=float(np.clip(generator.normal(0, 0.12), -0.35, 0.35)),
        centre=(
            float(np.clip(wide * generator.uniform(0.25, 0.75), edge, wide - edge)),
            float(np.clip(high * generator.uniform(0.3, 0.6), edge, high - edge)),
        ),
        unit=face / FACE_HEIGHT,
    )


def _passers_by(generator: np.random.Generator, count: int, main: Pose, wide: int, high: int) -> list[Pose]:
    """Return poses of people farther away than the main one, the farthest first, their faces apart from each other."""
    placed: list[Pose] = []
    for _ in range(count * 4):
        unit = main.unit * generator.uniform(0.22, 0.8)
        centre = np.array([generator.uniform(-0.03, 1.03) * wide, generator.uniform(0.15, 0.65) * high])
        apart = all(np.linalg.norm(centre - p.centre) > 1.2 * (unit + p.unit) for p in [*placed, main])
        if apart and len(placed) < count:
            yaw, pitch, roll = (generator.normal(0, 1, 3) * [0.3, 0.1, 0.07]).tolist()
            centre_x, centre_y = centre.tolist()
            placed.append(Pose(float(np.clip(yaw, -0.7, 0.7)), pitch, roll, (centre_x, centre_y), unit))
    return sorted(placed, key=lambda pose: pose.unit)


def _distractor(generator: np.random.Generator, spec: DrawnScenes, canvas: np.ndarray, main: Pose) -> np.ndarray:
    """Put a poster or a statue into the scene, most often beside the main person; return the box of its face."""
    high, wide = canvas.shape[:2]
    who = make_person(generator)
    mood = express(generator, str(generator.choice(spec.classes)), 0.0)
    face = FACE_HEIGHT * main.unit * generator.uniform(0.5, 1.1)
    away = np.sign(wide / 2 - main.centre[0]) or 1.0
    x = main.centre[0] + away * (1.4 * main.unit + face) * generator.uniform(0.8, 1.6)
    y = high * generator.uniform(0.25, 0.6)
    if generator.random() < 0.6:
        tall = round(face / (FACE_HEIGHT * 0.26))
        return poster(generator, canvas, who, mood, (round(x - tall / 3), round(y - 0.4 * tall), tall))
    pose = Pose(generator.normal(0, 0.25), 0.0, 0.0, (float(x), float(y)), face / FACE_HEIGHT)
    return statue(generator, canvas, who, mood, pose)


def _part(owner: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a view of the pixels of a box; at least one pixel, also for a box outside the image."""
    high, wide = owner.shape
    x0, y0, x1, y1 = np.rint(np.clip(box, 0, [wide - 1, high - 1, wide - 1, high - 1])).astype(int)
    return owner[y0 : y1 + 1, x0 : x1 + 1]


def _visible(owner: np.ndarray, index: int, face: _Face) -> float:
    outline = face.pose.place(face.shapes.outline, 0)
    mask = np.zeros(owner.shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    whole = max(1.0, float(cv2.contourArea(outline.astype(np.float32))))
    return float(min(1.0, np.count_nonzero(mask.view(bool) & (owner == index)) / whole))


def _landmarks(face: _Face) -> np.ndarray:
    shapes = face.shapes
    return face.pose.place(np.concatenate([shapes.eye_centres, shapes.nose_tip[None], shapes.corners]))


LAYOUT_VERSION = 1
NAMES = {label: next(name for name in ALIASES[label] if not name.isascii()) for label in KOREAN}  # happy: 기쁨
_AGES = {"child": 10, "young": 20, "adult": 30, "middle-aged": 50, "elderly": 60}
_PLACES = ("숙박 및 거주공간", "공공시설&종교&의료시설", "교통&이동시설", "자연물")
_FEW = 200  # below this, starting processes costs more than it saves
_JITTER = 0.03  # of a face's side, between annotators
_SIDEWAYS = 8  # one in this many photographs is stored turned, with an EXIF tag, as phones do


def prepare_korean(spec: DrawnScenes, directory: Path | None = None, *, workers: int | None = None) -> Path:
    """Return the folder of drawn scenes in the layout of AI-Hub's set, written first if it does not exist.

    Args:
        spec: The scenes. The uploader's label is the emotion that was drawn; annotators may see another one.
        directory: Folder of the sets; default ``drawn`` under :func:`~datamodules.files.paths.cache_root`.
        workers: Drawing processes; default one per core, none for a small set.

    Raises:
        InputError: The scenes' classes are not the set's, there are not three annotators, or nothing can be written.
    """
    if not set(spec.classes) <= set(KOREAN) or spec.annotators != len("ABC"):
        msg = (
            f"the drawn Korean set has 3 annotators and classes among {', '.join(KOREAN)}, got "
            f"{spec.annotators} and {', '.join(spec.classes)}"
        )
        raise InputError(msg)
    folder = (directory or cache_root() / "drawn") / f"korean{LAYOUT_VERSION}-{spec.fingerprint()}"
    if folder.is_dir():
        return folder
    if workers is None:
        workers = 0 if len(spec) < _FEW else cores()
    with processes(workers) as pool, build_once(folder) as (_, draft):
        if draft is not None:
            jobs = [(spec, draft, row) for row in range(len(spec))]
            done = map(_write_scene, jobs) if pool is None else pool.map(_write_scene, jobs, chunksize=8)
            bar = tqdm(done, "Drawing scenes", total=len(jobs), unit="", delay=1, disable=None)
            _write_records(list(bar), draft)
    return folder


def _write_records(records: list[tuple[str, str, dict[str, Any]]], folder: Path) -> None:
    """Write one JSON file per part and emotion; every other one with a byte-order mark, since both occur."""
    files: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for part, emotion, record in records:
        files.setdefault((part, emotion), []).append(record)
    for number, ((part, emotion), part_records) in enumerate(sorted(files.items())):
        short, long = ("TRAIN", "training") if part == "Training" else ("VALID", "validation")
        place = folder / part / f"[라벨]EMOIMG_{emotion}_{short}"
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(part_records, ensure_ascii=False, indent=4)
        encoding = "utf-8-sig" if number % 2 else "utf-8"
        (place / f"img_emotion_{long}_data({emotion}).json").write_text(text, encoding=encoding)


def _write_scene(job: tuple[DrawnScenes, Path, int]) -> tuple[str, str, dict[str, Any]]:
    spec, folder, row = job
    scene = draw_scene(spec, row)
    generator = np.random.default_rng([spec.seed, 23, row])
    part = "Validation" if row % 10 == 9 else "Training"
    emotion, place = NAMES[scene.label], str(generator.choice(_PLACES))
    gender, age = "여" if scene.person.gender == "woman" else "남", _AGES[scene.person.age]
    code = hashlib.sha256(f"{spec.seed}-{scene.subject}".encode()).hexdigest()
    ending = ".jpeg" if row % 13 == 12 else ".jpg"
    name = f"{code}_{gender}_{age}_{emotion}_{place}_20210126{row:06d}-{row % 7:03d}-{row % 40:03d}{ending}"
    source = "EMOIMG_{}_TRAIN_01" if part == "Training" else "EMOIMG_{}_VALID"
    home = folder / part / f"[원천]{source.format(emotion)}"
    home.mkdir(parents=True, exist_ok=True)
    _write_jpeg(home / name, scene.image, sideways=row % _SIDEWAYS == _SIDEWAYS - 1)
    record: dict[str, Any] = {
        "filename": name,
        "gender": gender,
        "age": age,
        "isProf": "전문인" if scene.subject % 3 == 0 else "일반인",
        "faceExp_uploader": emotion,
        "bg_uploader": place,
    }
    answers = generator.permutation(np.repeat([NAMES[label] for label in spec.classes], scene.votes))
    for letter, answer in zip("ABC", answers.tolist(), strict=True):
        record[f"annot_{letter}"] = {"boxes": _seen_box(generator, scene), "faceExp": answer, "bg": place}
    return part, emotion, record


def _seen_box(generator: np.random.Generator, scene: DrawnScene) -> dict[str, float]:
    """Return the main face's box as one annotator draws it."""
    box = scene.boxes[0]
    side = np.tile(box[2:] - box[:2], 2)
    high, wide = scene.image.shape[:2]
    drawn = np.clip(box + side * generator.normal(0, _JITTER, 4), 0, [wide, high, wide, high])
    minimum_x, minimum_y, maximum_x, maximum_y = np.round(drawn, 4).tolist()
    return {"maxX": maximum_x, "maxY": maximum_y, "minX": minimum_x, "minY": minimum_y}


def _write_jpeg(path: Path, image: np.ndarray, *, sideways: bool) -> None:
    """Write a photograph; a sideways one holds its pixels turned, and the EXIF tag that turns them back."""
    exif = Image.Exif()
    if sideways:
        image = cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
        exif[0x0112] = 6
    Image.fromarray(image).save(path, "JPEG", quality=92, exif=exif)
