"""The files of a report on bias: Markdown, one HTML page, tables as CSV, charts."""

import io
from collections.abc import Iterator
from html import escape

import pandas as pd

from records.bias.figure import bias_figure
from records.bias.groups import Measured
from records.bias.report import Bias
from records.bias.words import (
    class_table,
    composition_table,
    correct_table,
    correlation_text,
    gap_table,
    group_table,
    verdicts,
)
from records.pages import page, table_html
from records.tables import as_markdown, as_text

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
