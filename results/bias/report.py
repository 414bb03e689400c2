"""All that is said of one run's bias, or of several runs side by side: numbers of groups, gaps, training data."""

import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from datamodules.errors import InputError
from results.bias.gaps import gaps
from results.bias.groups import MINIMUM, Measured, group_columns, groupings, measure
from results.bias.training_data import (
    RUN,
    Composition,
    Evaluated,
    composition,
    known_groups,
    one_run,
    read_manifest,
    several_runs,
    shared_only,
)
from results.predictions import HONEST, protocol_of
from results.reports.figures import COLOURS, drawable, inches
from results.reports.pages import page, run_url, table_html
from results.reports.tables import as_markdown, as_text
from results.tracking import runs, store


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


NONE = "-"
_METRICS = {"accuracy": "accuracy", "f1_macro": "macro F1", "recall": "recall"}


def verdicts(found: Bias) -> list[str]:
    """Return one sentence a grouping: who is worst, by how much, and whether that is chance."""
    said = []
    for one in found.measured:
        rows = found.gaps[(found.gaps["by"] == one.grouping.name) & (found.gaps["metric"] == "accuracy")]
        if rows.empty:
            said.append(f"By {one.grouping.name}: nothing to compare, fewer than two groups are large enough.")
            continue
        row = rows.iloc[0]
        chance = "more than chance" if row["p_holm"] <= 0.05 else "chance, or other shares of the classes, may do that"
        said.append(
            f"By {one.grouping.name}: accuracy is worst for {row['worst']} ({row['worst_value']:.3f}) and best for "
            f"{row['best']} ({row['other_value']:.3f}), {row['difference']:+.3f}: {chance} "
            f"(p Holm {p_text(row['p_holm'])})."
        )
    return said


def group_table(one: Measured) -> pd.DataFrame:
    """Return images, correct, accuracy and macro F1 of each group, with intervals."""
    rows = []
    for row in one.by_group.to_dict("records"):
        line = {one.grouping.name: marked(row), "images": str(row["images"]), "clusters": str(row["clusters"])}
        line |= {"correct": str(row["correct"]), "accuracy": _span(row, "accuracy"), "macro F1": _span(row, "f1_macro")}
        rows.append(line)
    return pd.DataFrame(rows)


def correct_table(one: Measured, classes: Sequence[str]) -> pd.DataFrame:
    """Return correct / images (accuracy) of each group and class, one line a group."""
    cells = one.by_class.set_index(["group", "class"])
    rows = []
    for row in one.by_group.to_dict("records"):
        line = {one.grouping.name: marked(row)}
        line |= {_column(name, one): _correct(cells.loc[(row["group"], name)], "recall") for name in classes}
        rows.append({**line, "total": _correct(pd.Series(row), "accuracy")})
    return pd.DataFrame(rows)


def class_table(one: Measured) -> pd.DataFrame:
    """Return images, correct, recall, precision and F1 of each group and class, with intervals; a line each."""
    marks = {row["group"]: marked(row) for row in one.by_group.to_dict("records")}
    rows = []
    for row in one.by_class.to_dict("records"):
        line = {one.grouping.name: marks[row["group"]], "class": str(row["class"]), "images": str(row["images"])}
        line |= {"predicted": str(row["predicted"]), "correct": str(row["correct"])}
        line |= {
            "accuracy = recall": _span(row, "recall"),
            "precision": _span(row, "precision"),
            "F1": _span(row, "f1"),
        }
        rows.append(line)
    return pd.DataFrame(rows)


