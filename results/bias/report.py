"""Bias report of one run, or of several side by side: scores of groups, gaps between them, training data."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from datamodules.errors import InputError
from results.bias.gaps import gaps
from results.bias.groups import (
    MINIMUM,
    Grouping,
    Measured,
    group_columns,
    groupings,
    measure,
    proportion_interval,
)
from results.bias.training_data import (
    RUN,
    Composition,
    EvaluatedImages,
    composition,
    known_groups,
    one_run,
    read_manifest,
    several_runs,
    shared_only,
)
from results.predictions import HONEST, protocol_of
from results.reports.figures import COLOURS, drawable, fonts, inches
from results.reports.pages import Image, Section, image_of, render, run_url, write_files
from results.reports.tables import SCORES, as_text, estimate, number, p_value, percent, signed
from results.selective import DECISIONS
from results.tracking import runs, store


@dataclass(frozen=True)
class EvaluatedRun:
    """Tables of one run whose bias is measured.

    Attributes:
        name: Name of the run on the page.
        predictions: Its prediction table.
        split: Its split table, if it has one.
        url: Address of its page.
        status: As in MLflow.
        manifest: Manifest of its data, if known.
        manifest_required: Whether a manifest that does not fit is an error; otherwise it is ignored.
        decided: Its table of decisions, if it has one.
    """

    name: str
    predictions: pd.DataFrame
    split: pd.DataFrame | None = None
    url: str = ""
    status: str = "FINISHED"
    manifest: pd.DataFrame | None = None
    manifest_required: bool = False
    decided: pd.DataFrame | None = None


@dataclass(frozen=True)
class BiasOptions:
    """Groupings and settings of a report; see the options of `emotion report bias`."""

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
    """Scores of groups, gaps between groups, and the groups of the training data.

    Attributes:
        runs: Name of each run -> address of its page.
        classes: Classes that were compared.
        measured: Scores of each grouping.
        gaps: Result of `gaps`.
        compositions: Name of a run -> the groups of its training data, one per grouping.
        unshared: Scores of the classes that only some sets have, by set; None if all are shared.
        notes: Sentences below the tables.
        coverage: Result of `answered_groups` for each grouping, of a run that leaves images unanswered.
    """

    runs: dict[str, str]
    classes: tuple[str, ...]
    measured: tuple[Measured, ...]
    gaps: pd.DataFrame
    compositions: dict[str, tuple[Composition, ...]]
    unshared: Measured | None
    notes: tuple[str, ...]
    coverage: tuple[pd.DataFrame, ...] = ()


def find_bias(runs: Sequence[EvaluatedRun], options: BiasOptions) -> Bias:
    """Measure each group, test the gaps between groups, and count the groups of the training data.

    Args:
        runs: One run; or several with different names, whose images are compared on the classes they share.
        options: Groupings and settings.

    Raises:
        InputError: Nothing to group by, or a column that cannot be grouped by.
    """
    images, by = _evaluated(runs, options)
    sets = _set_column(runs, options)
    chosen = groupings(images.table, by, cross=options.cross and not sets, bins=options.bins, top=options.top)
    measured = [
        _measured(images.table, grouping, images.classes, images.predicted_classes, options)
        for grouping in tqdm(chosen, desc="groups", unit="grouping", disable=None, leave=False)
    ]
    tested = gaps(
        images.table,
        measured,
        images.predicted_classes,
        by_class=options.by_class,
        minimum=options.minimum,
        permutations=options.permutations,
        seed=options.seed,
    )
    unshared = None
    if len(images.unshared):
        present = set(images.unshared["label"])
        classes = tuple(name for name in images.predicted_classes if name in present)
        predicted = (*classes, *(name for name in images.predicted_classes if name not in present))
        unshared = _measured(images.unshared, groupings(images.unshared, [sets])[0], classes, predicted, options)
    compositions: dict[str, tuple[Composition, ...]] = {}
    notes: list[str] = []
    for run in runs:
        groups, reasons = _compositions(run, options, () if sets else measured)
        compositions |= {run.name: groups} if groups else {}
        notes += [f"{run.name}: {reason}" if len(runs) > 1 else reason for reason in reasons]
    notes = [*images.notes, *_notes(runs, measured, tested, images, options), *notes]
    urls = {run.name: run.url for run in runs}
    decided, coverage = runs[0].decided, ()
    if decided is not None and not sets and decided["unsure"].any():
        coverage = tuple(answered_groups(decided, groups.grouping) for groups in measured)
        notes.append(
            "Scores are those of all images. The decisions of the run leave some unanswered. Coverage is the share "
            "that is answered; a stated risk or coverage holds for all images together, not for each group."
        )
    return Bias(urls, images.classes, tuple(measured), tested, compositions, unshared, tuple(notes), coverage)


def _measured(
    table: pd.DataFrame, grouping: Grouping, classes: Sequence[str], predicted: Sequence[str], options: BiasOptions
) -> Measured:
    settings = {"minimum": options.minimum, "resamples": options.resamples, "seed": options.seed}
    return measure(table, grouping, classes, predicted, **settings)


def _set_column(runs: Sequence[EvaluatedRun], options: BiasOptions) -> str:
    return RUN if len(runs) > 1 else options.sets or ""


def _evaluated(runs: Sequence[EvaluatedRun], options: BiasOptions) -> tuple[EvaluatedImages, list[str]]:
    """Return the images, and what to group by: with sets each set, and each of the columns within the sets."""
    sets = _set_column(runs, options)
    if not sets:
        if not options.by:
            columns = group_columns(runs[0].predictions)
            msg = f"--by: name at least one column to group by; the run has: {', '.join(columns) or 'none'}."
            raise InputError(msg)
        return one_run(runs[0].predictions), list(options.by)
    if len(runs) > 1:
        if options.sets is not None:
            msg = f"--sets: needs a single run, got {len(runs)} runs, which are the sets themselves; leave it out."
            raise InputError(msg)
        for run in runs:  # a column that one of them lacks is an error before they are joined
            groupings(run.predictions, options.by, cross=options.cross, bins=options.bins, top=options.top)
        images = several_runs([(run.name, run.predictions) for run in runs])
    else:
        images = one_run(runs[0].predictions)
        groupings(images.table, [sets])
    # every grouping stands within the sets
    columns = [column for column in options.by if column != sets]
    if options.cross:
        columns += ["+".join(pair) for pair in combinations([column for column in columns if "+" not in column], 2)]
    columns = list(dict.fromkeys(f"{sets}+{column}" for column in columns))
    return shared_only(images, sets, options.minimum), [sets, *columns]


def _compositions(
    run: EvaluatedRun, options: BiasOptions, measured: Sequence[Measured]
) -> tuple[tuple[Composition, ...], list[str]]:
    """Return the groups of a run's training data, or the reason why they are not known."""
    if run.split is None or not options.by:
        return (), []
    if not (run.split["role"] == "train").any():
        reason = (
            "The groups of the training data are not shown: the run is an evaluation, and trained nothing. Report on "
            "the run that trained the model to see them."
        )
        return (), [reason]
    chosen = groupings(run.predictions, options.by, cross=options.cross, bins=options.bins, top=options.top)
    columns = list(dict.fromkeys(cut.column for grouping in chosen for cut in grouping.cuts))
    try:
        known = known_groups(run.predictions, run.split, run.manifest, columns)
    except InputError:
        if run.manifest_required:
            raise
        known = None
    if known is None:
        reason = (
            "The groups of the training data are not known: the tables of the run have only the groups of its "
            f"{len(run.predictions)} held-out images. Write the manifest with `emotion data prepare --data "
            "SOURCE --output my.csv` and give it: --manifest my.csv."
        )
        return (), [reason]
    if not measured:  # the groupings of the report are within several sets
        images = one_run(run.predictions)
        measured = [
            _measured(images.table, grouping, images.classes, images.predicted_classes, options) for grouping in chosen
        ]
    return tuple(composition(run.split, known, groups, seed=options.seed) for groups in measured), []


