"""Find image files by their content, and count the files that are left out."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.paths import path_text

HEAD = 64  # bytes read from the start of a file to recognise its format
HEIF_EXTRA = 'pip install "emotion-pipeline[heif]"'
NOT_HEIF = f"install the extra heif: {HEIF_EXTRA}"

ENDINGS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    "MPO": (".mpo", ".jpg", ".jpeg"),  # several JPEG images in one file; some phones name it .jpg
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
}
"""Usual endings of the names of each format, by Pillow's name of the format."""

IMAGE_SUFFIXES = frozenset(ending for endings in ENDINGS.values() for ending in endings)
"""Files with these endings are taken as images unopened; their format is recognised when they are decoded."""

_REASONS: dict[str, str] = {
    "": (
        ".csv .tsv .parquet .json .jsonl .xml .yaml .yml .txt .md .rst .log .lst .npy .npz .mat .pts .h5 .hdf5 .pkl "
        ".pickle .db .sqlite .xls .xlsx .ini .py .pyc .ipynb .m .sh .bat .exe .dll .so .js .css .html .htm .pdf .doc "
        ".docx .ppt .pptx .odt .pt .pth .ckpt .onnx .safetensors .bin .lnk .mp3 .wav .flac .ogg .m4a .aac .wma .aae "
        ".xmp .lock .cfg .toml .tfrecord"
    ),
    "a video": ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .flv .3gp .mts .m2ts",
    "unpack it": ".zip .tar .tgz .gz .bz2 .xz .tbz2 .txz .7z .rar .zst",
    # raw files are TIFF by their first bytes; EPS and WMF start other programs
    "not supported, convert to JPEG or PNG": (
        ".dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .pef .srw .raw .psd .xcf .ai .svg .eps .ps .wmf .emf .ico .cur .tga "
        ".exr .hdr .jxl .fits .dcm .djvu"
    ),
    "an unfinished download": ".part .crdownload .download .partial .tmp",
}
_NOT_IMAGES = {ending: reason for reason, endings in _REASONS.items() for ending in endings.split()}

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
MOST_KINDS = 16  # kinds of files that `left_out_line` lists

