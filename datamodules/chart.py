"""Draws the class counts of a data set as a bar chart that stays readable for any number of classes and in Korean."""

from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from datamodules.describe import class_table, imbalance_ratio
from datamodules.errors import InputError
from datamodules.manifest import SPLITS, Manifest
from datamodules.places import replacing

# Fonts that hold Hangul, on Linux, macOS and Windows, the likeliest first; any other font with it is found too.
KOREAN_FONTS = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic")
# Okabe and Ito's colours, told apart by colour-blind readers; hatching tells them apart in grey print.
LOOKS = {"train": ("#0072B2", ""), "validation": ("#E69F00", "//"), "test": ("#009E73", "..")}


def drawable(text: str, path: str) -> bool:
    """Return whether the font file has every character of the text."""
    font = font_manager.get_font(path)
    return all(c.isspace() or font.get_char_index(ord(c)) for c in text)


def fonts_for(text: str) -> list[str] | None:
    """Return font families that can draw the text, tried in turn by matplotlib; None if none here can.

    Looks through the installed fonts only if the default one lacks a character.
    """
    default = font_manager.findfont("DejaVu Sans")
    if drawable(text, default):
        return ["DejaVu Sans"]
    missing = "".join(c for c in text if not drawable(c, default))
    entries = sorted(
        font_manager.fontManager.ttflist,
        key=lambda e: (KOREAN_FONTS.index(e.name) if e.name in KOREAN_FONTS else len(KOREAN_FONTS), e.name),
    )
    for entry in entries:
        try:
            if drawable(missing, entry.fname):
                return ["DejaVu Sans", entry.name]
        except (OSError, RuntimeError):  # a font file that was removed or that FreeType cannot read
            continue
    return None


def draw_chart(manifest: Manifest, path: str | Path) -> list[str]:
    """Draw one horizontal bar a class, divided by split, and write it as PNG; return what could not be drawn as asked.

    Labels stand one a line beside their bars, so they cannot overlap. A name that no font here can draw is replaced
    by the number of its class.

    Raises:
        InputError: the file cannot be written or is not called ``.png``.
    """
    path = Path(path).expanduser().absolute()
    if path.suffix.lower() != ".png":
        msg = f"chart must be a .png file, got {path.name!r}"
        raise InputError(msg)
    table = class_table(manifest)
    names, families, said = _names([str(c) for c in table["class"]], manifest.name)
    figure = Figure(figsize=(7.0, 1.4 + 0.36 * len(table)), dpi=150, layout="constrained")
    axes = figure.subplots()
    splits = [s for s in SPLITS if s in table]
    place, start = np.arange(len(table)), np.zeros(len(table))
    for split in splits or ["images"]:
        colour, hatch = LOOKS.get(split, LOOKS["train"])
        width = table[split].to_numpy()
        axes.barh(place, width, left=start, height=0.7, color=colour, hatch=hatch, edgecolor="white", label=split)
        start = start + width
    for y, row in zip(place, table.itertuples(), strict=True):
        axes.annotate(
            f"{row.images:,}  ({row.share:.1%})",
            (float(start[y]), float(y)),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(place, names[1:], fontfamily=families)
    axes.invert_yaxis()
    axes.set_xlim(0, max(float(start.max()), 1.0) * 1.22)  # room for the numbers
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    figure.suptitle(  # centred on the page: long class names push the axes aside
        f"{names[0]}: {len(manifest):,} images, imbalance ratio {imbalance_ratio(manifest):.1f}",
        fontfamily=families,
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)
    if splits:
        figure.legend(loc="outside lower center", ncols=len(splits), frameon=False)
    try:
        with replacing(path) as draft:
            figure.savefig(draft, format="png")
    except OSError as error:
        msg = f"cannot write the chart {path}: {error.strerror or error}; choose a folder that you may write to"
        raise InputError(msg) from error
    return said


def _names(classes: list[str], title: str) -> tuple[list[str], list[str], list[str]]:
    """Return title and class names as they can be drawn, the font families, and what had to be replaced."""
    wanted = [_short(title), *map(_short, classes)]
    families = fonts_for("".join(wanted))
    if families is not None:
        return wanted, families, []
    drawn = [text if fonts_for(text) else "images" if i == 0 else f"class {i - 1}" for i, text in enumerate(wanted)]
    replaced = [f"{text} is drawn as '{new}'" for text, new in zip(wanted, drawn, strict=True) if text != new]
    hint = "no font here has these characters, install one such as Noto Sans CJK: "
    return drawn, ["DejaVu Sans"], [hint + ", ".join(replaced)]


def _short(text: str) -> str:
    return text if len(text) <= 28 else text[:27] + "…"