def _notes(
    runs: Sequence[EvaluatedRun],
    measured: Sequence[Measured],
    tested: pd.DataFrame,
    images: EvaluatedImages,
    options: BiasOptions,
) -> list[str]:
    table = images.table
    notes = [
        f"{len(table)} images in {table['cluster'].nunique()} clusters (of duplicates, or of one person). Intervals "
        "(95%): Wilson's for accuracy, recall and precision, with the effective number of images, since images of one "
        f"cluster are not independent; for F1 {options.resamples} resamples of clusters within each class and group; "
        "(-) if not defined. They reflect the sample of test images, not the training seed.",
        "The accuracy of a class is its recall: correct images over images of the class. The F1 of a class that is "
        "never predicted is 0, and its precision is not defined (-). The macro F1 of a group is over the classes that "
        "have images in the group.",
    ]
    if any((~groups.by_group["ranked"]).any() for groups in measured):
        notes.append(f"* fewer than {options.minimum} images, or joined by --top: shown, not ranked or tested.")
    if any(groups.by_group["few_clusters"].any() for groups in measured):
        notes.append("† fewer than 10 clusters: the interval is not reliable.")
    never = [name for name in images.classes if name not in set(table["predicted"])]
    if never:
        notes.append(f"Never predicted in any group: {', '.join(never)}.")
    for groups in measured:
        name = groups.grouping.name
        lacking = groups.by_group.loc[groups.by_group["classes"] < len(images.classes), "group"].tolist()
        if lacking:
            notes.append(
                f"By {name}, these groups have no image of some class: {'; '.join(lacking)}. Their accuracy and "
                "macro F1 are over fewer classes; --sets COLUMN compares on shared classes."
            )
        if groups.unknown:
            notes.append(f"{groups.unknown} images have no value of {name} and are in no group.")
        if len(groups.ranked) < 2:
            notes.append(f"By {name}: {len(groups.ranked)} group(s) can be ranked, so no gap is tested.")
    if len(tested):
        mixed = int(tested["mixed"].max())
        inside = (
            f" In {mixed} clusters with images of several groups, they are permuted within the cluster."
            if mixed
            else ""
        )
        notes.append(
            f"p: {options.permutations} permutations. In each, the names of the ranked groups are permuted among whole "
            f"clusters of the same class, and worst and best are chosen again.{inside} So p tests whether the gap is "
            f"larger than chance and class shares explain. p Holm: corrected for all {len(tested)} gaps."
        )
    notes += [f"{run.name} did not finish ({run.status})." for run in runs if run.status != "FINISHED"]
    leaky = [(run.name, protocol_of(run.predictions)) for run in runs]
    return [*notes, *(f"Protocol of {name}: {protocol}." for name, protocol in leaky if protocol != HONEST)]


