"""Paints one head on a canvas: hair behind, skin and its shadows, features, hair in front, glasses."""

import cv2
import numpy as np

from datamodules.drawn_faces.brushes import colour, fill, oval, shift, stroke
from datamodules.drawn_faces.geometry import outline_of
from datamodules.drawn_faces.hair import HairPainter


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
