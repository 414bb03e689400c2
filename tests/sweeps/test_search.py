"""A search from its first trial to its recipe, on a few drawn faces; and its parts, on studies made by hand."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState, create_trial

import emotion
from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules import training
from lightning_modules.config import Options
from results.tracking.runs import find_runs
from sweeps import search
from sweeps.cross_validation import end_stale_run, end_stale_runs
from sweeps.search import (
    Plan,
    Report,
    best_trials,
    check_names,
    check_options,
    check_same,
    open_study,
    run_trial,
    search_config,
    wanted_trials,
    warm_starts,
)
from sweeps.search_report import search_figures
from sweeps.spaces import Choice
from sweeps.workers import ERROR, build_pruner, build_sampler, check_strategy, close, enqueue, open_storage

TINY = (
    *("--data", "drawn:largest=40,ratio=2,size=32", "--data.size", "32", "--data.batch_size", "32"),
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "1", "--run.resamples", "100", "--data.n_min", "0.9"),
)
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, MLflow's and Optuna's advice, tested elsewhere


def plan(*words: str, name: str = "x", space: Sequence[str] = ("size",), folds: int = 5) -> Plan:
    return Plan(name=name, config=search_config(Options.read(words)), space=list(space), folds=folds)


def test_reports_are_running_means_at_steps_of_their_own() -> None:
    told: list[tuple[float, int]] = []
    trial: Any = SimpleNamespace(report=lambda value, step: told.append((value, step)), should_prune=lambda: True)
    report = Report(trial, [0.4], folds=2, epochs=3, each_epoch=True)
    for epoch, value in enumerate([0.2, 0.1, 0.6]):
        metrics = {"val/f1_macro": torch.tensor(value)}
        trainer: Any = SimpleNamespace(
            sanity_checking=False, callback_metrics=metrics, current_epoch=epoch, should_stop=False
        )
        report.pruned = False
        report.on_validation_end(trainer, None)  # type: ignore[arg-type]
        assert report.pruned == trainer.should_stop == (epoch < 2)  # not at the last step of all
    assert [step for _, step in told] == [3, 4, 5]
    assert [value for value, _ in told] == pytest.approx([0.3, 0.3, 0.5])
    assert report.best == pytest.approx(0.6)


@pytest.fixture
def storage(workplace: Path) -> Iterator[optuna.storages.RDBStorage]:
    opened = open_storage(f"sqlite:///{workplace}/optuna.db")
    yield opened
    close(opened)


def finished(value: float | list[float], **params: float) -> optuna.trial.FrozenTrial:
    distributions = {name: optuna.distributions.FloatDistribution(0, 10) for name in params}
    values = value if isinstance(value, list) else [value]
    return create_trial(values=values, params=params, distributions=distributions)


def test_a_warm_start_tries_the_best_first_and_counts(storage: optuna.storages.RDBStorage) -> None:
    other = optuna.create_study(study_name="other", storage=storage, direction="maximize")
    for value, rate in ((0.1, 1e-3), (0.9, 2e-3), (0.5, 3e-3), (0.95, 1.0)):  # 1.0 is not in the space
        other.add_trial(finished(value, **{"model.learning_rate": rate, "model.dropout": 0.5}))
    other.add_trial(create_trial(state=TrialState.FAIL))
    study = optuna.create_study(study_name="new", storage=storage, direction="maximize")
    new = plan(name="new", space=["optimizer"])
    wanted = wanted_trials(new, study, storage, 5, "other")
    assert wanted == [{"model.learning_rate": rate} for rate in (2e-3, 3e-3, 1e-3)] + [{}, {}]
    assert enqueue(study, wanted) == 5
    assert enqueue(study, wanted_trials(new, study, storage, 5, "other")) == 0
    assert enqueue(study, wanted_trials(new, study, storage, 6, None)) == 1
    with pytest.raises(InputError, match="--warm-start: no study 'nothing' in this storage; there are: other, new"):
        wanted_trials(new, study, storage, 5, "nothing")
    with pytest.raises(InputError, match="no finished trial with an option and value of this space"):
        wanted_trials(plan(name="new"), study, storage, 5, "other")
    with pytest.raises(InputError, match="--warm-start: cannot be used with --sampler grid"):
        warm_starts(replace(new, sampler="grid"), storage, "other")


def test_the_best_of_two_objectives_is_a_front(storage: optuna.storages.RDBStorage) -> None:
    study = optuna.create_study(study_name="two", storage=storage, directions=["maximize", "minimize"])
    with pytest.raises(InputError, match="none of 1 trials finished: 1 x no memory"):
        best_trials(study, [create_trial(state=TrialState.FAIL, user_attrs={ERROR: "no memory"})])
    for values in ([0.5, 10.0], [0.6, 30.0], [0.4, 20.0], [0.55, 10.0]):
        study.add_trial(finished(values, x=values[0]))
    front = best_trials(study, study.get_trials())
    assert [trial.values for trial in front] == [[0.6, 30.0], [0.55, 10.0]]
    assert set(search_figures(study)) == {"pareto_front", "param_importances"}


def test_figures_need_enough_trials(storage: optuna.storages.RDBStorage) -> None:
    study = optuna.create_study(study_name="one", storage=storage, direction="maximize")
    assert search_figures(study) == {}
    study.add_trial(finished(0.5, x=1.0))
    assert set(search_figures(study)) == {"optimization_history"}
    for value in range(4):
        study.add_trial(finished(value / 10, x=float(value)))
    assert set(search_figures(study)) == {"optimization_history", "param_importances"}


def test_a_lost_trials_runs_are_closed(workplace: Path) -> None:
    from results.tracking.logger import TrackingLogger

    lost = TrackingLogger(run_name="trial 0", system_metrics=False)
    fold = TrackingLogger(run_name="fold", parent_run_id=str(lost.run_id), system_metrics=False)
    fold.open()
    with contextlib.ExitStack() as end:
        end.callback(lost.close)
        end.callback(fold.close)
        end_stale_run(str(lost.run_id), "another")
        assert set(find_runs()["status"]) == {"RUNNING"}
        end_stale_run(str(lost.run_id), "fold")
        assert sorted(find_runs()["status"]) == ["KILLED", "RUNNING"]
        end_stale_runs([str(lost.run_id)])
        assert set(find_runs()["status"]) == {"KILLED"}


def test_the_run_of_a_trial_has_an_identity(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_folds", lambda *_: ([0.5], 1.0))
    settings = plan(*TINY, folds=2).settings("parent")
    study = optuna.create_study(direction="maximize")
    for size in (48, 48, 64):
        study.enqueue_trial({"data.size": size})
        run_trial(study.ask(), settings)
    study.enqueue_trial({"data.size": 48})
    run_trial(study.ask(), settings | {"data": "other images"})
    runs = find_runs(where="tags.kind = 'trial'").set_index("tags.trial")["tags.identity"]
    assert runs["0"] == runs["1"]
    assert runs.nunique() == 3


def test_a_search_that_is_resumed_by_other_code_says_so(
    storage: optuna.storages.RDBStorage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = plan(*TINY)
    open_study(small, storage)
    open_study(small, storage)
    assert "was started with" not in capsys.readouterr().err
    monkeypatch.setattr(training, "environment", lambda: {"git_commit": "f" * 40, "lock_sha256": "other"})
    open_study(small, storage)
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "was started with" in line]
    assert "other packages (requirements.lock differs); it is resumed, and records this" in note
    (parent,) = find_runs(where="tags.kind = 'search'").to_dict("records")
    assert parent["tags.resumed_with"] == f"{'f' * 40} other"


def test_each_trial_draws_from_a_stream_of_its_own() -> None:
    def first(number: int) -> float:
        study = optuna.create_study(sampler=build_sampler({"sampler": "tpe", "seed": 3}, number))
        return study.ask().suggest_float("x", 0, 1)

    assert first(1) == first(1) != first(2)
    assert isinstance(build_sampler({"sampler": "nsga2"}, 0), optuna.samplers.NSGAIISampler)
    assert isinstance(build_sampler({"sampler": "grid"}, 0), optuna.samplers.RandomSampler)


def test_hyperband_ends_poor_trials_and_uses_every_step() -> None:
    pruner = build_pruner({"pruner": "hyperband", "folds": 3, "epochs": 6})
    study = optuna.create_study(direction="maximize", pruner=pruner, study_name="s")
    ended = []
    for number in range(30):
        trial = study.ask()
        for step in range(18):
            trial.report(number % 5, step)
            if trial.should_prune():
                ended.append(step)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, number % 5)
    assert 5 < len(ended) < 28
    assert min(ended) < 6
    assert isinstance(build_pruner({"pruner": "wilcoxon"}), optuna.pruners.WilcoxonPruner)
    assert isinstance(build_pruner({}), optuna.pruners.NopPruner)


def test_what_no_trial_could_run_with_is_refused() -> None:
    with pytest.raises(InputError, match="--pruner hyperband: a trial of two objectives cannot be pruned"):
        check_strategy("tpe", "hyperband", 2, 5)
    with pytest.raises(InputError, match=r"--pruner wilcoxon: .* got --folds 5; give at least 6"):
        check_strategy("tpe", "wilcoxon", 1, 5)
    with pytest.raises(InputError, match=r"--data.fold: a search sets it"):
        check_options(Options.read(["--data.fold", "2"]))
    with pytest.raises(InputError, match=r"--split: a search sets it \(got 'folds'\)"):
        check_options(Options.read(["--split", "folds"]))
    check_options(Options.read(["--split", "given", "--drop-twins"]))
    with pytest.raises(
        InputError, match=r"model.learning_rat is not an option of `emotion fit`; did you mean model.learning"
    ):
        check_names({"model.learning_rat": Choice((1,))})
    with pytest.raises(InputError, match=r"data.fold_seed cannot be searched"):
        check_names({"data.fold_seed": Choice((1, 2))})
    for divides in ("data.holdout_fraction", "data.leak", "data.read.part", "data.stratify_by"):
        with pytest.raises(InputError, match=rf"{divides} cannot be searched, it is the same for all trials"):
            check_names({divides: Choice((0.1, 0.2))})
    with pytest.raises(InputError, match=r"--folds: must be at least 2 inner folds, got 1"):
        plan(folds=1).check()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"data": {"init_args": {"protocol": "paper"}}}, "--data.inner_folds needs --data.protocol honest"),
        ({"data": {"init_args": {"fold": 2}}}, "--data.fold is 2, which only --data.split folds uses"),
        ({"run": {"evaluate": False}}, "run.evaluate: a search sets it"),
        ({"run": {"resume": "auto"}}, "run.resume: a search sets it"),
    ],
)
def test_a_recipe_that_no_trial_could_run_with_is_refused(workplace: Path, recipe: dict, message: str) -> None:
    (workplace / "mine.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=message):
        plan("--config", "mine.yaml").check()


def test_a_recipe_may_report_on_the_given_part(workplace: Path) -> None:
    (workplace / "mine.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"split": "given", "leak": "allow"}}}))
    given = plan("--config", "mine.yaml")
    given.check()
    assert given.config.data["split"] == "given"
    assert plan("--recipe", "balanced").config.data["split"] == "holdout"


def test_options_may_go_together_only_with_what_is_drawn() -> None:
    """Copies are transformed, and the space says how many there are."""
    copies = ("--data.transform_where", "copies", "--data.transforms", "[flip]")
    balanced = plan("--recipe", "baseline", *copies, space=["balance"])
    balanced.check()
    assert isinstance(balanced.data.n_min, float)
    with pytest.raises(InputError, match=r"without --data.n_min there are none"):
        plan("--recipe", "baseline", *copies).check()


def test_where_the_data_lie_is_nobodys_business_but_what_they_are_is(workplace: Path) -> None:
    def identity(*args: str) -> dict:
        return plan(*args).identity

    faces = "drawn:largest=8,ratio=1,size=32"
    first = EmotionDataModule(faces).manifest
    first.save("one.csv")
    first.save("two.csv")
    first.select(range(len(first) - 1)).save("less.csv")
    one = identity("--data", "one.csv")
    check_same("x", one, identity("--data.source", "two.csv"))
    with pytest.raises(InputError, match=r"study x was started with other data \(images or labels\); give"):
        check_same("x", one, identity("--data", "less.csv"))
    with pytest.raises(InputError, match=r"other data"):
        check_same("x", identity("--data", faces), identity("--data", faces.replace("32", "40")))


def test_the_recipe_never_takes_the_place_of_the_space(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = workplace / "grid.yaml"
    space.write_text("model.dropout: {choice: [0.0, 0.1]}\n")
    assert emotion.main(["search", "--recipe", "quick", "--space", "grid.yaml", "--name", "grid"]) == 1
    assert "--write: the winner's config would overwrite the search space grid.yaml" in capsys.readouterr().err
    assert "choice" in space.read_text()
