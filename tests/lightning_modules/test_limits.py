"""Limits of the trainer: what is refused before a run begins, and what runs with a part of the batches."""

import sqlite3
from pathlib import Path

import pytest

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.sampling import EpochBatchSampler
from lightning_modules.callbacks import explained
from lightning_modules.config import RunConfig
from lightning_modules.limits import check_limits, require_whole_runs, without_validation
from lightning_modules.training import check_options, train

TINY = (
    "--data drawn:largest=16,ratio=1 --split holdout --data.size 16 --data.batch_size 16 --model.weights none".split()
)
TINY += "--model.backbone test_resnet --trainer.accelerator cpu --trainer.enable_progress_bar false".split()
TINY += ["--run.resamples", "100", "--data.n_min", "null", "--data.transforms", "[]", "--data.transform_where", "none"]


def config(*words: str) -> RunConfig:
    return RunConfig.resolve([*TINY, *(word for text in words for word in text.split())])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trainer.limit_train_batches 0", "--trainer.limit_train_batches: must be above 0"),
        ("--trainer.max_steps 0", "--trainer.max_steps: must be at least 1"),
        ("--trainer.enable_checkpointing false", "--trainer.enable_checkpointing: must be .*--run.keep none"),
        (
            "--trainer.limit_val_batches 0 --model.schedule plateau",
            "--model.schedule plateau: needs validations.*--trainer.limit_val_batches 0",
        ),
        (
            "--trainer.max_epochs 1 --trainer.check_val_every_n_epoch 2 --run.patience 3",
            "--run.patience 3: needs validations.*--trainer.check_val_every_n_epoch 2",
        ),
        ("--model.progressive_from 8 --trainer.max_epochs -1", "--model.progressive_from: needs --trainer.max_epochs"),
        (
            "--model.mixup 0.2 --model.unmixed_epochs 2 --trainer.max_epochs 2",
            "--model.unmixed_epochs: must be below --trainer.max_epochs, 2",
        ),
        ("--model.stem_stride 1 --model.backbone vgg11", "--model.stem_stride: must be left out, .* has stride 1"),
        (
            "--model.shift_at_test 0.01 --data.size 32",
            "--model.shift_at_test: must move images of 32 px .* got 0.01; one pixel is 0.031",
        ),
        ("--model.backbone resnet18 --model.weights embedded", "--model.weights: embedded weights .* not for resnet18"),
        ("--run.ema_warmup 1 --run.ema_decay 0.9", "--run.ema_warmup: must be at least 2"),
        (
            "--model.sam_radius 0.1 --trainer.precision 16-mixed",
            "--model.sam_radius: must be 0 with --trainer.precision",
        ),
        ("--model.sam_radius 0.1 --trainer.precision 16", "--model.sam_radius: must be 0 with --trainer.precision"),
        (
            "--model.loss LDAM --model.loss.reweight_after 0.8 --trainer.max_epochs -1",
            "--model.loss.reweight_after: needs --trainer.max_epochs or --trainer.max_steps, got 0.8",
        ),
        (
            "--model.sam_radius 0.1 --trainer.accumulate_grad_batches 2",
            "--model.sam_radius: must be 0 with --trainer.accumulate_grad_batches",
        ),
        ("--run.ema_warmup 5", "--run.ema_warmup is 5, but nothing is averaged"),
        ("--model.loss LDAM --model.mixup 0.2", "loss LDAM needs one class per image .* leave --model.mixup, "),
        ("--model.loss LDAM --votes soft", "loss LDAM needs one class per image"),
        ("--data.size 50 --model.backbone vit_tiny_patch16_224", "--data.size: .* vit_tiny_patch16_224 .* got 50"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(config(words, "--data nowhere"))


@pytest.mark.parametrize(
    ("words", "none"),
    [
        ("", False),
        ("--trainer.limit_val_batches 0", True),
        ("--trainer.limit_val_batches 0.0", True),
        ("--trainer.check_val_every_n_epoch 5 --trainer.max_epochs 2", True),
        ("--trainer.check_val_every_n_epoch 2 --trainer.max_epochs 2", False),
        ("--trainer.fast_dev_run true --trainer.limit_val_batches 0", False),
        ("--trainer.overfit_batches 1 --trainer.limit_val_batches 0", False),
    ],
)
def test_whether_a_validation_will_run(words: str, none: bool) -> None:
    assert (without_validation(config(words)) is not None) == none
    check_limits(config(words))


@pytest.mark.parametrize(
    ("words", "validation", "message"),
    [
        ("--trainer.fast_dev_run true", False, "cannot be used in a search, .*emotion fit --trainer.fast_dev_run true"),
        ("--trainer.limit_test_batches 1", False, "--trainer.limit_test_batches: must be left out in a search"),
        ("--trainer.limit_val_batches 0", True, "--trainer.limit_val_batches 0: a search compares validations"),
    ],
)
def test_results_that_are_put_together_need_whole_runs(words: str, validation: bool, message: str) -> None:
    require_whole_runs(config(), "a search", validation=True)
    with pytest.raises(InputError, match=message):
        require_whole_runs(config(words), "a search", validation=validation)


def test_an_interval_longer_than_an_epoch_leaves_no_run_behind(workplace: Path) -> None:
    with pytest.raises(InputError, match=r"--trainer.val_check_interval: must be at most \d+, .* got 500"):
        train(config("--trainer.val_check_interval 500"))
    assert not Path("mlruns").exists()


def test_fast_dev_run_tries_all_parts_and_keeps_nothing(workplace: Path) -> None:
    result = train(config("--trainer.fast_dev_run 2 --model.schedule plateau --run.patience 2 --run.ema_decay 0.9"))
    assert result is not None
    assert result.run_id == ""
    assert "2 batches of training, validation and test ran; nothing was tracked" in result.text
    assert not Path("mlruns").exists()


@pytest.mark.usefixtures("blank_figures")
def test_without_validation_the_last_weights_are_evaluated(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_modules.predictor import Predictor

    result = train(config("--trainer.max_epochs 1 --trainer.limit_val_batches 0 --run.ema_decay 0.5"))
    assert result is not None
    assert "no validation ran" in capsys.readouterr().err
    assert len(result.predictions)
    with sqlite3.connect("mlruns/mlflow.db") as store:
        tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (result.run_id,)).fetchall())
    assert tags["selected_on"] == "nothing, the last epoch was used"
    answers = Predictor.load(result.run_id).predict(*(str(result.data.manifest.file(row)) for row in (0, 1)))
    assert set(answers["label"]) <= set(result.classes)


