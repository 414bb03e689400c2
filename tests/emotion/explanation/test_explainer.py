"""`emotion explain` on a cross-validation of two untrained networks, so that whose answer it is can be told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import nn

import emotion
from datamodules.errors import InputError
from datamodules.files.images import content_hash, decode, default_pixel_limit
from datamodules.manifest import Manifest
from datamodules.readers import read
from datamodules.synthetic import draw, parse_spec
from datamodules.synthetic.files import write_png
from emotion.explanation import explainer
from emotion.explanation.explainer import Explainer, Source, held_out_inputs, load
from emotion.explanation.methods import MethodOptions, Network, explain_image
from emotion.explanation.select import FoldNetworks, HeldOutPredictions
from emotion.explanation.superpixels import superpixels
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.predictor import load_trained
from results.predictions import build_predictions, join_folds
from results.tracking.logger import TrackingLogger
from results.tracking.runs import download, find_runs
from results.tracking.store import embedded_uri

SOURCE = "drawn:largest=8,ratio=1,size=32,classes=happy+sad+angry"
QUICK = ("--superpixels", "20", "--samples", "30", "--seeds", "0", "--resamples", "100", "--permutations", "99")
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def untrained(seed: int, images: np.ndarray, classes: tuple[str, ...]) -> EmotionClassifier:
    """A network whose answers differ from image to image, and from those of another seed."""
    torch.manual_seed(seed)
    model = EmotionClassifier(list(classes), "test_resnet", "none").eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        spread = logits.std(0) / 2
        last = next(one for one in model.head.modules() if isinstance(one, nn.Linear))
        last.weight.div_(spread[:, None])
        last.bias.sub_(logits.mean(0)).div_(spread)
    return model


def leave_run(manifest: Manifest, images: np.ndarray, fold: int, parent: str | None) -> tuple[str, pd.DataFrame]:
    """Leave what a run of one fold leaves: config, checkpoint and two tables."""
    rows = np.flatnonzero(np.arange(len(manifest)) % 2 == fold)
    model = untrained(fold, images, manifest.classes)
    with torch.no_grad():
        found = model.probabilities(torch.from_numpy(images[rows]).permute(0, 3, 1, 2)).numpy()
    contents = [content_hash(decode(manifest.file(row))) for row in range(len(manifest))]
    table = build_predictions(manifest, rows, found, fold=fold, clusters=np.arange(len(manifest)), contents=contents)
    others = np.setdiff1d(np.arange(len(manifest)), rows)
    split = pd.concat(
        [pd.DataFrame({"fold": fold, "row": part, "role": role, "is_copy": False})
         for role, part in (("train", others), ("test", rows))]
    )  # fmt: skip
    logger = TrackingLogger(run_name=f"fold {fold}", parent_run_id=parent, system_metrics=False)
    init = {"source": SOURCE, "size": 32, "fit": "crop", "read": {"votes": "ignore"}}
    logger.log_text(yaml.safe_dump({"data": {"class_path": "EmotionDataModule", "init_args": init}}), "config.yaml")
    checkpoint = {"state_dict": model.state_dict(), "classifier": model.plain, "format": 2}
    torch.save(checkpoint | {"EmotionDataModule": {"size": 32, "fit": "crop"}}, "best.ckpt")
    logger.log_file("best.ckpt", "checkpoint")
    logger.log_table(table, "predictions")
    logger.log_table(split, "split")
    logger.finalize()
    return str(logger.run_id), table


@pytest.fixture(scope="module")
def _left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        manifest = read(SOURCE)
        images = np.stack([decode(manifest.file(row)) for row in range(len(manifest))])
        parent = TrackingLogger(run_name="cv", system_metrics=False, tags={"kind": "cross-validation"})
        parent_id = str(parent.run_id)
        members = [leave_run(manifest, images, fold, parent_id) for fold in (0, 1)]
        parent.log_table(join_folds([table for _, table in members]), "predictions")
        parent.log_table(pd.DataFrame({"seed": 0, "fold": [0, 1], "run_id": [one for one, _ in members]}), "folds")
        parent.finalize()
        Path("mlruns").rename("kept")  # or a file that a copy lacks would be found where the store remembers it
        return folder, parent_id, tuple(one for one, _ in members)


@pytest.fixture
def runs(_left: tuple[Path, str, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The parent and its folds, in a copy of their folder, which is the current one."""
    folder, parent, members = _left
    shutil.copytree(folder / "kept", tmp_path / "mlruns")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return parent, *members


