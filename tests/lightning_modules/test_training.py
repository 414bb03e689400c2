"""What `train` refuses, and what it says of a run that goes on with other code."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from lightning_modules import training
from lightning_modules.config import RunConfig
from lightning_modules.predictor import Predictor
from lightning_modules.training import keep_evaluation, note_other_code, train
from results.tracking.logger import TrackingLogger
from results.tracking.store import ensure_store


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_find_unused_parameters_true_spawn"])
def test_strategies_that_copy_the_process_are_refused(strategy: str) -> None:
    config = RunConfig.resolve(["--data", "nowhere"]).override({"trainer.strategy": strategy})
    with pytest.raises(InputError, match=rf"--trainer.strategy: {strategy} .* give --trainer.strategy ddp"):
        train(config)


def test_a_notebook_trains_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_IS_INTERACTIVE", True)
    config = RunConfig.resolve(["--data", "nowhere", "--trainer.devices", "2"])
    with pytest.raises(InputError, match=r"--trainer.devices: must be 1 in a notebook, got '?2'?; .*`emotion fit`"):
        train(config)
    with pytest.raises(InputError, match="no such file or folder, got 'nowhere'"):
        train(config.override({"trainer.devices": 1}))


def test_options_that_no_longer_train_can_still_be_evaluated(tmp_path: Path) -> None:
    older = {"model.mixup": 0.2, "model.unmixed_epochs": 1, "trainer.max_epochs": 1, "model.shift_at_test": 0.001}
    config = RunConfig.resolve(["--data", "nowhere"]).override(older)
    with pytest.raises(InputError, match=r"--model.unmixed_epochs: must be below"):
        train(config)
    with pytest.raises(InputError, match=r"no such file: .*gone.ckpt"):
        training.evaluate(config, tmp_path / "gone.ckpt", "test")


@pytest.mark.parametrize(("option", "value"), [("--run.start_from", "nope"), ("--run.teacher", "[nope]")])
def test_a_run_that_does_not_exist_is_named_with_its_option(workplace: Path, option: str, value: str) -> None:
    ensure_store()  # of runs, with none in it
    config = RunConfig.resolve(["--data", "nowhere", option, value])
    for check in (training.check_options, training.describe_run):
        with pytest.raises(InputError, match=rf"^{option}: there is no run 'nope'"):
            check(config)


@pytest.mark.parametrize(
    ("commit", "changed", "lock", "noted"),
    [
        ("a" * 40, False, "lock", []),
        ("b" * 40, False, "lock", []),  # an empty commit, or one of tests and documents
        ("b" * 40, True, "lock", ["other code"]),
        ("a" * 40, False, "new", ["other packages"]),
        ("b" * 40, True, "new", ["other code", "other packages"]),
    ],
)
def test_other_code_is_noted_when_a_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    commit: str,
    changed: bool,
    lock: str,
    noted: list[str],
) -> None:
    monkeypatch.setattr(training, "_row", lambda run: {"tags.git_commit": "a" * 40, "tags.lock_sha256": "lock"})
    monkeypatch.setattr(training, "environment", lambda: {"git_commit": commit, "lock_sha256": lock})
    monkeypatch.setattr(training, "changed_between", lambda one, other: changed)
    tags = note_other_code("run")
    said = capsys.readouterr().err
    assert tags == ({"resumed_with": f"{commit} {lock}"} if noted else {})
    assert bool(said) == bool(noted)
    for what in noted:
        assert what in said


TINY = [
    *("--data", "drawn:largest=16,ratio=1,size=32", "--split", "holdout", "--data.size", "16"),
    *("--model.weights", "none", "--model.backbone", "test_resnet", "--trainer.max_epochs", "1"),
    *("--data.n_min", "null", "--data.transforms", "[]", "--data.transform_where", "none", "--run.resamples", "100"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"),
]


@pytest.mark.slow  # three runs from reading to figures
@pytest.mark.usefixtures("workplace", "blank_figures")
@pytest.mark.filterwarnings("ignore")  # Lightning's and MLflow's advice to their users, tested elsewhere
def test_a_run_learns_from_a_teacher_that_has_not_seen_what_it_reports() -> None:
    teacher = train(RunConfig.resolve(TINY))
    assert teacher is not None
    student = train(RunConfig.resolve([*TINY, "--run.teacher", f"[{teacher.run_id}]", "--data.size", "20"]))
    assert student is not None
    assert student.data.targets is not None
    rows = student.data.fold_rows.train
    own = np.eye(len(student.classes))[student.data.manifest.labels]
    learnt = 2 * student.data.targets[rows] - own[rows]  # half of each target is the teacher's
    member = Predictor.load(teacher.run_id).members[0]
    np.testing.assert_allclose(learnt, member.probabilities(teacher.data.cache.read(rows)), atol=1e-4)
    elsewhere = [*TINY, "--data.fold_seed", "1", "--run.teacher", f"[{teacher.run_id}]"]
    with pytest.raises(InputError, match=r"--run.teacher: .* was trained or selected on \d+ of the \d+ images"):
        train(RunConfig.resolve(elsewhere))
    with pytest.raises(InputError, match="loss LDAM needs one class per image"):
        train(RunConfig.resolve([*elsewhere, "--data.fold_seed", "0", "--model.loss", "LDAM"]))


def test_a_class_without_test_images_has_no_f1_in_the_run(blank_figures: None) -> None:
    rows = np.arange(8)
    label = np.array(["happy", "sad"] * 4, dtype=object)
    content = np.array([f"{row:064d}" for row in rows], dtype=object)
    shared = {"row": rows, "path": [f"{row}.png" for row in rows], "content": content, "cluster": rows, "fold": 0}
    chances = {"prob_angry": 0.1, "prob_happy": np.where(label == "happy", 0.6, 0.3)}
    predictions = pd.DataFrame({**shared, "subject": "", "label": label, "predicted": label, **chances})
    predictions["prob_sad"] = 0.9 - predictions["prob_happy"]
    split = pd.DataFrame({**shared, "role": "test", "is_copy": False, "subject": ""}).drop(columns="path")
    tracker = Mock(spec=TrackingLogger, tags={"kind": "run"}, title="a run", run_id="0" * 32)
    tracker.history.return_value = {}
    keep_evaluation(tracker, predictions, split, resamples=100)
    scores = tracker.log_model_scores.call_args.args[0]
    assert {name: scores[f"test/{name}"] for name in ("f1_happy", "f1_sad", "f1_macro")} == {
        "f1_happy": 1.0, "f1_sad": 1.0, "f1_macro": 1.0
    }  # fmt: skip
    assert "test/f1_angry" not in scores
