"""Drawn scenes: a person somewhere, passers-by, posters and statues around, and the truth about every face."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.drawn_faces.expressions import PROTOTYPES, express, vote
from datamodules.drawn_faces.geometry import Pose, Shapes
from datamodules.drawn_faces.people import Person, make_person
from datamodules.drawn_faces.scene_parts import FACE_HEIGHT, camera, cover, outline_box, paint_head, poster, statue
from datamodules.drawn_faces.scenery import background
from datamodules.drawn_faces.spec import parse_fields
from datamodules.errors import InputError

KOREAN = ("happy", "angry", "sad", "anxious", "embarrassed", "hurt", "neutral")
SCENE_VERSION = 1  # raised whenever the same seed would give other pixels
SHAPES = (3 / 4, 9 / 16, 1.0, 4 / 3, 16 / 9)  # width over height of what phones take
_PERSON, _SCENE = 21, 22  # random streams, so that a person looks the same in every scene
_SEEN = 0.3  # share of a face that must be seen for it to count
_TINY = 6.0  # pixels


@dataclass(frozen=True)
class DrawnScenes:
    """A set of drawn scenes; the same fields give the same pixels. Classes take turns, row by row.

    Attributes:
        images: Number of scenes.
        size: Longer side of the largest pictures, 96 to 4096; the smallest are 0.7 of it.
        seed: Seed of people, expressions and scenes.
        subjects: Number of people who are photographed; None draws everybody once.
        annotators: Votes for the main face.
        confusion: 0 draws clear expressions, 1 faint and mixed ones.
        classes: Emotions of the main face.
        smallest: Height of the main face over the shorter side, at least ...
        largest: ... and at most.
        others: At most so many passers-by, whose faces are smaller and count as faces.
        distractors: At most so many posters and statues, whose faces do not count.
        occlusion: Probability that a thing covers part of a face.
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
        """Return 16 hexadecimal digits that stand for the fields and the version of the drawing."""
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
    """A drawn scene and the truth about it; row 0 of boxes and landmarks is the main face, which is the largest.

    Attributes:
        image: RGB picture, uint8 (H, W, 3).
        boxes: Faces of people from crown to chin, float (N, 4): x0, y0, x1, y1 in pixels, within the picture.
        landmarks: float (N, 5, 2) x, y: eye left in the picture, right eye, tip of the nose, mouth corners; those of
            a face that the border cuts may lie outside.
        label: Emotion of the main face.
        visible: Share of each face that is seen, float (N,).
        distractors: Faces on posters and statues that are seen, float (M, 4).
        subject: Number of the main person.
        person: Who that is.
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
    """Draw one row; it depends on nothing but the set's fields and the row's number."""
    label = spec.label_of(row)
    generator = np.random.default_rng([spec.seed, _SCENE, row])
    subject = row if spec.subjects is None else int(generator.integers(spec.subjects))
    person = make_person(np.random.default_rng([spec.seed, _PERSON, subject]))
    finer = 2 if spec.size <= 800 else 1  # canvas over picture, which smooths the edges of small ones
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
    edge = 0.62 * face  # the whole head stays in the picture
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
    """Return the pixels of a box, a view; at least one, so that a box outside has something to say."""
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
