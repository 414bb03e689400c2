"""`emotion cross-validate`: every image predicted once, children under a parent, and it goes on after a failure."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.metrics import f1_score

import emotion
from records.runs import children, download, find_runs, load_table
from records.store import embedded_uri

Capture = pytest.CaptureFixture[str]


def parent_of_all() -> str:
    found = find_runs(where="tags.kind = 'cross-validation'")
    assert len(found) == 1
    return str(found.iloc[0]["run_id"])


def test_two_folds_and_two_seeds(place: Path, tiny: tuple[str, ...], capsys: Capture) -> None:
    cache = str(place / "cache")
    assert emotion.main(["cross-validate", *tiny, "--folds", "2", "--seeds", "0", "1", "--data.cache_dir", cache]) == 0
    said = capsys.readouterr().out
    assert "macro F1" in said
    assert "pooled macro F1 by training seed: seed 0: " in said
    parent = parent_of_all()
    below = children(parent)
    assert list(below["status"]) == ["FINISHED"] * 4
    assert sorted(zip(below["tags.seed"], below["tags.fold"], strict=True)) == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]
    predictions, split = load_table(parent, "predictions"), load_table(parent, "split")
    images = split["row"].max() + 1
    assert sorted(predictions["row"]) == list(range(images))
    for fold in (0, 1):
        part = split[split["fold"] == fold]
        outer = set(part.loc[part["role"] == "outer", "row"])
        assert outer == set(predictions.loc[predictions["fold"] == fold, "row"])
        assert not outer & set(part.loc[part["role"] != "outer", "row"])
    # seeds share the folds
    one, two = (load_table(run, "split") for run in below.loc[below["tags.fold"] == "0", "run_id"])
    pd.testing.assert_frame_equal(one[one["role"] == "outer"], two[two["role"] == "outer"])

    metrics = MlflowClient(embedded_uri("mlruns")).get_run(parent).data.metrics
    score = f1_score(predictions["label"], predictions["predicted"], average="macro", zero_division=0)
    assert metrics["test/f1_macro"] == pytest.approx(score, abs=1e-6)
    table = load_table(parent, "folds")
    assert metrics["folds/f1_macro_mean"] == pytest.approx(table.loc[table["seed"] == 0, "f1_macro"].mean())
    assert metrics["seeds/f1_macro_sd"] == pytest.approx(load_table(parent, "seeds")["f1_macro"].std(ddof=1))
    for name in ("confusion_matrix", "f1_by_class"):
        assert download(parent, f"figures/{name}.png").stat().st_size > 1000
    assert download(parent, "per_class.csv").is_file()

    (meta,) = Path(cache).rglob("meta.json")  # one cache for four runs
    assert json.loads(meta.read_text())["images_decoded"] == images

    capsys.readouterr()
    assert emotion.main(["predict", "--run", parent, "--data", "."]) == 1
    assert "is the parent of 4 runs" in capsys.readouterr().err


def test_it_goes_on_with_the_fold_that_failed(
    place: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from lightning_modules.classifier import EmotionClassifier

    words = ["cross-validate", *tiny, "--folds", "2"]
    step = EmotionClassifier.training_step

    def fails(self: EmotionClassifier, batch: dict, number: int) -> object:
        if self.trainer.datamodule.fold == 1 and self.current_epoch == 1:
            msg = "power cut"
            raise RuntimeError(msg)
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(EmotionClassifier, "training_step", fails)
        with pytest.raises(RuntimeError, match="power cut"):
            emotion.main(words)
    said = capsys.readouterr().err
    parent = parent_of_all()
    assert said.count("--resume") == said.count(f"--resume {parent}") == 1
    before = children(parent)
    assert dict(zip(before["tags.fold"], before["status"], strict=True)) == {"0": "FINISHED", "1": "FAILED"}

    # an unfinished single run of the same options is none of the cross-validation's
    assert emotion.main(["cross-validate", *words[1:], "--model.dropout", "0.1", "--resume", parent]) == 1
    assert "with other options" in capsys.readouterr().err
    assert emotion.main([*words, "--resume"]) == 0
    after = children(parent)
    assert parent_of_all() == parent
    assert list(after["run_id"]) == list(before["run_id"])
    assert list(after["status"]) == ["FINISHED"] * 2
    assert find_runs(where=f"attributes.run_id = '{parent}'").iloc[0]["status"] == "FINISHED"
    fold = {row["tags.fold"]: row for row in before.to_dict("records")}
    assert after.iloc[0]["end"] == fold["0"]["end"]  # not run again
    table = load_table(parent, "predictions")
    assert np.array_equal(np.sort(table["row"]), np.arange(len(table)))
