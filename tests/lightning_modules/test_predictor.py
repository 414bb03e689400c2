"""A model of face crops finds and cuts the faces of photographs itself, as its training images were cut."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import emotion
from datamodules.faces.detectors import open_detector
from datamodules.files.images import decode
from datamodules.readers import ReadOptions, read
from emotion.explanation.explainer import load
from lightning_modules.predictor import TorchMember, find_model_run
from results.tracking.logger import TrackingLogger
from results.tracking.runs import download, find_runs

SCENES = "scenes:images=24,size=192,classes=happy+sad+angry,others=0,distractors=0"
FIT = (
    *("--split", "holdout", "--trainer.max_epochs", "1", "--model.backbone", "test_resnet", "--model.weights", "none"),
    *("--data.size", "32", "--data.batch_size", "16", "--trainer.accelerator", "cpu", "--run.resamples", "100"),
    *("--trainer.enable_progress_bar", "false"),
)
Capture = pytest.CaptureFixture[str]

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def _without_traces(patch: pytest.MonkeyPatch) -> None:
    """Remove what a command leaves in the environment of its process, now and at the end."""
    for name in ("EMOTION_RUN_ID", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        patch.setenv(name, "")
        patch.delenv(name)


def _train(folder: Path, *words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        _without_traces(patch)
        patch.chdir(folder)
        assert emotion.main(["fit", *words, *FIT]) == 0
        return str(find_runs().iloc[0]["run_id"])


@pytest.fixture(scope="module")
def crop_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was trained on faces cut at the boxes of its data set."""
    folder = tmp_path_factory.mktemp("boxes")
    return folder, _train(folder, "--data", SCENES, "--data.read.faces", "boxes", "--data.read.face_margin", "0.4")


