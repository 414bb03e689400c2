"""How much importance lies on each region: by class and group, with intervals, and whether groups differ."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from records.bias.columns import Grouping
from records.explain.explained import EVERYBODY, Explained
from records.explain.faithfulness import clusters_of
from records.explain.means import group_difference, mean_interval
from records.explain.regions import REGIONS, Shares
from records.significance import holm

ALL_CLASSES = ""


def region_table(
    explained: Explained,
    shares: Shares,
    by: Sequence[Grouping],
    *,
    importance: str,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what lies on each region in correctly answered images.

    Returns:
        One row a grouping, group, class and region: `importance`, `by` and `group` ("" for all images), `class` ("" for
        all classes), `region`, `images`, `clusters`, `share`, `share_low`, `share_high`, `area`, `density`,
        `density_low`, `density_high`. Cells without any image are left out.
    """
    table, cluster = explained.table, clusters_of(explained.table)
    label = table["label"].to_numpy(object)
    usable = (label == table["predicted"].to_numpy(object)) & np.isfinite(shares.share).all(axis=1)
    sets = [("", EVERYBODY, np.ones(len(table), bool))]
    for one in by:
        group = one.of(table)
        sets += [(one.name, name, group == name) for name in one.groups]
    rows = []
    for column, group_name, inside in sets:
        for name in (ALL_CLASSES, *explained.classes):
            chosen = usable & inside & ((label == name) | (name == ALL_CLASSES))
            if not chosen.any():
                continue
            for number, region in enumerate(REGIONS):
                row: dict[str, object] = {"importance": importance, "by": column, "group": group_name, "class": name}
                row |= {"region": region, "images": int(chosen.sum())}
                for what, values in (("share", shares.share), ("density", shares.density)):
                    mean = mean_interval(values[chosen, number], cluster[chosen], resamples=resamples, seed=seed)
                    row |= {"clusters": mean.clusters} if what == "share" else {}
                    row |= {what: mean.value, f"{what}_low": mean.low, f"{what}_high": mean.high}
                row["area"] = float(shares.area[chosen, number].mean())
                rows.append(row)
    names = ["importance", "by", "group", "class", "region", "images", "clusters", "share", "share_low", "share_high",
             "area", "density", "density_low", "density_high"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def group_table(
    explained: Explained,
    shares: Shares,
    by: Sequence[Grouping],
    *,
    permutations: int = 9999,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether density on a region differs between a group and all others, within classes.

    Of two groups, the first is tested against the second. Images of no known group are left out, and so is a mixture of
    rare groups as a group of its own.

    Returns:
        One row a grouping, group and region: `by`, `group`, `others`, `region`, `difference`, `low`, `high`,
        `p_value`, `p_holm` (over the groups and regions of a grouping), `images`, `other_images`.
    """
    table, cluster = explained.table, clusters_of(explained.table)
    label = table["label"].to_numpy(object)
    right = label == table["predicted"].to_numpy(object)
    stratum = pd.Index(explained.classes).get_indexer(pd.Index(label))
    settings = {"permutations": permutations, "resamples": resamples, "seed": seed}
    found = []
    for one in by:
        group = one.of(table)
        ranked = [name for name in one.groups if not one.is_mixture(name)]
        tested = ranked[:1] if len(one.groups) == 2 else ranked
        rows = []
        for name in tested if len(one.groups) > 1 else []:
            others = next((other for other in one.groups if other != name), "") if len(one.groups) == 2 else "others"
            used = right & (group != "")
            for number, region in enumerate(REGIONS):
                answer = group_difference(
                    shares.density[used, number], group[used] == name, cluster[used], stratum[used], **settings
                )
                rows.append((one.name, name, others, region, answer.value, answer.low, answer.high, answer.p_value,
                             np.nan, answer.inside, answer.outside))  # fmt: skip
        names = ["by", "group", "others", "region", "difference", "low", "high", "p_value", "p_holm", "images",
                 "other_images"]  # fmt: skip
        part = pd.DataFrame(rows, columns=names)
        said = part["p_value"].notna()
        if said.any():
            part.loc[said, "p_holm"] = holm(part.loc[said, "p_value"].tolist())
        found.append(part)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()
