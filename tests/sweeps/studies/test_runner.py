"""What a study refuses before it runs anything, and how it is resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
import torch
from optuna.trial import TrialState

import emotion
from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.readers import read
from lightning_modules import config
from lightning_modules.config import Options, RunConfig, data_module
from results.tracking.runs import find_runs, has_store
from sweeps.studies import build_study, runner
from sweeps.studies.analysis import Outcome, Outcomes
from sweeps.studies.runner import StudyRunner, cell_configs, check_study
from sweeps.studies.schema import Study, cell_config
from sweeps.workers import ENQUEUED, close, open_storage

FACES = "drawn:largest=8,ratio=1,size=32,classes=happy+sad"
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and Optuna's advice, tested elsewhere


def checked(study: Study, *words: str) -> EmotionDataModule:
    (data,) = check_study(study, cell_configs(study, Options.read(words)))
    return cast(EmotionDataModule, data)


@pytest.fixture
def folder(workplace: Path) -> Path:
    """Two folders of images, without train/ and test/."""
    manifest = read(FACES)
    for path in manifest.table["path"]:
        (workplace / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.root / path, workplace / "faces" / path)
    return workplace / "faces"


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_a_study_that_wants_a_given_split_says_what_to_add(folder: Path, scale: str) -> None:
    study = build_study("teachable", scale, "honest")  # type: ignore[arg-type] # one of SCALES
    with pytest.raises(InputError, match=r"add --data.split holdout --data.holdout_fraction 0.2"):
        checked(study, "--data", str(folder))
    added = ("--data", str(folder), "--data.split", "holdout", "--data.holdout_fraction", "0.25")
    assert len(checked(study, *added).manifest) == 16
    plan = data_module(cell_config(study.cells[0], Options.read(added))).plan
    assert (plan.split, plan.holdout_fraction, plan.leak) == ("holdout", 0.25, "error")


def test_a_set_aside_share_gives_way_to_a_given_split() -> None:
    study = build_study("backbones", "small", "honest")
    plan = data_module(cell_config(study.cells[0], Options.read(["--split", "given", "--drop-twins"]))).plan
    assert (plan.split, plan.leak) == ("given", "drop_twins")


def test_wrong_options_are_told_before_anything_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, told in (
        (("--data", "nowhere"), "no such file or folder, got 'nowhere'"),
        (("--data", str(folder), "--data.siz", "3"), "did you mean --data.size"),
        (("--data", str(folder), "--data.inner_fraction", "1.5"), "--data.inner_fraction: must be above 0 and below 1"),
    ):
        assert emotion.main(["study", "backbones", *wrong]) == 1
        assert told in capsys.readouterr().err
    assert not has_store()


def test_a_report_of_nothing_is_told_and_leaves_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emotion.main(["study", "balanced-augmentation", "--report"]) == 1
    assert "has not been started here with these options; leave --report out first" in capsys.readouterr().err
    assert not (workplace / "mlruns").exists()


def test_a_report_prints_what_it_does_before_it_takes_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And names its files before they are copied into the tracking store, which may fail or be interrupted."""
    printed: list[str] = []

    def write(*_: object) -> list[Path]:
        printed.append(capsys.readouterr().err)
        return [folder / "report.md"]

    def log(*_: object, **__: object) -> None:
        printed.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    study = build_study("backbones", "tiny", "honest")
    made = StudyRunner(study, "tiny", "honest", Options.read(["--data", str(folder)]))
    made.open_parent()
    monkeypatch.setattr(runner, "write_report", write)
    monkeypatch.setattr(runner, "TrackingLogger", log)
    with pytest.raises(KeyboardInterrupt):
        made.run(only_report=True)
    assert f"report of 0 finished runs: tests of {len(study.claims)} claims" in printed[0]
    assert str(folder / "report.md") in printed[1]


def test_other_images_or_another_experiment_are_another_study(folder: Path) -> None:
    study = build_study("backbones", "tiny", "honest")

    def begun(*words: str) -> StudyRunner:
        return StudyRunner(study, "tiny", "honest", Options.read(["--data", str(folder), *words]))

    first = begun()
    parent = first.open_parent()
    assert begun().open_parent() == parent
    assert begun("--run.experiment", "other").key != first.key
    assert begun("--run.name", "other").key == first.key
    next((folder / "sad").iterdir()).unlink()
    changed = begun()
    assert changed.key != first.key
    assert changed.find_parent() is None
    assert changed.open_parent() != parent
    assert len(find_runs()) == 2


def test_cells_that_have_finished_are_not_queued_again_even_in_another_storage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = build_study("backbones", "tiny", "honest")
    finished, *others = [cell.name for cell in study.cells]
    monkeypatch.setattr(Outcomes, "of_parent", lambda *_: Outcomes([Outcome(finished, study.seeds[0], "id", {})]))
    monkeypatch.setattr(StudyRunner, "_report", lambda *_: {})
    monkeypatch.setattr(StudyRunner, "open_parent", lambda _: "parent")
    settings: list[dict[str, Any]] = []
    monkeypatch.setattr(runner, "work_together", lambda *words: settings.append(words[3]))
    made = StudyRunner(study, "tiny", "honest", Options.read(["--data", str(folder)]), "sqlite:///other.db")
    made.run()
    storage = open_storage("sqlite:///other.db")
    queued = optuna.load_study(study_name=made.key, storage=storage).get_trials()
    close(storage)
    wanted = {(trial.user_attrs[ENQUEUED]["cell"], trial.user_attrs[ENQUEUED]["seed"]) for trial in queued}
    assert wanted == {(name, seed) for name in others for seed in study.seeds} | {
        (finished, seed) for seed in study.seeds[1:]
    }
    assert set(settings[0]["configs"]) == {finished, *others}


