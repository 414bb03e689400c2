"""What was found about bias, as people read it: tables of text, and one sentence a grouping."""

from collections.abc import Sequence

import pandas as pd

from records.bias.composition import Composition
from records.bias.groups import Measured
from records.bias.report import Bias

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
