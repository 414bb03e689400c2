"""`emotion evaluate`: trained models on other labelled data sets."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.metrics import f1_score

OTHER = "drawn:largest=12,ratio=1,size=40,seed=5,classes=happy+sad+angry"


def evaluation(emotion: Any) -> str:
    return str(emotion.runs("tags.kind = 'evaluation'")[0].info.run_id)


def test_shared_classes_are_scored_in_a_tracked_run(emotion: Any, fitted: str) -> None:
    done = emotion("evaluate", fitted, "--data", OTHER, "--degrade", "dark", "noise", "--resamples", "100")
    assert "classes of the model that the data set does not have, which are not scored: disgust" in done.err
    run_id = evaluation(emotion)
    table, split = emotion.table(run_id, "predictions"), emotion.table(run_id, "split")
    assert len(table) == 36
    assert set(split["role"]) == {"test"}
    names = [name for name in table if name.startswith("prob_")]
    assert set(names) == {"prob_angry", "prob_happy", "prob_sad"}
    assert table[names].sum(axis=1).to_numpy() == pytest.approx(1)
    score = f1_score(table["label"], table["predicted"], average="macro", zero_division=0)
    assert float(re.search(r"macro F1 +([\d.]+)", done.out)[1]) == pytest.approx(score, abs=5e-4)  # type: ignore[index]
    assert emotion.summary(run_id)["test/f1_macro"] == pytest.approx(score)
    degraded = emotion.table(run_id, "degraded")
    assert set(degraded["degraded"]) == {"dark", "noise"}
    assert (degraded["value"] - degraded["as_they_are"]).to_numpy() == pytest.approx(degraded["difference"].to_numpy())
    assert emotion.client.get_run(run_id).data.tags["model_runs"] == fitted

    emotion("report", "bias", run_id, "--by", "age", "--not-kept", "--resamples", "100", "--permutations", "99")
    certificate = emotion("report", "certify", run_id, status=None).out
    assert "✓ what is selected on is not what is reported" in certificate
    failed = [line for line in certificate.splitlines() if line.startswith("✗")]
    assert all("the code is a commit" in line for line in failed)  # it fails while files are not committed
    (error,) = emotion("predict", run_id, "x.png", status=1).errors
    assert f"is an evaluation, which has no model; name what it evaluated: {fitted}" in error


def test_images_that_the_model_has_seen_are_refused_or_marked(emotion: Any, fitted: str, drawn: str) -> None:
    (error,) = emotion("evaluate", fitted, "--data", drawn, status=1).errors
    seen = len(emotion.rows(fitted, "train")) + len(emotion.rows(fitted, "val"))
    assert f"was trained or selected on {seen} of the " in error
    assert len(emotion.runs()) == 1
    shown = emotion("evaluate", fitted, "--data", drawn, "--allow-seen", "--resamples", "100").out
    assert f"protocol: {seen} images seen in training" in shown
    table, stored = emotion.table(evaluation(emotion), "predictions"), emotion.table(fitted, "predictions")
    assert (table["seen"] == "yes").sum() == seen
    certificate = emotion("report", "certify", evaluation(emotion), status=1).out
    assert f"{seen} images that the model was trained or selected on" in certificate
    names = [name for name in stored if name.startswith("prob_")]
    held_out = table.set_index("row").loc[stored["row"]]
    assert held_out[names].to_numpy() == pytest.approx(stored[names].to_numpy(), abs=1e-6)


def test_one_part_of_a_data_set_is_scored(emotion: Any, fitted: str) -> None:
    emotion("data", "prepare", "--data", OTHER, "--output", "other.csv")
    table = pd.read_csv("other.csv", dtype=str)
    table["split"] = ["test" if number % 3 == 0 else "train" for number in range(len(table))]
    table.to_csv("other.csv", index=False)
    emotion("evaluate", fitted, "--data", "other.csv", "--part", "test", "--resamples", "100")
    scored = emotion.table(evaluation(emotion), "predictions")
    assert set(scored["path"]) == set(table.loc[table["split"] == "test", "path"])
    certificate = emotion("report", "certify", evaluation(emotion), status=None).out
    assert "✓ images and labels are as many as the data set's" in certificate  # rows are those of the whole set


def test_near_duplicates_are_one_cluster(emotion: Any, fitted: str, faces: Path) -> None:
    files = sorted(faces.rglob("*.png"))[:9]
    for number, file in enumerate(files):
        folder = Path("others", ("happy", "sad", "angry")[number % 3])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.open(file).convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
        image.save(folder / f"{number}.png")
        image.save(folder / f"{number} again.jpg", quality=90)
    emotion("evaluate", fitted, "--data", "others", "--resamples", "100")
    table = emotion.table(evaluation(emotion), "predictions")
    assert len(table) == 18
    assert (table.groupby(table["path"].str.extract(r"(\d+)")[0])["cluster"].nunique() == 1).all()
    assert table["cluster"].nunique() > 1


def test_several_models_and_sets_print_a_matrix(emotion: Any, fitted: str) -> None:
    two = "drawn:largest=8,ratio=1,size=32,seed=7,classes=happy+sad"
    out = emotion("evaluate", fitted, "--data", OTHER, two, "--resamples", "100").out
    assert "macro F1\n" in out
    last = out.rstrip().splitlines()[-1]
    assert len(re.findall(r"0\.\d{3}", last)) == 2
    both = [emotion.table(run.info.run_id, "predictions") for run in emotion.runs("tags.kind = 'evaluation'")]
    assert sorted(map(len, both)) == [16, 36]


def test_what_cannot_be_scored(emotion: Any, fitted: str, faces: Path) -> None:
    one = "drawn:largest=8,ratio=1,size=32,classes=happy+sad"
    other = pd.DataFrame({"path": [path.name for path in sorted(faces.rglob("*.png"))[:4]], "label": ["aa", "bb"] * 2})
    for path in sorted(faces.rglob("*.png"))[:4]:
        path.rename(path.name)
    other.to_csv("other.csv", index=False)
    other.assign(label=["happy", "bored"] * 2).to_csv("one_class.csv", index=False)
    Path("empty").mkdir()
    for words, complaint in (
        (["--data", "other.csv"], "at least 2 classes must be shared"),
        (["--data", "empty"], "--data empty"),
        (["--data", "one_class.csv"], "at least 2 classes must be shared"),
        (["--data", one, "--part", "test"], "--part: must be a part of the data set"),
        (["--data", one, "--degrade", "blurr"], "did you mean blur?"),
        (["--data", one, "--faces", "haar"], "was trained on whole images"),
        (["--data", one, "--alias", "happy"], "--alias: must be NAME=CLASS"),
    ):
        (error,) = emotion("evaluate", fitted, *words, status=1).errors
        assert complaint in error
    assert len(emotion.runs()) == 1


def test_a_pixel_limit_other_than_in_training_is_recorded_and_its_effects_are_reported(
    emotion: Any, fitted: str
) -> None:
    for number, (label, side, ending) in enumerate(
        (("happy", 30, "png"), ("happy", 80, "jpg"), ("sad", 30, "png"), ("sad", 70, "jpg"), ("sad", 60, "png"))
    ):
        folder = Path("others", label)
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.{ending}")
    done = emotion("evaluate", fitted, "--data", "others", "--pixel-limit", "2000", "--resamples", "100")
    run = emotion.client.get_run(evaluation(emotion))
    for line in (
        r"1 of 5 images left out, the first \S+4\.png: .*larger than the pixel limit of 2,000: 60 x 60 is 3,600 pixels",
        r"2 of 4 images are above the limit of 2,000 pixels and are decoded smaller",
        r"the pixel limit is 2,000, in training it was 50,000,000: JPEG files between the two have another size",
    ):
        assert re.search(line, done.err)
        assert re.search(line, run.data.tags["left_out"])
    assert len(emotion.table(run.info.run_id, "predictions")) == 4
    assert yaml.safe_load(emotion.artifact(run.info.run_id, "evaluated.yaml").read_text())["pixel_limit"] == 2000

    done = emotion("evaluate", fitted, "--data", "others", "--resamples", "100")
    assert "pixel" not in done.err
    assert len(emotion.table(evaluation(emotion), "predictions")) == 5
