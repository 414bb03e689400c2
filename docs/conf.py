"""Configuration of the documentation, which `make docs` builds with Sphinx; warnings are errors."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

project = "emotion-pipeline"
author = "emotion-pipeline contributors"
copyright = "emotion-pipeline contributors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "run_commands"]
exclude_patterns = ["_build", "_ext", "snippets"]
html_theme = "furo"
html_title = "emotion-pipeline"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings give shapes and ranges; types stand in the signatures
autodoc_member_order = "bysource"
napoleon_use_rtype = False
nitpicky = True
# without a network only our own names can be resolved
nitpick_ignore_regex = [(r"py:.*", r"(?!(emotion|sweeps|lightning_modules|results|datamodules)\.).*")]

# Pages that GitHub shows as well link the README and files of the code; here they lead to the pages of this site.
FRONT = re.compile(r"\]\((\.\./)+README\.md\)")
CONTRIBUTING = re.compile(r"\]\((\.\./)+CONTRIBUTING\.md(#[\w-]+)?\)")


def _lead_to_pages(app: object, docname: str, source: list[str]) -> None:
    up = "../" * docname.count("/")
    source[0] = CONTRIBUTING.sub(rf"]({up}contributing.md\2)", FRONT.sub(f"]({up}index.md)", source[0]))


def setup(app: object) -> None:
    """Connect to Sphinx."""
    app.connect("source-read", _lead_to_pages)  # type: ignore[attr-defined]