@pytest.fixture
def run(crop_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same in a copy of its folder, beside an album of three photographs."""
    folder, run_id = crop_run
    _without_traces(monkeypatch)
    shutil.copytree(folder / "mlruns", tmp_path / "here" / "mlruns")
    monkeypatch.chdir(tmp_path / "here")
    _album(Path("album"))
    return run_id


def _album(folder: Path) -> None:
    """Copy three photographs in which Haar finds a face."""
    scenes = "scenes:images=8,size=320,seed=3,classes=happy+sad,others=0,distractors=0"
    photographs, faces = read(scenes), read(scenes, ReadOptions(faces="haar")).table["face"]
    folder.mkdir()
    for number, row in enumerate(faces.index[faces == "face"][:3]):
        shutil.copy(photographs.file(row), folder / f"photo_{number}.jpg")


def _refused(capsys: Capture, *words: str) -> str:
    """Return the one line of error that a command ends with."""
    capsys.readouterr()
    assert emotion.main(list(words)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def _named_commands(message: str) -> Sequence[list[str]]:
    return [shlex.split(words)[1:] for words in re.findall(r"`(emotion [^`]*)`", message)]


def _predicted(*words: str) -> pd.DataFrame:
    assert emotion.main(["predict", *words, "--output", "answers.parquet"]) == 0
    return pd.read_parquet("answers.parquet")


def _probabilities(table: pd.DataFrame) -> np.ndarray:
    return table.filter(like="prob_").to_numpy(float)


def test_photographs_are_cut_as_prepared_crops_are(run: str, capsys: Capture) -> None:
    message = _refused(capsys, "predict", run, "album", "--output", "none.csv")
    assert "faces cut at the boxes of its data set, which photographs do not have; name a detector with" in message
    assert not Path("none.csv").exists()
    answers = _predicted(run, "album", "--faces", "haar")
    assert answers[["x0", "y0", "x1", "y1", "confidence"]].notna().all().all()
    assert (answers.groupby("path")["face"].min() == 0).all()

    prepare = ["data", "prepare", "--faces", "haar", "--margin", "0.4", "--unlabelled", "--data", "album"]
    assert emotion.main([*prepare, "--output", "album-faces"]) == 0
    largest = answers[answers["face"] == 0]
    for crops in ("album-faces/manifest.csv", "album-faces", "album-faces/faces/photo_1.jpg"):
        cut_before = _predicted("--run", run, "--data", crops)  # needs no detector
        assert cut_before["path"].str.contains("album-faces/faces/photo_").all()
        assert cut_before["x0"].isna().all()
        names = {Path(path).stem for path in cut_before["path"]}
        same = largest[largest["path"].map(lambda path: Path(path).stem).isin(names)]
        assert _probabilities(cut_before) == pytest.approx(_probabilities(same), abs=1e-6)


@pytest.mark.parametrize("source", ["photo one.jpg", "list.csv", "nested", "album/*.jpg", "album.zip"])
def test_every_kind_of_source_gives_the_same_answers(run: str, source: str) -> None:
    expected = _predicted(run, "album", "--faces", "haar")
    if source == "list.csv":
        pd.DataFrame({"path": [f"album/photo_{number}.jpg" for number in range(3)], "label": "?"}).to_csv(source)
    elif source == "nested":
        shutil.copytree("album", "nested/2024/summer")
    elif source == "album.zip":
        shutil.make_archive("album", "zip", ".", "album")
    elif source == "photo one.jpg":
        shutil.copy("album/photo_0.jpg", source)
        expected = expected[expected["path"].str.endswith("photo_0.jpg")]
    answers = _predicted(run, source, "--faces", "haar")
    assert _probabilities(answers) == pytest.approx(_probabilities(expected), abs=1e-6)


def test_a_photograph_without_a_face_gets_a_note_and_no_answer(run: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save("album/noise.png")
    answers = _predicted(run, "album", "--faces", "haar")
    (row,) = answers[answers["path"].str.endswith("noise.png")].to_dict("records")
    assert (row["label"], row["note"]) == ("", "no face found")
    assert np.isnan(row["confidence"])

    prepare = ["data", "prepare", "--faces", "haar", "--unlabelled", "--data", "album", "--output", "crops"]
    assert emotion.main([*prepare, "--no-face", "keep"]) == 0
    for source in ("crops/manifest.csv", "crops"):  # a photograph that was kept whole is no crop
        answers = _predicted(run, source, "--faces", "haar")
        (row,) = answers[answers["path"].str.contains("noise")].to_dict("records")
        assert row["note"] == "no face found"
    table = pd.read_csv("crops/manifest.csv")
    mine = table.loc[table["face"] == "face", ["path"]]
    mine["path"] = "crops/" + mine["path"]
    mine.to_csv("mine.csv", index=False)  # a table of one's own that lists crops
    assert emotion.main(["predict", run, "mine.csv"]) == 0


def test_several_and_small_faces_are_noted(run: str) -> None:
    photographs, detector = read("scenes:images=16,size=400,seed=0"), open_detector("haar")
    files = [photographs.file(row) for row in range(16)]
    crowd = next(file for file in files if len(detector.detect([decode(file)])[0].boxes) > 1)
    both = _predicted(run, str(crowd), "--faces", "haar")
    assert list(both["face"]) == list(range(len(both)))
    assert len(both) >= 2
    assert both["note"].str.contains(f"{len(both)} faces").all()
    sides = (both["x1"] - both["x0"]).to_numpy()
    assert (np.diff(sides) <= 0).all()  # the largest first
    assert (both["note"].str.contains("small face") == (sides < 32)).all()


def test_a_detector_that_is_not_there_or_was_changed(run: str, capsys: Capture) -> None:
    content = torch.load(download(run, "checkpoint/best.ckpt"), weights_only=True)
    faces = content["EmotionDataModule"]["faces"]
    for finder, digest, complaint in (
        ("gone.onnx", "", "cut by gone.onnx, which does not exist here; name a detector with --faces haar"),
        ("yunet:FILE", "", "its record does not name the file; name a detector with"),
        ("other.onnx", "0" * 16, "file other.onnx has changed since other.ckpt was trained"),
    ):
        Path("other.onnx").write_bytes(b"another file")
        faces |= {"finder": finder, "digest": digest}
        torch.save(content, "other.ckpt")
        assert complaint in _refused(capsys, "predict", "other.ckpt", "album")
    assert "faces: cannot read the detector's file none.onnx" in _refused(
        capsys, "predict", run, "album", "--faces", "none.onnx"
    )


def test_no_run_reports_on_photographs_that_the_model_has_seen_cut_in_another_way(run: str, capsys: Capture) -> None:
    crops = ["--data", SCENES, "--data.read.faces", "boxes", "--data.read.face_margin", "0.2"]
    message = _refused(capsys, "fit", *crops, *FIT, "--data.fold_seed", "1", "--run.start_from", run)
    assert f"run.start_from: {run} was trained or selected on" in message


def test_an_exported_model_cuts_faces_as_the_run_does(run: str) -> None:
    assert emotion.main(["export", run, "--output", "model.onnx"]) == 0
    by_run = _predicted(run, "album", "--faces", "haar")
    by_file = _predicted("model.onnx", "album", "--faces", "haar")
    assert _probabilities(by_file) == pytest.approx(_probabilities(by_run), abs=1e-4)
    assert by_file[["path", "face", "x0"]].equals(by_run[["path", "face", "x0"]])


def test_the_data_of_the_run_is_evaluated_as_before(run: str) -> None:
    assert emotion.main(["test", "--run", run]) == 0


def test_a_checkpoint_without_the_record_loads_as_before(run: str) -> None:
    content = torch.load(download(run, "checkpoint/best.ckpt"), weights_only=True)
    recorded = {"finder": "boxes", "size": 500, "margin": 0.4, "digest": "", "cut": "largest reflect"}
    assert content["EmotionDataModule"].pop("faces") == recorded
    torch.save(content, "old.ckpt")
    assert emotion.main(["predict", "--checkpoint", "old.ckpt", "--data", "album"]) == 0


@pytest.mark.usefixtures("run")
def test_a_prepared_manifest_makes_a_model_of_face_crops() -> None:
    cut = ["--faces", "haar", "--margin", "0.1", "--size", "64", "--rule", "central", "--no-face", "keep"]
    assert emotion.main(["data", "prepare", "--data", SCENES, *cut, "--output", "../crops"]) == 0
    _train(Path.cwd(), "--data", "../crops/manifest.csv")
    checkpoint = download(find_runs().iloc[0]["run_id"], "checkpoint/best.ckpt")
    recorded = torch.load(checkpoint, weights_only=True)["EmotionDataModule"]["faces"]
    assert recorded == {"finder": "haar", "size": 64, "margin": 0.1, "digest": "", "cut": "central reflect"}

    answers = _predicted("latest", "album")  # the detector of the run
    largest_first = answers[answers["face"] == 0]
    crops = ["data", "prepare", *cut[:8], "--unlabelled", "--data", "album", "--output", "album-faces"]
    assert emotion.main(crops) == 0
    assert _probabilities(_predicted("latest", "album-faces")) == pytest.approx(_probabilities(largest_first), abs=1e-6)


def test_what_is_done_is_kept_when_it_is_interrupted(
    run: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = TorchMember.probabilities, []

    def second_is_interrupted(self: TorchMember, images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(self, images)

    monkeypatch.setattr(TorchMember, "probabilities", second_is_interrupted)
    words = ["predict", run, "album", "--faces", "haar", "--batch-size", "1", "--output", "some.csv"]
    assert emotion.main(words) == 130
    assert "stopped after 1 rows, which are kept" in capsys.readouterr().err
    assert len(pd.read_csv("some.csv")) == 1


def test_networks_of_other_crops_are_not_averaged(run: str, capsys: Capture) -> None:
    content = torch.load(download(run, "checkpoint/best.ckpt"), weights_only=True)
    content["EmotionDataModule"]["faces"]["margin"] = 0.1
    torch.save(content, "other.ckpt")
    message = _refused(capsys, "predict", "--run", run, "other.ckpt", "--data", "album")
    assert "networks cannot be averaged whose images were prepared differently" in message


def test_faces_of_photographs_are_explained_as_they_are_predicted(run: str, capsys: Capture) -> None:
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save("album/empty.png")
    words = ["--method", "integrated-gradients", "--steps", "2", "--superpixels", "12", "--samples", "20"]
    words += ["--seeds", "0", "--resamples", "100", "--permutations", "99", "--out", "why", "--not-kept"]
    assert "name a detector with --faces" in _refused(capsys, "explain", run, "--paths", "album", *words)
    assert "finds faces without landmarks" in _refused(capsys, "explain", run, "--faces", "haar", *words)
    assert "no face found" in _refused(capsys, "explain", run, "--paths", "album/empty.png", "--faces", "haar", *words)

    emotion.main(["explain", run, "--paths", "album", "--faces", "haar", *words])  # its status is the verdict
    printed = "".join(capsys.readouterr())
    assert "album/empty.png is left out: no face found" in printed
    assert "error:" not in printed
    explained = load(Path("why")).table
    answers = _predicted(run, "album", "--faces", "haar")
    answers = answers[answers["note"] != "no face found"]
    assert _probabilities(explained) == pytest.approx(_probabilities(answers), abs=1e-6)
    several = answers["path"].duplicated(keep=False)
    named = answers["path"].where(~several, answers["path"] + " (face " + answers["face"].astype(str) + ")")
    assert explained["path"].tolist() == named.tolist()


def test_latest_is_the_newest_that_finished_and_of_a_cross_validation_the_whole(workplace: Path) -> None:
    def logged(status: str, parent: str | None = None, **tags: str) -> str:
        logger = TrackingLogger(run_name="a run", parent_run_id=parent, tags=tags, system_metrics=False)
        logger.open()
        logger.finalize(status)
        return str(logger.run_id)

    parent = logged("success", kind="cross-validation")
    logged("success", parent)
    assert find_model_run("latest") == parent
    alone = logged("success")
    logged("success", kind="evaluation")
    logged("failed")
    assert find_model_run("latest") == alone
