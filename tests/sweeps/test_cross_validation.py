"""k folds under one parent, resumed, reproduced, and refused when their data changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules import command
from lightning_modules.cli import run_cli
from lightning_modules.command import EmotionCLI
from lightning_modules.tracked_run import RunLogger, division_hash
from records.runs import children, find_runs, load_table
from sweeps.cli import main
from sweeps.cross_validation import cross_validate

TINY = [
    "--data.size", "32", "--data.batch_size", "16", "--model.backbone", "mobilenetv3_small_050",
    "--model.weights", "none",
    "--data.transforms", "[]", "--data.transform_where", "none", "--data.n_min", "null",
    "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
]  # fmt: skip
STRUCK = "lightning struck"
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and MLflow's advice to their users, tested elsewhere


@pytest.fixture
def pictures(workplace: Path) -> Path:
    """Two classes of 24 pictures each, one colour a class."""
    generator = np.random.default_rng(0)
    for name, tone in (("happy", 60), ("sad", 190)):
        folder = workplace / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(24):
            noise = generator.integers(0, 60, (32, 32, 3)) + tone
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")
    return workplace / "pictures"


def run(pictures: Path, *more: str) -> int:
    return main(["cross-validate", "--recipe", "quick", "--data", str(pictures), "--folds", "2", *TINY, *more])


def test_folds_are_pooled_resumed_and_reproduced(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fold 1 fails the first time; the second start takes fold 0 as it is."""
    real = command.evaluate_outer

    def failing(running: EmotionCLI, tracker: RunLogger) -> object:
        if running.datamodule.fold == 1:
            raise RuntimeError(STRUCK)
        return real(running, tracker)

    monkeypatch.setattr(command, "evaluate_outer", failing)
    with pytest.raises(RuntimeError, match=STRUCK):
        run(pictures, "--resamples", "100", "--run.name", "mine")
    monkeypatch.setattr(command, "evaluate_outer", real)
    parent = find_runs(where="tags.kind = 'cross-validation'").iloc[0]
    assert parent["status"] == "FAILED"
    first = children(parent["run_id"]).iloc[0]["run_id"]

    assert run(pictures, "--resamples", "100", "--run.name", "mine", "--resume") == 0
    printed = capsys.readouterr().out
    assert "macro F1" in printed
    parents = find_runs(where="tags.kind = 'cross-validation'")
    assert list(parents["status"]) == ["FINISHED"]
    below = children(parent["run_id"])
    assert list(below["status"]) == ["FINISHED", "FINISHED"]
    assert below.iloc[0]["run_id"] == first
    assert parents["name"].tolist() == ["mine"]
    assert below["name"].tolist() == ["mine fold 0", "mine fold 1"]

    predictions = load_table(parent["run_id"], "predictions")
    assert sorted(predictions["row"]) == list(range(48))
    split = load_table(parent["run_id"], "split")
    for fold in (0, 1):
        part = split[split["fold"] == fold]
        outer = set(part.loc[part["role"] == "outer", "row"])
        assert outer == set(predictions.loc[predictions["fold"] == fold, "row"])
        assert not outer & set(part.loc[part["role"] != "outer", "row"])

    assert main(["reproduce", parent["run_id"]]) == 0
    assert "numbers: the same, image by image" in capsys.readouterr().out


def test_a_changed_picture_set_is_not_resumed(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def struck(*_: object) -> object:
        raise RuntimeError(STRUCK)

    words = ["fit", "--recipe", "quick", "--data", str(pictures), *TINY]
    monkeypatch.setattr(command, "evaluate_outer", struck)
    with pytest.raises(RuntimeError, match=STRUCK):
        run_cli(words)
    run_id = find_runs().iloc[0]["run_id"]
    shutil.copy(pictures / "sad" / "3.png", pictures / "sad" / "twin.png")
    with pytest.raises(InputError, match=r"changed since run .* began"):
        run_cli([*words, "--resume", str(run_id)])


def test_a_division_is_another_when_an_image_plays_another_role(pictures: Path) -> None:
    def division(last_of_training: int) -> str:
        """Hash of a given split whose validation part begins with the image after this one."""
        numbers = np.arange(24)
        split = np.where(numbers <= last_of_training, "train", np.where(numbers < 16, "validation", "test"))
        rows = [f"{name}/{n}.png,{name},{part}" for n, part in enumerate(split) for name in ("happy", "sad")]
        table = pictures / "split.csv"
        table.write_text("\n".join(["path,label,split", *rows]))
        return division_hash(EmotionDataModule(str(table), size=32, split="given", near_duplicates=False))

    assert division(11) == division(11)
    assert division(11) != division(12)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"folds": 1, "seeds": [0]}, "--folds: at least 2, got 1"),
        ({"folds": 2, "seeds": [0, 0]}, "--seeds: each seed once"),
        ({"folds": 2, "seeds": [0], "resamples": 5}, "--resamples: at least 100"),
    ],
)
def test_wrong_numbers(words: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        cross_validate([], **words)  # type: ignore[arg-type]


def test_what_cross_validation_sets_cannot_be_given() -> None:
    with pytest.raises(InputError, match=r"--data\.fold: cross-validation sets it"):
        main(["cross-validate", "--data.fold", "1"])


def test_resume_in_an_empty_place_begins(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli(["fit", "--recipe", "quick", "--data", str(pictures), *TINY, "--run.evaluate", "false", "--resume"])
    assert "a new one begins" in capsys.readouterr().err
    assert list(find_runs()["status"]) == ["FINISHED"]