def gap_table(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the gaps: who is worst, against whom, by how much, p."""
    rows = []
    for row in gaps.to_dict("records"):
        score = _METRICS[row["metric"]] + (f" of {row['class']}" if row["class"] else "")
        rows.append(
            {
                "by": row["by"],
                "score": score,
                "worst": f"{row['worst']} ({row['worst_value']:.3f})",
                "against": f"{row['best'] or 'all others'} ({row['other_value']:.3f})",
                "difference": f"{row['difference']:+.3f}",
                "p": p_text(row["p_value"]),
                "p Holm": p_text(row["p_holm"]),
            }
        )
    return pd.DataFrame(rows)


def composition_table(one: Composition) -> pd.DataFrame:
    """Return the share of each group in training beside its accuracy."""
    rows = []
    for row in one.table.to_dict("records"):
        mark = "" if row["ranked"] or not row["images"] else " *"
        line = {one.by: f"{row['group']}{mark}", "trained on": f"{row['train']:.0f}", "share": _share(row["share"])}
        if one.table["copies"].any():
            line |= {"copies": f"{row['copies']:.0f}", "share with copies": _share(row["share_with_copies"])}
        line |= {"evaluated": str(row["images"]), "accuracy": _span(row, "accuracy")}
        rows.append(line)
    return pd.DataFrame(rows)


def correlation_text(one: Composition) -> str:
    """Return the correlations and the notes of a composition in one paragraph."""
    said = [
        f"{row['kind'].capitalize()} correlation {row['correlation']:+.2f} (p {p_text(row['p_value'])})."
        for row in one.correlations.to_dict("records")
    ]
    return " ".join([*said, *one.notes])


def marked(row: dict) -> str:
    """Return the name of a group: * when it is not ranked, a dagger with few clusters."""
    return f"{row['group']}{'' if row['ranked'] else ' *'}{' †' if row['few_clusters'] else ''}"


def p_text(value: float) -> str:
    """Return a p-value as people read it; nothing where there is none."""
    if value != value:
        return ""
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _column(name: str, one: Measured) -> str:
    return f"{name} " if name in (one.grouping.name, "total") else name  # a class may be called like the column


def _correct(row: pd.Series, metric: str) -> str:
    return f"{row['correct']}/{row['images']} ({row[metric]:.3f})" if row["images"] else NONE


def _span(row: dict, metric: str) -> str:
    if row[metric] != row[metric]:
        return NONE
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:.3f} ({NONE if low != low else f'{low:.3f}-{high:.3f}'})"


def _share(value: float) -> str:
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


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
    names, family = drawable([str(name) for name in groups["group"]], "group")
    heads, more = drawable([ALL, *classes], "class")
    (by,), others = drawable([measured.grouping.name], "group")
    family = list(dict.fromkeys([*family, *more, *others]))
    panels = [groups.assign(value=groups["accuracy"], low=groups["accuracy_low"], high=groups["accuracy_high"])]
    for one in classes:
        part = measured.by_class[measured.by_class["class"] == one].set_index("group").loc[groups["group"]]
        part = part.assign(value=part["recall"], low=part["recall_low"], high=part["recall_high"])
        panels.append(part.assign(ranked=groups["ranked"].to_numpy()))
    across, down = min(_ACROSS, len(panels)), -(-len(panels) // _ACROSS)
    room = 0.25 + inches(names, family, 9)
    tall = _LINE * len(groups) + 0.12
    width = room + across * (_WIDE + _SIDE)
    height = _HEAD + down * (_TITLE + tall + _FOOT)
    figure = Figure(figsize=(width, height))
    for number, (head, panel) in enumerate(zip(heads, panels, strict=True)):
        column, row = number % across, number // across
        left, low = room + column * (_WIDE + _SIDE), height - _HEAD - row * (_TITLE + tall + _FOOT) - _TITLE - tall
        axes = figure.add_axes((left / width, low / height, _WIDE / width, tall / height))
        _bars(axes, panel, 0 if number == 0 else 1)
        axes.set_title(head, fontsize=10, loc="left", family=family, parse_math=False)
        shown = names if column == 0 else [""] * len(names)
        axes.set_yticks(range(len(names)), shown, family=family, fontsize=9, parse_math=False)
    title = f"By {by}" + (f", the first {MOST_DRAWN} groups" if len(measured.by_group) > MOST_DRAWN else "")
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=11, family=family, parse_math=False)
    said = "accuracy with 95% interval, correct / images; in a class accuracy is recall; pale: not ranked"
    if names != [str(name) for name in groups["group"]]:
        said += "; names cut or numbered as in the table"
    figure.text(0.1 / width, 1 - 0.4 / height, said, va="top", fontsize=8)
    return figure


def _bars(axes: Axes, panel: pd.DataFrame, colour: int) -> None:
    place = np.arange(len(panel))
    value, low, high = (panel[name].to_numpy(np.float64) for name in ("value", "low", "high"))
    there = np.isfinite(value)
    shades = [COLOURS[colour] if ranked else "#bbbbbb" for ranked in panel["ranked"]]
    axes.barh(place[there], value[there], color=[shades[at] for at in place[there]], height=0.66)
    reach = np.clip([value - low, high - value], 0, None)  # a percentile interval need not hold the value
    axes.errorbar(value[there], place[there], xerr=reach[:, there], fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for at, images, correct in zip(place.tolist(), panel["images"], panel["correct"], strict=True):
        ends = max(high[at], value[at]) if there[at] else 0.0
        text = f"{value[at]:.2f}  {correct}/{images}" if there[at] else "no image"
        axes.text(ends + 0.03, at, text, va="center", fontsize=7.5)
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.set_xlim(0, 1.62)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", ".5", "", "1"], fontsize=8)
    axes.spines["bottom"].set_bounds(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


Section = tuple[str, list[str | pd.DataFrame | Measured]]  # what was measured stands for its chart


def files(found: Bias) -> dict[str, str | bytes]:
    """Return name -> content of all files; Markdown shows the charts that stand beside it."""
    made: dict[str, str | bytes] = {"bias.html": html_page(found), "bias.md": markdown(found)}
    for number, one in enumerate(found.measured, 1):
        drawn = io.BytesIO()
        bias_figure(one, found.classes).savefig(drawn, format="png", dpi=130)
        made[f"chart-{number}.png"] = drawn.getvalue()
    for name, parts in (("groups", "by_group"), ("classes", "by_class")):
        tables = [getattr(one, parts).assign(by=one.grouping.name) for one in found.measured]
        made[f"{name}.csv"] = _csv(pd.concat(tables, ignore_index=True))
    made["gaps.csv"] = _csv(found.gaps)
    if found.apart is not None:
        made["apart.csv"] = _csv(found.apart.by_class)
    held = [one.table.assign(run=run, by=one.by) for run, parts in found.compositions.items() for one in parts]
    if held:
        made["composition.csv"] = _csv(pd.concat(held, ignore_index=True))
    return made


def text(found: Bias) -> str:
    """Return the report for a terminal: all but the lines of every group and class, which the files have."""
    parts = [*verdicts(found)]
    for title, body in _sections(found, whole=False):
        parts += [f"{title}\n{'-' * len(title)}"]
        parts += [
            as_text(one) if isinstance(one, pd.DataFrame) else one for one in body if not isinstance(one, Measured)
        ]
    return "\n\n".join([*parts, *found.notes])


def markdown(found: Bias) -> str:
    """Return the report as Markdown, everything that came from the data escaped."""
    lines = [f"# {_plain(_title(found))}", *map(_plain, verdicts(found))]
    charts = 0
    for title, body in _sections(found):
        lines.append(f"## {_plain(title)}")
        for one in body:
            if isinstance(one, pd.DataFrame):
                lines.append(as_markdown(one.rename(columns=_cell).map(_cell)))
            elif isinstance(one, Measured):
                charts += 1
                lines.append(f"![accuracy of each group and class](chart-{charts}.png)")
            else:
                lines.append(_plain(one))
    return "\n\n".join([*lines, *map(_plain, found.notes)]) + "\n"


def html_page(found: Bias) -> str:
    """Return the report as a page that stands alone, everything that came from the data escaped."""
    links = "".join(
        f'<p>Run <a href="{escape(url)}">{escape(name)}</a></p>' if url else f"<p>Run {escape(name)}</p>"
        for name, url in found.runs.items()
    )
    parts = [links, *(f"<p><b>{escape(one)}</b></p>" for one in verdicts(found))]
    for title, body in _sections(found):
        parts.append(f"<h2>{escape(title)}</h2>")
        for one in body:
            if isinstance(one, pd.DataFrame):
                parts.append(table_html(one))
            elif isinstance(one, Measured):
                drawn = io.StringIO()
                bias_figure(one, found.classes).savefig(drawn, format="svg", metadata={"Date": None})
                parts.append(drawn.getvalue()[drawn.getvalue().index("<svg") :])
            else:
                parts.append(f"<p>{escape(one)}</p>")
    return page(_title(found), [*parts, *(f"<p>{escape(one)}</p>" for one in found.notes)])


def _title(found: Bias) -> str:
    return f"For whom it is wrong: {' and '.join(found.runs)}"


def _sections(found: Bias, *, whole: bool = True) -> Iterator[Section]:
    for one in found.measured:
        body: list[str | pd.DataFrame | Measured] = [group_table(one)]
        body += [one] if whole else []
        body += ["Correct / images (accuracy):", correct_table(one, found.classes)]
        yield f"By {one.grouping.name}", body
    if len(found.gaps):
        yield "Gaps", [gap_table(found.gaps)]
    for run, held in found.compositions.items():
        for part in held:
            title = f"Who was in the training data, by {part.by}"
            title += f" ({run})" if len(found.runs) > 1 else ""
            yield title, [composition_table(part), correlation_text(part)]
    if found.apart is not None:
        yield "Classes that not all sets have", [_apart(found)]
    if whole:
        for one in found.measured:
            yield f"Every class, by {one.grouping.name}", [class_table(one)]


def _apart(found: Bias) -> pd.DataFrame:
    if found.apart is None:
        return pd.DataFrame()
    table = class_table(found.apart)
    return table[table["images"] != "0"].drop(columns=["predicted", "precision", "F1"])


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False)


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    return "".join(f"\\{one}" if one in "\\`*_[]#|" else one for one in escape(text, quote=False))


def _cell(text: str) -> str:
    # as_markdown escapes bars and stars
    return "".join(f"\\{one}" if one in "\\`_[]" else one for one in escape(text, quote=False))


def bias_of_runs(
    names: Sequence[str],
    asked: Asked,
    *,
    manifest: Path | None = None,
    directory: str | Path = store.DIRECTORY,
) -> tuple[list[str], Bias]:
    """Return the ids of the runs that `names` mean, and for whom they are worse.

    Args:
        names: Runs; several are compared as data sets.
        asked: Groupings and settings.
        manifest: Table that the one run was trained on; by default what its config names.
        directory: Folder of the runs.

    Raises:
        InputError: The same run twice, a run without predictions, or groupings that do not work.
    """
    chosen = runs.find_different_runs(names, directory=directory)
    if manifest is not None and len(chosen) > 1:
        msg = f"--manifest: is that of one run, got it with {len(chosen)} runs; report each of them alone for that."
        raise InputError(msg)
    if asked.minimum < 2:
        msg = f"--minimum: a ranked group has at least 2 images, got {asked.minimum}; {MINIMUM} is usual."
        raise InputError(msg)
    return chosen, find_bias([_told(run, manifest, directory) for run in chosen], asked)


def _told(run_id: str, manifest: Path | None, directory: str | Path) -> Told:
    """Read what a run left.

    Raises:
        InputError: It left no predictions.
    """
    info = store.open_client(directory, only_reading=True).get_run(run_id).info
    try:
        predictions = runs.load_table(run_id, "predictions", directory=directory)
    except InputError as error:
        msg = (
            f"RUN: {info.run_name!r} ({info.status}) left no prediction table, so nothing can be said of groups. "
            "Choose a run that was evaluated: a finished `emotion fit` or `emotion cross-validate`."
        )
        raise InputError(msg) from error
    split: pd.DataFrame | None
    try:
        split = runs.load_table(run_id, "split", directory=directory)
    except InputError:
        split = None
    table = read_manifest(manifest) if manifest is not None else _own_manifest(run_id, directory)
    status = "deleted" if info.lifecycle_stage == "deleted" else str(info.status)
    url = run_url(str(info.experiment_id), run_id)
    return Told(f"{info.run_name} [{run_id[:8]}]", predictions, split, url, status, table, manifest is not None)


def _own_manifest(run_id: str, directory: str | Path) -> pd.DataFrame | None:
    """Return the table that the run's config names as its data, None where that is no table, or not here any more."""
    try:
        data = runs.run_config(run_id, directory=directory).get("data") or {}
        source = str(data.get("source", "")).removeprefix("csv:")
        return read_manifest(source) if Path(source).suffix.lower() in (".csv", ".parquet") else None
    except (InputError, ValueError, TypeError, AttributeError):
        return None


def keep_report(
    chosen: Sequence[str],
    files: Mapping[str, str | bytes],
    asked: Asked,
    directory: str | Path = store.DIRECTORY,
) -> list[str]:
    """Keep the files of a report with every run as artifacts under bias/<columns>; return a sentence a run."""
    columns = [*([asked.sets] if asked.sets else []), *asked.by, *(["cross"] if asked.cross else [])]
    others = ["with", *sorted(run[:8] for run in chosen)] if len(chosen) > 1 else []
    name = re.sub(r"[^A-Za-z0-9+_.-]", "_", "-".join([*others, *columns]))[:80].lstrip(".")
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            Path(folder, file).write_bytes(content.encode() if isinstance(content, str) else content)
        artifacts = {f"bias/{name}/{file}": Path(folder, file) for file in files}
        shown = f"bias/{name}/bias.html"
        return [runs.add_to_run(run, artifacts, shown=shown, directory=directory) for run in chosen]
