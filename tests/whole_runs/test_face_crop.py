"""The study of crops at scale tiny: whole photographs, the cascade and the boxes come out in the paper's order."""

from pathlib import Path

import pandas as pd
import pytest

import emotion
from records.runs import children, download, find_runs
from sweeps.studies.face_crop import INPUTS


@pytest.mark.slow
def test_the_inputs_come_out_in_the_published_order(place: Path) -> None:
    assert emotion.main(["study", "face-crop", "--seeds", "0", "--trainer.accelerator", "cpu"]) == 0
    study = find_runs(where="tags.kind = 'study'").iloc[0]
    cells = children(study["run_id"])
    assert set(cells["status"]) == {"FINISHED"}
    table = pd.read_csv(download(study["run_id"], "report/report.csv"))
    whole, cascade, detector = (
        table.loc[(table["row"] == name) & (table["metric"] == "accuracy") & table["value"].notna(), "value"].item()
        for name in INPUTS
    )
    assert whole + 0.1 < cascade < detector - 0.1
    text = download(study["run_id"], "report/report.md").read_text(encoding="utf-8")
    assert "differs on these images for these models 3" in text
