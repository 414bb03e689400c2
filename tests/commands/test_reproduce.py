"""`emotion reproduce`: a run is run again from its stored config, and the differences are printed."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.usefixtures("store")


def test_a_fit_gives_the_same_numbers(emotion: Any, fitted: str) -> None:
    done = emotion("reproduce", fitted)
    assert f"reproduced {fitted}" in done.out
    assert "environment: the same" in done.out
    assert "numbers: the same, image by image" in done.out
    again = emotion.runs()[0].info.run_id
    assert again != fitted
    assert emotion.history(again, "train/loss") == emotion.history(fitted, "train/loss")


@pytest.mark.slow  # the shorter test above is of the same command
def test_a_cross_validation_gives_the_same_numbers(emotion: Any, cross_validated: str) -> None:
    done = emotion("reproduce", cross_validated)
    assert "numbers: the same, image by image" in done.out
    again = emotion.runs("tags.kind = 'cross-validation'")[0].info.run_id
    assert again != cross_validated
    assert len(emotion.children(again)) == 4
    assert emotion.summary(again) == pytest.approx(emotion.summary(cross_validated))


def test_what_differs_is_said(emotion: Any, faces: Path, tiny: tuple[str, ...]) -> None:
    emotion("fit", *tiny, "--data", str(faces), "--data.folds", "4", "--trainer.max_epochs", "1")
    run_id = emotion.runs()[0].info.run_id
    kept = emotion.artifact(run_id, "environment.json")
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "python": "3.1.4"}))
    tested = emotion.table(run_id, "predictions")
    (faces / tested["path"].iloc[0]).unlink()
    done = emotion("reproduce", run_id, status=1)
    assert "python: then 3.1.4, now 3." in done.out
    assert "numbers: the same" not in done.out
    assert "other images were evaluated" in done.out


def test_a_run_of_version_0_1_is_refused_and_can_be_run_again(emotion: Any, fitted: str, tmp_path: Path) -> None:
    for name in ("predictions", "split"):
        path = emotion.artifact(fitted, f"tables/{name}.parquet")
        table = pd.read_parquet(path)
        assert table.attrs.pop("format") == 2
        table.to_parquet(path, index=False)
    checkpoints = [path for path in Path("mlruns").rglob("best.ckpt") if fitted in path.parts]
    assert checkpoints
    for path in checkpoints:
        content = torch.load(path, weights_only=True)
        assert content.pop("format") == 2
        torch.save(content, path)
    assert "numbers: the same, image by image" in emotion("reproduce", fitted).out
    again = emotion.runs()[0].info.run_id
    for command in (
        ("predict", "--run", fitted, "--data", "drawn:largest=2,ratio=2,size=32", "--output", str(tmp_path / "p.csv")),
        ("report", "compare", fitted, again),
        ("report", "certify", fitted),
    ):
        done = emotion(*command, status=None)
        assert done.status != 0
        assert len(done.errors) == 1, command
        assert "was made by version 0.1" in done.errors[0]
        assert "run `emotion reproduce " in done.errors[0]
