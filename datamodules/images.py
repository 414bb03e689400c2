"""Decode policy: how an image file becomes pixels, the same in training, evaluation, prediction, export and cache."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.errors import InputError

DECODE_POLICY = "4"
"""Version of everything this file does to pixels; a cache made by another version is not reused."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Raster formats only: Pillow also knows formats that start other programs (EPS) or open other files (FITS, WMF)."""

Fit = Literal["crop", "stretch", "pad"]
FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")
PIXEL_LIMIT = 50_000_000
WHITE = (255, 255, 255)
GREY = 128
GREY_SIDE = 48  # pixels of the grey images that are compared, whatever size a model sees

_decoded = 0


class Decoded(NamedTuple):
    """Pixels and file format of an image."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, read-only
    format: str  # from the header, not from the file name


def decode(path: Path | str, *, pixel_limit: int = PIXEL_LIMIT) -> np.ndarray:
    """Return the image as (H, W, 3) uint8 RGB.

    The EXIF orientation is applied; 16-bit samples keep their high byte; CMYK, palette and grey become RGB;
    transparency is drawn over white; of an animation the first frame is used. Colour profiles are not applied.

    Raises:
        InputError: The file is missing, empty, truncated, not an image, or larger than ``pixel_limit`` pixels.
    """
    return decode_file(path, pixel_limit=pixel_limit).image.copy()


def decode_bytes(data: bytes, name: str, *, pixel_limit: int = PIXEL_LIMIT) -> np.ndarray:
    """Return the image in the bytes of a file, as :func:`decode` does; ``name`` stands in errors."""
    return _decode(io.BytesIO(data), name, len(data), pixel_limit).image.copy()


def decode_file(path: Path | str, *, pixel_limit: int = PIXEL_LIMIT) -> Decoded:
    """Like :func:`decode`, with the format found in the file's header."""
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        msg = f"Image {path} cannot be read: {error}. Copy it again, or leave it out of the manifest."
        raise InputError(msg) from error
    return _decode(Path(path), str(path), size, pixel_limit)


def _decode(source: Path | BinaryIO, path: str, size: int, pixel_limit: int) -> Decoded:
    global _decoded
    _decoded += 1
    try:
        if size == 0:
            msg = f"Image {path} is empty (0 bytes). Copy it again, or leave it out of the manifest."
            raise InputError(msg)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, where our own limit decides, and of odd metadata
            with Image.open(source, formats=FORMATS) as picture:
                if picture.width * picture.height > pixel_limit:
                    raise _too_large(path, f"{picture.width} x {picture.height}", pixel_limit)
                file_format = picture.format or ""
                return Decoded(np.asarray(_to_rgb(picture)), file_format)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), pixel_limit) from error
    except UnidentifiedImageError as error:
        msg = (
            f"Image {path} is not in a supported format ({', '.join(FORMATS)}), whatever its name. "
            "Convert it, or leave it out of the manifest."
        )
        raise InputError(msg) from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        msg = f"Image {path} cannot be read: {error}. Copy it again, or leave it out of the manifest."
        raise InputError(msg) from error


def _too_large(path: str, size: str, pixel_limit: int) -> InputError:
    return InputError(
        f"Image {path} is larger than pixel_limit = {pixel_limit:,} pixels: {size}. "
        "Make it smaller, or raise the limit if you trust the file."
    )


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):
        pass  # a broken EXIF block: the pixels are still good
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
    """Return an image (H, W, 3) uint8 as a square (size, size, 3).

    Shrinking averages the area that a pixel covers, enlarging is bilinear. ``crop`` keeps the largest centred square,
    ``stretch`` ignores the aspect ratio, ``pad`` keeps the whole image and fills with grey.
    """
    if fit not in FITS:
        msg = f"fit must be one of {', '.join(FITS)}, got {fit!r}."
        raise InputError(msg)
    height, width = image.shape[:2]
    if fit == "stretch":
        return _resized(image, size, size)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resized(image[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    inner = _resized(image, max(1, round(height * scale)), max(1, round(width * scale)))
    square = np.full((size, size, 3), GREY, dtype=np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    while image.shape[0] % height or image.shape[1] % width:  # OpenCV is quick and exact at whole multiples
        rows, columns = image.shape[:2]
        if rows % 2 or columns % 2 or rows < 2 * height or columns < 2 * width:
            break
        # at others it is many times quicker after some halvings, which average nearly the same
        image = cv2.resize(image, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
    smaller = (min(image.shape[1], width), min(image.shape[0], height))
    if smaller != image.shape[1::-1]:
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def grey_plane(image: np.ndarray) -> np.ndarray:
    """Return the whole image stretched to (48, 48) uint8 grey, for the search of near-duplicates."""
    return _resized(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), GREY_SIDE, GREY_SIDE)


def content_hash(image: np.ndarray) -> str:
    """Return 32 hex digits of the decoded pixels and their shape: equal for one image in two lossless files."""
    digest = hashlib.sha256(repr(image.shape).encode())  # as quick as any where the processor knows it
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def decode_count() -> int:
    """Return how many images this process has tried to decode."""
    return _decoded
