"""Study face-detector: its published table, a small study resumed after a stop, and its report."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

import emotion
from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig
from results.tracking.runs import children, find_runs, load_table
from sweeps.studies import build_study, detection, runner
from sweeps.studies.analysis import Outcomes, RunContext
from sweeps.studies.detection import DetectorOutcome
from sweeps.studies.face_detector import NEW, OLD, SETTINGS, TRAINED, TUNED
from sweeps.studies.report import write_report
from sweeps.studies.schema import OTHER, cell_config
from sweeps.workers import close, open_storage

SMALL = (
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.width", "8", "--size", "64"),
    *("--epochs", "1", "--data.num_workers", "0", "--run.resamples", "100", "--run.accelerator", "cpu"),
)


def test_the_published_table_and_the_claims() -> None:
    for scale in SETTINGS:
        study = build_study("face-detector", scale, "honest")
        new, old = study.tables
        published = {name: [entry.published for entry in row if entry] for name, row in new.rows.items()}
        assert published == {TRAINED: [0.8223, 0.984], TUNED: [0.8672, 0.994]}
        assert all(entry and entry.published is None for row in old.rows.values() for entry in row)
        assert [claim.published for claim in study.claims] == [(0.8672, 0.8223), (0.994, 0.984), None]
        assert len(study.seeds) == 3


def test_images_of_the_user_take_the_place_of_the_new_ones_alone() -> None:
    study = build_study("face-detector", "small", "honest")
    given = Options.read(["--data", "photographs", "--boxes", "boxes.csv", "--epochs", "2"], "detector")
    first, new = (cell_config(study.cell(name), given) for name in (TRAINED, TUNED))
    assert (new.data["source"], new.data["boxes"], new.run["epochs"]) == ("photographs", "boxes.csv", 2)
    assert (first.data["boxes"], first.run["epochs"]) == (None, 2)
    assert first.data["source"].startswith("scenes:")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make scale tiny tinier still."""
    first = {"data.source": "scenes:images=16,size=96,others=1", "data.size": 64, "data.inner_fraction": 0.2}
    new = {**first, "data.source": "scenes:images=16,size=96,others=1,seed=1,dim=1"}
    monkeypatch.setitem(SETTINGS, "tiny", type(SETTINGS["tiny"])(first, new, (0,)))


def in_this_process(name: str, url: str, task: str, settings: dict[str, Any], workers: int) -> None:
    """Run the waiting cells of a study; one that is interrupted fails, and `enqueue` queues it again."""
    storage = open_storage(url)
    study = optuna.load_study(study_name=name, storage=storage, pruner=optuna.pruners.NopPruner())
    while study.get_trials(states=(TrialState.WAITING,)):
        trial = study.ask()
        try:
            study.tell(trial, runner.run_cell(trial, settings))
        except KeyboardInterrupt:
            study.tell(trial, state=TrialState.FAIL)
            raise
    close(storage)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Optuna's advice on heartbeats
def test_a_study_is_resumed_where_it_was_stopped(
    workplace: Path, few: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "face-detector", *SMALL]
    real, trained = detection.train, []

    def train(config: RunConfig) -> Any:
        trained.append(config)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(config)

    monkeypatch.setattr(detection, "train", train)
    monkeypatch.setattr(runner, "work_together", in_this_process)
    assert emotion.main(words) == 130
    (first,) = find_runs(where="tags.kind = 'cell'").itertuples()
    assert emotion.main(words) == 0
    assert len(trained) == 3  # the first training was not repeated
    assert trained[-1].run["start_from"] == first.run_id
    (parent,) = find_runs(where="tags.kind = 'study'").itertuples()
    runs = children(parent.run_id)
    assert sorted(runs["name"]) == [f"{TUNED} seed 0", f"{TRAINED} seed 0"]
    assert sorted(runs["tags.cell"]) == [TUNED, TRAINED]
    assert runs["tags.identity"].nunique() == 2
    split = {name: load_table(run, "split") for name, run in zip(runs["name"], runs["run_id"], strict=True)}
    for name, run in zip(runs["name"], runs["run_id"], strict=True):
        other = split[next(one for one in split if one != name)]
        tested = set(other.loc[other["role"] == "test", "row"])
        found, truth = (load_table(run, table) for table in detection.TABLES[OTHER])
        assert set(found["row"]) <= tested == set(truth["row"])
    (folder,) = Path("mlruns/reports").iterdir()
    table = pd.read_csv(folder / "report.csv")
    ours = table[table["part"] == "On the new images, held out"]
    assert ours["published"].tolist() == [0.8223, 0.984, 0.8672, 0.994]
    assert ours["value"].between(0, 1).all()
    change = table[table["part"] == "after - before"]
    assert len(change) == 4  # two metrics on two kinds of images
    np.testing.assert_allclose(change["value"], change["after"] - change["before"])
    before = (folder / "report.md").read_text()
    capsys.readouterr()
    assert emotion.main([*words, "--report"]) == 0
    assert len(trained) == 3
    assert (folder / "report.md").read_text() == before


def test_the_page_shows_gains_and_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = pd.DataFrame({"row": range(10), "path": "x", "x0": 0.0, "y0": 0.0, "x1": 10.0, "y1": 10.0})
    right, wrong = truth.assign(score=0.9), truth.assign(score=0.9, x0=50.0, x1=60.0)

    def tables(run_id: str, name: str) -> pd.DataFrame:
        seed = run_id.split()[1]
        if name.startswith("truth"):
            return truth
        if name not in detection.TABLES[""]:  # on the images of the other detector
            return wrong.iloc[:1]
        return pd.concat([right.iloc[: 9 - int(seed)], wrong.iloc[9 - int(seed) :]])

    monkeypatch.setattr(detection, "load_table", tables)
    monkeypatch.setattr(detection, "RESAMPLES", 100)
    outcomes = Outcomes(
        [DetectorOutcome(cell, seed, f"{cell} {seed}") for cell in (TRAINED, TUNED) for seed in range(3)]
    )
    now = RunContext("small", "honest", "photographs", (), "1", "parent")
    paths = write_report(build_study("face-detector", "small", "honest"), outcomes, now, tmp_path)
    page = paths[0].read_text()
    assert "2 of 2 cells finished, 6 runs, seeds 0, 1, 2" in page
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
    assert sum(line.startswith(f"| {NEW}, seed") for line in page.splitlines()) == 6


def test_a_study_without_runs_or_of_the_papers_protocol_is_refused(
    workplace: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"--protocol: .* has only the honest protocol, got paper"):
        build_study("face-detector", "tiny", "paper")
    assert emotion.main(["study", "face-detector", "--report", *SMALL]) == 1
    error = capsys.readouterr().err
    assert re.search(r"--report: study face-detector-tiny-honest-\w+ has not been started here", error)


def test_seeds_are_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert emotion.main(["study", "face-detector", "--seeds", "1", "1"]) == 1
    assert "--seeds: must not repeat a seed" in capsys.readouterr().err
