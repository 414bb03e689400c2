"""Paints hair, beards, scarves and caps."""

import cv2
import numpy as np

from datamodules.drawn_faces.brushes import Easel, colour, fill, oval, shift, stroke, strokes
from datamodules.drawn_faces.geometry import outline_of


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
        # The colour of scarf and cap belongs to the person, so it is made of fixed traits, not drawn anew.
        hue = int(abs(self.person.rest.sum()) * 1e4) % 180
        return cv2.cvtColor(np.array([[[hue, 110, 150]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(float)
