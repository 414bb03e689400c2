"""Describe a data set: class counts, imbalance, splits, people, subgroups and image sizes, as text and as a chart."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.images import read_header
from datamodules.files.paths import replacing
from datamodules.manifest import SPLITS, Manifest

MOST_VALUES = 20  # a column with more values (a file hash, a width) is kept in the manifest and not listed


def class_table(manifest: Manifest) -> pd.DataFrame:
    """Return one row per class, in class order: class, images, share, one column per split, and subjects if known."""
    labels = pd.Categorical(manifest.table["label"], categories=list(manifest.classes))
    images = pd.Series(labels).value_counts(sort=False).to_numpy()
    table = pd.DataFrame({"class": manifest.classes, "images": images, "share": images / max(len(manifest), 1)})
    if "split" in manifest.table:
        crossed = pd.crosstab(manifest.table["label"], manifest.table["split"])
        for split in SPLITS:
            if split in crossed:
                table[split] = crossed[split].reindex(manifest.classes, fill_value=0).to_numpy()
    if manifest.subjects is not None:
        known = manifest.table[manifest.table["subject"] != ""]
        counts = known.groupby("label")["subject"].nunique()
        table["subjects"] = counts.reindex(manifest.classes, fill_value=0).to_numpy()
    return table


def imbalance_ratio(manifest: Manifest) -> float:
    """Return the size of the largest class over that of the smallest; infinite if a class has no image."""
    counts = np.bincount(manifest.labels, minlength=len(manifest.classes))
    return float(counts.max() / counts.min()) if counts.min() else float("inf")


def group_counts(manifest: Manifest) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Return counts by subgroup column and value, and the number of values of columns with too many to list."""
    listed: dict[str, dict[str, int]] = {}
    crowded: dict[str, int] = {}
    for group in manifest.groups:
        counts = manifest.table[group].value_counts()
        if len(counts) > MOST_VALUES:
            crowded[group] = len(counts)
        else:
            listed[group] = {str(value): int(count) for value, count in counts.items()}
    return listed, crowded


def image_headers(manifest: Manifest, sample: int = 500, seed: int = 0) -> pd.DataFrame:
    """Return the headers of a random sample of images: row, width, height, format, mode; NaN if unreadable.

    Raises:
        InputError: the sample is below 1.
    """
    if sample < 1:
        msg = f"--sample: must be at least 1, got {sample}"
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(manifest), size=min(sample, len(manifest)), replace=False))
    headers: list[dict[str, object]] = []
    for row in tqdm(rows, desc="reading headers", unit=" images", delay=2, leave=False, disable=None):
        try:
            headers.append({"row": row, **read_header(manifest.file(int(row)))._asdict()})
        except InputError:
            headers.append({"row": row, "width": np.nan, "height": np.nan, "format": None, "mode": None})
    return pd.DataFrame(headers)


def describe(manifest: Manifest, sample: int = 500) -> str:
    """Return the description as text for a terminal. Image sizes come from the headers of ``sample`` images."""
    table = class_table(manifest)
    lines = [f"{manifest.name}: {len(manifest):,} images in {len(manifest.classes)} classes, in {manifest.root}", ""]
    lines += [*_class_lines(table), ""]
    largest, smallest = table.loc[table["images"].idxmax()], table.loc[table["images"].idxmin()]
    if largest["images"] == smallest["images"]:
        lines.append(f"imbalance ratio  1 (all classes have {largest['images']:,} images)")
    else:
        extremes = f"largest {largest['class']} {largest['images']:,}"
        extremes += f", smallest {smallest['class']} {smallest['images']:,}"
        lines.append(f"imbalance ratio  {imbalance_ratio(manifest):.1f} ({extremes})")
    if manifest.subjects is not None:
        known = manifest.table["subject"] != ""
        lines.append(f"subjects         {manifest.table['subject'][known].nunique():,}")
        lines[-1] += f" ({int((~known).sum()):,} images without)" if not known.all() else ""
    if manifest.votes is not None:
        lines.append("votes            of annotators; --votes soft trains on their shares")
    listed, crowded = group_counts(manifest)
    for group, counts in listed.items():
        values = ", ".join(f"{value or '(not given)'} {count:,}" for value, count in counts.items())
        lines.append(f"group {group:<10} {values}")
    if crowded:
        values = ", ".join(f"{group} ({count:,})" for group, count in crowded.items())
        lines.append(f"not listed       columns of more than {MOST_VALUES} values: {values}")
    lines += _size_lines(image_headers(manifest, sample), len(manifest))
    lines += [f"note             {note}" for note in manifest.notes]
    return "\n".join(lines)