def answered_groups(decided: pd.DataFrame, grouping: Grouping) -> pd.DataFrame:
    """Return images, answered, coverage and accuracy of the answers of each group, with intervals.

    Args:
        decided: A table of decisions.
        grouping: The grouping.
    """
    of = grouping.of(decided)
    rows = []
    for name in grouping.groups:
        part = decided[of == name]
        answers = part[~part["unsure"].astype(bool)]
        right = (answers["label"] == answers["predicted"]).to_numpy()
        row = {"group": name, "images": len(part), "answered": len(answers), "coverage": len(answers) / len(part)}
        row["coverage_low"], row["coverage_high"] = proportion_interval(
            ~part["unsure"].to_numpy(bool), part["cluster"].to_numpy()
        )
        row["accuracy"] = float(right.mean()) if len(right) else np.nan
        row["accuracy_low"], row["accuracy_high"] = proportion_interval(right, answers["cluster"].to_numpy())
        rows.append(row)
    return pd.DataFrame(rows).assign(by=grouping.name)


def answered_table(answered: pd.DataFrame) -> pd.DataFrame:
    """Return the result of `answered_groups` as text."""
    by = str(answered["by"].iloc[0])
    return pd.DataFrame(
        {
            by: row["group"],
            "images": str(row["images"]),
            "answered": str(row["answered"]),
            "coverage": _estimate(row, "coverage"),
            "accuracy of answers": _estimate(row, "accuracy"),
        }
        for row in answered.to_dict("records")
    )


