"""All that is said of one run's bias, or of several runs side by side: numbers of groups, gaps, training data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from records.bias.columns import group_columns, groupings
from records.bias.composition import Composition, composition, known_groups
from records.bias.gaps import gaps
from records.bias.groups import MINIMUM, Measured, measure
from records.bias.shared_classes import RUN, Evaluated, one_run, several_runs, shared_only
from records.predictions import HONEST, protocol_of


@dataclass(frozen=True)
class Told:
    """One run: what it is called, its tables, and where its page is.

    `manifest` is the table that it was trained on, if known; `given` says that somebody named it for this report, so
    that one which does not fit is an error and not merely of no use.
    """

    name: str
    predictions: pd.DataFrame
    split: pd.DataFrame | None = None
    url: str = ""
    status: str = "FINISHED"
    manifest: pd.DataFrame | None = None
    given: bool = False


@dataclass(frozen=True)
class Asked:
    """What a report is asked for; see the options of `emotion report bias`."""

    by: tuple[str, ...] = ()
    cross: bool = False
    bins: Mapping[str, Sequence[float]] = field(default_factory=dict)
    top: int | None = None
    sets: str | None = None
    by_class: bool = False
    minimum: int = MINIMUM
    resamples: int = 2000
    permutations: int = 9999
    seed: int = 0


@dataclass(frozen=True)
class Bias:
    """What was found.

    Attributes:
        runs: Name of each run -> its address.
        classes: Classes that were compared.
        measured: Numbers of each grouping.
        gaps: What `gaps` returned.
        compositions: Name of a run -> the groups of its training data, one a grouping.
        apart: Numbers of the classes that only some sets have, by set; None where all are shared.
        notes: What belongs under the tables.
    """

    runs: dict[str, str]
    classes: tuple[str, ...]
    measured: tuple[Measured, ...]
    gaps: pd.DataFrame
    compositions: dict[str, tuple[Composition, ...]]
    apart: Measured | None
    notes: tuple[str, ...]


def find_bias(runs: Sequence[Told], asked: Asked) -> Bias:
    """Return the numbers of each group, the gaps between groups and their chance, and who was trained on.

    Args:
        runs: One run; or several with different names, whose images are compared on the classes they share.
        asked: Groupings and settings.

    Raises:
        InputError: Nothing to group by, or a column that cannot be grouped by.
    """
    found, by = _evaluated(runs, asked)
    chosen = groupings(
        found.table, by, cross=asked.cross and not _set_column(runs, asked), bins=asked.bins, top=asked.top
    )
    options = {"minimum": asked.minimum, "resamples": asked.resamples, "seed": asked.seed}
    measured = [
        measure(found.table, one, found.classes, found.said, **options)
        for one in tqdm(chosen, desc="groups", unit="grouping", disable=None, leave=False)
    ]
    tested = gaps(
        found.table,
        measured,
        found.said,
        by_class=asked.by_class,
        minimum=asked.minimum,
        permutations=asked.permutations,
        seed=asked.seed,
    )
    apart = None
    if len(found.apart):
        sets = groupings(found.apart, [_set_column(runs, asked)])[0]
        classes = tuple(one for one in found.said if one in set(found.apart["label"]))
        apart = measure(found.apart, sets, classes, (*classes, *(x for x in found.said if x not in classes)), **options)
    compositions: dict[str, tuple[Composition, ...]] = {}
    notes: list[str] = []
    for run in runs:
        held, said = _compositions(run, asked, () if _set_column(runs, asked) else measured)
        compositions |= {run.name: held} if held else {}
        notes += [f"{run.name}: {one}" if len(runs) > 1 else one for one in said]
    said = [*found.notes, *_notes(runs, measured, tested, found, asked), *notes]
    return Bias(
        {run.name: run.url for run in runs}, found.classes, tuple(measured), tested, compositions, apart, tuple(said)
    )


def _set_column(runs: Sequence[Told], asked: Asked) -> str:
    return RUN if len(runs) > 1 else asked.sets or ""


def _evaluated(runs: Sequence[Told], asked: Asked) -> tuple[Evaluated, list[str]]:
    """Return the images, and what to group by: with sets each set, and each of the columns within the sets."""
    sets = _set_column(runs, asked)
    if not sets:
        if not asked.by:
            columns = group_columns(runs[0].predictions)
            msg = f"--by: name at least one column to group by; the run has: {', '.join(columns) or 'none'}."
            raise InputError(msg)
        return one_run(runs[0].predictions), list(asked.by)
    if len(runs) > 1:
        if asked.sets is not None:
            msg = f"--sets: compares sets within one run, got it with {len(runs)} runs, which are the sets."
            raise InputError(msg)
        for run in runs:  # a column that one of them lacks is found before they are joined
            groupings(run.predictions, asked.by, cross=asked.cross, bins=asked.bins, top=asked.top)
        whole = several_runs([(run.name, run.predictions) for run in runs])
    else:
        whole = one_run(runs[0].predictions)
        groupings(whole.table, [sets])
    # every grouping stands within the sets
    specs = [one for one in asked.by if one != sets]
    if asked.cross:
        specs += [f"{one}+{two}" for i, one in enumerate(asked.by) for two in asked.by[i + 1 :]]
    return shared_only(whole, sets, asked.minimum), [sets, *(f"{sets}+{one}" for one in specs)]


def _compositions(run: Told, asked: Asked, measured: Sequence[Measured]) -> tuple[tuple[Composition, ...], list[str]]:
    """Return the groups of a run's training data, and why there are none."""
    if run.split is None or not asked.by:
        return (), []
    chosen = groupings(run.predictions, asked.by, cross=asked.cross, bins=asked.bins, top=asked.top)
    columns = list(dict.fromkeys(cut.column for one in chosen for cut in one.cuts))
    try:
        known = known_groups(run.predictions, run.split, run.manifest, columns)
    except InputError:
        if run.given:
            raise
        known = None
    if known is None:
        why = (
            "Who was in the training data is not known: the tables of the run hold the groups of its "
            f"{len(run.predictions)} held-out images alone. Write the manifest with `emotion data prepare --data "
            "SOURCE --output my.csv` and give it: --manifest my.csv."
        )
        return (), [why]
    if not measured:  # what was measured is of several sets
        whole = one_run(run.predictions)
        options = {"minimum": asked.minimum, "resamples": asked.resamples, "seed": asked.seed}
        measured = [measure(whole.table, one, whole.classes, whole.said, **options) for one in chosen]
    return tuple(composition(run.split, known, one, seed=asked.seed) for one in measured), []


