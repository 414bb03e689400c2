"""What is done with a trained run: evaluated again, used on pictures, exported, registered, reproduced."""

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

import emotion
from datamodules.pixels import decode, fit_to_square
from lightning_modules.stored import load_trained
from records.runs import download, find_runs, load_table
from records.store import embedded_uri

Capture = pytest.CaptureFixture[str]


def test_test_and_validate_give_the_runs_numbers(finished: str, capsys: Capture) -> None:
    client = MlflowClient(embedded_uri("mlruns"))
    for command, name in (("test", "test/f1_macro"), ("validate", "val/f1_macro")):
        capsys.readouterr()
        assert emotion.main([command, "--run", finished[:8]]) == 0
        said = capsys.readouterr().out
        (shown,) = re.findall(rf" {name} \D*([\d.]+)", said)
        logged = [one.value for one in client.get_metric_history(finished, name)]
        assert float(shown) == pytest.approx(max(logged), abs=1e-5)
    assert len(find_runs()) == 1  # they make no run


def test_predict_a_picture_a_folder_and_a_table(finished: str, few_pictures: Path, capsys: Capture) -> None:
    picture = next(few_pictures.rglob("*.png"))
    assert emotion.main(["predict", "--run", finished, "--data", str(picture)]) == 0
    said = capsys.readouterr()
    path, predicted, _ = said.out.split("\t")
    assert f"run quick drawn fold 0 seed 0 [{finished[:8]}], backbone test_resnet\nclasses: " in said.err
    assert path == str(picture)
    assert predicted in load_table(finished, "predictions")["label"].unique()

    assert emotion.main(["predict", "--run", "latest", "--data", str(few_pictures), "--output", "all.csv"]) == 0
    whole = pd.read_csv("all.csv", keep_default_na=False)
    assert len(whole) == 20
    pd.DataFrame({"path": [str(picture)]}).to_csv("table.csv", index=False)
    assert emotion.main(["predict", "--run", finished, "--data", "table.csv", "--output", "one.parquet"]) == 0
    one = pd.read_parquet("one.parquet")
    chosen = whole[whole["path"].map(lambda text: Path(text).name) == picture.name]
    names = [name for name in one if name.startswith("prob_")]
    assert one[names].to_numpy(float) == pytest.approx(chosen[names].to_numpy(float), abs=1e-5)

    (few_pictures / "sad" / "broken.png").write_text("no picture")
    capsys.readouterr()
    assert emotion.main(["predict", "--run", finished, "--data", str(few_pictures), "--output", "all.csv"]) == 1
    assert "broken.png" in capsys.readouterr().err
    table = pd.read_csv("all.csv", keep_default_na=False)
    assert len(table) == 21
    assert list(table.loc[table["error"] != "", "path"].map(lambda text: Path(text).name)) == ["broken.png"]


def test_predictions_are_those_of_the_evaluation(finished: str) -> None:
    """Training reads pictures from the cache, prediction from their files: the numbers must be equal."""
    from datamodules.readers import read

    faces = read("drawn:largest=40,ratio=2,size=32")
    table = load_table(finished, "predictions")
    faces.select(table["row"].to_numpy()).save(Path("outer.csv"))
    assert emotion.main(["predict", "--run", finished, "--data", "outer.csv", "--output", "outer.parquet"]) == 0
    again = pd.read_parquet("outer.parquet")
    names = [name for name in table if name.startswith("prob_")]
    assert again[names].to_numpy() == pytest.approx(table[names].to_numpy(), abs=1e-5)


def test_export_equals_torch_and_says_how_pictures_are_made(finished: str, few_pictures: Path, capsys: Capture) -> None:
    assert emotion.main(["export", finished, "--format", "onnx", "--output", "model.onnx"]) == 0
    said = capsys.readouterr()
    assert "differs from torch by at most" in said.out
    assert f"[{finished[:8]}], backbone test_resnet\nclasses: " in said.err
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about["resizing"].endswith("shrinking averages the area that a pixel covers, enlarging is bilinear")
    trained = load_trained(download(finished, "checkpoint/best.ckpt"))
    assert json.loads(about["classes"]) == trained.classes
    files = sorted(few_pictures.rglob("*.png"))[:5]
    images = np.stack([fit_to_square(decode(file), int(about["size"]), about["fit"]) for file in files])
    batch = images.transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        expected = trained.model.probabilities(torch.from_numpy(batch)).numpy()
    for size in (5, 1, 3):
        (given,) = session.run(None, {"image": batch[:size]})
        assert given == pytest.approx(expected[:size], abs=1e-4)
    assert emotion.main(["export", finished, "--output", "no/such/folder/model.onnx"]) == 1
    assert "no/such/folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--run", "RUN", "--data", "few"],
        ["export", "RUN"],
        ["register", "RUN"],
        ["explain", "RUN"],
        ["reproduce", "RUN"],
        ["fit", "ONE", "--resume", "RUN"],
        ["fit", "ONE", "--run.start_from", "RUN"],
        ["cross-validate", "TINY", "--folds", "2", "--resume", "RUN"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_a_deleted_run_is_named_in_one_sentence(
    finished: str,
    few_pictures: Path,
    one_run: tuple[str, ...],
    tiny: tuple[str, ...],
    capsys: Capture,
    words: list[str],
) -> None:
    MlflowClient(embedded_uri("mlruns")).delete_run(finished)
    meant = {"ONE": one_run, "TINY": tiny, "RUN": (finished,)}
    options = [option for word in words for option in meant.get(word, (word,))]
    assert emotion.main(options) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    restore = f"MLFLOW_TRACKING_URI={embedded_uri('mlruns')} mlflow runs restore --run-id {finished}"
    assert said == f"error: run: {finished} was deleted; restore it with {restore}, or name another run."


def test_register_makes_a_version_that_loads(finished: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for number in range(100):
        MlflowClient(embedded_uri("mlruns")).create_registered_model(f"a{number}")
    for version in (1, 2):
        assert emotion.main(["register", finished, "--name", "faces"]) == 0  # not on the first page of names
        assert f"faces version {version}" in capsys.readouterr().out
    uri = embedded_uri("mlruns")
    (newest,) = MlflowClient(uri).search_model_versions("name = 'faces' and version_number = 2")
    assert newest.run_id == finished
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        model = mlflow.onnx.load_model("models:/faces/2")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"image": np.zeros((2, 3, 32, 32), np.uint8)})
    assert given.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_reproduce_says_the_same_or_what_differs(finished: str, capsys: Capture) -> None:
    assert emotion.main(["reproduce", finished]) == 0
    said = capsys.readouterr().out
    assert "numbers: the same, image by image" in said
    assert "environment: the same" in said or "were not committed" in said  # the second while you edit
    assert len(find_runs()) == 2

    path = download(finished, "environment.json")
    then = json.loads(path.read_text())
    path.write_text(json.dumps(then | {"version_torch": "0.0", "git_commit": "0123456789"}))
    table = load_table(finished, "predictions")
    changed = table.assign(**{table.columns[-1]: table.iloc[:, -1]})
    probability = [name for name in table if name.startswith("prob_")]
    changed[probability] = table[probability].to_numpy()[:, ::-1]
    changed.to_parquet(download(finished, "tables/predictions.parquet"), index=False)
    assert emotion.main(["reproduce", finished]) == 1
    said = capsys.readouterr().out
    assert "version_torch: then 0.0, now " in said
    assert "git checkout 0123456789" in said
    assert "probabilities: differ by at most" in said
