"""How a picture file becomes pixels: one decode policy for training, evaluation, prediction, export and the cache."""

import hashlib
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.errors import InputError

DECODE_POLICY = "2"
"""Version of everything this file does to pixels; a cache made by another version is not reused."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Raster formats only: Pillow also knows formats that start other programs (EPS) or open other files (FITS, WMF)."""

Fit = Literal["crop", "stretch", "pad"]
FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")
PIXEL_LIMIT = 50_000_000
WHITE = (255, 255, 255)
GREY = (128, 128, 128)

_decoded = 0


class Decoded(NamedTuple):
    """Pixels of a file and what its header says it is."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    format: str  # as found in the header, whatever the file is called


def decode(path: Path | str, *, pixel_limit: int = PIXEL_LIMIT) -> np.ndarray:
    """Return the picture as (H, W, 3) uint8 RGB.

    Turned as its EXIF orientation says; 16-bit samples keep their high byte; CMYK, palette and grey become RGB;
    transparency is laid over white; of an animation the first frame counts. Colour profiles are not applied.

    Raises:
        InputError: The file is missing, empty, truncated, not a picture, or larger than ``pixel_limit`` pixels.
    """
    return decode_file(path, pixel_limit=pixel_limit).image


def decode_file(path: Path | str, *, pixel_limit: int = PIXEL_LIMIT) -> Decoded:
    """Like :func:`decode`, with the format found in the file's header."""
    global _decoded
    _decoded += 1
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            msg = f"Picture {path} is empty (0 bytes). Copy it again, or leave it out of the manifest."
            raise InputError(msg)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, where our own limit decides, and of odd metadata
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > pixel_limit:
                    raise _too_large(path, f"{picture.width} x {picture.height}", pixel_limit)
                found = picture.format or ""
                return Decoded(np.array(_to_rgb(picture)), found)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), pixel_limit) from error
    except UnidentifiedImageError as error:
        msg = (
            f"Picture {path} is not in a format that is read here ({', '.join(FORMATS)}), whatever its name says. "
            "Convert it, or leave it out of the manifest."
        )
        raise InputError(msg) from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        msg = f"Picture {path} cannot be read: {error}. Copy it again, or leave it out of the manifest."
        raise InputError(msg) from error


def _too_large(path: Path, found: str, pixel_limit: int) -> InputError:
    return InputError(
        f"Picture {path} is larger than pixel_limit = {pixel_limit:,} pixels: {found}. "
        "Make it smaller, or raise the limit if you trust the file."
    )


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    try:
        picture = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):  # a broken EXIF block: the pixels are still good
        picture = picture.copy()
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        front = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, (*WHITE, 255)), front).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        msg = (
            "its samples are floating point or deeper than 16 bits, whose white level is unknown; save it with 8 or 16"
        )
        raise ValueError(msg)
    # the high byte, as Pillow itself reads 16-bit colour
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def fit_to_square(image: np.ndarray, size: int, fit: Fit = "crop") -> np.ndarray:
    """Bring (H, W, 3) uint8 to (size, size, 3) by antialiased bilinear filtering.

    ``crop`` keeps the largest centred square, ``stretch`` ignores the aspect ratio, ``pad`` keeps the whole picture and
    fills with grey.
    """
    if fit not in FITS:
        msg = f"fit must be one of {', '.join(FITS)}, got {fit!r}."
        raise InputError(msg)
    height, width = image.shape[:2]
    if height == width == size:
        return image
    picture = Image.fromarray(image)
    bilinear = Image.Resampling.BILINEAR
    if fit == "stretch":
        return np.asarray(picture.resize((size, size), bilinear))
    if fit == "crop":
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        return np.asarray(picture.resize((size, size), bilinear, box=(left, top, left + side, top + side)))
    scale = size / max(height, width)
    inner = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), bilinear)
    square = Image.new("RGB", (size, size), GREY)
    square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.asarray(square)


def grey_thumbnail(image: np.ndarray, side: int = 32) -> np.ndarray:
    """Return the whole picture stretched to (side, side) uint8 grey, for finding pictures that look alike."""
    return np.asarray(Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX))


def content_hash(image: np.ndarray) -> str:
    """Return 32 hex digits of the decoded pixels and their shape: equal for one picture in two lossless files."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def decode_count() -> int:
    """Return how many pictures this process has tried to decode."""
    return _decoded
