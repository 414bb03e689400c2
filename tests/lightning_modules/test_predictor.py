"""A model of face crops refuses whole photographs, and names the command that cuts the faces out of them."""

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
from datamodules.readers import ReadOptions, read
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
    pytest.mark.filterwarnings("ignore:transform_where is copies, but no class"),
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


def test_predict_names_a_command_that_works(run: str, capsys: Capture) -> None:
    message = _refused(capsys, "predict", "--run", run, "--data", "album", "--output", "none.csv")
    assert "faces cut at the boxes of its data set, and 3 of the 3 images in album are not face crops" in message
    assert not Path("none.csv").exists()

    (command,) = _named_commands(message)
    assert command[:4] == ["data", "prepare", "--faces", "haar"]
    assert command[command.index("--margin") + 1] == "0.4"
    assert emotion.main(command) == 0
    assert message.endswith("then use --data album-faces/manifest.csv")
    for crops in ("album-faces/manifest.csv", "album-faces", "album-faces/faces/photo_1.jpg"):
        assert emotion.main(["predict", "--run", run, "--data", crops, "--output", "answers.csv"]) == 0
        answers = pd.read_csv("answers.csv")
        assert len(answers) == (1 if crops.endswith("jpg") else 3)
        assert answers["path"].str.contains("album-faces/faces/photo_").all()


@pytest.mark.parametrize("source", ["photo one.jpg", "list.csv", "nested"])
def test_every_kind_of_source_is_refused_with_its_own_command(run: str, source: str, capsys: Capture) -> None:
    if source == "list.csv":
        pd.DataFrame({"path": ["album/photo_0.jpg", "album/photo_1.jpg"], "label": "?"}).to_csv(source)
    elif source == "nested":
        shutil.copytree("album", "nested/2024/summer")
    else:
        shutil.copy("album/photo_0.jpg", source)
    message = _refused(capsys, "predict", "--run", run, "--data", source)
    (command,) = _named_commands(message)
    assert emotion.main(command) == 0
    manifest = shlex.split(message.partition("then use --data ")[2])[0]
    assert emotion.main(["predict", "--run", run, "--data", manifest]) == 0


def test_photographs_among_crops_are_refused(run: str, capsys: Capture) -> None:
    prepare = ["data", "prepare", "--faces", "haar", "--unlabelled", "--data", "album", "--output", "crops"]
    assert emotion.main(prepare) == 0
    unlabelled = [word for word in prepare[1:] if word not in ("--faces", "haar")]
    assert "--unlabelled: needs --faces, got True; add --faces" in _refused(capsys, "data", *unlabelled)
    shutil.copy("album/photo_0.jpg", "crops/faces/added.jpg")
    assert "1 of the 4 images in crops are not" in _refused(capsys, "predict", "--run", run, "--data", "crops")


def test_photographs_that_were_kept_whole_are_no_crops(run: str, capsys: Capture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save("album/noise.jpg")
    prepare = ["data", "prepare", "--faces", "haar", "--unlabelled", "--data", "album", "--output", "crops"]
    assert emotion.main([*prepare, "--no-face", "keep"]) == 0
    for source in ("crops/manifest.csv", "crops"):
        assert "1 of the 4 images" in _refused(capsys, "predict", "--run", run, "--data", source)
    found = pd.read_csv("crops/manifest.csv")
    mine = found.loc[found["face"] == "face", ["path"]]
    mine["path"] = "crops/" + mine["path"]
    mine.to_csv("mine.csv", index=False)  # a table of one's own that lists crops
    assert emotion.main(["predict", "--run", run, "--data", "mine.csv"]) == 0


def test_no_run_reports_on_photographs_that_the_model_has_seen_cut_in_another_way(run: str, capsys: Capture) -> None:
    crops = ["--data", SCENES, "--data.read.faces", "boxes", "--data.read.face_margin", "0.2"]
    message = _refused(capsys, "fit", *crops, *FIT, "--data.fold_seed", "1", "--run.start_from", run)
    assert f"run.start_from: {run} was trained or selected on" in message


def test_explain_export_and_register_refuse_too(run: str, capsys: Capture) -> None:
    words = ["--method", "grad-cam", "--not-kept", "--superpixels", "6"]
    message = _refused(capsys, "explain", run, "--paths", "album", *words)
    assert "then use --paths album-faces/manifest.csv" in message
    assert "emotion data prepare --faces haar" in message

    for name in ("export", "register"):
        message = _refused(capsys, name, run)
        prepare, predict = _named_commands(message)
        assert "trained on faces cut at the boxes of its data set" in message
        assert prepare[:4] == ["data", "prepare", "--faces", "haar"]
        told = {"PHOTOGRAPHS": "album", "CROPS": f"crops-{name}", "CROPS/manifest.csv": f"crops-{name}/manifest.csv"}
        for command in (prepare, predict):
            assert emotion.main([told.get(word, word) for word in command]) == 0
    assert not list(Path().glob("*.onnx"))


def test_the_data_of_the_run_is_evaluated_as_before(run: str) -> None:
    assert emotion.main(["test", "--run", run]) == 0


def test_a_checkpoint_without_the_record_loads_as_before(run: str) -> None:
    content = torch.load(download(run, "checkpoint/best.ckpt"), weights_only=True)
    assert content["EmotionDataModule"].pop("faces") == {"finder": "boxes", "size": 500, "margin": 0.4}
    torch.save(content, "old.ckpt")
    assert emotion.main(["predict", "--checkpoint", "old.ckpt", "--data", "album"]) == 0


@pytest.mark.usefixtures("run")
def test_a_prepared_manifest_makes_a_model_of_face_crops(capsys: Capture) -> None:
    cut = ["--faces", "haar", "--margin", "0.1", "--size", "64", "--no-face", "keep"]
    assert emotion.main(["data", "prepare", "--data", SCENES, *cut, "--output", "../crops"]) == 0
    _train(Path.cwd(), "--data", "../crops/manifest.csv")

    message = _refused(capsys, "predict", "--run", "latest", "--data", "album")
    assert "run latest was trained on faces cut by haar" in message
    (command,) = _named_commands(message)
    assert command[3:8] == ["haar", "--margin", "0.1", "--size", "64"]
    assert emotion.main(command) == 0
    assert emotion.main(["predict", "--run", "latest", "--data", "album-faces"]) == 0
