"""`emotion predict`: an image, a folder, a table; the same numbers as the evaluation of the run."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest


def probabilities(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name.startswith("prob_")]


def test_an_image_a_folder_and_a_table(emotion: Any, fitted: str, faces: Path) -> None:
    image = next(faces.rglob("*.png"))
    done = emotion("predict", "--run", fitted, "--data", str(image))
    (line,) = done.out.splitlines()
    assert line.split("\t")[0] == str(image)
    assert line.split("\t")[1] in set(emotion.table(fitted, "predictions")["label"])
    assert fitted[:8] in done.err

    emotion("predict", "--run", "latest", "--data", str(faces), "--output", "all.csv")
    folder = pd.read_csv("all.csv", keep_default_na=False)
    assert len(folder) == 20
    names = probabilities(folder)
    assert folder[names].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (folder[names].idxmax(axis=1) == "prob_" + folder["label"]).all()

    pd.DataFrame({"path": [str(image)]}).to_csv("table.csv", index=False)
    emotion("predict", "--run", fitted[:8], "--data", "table.csv", "--output", "one.parquet")
    one = pd.read_parquet("one.parquet")
    chosen = folder[folder["path"].map(lambda path: Path(path).name) == image.name]
    assert one[names].to_numpy(float) == pytest.approx(chosen[names].to_numpy(float), abs=1e-5)


def test_a_broken_file_is_named_and_the_others_are_predicted(emotion: Any, fitted: str, faces: Path) -> None:
    (faces / "sad" / "broken.png").write_text("no image")
    done = emotion("predict", "--run", fitted, "--data", str(faces), "--output", "all.csv", status=1)
    assert "broken.png" in done.err
    assert "Traceback" not in done.err
    table = pd.read_csv("all.csv", keep_default_na=False)
    assert len(table) == 21
    wrong = table["note"].str.startswith("error: ")
    assert [Path(path).name for path in table.loc[wrong, "path"]] == ["broken.png"]
    assert (table.loc[~wrong, "label"] != "").all()


def test_it_gives_the_probabilities_of_the_evaluation(emotion: Any, fitted: str, drawn: str) -> None:
    """Training reads images from the cache, prediction from their files: the numbers must be equal."""
    emotion("data", "prepare", "--data", drawn, "--output", "drawn.csv")
    done = emotion("predict", "--run", fitted, "--data", "drawn.csv", "--output", "again.parquet")
    seen = len(emotion.rows(fitted, "train") | emotion.rows(fitted, "val"))
    assert f"note: the model was trained or selected on {seen} of these images, so" in done.err
    table, again = emotion.table(fitted, "predictions"), pd.read_parquet("again.parquet")
    assert len(again) > len(table) > 50
    again = again.iloc[table["row"]]
    assert list(again["label"]) == list(table["predicted"])
    names = probabilities(table)
    assert again[names].to_numpy() == pytest.approx(table[names].to_numpy(), abs=1e-6)


@pytest.mark.parametrize(("command", "metric"), [("test", "test/f1_macro"), ("validate", "val/f1_macro")])
def test_evaluating_again_gives_the_numbers_of_the_run(emotion: Any, fitted: str, command: str, metric: str) -> None:
    done = emotion(command, "--run", fitted[:8])
    (shown,) = re.findall(rf" {metric} \D*([\d.]+)", done.out)
    assert float(shown) == pytest.approx(max(emotion.history(fitted, metric).values()), abs=1e-5)
    assert len(emotion.runs()) == 1  # it makes no run


def test_images_that_the_model_was_trained_on_are_no_test_part(emotion: Any, fitted: str) -> None:
    (error,) = emotion("test", "--run", fitted, "--data.fold", "1", status=1).errors
    assert f"--run: {fitted} was trained on " in error
    assert "score it with `emotion evaluate RUN --data DATA --allow-seen`" in error
    (error,) = emotion("validate", "--run", fitted, "--data.fold", "1", status=1).errors
    assert "of the " in error


def test_both_spellings_and_every_form_of_output_have_the_same_rows(emotion: Any, fitted: str, faces: Path) -> None:
    emotion("predict", fitted, str(faces), "--output", "all.csv")
    table = pd.read_csv("all.csv", keep_default_na=False)
    assert [*table.columns[:9], table.columns[-1]] == [
        *("path", "frame", "face", "x0", "y0", "x1", "y1", "label", "confidence", "note")
    ]
    printed = emotion("predict", "--run", fitted, "--data", str(faces), "--format", "jsonl").out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["path"] for row in rows] == list(table["path"])
    for name in probabilities(table):
        assert [row[name] for row in rows] == pytest.approx(table[name].to_numpy(), abs=1e-6)
    emotion("predict", fitted, str(faces / "happy"), str(faces / "*" / "*.png"), "--output", "some.json")
    some = pd.read_json("some.json")
    happy = table["path"].str.contains("/happy/")
    assert len(some) == len(table) + happy.sum()


def test_a_video_and_an_image_on_standard_input(
    emotion: Any, fitted: str, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [cv2.imread(str(path)) for path in sorted(faces.rglob("*.png"))[:6]]
    video = cv2.VideoWriter("faces.avi", cv2.VideoWriter_fourcc(*"MJPG"), 2.0, images[0].shape[1::-1])
    for image in images:
        video.write(image)
    video.release()
    emotion("predict", fitted, "faces.avi", "--output", "all.csv", "--draw", "drawn")
    table = pd.read_csv("all.csv")
    assert list(table["frame"]) == [0, 2, 4]  # one a second of two frames
    assert len(list(Path("drawn").glob("*.png"))) == 3
    emotion("predict", fitted, "faces.avi", "--every", "0.5", "--output", "all.csv")
    assert len(pd.read_csv("all.csv")) == 6

    file = next(faces.rglob("*.png"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    (row,) = json.loads(emotion("predict", fitted, "-", "--format", "json").out)
    (same,) = json.loads(emotion("predict", fitted, str(file), "--format", "json").out)
    assert row | {"path": str(file)} == same

    Path("none.mp4").write_bytes(b"no video")
    done = emotion("predict", fitted, str(file), "none.mp4", "--output", "kept.csv", status=1)
    assert "video none.mp4 has no frame that OpenCV can read" in done.err
    assert len(pd.read_csv("kept.csv")) == 2  # the answers before it are kept


def test_a_cross_validation_answers_by_the_mean_of_its_folds_and_out_of_fold(
    emotion: Any, tiny: tuple[str, ...], drawn: str
) -> None:
    emotion("cross-validate", *tiny, "--folds", "2", "--trainer.max_epochs", "1")
    parent = emotion.runs("tags.kind = 'cross-validation'")[0].info.run_id
    emotion("data", "prepare", "--data", drawn, "--output", "drawn.csv")
    assert (
        "--out-of-fold answers by the fold" in emotion("predict", parent, "drawn.csv", "--output", "mean.parquet").err
    )
    mean, names = pd.read_parquet("mean.parquet"), probabilities(pd.read_parquet("mean.parquet"))
    folds = []
    for run in emotion.children(parent):
        emotion("predict", run.info.run_id, "drawn.csv", "--output", "fold.parquet")
        folds.append(pd.read_parquet("fold.parquet")[names].to_numpy())
    assert mean[names].to_numpy() == pytest.approx(np.mean(folds, axis=0), abs=1e-6)

    done = emotion("predict", parent, "drawn.csv", "--out-of-fold", "--output", "out.parquet")
    assert "was trained or selected on" not in done.err
    out, stored = pd.read_parquet("out.parquet"), emotion.table(parent, "predictions")
    assert sorted(stored["row"]) == list(range(len(out)))
    answers = out.iloc[stored["row"]]
    assert answers[names].to_numpy() == pytest.approx(stored[names].to_numpy(), abs=1e-6)
    assert set(out["note"]) == {""}
    other = next(Path("mlruns").rglob("confusion_matrix.png"))
    (row,) = json.loads(emotion("predict", parent, str(other), "--out-of-fold", "--format", "json").out)
    assert row["note"] == "not among the images of the run"
    (error,) = emotion("predict", "latest", str(other), "--run", "nope", status=1).errors
    assert "nope" in error


def test_models_that_do_not_go_together(emotion: Any, fitted: str, tiny: tuple[str, ...]) -> None:
    two = "drawn:largest=20,ratio=1,size=32,classes=happy+sad"
    emotion("fit", *tiny, "--data", two, "--trainer.max_epochs", "1")
    other = emotion.runs()[0].info.run_id
    (error,) = emotion("predict", "--run", fitted, other, "--data", "x.png", status=1).errors
    assert "networks of other classes cannot be averaged" in error
    (error,) = emotion("predict", fitted, "x.png", "--faces", "haar", status=1).errors
    assert "was trained on whole images, so no faces are looked for" in error
    (error,) = emotion("predict", fitted, "x.png", "--out-of-fold", status=1).errors
    assert "--out-of-fold: needs the parent run of a cross-validation" in error
    (error,) = emotion("predict", "--run", fitted, fitted, "--data", "x.png", "--out-of-fold", status=1).errors
    assert "--out-of-fold: needs one run, a cross-validation" in error
    (error,) = emotion("predict", fitted, "x.png", "--engine", "onnxruntime", status=1).errors
    assert f"write one with `emotion export {fitted}`" in error


def test_an_onnx_file_gives_the_same_answers(emotion: Any, fitted: str, faces: Path) -> None:
    emotion("export", fitted, "--output", "model.onnx")
    emotion("predict", fitted, str(faces), "--output", "torch.parquet")
    emotion("predict", "model.onnx", str(faces), "--output", "onnx.parquet")
    by_torch, by_onnx = pd.read_parquet("torch.parquet"), pd.read_parquet("onnx.parquet")
    names = probabilities(by_torch)
    assert by_onnx[names].to_numpy() == pytest.approx(by_torch[names].to_numpy(), abs=1e-4)
    assert list(by_onnx["path"]) == list(by_torch["path"])
    Path("bad.onnx").write_bytes(b"no model")
    (error,) = emotion("predict", "bad.onnx", str(faces), status=1).errors
    assert "bad.onnx is not an ONNX model, or is damaged" in error


def test_a_soup_of_equal_weights_gives_the_same_answers(emotion: Any, fitted: str, faces: Path) -> None:
    assert "mean of 2 models" in emotion("soup", fitted, fitted, "--output", "soup.ckpt").out
    emotion("predict", fitted, str(faces), "--output", "run.parquet")
    emotion("predict", "soup.ckpt", str(faces), "--output", "soup.parquet")
    by_run, by_soup = pd.read_parquet("run.parquet"), pd.read_parquet("soup.parquet")
    names = probabilities(by_run)
    assert by_soup[names].to_numpy() == pytest.approx(by_run[names].to_numpy(), abs=1e-5)
    before = Path("soup.ckpt").read_bytes()
    (error,) = emotion("soup", fitted, fitted, "--output", "soup.ckpt", status=1).errors
    assert "--output: must be a file that does not exist yet, got 'soup.ckpt'; name another file" in error
    assert Path("soup.ckpt").read_bytes() == before


def test_an_onnx_file_of_another_version_is_refused(emotion: Any, fitted: str, faces: Path) -> None:
    emotion("export", fitted, "--output", "model.onnx")
    graph = onnx.load("model.onnx")
    about = {entry.key: entry.value for entry in graph.metadata_props}
    for changes, complaint in (
        ({"decode_policy": "0"}, "was exported by another version, which decoded images in another way (0, here"),
        ({"classes": None}, "was not written by `emotion export`"),
    ):
        kept = {name: value for name, value in (about | changes).items() if value is not None}
        onnx.helper.set_model_props(graph, kept)
        onnx.save(graph, "other.onnx")
        (error,) = emotion("predict", "other.onnx", str(faces), status=1).errors
        assert complaint in error


def test_places_that_cannot_be_written(emotion: Any, fitted: str, faces: Path) -> None:
    Path("file").write_text("")
    for words, complaint in (
        (["--output", "none/x.csv"], "--output: must be a file in a folder that exists"),
        (["--output", "x.txt"], "--output: must end in .csv, .json, .jsonl or .parquet"),
        (["--draw", "file"], "--draw: must be a folder that can be made"),
    ):
        (error,) = emotion("predict", fitted, str(faces), *words, status=1).errors
        assert complaint in error
