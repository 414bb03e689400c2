"""A page of headings, text, tables and figures, written as Markdown and as one HTML file that needs nothing else."""

import base64
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from records import store

LOCAL_PAGE = "http://127.0.0.1:5000"  # where `emotion ui` serves the embedded store


@dataclass(frozen=True)
class Part:
    """A piece of a table's cell; with a run it links to it, small print is set smaller where that is possible."""

    text: str
    run: str = ""
    small: bool = False


CellText = tuple[Part, ...]


@dataclass(frozen=True)
class Grid:
    """A table: names of the columns, and rows of cells of which the first names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[CellText, ...], ...]


@dataclass(frozen=True)
class Shown:
    """A figure: its file name, its bytes (PNG), and what it shows in words."""

    file: str
    png: bytes
    words: str


@dataclass(frozen=True)
class Block:
    """A heading and what stands below it."""

    title: str
    text: tuple[str, ...] = ()
    grid: Grid | None = None
    figure: Shown | None = None


@dataclass(frozen=True)
class Page:
    """A whole report; `experiment` is the id under which MLflow shows its runs."""

    title: str
    lead: tuple[str, ...]
    blocks: tuple[Block, ...]
    experiment: str

    def link(self, run: str) -> str:
        """Return the address of a run's page: on the tracking server, or where `emotion ui` serves it."""
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        base = store.without_password(uri).rstrip("/") if uri.startswith("http") else LOCAL_PAGE
        return f"{base}/#/experiments/{self.experiment}/runs/{run}"


def text(value: str, *, small: bool = False) -> CellText:
    """Return a cell of plain text."""
    return (Part(value, small=small),)


def as_markdown(page: Page) -> str:
    """Return the page as Markdown; figures are the files `figures/<name>` beside it."""
    lines = [f"# {_plain(page.title)}", "", *_paragraphs(page.lead)]
    for block in page.blocks:
        lines += [f"## {_plain(block.title)}", "", *_paragraphs(block.text)]
        if block.grid:
            lines += [_row([_plain(name) for name in block.grid.columns])]
            lines += ["|---|" + "---:|" * (len(block.grid.columns) - 1)]
            lines += [_row([_markdown_cell(page, cell) for cell in row]) for row in block.grid.rows] + [""]
        if block.figure:
            lines += [f"![{_plain(block.figure.words)}](figures/{block.figure.file})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [line for one in texts for line in (_plain(one), "")]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(value: str) -> str:
    for mark in "\\|*<>[]":
        value = value.replace(mark, f"\\{mark}")
    return value.replace("\n", " ")


def _markdown_cell(page: Page, cell: CellText) -> str:
    return " ".join(f"[{_plain(one.text)}]({page.link(one.run)})" if one.run else _plain(one.text) for one in cell)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; border-bottom: 2px solid #0072b2; padding-bottom: .4rem; }
h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ccc; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #444; vertical-align: bottom; }
tbody tr:nth-child(even) { background: #f6f8fa; }
a { color: #0b5394; }
small { color: #555; display: block; font-size: .8rem; white-space: nowrap; }
img { max-width: 100%; height: auto; }
p { max-width: 60rem; }
@media print { body { margin: 0; font-size: 10pt; } .wide { overflow: visible; } h2, tr, img { break-inside: avoid; } }
"""


def as_html(page: Page) -> str:
    """Return the page as one HTML file, everything escaped, figures inside."""
    body = [f"<h1>{html.escape(page.title)}</h1>", *(f"<p>{_prose(one)}</p>" for one in page.lead)]
    for block in page.blocks:
        body.append(f"<h2>{html.escape(block.title)}</h2>")
        body += [f"<p>{_prose(one)}</p>" for one in block.text]
        if block.grid:
            head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in block.grid.columns)
            rows = "\n".join(_html_row(page, row) for row in block.grid.rows)
            body.append(
                f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
            )
        if block.figure:
            data = base64.b64encode(block.figure.png).decode()
            body.append(f'<img alt="{html.escape(block.figure.words)}" src="data:image/png;base64,{data}">')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{html.escape(page.title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _prose(value: str) -> str:
    """Return a sentence as HTML; what stands between backticks is a command or a name."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(value))


def _html_row(page: Page, row: Sequence[CellText]) -> str:
    first, *rest = (" ".join(_html_part(page, part) for part in cell) for cell in row)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"


def _html_part(page: Page, part: Part) -> str:
    shown = html.escape(part.text)
    if part.run:
        shown = f'<a href="{html.escape(page.link(part.run))}">{shown}</a>'
    return f"<small>{shown}</small>" if part.small else shown