def verdicts(bias: Bias) -> list[str]:
    """Return one sentence per grouping: the worst and the best group, their difference, and its p-value."""
    sentences = []
    for groups in bias.measured:
        name = groups.grouping.name
        rows = bias.gaps[(bias.gaps["by"] == name) & (bias.gaps["metric"] == "accuracy")]
        if rows.empty:
            sentences.append(f"By {name}: nothing to compare, fewer than two groups are large enough (see --minimum).")
            continue
        row = rows.iloc[0]
        chance = "more than chance" if row["p_holm"] <= 0.05 else "it may be chance, or due to class shares"
        sentences.append(
            f"By {name}: accuracy is worst for {row['worst']} ({number(row['worst_value'])}) and best for "
            f"{row['best']} ({number(row['other_value'])}), difference {signed(row['difference'])}: {chance} "
            f"(p Holm {p_value(row['p_holm'])})."
        )
    return sentences


def group_table(groups: Measured) -> pd.DataFrame:
    """Return images, correct, accuracy and macro F1 of each group, with intervals."""
    return pd.DataFrame(
        {
            groups.grouping.name: marked(row),
            "images": str(row["images"]),
            "clusters": str(row["clusters"]),
            "correct": str(row["correct"]),
            "accuracy": _estimate(row, "accuracy"),
            "macro F1": _estimate(row, "f1_macro"),
        }
        for row in groups.by_group.to_dict("records")
    )


def correct_table(groups: Measured, classes: Sequence[str]) -> pd.DataFrame:
    """Return correct / images (accuracy) of each group and class, one line per group."""
    cells = groups.by_class.set_index(["group", "class"])
    rows = []
    for row in groups.by_group.to_dict("records"):
        line = {groups.grouping.name: marked(row)}
        line |= {_column(name, groups): _correct(cells.loc[(row["group"], name)], "recall") for name in classes}
        rows.append({**line, "total": _correct(row, "accuracy")})
    return pd.DataFrame(rows)


def class_table(groups: Measured) -> pd.DataFrame:
    """Return images, correct, recall, precision and F1 of each group and class, with intervals; a line each."""
    marks = {row["group"]: marked(row) for row in groups.by_group.to_dict("records")}
    return pd.DataFrame(
        {
            groups.grouping.name: marks[row["group"]],
            "class": str(row["class"]),
            "images": str(row["images"]),
            "predicted": str(row["predicted"]),
            "correct": str(row["correct"]),
            "accuracy = recall": _estimate(row, "recall"),
            "precision": _estimate(row, "precision"),
            "F1": _estimate(row, "f1"),
        }
        for row in groups.by_class.to_dict("records")
    )


