"""Names in a figure: fonts that can draw them, Korean ones too, and how much room they take."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager

from datamodules.labels import canonical

PLAIN = "DejaVu Sans"
_KOREAN = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "UnDotum")
_FILES = ("notosanscjk", "notosanskr", "nanumgothic", "malgun", "applesdgothicneo", "undotum")
LONGEST = 22


def drawable(names: Sequence[str], what: str = "class", longest: int = LONGEST) -> tuple[list[str], list[str]]:
    """Return names that installed fonts can draw, cut to a length that fits, and the fonts to draw them with.

    Where no font has a name, a Korean emotion gets its English name, and another one its number.
    """
    fonts = [PLAIN]
    if not all(_drawn(name, fonts) for name in names):
        fonts += _korean()
    shown = []
    for number, name in enumerate(names, 1):
        name = unicodedata.normalize("NFC", name)
        text = name if _drawn(name, fonts) else (canonical(name) or f"{what} {number}")
        shown.append(text if len(text) <= longest else f"{text[: longest - 1]}…")
    return shown, fonts


def inches(names: Sequence[str], fonts: Sequence[str], points: float = 10) -> float:
    """Return the width of the widest name, each character in the first font that has it."""
    faces = [font_manager.get_font(font_manager.findfont(font)) for font in fonts]
    for face in faces:
        face.set_size(points, 72)

    def width(one: str) -> float:
        face = next((face for face in faces if face.get_char_index(ord(one))), faces[0])
        return float(face.load_char(ord(one)).linearHoriAdvance) / 65536 / 72

    return max((sum(map(width, name)) for name in names), default=0.0)


@lru_cache(maxsize=1)
def _korean() -> list[str]:
    """Return a Korean font, if one is installed; matplotlib's own list may be older than the font."""
    found = _listed()
    if not found:
        for file in font_manager.findSystemFonts():
            if Path(file).stem.lower().startswith(_FILES):
                font_manager.fontManager.addfont(file)
        found = _listed()
    return found[:1]


def _listed() -> list[str]:
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [font for font in _KOREAN if font in installed]


def _drawn(text: str, fonts: Sequence[str]) -> bool:
    faces = [font_manager.get_font(font_manager.findfont(font)) for font in fonts]
    return all(one.isspace() or any(face.get_char_index(ord(one)) for face in faces) for one in text)
