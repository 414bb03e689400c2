"""The report of an explanation as Markdown and as HTML: headings, sentences, tables, and figures that lie beside it.

Figures that show people are never put into the page itself: whoever copies the page alone copies no face.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from datamodules.places import replacing
from records.pages import page, table_html, write_text
from records.tables import as_markdown as table_markdown

_DPI = 130
_IMG = "<style>img { max-width: 100%; height: auto; }</style>"


@dataclass(frozen=True)
class Shown:
    """A figure that was written: its file, what it shows in words, and whether it shows people."""

    file: Path
    words: str
    people: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    text: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    figures: tuple[Shown, ...] = ()
    below: tuple[str, ...] = ()


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG under a temporary name, then give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=_DPI, pil_kwargs={"compress_level": 1})  # quick, a few kilobytes more
    return path


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, whole or not at all."""
    return write_text(path, table.to_csv(index=False))


def markdown(title: str, first: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as Markdown; the verdict is its first line."""
    parts = [f"**{_plain(first)}**", f"# {_plain(title)}", *map(_plain, lead)]
    for one in sections:
        parts += [f"## {_plain(one.title)}", *map(_plain, one.text)]
        if one.table is not None and len(one.table):
            parts.append(table_markdown(one.table.map(lambda cell: _plain(str(cell)))))
        parts += [f"![{_plain(shown.words)}](<{shown.file.name}>)" for shown in one.figures]
        parts += map(_plain, one.below)
    return "\n\n".join(parts) + "\n"


def html(title: str, first: str, holds: bool, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as one page; figures without people stand in it, the others are files beside it."""
    parts = [_IMG, f'<p class="{"holds" if holds else "fails"}">{escape(first)}</p>', *_paragraphs(lead)]
    for one in sections:
        parts += [f"<h2>{escape(one.title)}</h2>", *_paragraphs(one.text)]
        if one.table is not None and len(one.table):
            parts.append(table_html(one.table))
        parts += [f'<p><img alt="{escape(shown.words)}" src="{_source(shown)}"></p>' for shown in one.figures]
        parts += _paragraphs(one.below)
    return page(title, parts)


def _source(shown: Shown) -> str:
    if shown.people:
        return escape(shown.file.name)
    return f"data:image/png;base64,{base64.b64encode(shown.file.read_bytes()).decode()}"


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _plain(text: str) -> str:
    for mark in "\\<>[]_`":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
