"""A run on the MLflow page: its description, and its report as one HTML file."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from results.predictions import HONEST, protocol_of
from results.reports.figures import svg_of
from results.reports.pages import Image, Section, render
from results.reports.tables import (
    SCORES,
    class_table,
    escape_markdown,
    interval,
    notes,
    number,
    result_text,
    whole_table,
)

REPORT = "Report.html"  # MLflow lists artifacts by the codes of their characters, so capitals come first
_PREDICT = ("Classify new images", "emotion predict {run} IMAGES")
_CERTIFY = ("Check what the run recorded", "emotion report certify {run}")
_EXPLAIN = ("See which regions of an image it uses", "emotion explain {run}")
_COMPARE = ("Compare it with another run, image by image", "emotion report compare {run} OTHER_RUN")
_GROUPS = ("Compare groups of images, by a column of the data", "emotion report bias {run} --by COLUMN")
_ERRORS = ("See its most confident mistakes", "emotion report errors {run} --out errors")
_LABELS = ("List labels that are probably wrong", "emotion report labels {run}")
_OTHER = ("Score it on other labelled images", "emotion evaluate {run} --data FOLDER")
_EXPORT = ("Write it as an ONNX file", "emotion export {run}")
_AGAIN = ("Run it again and see what differs", "emotion reproduce {run}")
_NEXT = {
    "run": (_PREDICT, _ERRORS, _EXPLAIN, _COMPARE, _CERTIFY, _OTHER, _EXPORT, _AGAIN),
    "cross-validation": (
        *(_PREDICT, _ERRORS, _LABELS, _EXPLAIN, _COMPARE, _GROUPS, _CERTIFY),
        *(_OTHER, _EXPORT, _AGAIN),
    ),
    "evaluation": (_CERTIFY, _COMPARE, _GROUPS),
    "detector": (("Write it as an ONNX file", "emotion detector export {run}"),),
}
_SETTINGS = (
    "recipe",
    "changed_options",
    "backbone",
    "data",
    "data_notes",
    "seed",
    "folds",
    "protocol",
    "selected_on",
    "model",
)


def next_commands(kind: str, run_id: str) -> list[tuple[str, str]]:
    """Return what can be done with a run, and the command of each; nothing for kinds without a model or predictions.

    Args:
        kind: Tag `kind` of the run.
        run_id: Its id.
    """
    return [(what, command.format(run=run_id[:8])) for what, command in _NEXT.get(kind, ())]


def shown_tags(intervals: pd.DataFrame) -> dict[str, str]:
    """Return the tags that the MLflow page shows as columns: interval of the macro F1, worst class, tested images.

    Args:
        intervals: Result of `cluster_bootstrap`.
    """
    macro = intervals[intervals["metric"] == "f1_macro"].iloc[0]
    tags = {"f1_macro_interval": interval(macro["low"], macro["high"]), "test_images": str(int(macro["images"]))}
    by_class = intervals[(intervals["metric"] == "f1") & (intervals["images"] > 0)]
    if len(by_class):
        worst = by_class.loc[by_class["value"].idxmin()]
        tags["worst_class"] = f"{worst['class']} {number(worst['value'])}"
    return tags


def run_description(
    intervals: pd.DataFrame, folds: pd.DataFrame | None, commands: Sequence[tuple[str, str]], lead: str = ""
) -> str:
    """Return the description of a run in Markdown: its scores, the tables of its result, and the next commands.

    Args:
        intervals: Result of `cluster_bootstrap`.
        folds: Result of `fold_scores`, None for a single split.
        commands: Result of `next_commands`.
        lead: A sentence above them.
    """
    whole = intervals[intervals["class"] == ""].set_index("metric")
    level = f"{intervals.attrs['level']:.0%}"
    scores = [
        f"**{SCORES[name]} {number(whole.loc[name, 'value'])}** "
        f"({level} interval {interval(whole.loc[name, 'low'], whole.loc[name, 'high'])})"
        for name in ("f1_macro", "accuracy")
    ]
    if "worst_class" in (tags := shown_tags(intervals)):
        scores.append(f"worst class {escape_markdown(tags['worst_class'])}")
    result = [", ".join(scores), result_text(intervals, folds, markdown=True).strip()]
    return "\n\n".join([*filter(None, [escape_markdown(lead)]), *result, command_list(commands)])


def command_list(commands: Sequence[tuple[str, str]]) -> str:
    """Return the next commands as a list in Markdown; nothing without any."""
    if not commands:
        return ""
    return "\n".join(["Next commands:", "", *(f"- {what}: `{command}`" for what, command in commands)])


def run_page(
    title: str,
    tags: Mapping[str, str],
    intervals: pd.DataFrame,
    folds: pd.DataFrame,
    figures: Sequence[Figure],
    commands: Sequence[tuple[str, str]],
) -> str:
    """Return the report of a run as one HTML page.

    Args:
        title: Name of the run.
        tags: Its tags; those that say what it is are shown.
        intervals: Result of `cluster_bootstrap`.
        folds: Result of `fold_scores`.
        figures: Its figures.
        commands: Result of `next_commands`.
    """
    protocol = protocol_of(intervals)
    lead = [] if protocol == HONEST else [f"Protocol {protocol}: the scores are not those of unseen images."]
    images = tuple(Image("", figure.texts[0].get_text(), svg=svg_of(figure)) for figure in figures)
    return result_page(
        title, tags, [*score_sections(intervals, folds), Section("Figures", images=images)], commands, lead
    )


def score_sections(intervals: pd.DataFrame, folds: pd.DataFrame | None = None) -> list[Section]:
    """Return the tables of a result: the scores over all images, and those of each class.

    Args:
        intervals: Result of `cluster_bootstrap`.
        folds: Result of `fold_scores`, None for a single split.
    """
    return [
        Section("Result", table=whole_table(intervals, folds)),
        Section("Classes", table=class_table(intervals), below=tuple(notes(intervals))),
    ]


def result_page(
    title: str,
    tags: Mapping[str, str],
    sections: Sequence[Section],
    commands: Sequence[tuple[str, str]],
    lead: Sequence[str] = (),
) -> str:
    """Return the report of any run as one HTML page.

    Args:
        title: Name of the run.
        tags: Its tags; those that say what it is are shown.
        sections: Its tables and figures; empty ones are left out.
        commands: Result of `next_commands`.
        lead: Sentences above them.
    """
    settings = [(name.replace("_", " "), tags[name]) for name in _SETTINGS if tags.get(name)]
    following = Section("Next commands", tuple(f"{what}: `{command}`" for what, command in commands))
    kept = [part for part in (*sections, following) if part.text or part.table is not None or part.images]
    return render("run.html", title=title, lead=list(lead), settings=settings, sections=kept)