def _notes(
    runs: Sequence[Told], measured: Sequence[Measured], tested: pd.DataFrame, found: Evaluated, asked: Asked
) -> list[str]:
    table = found.table
    notes = [
        f"{len(table)} images in {table['cluster'].nunique()} clusters (of duplicates, or of one person). Intervals: "
        f"95%; of accuracy, recall and precision Wilson's, with as many trials as the images are worth, since those of "
        f"one cluster are not independent; of F1 {asked.resamples} resamples of clusters within each class and group; "
        "(-) where nothing could vary. They cover the choice of test images, not the "
        "seed of the training.",
        "In a class, accuracy is correct over images of the class, which is its recall. F1 of a class that is never "
        "predicted is 0, and its precision is not defined (-). Macro F1 of a group is over the classes that the group "
        "has images of.",
    ]
    small = any((~one.by_group["ranked"]).any() for one in measured)
    if small:
        notes.append(f"* fewer than {asked.minimum} images, or what --top left over: shown, never ranked, in no gap.")
    if any(one.by_group["few_clusters"].any() for one in measured):
        notes.append("† fewer than 10 clusters: the interval says little.")
    never = [name for name in found.classes if name not in set(table["predicted"])]
    if never:
        notes.append(f"Never predicted, for no group: {', '.join(never)}.")
    for one in measured:
        lacking = one.by_group.loc[one.by_group["classes"] < len(found.classes), "group"].tolist()
        if lacking:
            notes.append(
                f"By {one.grouping.name}, these have no image of some class: {'; '.join(lacking)}. Their accuracy and "
                "macro F1 are over fewer classes; --sets COLUMN compares on shared ones."
            )
        if one.unknown:
            notes.append(f"{one.unknown} images have no {one.grouping.name} and are in no group.")
        if len(one.ranked) < 2:
            notes.append(f"By {one.grouping.name}: {len(one.ranked)} group(s) can be ranked, so there is no gap.")
    if len(tested):
        mixed = int(tested["mixed"].max())
        inside = (
            f" {mixed} clusters have images of several groups, which change places inside their cluster."
            if mixed
            else ""
        )
        notes.append(
            f"p: {asked.permutations} permutations. The names of the ranked groups are dealt anew to whole clusters of "
            f"the same class, and worst and best are chosen anew in each.{inside} So p asks whether the gap is more "
            f"than chance and the groups' shares of the classes explain. p Holm: corrected for all {len(tested)} gaps."
        )
    notes += [f"{run.name} did not finish ({run.status})." for run in runs if run.status != "FINISHED"]
    leaky = [(run.name, protocol_of(run.predictions)) for run in runs]
    return [*notes, *(f"Protocol of {name}: {protocol}." for name, protocol in leaky if protocol != HONEST)]
