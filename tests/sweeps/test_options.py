"""Options mean the same however they are written, in every command that takes those of `emotion fit`."""

import shutil
from pathlib import Path

import pytest
import yaml

import emotion
from datamodules.errors import InputError
from lightning_modules import config
from results.tracking.runs import find_runs
from results.tracking.store import ensure_store
from sweeps import cross_validation, search

TINY = (
    *("--data.size", "32", "--model.backbone", "test_resnet", "--model.weights", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
)
FACES = "drawn:largest=8,ratio=1,size=32"
FAILS = "--model.learning_rate=-1"  # at once
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and MLflow's advice to their users, tested elsewhere


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store to copy; making one takes seconds."""
    directory = tmp_path_factory.mktemp("template") / "mlruns"
    ensure_store(directory)
    return directory


@pytest.fixture
def mine(workplace: Path, empty_store: Path) -> Path:
    """A config of the user in a folder with an empty store."""
    shutil.copytree(empty_store, workplace / "mlruns")
    content = {"data": {"init_args": {"source": FACES}}, "model": {"init_args": {"dropout": 0.1}}}
    (workplace / "mine.yaml").write_text(yaml.safe_dump(content))
    return workplace / "mine.yaml"


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command that ends with an error prints."""
    capsys.readouterr()
    assert emotion.main(list(words)) == 1
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def _nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fold, and the first trial, ends its command after the run was opened."""

    def fail(*_: object, **__: object) -> None:
        msg = "power cut"
        raise InputError(msg)

    monkeypatch.setattr(cross_validation, "train", fail)
    monkeypatch.setattr(search, "work_together", fail)


def folds(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Begin a cross-validation whose first fold fails."""
    told = failed(capsys, "cross-validate", "--folds", "2", *words, *TINY)
    assert "power cut" in told
    return told


@pytest.mark.parametrize(
    ("words", "recipe", "data"),
    [
        (("--recipe=baseline", f"--data={FACES}"), "baseline", "drawn"),
        (("--config=mine.yaml", "--data=csv:faces.csv"), "mine", "drawn"),  # the name in the manifest, as in folds
    ],
)
def test_a_run_is_called_by_what_was_given(
    mine: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], recipe: str, data: str
) -> None:
    from datamodules.readers import read

    read(FACES).save("faces.csv")
    folds(capsys, *words)
    (parent,) = find_runs(where="tags.kind = 'cross-validation'").to_dict("records")
    assert (parent["tags.recipe"], parent["name"]) == (recipe, f"{recipe} {data} 2-fold")


def test_the_same_options_are_the_same_run_in_any_order(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds(capsys, "-c", "mine.yaml", "--data.batch_size", "16", "--seed", "3", "--data.erasing=0.5")
    mine.write_text("# a comment\n" + mine.read_text())
    shutil.copy(mine, "same.yaml")
    told = folds(capsys, "--resume", "--data.erasing", "5e-1", "--data.batch_size=16", "--config=same.yaml", "--seed=3")
    assert "a new run starts" not in told
    assert len(find_runs(where="tags.kind = 'cross-validation'")) == 1
    mine.write_text(mine.read_text().replace("0.1", "0.2"))
    told = folds(capsys, "-c", "mine.yaml", "--data.batch_size", "16", "--seed", "3", "--data.erasing=.5", "--resume")
    assert "no unfinished cross-validation has these options and images; a new run starts" in told
    assert len(find_runs(where="tags.kind = 'cross-validation'")) == 2


def test_an_option_is_no_value_of_resume(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = failed(capsys, "fit", "--resume", "-c", "mine.yaml", *TINY, FAILS)
    assert "--model.learning_rate: must be above 0" in told


def test_an_option_is_no_value_of_recipe(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--recipe: needs a value, got none" in failed(capsys, "fit", "--recipe", "-c", "mine.yaml")


@pytest.mark.parametrize("number", ["+1.e-01"])
def test_numbers_that_fit_accepts_are_accepted_everywhere(
    mine: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    rest = (f"--data.inner_fraction={number}", "--model.dropout", number)
    assert "--model.learning_rate: must be above 0" in failed(capsys, "fit", "-c", "mine.yaml", *rest, *TINY, FAILS)
    (Path("space.yaml")).write_text(f"model.learning_rate: {{real: [{number}, 1e+1], log: true}}\n")
    told = failed(capsys, "search", "--space", "space.yaml", "-c", "mine.yaml", *rest, *TINY)
    assert "power cut" in told
    told = failed(capsys, "study", "backbones", "--data", "nowhere", *rest)
    assert "no such file or folder, got 'nowhere'" in told
    mine.write_text(f"data: {{init_args: {{inner_fraction: {number}, source: '{FACES}'}}}}\n")
    assert "--model.learning_rate: must be above 0" in failed(capsys, "fit", "-c", "mine.yaml", *TINY, FAILS)
    assert "power cut" in failed(capsys, "search", "--space", "size", "-c", "mine.yaml", "--name", "s", *TINY)


def test_searches_of_other_recipes_and_files_have_other_names(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("-c", "mine.yaml"), ("--config=mine.yaml", "--data.batch_size=8"), ("--recipe=baseline",), ()):
        failed(capsys, "search", "--space", "size", *words, f"--data.source={FACES}", *TINY)
    found = find_runs(where="tags.kind = 'search'")
    assert sorted(found["name"]) == ["baseline-size-drawn", "mine-size-drawn", "quick-size-drawn"]
    assert set(found["name"]) == {f"{recipe}-size-drawn" for recipe in found["tags.recipe"]}


def test_a_search_goes_on_with_the_same_options_in_any_order(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("search", "--space", "size", "--name", "s", *TINY)
    failed(capsys, *command, "-c", "mine.yaml", "--data.batch_size", "16", "--model.dropout", "0.3")
    shutil.copy(mine, "same.yaml")
    told = failed(capsys, *command, "--model.dropout=3e-1", "--config=same.yaml", "--data.batch_size=16")
    assert "power cut" in told
    told = failed(capsys, *command, "--model.dropout=3e-1", "--config=same.yaml", "--data.batch_size=8")
    assert "study s was started with other recipe or options" in told


def test_a_study_is_found_again_by_what_its_cells_are(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = workplace / "recipes"
    shutil.copytree(config.RECIPES, recipes)
    monkeypatch.setattr(config, "RECIPES", recipes)

    def key(*words: str) -> str:
        told = failed(capsys, "study", "backbones", "--report", *words)
        assert "has not been started here with these options" in told
        return told.partition("study backbones")[2].split()[0]

    first = key("--data.size", "40", "--model.dropout", "0.1")
    for recipe in recipes.iterdir():
        recipe.write_text("# a comment\n" + recipe.read_text())
    assert key("--model.dropout=1e-1", "--data.size=40") == first
    assert key("--data.size", "48", "--model.dropout", "0.1") != first
    quick = (recipes / "quick.yaml").read_text()
    (recipes / "quick.yaml").write_text(quick.replace("batch_size: 64", "batch_size: 32"))  # not a recipe of its cells
    assert key("--data.size", "40", "--model.dropout", "0.1") == first
    used = (recipes / "dense-dense.yaml").read_text()
    (recipes / "dense-dense.yaml").write_text(used.replace("weight_decay: 0.0", "weight_decay: 0.1"))
    assert key("--data.size", "40", "--model.dropout", "0.1") != first
