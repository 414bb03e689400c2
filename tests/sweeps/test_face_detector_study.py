"""The study of the face detector: its published table, one small study that goes on after a stop, and its page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import emotion
from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig
from results.tracking.runs import children, find_runs, load_table
from sweeps.studies import face_detector as conduct
from sweeps.studies.analysis import Circumstances
from sweeps.studies.face_detector import NEW, OLD, SETTINGS, TRAINED, TUNED, build, cell_name, write_detector_report

SMALL = (
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.width", "8", "--size", "64"),
    *("--epochs", "1", "--data.num_workers", "0", "--run.resamples", "100", "--run.accelerator", "cpu"),
)


def test_the_published_table_and_the_claims() -> None:
    for scale in SETTINGS:
        study = build(scale)
        new, old = study.tables
        published = {name: [entry.published for entry in row if entry] for name, row in new.rows.items()}
        assert published == {TRAINED: [0.8223, 0.984], TUNED: [0.8672, 0.994]}
        assert all(entry and entry.published is None for row in old.rows.values() for entry in row)
        assert [claim.published for claim in study.claims] == [(0.8672, 0.8223), (0.994, 0.984), None]
        assert len(study.seeds) == 3


def test_pictures_of_the_user_take_the_place_of_drawn_ones() -> None:
    study = build("small", "photographs", "boxes.csv", (7,))
    assert study.cell(cell_name(TUNED, NEW)).options["data.source"] == "photographs"
    assert study.cell(cell_name(TUNED, NEW)).options["data.boxes"] == "boxes.csv"
    assert "data.boxes" not in study.cell(cell_name(TRAINED, NEW)).options
    assert study.seeds == (7,)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make scale tiny tinier still."""
    first = {"data.source": "scenes:images=16,size=96,others=1", "data.size": 64, "data.inner_fraction": 0.2}
    new = {**first, "data.source": "scenes:images=16,size=96,others=1,seed=1,dim=1"}
    monkeypatch.setitem(SETTINGS, "tiny", type(SETTINGS["tiny"])(first, new, (0,)))


def test_a_study_goes_on_where_it_was_stopped(
    workplace: Path, few: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "face-detector", *SMALL]
    real, trained = conduct.train, []

    def train(config: RunConfig) -> Any:
        trained.append(config)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(config)

    monkeypatch.setattr(conduct, "train", train)
    assert emotion.main(words) == 130
    (first,) = find_runs(where="tags.kind = 'detector'").itertuples()
    assert emotion.main(words) == 0
    assert len(trained) == 3  # the first training was not repeated
    assert trained[-1].run["start_from"] == first.run_id
    (parent,) = find_runs(where="tags.kind = 'study'").itertuples()
    runs = children(parent.run_id)
    assert sorted(runs["name"]) == [f"{TUNED} seed 0", f"{TRAINED} seed 0"]
    split = {name: load_table(run, "split") for name, run in zip(runs["name"], runs["run_id"], strict=True)}
    for name, run in zip(runs["name"], runs["run_id"], strict=True):
        other = split[next(one for one in split if one != name)]
        elsewhere = load_table(run, conduct.ELSEWHERE)
        assert set(elsewhere["row"]) <= set(other.loc[other["role"] == "test", "row"])
    (folder,) = Path("mlruns/reports").iterdir()
    table = pd.read_csv(folder / "report.csv")
    ours = table[table["part"] == "On the new pictures, held out"]
    assert ours["published"].tolist() == [0.8223, 0.984, 0.8672, 0.994]
    assert ours["value"].between(0, 1).all()
    change = table[table["part"] == "after - before"]
    assert len(change) == 4  # two metrics on two kinds of pictures
    np.testing.assert_allclose(change["value"], change["after"] - change["before"])
    before = (folder / "report.md").read_text()
    capsys.readouterr()
    assert emotion.main([*words, "--report"]) == 0
    assert len(trained) == 3
    assert (folder / "report.md").read_text() == before


def test_the_page_shows_what_was_won_and_forgotten(tmp_path: Path) -> None:
    truth = pd.DataFrame({"row": range(10), "path": "x", "x0": 0.0, "y0": 0.0, "x1": 10.0, "y1": 10.0})
    right, wrong = truth.assign(score=0.9), truth.assign(score=0.9, x0=50.0, x1=60.0)

    def tables(model: str, pictures: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        known = (model == TUNED) == (pictures == NEW)
        found = pd.concat([right.iloc[: 9 - seed], wrong.iloc[9 - seed :]]) if known else wrong.iloc[:1]
        return found, truth

    runs = {(model, seed): f"{model} {seed}" for model in (TRAINED, TUNED) for seed in range(3)}
    now = Circumstances("small", "honest", "photographs", (), "1", "parent")
    paths = write_detector_report(build("small"), runs, tables, now, tmp_path, resamples=100)
    page = paths[0].read_text()
    assert "3 of 3 seeds finished" in page
    assert "paper 0.867" in page
    rows = pd.read_csv(paths[2])
    claims = rows[rows["part"] == "claims"]
    assert claims["column"].tolist() == ["confirmed"] * 3
    # recall .9, .8 and .7 at precision 1, read off at 101 points; nothing is found before
    np.testing.assert_allclose(claims["value"], 0.8, atol=0.005)
    assert f"| +{claims['value'].iloc[0]:.3f} |" in page
    assert (tmp_path / "figures" / "1-differences.png").is_file()
    lines = [line for line in page.splitlines() if line.startswith(f"| {OLD}, seed 1 ")]
    assert len(lines) == 2
    assert all(re.search(r"0\.802.*0\.000.*-0\.802", line) for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": "postgresql://x"}, r"--storage: study face-detector runs in one process"),
        ({"protocol": "paper"}, r"--protocol: .* by the honest protocol, got paper"),
        ({"only_report": True}, r"--report: study face-detector-tiny-honest-\w+ has not begun here"),
    ],
)
def test_wrong_words_are_refused(workplace: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        conduct.run_detector_study(Options(), scale="tiny", **options)


def test_seeds_are_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert emotion.main(["study", "face-detector", "--seeds", "1", "1"]) == 1
    assert "--seeds: must not repeat a seed" in capsys.readouterr().err
