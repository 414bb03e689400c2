"""Decode policy: how an image file becomes pixels, the same in training, evaluation, prediction, export and cache."""

import hashlib
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from datamodules.errors import InputError, invalid
from datamodules.files.image_files import ENDINGS, HEAD, content_kind, image_format, missing_decoder
from datamodules.files.paths import path_text

DECODE_POLICY = "5"
"""Version of everything this file does to pixels; a cache made by another version is not reused."""

FORMATS = tuple(ENDINGS)
"""Raster formats only: Pillow also knows formats that start other programs (EPS) or open other files (FITS, WMF)."""

Fit = Literal["crop", "stretch", "pad"]
FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")
PIXEL_LIMIT = 50_000_000
LIMIT_VARIABLE = "EMOTION_PIXEL_LIMIT"
REDUCIBLE = 5
"""Images of up to this many times the limit are decoded smaller, if their format can; others need too much memory."""
DEPTHS = (8, 10, 12, 14, 16)  # bits of a sample that cameras use
WHITE = (255, 255, 255)
GREY = 128
GREY_SIDE = 48  # pixels of the grey images that are compared, whatever size a model sees

_decoded = 0


def default_pixel_limit() -> int:
    """Return the limit of pixels per image: ``$EMOTION_PIXEL_LIMIT``, which processes inherit, else `PIXEL_LIMIT`.

    Raises:
        InputError: The variable is no whole number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return PIXEL_LIMIT
    if not text.isdecimal() or not int(text):
        raise invalid(LIMIT_VARIABLE, "must be a whole number above 0", text, f"such as {PIXEL_LIMIT}")
    return int(text)


def decoding(pixel_limit: int | None = None) -> tuple[str, int, tuple[str, ...]]:
    """Return what decides which pixels a file gives on this machine, for the keys of caches.

    Args:
        pixel_limit: Default `default_pixel_limit`.

    Returns:
        The decode policy, the limit, and the formats without a decoder: their files are errors until one is installed.
    """
    limit = default_pixel_limit() if pixel_limit is None else pixel_limit
    return DECODE_POLICY, limit, tuple(name for name in FORMATS if missing_decoder(name))


@contextmanager
def limited_to(pixel_limit: int | None) -> Iterator[None]:
    """Make a limit the default of this process, and of processes it starts, within a block; None changes nothing."""
    before = os.environ.get(LIMIT_VARIABLE)
    if pixel_limit is not None:
        os.environ[LIMIT_VARIABLE] = str(pixel_limit)
    try:
        yield
    finally:
        if pixel_limit is not None:
            os.environ.pop(LIMIT_VARIABLE) if before is None else os.environ.update({LIMIT_VARIABLE: before})


class Decoded(NamedTuple):
    """Pixels of an image, and what is known about its file.

    Attributes:
        image: (H, W, 3) uint8 RGB, read-only.
        format: From the first bytes, not from the file's name.
        width: Of the upright image, before it was reduced.
        height: Of the upright image, before it was reduced.
        bits: Bits that the samples use, of 16; 8 for files of 8 bits or fewer.
        reduced: Factor by which the image was decoded smaller in width and height, since it has too many pixels.
    """

    image: np.ndarray
    format: str
    width: int
    height: int
    bits: int = 8
    reduced: int = 1


def decode(path: Path | str, *, pixel_limit: int | None = None) -> np.ndarray:
    """Return the image as (H, W, 3) uint8 RGB.

    The EXIF orientation is applied. Samples of 16 bits keep their high byte, or the upper 8 of the 8, 10, 12 or 14 bits
    that the whole image uses. CMYK, palette and grey become RGB; transparency is drawn over white; of an animation the
    first frame is used. Colour profiles are not applied.

    Args:
        path: The file, in one of `FORMATS`, whatever its name.
        pixel_limit: Largest number of pixels; default `default_pixel_limit`. A JPEG or JPEG 2000 of up to `REDUCIBLE`
            times as many is decoded at 1/2, 1/4 or 1/8 of its width and height.

    Raises:
        InputError: The file is missing, empty, truncated, not an image, or larger than ``pixel_limit`` pixels.
    """
    return decode_file(path, pixel_limit=pixel_limit).image.copy()


def decode_bytes(data: bytes, name: str, *, pixel_limit: int | None = None) -> Decoded:
    """Like :func:`decode_file`, for the bytes of a file; errors contain ``name``."""
    return _decode(io.BytesIO(data), name, pixel_limit)


def decode_file(path: Path | str, *, pixel_limit: int | None = None) -> Decoded:
    """Like :func:`decode`, with what is known about the file."""
    try:
        with open(path, "rb") as file:
            return _decode(file, path_text(path), pixel_limit)
    except OSError as error:
        msg = f"Image {path_text(path)} cannot be read: {error.strerror}. Copy it again, or leave it out."
        raise InputError(msg) from error


def _decode(file: BinaryIO, path: str, pixel_limit: int | None) -> Decoded:
    global _decoded
    _decoded += 1
    limit = default_pixel_limit() if pixel_limit is None else pixel_limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            with _open(file, path) as picture:
                width, height = picture.size
                reduced = _reduce(picture, path, limit) if width * height > limit else 1
                try:
                    pixels, bits = _to_rgb(picture, file)
                except OSError as error:
                    if reduced > 1 and picture.format == "JPEG2000":  # it has no smaller version inside
                        raise _too_large(path, width, height, limit) from error
                    raise
                if (width - height) * (pixels.width - pixels.height) < 0:  # turned upright
                    width, height = height, width
                return Decoded(np.asarray(pixels), picture.format or "", width, height, bits, reduced)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        why = (
            "its file is cut short or damaged" if isinstance(error, SyntaxError | IndexError | struct.error) else error
        )
        msg = f"Image {path} cannot be read: {why}. Copy it again, or leave it out."
        raise InputError(msg) from error


class Header(NamedTuple):
    """Header of an image file; width and height are those before it is turned upright."""

    width: int
    height: int
    format: str
    mode: str


def read_header(path: Path | str) -> Header:
    """Return the header of an image file of any size; no pixel is decoded.

    Raises:
        InputError: It is no image of a supported format, or cannot be read.
    """
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # of odd metadata
            with _open(file, path_text(path)) as picture:
                return Header(*picture.size, picture.format or "", picture.mode)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        msg = f"Image {path_text(path)} cannot be read: {error}. Copy it again, or leave it out."
        raise InputError(msg) from error


def _open(file: BinaryIO, path: str) -> Image.Image:
    """Open an image by its first bytes; Pillow's `open` would try formats in turn, and has a limit of its own."""
    head = file.read(HEAD)
    file.seek(0)
    if not head:
        msg = f"Image {path} is empty (0 bytes). Copy it again, or leave it out."
        raise InputError(msg)
    name = image_format(head)
    if not name:
        kind = content_kind(head)
        msg = (
            f"Image {path} is not in a supported format ({', '.join(FORMATS)}), whatever its name"
            f"{f': it holds {kind}' if kind else ''}. Convert it, or leave it out."
        )
        raise InputError(msg)
    if why := missing_decoder(name):
        msg = f"Image {path} holds {name}, which cannot be decoded here; {why}, or convert it to JPEG."
        raise InputError(msg)
    picture: Image.Image = _opener(name)(file)
    return picture