def _class_lines(table: pd.DataFrame) -> list[str]:
    total = table.select_dtypes("number").sum()
    rows = [["class", *table.columns[1:]]]
    for _, row in table.iterrows():
        rows.append([str(row["class"]), *(_cell(c, row[c]) for c in table.columns[1:])])
    rows.append(["all", *("" if c == "subjects" else _cell(c, total[c]) for c in table.columns[1:])])
    widths = [max(_width(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = []
    for cells in rows:
        first = cells[0] + " " * (widths[0] - _width(cells[0]))
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]))
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _cell(column: str, value: float) -> str:
    return f"{value:.1%}" if column == "share" else f"{int(value):,}"


def _width(text: str) -> int:
    """Return the width of a text in a terminal, where Hangul and Chinese characters are two columns wide."""
    return sum(2 if ord(c) >= 0x1100 else 1 for c in text)


def _size_lines(headers: pd.DataFrame, images: int) -> list[str]:
    readable = headers.dropna(subset=["width"])
    whole = "all" if len(headers) == images else f"a random sample of {len(headers):,} of {images:,}"
    lines = []
    if len(readable):
        parts = []
        for side in ("width", "height"):
            low, middle, high = (int(v) for v in np.percentile(readable[side], [0, 50, 100]))
            parts.append(f"{side} {low}" if low == high else f"{side} {low} to {high} (median {middle})")
        lines.append(f"sizes            {', '.join(parts)} px; from the headers of {whole}")
        kinds = (readable["format"] + " " + readable["mode"]).value_counts()
        lines.append("formats          " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.items()))
    if len(readable) < len(headers):
        lines.append(f"unreadable       {len(headers) - len(readable):,} of the headers; run `emotion data check`")
    return lines


# Fonts with Hangul on Linux, macOS and Windows, the most common first; other installed fonts are searched, too.
KOREAN_FONTS = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic")
# Okabe and Ito's colours, told apart by colour-blind readers; hatching tells them apart in grey print.
LOOKS = {"train": ("#0072B2", ""), "validation": ("#E69F00", "//"), "test": ("#009E73", "..")}


def drawable(text: str, path: str) -> bool:
    """Return whether the font file has every character of the text."""
    font = font_manager.get_font(path)
    return all(c.isspace() or font.get_char_index(ord(c)) for c in text)


def fonts_for(text: str) -> list[str] | None:
    """Return font families that can draw the text, in the order matplotlib tries them; None if none is installed.

    The installed fonts are searched only if the default one lacks a character.
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
    """Write a PNG chart with a horizontal bar per class, divided by split; return notes on text it could not draw.

    Each label has its own line beside its bar, so labels cannot overlap. A name that no installed font can draw is
    replaced by the number of its class.

    Raises:
        InputError: the file cannot be written or does not end in ``.png``.
    """
    path = Path(path).expanduser().absolute()
    if path.suffix.lower() != ".png":
        msg = f"--chart: must be a .png file, got {path.name!r}"
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
        msg = f"--chart: {path} cannot be written: {error.strerror or error}; choose a folder that you may write to"
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
    hint = "no installed font has these characters; install one such as Noto Sans CJK: "
    return drawn, ["DejaVu Sans"], [hint + ", ".join(replaced)]


def _short(text: str) -> str:
    return text if len(text) <= 28 else text[:27] + "…"
