"""Where the importance lies, as people read it: density on each region, by class and group, and who differs."""

import math
from collections.abc import Sequence

import pandas as pd

from records.bias.words import p_text
from records.explain.alignment import known
from records.explain.explained import Explained
from records.explain.measures import Found
from records.explain.numbers import number, signed, span
from records.explain.page import Section, Shown
from records.explain.regions import REGIONS
from records.statistics import FEW_CLUSTERS


def region_sections(explained: Explained, found: Found, figures: dict[str, Shown]) -> list[Section]:
    """Return where the importance lies: all images, and each grouping."""
    positive = found.regions[found.regions["importance"] == "positive"]
    if not len(positive):
        why = "No image has landmarks" if not known(explained.landmarks).any() else (
            "No correctly answered image has landmarks and positive importance"
        )  # fmt: skip
        return [Section("Where does it look?", (f"{why}, so nothing can be said of eyes, brows, nose and mouth.",))]
    absolute = found.regions[found.regions["importance"] == "absolute"]
    whole = positive[(positive["by"] == "") & (positive["class"] == "")]
    other = absolute[(absolute["by"] == "") & (absolute["class"] == "")].set_index("region")
    rows = [
        {
            "region": row["region"],
            "share of importance": number(row["share"]),
            "share of area": number(row["area"]),
            "density": number(row["density"]),
            "95% interval": span(row["density_low"], row["density_high"]),
            "density, absolute": number(other["density"].get(row["region"], math.nan)),
        }
        for row in whole.to_dict("records")
    ]
    images, clusters = int(whole["images"].iloc[0]), int(whole["clusters"].iloc[0])
    used = (
        f"Correctly answered images with landmarks: {images} in {clusters} clusters"
        + (f", fewer than {FEW_CLUSTERS}: the intervals say little. " if clusters < FEW_CLUSTERS else ". ")
        + "Importance is the positive part of a map (absolute: with what speaks against the class, too); density is "
        "its share over the share of area, image by image, and 1 where a region weighs as much as its size."
    )
    shown = (figures[""],) if "" in figures else ()
    by_class = _pivot(positive[positive["by"] == ""], explained.classes)
    found_sections = [
        Section("Where does it look?", (used,), pd.DataFrame(rows), shown),
        Section("Density by class", (), by_class),
    ]
    for one in found.by:
        part = positive[(positive["by"] == one.name) & (positive["class"] == "")]
        shown = (figures[one.name],) if one.name in figures else ()
        found_sections.append(Section(f"Density by {one.name}", (), _groups(part, one.groups), shown))
        tests = found.differences[found.differences["by"] == one.name]
        if len(tests) and tests["p_value"].notna().any():
            found_sections.append(
                Section(f"Do groups of {one.name} differ?", (), _tests(tests), (), _test_notes(tests))
            )
        else:
            text = "No two groups have correctly answered images of the same class, so nothing can be compared."
            found_sections.append(Section(f"Do groups of {one.name} differ?", (text,)))
    return found_sections


def _pivot(part: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in classes:
        one = part[part["class"] == name].set_index("region")
        if len(one):
            rows.append({"class": name, "images": str(one["images"].iloc[0])} | _densities(one))
    return pd.DataFrame(rows)


def _groups(part: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in groups:
        one = part[part["group"] == name].set_index("region")
        if len(one):
            rows.append({"group": name, "images": str(one["images"].iloc[0])} | _densities(one))
        else:
            rows.append({"group": name, "images": "0"} | dict.fromkeys(REGIONS, ""))
    return pd.DataFrame(rows)


def _densities(one: pd.DataFrame) -> dict[str, str]:
    return {
        region: f"{number(one['density'][region])} ({span(one['density_low'][region], one['density_high'][region])})"
        if not math.isnan(one["density_low"][region])
        else number(one["density"][region])
        for region in REGIONS
    }


def _tests(tests: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "group": row["group"],
                "minus": row["others"],
                "region": row["region"],
                "difference": signed(row["difference"]),
                "95% interval": span(row["low"], row["high"], sign=True),
                "p": p_text(row["p_value"]),
                "p Holm": p_text(row["p_holm"]),
                "images": f"{row['images']} / {row['other_images']}",
            }
            for row in tests.to_dict("records")
        ]
    )


def _test_notes(tests: pd.DataFrame) -> tuple[str, ...]:
    least = tests["p_holm"].min()
    return (
        "Difference of density within classes; two-sided permutation of whole clusters within classes, corrected by "
        f"Holm over {int(tests['p_value'].notna().sum())} comparisons. "
        + (
            f"{int((tests['p_holm'] < 0.05).sum())} of them differ at p Holm < .05."
            if least < 0.05
            else "None differs at p Holm < .05; that is no proof that the groups are alike."
        ),
    )
