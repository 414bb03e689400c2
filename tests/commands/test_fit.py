"""`emotion fit`: what it writes, that its tables agree with each other, and that the same numbers come again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

pytestmark = pytest.mark.usefixtures("store")


def test_a_run_leaves_what_is_needed_to_judge_it(emotion: Any, fitted: str) -> None:
    run = emotion.client.get_run(fitted)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "quick drawn fold 0 seed 0"
    params = {name.rsplit(".", 1)[-1]: value for name, value in run.data.params.items()}
    assert (params["backbone"], params["n_min"]) == ("test_resnet", "0.9")
    assert run.inputs.dataset_inputs[0].dataset.name == "drawn"
    for name in ("recipe", "seed", "git_commit", "identity", "lock_sha256"):
        assert run.data.tags[name], name
    assert (run.data.tags["protocol"], run.data.tags["recipe"]) == ("honest", "quick")
    for name in (
        *("config.yaml", "checkpoint/best.ckpt", "per_class.csv", "result.md"),
        *(f"tables/{table}.parquet" for table in ("predictions", "split", "intervals")),
    ):
        assert emotion.artifact(fitted, name).stat().st_size > 0, name
    assert "version_torch" in json.loads(emotion.artifact(fitted, "environment.json").read_text())
    for name in ("train/loss", "val/loss", "val/f1_macro", "val/accuracy", "val/balanced_accuracy", "val/nll"):
        history = emotion.history(fitted, name)
        assert len(history) == 2, name  # two epochs
        assert np.isfinite(list(history.values())).all(), name
    for name in ("confusion_matrix", "curves", "f1_by_class"):
        assert emotion.artifact(fitted, f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
    # the training state has gone, and what is kept is the best epoch of the part that is selected on
    assert [path.name for path in emotion.artifact(fitted, "best.ckpt").parents[3].rglob("last.ckpt")] == []
    kept = torch.load(emotion.artifact(fitted, "best.ckpt"), weights_only=True)
    scores = emotion.history(fitted, "val/f1_macro")
    assert kept["global_step"] == max(scores, key=lambda step: scores[step]) + 1


def test_the_tables_agree_with_each_other_and_with_what_was_logged(emotion: Any, fitted: str) -> None:
    predictions, split = emotion.table(fitted, "predictions"), emotion.table(fitted, "split")
    train, val, test = (emotion.rows(fitted, part) for part in ("train", "val", "test"))
    assert set(predictions["row"]) == test
    assert not predictions["row"].duplicated().any()
    assert not test & (train | val)
    assert not train & val
    assert min(map(len, (train, val, test))) > 10
    assert train | val | test == set(range(split["row"].max() + 1))
    assert split["is_copy"].any()  # over-sampled, in the training part alone
    assert set(split.loc[split["is_copy"], "row"]) <= train
    assert "run_protocol" not in predictions

    true, predicted = predictions["label"], predictions["predicted"]
    probabilities = predictions.filter(like="prob_")
    classes = [name.removeprefix("prob_") for name in probabilities]
    assert (predicted.to_numpy() == np.array(classes)[probabilities.to_numpy().argmax(1)]).all()
    assert probabilities.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    ordered = probabilities[[f"prob_{name}" for name in sorted(classes)]].astype("float64")
    by_class = f1_score(true, predicted, labels=classes, average=None, zero_division=0)
    expected = {
        "test/f1_macro": f1_score(true, predicted, labels=classes, average="macro", zero_division=0),
        "test/accuracy": accuracy_score(true, predicted),
        "test/balanced_accuracy": balanced_accuracy_score(true, predicted),
        "test/nll": log_loss(true, ordered.div(ordered.sum(axis=1), axis=0)),
        **{f"test/f1_{name}": value for name, value in zip(classes, by_class, strict=True)},
    }
    logged = emotion.summary(fitted)
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert logged["test/f1_macro_low"] <= logged["test/f1_macro"] <= logged["test/f1_macro_high"]
    table = pd.read_csv(emotion.artifact(fitted, "per_class.csv"))
    shown = table[table["metric"] == "f1"].set_index("class")["value"]
    assert shown.to_dict() == pytest.approx({name: expected[f"test/f1_{name}"] for name in classes})


def test_the_kept_config_makes_the_same_numbers_again(emotion: Any, fitted: str) -> None:
    config = emotion.artifact(fitted, "config.yaml")
    assert yaml.safe_load(config.read_text())["seed_everything"] == 0
    done = emotion("fit", "--config", str(config))
    again, first = (str(run.info.run_id) for run in emotion.runs())
    assert first == fitted
    assert again in done.out
    for name in ("predictions", "split", "intervals"):
        pd.testing.assert_frame_equal(emotion.table(fitted, name), emotion.table(again, name))
    for name in ("train/loss", "val/loss"):
        assert emotion.history(again, name) == emotion.history(fitted, name)


def test_another_seed_makes_other_numbers_on_the_same_folds(emotion: Any, fitted: str, tiny: tuple[str, ...]) -> None:
    emotion("fit", *tiny, "--data.folds", "4", "--seed", "1")
    other = emotion.runs()[0].info.run_id
    before, after = (emotion.table(run, "predictions") for run in (fitted, other))
    assert before["row"].equals(after["row"])
    assert before["label"].equals(after["label"])
    assert not np.allclose(before.filter(like="prob_"), after.filter(like="prob_"))
    assert emotion.rows(fitted, "test") == emotion.rows(other, "test")


@pytest.mark.filterwarnings("ignore:protocol. selected on the reported fold, over-sampled before")
def test_a_leaky_run_says_so_wherever_it_is_read(emotion: Any, tiny: tuple[str, ...]) -> None:
    leaky = ("--data.protocol", "paper", "--data.leak", "oversample_first", "--data.inner_fraction", "0")
    done = emotion("fit", *tiny, "--data.folds", "4", *leaky)
    protocol = "selected on the reported fold, over-sampled before the division, duplicates and people divided (leaky: "
    assert f"\nprotocol: {protocol}" in done.out
    (run,) = emotion.runs()
    run_id, tags = run.info.run_id, run.data.tags
    assert tags["protocol"].startswith(protocol)
    assert (tags["selected_on"], tags["leak.leak"]) == ("reported fold", "oversample_first")
    for name in ("predictions", "split", "intervals"):
        assert emotion.table(run_id, name)["run_protocol"].str.startswith(protocol).all()
    predictions, split = emotion.table(run_id, "predictions"), emotion.split(run_id)
    assert sorted(predictions["row"]) == sorted(split.loc[(split["part"] == "test") & ~split["is_copy"], "row"])
    copies_trained_on = split.loc[(split["part"] == "train") & split["is_copy"], "row"]
    assert set(copies_trained_on) & set(predictions["row"])
    assert emotion.artifact(run_id, "result.md").read_text(encoding="utf-8").startswith(f"protocol: {protocol}")


def test_no_run_reports_on_images_that_the_model_it_begins_with_has_seen(
    emotion: Any, fitted: str, tiny: tuple[str, ...]
) -> None:
    """Neither from the run, nor from its file, nor where the same images are another data set."""
    emotion("data", "prepare", "--data", tiny[1], "--output", "drawn.csv")
    table = pd.read_csv("drawn.csv", keep_default_na=False)[["path", "label"]]
    root = Path(json.loads(Path("drawn.csv.json").read_text())["root"])
    Path("other").mkdir()
    for row, path in enumerate(table["path"]):
        shutil.copy(root / path, f"other/{row}.png")
    table["path"] = [f"other/{row}.png" for row in range(len(table))]
    table.sample(frac=1, random_state=0).to_csv("other.csv", index=False)
    file = str(next(path for path in Path("mlruns/runs").rglob("best.ckpt")))
    words = ("fit", *tiny, "--data.folds", "4")
    for option in ("--run.start_from", "--ckpt_path", "--model.weights"):
        for data in (["--data.fold", "1"], ["--data", "other.csv"]):
            (error,) = emotion(*words, *data, option, file, status=1).errors
            assert f"{option.removeprefix('--')}: {file} was trained or selected on" in error
            assert "images that this run reports on" in error
    (error,) = emotion(*words, "--data", "other.csv", "--run.start_from", fitted, status=1).errors
    assert f"run.start_from: {fitted} was trained or selected on" in error
    for option, value in (("--run.start_from", "nope"), ("--run.teacher", "[nope]")):
        (error,) = emotion(*words, option, value, status=1).errors
        assert f"{option}: there is no run 'nope'" in error
    assert len(emotion.runs()) == 1
    emotion(*words, "--trainer.max_epochs", "1", "--run.start_from", file)  # the same folds: nothing is known


def test_a_run_has_at_least_one_epoch(emotion: Any, tiny: tuple[str, ...]) -> None:
    (error,) = emotion("fit", *tiny, "--data.folds", "4", "--trainer.max_epochs", "0", status=1).errors
    assert "--trainer.max_epochs: must be at least 1, got 0" in error
    (error,) = emotion("fit", *tiny, "--data.folds", "4", "--trainer.max_epochs", "-1", "--dry-run", status=1).errors
    assert "--trainer.max_epochs: must be at least 1 where max_steps does not end the run, got -1" in error
    assert emotion.runs() == []


@pytest.mark.parametrize(("epochs", "steps", "planned"), [("null", "-1", "1000"), ("null", "3", "1"), ("2", "1", "1")])
def test_a_dry_run_plans_the_epochs_that_lightning_would_train(
    emotion: Any, tiny: tuple[str, ...], epochs: str, steps: str, planned: str
) -> None:
    end = ("--trainer.max_epochs", epochs, "--trainer.max_steps", steps)
    assert f"in {planned} epochs" in emotion("fit", *tiny, "--data.folds", "4", *end, "--dry-run").out


@pytest.mark.slow
def test_further_training_is_tracked_and_divides_alike(emotion: Any, tiny: tuple[str, ...]) -> None:
    faces = ("--data", "drawn:largest=60,ratio=1,size=32,classes=happy+sad,confusion=0", "--trainer.max_epochs", "1")
    split = ("--data.split", "holdout", "--data.stratify_by", "age=child", "--data.n_min", "null")
    options = ("fit", *tiny, "--recipe", "imbalance", *faces, *split)
    emotion(*options, "--data.train_on", "age!=child", "--run.name", "first")
    further = (*options, "--data.train_on", "age=child", "--run.start_from", "first")
    emotion(*further)
    second, first = (run.info.run_id for run in emotion.runs())
    begun = emotion.client.get_run(second).data.params["run.start_from"]
    assert emotion.client.get_run(begun).info.run_name == "first"  # the id: a name may mean another run later on
    assert emotion.rows(first, "test") == emotion.rows(second, "test")
    assert not emotion.rows(first, "train") & emotion.rows(second, "train")
    (error,) = emotion(*further, "--data.fold_seed", "1", status=1).errors
    assert "divide both runs alike" in error
    assert len(emotion.runs()) == 2  # nothing is left of the one that was refused
