"""Everything that is measured of an explanation, before any of it is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from records.bias.columns import Grouping, groupings
from records.explain.agreement import agreement
from records.explain.alignment import known
from records.explain.curves import Curves, curves, other_fill
from records.explain.explained import ExplainAgain, Explained, Probabilities
from records.explain.faithfulness import Better, against_masks, against_random, clusters_of
from records.explain.means import mean_interval
from records.explain.region_tables import group_table, region_table
from records.explain.regions import REGIONS, Shares, shares_of


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows and how it is computed.

    Attributes:
        by: Columns of the table, or several joined by `+` for their crossing, that images are grouped by.
        n: Correctly answered images that are laid on each other, for each class and group.
        top: Superpixels that an image marks in the overlays, and that agreement compares.
        fill: What stands where a superpixel went in the curves; auto takes one that the explainer did not use.
        steps: Steps of a curve.
        draws: Random orders an image.
        curve_images: At most so many images get curves.
        batch: Pictures shown to the network at once.
        methods: Other methods to compare with.
        seeds: How often the method is repeated with another seed.
        resamples: Of the intervals.
        permutations: Of the tests.
        seed: Of everything drawn here.
        title: Of the report.
    """

    by: tuple[str, ...] = ()
    n: int = 10
    top: int = 5
    fill: str = "auto"
    steps: int = 20
    draws: int = 5
    curve_images: int = 200
    batch: int = 256
    methods: tuple[str, ...] = ()
    seeds: int = 2
    resamples: int = 2000
    permutations: int = 9999
    seed: int = 0
    title: str = ""


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        by: The groupings.
        curves: Deletion and insertion, image by image.
        deletion: Against random orders.
        insertion: Against random orders.
        masks: `inside` and `pointing`, where it is known what matters.
        agreements: One row a comparison: `with`, `rank`, `overlap` with `_low` and `_high`, `chance`, `images`,
            `undefined`.
        shares: On regions, of the positive importance.
        regions: What `region_table` gave, for positive and absolute importance.
        differences: What `group_table` gave for the positive importance.
        images: One row an image.
    """

    by: tuple[Grouping, ...]
    curves: Curves
    deletion: Better
    insertion: Better
    masks: tuple[Better, Better] | None
    agreements: pd.DataFrame
    shares: Shares
    regions: pd.DataFrame
    differences: pd.DataFrame
    images: pd.DataFrame


def check(explained: Explained, options: ReportOptions) -> tuple[Grouping, ...]:
    """Return the groupings; what cannot be reported is refused before anything is computed.

    Raises:
        InputError: No image, maps that are not finite, an option out of range, or a column that cannot group.
    """
    if not len(explained):
        msg = "images: nothing was explained, so there is nothing to report; choose at least one image."
        raise InputError(msg)
    if not np.isfinite(explained.maps).all():
        msg = f"maps: must be finite, those of {explained.method} are not; a network that diverged does this."
        raise InputError(msg)
    least = {"n": 1, "top": 1, "steps": 1, "draws": 1, "curve_images": 1, "batch": 1, "seeds": 0}
    least |= {"resamples": 100, "permutations": 99}
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            msg = f"{name}: must be at least {lowest}, got {getattr(options, name)}."
            raise InputError(msg)
    other_fill(explained, options.fill)
    return tuple(groupings(explained.table, options.by)) if options.by else ()


def measure(
    explained: Explained, probabilities: Probabilities, explain_again: ExplainAgain, options: ReportOptions
) -> Found:
    """Measure whether maps are true, stable and agreed on, and where they lie."""
    by = check(explained, options)
    drawn = {"resamples": options.resamples, "seed": options.seed}
    tests = {**drawn, "permutations": options.permutations}
    found = curves(
        explained,
        probabilities,
        fill=other_fill(explained, options.fill),
        steps=options.steps,
        draws=options.draws,
        batch=options.batch,
        images=options.curve_images,
        seed=options.seed,
    )
    deletion, insertion = against_random(explained.table, found, **tests)
    shares = shares_of(explained.maps, explained.landmarks)
    absolute = shares_of(explained.maps, explained.landmarks, absolute=True)
    regions = [
        region_table(explained, one, by, importance=name, **drawn)
        for name, one in (("positive", shares), ("absolute", absolute))
    ]
    return Found(
        by,
        found,
        deletion,
        insertion,
        against_masks(explained, **tests),
        _agreements(explained, explain_again, options),
        shares,
        pd.concat(regions, ignore_index=True),
        group_table(explained, shares, by, **tests),
        _images(explained, found, shares),
    )


def _agreements(explained: Explained, explain_again: ExplainAgain, options: ReportOptions) -> pd.DataFrame:
    """Compare with other methods, and with other seeds of the same method."""
    own = explained.options.get("seed", 0)
    first = own if isinstance(own, int) else 0
    asked = [(f"method {name}", name, first) for name in dict.fromkeys(options.methods) if name != explained.method]
    asked += [(f"seed {first + step}", explained.method, first + step) for step in range(1, options.seeds + 1)]
    cluster, rows = clusters_of(explained.table), []
    for said, method, seed in asked:
        maps = explain_again(method, seed)
        found = agreement(explained.maps, maps, explained.segments, top=options.top, seed=options.seed)
        row: dict[str, object] = {"with": said}
        for what in ("rank", "overlap"):
            mean = mean_interval(found[what].to_numpy(), cluster, resamples=options.resamples, seed=options.seed)
            row |= {what: mean.value, f"{what}_low": mean.low, f"{what}_high": mean.high, "images": mean.images}
        row |= {"chance": float(found["chance"].mean()), "undefined": int(found["rank"].isna().sum())}
        rows.append(row)
    names = ["with", "rank", "rank_low", "rank_high", "overlap", "overlap_low", "overlap_high", "chance", "images"]
    return pd.DataFrame(rows, columns=[*names, "undefined"])


def _images(explained: Explained, found: Curves, shares: Shares) -> pd.DataFrame:
    kept = [name for name in ("row", "path", "fold", "label", "predicted") if name in explained.table]
    table = explained.table[kept].reset_index(drop=True)
    table["explained_class"] = np.asarray(explained.classes, object)[explained.target]
    table["landmarks"] = known(explained.landmarks)
    curved = pd.DataFrame(
        {
            "deletion_area": found.deletion_area,
            "insertion_area": found.insertion_area,
            "random_area": found.random_area.mean(axis=1),
        },
        index=found.rows,
    )
    names = [f"density {name}" for name in REGIONS]
    return pd.concat([table, curved.reindex(table.index), pd.DataFrame(shares.density, columns=names)], axis=1)


def constant_maps(maps: np.ndarray) -> int:
    """Return how many maps say the same everywhere."""
    return int((maps.max(axis=(1, 2)) <= maps.min(axis=(1, 2))).sum())


def correct_of(explained: Explained) -> Sequence[bool]:
    """Return whether each image was answered correctly, bool (N,)."""
    return explained.table["label"].to_numpy(object) == explained.table["predicted"].to_numpy(object)
