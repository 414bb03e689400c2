"""Pages of all reports, rendered from `templates/`: single files without scripts, which load nothing from elsewhere.

Text is escaped as it enters a template: by jinja2's autoescape in HTML, by `escape_markdown` in Markdown.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from datamodules.files.paths import replacing
from results.reports.figures import png_of, svg_of
from results.reports.tables import as_markdown, escape_link, escape_markdown, number_columns, parts_of

LOCAL_UI = "http://127.0.0.1:5000"  # where `emotion ui` serves
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Image:
    """A figure of a report.

    Attributes:
        file: Its path from the page's folder. Markdown shows this file.
        words: What it shows.
        png: Its content. HTML contains it; without content, HTML shows the file.
        svg: The same as SVG, which HTML contains instead.
    """

    file: str
    words: str
    png: bytes = b""
    svg: str = ""

    @property
    def source(self) -> str:
        """Address of the image in an HTML page."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}" if self.png else self.file


@dataclass(frozen=True)
class Section:
    """A heading and its content, in this order: sentences, a table, figures, sentences.

    Sentences may have commands or names in backticks.
    """

    title: str
    text: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    images: tuple[Image, ...] = ()
    below: tuple[str, ...] = ()


def image_of(figure: Figure, file: str, words: str) -> Image:
    """Draw a figure, for a file beside the page and as SVG for the page itself."""
    return Image(file, words, png_of(figure), svg_of(figure))


def render(template: str, **values: object) -> str:
    """Return the page that a template makes of `values`.

    Args:
        template: File in `templates/`, `.html` or `.md`.
        **values: Names that the template uses; one that is missing is an error.
    """
    markdown = template.endswith(".md")
    page = _environment(markdown).get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n" if markdown else page


@cache
def _environment(markdown: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("results.reports"),
        autoescape=True,
        finalize=_markdown_text if markdown else None,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["pieces"] = _CODE.split  # every second piece stood between backticks
    environment.filters["parts"] = parts_of
    environment.filters["number_columns"] = number_columns
    environment.filters["markdown_table"] = lambda table: Markup(as_markdown(table))
    environment.filters["markdown_link"] = lambda address: Markup(escape_link(address))
    return environment


def _markdown_text(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page on its server, or on the one that `emotion ui` serves by default."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.startswith("http"):
        scheme, _, rest = server.rstrip("/").partition("://")
        base = f"{scheme}://{rest.rpartition('@')[2]}"  # without user and password
    else:
        base = LOCAL_UI
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def write_files(folder: str | Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder, each under a temporary name first, and return their paths.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    paths = [Path(folder, name) for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths
