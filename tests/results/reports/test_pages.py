"""Pages: text is escaped in HTML and in Markdown, figures are embedded, and numbers have one format."""

from pathlib import Path

import pandas as pd
import pytest
from jinja2 import UndefinedError

from results.reports.pages import Image, Section, render, write_files
from results.reports.tables import (
    Part,
    as_markdown,
    estimate,
    interval,
    number,
    number_columns,
    p_value,
    percent,
    signed,
)

HOSTILE = "<script>alert(1)</script> a|b *c* [d](e) `"


def _page(suffix: str, *, text: str = "", cell: str = "", words: str = "", file: str = "chart.png") -> str:
    table = pd.DataFrame({"name": [(Part(cell, "http://server/#/runs/a_b"), Part("small", small=True))], cell: ["x"]})
    section = Section(text, (text,), table, (Image(file, words),), (text,))
    return render(f"study.{suffix}", title=text, lead=[text], sections=[section])


def test_html_is_escaped_wherever_text_enters() -> None:
    page = _page("html", text=HOSTILE, cell=HOSTILE, words=f'" onerror="{HOSTILE}')
    assert "<script" not in page
    assert 'onerror="' not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 9
    assert '<a href="http://server/#/runs/a_b">' in page
    assert "<small>small</small>" in page


def test_markdown_is_escaped_wherever_text_enters() -> None:
    page = _page("md", text=f"{HOSTILE}\n\n# injected", cell=HOSTILE, words=HOSTILE, file="a (b).png")
    assert "<script" not in page
    assert "\n# injected" not in page
    assert "[d](e)" not in page
    assert page.count(r"a\|b \*c\* \[d\](e) \`") == 8
    assert "(http://server/#/runs/a_b) small |" in page
    assert "(a%20%28b%29.png)" in page


def test_what_stands_between_backticks_is_code() -> None:
    text = "Run `emotion report <RUN>` on a_b."
    assert "<p>Run <code>emotion report &lt;RUN&gt;</code> on a_b.</p>" in _page("html", text=text)
    assert "\nRun `emotion report <RUN>` on a\\_b.\n" in _page("md", text=text)


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'lead' is undefined"):
        render("study.md", title="x", sections=[])


def test_figures_are_inside_the_page_unless_they_have_no_content() -> None:
    sections = [
        Section("x", images=(Image("a.png", "a", b"png"), Image("b.png", "b"), Image("c.png", "c", b"", "<svg/>")))
    ]
    page = render("study.html", title="x", lead=[], sections=sections)
    assert 'src="data:image/png;base64,cG5n"' in page
    assert 'src="b.png"' in page
    assert '<figure role="img" aria-label="c"><svg/></figure>' in page
    assert all(f"]({name}.png)" in render("study.md", title="x", lead=[], sections=sections) for name in "abc")


def test_numbers_have_one_format() -> None:
    nan = float("nan")
    assert [number(0.12345), number(-1.0), number(1_234_567.8), number(nan), number(nan, "-")] == [
        "0.123", "-1.000", "1,234,568", "", "-",
    ]  # fmt: skip
    assert [signed(0.5), signed(-0.5), signed(nan)] == ["+0.500", "-0.500", ""]
    assert [interval(0.1, 0.2), interval(-0.1, 0.2, sign=True), interval(nan, nan)] == [
        "0.100 to 0.200", "-0.100 to +0.200", "",
    ]  # fmt: skip
    assert [estimate(0.15, 0.1, 0.2), estimate(0.15, nan, nan), estimate(nan, nan, nan)] == [
        "0.150 (0.100 to 0.200)", "0.150 (-)", "-",
    ]  # fmt: skip
    assert [p_value(0.0009), p_value(0.001), p_value(1.0), p_value(nan)] == ["< .001", "0.001", "1.000", ""]
    assert [percent(0.0123), percent(0.5)] == ["1.23%", "50.0%"]
    table = pd.DataFrame(
        {"group": ["a", "b"], "p": ["< .001", "0.5"], "fold": [(Part("failed"),), (Part("0.5"),)], "": ["", ""]}
    )
    assert number_columns(table) == [False, True, True, False]
    assert as_markdown(pd.DataFrame({"a": ["x"], "b|c": ["1"]})) == "| a | b\\|c |\n| --- | ---: |\n| x | 1 |"


def test_files_are_written_into_folders_that_are_made(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "out", {"a.md": "슬픔", "figures/b.png": b"png"})
    assert paths == [tmp_path / "out/a.md", tmp_path / "out/figures/b.png"]
    assert [path.read_bytes() for path in paths] == ["슬픔".encode(), b"png"]
    assert len(list(tmp_path.rglob("*"))) == 4
