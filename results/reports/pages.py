"""Pages that stand alone: no script, nothing loaded from elsewhere, readable in print; and links to MLflow runs."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from datamodules.paths import replacing

_PAGE = "http://127.0.0.1:5000"  # where `emotion ui` serves

# Verdicts differ by sign, word and weight, so that colours may be missing; they are Okabe and Ito's.
_STYLE = """
body { font: 15px/1.45 system-ui, "Noto Sans", "Noto Sans KR", sans-serif; color: #111; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 1.6rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #ccc; vertical-align: top;
  overflow-wrap: break-word; }
th { border-bottom: 2px solid #111; } a { color: #0072B2; }
.scroll { overflow-x: auto; }
.holds { color: #00614a; } .fails { color: #a84300; font-weight: bold; } .not, .could { color: #555; }
p.holds, p.fails { font-size: 1.1rem; border-left: .4rem solid; padding-left: .6rem; }
svg { max-width: 100%; height: auto; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } tr { break-inside: avoid; }
  .scroll { overflow: visible; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole HTML page; `parts` are HTML already."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def table_html(table: pd.DataFrame, *, marks: str = "", links: Mapping[str, str] | None = None) -> str:
    """Return a table of text as HTML, escaped.

    Args:
        table: Text in every cell.
        marks: A column whose first word becomes the class of its row's cells, such as `holds`.
        links: Cell text -> address; such cells become links.
    """
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table.columns)
    rows = []
    for row in table.to_dict("records"):
        kind = f' class="{escape(str(row[marks]).split()[0])}"' if marks else ""
        cells = "".join(f"<td{kind}>{_cell(str(row[name]), links or {})}</td>" for name in table.columns)
        rows.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(text: str, links: Mapping[str, str]) -> str:
    return f'<a href="{escape(links[text])}">{escape(text)}</a>' if text in links else escape(text)


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the address of a run on its server's page, or on the page that `emotion ui` serves by default."""
    remote = os.environ.get("MLFLOW_TRACKING_URI", "")
    if remote.startswith("http"):
        scheme, _, rest = remote.rstrip("/").partition("://")
        base = f"{scheme}://{rest.rpartition('@')[2]}"  # without user and password
    else:
        base = _PAGE
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def write_text(path: str | Path, text: str) -> Path:
    """Write a file under a temporary name, then give it its own."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path