def fails(capsys: Capture, *words: str) -> str:
    capsys.readouterr()
    assert emotion.main(["explain", *words]) == 1
    return capsys.readouterr().err


def explain(folder: Path | str, *words: str) -> None:
    """Explain into a folder; the exit status is the verdict of the report there."""
    status = emotion.main(["explain", *words])
    assert status == int(not Path(folder, "report.md").read_text(encoding="utf-8").startswith("**HOLDS"))


@pytest.mark.parametrize("holds", [True, False])
def test_the_exit_status_is_the_verdict(runs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, holds: bool) -> None:
    monkeypatch.setattr("emotion.explanation.report.verdict", lambda *_: (holds, "HOLDS so" if holds else "FAILS so"))
    words = ["--images", "1", "--method", "integrated-gradients", "--steps", "2", *QUICK, "--not-kept", "--out", "here"]
    assert emotion.main(["explain", runs[1], *words]) == int(not holds)


def test_what_the_store_cannot_take_waits_for_sync(
    runs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def away(*_: object) -> None:
        msg = "connection refused"
        raise MlflowException(msg)

    with monkeypatch.context() as patch:
        patch.setattr("results.tracking.runs.send_all", away)
        explain("here", runs[1], "--images", "1", "--method", "grad-cam", *QUICK, "--out", "here")
    said = capsys.readouterr().out
    assert f"not stored with run {runs[1][:8]} yet: the tracking store does not answer (connection refused)" in said
    client = MlflowClient(embedded_uri("mlruns"))
    assert client.list_artifacts(runs[1], "explain") == []
    assert emotion.main(["sync"]) == 0
    kept = {Path(one.path).name for one in client.list_artifacts(runs[1], "explain/grad-cam")}
    assert {"report.html", "table.csv"} <= kept
    run = client.get_run(runs[1])
    assert "explain/grad-cam/holds" in run.data.metrics
    assert run.info.status == "FINISHED"


def test_every_image_is_explained_by_the_fold_that_held_it_out(runs: tuple[str, ...], capsys: Capture) -> None:
    words = ["--images", "2", "--by", "gender", "--method", "lime", *QUICK, "--log-pictures"]
    folder = Path(f"explain-{runs[0][:8]}-lime")
    explain(folder, runs[0][:8], *words)
    said = capsys.readouterr().out
    found = load(folder)

    assert f"run cv [{runs[0][:8]}], backbone test_resnet" in said
    assert f"{len(found)} images explained by lime" in said
    assert set(found.table["fold"]) == {0, 1}
    assert (found.table["row"] % 2 == found.table["fold"]).all()
    assert (found.table["label"] == found.table["predicted"]).all()
    models = [load_trained(download(run, "checkpoint/best.ckpt")).model for run in runs[1:]]
    networks = [Network(model, model.probabilities, model.backbone) for model in models]
    options = MethodOptions(superpixels=20, samples=30)
    for place in range(len(found)):
        fold, row = int(found.table["fold"].iloc[place]), int(found.table["row"].iloc[place])
        given = (found.images[place], found.segments[place], int(found.target[place]), row, options)
        assert found.maps[place] == pytest.approx(explain_image(networks[fold], *given)[0], abs=1e-6)
        assert not np.allclose(found.maps[place], explain_image(networks[1 - fold], *given)[0], atol=1e-4)

    spec = parse_spec(SOURCE)
    assert found.masks is not None
    for place, path in enumerate(found.table["path"]):
        face = draw(spec, int(Path(path).stem))
        assert np.array_equal(found.images[place], face.image)
        assert found.landmarks[place] == pytest.approx(face.landmarks, abs=0.02)
        masks = face.masks
        assert np.array_equal(found.masks[place], masks["eyes"] | masks["brows"] | masks["nose"] | masks["mouth"])
    assert {"report.html", "report.md", "maps.npz", "table.csv"} <= {file.name for file in folder.iterdir()}
    assert not [file for file in Path().iterdir() if file.name.startswith(".explain")]

    client = MlflowClient(embedded_uri("mlruns"))
    kept = {Path(one.path).name for one in client.list_artifacts(runs[0], "explain/lime")}
    assert {"report.html", "table.csv", "maps.npz", "overlays.png"} <= kept
    assert "explain/lime/holds" in client.get_run(runs[0]).data.metrics
    assert client.get_run(runs[0]).info.status == "FINISHED"


def test_images_of_people_are_not_stored_by_default(runs: tuple[str, ...], capsys: Capture) -> None:
    explain("here", runs[1], "--images", "1", "--method", "grad-cam", *QUICK, "--out", "here")
    assert "layer layer4: 1 x 1 cells" in (said := capsys.readouterr()).out + said.err
    client = MlflowClient(embedded_uri("mlruns"))
    kept = {Path(one.path).name for one in client.list_artifacts(runs[1], "explain/grad-cam")}
    assert {"report.html", "table.csv"} <= kept
    assert not [name for name in kept if name.startswith("overlays") or name == "maps.npz"]
    assert Path("here", "overlays.png").is_file()
    words = ["--images", "1", *QUICK, "--method", "grad-cam", "--not-kept"]
    explain("here", runs[2], *words, "--out", "here")  # another explanation is replaced
    assert client.list_artifacts(runs[2], "explain") == []
    assert load(Path("here")).options["run"] == runs[2]
    Path("mine").mkdir()
    Path("mine", "letter.txt").write_text("dear")
    assert "mine exists and is not an explanation" in fails(capsys, runs[2], *words, "--out", "mine")
    assert Path("mine", "letter.txt").read_text() == "dear"


def test_checkpoints_of_other_folds_are_noticed(runs: tuple[str, ...], capsys: Capture) -> None:
    one, two = (download(run, "checkpoint/best.ckpt") for run in runs[1:])
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    said = fails(capsys, runs[0], "--images", "1", *QUICK)
    assert "from the prediction table" in said


def test_rows_that_no_fold_held_out_are_refused(runs: tuple[str, ...], capsys: Capture) -> None:
    words = [
        "--method",
        "integrated-gradients",
        "--steps",
        "2",
        "--target",
        "sad",
        *QUICK,
        "--not-kept",
        "--out",
        "rows",
    ]
    explain("rows", runs[0], "--rows", "5", "2", *words)
    found = load(Path("rows"))
    assert found.table["row"].tolist() == [5, 2]
    assert found.table["fold"].tolist() == [1, 0]
    assert found.target.tolist() == [found.classes.index("sad")] * 2
    assert found.options["target"] == "sad"

    said = fails(capsys, runs[1], "--rows", "2", "5", *QUICK)
    assert "must be rows that a fold held out, got 5 (it is in the train part of fold 0)" in said
    assert "must be rows that a fold held out, got 500;" in fails(capsys, runs[0], "--rows", "500", *QUICK)


def test_paths_of_the_data_and_new_images(runs: tuple[str, ...], capsys: Capture) -> None:
    manifest = read(SOURCE)
    path = manifest.table["path"].iloc[3]
    shutil.copy(manifest.file(4), "copy.png")
    write_png(Path("new.png"), draw(parse_spec("drawn:size=48,seed=9"), 0).image)
    words = ["--method", "integrated-gradients", "--steps", "2", *QUICK, "--not-kept", "--out", "paths"]

    explain("paths", runs[0], "--paths", path, "copy.png", *words)
    assert load(Path("paths")).table["row"].tolist() == [3, 4]  # the copy is the image it is a copy of
    capsys.readouterr()
    explain("paths", runs[0], "--paths", "new.png", "--fold", "1", *words)
    assert "1 new images, which no fold held out, explained by fold 1's checkpoint" in capsys.readouterr().out
    table = load(Path("paths")).table
    assert (table["fold"].item(), table["row"].item(), table["label"].item()) == (1, -1, "")
    assert table["predicted"].item() in manifest.classes

    assert "must be a fold of the run (0, 1), got 7" in fails(
        capsys, runs[0], "--paths", "new.png", "--fold", "7", *words
    )
    assert "explain the new ones separately" in fails(capsys, runs[0], "--paths", "new.png", "copy.png", *words)
    assert "--fold: is only for new images, got 1" in fails(capsys, runs[0], "--paths", path, "--fold", "1", *words)
    assert "gone.png is not an image of the run's data" in fails(capsys, runs[0], "--paths", "gone.png", *words)
    assert "must be rows that a fold held out, got 3" in fails(
        capsys, runs[1], "--paths", str(manifest.file(3)), *words
    )


def test_what_is_wrong_is_said(runs: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, zero, _ = runs
    assert "got 'gradcam'; did you mean grad-cam" in fails(capsys, parent, "--method", "gradcam")
    assert "got 'happi'; did you mean happy" in fails(capsys, parent, "--target", "happi", *QUICK)
    assert "got 'correkt'; did you mean correct" in fails(capsys, parent, "--answers", "correkt", *QUICK)
    assert "50 superpixels needs at least 52, got 40" in fails(capsys, parent, "--samples", "40")
    assert "32 x 32 = 1024, got 1025" in fails(capsys, parent, "--superpixels", "1025", "--samples", "2000")
    assert "no column 'agee' to group by; did you mean age" in fails(capsys, parent, "--by", "agee", *QUICK)
    assert "haar finds faces without landmarks" in fails(capsys, parent, "--faces", "haar", *QUICK)
    assert "--rows and --paths: only one of them" in fails(capsys, parent, "--rows", "1", "--paths", "a.png", *QUICK)
    assert "--seeds: must be at least 0, got -1" in fails(capsys, parent, *QUICK, "--seeds", "-1")
    assert "--images: must be at least 1, got 0" in fails(capsys, parent, *QUICK, "--images", "0")
    Path("taken").mkdir()
    Path("taken", "mine.txt").write_text("mine")
    with monkeypatch.context() as early:  # before minutes are spent on explaining
        early.setattr(explainer, "FoldNetworks", lambda _: pytest.fail("the folder is looked at first"))
        assert "taken exists and is not an explanation" in fails(capsys, parent, "--out", "taken", *QUICK)
    other = SOURCE.replace("happy+sad+angry", "happy+sad+fear")
    assert "was trained on the classes angry, happy, sad; the data has fear, happy, sad" in fails(
        capsys, parent, "--data", other, *QUICK
    )
    assert "its rows are other images" in fails(
        capsys, parent, "--data", SOURCE.replace("largest=8", "largest=7"), *QUICK
    )
    changed = SOURCE + ",seed=3"  # the same names, other faces
    assert "images changed after run 'cv' was evaluated" in fails(capsys, parent, "--data", changed, *QUICK)

    table = download(zero, "tables/predictions.parquet")
    wrong = pd.read_parquet(table)
    wrong["predicted"] = wrong["label"].map({"happy": "sad", "sad": "happy", "angry": "happy"})
    wrong.to_parquet(table)
    assert "none of the 12 held-out images was predicted correctly" in fails(capsys, zero, *QUICK)

    shutil.copy(table, "kept.parquet")
    checkpoint = download(zero, "checkpoint/best.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    content["classifier"]["classes"] = ["happy", "sad", "fear"]
    torch.save(content, checkpoint)
    said = fails(capsys, parent, *QUICK)
    assert "the checkpoint of fold 0 was trained on the classes happy, sad, fear" in said
    checkpoint.unlink()
    assert f"fold 0 (run {zero[:8]}) has no checkpoint" in fails(capsys, parent, *QUICK)
    table.unlink()
    assert "'fold 0' (FINISHED) has no prediction table" in fails(capsys, zero, *QUICK)
    assert len(find_runs()) == 3  # it makes no run
    assert not list(Path().glob("explain-*"))


def test_again_and_probabilities_are_of_the_same_images_and_folds(runs: tuple[str, ...]) -> None:
    held = HeldOutPredictions.of(runs[0])
    networks = FoldNetworks(held)
    table = held.predictions.iloc[[0, 1, 6]].reset_index(drop=True)
    inputs, notes = held_out_inputs(networks, Source(*held.manifest()), table, "predicted", None)
    options = MethodOptions(superpixels=20, samples=30, seed=4)
    explainer = Explainer(inputs, networks, options, superpixels(inputs.images, 20), progress=False)
    found = explainer.explain({})

    assert notes == []
    assert explainer.repeat("lime", 4) == pytest.approx(found.explained.maps, abs=1e-7)
    assert not np.allclose(explainer.repeat("lime", 5), found.explained.maps)
    assert explainer.repeat("kernel-shap", 4).shape == found.explained.maps.shape
    with pytest.raises(InputError, match="--method: must be one of"):
        explainer.repeat("guess", 0)
    own = table[[f"prob_{name}" for name in held.classes]].to_numpy()
    rows = np.array([2, 0, 1])
    assert explainer.probabilities(inputs.images[rows], rows) == pytest.approx(own[rows], abs=1e-5)
    mixed = explainer.probabilities(inputs.images[[0, 0]], np.array([0, 1]))
    assert mixed[0] == pytest.approx(own[0], abs=1e-5)
    assert not np.allclose(mixed[0], mixed[1], atol=1e-3)
    assert json.dumps(found.explained.options)


def test_images_are_decoded_with_the_limit_of_the_training(
    runs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    stored = {"data": {"source": SOURCE, "pixel_limit": 77}}
    monkeypatch.setattr("results.run_images.run_config", lambda run, **_: stored)
    monkeypatch.setattr(explainer, "_explain_run", lambda *options: limits.append(default_pixel_limit()) or 0)
    assert emotion.main(["explain", runs[0]]) == 0
    assert limits == [77]