def gap_table(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the gaps: the worst group, the one it is compared with, their difference, p."""
    return pd.DataFrame(
        {
            "by": row["by"],
            "score": SCORES[row["metric"]] + (f" of {row['class']}" if row["class"] else ""),
            "worst": f"{row['worst']} ({number(row['worst_value'])})",
            "against": f"{row['best'] or 'all others'} ({number(row['other_value'])})",
            "difference": signed(row["difference"]),
            "p": p_value(row["p_value"]),
            "p Holm": p_value(row["p_holm"]),
        }
        for row in gaps.to_dict("records")
    )


def composition_table(trained_on: Composition) -> pd.DataFrame:
    """Return the share of each group in training beside its accuracy."""
    rows = []
    for row in trained_on.table.to_dict("records"):
        mark = "" if row["ranked"] or not row["images"] else " *"
        line = {trained_on.by: f"{row['group']}{mark}", "trained on": f"{row['train']:.0f}"}
        line |= {"share": percent(row["share"])}
        if trained_on.table["copies"].any():
            line |= {"copies": f"{row['copies']:.0f}", "share with copies": percent(row["share_with_copies"])}
        line |= {"evaluated": str(row["images"]), "accuracy": _estimate(row, "accuracy")}
        rows.append(line)
    return pd.DataFrame(rows)


def correlation_text(trained_on: Composition) -> str:
    """Return the correlations and the notes of a composition in one paragraph."""
    sentences = [
        f"{row['kind'].capitalize()} correlation {row['correlation']:+.2f} (p {p_value(row['p_value'])})."
        for row in trained_on.correlations.to_dict("records")
    ]
    return " ".join([*sentences, *trained_on.notes])


def marked(row: Mapping[str, Any]) -> str:
    """Return the name of a group: * when it is not ranked, a dagger with few clusters."""
    return f"{row['group']}{'' if row['ranked'] else ' *'}{' †' if row['few_clusters'] else ''}"


def _column(name: str, groups: Measured) -> str:
    return f"{name} " if name in (groups.grouping.name, "total") else name  # a class may be called like the column


def _correct(row: Mapping[str, Any] | pd.Series, metric: str) -> str:
    return f"{row['correct']}/{row['images']} ({number(row[metric])})" if row["images"] else "-"


def _estimate(row: Mapping[str, Any], metric: str) -> str:
    return estimate(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])


ALL = "all classes"
MOST_DRAWN = 24  # groups; the tables hold all
_ACROSS = 4  # panels
_WIDE, _LINE = 2.6, 0.27  # inches of a panel, and of a bar
_HEAD, _TITLE, _FOOT, _SIDE = 0.75, 0.35, 0.3, 0.2


def bias_figure(measured: Measured, classes: Sequence[str]) -> Figure:
    """Return one panel for all classes and one for each: bars of accuracy (in a class: recall) with 95 % intervals.

    A group that is not ranked is drawn pale. A cell without images has no bar.

    Args:
        measured: Numbers of one grouping.
        classes: Classes in the order in which they are drawn.
    """
    groups = measured.by_group.head(MOST_DRAWN)
    names = drawable([str(name) for name in groups["group"]], "group")
    heads = drawable([ALL, *classes], "class")
    (by,) = drawable([measured.grouping.name], "group")
    family = fonts()
    panels = [groups.assign(value=groups["accuracy"], low=groups["accuracy_low"], high=groups["accuracy_high"])]
    for name in classes:
        part = measured.by_class[measured.by_class["class"] == name].set_index("group").loc[groups["group"]]
        part = part.assign(value=part["recall"], low=part["recall_low"], high=part["recall_high"])
        panels.append(part.assign(ranked=groups["ranked"].to_numpy()))
    across, down = min(_ACROSS, len(panels)), -(-len(panels) // _ACROSS)
    room = 0.25 + inches(names, 9)
    tall = _LINE * len(groups) + 0.12
    width = room + across * (_WIDE + _SIDE)
    height = _HEAD + down * (_TITLE + tall + _FOOT)
    figure = Figure(figsize=(width, height))
    for place, (head, panel) in enumerate(zip(heads, panels, strict=True)):
        column, row = place % across, place // across
        left, low = room + column * (_WIDE + _SIDE), height - _HEAD - row * (_TITLE + tall + _FOOT) - _TITLE - tall
        axes = figure.add_axes((left / width, low / height, _WIDE / width, tall / height))
        _bars(axes, panel, 0 if place == 0 else 1)
        axes.set_title(head, fontsize=10, loc="left", family=family, parse_math=False)
        shown = names if column == 0 else [""] * len(names)
        axes.set_yticks(range(len(names)), shown, family=family, fontsize=9, parse_math=False)
    title = f"By {by}" + (f", the first {MOST_DRAWN} groups" if len(measured.by_group) > MOST_DRAWN else "")
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=11, family=family, parse_math=False)
    note = "accuracy with 95% interval, correct / images; in a class accuracy is recall; pale: not ranked"
    if names != [str(name) for name in groups["group"]]:
        note += "; names cut or numbered as in the table"
    figure.text(0.1 / width, 1 - 0.4 / height, note, va="top", fontsize=8)
    return figure


def _bars(axes: Axes, panel: pd.DataFrame, colour: int) -> None:
    place = np.arange(len(panel))
    value, low, high = (panel[name].to_numpy(np.float64) for name in ("value", "low", "high"))
    defined = np.isfinite(value)
    shades = [COLOURS[colour] if ranked else "#bbbbbb" for ranked in panel["ranked"]]
    axes.barh(place[defined], value[defined], color=[shades[at] for at in place[defined]], height=0.66)
    reach = np.clip([value - low, high - value], 0, None)  # a percentile interval need not hold the value
    axes.errorbar(
        value[defined], place[defined], xerr=reach[:, defined], fmt="none", ecolor="black", elinewidth=1, capsize=2
    )
    for at, images, correct in zip(place.tolist(), panel["images"], panel["correct"], strict=True):
        ends = max(high[at], value[at]) if defined[at] else 0.0
        text = f"{value[at]:.2f}  {correct}/{images}" if defined[at] else "no image"
        axes.text(ends + 0.03, at, text, va="center", fontsize=7.5)
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.set_xlim(0, 1.62)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", ".5", "", "1"], fontsize=8)
    axes.spines["bottom"].set_bounds(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def files(bias: Bias) -> dict[str, str | bytes]:
    """Return name -> content of the files of a report: pages, charts, tables."""
    charts = [
        image_of(bias_figure(groups, bias.classes), f"chart-{place}.png", "accuracy of each group and class")
        for place, groups in enumerate(bias.measured, 1)
    ]
    page = {
        "title": f"Bias between groups: {' and '.join(bias.runs)}",
        "runs": bias.runs,
        "verdicts": verdicts(bias),
        "sections": [*_sections(bias, charts), *_class_sections(bias)],
        "notes": bias.notes,
    }
    content: dict[str, str | bytes] = {name: render(name, **page) for name in ("bias.html", "bias.md")}
    content |= {chart.file: chart.png for chart in charts}
    for name, table in (("groups", "by_group"), ("classes", "by_class")):
        rows = [getattr(groups, table).assign(by=groups.grouping.name) for groups in bias.measured]
        content[f"{name}.csv"] = pd.concat(rows, ignore_index=True).to_csv(index=False)
    content["gaps.csv"] = bias.gaps.to_csv(index=False)
    if bias.coverage:
        content["coverage.csv"] = pd.concat(bias.coverage, ignore_index=True).to_csv(index=False)
    if bias.unshared is not None:
        content["apart.csv"] = bias.unshared.by_class.to_csv(index=False)
    rows = [part.table.assign(run=run, by=part.by) for run, parts in bias.compositions.items() for part in parts]
    if rows:
        content["composition.csv"] = pd.concat(rows, ignore_index=True).to_csv(index=False)
    return content


def text(bias: Bias) -> str:
    """Return the report for a terminal: all but the lines of every group and class, which the files have."""
    parts = [*verdicts(bias)]
    for section in _sections(bias):
        parts.append(f"{section.title}\n{'-' * len(section.title)}")
        parts += [as_text(section.table)] if section.table is not None else []
        parts += section.below
    return "\n\n".join([*parts, *bias.notes])


def _sections(bias: Bias, charts: Sequence[Image] = ()) -> list[Section]:
    sections = []
    for place, groups in enumerate(bias.measured):
        title = f"By {groups.grouping.name}"
        sections.append(Section(title, (), group_table(groups), tuple(charts[place : place + 1])))
        sections.append(Section(f"{title}: correct / images (accuracy)", (), correct_table(groups, bias.classes)))
    for answered in bias.coverage:
        title = f"Answered images, by {answered['by'].iloc[0]}"
        sections.append(Section(title, (), answered_table(answered)))
    if len(bias.gaps):
        sections.append(Section("Gaps", (), gap_table(bias.gaps)))
    for run, compositions in bias.compositions.items():
        of = f" ({run})" if len(bias.runs) > 1 else ""
        sections += [
            Section(
                f"Groups in the training data, by {part.by}{of}",
                (),
                composition_table(part),
                below=tuple(filter(None, [correlation_text(part)])),
            )
            for part in compositions
        ]
    if bias.unshared is not None:
        table = class_table(bias.unshared)
        table = table[table["images"] != "0"].drop(columns=["predicted", "precision", "F1"])
        sections.append(Section("Classes that not every set has", (), table))
    return sections


def _class_sections(bias: Bias) -> list[Section]:
    return [Section(f"Every class, by {groups.grouping.name}", (), class_table(groups)) for groups in bias.measured]


def bias_of_runs(
    names: Sequence[str],
    options: BiasOptions,
    *,
    manifest: Path | None = None,
    directory: str | Path = store.DIRECTORY,
) -> tuple[list[str], Bias]:
    """Measure the bias of tracked runs; return their ids and the result.

    Args:
        names: Runs; several are compared as data sets.
        options: Groupings and settings.
        manifest: Table that the one run was trained on; by default what its config names.
        directory: Folder of the runs.

    Raises:
        InputError: The same run twice, a run without predictions, or groupings that do not work.
    """
    chosen = runs.find_different_runs(names, directory=directory)
    if manifest is not None and len(chosen) > 1:
        msg = f"--manifest: needs a single run, got {len(chosen)} runs; report on each run separately to use it."
        raise InputError(msg)
    if options.minimum < 2:
        msg = f"--minimum: must be at least 2, got {options.minimum}; {MINIMUM} is usual."
        raise InputError(msg)
    return chosen, find_bias([_read_run(run, manifest, directory) for run in chosen], options)


def _read_run(run_id: str, manifest: Path | None, directory: str | Path) -> EvaluatedRun:
    """Read the tables of a run.

    Raises:
        InputError: The run has no predictions.
    """
    info = store.open_client(directory, only_reading=True).get_run(run_id).info
    try:
        predictions = runs.load_table(run_id, "predictions", directory=directory)
    except InputError as error:
        msg = (
            f"RUN: {info.run_name!r} ({info.status}) has no prediction table, so groups cannot be compared. "
            "Choose a run that was evaluated: a finished `emotion fit` or `emotion cross-validate`."
        )
        raise InputError(msg) from error
    split, decided = (_table(run_id, name, directory) for name in ("split", DECISIONS))
    table = read_manifest(manifest) if manifest is not None else _own_manifest(run_id, directory)
    status = "deleted" if info.lifecycle_stage == "deleted" else str(info.status)
    url = run_url(str(info.experiment_id), run_id)
    return EvaluatedRun(
        f"{info.run_name} [{run_id[:8]}]", predictions, split, url, status, table, manifest is not None, decided
    )


def _table(run_id: str, name: str, directory: str | Path) -> pd.DataFrame | None:
    try:
        return runs.load_table(run_id, name, directory=directory)
    except InputError:
        return None


def _own_manifest(run_id: str, directory: str | Path) -> pd.DataFrame | None:
    """Return the manifest that the run's config names as its data; None if it is not a table, or no longer exists."""
    try:
        data = runs.run_config(run_id, directory=directory).get("data") or {}
        source = str(data.get("source", "")).removeprefix("csv:")
        return read_manifest(source) if Path(source).suffix.lower() in (".csv", ".parquet") else None
    except (InputError, ValueError, TypeError, AttributeError):
        return None


def keep_report(
    chosen: Sequence[str],
    files: Mapping[str, str | bytes],
    options: BiasOptions,
    directory: str | Path = store.DIRECTORY,
) -> list[str]:
    """Store the files of a report with every run as artifacts under bias/<columns>; return a sentence per run."""
    columns = [*([options.sets] if options.sets else []), *options.by, *(["cross"] if options.cross else [])]
    others = ["with", *sorted(run[:8] for run in chosen)] if len(chosen) > 1 else []
    name = re.sub(r"[^\w+.-]", "_", "-".join([*others, *columns]))[:80].lstrip(".")
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder, files)
        artifacts = {f"bias/{name}/{file}": Path(folder, file) for file in files}
        shown = f"bias/{name}/bias.html"
        return [runs.add_to_run(run, artifacts, shown=shown, directory=directory) for run in chosen]
