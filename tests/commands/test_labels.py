"""`emotion report labels` and `errors`, `--exclude`, and explanations of evaluations."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

SMALL = ("--superpixels", "20", "--samples", "30", "--seeds", "0", "--resamples", "100", "--permutations", "99")


def test_doubtful_labels_are_listed_and_left_out(emotion: Any, cross_validated: str, drawn: str) -> None:
    out = emotion("report", "labels", cross_validated, "--output", "doubtful.csv", "--out", "page", "--top", "4").out
    table = pd.read_csv("doubtful.csv")
    assert list(table.columns) == ["row", "path", "label", "suggested", "score"]
    predictions = emotion.table(cross_validated, "predictions").set_index("row")
    assert (predictions.loc[table["row"], "path"].to_numpy() == table["path"].to_numpy()).all()
    assert f"{len(table):,} of {len(predictions):,} labels are doubtful" in out
    page = Path("page/labels.html").read_text()
    assert page.count('src="file:///') == min(4, len(table))
    assert "data:image" not in page
    emotion("report", "labels", cross_validated, "--out", "embedded", "--embed-images", "--top", "4")
    assert Path("embedded/labels.html").read_text().count("data:image/png") == min(4, len(table))
    assert not list(Path("mlruns").rglob("labels.html"))  # the page stays in the folder
    voted = emotion("report", "labels", cross_validated, "--votes").out
    assert f"against the annotators: {len(predictions):,} images; annotators give " in voted
    assert re.search(r"first +other emotion +unclear +wrong\n", voted)

    some = table.groupby("label").head(2)  # of all that an untrained network doubts, so that no class is lost
    some.to_csv("some.csv", index=False)
    note = f"{len(some)} of {len(predictions)} images left out, which some.csv lists"
    assert note in emotion("data", "check", "--data", drawn, "--exclude", "some.csv", status=None).out
    assert note in emotion("data", "describe", "--data", drawn, "--data.read.exclude", "some.csv").out
    some.assign(path="gone.png").to_csv("unknown.csv", index=False)
    (error,) = emotion("data", "check", "--data", drawn, "--exclude", "unknown.csv", status=1).errors
    assert "'gone.png' (line 2)" in error


def test_fit_leaves_excluded_images_out(emotion: Any, store: Path, tiny: tuple[str, ...], drawn: str) -> None:
    emotion("data", "prepare", "--data", drawn, "--output", "all.csv")
    table = pd.read_csv("all.csv")
    table[["path"]].iloc[::10].to_csv("some.csv", index=False)
    done = emotion("fit", *tiny, "--exclude", "some.csv", "--trainer.max_epochs", "1")
    assert "images left out, which some.csv lists" in done.err
    (run,) = emotion.runs()
    used = emotion.table(run.info.run_id, "split")
    assert used["row"].max() < len(table) - len(table.iloc[::10])
    assert not set(emotion.table(run.info.run_id, "predictions")["path"]) & set(table["path"].iloc[::10])


def test_labels_of_a_run_that_held_out_a_part_are_refused(emotion: Any, cross_validated: str) -> None:
    (error,) = emotion("report", "labels", emotion.children(cross_validated)[0].info.run_id, status=1).errors
    assert re.search(r"labels can be judged where every image was held out by some fold; \d+ of \d+ images", error)
    for words, complaint in (
        (["--embed-images"], "--embed-images: needs --out"),
        (["--output", "nowhere/file.csv"], "--output: must be a file in a folder that exists"),
        (["--out", "page", "--data", "drawn:largest=9,ratio=1,size=32"], "--data: "),
    ):
        assert complaint in emotion("report", "labels", cross_validated, *words, status=1).errors[0]


def test_mistakes_are_shown_by_pair(emotion: Any, fitted: str) -> None:
    out = emotion("report", "errors", fitted, "--out", "page", "--each", "2").out
    predictions = emotion.table(fitted, "predictions")
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    assert f"{len(wrong)} of {len(predictions)} images are predicted wrongly" in out
    listed = pd.read_csv("page/errors.csv")
    assert set(listed["row"]) == set(wrong["row"])
    shown = wrong.groupby(["label", "predicted"]).size().clip(upper=2).sum()
    assert Path("page/errors.html").read_text().count('src="file:///') == shown


OTHER = "drawn:largest=12,ratio=1,size=40,seed=5"
EXPLAIN = ("--method", "integrated-gradients", "--steps", "2", "--images", "1", "--answers", "any", *SMALL)


def test_an_evaluation_is_explained_and_reported(emotion: Any, fitted: str) -> None:
    classes = [name for name in emotion.table(fitted, "predictions") if name.startswith("prob_")]
    names = [name.removeprefix("prob_") for name in classes]
    emotion("evaluate", fitted, "--data", OTHER, "--classes", *names, "--resamples", "100")
    whole = emotion.runs("tags.kind = 'evaluation'")[0].info.run_id
    done = emotion("explain", whole, *EXPLAIN, "--not-kept", "--out", "explained", status=None)
    assert done.errors == []
    table = pd.read_csv("explained/table.csv")
    stored = emotion.table(whole, "predictions").set_index("row")
    assert set(table["label"]) == set(names)
    assert (stored.loc[table["row"], "path"].to_numpy() == table["path"].to_numpy()).all()
    maps = np.load("explained/maps.npz")
    assert maps["masks"].any()  # of drawn faces, the pixels that show the emotion are known

    emotion("report", "errors", whole, "--out", "page")
    bias = emotion("report", "bias", whole, "--by", "age", "--resamples", "100", "--permutations", "99").out
    assert "the run is an evaluation, and trained nothing" in bias
    assert "Groups in the training data" not in bias
    emotion("report", "labels", whole)


def test_evaluations_that_cannot_be_explained(emotion: Any, cross_validated: str) -> None:
    fold = emotion.children(cross_validated)[0].info.run_id
    emotion("evaluate", fold, "--data", OTHER, "--classes", "happy", "sad", "--resamples", "100")
    (part,) = emotion.runs("tags.kind = 'evaluation'")
    (error,) = emotion("explain", part.info.run_id, *EXPLAIN, status=1).errors
    assert "only an evaluation of all classes of a model can be explained" in error
    emotion("evaluate", cross_validated, "--data", OTHER, "--classes", "happy", "sad", "--resamples", "100")
    mean = emotion.runs("tags.kind = 'evaluation'")[0].info.run_id
    (error,) = emotion("explain", mean, *EXPLAIN, status=1).errors
    assert "is an evaluation of several networks, whose mean cannot be explained; evaluate one of them" in error


@pytest.mark.slow  # trains three folds of 1,200 drawn faces: minutes on two cores
def test_planted_label_errors_are_found(emotion: Any, store: Path) -> None:
    """8 % of clear drawn faces have an exchanged label; at least half of the first fifty must be among them."""
    source = "drawn:largest=300,ratio=1,size=48,confusion=0,seed=3,classes=happy+sad+angry+surprise"
    emotion("data", "prepare", "--data", source, "--output", "clean.csv")
    table = pd.read_csv("clean.csv", keep_default_na=False)
    generator = np.random.default_rng(0)
    rows = generator.choice(len(table), round(0.08 * len(table)), replace=False)
    classes = sorted(table["label"].unique())
    for row in rows:
        table.loc[row, "label"] = generator.choice([name for name in classes if name != table.loc[row, "label"]])
    root = Path("clean.csv.json")
    table.to_csv("planted.csv", index=False)
    Path("planted.csv.json").write_text(root.read_text())
    options = ("--data.size", "48", "--data.batch_size", "32", "--trainer.max_epochs", "8")
    emotion("cross-validate", "--recipe", "baseline", "--data", "planted.csv", "--folds", "3", *options)
    (run,) = emotion.runs("tags.kind = 'cross-validation'")
    emotion("report", "labels", run.info.run_id, "--output", "doubtful.csv")
    first = pd.read_csv("doubtful.csv").head(50)
    found = first["row"].isin(rows).sum()
    print(f"{found} of the first {len(first)} are planted; {len(rows)} of {len(table)} labels were exchanged")
    assert found >= 25
