"""One tracked run of the detector: training, the one evaluation of the outer part, and what it leaves."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.faces.boxes_data import BoxesDataModule
from lightning_modules.callbacks import CheckedCheckpointIO, NonFiniteLoss, average_weights
from lightning_modules.cli import quiet
from lightning_modules.detector.module import MONITOR, FaceDetector
from lightning_modules.detector.precision import Picture, intervals
from lightning_modules.detector.resume import config_hash, division_hash, run_to_go_on
from lightning_modules.detector.tables import detection_table, pictures_of, truth_table
from lightning_modules.device import best_device
from lightning_modules.progress import run_progress
from lightning_modules.run import GoOnAtBatch, forget_training_state, resume_checkpoint
from lightning_modules.stops import StopGracefully, explained, how_it_ended, sigterm_ends
from lightning_modules.tracked_run import RunLogger, config_text


@dataclass(frozen=True)
class DetectorRun:
    """What a run is called, how long it trains and where.

    Attributes:
        name: the run's name on the MLflow page; by default data, backbone and seed.
        experiment: MLflow experiment.
        parent: run id of the parent, for the members of a study.
        resume: run id to go on with, or "auto": the newest unfinished run of the same config.
        epochs: most epochs.
        patience: stop after this many epochs without a better inner map_50; None: train all epochs.
        ema_decay: average the weights with this decay per step and keep the average; None: do not.
        accelerator: "auto", "cpu" or "gpu".
        precision: of the computations, such as "bf16-mixed".
        clip: largest norm of the gradient.
        resamples: bootstrap resamples of the printed intervals.
    """

    name: str | None = None
    experiment: str = "face-detector"
    parent: str | None = None
    resume: str | None = None
    epochs: int = 12
    patience: int | None = None
    ema_decay: float | None = None
    accelerator: str = "auto"
    precision: str = "32-true"
    clip: float = 10.0
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("patience", 1), ("resamples", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                msg = f"run.{name} must be at least {least}, got {value}"
                raise InputError(msg)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            msg = f"run.ema_decay must be between 0 and 1 (such as 0.998), got {self.ema_decay}"
            raise InputError(msg)


class DetectorLines(Callback):
    """One line an epoch with the loss and the inner average precision."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print it."""
        known = trainer.callback_metrics
        names = {"train/loss": "loss", "val/loss": "inner loss", "val/map_50": "mAP@.5", "val/map": "mAP@.5:.95"}
        values = ", ".join(f"{shown} {float(known[name]):.3f}" for name, shown in names.items() if name in known)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {values}", file=sys.stderr, flush=True)


def make_trainer(options: DetectorRun, **more: Any) -> pl.Trainer:  # noqa: ANN401 - Lightning's options
    """Return a trainer for one device."""
    quiet()
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=1,
        max_epochs=options.epochs,
        precision=options.precision,  # type: ignore[arg-type] # Lightning says what it takes
        gradient_clip_val=options.clip,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10,
        **more,
    )


