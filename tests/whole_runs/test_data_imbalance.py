"""The study of a missing group from end to end, on a tiny network: who starts from whom, and what its report says."""

from pathlib import Path

import pandas as pd
import pytest

import emotion
from records.runs import children, download, find_runs, load_table, run_config
from sweeps.studies.data_imbalance import BEFORE, FURTHER, REHEARSE, SLOWER

SMALL = (
    *("--data", "drawn:largest=60,ratio=1,size=32,classes=happy+sad,confusion=0"),
    *("--data.size", "32", "--model.backbone", "test_resnet", "--model.weights", "none"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--run.resamples", "100"),
)


@pytest.mark.slow
def test_the_study_goes_through_and_goes_on(place: Path) -> None:
    command = ["study", "data-imbalance", *SMALL, "--seeds", "0"]
    assert emotion.main(command) == 0
    study = find_runs(where="tags.kind = 'study'").iloc[0]
    cells = children(study["run_id"]).set_index("tags.cell")
    assert set(cells["status"]) == {"FINISHED"}
    before = cells.loc[BEFORE, "run_id"]
    for name in (FURTHER, SLOWER, *REHEARSE):
        assert run_config(cells.loc[name, "run_id"])["run"]["start_from"] == before
    rows = {name: load_table(run, "predictions")["row"].tolist() for name, run in cells["run_id"].items()}
    assert len(set(map(tuple, rows.values()))) == 1  # one reported part
    for run in cells["run_id"]:
        split = load_table(run, "split")
        assert not set(split.loc[split["role"] != "outer", "row"]) & set(rows[BEFORE])
    text = download(study["run_id"], "report/report.md").read_text()
    assert text.startswith("# data-imbalance: scale tiny, protocol honest")
    for part in ("## Won: children, by class", "## Forgotten: the others, by class", "## Claims", "paper 0.671"):
        assert part in text
    table = pd.read_csv(download(study["run_id"], "report/report.csv"))
    assert (table["part"] == "claims").sum() == 8

    assert emotion.main([*command, "1"]) == 0  # one more seed goes on with the same study
    again = children(study["run_id"])
    assert len(again) == 2 * len(cells)
    assert set(again["tags.seed"]) == {"0", "1"}


@pytest.mark.slow
def test_further_training_is_tracked_and_refuses_what_it_knows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["fit", "--recipe", "imbalance", *SMALL, "--data.split", "holdout", "--data.stratify_by", "age=child"]
    assert emotion.main([*options, "--data.train_on", "age!=child", "--run.name", "first"]) == 0
    further = [*options, "--data.train_on", "age=child", "--run.start_from", "first"]
    assert emotion.main(further) == 0
    capsys.readouterr()
    assert emotion.main([*further, "--data.fold_seed", "1"]) == 1
    assert "divide both runs alike" in capsys.readouterr().err
    assert len(find_runs()) == 2  # nothing is left of the one that was refused
