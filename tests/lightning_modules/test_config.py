"""RunConfig: recipe, files and options are resolved once, and what is the same run has the same identity."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig, data_module, recipe_names
from lightning_modules.losses import Focal

WORDS = {
    "--data.size": "48",
    "--data.batch_size": "16",
    "--data.n_min": "0.5",
    "--model.loss": "Focal",
    "--model.loss.gamma": "1.5",
    "--model.dropout": "0.2",
    "--run.ema_decay": "0.9",
    "--trainer.max_epochs": "3",
    "--seed": "7",
}


def test_options_win_over_a_recipe_wherever_they_stand() -> None:
    config = RunConfig.resolve(["--model.learning_rate", "0.1", "--recipe", "quick"])
    assert config.model["learning_rate"] == 0.1
    assert config.run["recipe"] == "quick"
    assert config.model["backbone"] == "tf_efficientnet_lite0"


def test_quick_is_the_recipe_when_none_is_named_but_not_beside_a_file(tmp_path: Path) -> None:
    assert RunConfig.resolve().run["recipe"] == "quick"
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed_everything: 1\n")
    config = RunConfig.resolve(["--config", str(mine)])
    assert (config.seed_everything, config.run["recipe"]) == (1, "mine")


def test_short_names() -> None:
    config = RunConfig.resolve(["--drop-twins", "--seed", "7", "--split=given", "--data=csv:a b.csv", "--resume"])
    assert (config.data["leak"], config.data["split"], config.data["source"]) == ("drop_twins", "given", "csv:a b.csv")
    assert (config.seed_everything, config.run["resume"]) == (7, "auto")
    options = Options.read(["--resume", "-c", "x.yaml", "--model.dropout", "-1", "--fold", "2"])
    assert (options.files, options.values["run.resume"], options.values["model.dropout"]) == (("x.yaml",), "auto", "-1")
    assert options.typed["data.fold"] == "--fold"
    for words in (["--recipe"], ["--recipe", "-c", "x.yaml"], ["--recipe", "--seed"]):
        with pytest.raises(InputError, match="--recipe: needs a value"):
            Options.read(words)


def test_a_misspelt_recipe_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--recipe: no recipe is called 'quik'; did you mean quick"):
        RunConfig.resolve(["--recipe", "quik"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "is not readable YAML"), ("- 1\n", "must contain keys"), (None, "is not a file")],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        RunConfig.resolve(["--config", str(file)])


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_a_config_that_its_own_yaml_gives_again(recipe: str, tmp_path: Path) -> None:
    config = RunConfig.resolve(["--recipe", recipe])
    data_module(config)  # its options go together
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert RunConfig.from_file(file) == config
    assert RunConfig.from_dict(config.as_dict()) == config


def test_a_config_of_version_0_1_still_loads(tmp_path: Path) -> None:
    old: dict[str, Any] = {
        "seed_everything": 3,
        "data": {"class_path": "datamodules.emotion.EmotionDataModule", "init_args": {"size": 48, "n_min": 0.5}},
        "model": {
            "class_path": "lightning_modules.classifier.EmotionClassifier",
            "init_args": {
                "classes": ["happy", "sad"],
                "backbone": "resnet18",
                "loss": {"class_path": "lightning_modules.losses.Focal", "init_args": {"gamma": 1.0}},
            },
        },
        "run": {"recipe": "focal"},
        "weights_only": None,
    }
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    config = RunConfig.from_file(tmp_path / "old.yaml")
    assert (config.seed_everything, config.data["size"], config.model["backbone"]) == (3, 48, "resnet18")
    loss = config.instantiate().model["loss"]
    assert isinstance(loss, Focal)
    assert loss.gamma == 1.0
    new = RunConfig.resolve(["-c", str(tmp_path / "old.yaml"), "--model.init_args.backbone", "resnet34"])
    assert new.model["backbone"] == "resnet34"


def test_override_checks_and_leaves_the_first_as_it_is() -> None:
    config = RunConfig.resolve(["--data.folds", "4"])
    other = config.override({"data.fold": 2, "model.loss": "Focal", "model.loss.gamma": 1.0, "data.transforms": None})
    assert (other.data["fold"], other.get("model.loss.gamma"), config.data["fold"]) == (2, 1.0, 0)
    assert config.override({}) == config
    with pytest.raises(InputError, match=r"--data.fald: no such option; did you mean --data.fold"):
        config.override({"data.fald": 2})
    with pytest.raises(InputError, match=r"two"):
        config.override({"data.fold": "two"})


@settings(max_examples=12, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_options_does_not_change_the_identity(order: random.Random) -> None:
    words = list(WORDS.items())
    order.shuffle(words)
    shuffled = [part for name, value in words for part in order.choice(([name, value], [f"{name}={value}"]))]
    plain = [part for word in WORDS.items() for part in word]
    assert RunConfig.resolve(shuffled).identity() == RunConfig.resolve(plain).identity()


def test_what_changes_no_number_does_not_change_the_identity(tmp_path: Path) -> None:
    text = "model: {dropout: 0.1}\ndata: {size: 48}\n"
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(f"# a comment\n{text}")
    first = RunConfig.resolve(["--config", str(tmp_path / "a.yaml")])
    same = (
        ["--config", str(tmp_path / "b.yaml")],
        ["--config", str(tmp_path / "a.yaml"), "--run.name", "x", "--run.experiment", "y", "--run.recipe", "z"],
        ["--config", str(tmp_path / "a.yaml"), "--data.num_workers", "2", "--trainer.accelerator", "cpu"],
        ["--config", str(tmp_path / "a.yaml"), "--trainer.enable_progress_bar", "false", "--resume"],
        ["--config", str(tmp_path / "a.yaml"), "--data", "elsewhere.csv"],  # the images' content counts instead
    )
    for words in same:
        assert RunConfig.resolve(words).identity("images") == first.identity("images"), words
    for words in (["--model.dropout", "0.2"], ["--seed", "1"], ["--data.fold", "1"], ["--run.ema_decay", "0.9"]):
        assert RunConfig.resolve(["--config", str(tmp_path / "a.yaml"), *words]).identity() != first.identity(), words
    assert first.identity("images") != first.identity("other images")
    assert RunConfig.resolve(["--recipe=balanced"]).identity() != RunConfig.resolve(["--recipe=baseline"]).identity()


def test_a_config_names_what_differs_from_its_recipe() -> None:
    assert RunConfig.resolve(["--recipe", "balanced", "--seed", "4", "--data.num_workers", "2"]).changes() == {}
    words = ["--recipe", "baseline", "--data.size", "48", "--data.read.part", "0.1", "--model.loss", "Focal"]
    changes = RunConfig.resolve(words).changes()
    assert {"data.size": "48", "data.read.part": "0.1", "model.loss": "lightning_modules.losses.Focal"}.items() <= (
        changes.items()
    )
    assert all(name.startswith(("data.", "model.loss.")) or name == "model.loss" for name in changes)


def test_a_changed_pixel_changes_the_identity(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    identities = []
    for changed in (False, False, True):
        pixels[0, 0, 0, 0] ^= changed
        for number, image in enumerate(pixels):
            folder = tmp_path / ("happy" if number % 2 else "sad")
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
        config = RunConfig.resolve(["--data", str(tmp_path), "--data.size", "32"])
        identities.append(config.identity(data_module(config).content_hash))
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.slow  # a fresh process; test_limits.py tests the same after whatever was imported
def test_a_whole_number_of_batches_stays_whole_whatever_was_imported_first() -> None:
    code = (
        "import typing; typing.Optional[typing.Union[float, int]]\n"
        "from lightning_modules.config import RunConfig\n"
        "words = ['--trainer.limit_test_batches', '1', '--trainer.limit_val_batches', '0.5']\n"
        "trainer = RunConfig.resolve(words).trainer\n"
        "print(repr((trainer['limit_test_batches'], trainer['limit_val_batches'])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 0.5)"
