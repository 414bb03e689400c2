"""Images with the answers of a model drawn on them: boxes of faces, and a bar for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.errors import InputError
from datamodules.files.images import Decoded, decode_bytes, decode_file
from datamodules.files.paths import on_disk, replacing
from datamodules.unlabelled import VIDEOS

WIDTH = 900  # pixels of a drawing at most
PANEL = 260  # pixels of the column of bars
LINE = 22
BLUE, GREY, INK, PAPER = (31, 119, 180), (210, 210, 210), (30, 30, 30), (255, 255, 255)


def draw_answers(rows: Sequence[dict[str, Any]], classes: Sequence[str], folder: Path, stdin: bytes | None) -> None:
    """Write one PNG per image or frame, named by its number in the folder and its file.

    Args:
        rows: Of `Predictor.stream`.
        classes: Names of the classes.
        folder: It exists.
        stdin: Bytes of the image called -.

    Raises:
        InputError: A drawing cannot be written.
    """
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["path"], row["frame"]), []).append(row)
    for (path, frame), answers in groups.items():
        try:
            decoded = _image(path, frame, stdin)
        except InputError:
            continue  # its row says so
        number = sum(1 for _ in folder.iterdir())
        name = f"{number:06d}-{'stdin' if path == '-' else Path(path).stem}{'' if frame is None else f'-{frame}'}.png"
        try:
            with replacing(folder / name, suffix=".png") as part:
                draw_image(decoded.image, answers, classes, decoded.reduced).save(part)
        except OSError as error:
            msg = f"--draw: cannot write {folder / name}: {error.strerror or error}; free space or name another folder"
            raise InputError(msg) from error


def _image(path: str, frame: int | None, stdin: bytes | None) -> Decoded:
    if path == "-":
        return decode_bytes(stdin or b"", "-")
    if frame is None or Path(path).suffix.lower() not in VIDEOS:
        return decode_file(on_disk(path))
    video = cv2.VideoCapture(str(on_disk(path)))
    try:
        video.set(cv2.CAP_PROP_POS_FRAMES, frame)
        good, image = video.read()
    finally:
        video.release()
    if not good:
        msg = f"frame {frame} of {path} cannot be read again"
        raise InputError(msg)
    return Decoded(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), "", image.shape[1], image.shape[0])


def draw_image(
    image: np.ndarray, rows: Sequence[dict[str, Any]], classes: Sequence[str], reduced: int = 1
) -> Image.Image:
    """Return an image with the boxes of its faces, and beside it the bars of each face.

    Args:
        image: uint8 (H, W, 3) RGB.
        rows: One answer, or one per face.
        classes: Names of the classes.
        reduced: Factor by which the image was decoded smaller than the one that the boxes are of.
    """
    scale = min(1.0, WIDTH / max(image.shape[:2]))
    scale = max(scale, 200 / max(image.shape[:2]))  # small images are enlarged, so that boxes can be seen
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    answered = [row for row in rows if row["label"]]
    height = max(size[1], len(answered) * LINE * (len(classes) + 2), LINE * 2)
    sheet = Image.new("RGB", (size[0] + PANEL, height), PAPER)
    sheet.paste(Image.fromarray(image).resize(size), (0, 0))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    top = 6
    for row in rows:
        if row.get("x0") is not None:
            corners = [row[name] * scale / reduced for name in ("x0", "y0", "x1", "y1")]
            pen.rectangle(corners, outline=BLUE, width=3)
            pen.text((corners[0] + 4, corners[1] + 2), str(row["face"]), fill=BLUE, font=font)
        title = " ".join(
            filter(None, ["" if row["face"] is None else f"face {row['face']}", row["label"], row["note"]])
        )
        pen.text((size[0] + 10, top), title[:36], fill=INK, font=font)
        top += LINE
        for name in classes if row["label"] else ():
            value = float(row[f"prob_{name}"])
            pen.rectangle((size[0] + 100, top + 4, size[0] + 210, top + 16), fill=GREY)
            pen.rectangle((size[0] + 100, top + 4, size[0] + 100 + round(110 * value), top + 16), fill=BLUE)
            pen.text((size[0] + 10, top), name[:13], fill=INK, font=font)
            pen.text((size[0] + 216, top), f"{value:.2f}", fill=INK, font=font)
            top += LINE
        top += LINE // 2
    return sheet
