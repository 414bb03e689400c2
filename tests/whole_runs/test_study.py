"""A whole study at scale tiny: its cells are runs under one run, it goes on where it was, and its report is kept."""

from pathlib import Path

import pandas as pd
import pytest

import emotion
from records.runs import children, download, find_runs
from sweeps.studies.balanced_augmentation import TRANSFORMS

FEW = ("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--run.resamples", "100")
FACES = ("--data", "drawn:largest=24,ratio=2,size=32")


def parent() -> pd.Series:
    found = find_runs(where="tags.kind = 'study'")
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.slow
def test_a_study_runs_once_and_keeps_its_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "backbones", *FACES, *FEW]
    assert emotion.main(command) == 0
    study = parent()
    cells = children(study["run_id"])
    assert sorted(cells["tags.cell"]) == ["test_convnext", "test_efficientnet", "test_resnet"]
    assert set(cells["status"]) == {"FINISHED"}
    text = download(study["run_id"], "report/report.md").read_text()
    assert text.startswith("# backbones: scale tiny, protocol honest, data drawn:largest=24")
    assert all(run in text for run in cells["run_id"])
    table = pd.read_csv(download(study["run_id"], "report/report.csv"))
    ours = table[(table["row"] == "test_resnet") & (table["metric"] == "accuracy")]["value"].item()
    logged = cells.set_index("tags.cell").loc["test_resnet", "metrics.test/accuracy"]
    assert ours == pytest.approx(logged)
    assert (download(study["run_id"], "report/figures/1-curves.png")).stat().st_size > 1000

    assert emotion.main(command) == 0  # again: nothing is left to run
    assert len(children(str(parent()["run_id"]))) == len(cells)
    assert "report.html" in capsys.readouterr().out


def test_a_cell_that_fails_fails_alone_and_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ("--data.size", "32", "--model.backbone", "no_such_network")
    assert emotion.main(["study", "backbones", *FACES, *FEW, *one]) == 1
    told = capsys.readouterr()
    assert "failed: test_resnet: unknown backbone 'no_such_network'" in told.err
    assert "Cells that failed" in download(str(parent()["run_id"]), "report/report.md").read_text()
    assert parent()["status"] == "FAILED"


def test_what_costs_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emotion.main(["study", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("balanced-augmentation", "teachable", "backbones", "leakage"))
    assert emotion.main(["study", "balanced-augmentation", *FACES, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("together")).split()[1] == str(2 * (len(TRANSFORMS) + 2) + 5)
    assert emotion.main(["study", "backbones", "--scale", "small"]) == 1
    assert "scale small needs a data set" in capsys.readouterr().err
    assert emotion.main(["study", "leakage", "--protocol", "paper"]) == 1
    assert len(find_runs()) == 0
