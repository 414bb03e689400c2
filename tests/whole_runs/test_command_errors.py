"""What people type wrongly: each is one clear line that names the next step, and leaves no run behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import emotion
from records.runs import find_runs

Capture = pytest.CaptureFixture[str]


def complaint(capsys: Capture, *words: str) -> str:
    """Return the one line of a command that must fail."""
    capsys.readouterr()
    status = emotion.main(list(words))
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1, said
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert len(lines[0]) < 600, said
    return lines[0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        pytest.param(["--recipe", "balnced"], ["--recipe", "balanced"], id="recipe"),
        pytest.param(["--config", "none.yaml"], ["none.yaml", "not a file"], id="config"),
        pytest.param(["--model.learning_rat", "1"], ["learning_rat", "did you mean learning_rate"], id="model option"),
        pytest.param(["--data.n_mn", "3"], ["n_mn", "did you mean n_min"], id="data option"),
        pytest.param(["--trainer.max_epoch", "3"], ["max_epoch", "did you mean max_epochs"], id="trainer option"),
        pytest.param(["--run.patince", "3"], ["patince", "did you mean patience"], id="run option"),
        pytest.param(["--sed", "3"], ["sed", "did you mean seed"], id="short option"),
        pytest.param(["--model.loss.gamma", "1"], ["gamma", "CrossEntropy"], id="gamma of cross-entropy"),
        pytest.param(["--model.loss", "Foca"], ["Foca", "Focal", "BalancedSoftmax"], id="loss"),
        pytest.param(["--model.optimizer", "adan"], ["optimizer", "adamw"], id="choice"),
        pytest.param(["--trainer.max_epochs", "two"], ["max_epochs", "two"], id="number"),
        pytest.param(["--seed", "one"], ["seed", "one"], id="seed"),
        pytest.param(["--model.backbone", "resnet81"], ["resnet81", "resnet18"], id="backbone"),
        pytest.param(
            ["--model.backbone", "resnet18", "--model.weights", "hub"],
            ["resnet18", "network"],
            id="hub without network",
        ),
        pytest.param(["--model.weights", "none.safetensors"], ["none.safetensors"], id="weights file"),
        pytest.param(["--model.learning_rate", "-1"], ["learning_rate", "-1"], id="learning rate"),
        pytest.param(["--data.n_min", "-5"], ["n_min", "-5"], id="n_min"),
        pytest.param(["--data.folds", "30"], ["30", "class"], id="folds"),
        pytest.param(["--data.fold", "7"], ["fold", "7"], id="fold"),
        pytest.param(["--data", "nowhere"], ["nowhere"], id="no data"),
        pytest.param(["--data", "drawn:larges=3"], ["larges", "largest"], id="drawn"),
        pytest.param(["--run.resamples", "5"], ["resamples", "100"], id="resamples"),
        pytest.param(["--run.ema_decay", "2"], ["ema_decay", "2"], id="ema"),
        pytest.param(["--resume", "0123"], ["0123"], id="resume an unknown run"),
        pytest.param(["--ckpt_path", "none.ckpt"], ["none.ckpt", "no such file"], id="no checkpoint"),
        pytest.param(["--trainer.accelerator", "mps"], ["trainer", "MPS"], id="accelerator"),
        pytest.param(["--trainer.devices", "0"], ["trainer", "0"], id="devices"),
    ],
)
def test_a_wrong_word_is_one_line(
    place: Path, one_run: tuple[str, ...], capsys: Capture, words: list[str], parts: list[str]
) -> None:
    said = complaint(capsys, "fit", *one_run, *words)
    for part in parts:
        assert part in said
    found = find_runs()
    if "--trainer" in words[0]:  # known only when the trainer is made, after the run was
        assert set(found["status"]) <= {"FAILED"}
    else:
        assert found.empty


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {init_args: {learning_rat: 0.1}}", ["learning_rat", "learning_rate"]),
        ("data: {init_args: {transfroms: [flip]}}", ["transfroms", "transforms"]),
        ("trainer: {max_epoch: 3}", ["max_epoch", "max_epochs"]),
        ("modle: {init_args: {learning_rate: 0.1}}", ["modle", "model"]),
        ("run: {patince: 3}", ["patince", "patience"]),
        ("model: {init_args: {loss: {class_path: CrossEntropy, init_args: {gamma: 1}}}}", ["gamma", "CrossEntropy"]),
        ("- a list", ["must hold keys"]),
        ("model: [", ["not readable YAML"]),
    ],
)
def test_a_misspelt_recipe_names_the_nearest(place: Path, capsys: Capture, text: str, parts: list[str]) -> None:
    Path("own.yaml").write_text(text)
    said = complaint(capsys, "fit", "--config", "own.yaml")
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    "words",
    [
        ["test", "--run", "nope"],
        ["validate", "--run", "nope"],
        ["predict", "--run", "nope", "--data", "."],
        ["export", "nope"],
        ["register", "nope"],
        ["reproduce", "nope"],
        ["cross-validate", "--resume", "nope", "--folds", "2"],
    ],
    ids=lambda words: words[0],
)
def test_an_unknown_run(place: Path, capsys: Capture, words: list[str]) -> None:
    assert "'nope'" in complaint(capsys, *words)


@pytest.mark.parametrize("command", ["test", "validate"])
def test_nothing_is_evaluated_without_a_trained_model(
    place: Path, one_run: tuple[str, ...], capsys: Capture, command: str
) -> None:
    assert "--run RUN or --ckpt_path" in complaint(capsys, command, *one_run)


def test_predict_needs_a_trained_model(place: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        emotion.main(["predict", "--data", "."])
    assert "one of the arguments --run --checkpoint is required" in capsys.readouterr().err


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _text(path: Path) -> None:
    path.write_text("no checkpoint")


class _Runs:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return open, ("opened.txt",)


def _code(path: Path) -> None:
    torch.save({"state_dict": _Runs()}, path)


def _tensors(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path)


@pytest.mark.parametrize("spoil", [_cut, _text, _code, _tensors], ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_a_damaged_checkpoint(
    finished: str, one_run: tuple[str, ...], capsys: Capture, command: str, spoil: Callable[[Path], None]
) -> None:
    shutil.copy(f"mlruns/runs/{finished}/best.ckpt", "other.ckpt")
    spoil(Path("other.ckpt"))
    named = (
        ["--checkpoint", "other.ckpt", "--data", "."]
        if command == "predict"
        else [*one_run, "--ckpt_path", "other.ckpt"]
    )
    assert "other.ckpt" in complaint(capsys, command, *named)
    assert not Path("opened.txt").exists()


def test_a_checkpoint_of_other_classes(
    finished: str, one_run: tuple[str, ...], few_pictures: Path, capsys: Capture
) -> None:
    own = [*one_run, "--data", str(few_pictures), "--data.folds", "2"]
    for command in ("fit", "test"):
        said = complaint(capsys, command, *own, "--ckpt_path", f"mlruns/runs/{finished}/best.ckpt")
        assert "trained on the classes" in said
        assert "the data has happy, sad" in said


def test_a_file_stands_where_the_runs_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_run: tuple[str, ...], capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mlruns").write_text("")
    assert "mlruns" in complaint(capsys, "fit", *one_run)


def test_unknown_command(capsys: Capture) -> None:
    assert emotion.main(["fti"]) == 2
    assert "unknown command 'fti'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--folds", "30"], ["30"]),
        (["--folds", "1"], ["--folds", "at least 2"]),
        (["--resamples", "1"], ["--resamples", "100"]),
        (["--seeds", "1", "1"], ["--seeds"]),
        (["--folds", "2", "--data.fold", "1"], ["--data.fold"]),
        (["--folds", "2", "--run.evaluate", "false"], ["run.evaluate"]),
    ],
)
def test_a_wrong_cross_validation(
    place: Path, tiny: tuple[str, ...], capsys: Capture, words: list[str], parts: list[str]
) -> None:
    said = complaint(capsys, "cross-validate", *tiny, *words)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "--help"], ["--recipe NAME", "--run.patience", "--trainer.max_epochs", "--model CONFIG"]),
        (["fit", "--model.help", "EmotionClassifier"], ["--model.learning_rate"]),
        (["fit", "--data.help", "EmotionDataModule"], ["--data.n_min"]),
        (["cross-validate", "--help"], ["--folds", "--recipe NAME"]),
        (["predict", "--help"], ["--run", "--checkpoint"]),
        (["export", "--help"], ["--format"]),
        (["reproduce", "--help"], ["run id"]),
        (["test", "--help"], ["--ckpt_path"]),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_help(place: Path, capsys: Capture, words: list[str], parts: list[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        emotion.main(words)
    said = capsys.readouterr().out
    for part in parts:
        assert part in said
