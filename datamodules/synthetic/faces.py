"""Draw one face of a set of drawn faces: the image and its ground truth."""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.synthetic.action_units import DrawnFaces, express, vote
from datamodules.synthetic.geometry import Person, Pose, Shapes, make_person, shapes_of
from datamodules.synthetic.painting import Painter, fill
from datamodules.synthetic.scenes import background, foreground, photograph

_FINER = 2  # the canvas is this many times larger than the image, which smooths edges
_PERSON, _IMAGE = 11, 12  # random streams, so that a person looks the same in every image


@dataclass(frozen=True)
class DrawnFace:
    """A drawn face and its ground truth.

    Attributes:
        image: RGB image, uint8 (size, size, 3).
        label: Emotion it was drawn for.
        subject: Number of the person.
        age: One of ``geometry.AGES``.
        gender: Gender presentation, one of ``geometry.GENDERS``.
        skin: One of ``geometry.SKINS``.
        strength: How strong the expression is, 0 to 1.
        box: The face from crown to chin, float (4,): x0, y0, x1, y1 in pixels, within the image.
        landmarks: float (5, 2) x, y: eye left in the image, right eye, tip of the nose, left and right mouth corner.
        masks: bool (size, size) for ``face``, ``eyes``, ``brows``, ``nose``, ``mouth``.
        votes: int64 (C,) votes of the annotators in the order of the set's classes.
    """

    image: np.ndarray
    label: str
    subject: int
    age: str
    gender: str
    skin: str
    strength: float
    box: np.ndarray
    landmarks: np.ndarray
    masks: dict[str, np.ndarray]
    votes: np.ndarray


def subject_of(spec: DrawnFaces, row: int) -> int:
    """Return the person of a row: the row's own, or one of ``spec.subjects``."""
    if spec.subjects is None:
        return row
    return int(np.random.default_rng([spec.seed, _PERSON, 0, row]).integers(spec.subjects))


def draw(spec: DrawnFaces, row: int) -> DrawnFace:
    """Draw one row; the result depends only on the fields of the set and the row number."""
    label = spec.label_of(row)
    subject = subject_of(spec, row)
    person = make_person(np.random.default_rng([spec.seed, _PERSON, 1, subject]), spec.childlike)
    generator = np.random.default_rng([spec.seed, _IMAGE, row])
    face = express(generator, label, spec.confusion)
    votes = vote(generator, face, spec.classes, spec.annotators)
    shapes = shapes_of(person, face)
    side = spec.size * _FINER
    pose = _pose(generator, side)
    angle, power = generator.uniform(0, 2 * np.pi), generator.beta(1.5, 2.0)
    light = (float(np.cos(angle) * power), float(np.sin(angle) * power))

    canvas = background(generator, side)
    Painter(canvas, person, face, shapes, pose, light, generator).paint()
    foreground(generator, canvas)
    image = photograph(generator, canvas, spec.size, light)
    outline = np.clip(pose.place(shapes.outline, 0) / _FINER, 0, spec.size)
    return DrawnFace(
        image=image,
        label=label,
        subject=subject,
        age=person.age,
        gender=person.gender,
        skin=person.skin,
        strength=face.strength,
        box=np.concatenate([outline.min(0), outline.max(0)]),
        landmarks=_landmarks(shapes, pose) / _FINER,
        masks=_masks(person, shapes, pose, spec.size),
        votes=votes,
    )


def _pose(generator: np.random.Generator, side: int) -> Pose:
    shift = np.clip(generator.normal(0, 0.03, 2), -0.08, 0.08)
    return Pose(
        yaw=float(np.clip(generator.normal(0, 0.20), -0.5, 0.5)),
        pitch=float(np.clip(generator.normal(0, 0.11), -0.28, 0.28)),
        roll=float(np.clip(generator.normal(0, 0.10), -0.3, 0.3)),
        centre=(side * (0.5 + float(shift[0])), side * (0.52 + float(shift[1]))),
        unit=side * float(generator.uniform(0.31, 0.40)),
    )


def _landmarks(shapes: Shapes, pose: Pose) -> np.ndarray:
    return pose.place(np.concatenate([shapes.eye_centres, shapes.nose_tip[None], shapes.corners]))


def _masks(person: Person, shapes: Shapes, pose: Pose, size: int) -> dict[str, np.ndarray]:
    """Return where each region lies; a brow's or eye's region is its painted outline."""
    regions: dict[str, tuple[np.ndarray, ...]] = {
        "eyes": shapes.eyes,
        "brows": shapes.brows,
        "nose": (shapes.nose,),
        "mouth": (shapes.mouth,),
    }
    masks = {}
    for name, outlines in regions.items():
        mask = np.zeros((size, size), np.uint8)
        for points in outlines:
            fill(mask, pose.place(points) / _FINER, 255.0)
        masks[name] = mask > 127
    mask = np.zeros((size, size), np.uint8)
    fill(mask, pose.place(shapes.outline, 0) / _FINER, 255.0)
    masks["face"] = mask > 127
    return masks


def contact_sheet(spec: DrawnFaces, people: int) -> np.ndarray:
    """Return the first faces of each class, one column per class: uint8 (people * size, classes * size, 3) RGB."""
    starts = np.concatenate([[0], spec.counts.cumsum()[:-1]])
    shown = min(people, int(spec.counts.min()))
    columns = [np.concatenate([draw(spec, start + step).image for step in range(shown)]) for start in starts.tolist()]
    return cv2.hconcat(columns)