@pytest.mark.usefixtures("blank_figures")
def test_a_share_of_less_than_a_batch_is_one_batch_and_the_test_may_be_left_out(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--trainer.max_epochs 2 --trainer.overfit_batches 0.01 --trainer.check_val_every_n_epoch 2"
    result = train(config(words, "--model.schedule plateau --model.warmup 0 --trainer.limit_test_batches 0"))
    assert result is not None
    said = capsys.readouterr().err
    assert "batches of the train part is less than one batch; one batch is used" in said
    assert "the test part is not evaluated" in said
    assert result.predictions.empty
    assert (Path("mlruns/runs") / result.run_id / "best.ckpt").is_file()


def test_batches_are_the_same_in_every_epoch_where_they_are_to_be_overfitted() -> None:
    sampler = EpochBatchSampler(40, 8, seed=3, fixed=True)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(next(iter(sampler)).positions.tolist())
    assert orders[0] == orders[1] == orders[2]
    assert orders[0] != list(range(8))  # mixed classes
    data = EmotionDataModule()
    assert data.trainer is None


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "--shm-size"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "memory ran out"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "--data.num_workers 0"),
    ],
)
def test_a_killed_loading_process_is_explained(text: str, advice: str) -> None:
    with pytest.raises(InputError, match=advice), explained(8):
        raise RuntimeError(text)


def test_patience_in_a_run_that_ends_before_its_first_validation(workplace: Path) -> None:
    result = train(config("--trainer.max_steps 1 --trainer.max_epochs 5 --run.patience 3"))
    assert result is not None
    assert len(result.predictions)


def test_a_file_without_a_loss_has_the_default(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("model: {backbone: test_resnet, weights: none}\n")
    check_options(RunConfig.resolve(["--config", str(tmp_path / "bare.yaml"), "--data", "drawn"]))
