"""What stands in a drawn scene besides its faces: printed faces, stone faces, things in front, the camera's faults."""

import cv2
import numpy as np

from datamodules.drawn_faces.brushes import colour, fill, oval, shift
from datamodules.drawn_faces.expressions import Expression
from datamodules.drawn_faces.geometry import Pose, Shapes, shapes_of
from datamodules.drawn_faces.painting import Painter
from datamodules.drawn_faces.people import Person
from datamodules.drawn_faces.scenery import background

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


def _differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(cv2.absdiff(one, other))
    return cv2.bitwise_or(cv2.bitwise_or(red, green), blue).astype(bool)


def outline_box(shapes: Shapes, pose: Pose) -> np.ndarray:
    """Return the box of a face from crown to chin, float (4,): x0, y0, x1, y1, also where it leaves the picture."""
    outline = pose.place(shapes.outline, 0)
    return np.concatenate([outline.min(0), outline.max(0)])


def poster(
    generator: np.random.Generator, canvas: np.ndarray, person: Person, face: Expression, place: tuple[int, int, int]
) -> np.ndarray:
    """Hang a printed face on the wall: few inks, a frame, lines of text. Return the printed face's box, float (4,).

    Args:
        generator: Source of chance.
        canvas: (H, W, 3), painted upon.
        person: Who is printed.
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
    """Set up a bust of stone or bronze on a plinth; return the box of its face, float (4,)."""
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
    """Put a thing before a face: a hand, a cup, a post, or a mask over nose and mouth. Return its pixels, bool (H, W).

    Nothing but the mask reaches the middle of the face, so that an expression stays to be seen.
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
    """Return a picture as a camera would take it: light, colour cast, blur, grain; ``dim`` makes evening of day."""
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