@cache
def _opener(name: str) -> Callable[..., Image.Image]:
    if name == "HEIF":
        from pi_heif import HeifImageFile

        return HeifImageFile
    Image.init()  # imports the formats
    return Image.OPEN[name][0]


def _reduce(picture: Image.Image, path: str, limit: int) -> int:
    """Make an image that has too many pixels be decoded smaller, where its format can; return the factor."""
    width, height = picture.size
    if picture.format in ("JPEG", "MPO", "JPEG2000") and width * height <= REDUCIBLE * limit:
        for power in (1, 2, 3):
            smaller = (-(-width >> power), -(-height >> power))
            if smaller[0] * smaller[1] > limit:
                continue
            if picture.format == "JPEG2000":
                picture.reduce = power  # type: ignore[method-assign,assignment]
                return 2**power
            picture.draft(None, (max(1, width >> power), max(1, height >> power)))
            if picture.size[0] * picture.size[1] <= limit:
                return 2**power
    raise _too_large(path, width, height, limit)


def _too_large(path: str, width: int, height: int, limit: int) -> InputError:
    pixels = width * height
    return InputError(
        f"Image {path} is larger than the pixel limit of {limit:,}: {width} x {height} is {pixels:,} pixels. "
        f"Make it smaller, or, if you trust the file, raise the limit: --pixel-limit {pixels}, "
        f"in training --data.pixel_limit {pixels}."
    )


def _to_rgb(picture: Image.Image, file: BinaryIO) -> tuple[Image.Image, int]:
    """Return the upright RGB image, and how many bits its samples use."""
    deep_colour = picture.mode == "RGB" and any(";16" in str(tile[-1]) for tile in getattr(picture, "tile", ()))
    picture.load()
    bits = 16 if deep_colour else 8
    if deep_colour and np.asarray(picture).max() < 64:  # 14 bits or fewer: Pillow has kept the high byte only
        picture, bits = _from_deep_colour(picture, file)
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):
        pass  # a broken EXIF block: the pixels are still good
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        front = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, (*WHITE, 255)), front).convert("RGB"), bits
    return (picture if picture.mode == "RGB" else picture.convert("RGB")), bits


def _from_deep_grey(picture: Image.Image) -> tuple[Image.Image, int]:
    values: np.ndarray = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        msg = (
            "its samples are floating point or deeper than 16 bits, whose white level is unknown; save it with 8 or 16"
        )
        raise ValueError(msg)
    bits = used_bits(int(values.max()))
    return Image.fromarray(np.right_shift(values, bits - 8).astype(np.uint8)).convert("RGB"), bits


def _from_deep_colour(picture: Image.Image, file: BinaryIO) -> tuple[Image.Image, int]:
    """Return a 16-bit colour image by its used bits; as Pillow has read it where OpenCV cannot read it."""
    file.seek(0)
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape != (picture.height, picture.width, 3):
        return picture, 16
    bits = used_bits(int(values.max()))
    shifted = Image.fromarray(np.right_shift(values[..., ::-1], bits - 8).astype(np.uint8))
    shifted.format = picture.format
    shifted.getexif()[ExifTags.Base.Orientation] = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return shifted, bits


def used_bits(largest: int) -> int:
    """Return the bits of a sample, 8, 10, 12, 14 or 16, of an image whose largest value is given.

    >>> used_bits(4080), used_bits(20_000)
    (12, 16)
    """
    return next(depth for depth in DEPTHS if largest < 1 << depth)


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
