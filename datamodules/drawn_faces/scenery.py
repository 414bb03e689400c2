"""What stands around a drawn face: background, things in front, light, and the camera's faults."""

import cv2
import numpy as np

from datamodules.drawn_faces.brushes import colour, fill, oval


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
    """Sometimes put a thing before the face: a blurred edge, a bar, a cup or a hand at the border."""
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
