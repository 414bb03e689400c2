"""Report of a study: scale and protocol first, numbers linked to runs, text escaped, failed cells named."""

import re
from pathlib import Path

import pandas as pd
import pytest

from sweeps.studies.analysis import Outcome, Outcomes, RunContext
from sweeps.studies.report import write_report
from sweeps.studies.schema import Cell, Claim, Entry, FigureSpec, Study, Table

ODD = "a|b <script>alert(1)</script>"


def made(cell: str, run: str, seed: int = 0, value: float = 0.5) -> Outcome:
    found = Outcome(cell, seed, run, {"model/parameters": 1_234_567.0, "model/flops": 5e6})
    row = {"metric": "accuracy", "class": "", "value": value, "low": value - 0.1, "high": value + 0.1}
    found.__dict__["intervals"] = pd.DataFrame([row])
    return found


@pytest.fixture
def study() -> Study:
    cells = tuple(Cell(name=name, recipe="quick") for name in (ODD, "other", "broken"))
    rows: dict[str, tuple[Entry | None, ...]] = {
        ODD: (Entry(ODD, "accuracy", 0.432), Entry(ODD, "model/parameters")),
        "other": (Entry("other", "accuracy"), None),
        "broken": (Entry("broken", "accuracy", 0.111), None),
        "only published": (Entry(None, "accuracy", 0.222), None),
    }
    return Study(
        name="odd",
        about="what is odd",
        source="a paper",
        cells=cells,
        tables=(Table("Numbers", ("accuracy", "parameters"), rows),),
        claims=(Claim("odd is better", (ODD, "accuracy"), ("broken", "accuracy"), (0.4, 0.3)),),
        figures=(FigureSpec("trade", "Cost", {ODD: ODD}, ("accuracy",)),),
    )


def written(study: Study, outcomes: Outcomes, folder: Path, protocol: str = "honest") -> dict[str, str]:
    now = RunContext(
        "small", protocol, "faces", ("--data", "csv:/home/me/faces.csv", "--data.size", "40"), "7", "parent"
    )  # type: ignore[arg-type]
    paths = write_report(study, outcomes, now, folder)
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.suffix != ".png"}


def test_every_number_is_there_with_its_run(study: Study, tmp_path: Path) -> None:
    outcomes = Outcomes([made(ODD, "run1", value=0.5), made("other", "run2", value=0.625)], {"broken": "out of memory"})
    files = written(study, outcomes, tmp_path)
    assert files["report.md"].splitlines()[0] == "# odd: scale small, protocol honest, data faces"
    assert "<h1>odd: scale small, protocol honest, data faces</h1>" in files["report.html"]
    for text in (files["report.md"], files["report.html"]):
        assert "http://127.0.0.1:5000/#/experiments/7/runs/run1" in text
        for shown in ("0.500", "0.400 to 0.600", "paper 0.432", "1,234,567", "failed", "paper 0.111", "paper 0.222"):
            assert shown in text
        assert "out of memory" in text
        assert "faces.csv --data.size 40" in text  # but not where it lies
        assert "home" not in text
        assert "--data.size 40" in text
        assert "2 of 3 cells finished" in text
    assert "<code>make ui</code>" in files["report.html"]
    for text in (files["report.md"], files["report.html"]):
        assert "confirmed 0, not confirmed 0, contradicted 0, not tested 1" in text
    table = pd.read_csv(tmp_path / "report.csv")
    assert set(table["scale"]) == {"small"}
    row = table[(table["row"] == ODD) & (table["column"] == "accuracy")].iloc[0]
    assert (row["value"], row["low"], row["published"], row["runs"]) == (0.5, 0.4, 0.432, "run1")


def test_what_is_shown_is_escaped(study: Study, tmp_path: Path) -> None:
    files = written(study, Outcomes([made(ODD, "run1")]), tmp_path)
    assert "<script" not in files["report.html"]
    assert "a|b &lt;script&gt;" in files["report.html"]
    body = files["report.md"].split("## Numbers")[1].split("##")[0]
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}


def test_figures_are_in_the_page_and_beside_the_markdown(study: Study, tmp_path: Path) -> None:
    files = written(study, Outcomes([made(ODD, "run1")]), tmp_path)
    name = re.search(r"\(figures/(.+?)\)", files["report.md"])
    assert name is not None
    assert (tmp_path / "figures" / name[1]).read_bytes().startswith(b"\x89PNG")
    assert 'src="data:image/png;base64,' in files["report.html"]
    assert not re.search(r'(src|href)="(?!data:|http://127)', files["report.html"])


def test_the_papers_protocol_is_called_by_its_name(study: Study, tmp_path: Path) -> None:
    first = written(study, Outcomes([]), tmp_path, "paper")["report.md"].splitlines()[0]
    assert "protocol of the papers (selected and reported on the same part)" in first


def test_several_seeds_show_their_spread_and_all_runs(study: Study, tmp_path: Path) -> None:
    outcomes = Outcomes([made(ODD, f"run{seed}", seed, 0.4 + 0.1 * seed) for seed in range(3)])
    text = written(study, outcomes, tmp_path)["report.md"]
    assert all(shown in text for shown in ("0.500", "± 0.100", "0.400 to 0.600"))
    assert all(f"/runs/run{seed})" in text for seed in range(3))


def test_runs_on_a_server_are_linked_there_without_its_password(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@runs.example:8080/")
    text = written(study, Outcomes([made(ODD, "run1")]), tmp_path)["report.html"]
    assert "runs.example:8080/#/experiments/7/runs/run1" in text
    assert "secret" not in text