def fit(
    model: FaceDetector,
    data: BoxesDataModule,
    options: DetectorRun,
    config: dict[str, Any],
    seed: int = 0,
    more_tags: dict[str, str] | None = None,
) -> tuple[str, pd.DataFrame]:
    """Train, keep the epoch that is best on the inner part, evaluate that once on the outer part.

    Args:
        model: untrained, or to be trained on.
        data: pictures and boxes.
        options: of the run.
        config: what is logged, plain types.
        seed: what is written beside the run.
        more_tags: of the run, such as its place in a study.

    Returns:
        The run's id, and the average precisions of the outer part with intervals, see `precision.intervals`.
    """
    data.prepare_data()
    data.setup("fit")  # wrong data leaves no run behind
    name = options.name or f"detector {data.manifest.name} {model.plain['backbone']} seed {seed}"
    tags = {
        "kind": "detector", "seed": str(seed), "data": data.manifest.name, "manifest": data.manifest.fingerprint(),
        "config_hash": config_hash(config), "division": division_hash(data), **(more_tags or {}),
    }  # fmt: skip
    run_id = run_to_go_on(options.resume, options.parent, config, data)
    tracker = RunLogger(
        experiment=options.experiment, run_name=name, run_id=run_id, parent_run_id=options.parent, tags=tags
    )
    try:
        folder = tracker.run_folder
        start = resume_checkpoint(folder) if run_id else None
        callbacks = run_callbacks(options, folder)
        bar = any(isinstance(one, pl.callbacks.ProgressBar) for one in callbacks)
        trainer = make_trainer(
            options, logger=tracker, callbacks=callbacks, default_root_dir=str(folder), plugins=[CheckedCheckpointIO()],
            enable_progress_bar=bar,
        )  # fmt: skip
        tracker.log_hyperparams(config)
        tracker.log_text(config_text(config), "config.yaml")
        counts = data.split_table().groupby("role")["faces"].agg(["size", "sum"])
        profile = {"pictures": counts["size"].to_dict(), "faces": counts["sum"].to_dict(), "clipped": data.clipped}
        tracker.log_dataset(data.manifest.name, data.source, data.manifest.fingerprint(), profile=profile)
        with sigterm_ends(), explained(data.batch_size):
            trainer.fit(model, datamodule=data, ckpt_path=str(start) if start else None, weights_only=True)
            best = str(folder / "best.ckpt")
            trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        tracker.log_file(best, "checkpoint")
        table = intervals(pictures_of(model.detections, data), resamples=options.resamples, seed=seed)
        tracker.log_table(detection_table(model.detections, data), "detections")
        tracker.log_table(truth_table(data, data.fold.outer), "truth")
        tracker.log_table(data.split_table(), "split")
        tracker.log_table(table, "intervals")
        ends = {f"test/{row.metric}_{end}": getattr(row, end) for row in table.itertuples() for end in ("low", "high")}
        tracker.log_metrics(ends)
        tracker.end("success")
        forget_training_state(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what ended the run is told, not that its end cannot be written
            tracker.end(how_it_ended(error))
        if options.parent is None and list(tracker.run_folder.glob("*.ckpt")):
            advice = f"the run is kept; to go on: the same command with --resume {tracker.run_id}"
            print(advice, file=sys.stderr)
        raise
    return str(tracker.run_id), table


def run_callbacks(options: DetectorRun, folder: Path) -> list[Callback]:
    """Return what every run has: best and last checkpoint, guards, progress, and what its options ask for."""
    files: dict[str, Any] = {"dirpath": folder, "auto_insert_metric_name": False, "enable_version_counter": False}
    callbacks: list[Callback] = [
        ModelCheckpoint(filename="best", monitor=MONITOR, mode="max", save_weights_only=True, **files),
        ModelCheckpoint(filename="last", save_top_k=1, monitor=None, save_on_train_epoch_end=True, **files),
        StopGracefully(folder),
        GoOnAtBatch(),
        NonFiniteLoss(),
        run_progress() if sys.stdout.isatty() else DetectorLines(),
    ]
    if options.patience is not None:
        callbacks.append(EarlyStopping(monitor=MONITOR, mode="max", patience=options.patience))
    if options.ema_decay is not None:
        callbacks.append(average_weights(options.ema_decay))
    return callbacks


def find_faces(
    model: FaceDetector, data: BoxesDataModule, rows: Sequence[int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Look for faces in some rows; return boxes (F, 4) and scores (F,) of each."""
    device = best_device()
    model = model.to(device).eval()
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with torch.inference_mode():
        for batch in tqdm(
            data.loader(np.asarray(rows, np.int64)), desc="looking for faces", unit="batch", delay=1, disable=None
        ):
            found.update(zip(batch["row"].tolist(), model.found(model(batch["image"].to(device))), strict=True))
    return found


def evaluate(model: FaceDetector, data: BoxesDataModule, rows: Sequence[int]) -> list[Picture]:
    """Look for faces in some rows, and match what is found with the truth, in the order of the rows' numbers."""
    return pictures_of(find_faces(model, data, rows), data)


def text_of(table: pd.DataFrame, pictures: int, faces: int, kind: str = "held-out pictures") -> str:
    """Return the result as people read it."""
    shown = {"map_50": "mAP@.5", "map": "mAP@.5:.95"}
    lines = [
        f"{shown[row.metric]:<11} {row.value:.3f}  ({row.low:.3f} to {row.high:.3f})" for row in table.itertuples()
    ]
    return "\n".join([f"{faces} faces in {pictures} {kind}; 95 % intervals over pictures", *lines])


def checkpoint_of(which: str) -> Path:
    """Return the checkpoint that a file's name or a run (its id, the beginning of that, name, or latest) stands for."""
    from lightning_modules.stored import CHECKPOINT
    from records.runs import download, find_run

    path = Path(which).expanduser()
    if path.is_file() or path.suffix == ".ckpt":
        return path
    return download(find_run(which), CHECKPOINT)
