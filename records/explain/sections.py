"""What was measured of an explanation, as people read it: sentences and tables of text."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from records.bias.words import p_text
from records.explain.explained import EVERYBODY, Explained
from records.explain.faithfulness import RULE, Better
from records.explain.measures import Found, ReportOptions, constant_maps, correct_of
from records.explain.numbers import number, signed, span
from records.explain.overlays import Cell
from records.explain.page import Section, Shown
from records.predictions import HONEST, protocol_of

_BY_CHANCE = {"deletion": "random", "insertion": "random", "inside": "chance", "pointing": "chance"}
_FILLED = {
    "superpixel": "its mean colour",
    "mean": "the mean colour of the image",
    "blur": "the image out of focus",
    "grey": "grey",
    "black": "black",
}
_SAID = {
    "deletion": "area under deletion (low is good)",
    "insertion": "area under insertion (high is good)",
    "inside": "importance inside / area inside",
    "pointing": "highest pixel inside (pointing game)",
}


def lead(explained: Explained, options: ReportOptions) -> list[str]:
    """Return what was explained."""
    classes = np.asarray(explained.classes, object)[explained.target]
    predicted = (classes == explained.table["predicted"].to_numpy(object)).all()
    of = "the predicted class" if predicted else ", ".join(dict.fromkeys(map(str, classes)))
    settings = ", ".join(f"{name} {value}" for name, value in explained.options.items() if value is not None)
    found = [
        f"{len(explained)} images, {int(np.sum(correct_of(explained)))} of them answered correctly, explained by "
        f"{explained.method} for {of}" + (f" ({settings})." if settings else ".")
    ]
    protocol = protocol_of(explained.table)
    if protocol != HONEST:
        found.insert(0, f"Protocol of the run: {protocol}.")
    constant = constant_maps(explained.maps)
    if constant:
        found.append(f"{constant} of {len(explained)} maps say the same of every pixel: they explain nothing.")
    return found


def truth_section(found: Found, figures: Sequence[Shown]) -> Section:
    """Return whether the explanation is true."""
    tried = [found.deletion, found.insertion, *(found.masks or ())]
    rows = [
        {
            "what": _SAID[one.name],
            "map": number(one.value.value),
            "chance": number(one.chance.value),
            "gain": signed(one.gain.value),
            "95% interval": span(one.gain.low, one.gain.high, sign=True),
            "p": p_text(one.p_value),
            "images": str(one.gain.images),
            "clusters": str(one.gain.clusters),
        }
        for one in tried
    ]
    curve = found.curves
    below = [
        f"{len(curve.rows)} images, {curve.random_area.shape[1]} random orders each, {curve.passes:,} pictures shown. "
        f"Where a superpixel is gone stands {_FILLED[curve.fill]}. "
        "Intervals: resampled clusters of images. All are of these images and this network, not of another training."
    ]
    if found.masks is not None:
        below.append(
            "Inside: the pixels that are known to carry the emotion. Importance is the positive part of a map; its "
            "share inside over the share of area, 1 by chance. The pointing game counts how often the highest pixel "
            "lies inside, by chance the share of area."
        )
        missing = found.deletion.gain.images and len(found.images) - found.masks[0].gain.images
        if missing:
            below.append(f"{missing} of {len(found.images)} images have no such pixels or no positive importance.")
    return Section("Is the explanation true?", (RULE,), pd.DataFrame(rows), tuple(figures), tuple(below))


def agreement_section(found: Found, method: str, top: int) -> Section:
    """Return whether others say the same."""
    title = "Do other methods and seeds say the same?"
    if not len(found.agreements):
        return Section(title, ("No other method and no other seed was asked for.",))
    rows = [
        {
            "compared with": str(row["with"]),
            "rank correlation": number(row["rank"]),
            "95% interval": span(row["rank_low"], row["rank_high"]),
            f"top {top} in common": number(row["overlap"]),
            "95% interval ": span(row["overlap_low"], row["overlap_high"]),
            "by chance": number(row["chance"]),
            "images": str(row["images"]),
        }
        for row in found.agreements.to_dict("records")
    ]
    below = [f"Spearman's correlation over the superpixels of an image, {method} against the other; mean over images."]
    undefined = int(found.agreements["undefined"].max())
    if undefined:
        below.append(f"Not defined for {undefined} images, of which a map says the same of every superpixel.")
    return Section(title, (), pd.DataFrame(rows), (), tuple(below))


def overlay_section(
    by: str, drawn: Sequence[Cell], figures: Sequence[Shown], aligned: bool, options: ReportOptions
) -> Section:
    """Return the overlays of a grouping."""
    each = f"each class{' and group' if by else ''}"
    said = f"Up to {options.n} correctly answered images of {each} are laid on each other; "
    said += f"each marks the {options.top} superpixels that speak most for the class. "
    said += (
        "Faces are turned, scaled and shifted so that eyes, nose and corners of the mouth meet."
        if aligned
        else "No image has landmarks, so pictures are laid on each other as they are."
    )
    below = []
    without = sum(cell.left_out for cell in drawn)
    if without:
        below.append(f"{without} correctly answered images have no landmarks and are left out.")
    none = [
        f"{cell.name}{f', {cell.group}' if cell.group else ''}" for cell in drawn if cell.images and not cell.correct
    ]
    if none:
        below.append(f"No image was answered correctly: {'; '.join(none)}.")
    if not by:
        below.append("The pictures with faces stay in this folder and are not part of the page.")
    return Section(f"What is shared{f', by {by}' if by else ''}", (said,), None, tuple(figures), tuple(below))


def terminal(first: str, found: Found) -> list[str]:
    """Return the few lines that a terminal shows: the verdict, and the main numbers."""
    lines = [first]
    if found.masks is not None:
        lines += [_masks_line(one) for one in found.masks]
    lines += [
        f"against {row['with']}: rank correlation {number(row['rank']) or 'not defined'}, top superpixels in common "
        f"{number(row['overlap']) or 'not defined'} (chance {number(row['chance']) or 'not defined'})"
        for row in found.agreements.to_dict("records")
    ]
    whole = found.regions[(found.regions[["by", "class"]] == "").all(axis=1)]
    whole = whole[(whole["importance"] == "positive") & (whole["group"] == EVERYBODY)]
    if len(whole):
        ranked = whole.sort_values("density", ascending=False)
        said = ", ".join(f"{row['region']} {number(row['density'])}" for row in ranked.to_dict("records"))
        lines.append(f"density (share of importance / share of area): {said}")
    differing = found.differences[found.differences["p_holm"] < 0.05] if len(found.differences) else []
    if len(found.differences):
        lines.append(f"group differences at p Holm < .05: {len(differing)} of {len(found.differences)}")
    return lines


def _masks_line(one: Better) -> str:
    if not one.gain.images:
        return f"{_SAID[one.name]}: not defined, no map has a highest place"
    limits = "" if math.isnan(one.value.low) else f" ({span(one.value.low, one.value.high)})"
    said = f"{number(one.value.value)}{limits}, by chance {number(one.chance.value)}, p {p_text(one.p_value)}"
    return f"{_SAID[one.name]}: {said}"