_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}  # valid sizes of a BMP file's second header
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def image_format(head: bytes) -> str:
    """Return Pillow's name of an image format, recognised by the first bytes (64, or all) of a file; "" if none.

    ``HEIF`` and ``AVIF`` share a container and differ in its brands. Whether the format can be decoded here is checked
    by :func:`missing_decoder`.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:4] in _TIFF:
        return "TIFF"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return "JPEG2000"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[at : at + 4] for at in (8, *range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIF_BRANDS or head[8:12] in (b"mif1", b"msf1"):
            return "HEIF"
    return ""


def content_kind(head: bytes) -> str:
    """Return a description of a file that is not a supported image, for error messages; "" if it is unknown."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML)"
    if start.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:11] == b"AVI"):
        return "a video"
    for signature, kind in (
        (b"PK\3\4", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"%PDF", "a PDF"),
        (b"%!PS", "PostScript"),
        (b"\xc5\xd0\xd3\xc6", "EPS"),
        (b"8BPS", "a Photoshop file"),
        (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull`"),
        (b"\0\5\x16\7", "hidden data of macOS"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
    ):
        if head.startswith(signature):
            return kind
    if head and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "text"
    return ""


@cache
def missing_decoder(name: str) -> str:
    """Return why a format cannot be decoded here, and what to do; "" if it can."""
    if name == "HEIF" and find_spec("pi_heif") is None:
        return NOT_HEIF
    if name in ("AVIF", "JPEG2000", "WEBP"):
        from PIL import features  # Pillow's own packages have all three

        feature = {"JPEG2000": "jpg_2000"}.get(name, name.lower())
        return "" if features.check(feature) else f"install Pillow from PyPI, which reads {name}"
    return ""


@dataclass
class ImageListing:
    """Images below a folder, and what was left out.

    Attributes:
        files: Paths of the images relative to the folder, with ``/``, as text (see `path_text` of
            `datamodules.files.paths`) and sorted.
        left_out: Number of other files by ending and reason; hidden files and those of operating systems are not
            counted.
    """

    files: list[str] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)


def left_out_line(left_out: Counter[tuple[str, str]]) -> str:
    """Return one line that says how many files were left out, by ending and reason; "" if none was.

    >>> left_out_line(Counter({(".mp4", "a video"): 1, (".txt", ""): 2}))
    '3 files left out: 2 .txt, 1 .mp4 (a video)'
    """
    if not left_out:
        return ""
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [
        f"{count:,} {ending or 'without ending'}{f' ({reason})' if reason else ''}"
        for (ending, reason), count in kinds[:MOST_KINDS]
    ]
    if rest := sum(count for _, count in kinds[MOST_KINDS:]):
        parts.append(f"{rest:,} with {len(kinds) - MOST_KINDS} other endings")
    total = left_out.total()
    return f"{total:,} file{'s' if total > 1 else ''} left out: {', '.join(parts)}"


def why_left_out(path: str | os.PathLike[str]) -> str | None:
    """Return why a file is not used as an image ("" for another kind of file), None if it is used.

    A file with the ending of an image format is used without being opened. For other files the first bytes decide,
    unless the ending is known to be that of another format.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in IMAGE_SUFFIXES:
        return missing_decoder(_FORMAT_OF.get(ending, "")) or None
    if ending in _NOT_IMAGES:
        return _NOT_IMAGES[ending]
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    name = image_format(head)
    if name:
        return missing_decoder(name) or None
    return content_kind(head) if head else "empty"


_FORMAT_OF = {ending: name for name in ("HEIF", "AVIF", "JPEG2000", "WEBP") for ending in ENDINGS[name]}


def list_images(folder: Path, reads: Collection[str] = ()) -> ImageListing:
    """List the images below a folder, found by their content, and count the other files.

    Hidden files and those of operating systems are skipped. Links to files and folders are followed; a folder that
    several links lead to is entered once.

    Args:
        folder: The folder.
        reads: Endings, such as ``.json``, of other files that the caller reads, which are not counted as left out.

    Raises:
        InputError: A folder cannot be listed.
    """
    listing = ImageListing()
    with tqdm(desc="listing images", unit=" files", delay=2, leave=False, disable=None) as bar:
        for name, reason in _walk(folder):
            if reason is None:
                listing.files.append(path_text(name))
                bar.update()
                continue
            ending = path_text(os.path.splitext(name)[1].lower())
            if ending not in reads:
                listing.left_out[ending, reason] += 1
    listing.files.sort()
    return listing


def _walk(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each file's relative path and why it is left out (None for images); links to folders come last."""
    seen: set[tuple[int, int]] = set()
    folders, links = [(os.fspath(folder), "")], list[tuple[str, str]]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        place, prefix = folders.pop()
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as listing:
                entries = list(listing)
        except OSError as error:
            msg = f"cannot list the folder {place}: {error.strerror}; make it readable, or move it elsewhere"
            raise InputError(msg) from error
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()
                is_file = not is_folder and entry.is_file()
            except OSError:  # a link that leads to itself
                is_folder = is_file = False
            if is_folder:
                if name not in SYSTEM_FOLDERS:
                    (links if entry.is_symlink() else folders).append((entry.path, f"{prefix}{name}/"))
            elif not is_file:
                yield prefix + name, "a broken link" if entry.is_symlink() else "not a plain file"
            elif name.lower() not in SYSTEM_FILES:
                yield prefix + name, why_left_out(entry.path)


@dataclass
class LeftOut:
    """Listings made by `image_files` within a block of `collect_left_out`.

    Attributes:
        listings: By folder.
    """

    listings: dict[Path, ImageListing] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """One line that counts the files that are left out; "" if there is none."""
        total: Counter[tuple[str, str]] = Counter()
        for folder, listing in self.listings.items():
            if not any(other != folder and folder.is_relative_to(other) for other in self.listings):
                total += listing.left_out  # others are counted with the folder above
        return left_out_line(total)

    @property
    def no_images(self) -> bool:
        """Whether folders were listed and no image was found in them."""
        return bool(self.listings) and not any(listing.files for listing in self.listings.values())


_collected: ContextVar[LeftOut | None] = ContextVar("_collected", default=None)


def pass_on(left_out: LeftOut) -> None:
    """Report what an inner block has collected to the block around it, if there is one."""
    outer = _collected.get()
    if outer is not None:
        outer.listings |= left_out.listings


def image_files(folder: Path, reads: Collection[str] = ()) -> list[str]:
    """Return the images below a folder as :func:`list_images` does; report other files to `collect_left_out`."""
    listing = list_images(folder, reads)
    collected = _collected.get()
    if collected is not None:
        collected.listings[folder] = listing
    return listing.files


@contextmanager
def collect_left_out() -> Iterator[LeftOut]:
    """Collect what calls of `image_files` within the block leave out, in any reader."""
    collected = LeftOut()
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
