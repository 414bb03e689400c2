"""Says what is in a data set: class counts, imbalance, splits, people, groups and image sizes, as text and tables."""

import warnings

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.manifest import SPLITS, Manifest

MOST_VALUES = 20  # a column with more values (a file hash, a width) is kept in the manifest and not listed


def class_table(manifest: Manifest) -> pd.DataFrame:
    """Return one row a class, in class order: class, images, share, a column a split, and subjects if known."""
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
    """Return the counts of each value of each group, and the groups with too many values to list (with how many)."""
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
    """Open the headers of a random sample of the images: columns row, width, height, format, mode; NaN if unreadable.

    Raises:
        InputError: the sample is below 1.
    """
    if sample < 1:
        msg = f"sample must be at least 1, got {sample}"
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(manifest), size=min(sample, len(manifest)), replace=False))
    found: list[dict[str, object]] = []
    for row in tqdm(rows, desc="reading headers", unit=" images", delay=2, leave=False, disable=None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of huge pictures: no pixel is decoded here
                with Image.open(manifest.file(int(row))) as image:
                    width, height = image.size
                    found.append(
                        {"row": row, "width": width, "height": height, "format": image.format, "mode": image.mode}
                    )
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            found.append({"row": row, "width": np.nan, "height": np.nan, "format": None, "mode": None})
    return pd.DataFrame(found)


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
        lines.append("votes            of annotators, used as soft targets")
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
    """Return the columns that a text takes in a terminal, where Hangul and Chinese characters take two."""
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
