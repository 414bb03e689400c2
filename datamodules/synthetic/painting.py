"""Paint one head on a canvas: hair behind, skin and its shadows, features, hair in front, glasses."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from datamodules.synthetic.action_units import Expression
from datamodules.synthetic.geometry import Person, Pose, Shapes, outline_of

_BITS = 4  # sub-pixel bits of cv2's fixed-point coordinates
Colour = tuple[float, float, float] | float


def fixed(points: np.ndarray) -> np.ndarray:
    """Return pixel positions as cv2's fixed-point integers."""
    return np.rint(points * (1 << _BITS)).astype(np.int32)


def colour(rgb: np.ndarray, factor: float = 1.0) -> tuple[float, float, float]:
    """Return a colour that cv2 takes, made lighter or darker."""
    r, g, b = np.clip(np.asarray(rgb) * factor, 0, 255).tolist()
    return r, g, b


def fill(canvas: np.ndarray, points: np.ndarray, ink: Colour) -> None:
    """Fill a polygon of pixel positions."""
    cv2.fillPoly(canvas, [fixed(points)], ink, cv2.LINE_AA, _BITS)


def strokes(canvas: np.ndarray, lines: np.ndarray, ink: Colour, width: float) -> None:
    """Draw many lines of equal length, (n, points, 2)."""
    cv2.polylines(canvas, list(fixed(lines)), False, ink, max(1, round(width)), cv2.LINE_AA, _BITS)


def stroke(canvas: np.ndarray, points: np.ndarray, ink: Colour, width: float, closed: bool = False) -> None:
    """Draw a line through pixel positions."""
    cv2.polylines(canvas, [fixed(points)], closed, ink, max(1, round(width)), cv2.LINE_AA, _BITS)


def shift(x: float, y: float) -> np.ndarray:
    """Return what moves points (n, 2) by x and y."""
    return np.array([x, y])


def oval(x: float, y: float, wide: float, high: float, count: int = 20) -> np.ndarray:
    """Return an ellipse as points (count, 2)."""
    return _circle(count) * (wide, high) + (x, y)


@lru_cache
def _circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


@dataclass
class Easel:
    """A canvas and the head to be painted on it."""

    canvas: np.ndarray  # (S, S, 3) uint8 RGB
    person: Person
    face: Expression
    shapes: Shapes
    pose: Pose
    light: tuple[float, float]  # direction the light comes from, length = strength
    generator: np.random.Generator

    def blend(self, points: np.ndarray, rgb: np.ndarray, share: float) -> None:
        """Fill a polygon, letting what is below show through."""
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int), 0)
        x1, y1 = np.ceil(points.max(0)).astype(int) + 1
        part = self.canvas[y0:y1, x0:x1]
        if part.size:
            over = part.copy()
            fill(over, points - np.array([x0, y0]), colour(rgb))
            part[:] = cv2.addWeighted(over, share, part, 1 - share, 0)


