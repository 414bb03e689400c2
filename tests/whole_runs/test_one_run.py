"""What `emotion fit` leaves: everything it promises, tables that agree with the numbers, the same numbers again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

import emotion
from datamodules.readers import read
from lightning_modules.cli import run_cli
from records.runs import download, find_runs, load_table
from records.store import embedded_uri


@pytest.fixture
def client(finished: str) -> MlflowClient:
    return MlflowClient(embedded_uri("mlruns"))


def test_a_run_leaves_what_is_needed_to_judge_it(finished: str, client: MlflowClient) -> None:
    run = client.get_run(finished)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "quick drawn fold 0 seed 0"
    assert run.data.params["model.init_args.backbone"] == "test_resnet"
    assert run.data.params["data.init_args.n_min"] == "0.9"
    assert run.inputs.dataset_inputs[0].dataset.name == "drawn"
    for name in ("recipe", "seed", "git_commit", "config_hash", "lock_sha256"):
        assert run.data.tags[name], name
    kept = {path.relative_to("mlruns/artifacts").as_posix().split("/", 2)[2] for path in files(finished)}
    assert kept >= {
        "config.yaml",
        "environment.json",
        "checkpoint/best.ckpt",
        "tables/predictions.parquet",
        "tables/split.parquet",
        "tables/intervals.parquet",
        "per_class.csv",
        "result.md",
        "figures/confusion_matrix.png",
        "figures/curves.png",
        "figures/f1_by_class.png",
    }
    assert "version_torch" in json.loads(download(finished, "environment.json").read_text())
    for name in ("train/loss", "val/loss", "val/f1_macro", "val/accuracy", "val/balanced_accuracy", "val/nll"):
        history = client.get_metric_history(finished, name)
        assert len(history) == len({one.step for one in history}) == 2, name  # two epochs
        assert all(np.isfinite(one.value) for one in history), name
    for name in download(finished, "figures").glob("*.png"):
        assert name.read_bytes()[:4] == b"\x89PNG"


def files(run_id: str) -> list[Path]:
    return [path for path in Path("mlruns/artifacts", run_id).rglob("*") if path.is_file()]


def test_tables_agree_with_each_other_and_with_what_was_logged(finished: str, client: MlflowClient) -> None:
    predictions, split = load_table(finished, "predictions"), load_table(finished, "split")
    outer = set(split.loc[split["role"] == "outer", "row"])
    assert set(predictions["row"]) == outer
    assert not predictions["row"].duplicated().any()
    assert not outer & set(split.loc[split["role"] != "outer", "row"])
    assert not set(split.loc[split["role"] == "train", "row"]) & set(split.loc[split["role"] == "inner", "row"])
    assert set(split.loc[split["is_copy"], "role"]) == {"train"}
    assert set(split["row"]) == set(range(split["row"].max() + 1))

    true, guessed = predictions["label"], predictions["predicted"]
    probabilities = predictions.filter(like="prob_")
    classes = [name.removeprefix("prob_") for name in probabilities]
    assert (guessed.to_numpy() == np.array(classes)[probabilities.to_numpy().argmax(1)]).all()
    assert probabilities.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    ordered = probabilities[[f"prob_{name}" for name in sorted(classes)]].astype("float64")
    logged = client.get_run(finished).data.metrics
    expected = {
        "test/f1_macro": f1_score(true, guessed, labels=classes, average="macro", zero_division=0),
        "test/accuracy": accuracy_score(true, guessed),
        "test/balanced_accuracy": balanced_accuracy_score(true, guessed),
        "test/nll": log_loss(true, ordered.div(ordered.sum(axis=1), axis=0)),
    }
    expected |= {
        f"test/f1_{name}": value
        for name, value in zip(
            classes, f1_score(true, guessed, labels=classes, average=None, zero_division=0), strict=True
        )
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert logged["test/f1_macro_low"] <= logged["test/f1_macro"] <= logged["test/f1_macro_high"]
    table = pd.read_csv(download(finished, "per_class.csv"))
    by_class = table[table["metric"] == "f1"].set_index("class")["value"]
    assert by_class.to_dict() == pytest.approx({name: expected[f"test/f1_{name}"] for name in classes})


def test_the_kept_checkpoint_is_the_inner_splits_best_and_plain(finished: str, client: MlflowClient) -> None:
    kept = torch.load(download(finished, "checkpoint/best.ckpt"), weights_only=True)
    best = max(client.get_metric_history(finished, "val/f1_macro"), key=lambda one: one.value)
    assert kept["global_step"] == best.step + 1


def test_the_kept_config_makes_the_same_numbers_again(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = download(finished, "config.yaml")
    assert yaml.safe_load(config.read_text())["seed_everything"] == 0
    again = run_cli(["fit", "--config", str(config)]).result
    assert again is not None
    assert again.run_id != finished
    pd.testing.assert_frame_equal(load_table(finished, "predictions"), again.predictions)
    pd.testing.assert_frame_equal(load_table(finished, "split"), again.split)
    assert again.run_id in capsys.readouterr().out


def test_another_seed_makes_other_numbers_on_the_same_folds(finished: str, one_run: tuple[str, ...]) -> None:
    assert emotion.main(["fit", *one_run, "--seed", "1"]) == 0
    other = str(find_runs().iloc[0]["run_id"])
    assert other != finished
    before, after = load_table(finished, "predictions"), load_table(other, "predictions")
    assert before["row"].equals(after["row"])
    assert not np.allclose(before.filter(like="prob_"), after.filter(like="prob_"))


def test_no_run_reports_on_images_that_the_model_it_begins_with_has_seen(
    finished: str, one_run: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither from the run, nor from its file, nor where the same images are another data set."""
    same = read("drawn:largest=40,ratio=2,size=32")
    (tmp_path / "other").mkdir()
    for row in range(len(same)):
        shutil.copy(same.file(row), tmp_path / "other" / f"{row}.png")
    table = pd.DataFrame({"path": [f"other/{row}.png" for row in range(len(same))], "label": same.table["label"]})
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "other.csv", index=False)
    file = f"mlruns/runs/{finished}/best.ckpt"
    for option in ("--run.start_from", "--ckpt_path", "--model.weights"):
        for data in (["--data.fold", "1"], ["--data", "other.csv"]):
            assert emotion.main(["fit", *one_run, *data, option, file]) == 1
            said = capsys.readouterr().err
            assert f"{option.removeprefix('--')}: {file} was trained or selected on" in said
            assert "images that this run reports on" in said
    assert emotion.main(["fit", *one_run, "--data", "other.csv", "--run.start_from", finished]) == 1
    assert f"run.start_from: {finished} was trained or selected on" in capsys.readouterr().err
    assert len(find_runs()) == 1
    assert emotion.main(["fit", *one_run, "--trainer.max_epochs", "1", "--run.start_from", file]) == 0
