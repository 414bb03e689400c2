"""Short options become LightningCLI's."""

from pathlib import Path

import pytest

from datamodules.errors import InputError
from lightning_modules.shorthand import expand, recipe_names, take


def test_recipe_comes_first_so_that_options_override_it() -> None:
    words = expand(["--model.learning_rate", "0.1", "--recipe", "quick"])
    assert words[0] == "--config"
    assert Path(words[1]).name == "quick.yaml"
    assert words[2:4] == ["--run.recipe", "quick"]
    assert words[-2:] == ["--model.learning_rate", "0.1"]


def test_quick_is_the_recipe_when_none_is_named_but_not_beside_a_config(tmp_path: Path) -> None:
    assert Path(expand([])[1]).name == "quick.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed_everything: 1\n")
    assert expand(["--config", str(mine)]) == ["--config", str(mine), "--run.recipe", "mine"]


def test_data_is_a_source_unless_it_names_a_datamodule() -> None:
    assert expand(["--data", "a/folder"])[-2:] == ["--data.source", "a/folder"]
    assert expand(["--data=csv:a b.csv"])[-2:] == ["--data.source", "csv:a b.csv"]
    assert expand(["--data", "mine.MyDataModule"])[-2:] == ["--data", "mine.MyDataModule"]


def test_flags_and_renamed_options() -> None:
    words = expand(["--drop-twins", "--seed", "7", "--split=given"])
    assert words[-6:] == ["--data.leak", "drop_twins", "--seed_everything", "7", "--data.split", "given"] or (
        words[4:] == ["--data.leak", "drop_twins", "--seed_everything", "7", "--data.split", "given"]
    )


def test_misspelt_recipe_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--recipe: no recipe is called 'quik'; did you mean quick"):
        expand(["--recipe", "quik"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("a: [1", "is not readable YAML"), ("- 1\n", "must hold keys"), (None, "is not a file")],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, content: str | None, complaint: str) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=complaint):
        expand(["--config", str(file)])


def test_take_understands_both_forms_and_the_last_one_wins() -> None:
    assert take(["--run", "a", "x", "--run=b"], "--run") == ("b", ["x"])
    assert take(["--resume", "--seed", "1"], "--resume", optional=True) == ("", ["--seed", "1"])
    assert take(["--resume", "-c", "x.yaml"], "--resume", optional=True) == ("", ["-c", "x.yaml"])
    assert take(["--resume", "-1"], "--resume", optional=True) == ("", ["-1"])
    assert take(["--model.x", "-1"], "--model.x") == ("-1", [])
    for words in (["--run"], ["--run", "-c", "x.yaml"], ["--run", "--seed"]):
        with pytest.raises(InputError, match="--run: needs a value"):
            take(words, "--run")


def test_every_recipe_is_listed() -> None:
    assert {"quick", "baseline", "balanced", "paper-balanced"} <= set(recipe_names())