def test_a_cell_whose_run_was_deleted_is_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trial is complete, but has no run any more."""
    study = replace(build_study("backbones", "tiny", "honest"), seeds=(0,))
    done: list[Outcome] = []
    monkeypatch.setattr(Outcomes, "of_parent", lambda *_: Outcomes(done))
    monkeypatch.setattr(StudyRunner, "_report", lambda *_: {})
    monkeypatch.setattr(StudyRunner, "open_parent", lambda _: "parent")
    rounds: list[list[str]] = []

    def work(name: str, url: str, *_: object) -> None:
        storage = open_storage(url)
        queue = optuna.load_study(study_name=name, storage=storage, pruner=optuna.pruners.NopPruner())
        ran = []
        while queue.get_trials(states=(TrialState.WAITING,)):
            trial = queue.ask()
            ran.append(trial.user_attrs[ENQUEUED]["cell"])
            queue.tell(trial, 0.5)
        close(storage)
        rounds.append(ran)
        done[:] = [Outcome(cell.name, 0, "id", {}) for cell in study.cells]

    monkeypatch.setattr(runner, "work_together", work)
    made = StudyRunner(study, "tiny", "honest", Options.read(["--data", str(folder)]), "sqlite:///trials.db")
    made.run()
    made.run()
    deleted = done.pop()
    made.run()
    assert sorted(rounds[0]) == sorted(cell.name for cell in study.cells)
    assert rounds[1:] == [[], [deleted.cell]]


def test_a_report_before_the_choice_is_made_says_what_there_is(folder: Path) -> None:
    study = build_study("balanced-augmentation", "tiny", "honest")
    made = StudyRunner(study, "tiny", "honest", Options.read(["--data", str(folder)]))
    made.open_parent()
    assert made.run(only_report=True) == {}
    report = Path("mlruns", "reports", made.key, "report.md").read_text()
    assert "0 of 29 cells finished" in report
    assert "Chosen transforms" not in report


def test_a_cell_reads_the_choice_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker still in the first stage may be handed it, and knows of no choice then."""
    choice = build_study("balanced-augmentation", "tiny", "honest").choice
    assert choice is not None
    chosen = ["blur", "crop", "flip", "rotation", "zoom"]
    monkeypatch.setattr(runner, "run_row", lambda run: {"tags.chosen": json.dumps(chosen)})
    requested: list[RunConfig] = []

    def trains(config: RunConfig) -> tuple[str, dict[str, float]]:
        requested.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run_once", trains)
    monkeypatch.setattr(runner, "end_stale_run", lambda *_: None)
    trial = SimpleNamespace(user_attrs={ENQUEUED: {"cell": "over-sampling, chosen five", "seed": 0}})
    settings = StudyRunner(build_study("balanced-augmentation", "tiny", "honest"), "tiny", "honest").settings("p")
    with pytest.raises(KeyboardInterrupt):
        runner.run_cell(cast(optuna.Trial, trial), settings)
    assert requested[0].data["transforms"] == chosen


def test_a_recipe_edited_while_a_study_runs_changes_no_cell(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells were resolved when the command began, so all of them are of the recipe as it was then."""
    shutil.copytree(config.RECIPES, workplace / "recipes")
    monkeypatch.setattr(config, "RECIPES", workplace / "recipes")
    monkeypatch.setattr(runner, "end_stale_run", lambda *_: None)
    decay: list[float] = []

    def trains(config: RunConfig) -> tuple[str, dict[str, float]]:
        decay.append(config.model["weight_decay"])
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run_once", trains)
    study = build_study("backbones", "tiny", "honest")
    first = StudyRunner(study, "tiny", "honest")
    recipe = workplace / "recipes" / "dense-dense.yaml"
    recipe.write_text(recipe.read_text().replace("weight_decay: 0.0", "weight_decay: 0.1"))
    second = StudyRunner(study, "tiny", "honest")
    assert second.key != first.key
    for made in (first, second):
        trial = SimpleNamespace(user_attrs={ENQUEUED: {"cell": study.cells[0].name, "seed": 0}})
        with pytest.raises(KeyboardInterrupt):
            runner.run_cell(cast(optuna.Trial, trial), made.settings("p"))
    assert decay == [0.0, 0.1]


def test_training_scores_are_those_of_evaluation() -> None:
    """In training mode batch normalisation would look at the batch, and refuse one picture."""

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def probabilities(self, image: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, self.norm(image)).softmax(1)

    batches = [
        {"image": torch.tensor([[1.0, 0.0], [2.0, 0.0]]), "label": torch.tensor([0, 0])},
        {"image": torch.tensor([[1.0, 0.0]]), "label": torch.tensor([1])},
    ]
    data = SimpleNamespace(evaluation_loader=lambda rows: batches, fold_rows=SimpleNamespace(train=None))
    done = SimpleNamespace(data=data, model=Model().train())
    assert runner.training_scores(cast(Any, done)) == {"train/accuracy": pytest.approx(2 / 3)}


def test_a_study_read_off_at_certain_epochs_keeps_them() -> None:
    study = build_study("teachable", "tiny", "honest")
    with pytest.raises(
        InputError, match=r"--trainer.max_epochs: study teachable reports accuracy after 20, 50, 100 epochs, got 1;"
    ):
        checked(study, "--trainer.max_epochs", "1")
