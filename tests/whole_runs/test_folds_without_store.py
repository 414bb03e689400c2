"""A cross-validation that loses its store between folds: no run is lost."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

import emotion
from datamodules.errors import InputError
from results.tracking import store
from results.tracking.runs import children, find_runs, load_table
from results.tracking.store import embedded_uri
from sweeps import cross_validation

Capture = pytest.CaptureFixture[str]
PARENT = "tags.kind = 'cross-validation'"


def away(*_: object, **__: object) -> None:
    msg = "MLFLOW_TRACKING_URI: the tracking store must answer"
    raise InputError(msg)


def test_folds_begin_while_the_store_is_away(
    place: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    train_fold = cross_validation._Plan.train
    seen: list[list[str]] = []

    def then_away(*args: object) -> object:
        done = train_fold(*args)  # type: ignore[arg-type]
        seen.append(sorted(find_runs()["status"]) if not seen else [])
        patch.setattr(store, "open_client", away)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(cross_validation._Plan, "train", then_away)
        words = ["cross-validate", *tiny, "--folds", "2", "--trainer.max_epochs", "1", "--run.experiment", "elsewhere"]
        assert emotion.main(words) == 0
    assert seen == [["FINISHED", "RUNNING", "SCHEDULED"], []]
    said = capsys.readouterr()
    assert said.err.startswith("emotion cross-validate: starting (loading PyTorch")
    assert said.err.count(": starting (") == 1
    assert "\r" not in said.err  # no bar in a file
    epochs = [line for line in said.err.splitlines() if line.startswith("epoch ") and "is kept" not in line]
    assert epochs == []  # tiny asks for no progress
    assert set(find_runs()["experiment"]) == {"elsewhere"}
    (parent,) = find_runs(where=PARENT).to_dict("records")
    below = children(parent["run_id"])
    assert list(below["status"]) == ["FINISHED"] * 2
    assert list(below["name"]) == [f"quick drawn fold {fold} seed 0" for fold in range(2)]
    assert parent["status"] == "FINISHED"
    assert parent["tags.manifest"] == below["tags.manifest"].unique().item()
    for number, (fold, score) in enumerate(load_table(parent["run_id"], "folds")[["fold", "f1_macro"]].to_numpy(), 1):
        assert f"fold {fold:.0f} seed 0 ({number} of 2): macro F1 {score:.3f}, accuracy" in said.err
    client = MlflowClient(embedded_uri("mlruns"))
    mine, theirs = (client.get_run(run).inputs.dataset_inputs for run in (parent["run_id"], below["run_id"].iloc[1]))
    assert [one.dataset.digest for one in mine] == [one.dataset.digest for one in theirs]
    assert len(mine) == 1