class HairPainter(Easel):
    """Paints what grows or is worn on a head."""

    def hair_behind(self) -> None:
        """Paint what hangs behind the head."""
        person, style = self.person, self.person.hair_style
        ink = colour(person.hair_rgb, 0.72)
        w = person.width
        if style in ("long", "bob"):
            low = 1.35 if style == "long" else 0.62
            wave = 0.05 * np.sin(np.linspace(0, 9, 14)) * (self.generator.random() < 0.6)
            side = np.stack([w * 1.12 + wave, np.linspace(-0.7, low, 14)], 1)
            crown = oval(0, -0.45, w * 1.15, 0.82, 24)
            crown = crown[crown[:, 1] < -0.45]
            points = np.concatenate([side[::-1], crown[np.argsort(-crown[:, 0])], side * np.array([-1, 1])])
            fill(self.canvas, self.pose.place(points, -0.2), ink)
        elif style == "afro":
            fill(self.canvas, self.pose.place(oval(0, -0.45, w * 1.45, 1.08), -0.15), ink)
            for x, y in oval(0, -0.45, w * 1.38, 1.02, 18):
                fill(self.canvas, self.pose.place(oval(x, y, 0.18, 0.18, 10), -0.15), ink)
        elif style == "bun":
            fill(self.canvas, self.pose.place(oval(0.05, -1.22, 0.32, 0.27), -0.1), ink)
        elif style == "scarf":
            fill(self.canvas, self.pose.place(oval(0, 0.1, w * 1.32, 1.45), -0.1), colour(self._cloth(), 0.8))

    def hair_in_front(self) -> None:
        """Paint the hair that frames the forehead, or a scarf or cap."""
        person, style = self.person, self.person.hair_style
        if style == "bald":
            return
        hair = style not in ("scarf", "cap")
        volume = {"receding": 1.03, "bun": 1.07, "scarf": 1.10, "cap": 1.12, "afro": 1.25}.get(style, 1.13)
        head = outline_of(person, self.shapes.chin_y, 1.0)
        low = {"short": -0.24, "side": -0.2, "fringe": -0.1, "receding": -0.1, "afro": -0.1, "cap": -0.4}.get(
            style, 0.0
        )
        top = head[head[:, 1] < low] * [volume, volume]
        top = top[np.argsort(top[:, 0])]
        if hair:  # loose ends
            tousle = 0.022 if style in ("bun", "bob", "long") else 0.045
            top = top * (1 + tousle * np.sin(np.arange(len(top)) * 2.4 + 40 * person.rest[0])[:, None])
        w = person.width
        line = person.eye_y - person.brow_gap - 0.30 + 0.04 * person.childness  # height of the hairline
        if style == "side":
            edge = np.array([[0.97, low + 0.05], [0.88, line + 0.14], [0.62, line - 0.02], [0.2, line - 0.12]])
            edge = np.concatenate([edge, [[-0.45, line - 0.26], [-0.86, line + 0.06], [-0.97, low + 0.05]]]) * [w, 1]
            edge *= [1 if person.rest[1] > 0 else -1, 1]
            edge = edge if person.rest[1] > 0 else edge[::-1]
        elif style == "fringe":
            teeth = np.linspace(0.95, -0.95, 11)
            comb = 0.19 - 0.05 * (np.arange(11) % 2) + 0.03 * np.cos(teeth * 3) + 0.10 * np.abs(teeth) ** 4
            edge = np.stack([w * teeth, line + comb], 1)
        elif style == "receding":
            edge = np.array([[0.97, low + 0.1], [0.86, line - 0.02], [0.5, line - 0.30], [0, line - 0.18]])
            edge = np.concatenate([edge, [[-0.5, line - 0.30], [-0.86, line - 0.02], [-0.97, low + 0.1]]]) * [w, 1]
        elif style == "cap":
            edge = np.stack([np.linspace(1.0, -1.0, 9) * w, line + 0.16 - 0.05 * np.cos(np.linspace(-1.5, 1.5, 9))], 1)
        else:
            rise = 0.10 if style in ("bun", "scarf") else 0.02
            along = np.linspace(0.95, -0.95, 11)
            edge = np.stack([along * w, line - rise + 0.42 * np.abs(along) ** 3.5], 1)
            if style == "short":  # sideburns and an uneven line
                edge[:, 1] += 0.025 * np.cos(np.arange(11) * 2.1 + 30 * person.rest[2])
        ink = person.hair_rgb if hair else self._cloth()
        fill(self.canvas, self.pose.place(np.concatenate([top, edge]), 0.08), colour(ink))
        if style == "cap":
            brim = np.concatenate([edge, edge[::-1] + shift(0, 0.13)]) * [1.06, 1]
            fill(self.canvas, self.pose.place(brim, 0.45), colour(ink, 0.7))
        elif style == "scarf":
            ring = outline_of(person, self.shapes.chin_y, 1.02)
            stroke(self.canvas, self.pose.place(ring, 0.02), colour(ink), 0.16 * self.pose.unit, closed=True)
        else:
            self._strands(edge, volume)

    def _strands(self, edge: np.ndarray, volume: float) -> None:
        """Draw hair from the crown to the hairline, darker and lighter than its ground."""
        rgb, unit = self.person.hair_rgb, self.pose.unit
        ends = self.generator.uniform(0, len(edge) - 1.001, 28)
        step = ends.astype(int)[:, None]
        reached = edge[step[:, 0]] + (ends[:, None] - step) * (edge[step[:, 0] + 1] - edge[step[:, 0]])  # (28, 2)
        crown = np.stack([reached[:, 0] * 0.30, np.full(28, -1.10 * volume)], 1)
        middle = np.stack([reached[:, 0] * 0.88, (reached[:, 1] * 0.40 - 0.62 * volume)], 1)
        lines = self.pose.place(np.stack([crown, middle, reached], 1).reshape(-1, 2), 0.10).reshape(-1, 3, 2)
        light = colour(rgb, 1.22) if rgb.mean() > 60 else colour(rgb + 18)
        for chosen, ink in ((lines[:16], colour(rgb, 0.72)), (lines[16:], light)):
            strokes(self.canvas, chosen, ink, 0.014 * unit)

    def beard(self) -> None:
        """Paint stubble, moustache or a full beard, leaving the mouth free."""
        person, shapes, place = self.person, self.shapes, self.pose.place
        if person.beard == "none":
            return
        top = shapes.upper_lip[:, 1].min()
        low = shapes.lower_lip[:, 1].max()
        outline = shapes.outline[(shapes.outline[:, 1] > 0.28)]
        right, left = outline[outline[:, 0] >= 0], outline[outline[:, 0] < 0]
        right, left = right[np.argsort(right[:, 1])], left[np.argsort(-left[:, 1])]
        half = float(shapes.corners[1, 0] - shapes.corners[0, 0]) / 2 + 0.05
        jaw = np.concatenate(
            [right, left, [[-half, top - 0.02], [-half, low + 0.04], [half, low + 0.04], [half, top - 0.02]]]
        )
        moustache = np.array(
            [
                [-half, top + 0.03],
                [-0.12, top - 0.09],
                [0, top - 0.075],
                [0.12, top - 0.09],
                [half, top + 0.03],
                [half * 0.5, top + 0.005],
                [0, top + 0.015],
                [-half * 0.5, top + 0.005],
            ]
        )
        if person.beard in ("stubble", "full"):
            share = 0.28 if person.beard == "stubble" else 0.92
            self.blend(place(jaw, None), person.hair_rgb * 0.9, share)
            self.blend(place(moustache), person.hair_rgb * 0.9, share)
        else:
            self.blend(place(moustache), person.hair_rgb * 0.85, 0.95)

    def _cloth(self) -> np.ndarray:
        # The colour of scarf and cap belongs to the person, so it follows from fixed traits and is not drawn again.
        hue = int(abs(self.person.rest.sum()) * 1e4) % 180
        return cv2.cvtColor(np.array([[[hue, 110, 150]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(float)


class Painter(HairPainter):
    """Paints the whole head; each method paints one thing."""

    def paint(self) -> None:
        """Paint everything, back to front."""
        self.hair_behind()
        self.neck()
        self.ears()
        fill(self.canvas, self.pose.place(self.shapes.outline, 0), colour(self.person.skin_rgb))
        self.shadows()
        self.wrinkles()
        self.eyes()
        self.nose()
        self.mouth()
        self.brows()
        self.beard()
        self.hair_in_front()
        if self.person.glasses:
            self.glasses()

    def neck(self) -> None:
        """Paint neck and shoulders in a garment."""
        person = self.person
        half = person.width * (0.50 + 0.1 * (person.gender == "man") - 0.08 * person.childness)
        neck = np.array([[-half, 0.4], [half, 0.4], [half * 1.1, 1.45], [-half * 1.1, 1.45]])
        fill(self.canvas, self.pose.place(neck, -0.12), colour(person.skin_rgb, 0.74))
        shoulder = 1.55 + 0.25 * (person.gender == "man") - 0.35 * person.childness
        body = np.array([[-half * 1.25, 1.28], [0, 1.5], [half * 1.25, 1.28], [shoulder, 1.6], [shoulder + 0.4, 3.4]])
        body = np.concatenate([body, [[shoulder + 0.4, 15.0]]])  # to the feet, seen where the head is small
        body = np.concatenate([body, body[::-1][:3] * np.array([-1, 1])])
        ink = self.generator.uniform(20, 235, 3)
        fill(self.canvas, self.pose.place(body, -0.2), colour(ink))
        if self.generator.random() < 0.5:
            collar = np.array([[-half * 1.25, 1.28], [0, 1.5], [half * 1.25, 1.28]])
            stroke(self.canvas, self.pose.place(collar, -0.2), colour(ink, 0.6), 0.06 * self.pose.unit)

    def ears(self) -> None:
        """Paint both ears; the head hides the far one when it turns."""
        if self.person.hair_style in ("long", "bob", "scarf", "afro"):
            return
        for side in (-1, 1):
            ear = oval(side * self.person.width * 1.0, 0.06, 0.11, 0.20 + 0.03 * self.person.oldness)
            fill(self.canvas, self.pose.place(ear, -0.05), colour(self.person.skin_rgb, 0.86))

    def shadows(self) -> None:
        """Darken and lighten the skin softly: light from one side, sockets, cheeks, nose, folds, below the lip."""
        face, shapes, person = self.face, self.shapes, self.person
        shade = np.full(self.canvas.shape[:2], 128, np.uint8)
        inner = outline_of(person, shapes.chin_y, 0.86) + shift(0.10 * self.light[0], 0.10 * self.light[1])
        fill(shade, self.pose.place(shapes.outline, 0), 104.0)
        fill(shade, self.pose.place(inner, 0), 130.0)
        place = self.pose.place
        for sign, eye in zip((-1, 1), shapes.eye_centres, strict=True):
            fill(shade, place(oval(eye[0], eye[1] - 0.06, 0.23, 0.15)), 112.0)
            fill(shade, place(oval(eye[0] * 0.97, eye[1] + 0.15, 0.15, 0.05)), 118.0 - 12 * person.oldness)
            smile = face["smile_left" if sign < 0 else "smile_right"]
            raised = max(face["cheek"], 0.8 * smile)
            fill(shade, place(oval(sign * 0.44, 0.36 - 0.06 * raised, 0.21, 0.15)), 132.0 + 10 * raised)
            # The fold from nose to mouth: smiles, disgust, age.
            depth = min(1.0, 0.65 * smile + 0.7 * face["upper_lip"] + 0.5 * face["nose_wrinkle"] + 0.5 * person.oldness)
            corner = shapes.corners[0 if sign < 0 else 1]
            wing = np.array([sign * (person.nose_w + 0.03), person.nose_y - 0.04])
            bend = (wing + corner) / 2 + np.array([sign * (0.09 + 0.06 * smile), -0.01])
            fold = np.stack([wing, bend, corner + np.array([sign * 0.07, 0.0])])
            stroke(shade, place(fold), 128.0 - 46 * depth, 0.055 * self.pose.unit)
        nose_shade = shapes.nose.copy()
        fill(shade, place(nose_shade + np.array([-0.05 * np.sign(self.light[0]), 0.03])), 112.0)
        fill(shade, place(np.array([[-0.04, -0.15], [0.04, -0.15], [0.05, 0.2], [-0.05, 0.2]]) * [1, 1], None), 140.0)
        mouth_low = shapes.lower_lip[:, 1].max()
        fill(shade, place(oval(0, mouth_low + 0.06, 0.17, 0.035)), 106.0 - 12 * face["chin"])
        if face["chin"] > 0.3:
            for x in (-0.1, 0.0, 0.1):
                fill(shade, place(oval(x, mouth_low + 0.15, 0.03, 0.02, 8)), 116.0)
        blur = max(3, int(0.16 * self.pose.unit) | 1)
        shade[:] = cv2.GaussianBlur(shade, (blur, blur), 0)
        factor = cv2.merge([shade, shade, shade])
        self.canvas[:] = cv2.multiply(self.canvas, factor, scale=1 / 128)
        if person.childness > 0.4 or (person.gender == "woman" and person.rest[0] > 0):
            for sign in (-1, 1):
                self.blend(place(oval(sign * 0.46, 0.38, 0.15, 0.11)), person.skin_rgb * [1.02, 0.82, 0.80], 0.35)

    def wrinkles(self) -> None:
        """Draw thin lines of age and of strong movements."""
        face, person, place = self.face, self.person, self.pose.place
        unit = self.pose.unit

        def line(points: list[tuple[float, float]], depth: float) -> None:
            if depth > 0.15:
                ink = colour(person.skin_rgb, 1 - 0.42 * min(depth, 1.0))
                stroke(self.canvas, place(np.array(points)), ink, 0.018 * unit)

        top = person.eye_y - person.brow_gap
        raised = max(face["inner_brow"], face["outer_brow"]) * (0.75 - 0.4 * person.childness) + 0.4 * person.oldness
        reach = 0.18 if face["inner_brow"] > face["outer_brow"] + 0.3 else 0.36
        for level in (0.22, 0.32, 0.42):
            y = top - level - 0.06 * face["inner_brow"]
            line([(-reach, y + 0.02), (-reach / 2, y - 0.01), (reach / 2, y - 0.01), (reach, y + 0.02)], raised - level)
        frown = face["frown"] * (1 - 0.3 * person.childness) + 0.2 * person.oldness
        for sign in (-1, 1):
            line([(sign * 0.05, top + 0.10), (sign * 0.065, top - 0.08)], frown)
            crow = max(face["cheek"] * 0.8, 0.0) * (1 - 0.6 * person.childness) + 0.6 * person.oldness
            x, y = sign * (person.eye_x + person.eye_w + 0.05), person.eye_y
            for slope in (-0.06, 0.01, 0.07):
                line([(x, y + slope * 0.4), (x + sign * 0.10, y + slope * 1.3)], crow - 0.15)
            line([(sign * 0.03, 0.02), (sign * 0.11, -0.06)], face["nose_wrinkle"])
            line([(sign * 0.03, 0.09), (sign * 0.12, 0.03)], face["nose_wrinkle"] * 0.9)
            x = sign * person.eye_x
            line(
                [(x - 0.13, y + 0.15), (x, y + 0.19), (x + 0.13, y + 0.15)],
                person.oldness * 0.8 + 0.3 * face["lid_tight"],
            )

    def eyes(self) -> None:
        """Paint whites, irises and lids; the gaze wanders a little, downwards when the lids droop."""
        face, person, unit = self.face, self.person, self.pose.unit
        gaze = self.generator.normal(0, 0.028, 2) * [1.2, 0.5] + [0, 0.03 * face["droop"]]
        layer, mask = self.canvas.copy(), np.zeros(self.canvas.shape[:2], np.uint8)
        white = 236 - 10 * person.oldness
        for eye, centre in zip(self.shapes.eyes, self.shapes.eye_centres, strict=True):
            edge = self.pose.place(eye)
            fill(mask, edge, 255.0)
            fill(layer, edge, (white, white - 4, white - 8))
            iris = centre + gaze + [0, -0.012]
            radius = person.eye_w * 0.47
            fill(layer, self.pose.place(oval(iris[0], iris[1], radius, radius)), colour(person.eye_rgb))
            fill(layer, self.pose.place(oval(iris[0], iris[1], radius * 0.5, radius * 0.5, 12)), (12.0, 10.0, 10.0))
            fill(layer, self.pose.place(oval(iris[0] + 0.025, iris[1] - 0.03, 0.016, 0.016, 8)), (250.0, 250.0, 250.0))
            shadow = eye[:11] + shift(0, 0.012)
            stroke(layer, self.pose.place(shadow), (150.0, 135.0, 128.0), 0.022 * unit)
        cv2.copyTo(layer, mask, self.canvas)
        lash = colour(np.array([36, 24, 20]) * (1 + 0.6 * person.oldness))
        made_up = 1.35 if person.gender == "woman" and person.childness < 0.5 else 1.0
        for sign, eye in zip((-1, 1), self.shapes.eyes, strict=True):
            stroke(self.canvas, self.pose.place(eye[:11]), lash, 0.032 * unit * made_up)
            low = np.concatenate([eye[10:], eye[:1]])
            stroke(self.canvas, self.pose.place(low), colour(person.skin_rgb, 0.62), 0.014 * unit)
            crease = eye[1:10] - [0, 0.045 + 0.02 * person.oldness - 0.02 * face["lid_raise"]]
            stroke(self.canvas, self.pose.place(crease), colour(person.skin_rgb, 0.70), 0.014 * unit)
            if made_up > 1:
                outer = eye[10 if sign > 0 else 0]
                wing = np.stack([outer, outer + shift(sign * 0.045, -0.035)])
                stroke(self.canvas, self.pose.place(wing), lash, 0.022 * unit)

    def nose(self) -> None:
        """Paint the wings, nostrils and a highlight on the tip."""
        person, shapes, unit = self.person, self.shapes, self.pose.unit
        lifted = shapes.nose_tip + shift(0.10 * np.sin(self.pose.yaw), 0)
        dark = colour(person.skin_rgb, 0.52)
        base = shapes.nose[5][1]
        half = float(np.abs(shapes.nose[:, 0]).max())
        for sign in (-1, 1):
            wing = np.array(
                [[sign * half * 0.86, base - 0.16], [sign * half * 1.03, base - 0.07], [sign * half * 0.8, base - 0.01]]
            )
            stroke(self.canvas, self.pose.place(wing), colour(person.skin_rgb, 0.66), 0.02 * unit)
            fill(self.canvas, self.pose.place(oval(sign * half * 0.45, base - 0.035, half * 0.24, 0.020, 10)), dark)
        under = np.array([[-half * 0.4, base - 0.02], [0, base + 0.005], [half * 0.4, base - 0.02]])
        stroke(self.canvas, self.pose.place(under), colour(person.skin_rgb, 0.66), 0.016 * unit)
        self.blend(self.pose.place(oval(lifted[0], lifted[1] - 0.03, 0.035, 0.045, 10)), person.skin_rgb * 1.25, 0.5)

    def mouth(self) -> None:
        """Paint the open mouth with teeth and tongue, the lips, and the line between them."""
        shapes, person, place, unit = self.shapes, self.person, self.pose.place, self.pose.unit
        inside = shapes.mouth_inside
        gap = float(inside[11:][::-1][5, 1] - inside[5, 1])
        if gap > 0.015:
            fill(self.canvas, place(inside), (62.0, 16.0, 20.0))
            if gap > 0.15:
                tongue = oval(0, inside[:, 1].max() - 0.03, person.mouth_w * 0.55, min(0.35 * gap, 0.07), 14)
                fill(self.canvas, place(tongue), (176.0, 78.0, 84.0))
            tone = 238.0 - 28 * person.oldness
            fill(self.canvas, place(shapes.upper_teeth), (tone, tone - 4, tone - 16))
        fill(self.canvas, place(shapes.upper_lip), colour(person.lip_rgb, 0.90))
        fill(self.canvas, place(shapes.lower_lip), colour(person.lip_rgb, 1.03))
        dark = colour(person.lip_rgb, 0.42)
        stroke(self.canvas, place(inside[:11]), dark, 0.024 * unit)
        for corner, sign in zip(shapes.corners, (-1, 1), strict=True):
            smile = self.face["smile_left" if sign < 0 else "smile_right"]
            tick = np.stack([corner, corner + shift(sign * 0.03, -0.035 * smile + 0.03 * self.face["corner_down"])])
            stroke(self.canvas, place(tick), dark, 0.022 * unit)

    def brows(self) -> None:
        """Paint the brows."""
        old = self.person.hair_rgb
        ink = colour(old * 0.8 if old.mean() < 120 else old * 0.72 + self.person.skin_rgb * 0.08)
        for brow in self.shapes.brows:
            fill(self.canvas, self.pose.place(brow), ink)

    def glasses(self) -> None:
        """Paint a frame around the eyes."""
        ink = colour(np.array([30, 28, 32]) if self.person.rest[1] > 0 else np.array([120, 90, 60]))
        width = 0.028 * self.pose.unit
        for x, y in self.shapes.eye_centres:
            stroke(self.canvas, self.pose.place(oval(x, y + 0.02, 0.255, 0.19)), ink, width, closed=True)
        bridge = np.array([[-0.11, 0.0], [0, -0.03], [0.11, 0.0]]) + shift(0, self.person.eye_y)
        stroke(self.canvas, self.pose.place(bridge), ink, width)
        for sign in (-1, 1):
            arm = np.array(
                [[sign * (self.person.eye_x + 0.25), self.person.eye_y], [sign * self.person.width, self.person.eye_y]]
            )
            stroke(self.canvas, self.pose.place(arm, 0.2), ink, width)
