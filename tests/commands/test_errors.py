"""What people type wrongly: each is one clear line that names the next step, and leaves no run behind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def complaint(emotion: Any, *words: str) -> str:
    """Return the one line of a command that must fail."""
    done = emotion(*words, status=1)
    assert len(done.errors) == 1, done.err
    assert "Traceback" not in done.err
    assert len(done.errors[0]) < 600, done.err
    return str(done.errors[0])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        pytest.param(["--recipe", "balnced"], ["--recipe", "balanced"], id="recipe"),
        pytest.param(["--config", "none.yaml"], ["none.yaml", "not a file"], id="config"),
        pytest.param(
            ["--model.learning_rat", "1"], ["learning_rat", "did you mean --model.learning_rate"], id="model option"
        ),
        pytest.param(["--data.n_mn", "3"], ["n_mn", "did you mean --data.n_min"], id="data option"),
        pytest.param(
            ["--trainer.max_epoch", "3"], ["max_epoch", "did you mean --trainer.max_epochs"], id="trainer option"
        ),
        pytest.param(["--run.patince", "3"], ["patince", "did you mean --run.patience"], id="run option"),
        pytest.param(["--sed", "3"], ["sed", "did you mean --seed"], id="short option"),
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
    emotion: Any, store: Path, tiny: tuple[str, ...], words: list[str], parts: list[str]
) -> None:
    said = complaint(emotion, "fit", *tiny, *words)
    for part in parts:
        assert part in said
    if "--trainer" in words[0]:  # known only when the trainer is made, after the run was
        assert {run.info.status for run in emotion.runs()} <= {"FAILED"}
    else:
        assert not emotion.runs()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {init_args: {learning_rat: 0.1}}", ["learning_rat", "learning_rate"]),
        ("data: {init_args: {transfroms: [flip]}}", ["transfroms", "transforms"]),
        ("trainer: {max_epoch: 3}", ["max_epoch", "max_epochs"]),
        ("modle: {init_args: {learning_rate: 0.1}}", ["modle", "model"]),
        ("run: {patince: 3}", ["patince", "patience"]),
        ("model: {init_args: {loss: {class_path: CrossEntropy, init_args: {gamma: 1}}}}", ["gamma", "CrossEntropy"]),
        ("- a list", ["must contain keys"]),
        ("model: [", ["not readable YAML"]),
    ],
)
def test_a_misspelt_recipe_names_the_nearest(emotion: Any, text: str, parts: list[str]) -> None:
    Path("own.yaml").write_text(text)
    said = complaint(emotion, "fit", "--config", "own.yaml")
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
def test_an_unknown_run(emotion: Any, store: Path, words: list[str]) -> None:
    assert "'nope'" in complaint(emotion, *words)


@pytest.mark.parametrize("command", ["test", "validate"])
def test_nothing_is_evaluated_without_a_trained_model(tiny: tuple[str, ...], emotion: Any, command: str) -> None:
    assert "--run RUN or --ckpt_path" in complaint(emotion, command, *tiny)


def test_predict_needs_a_trained_model(emotion: Any) -> None:
    done = emotion("predict", "--data", ".", status=2)
    assert "a run is required: emotion predict RUN SOURCE..., or --run RUN" in done.err
    done = emotion("predict", "latest", status=2)
    assert "images are required: emotion predict RUN SOURCE..., or --data SOURCE" in done.err


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
    fitted: str, tiny: tuple[str, ...], emotion: Any, command: str, spoil: Callable[[Path], None]
) -> None:
    shutil.copy(emotion.artifact(fitted, "best.ckpt"), "other.ckpt")
    spoil(Path("other.ckpt"))
    named = (
        ["--checkpoint", "other.ckpt", "--data", "."] if command == "predict" else [*tiny, "--ckpt_path", "other.ckpt"]
    )
    assert "other.ckpt" in complaint(emotion, command, *named)
    assert not Path("opened.txt").exists()


def test_a_checkpoint_of_other_classes(fitted: str, tiny: tuple[str, ...], faces: Path, emotion: Any) -> None:
    own = [*tiny, "--data", str(faces), "--data.folds", "2"]
    for command in ("fit", "test"):
        said = complaint(emotion, command, *own, "--ckpt_path", str(emotion.artifact(fitted, "best.ckpt")))
        assert "trained on the classes" in said
        assert "the data has happy, sad" in said


def test_a_file_stands_where_the_runs_should_be(tiny: tuple[str, ...], emotion: Any) -> None:
    Path("mlruns").write_text("")
    assert "mlruns" in complaint(emotion, "fit", *tiny)


def test_unknown_command(emotion: Any) -> None:
    assert "unknown command 'fti'" in emotion("fti", status=2).err


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
    tiny: tuple[str, ...], emotion: Any, store: Path, words: list[str], parts: list[str]
) -> None:
    said = complaint(emotion, "cross-validate", *tiny, *words)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "--help"], ["--recipe NAME", "--run.patience", "--trainer.max_epochs", "--model.backbone"]),
        (["fit", "--help-all"], ["--model.learning_rate", "--data.n_min", "--trainer.profiler", "--run.resamples"]),
        (["cross-validate", "--help"], ["--folds", "--recipe NAME"]),
        (["predict", "--help"], ["--run", "--checkpoint"]),
        (["export", "--help"], ["--format"]),
        (["reproduce", "--help"], ["run id"]),
        (["test", "--help"], ["--ckpt_path"]),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_help(emotion: Any, words: list[str], parts: list[str]) -> None:
    said = emotion(*words).out
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--run", "RUN", "--data", "faces"],
        ["export", "RUN"],
        ["register", "RUN"],
        ["explain", "RUN"],
        ["reproduce", "RUN"],
        ["fit", "TINY", "--data.folds", "4", "--resume", "RUN"],
        ["fit", "TINY", "--data.folds", "4", "--run.start_from", "RUN"],
        ["cross-validate", "TINY", "--folds", "2", "--resume", "RUN"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_a_deleted_run_is_named_with_the_way_back(
    emotion: Any, fitted: str, faces: Path, tiny: tuple[str, ...], words: list[str]
) -> None:
    emotion.client.delete_run(fitted)
    meant = {"TINY": tiny, "RUN": (fitted,)}
    said = complaint(emotion, *(option for word in words for option in meant.get(word, (word,))))
    assert f"{fitted} was deleted" in said
    assert f"mlflow runs restore --run-id {fitted}" in said
