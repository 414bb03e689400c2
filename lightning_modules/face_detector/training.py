"""Training of the face detector: its config, its tables, and one evaluation of the test part."""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tqdm import tqdm

from datamodules.face_boxes import BoxesDataModule
from datamodules.manifest import SIDES
from lightning_modules.backbones import best_device
from lightning_modules.callbacks import (
    AverageWeights,
    NonFiniteLoss,
    ResumeAtBatch,
    StopEarly,
    StopGracefully,
    run_progress,
)
from lightning_modules.config import DetectorRun, Options, RunConfig
from lightning_modules.face_detector.network import (
    CONFIG_KEY,
    MONITOR,
    FaceDetector,
    ImageMatches,
    intervals,
    match,
    read_detector,
)
from lightning_modules.training import RunLogger, Task, log_config
from lightning_modules.warm_start import refuse_seen, seen_by
from results.reports.pages import Section
from results.reports.run_page import REPORT, command_list, next_commands, result_page
from results.reports.tables import as_markdown, escape_markdown, interval, number
from results.tracking.runs import find_run

Detections = dict[int, tuple[np.ndarray, np.ndarray]]  # row -> boxes (F, 4) in the square, scores (F,)


def image_matches(detections: Detections, data: BoxesDataModule) -> list[ImageMatches]:
    """Match the detections of rows with the true boxes, in the order of the rows."""
    return [match(*detections[row], data.boxes[row]) for row in sorted(detections)]


def detection_table(detections: Detections, data: BoxesDataModule) -> pd.DataFrame:
    """Return row, path, score, x0, y0, x1, y1 (pixels of the square) of every detected box."""
    paths = data.manifest.table["path"]
    rows = [
        {"row": row, "path": paths.iat[row], "score": score, **dict(zip(SIDES, box, strict=True))}
        for row, (boxes, scores) in sorted(detections.items())
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["row", "path", "score", *SIDES])


def truth_table(data: BoxesDataModule, rows: Iterable[int]) -> pd.DataFrame:
    """Return row, path, x0, y0, x1, y1 (pixels of the square) of every true box of some rows.

    An image without a face has one row without corners, so that the table lists every image.
    """
    paths = data.manifest.table["path"]
    lines = [
        {"row": row, "path": paths.iat[row], **dict(zip(SIDES, box, strict=True))}
        for row in sorted(map(int, rows))
        for box in (data.boxes[row].tolist() or [[np.nan] * 4])
    ]
    return pd.DataFrame(lines, columns=["row", "path", *SIDES])


def matched(detections: pd.DataFrame, truth: pd.DataFrame) -> list[ImageMatches]:
    """Return the matches of the images in two tables of the same rows, as :func:`image_matches` does."""
    boxes = {row: group for row, group in detections.groupby("row")}
    nothing = detections.iloc[:0]
    images = []
    for row, faces in truth.groupby("row"):
        image_detections = boxes.get(row, nothing)
        true = faces.loc[faces[SIDES[0]].notna(), list(SIDES)].to_numpy(np.float32)
        corners = image_detections[list(SIDES)].to_numpy(np.float32).reshape(-1, 4)
        images.append(match(corners, image_detections["score"].to_numpy(np.float32), true))
    return images


class DetectorLines(Callback):
    """Print one line per epoch with the loss and the average precision of the val part."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print it."""
        known = trainer.callback_metrics
        names = {"train/loss": "loss", "val/loss": "val loss", "val/map_50": "mAP@.5", "val/map": "mAP@.5:.95"}
        values = ", ".join(f"{shown} {float(known[name]):.3f}" for name, shown in names.items() if name in known)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {values}", file=sys.stderr, flush=True)


def detector_config(options: Options) -> RunConfig:
    """Return the config of a detector; if it starts from another detector, options of the network default to its.

    Raises:
        InputError: an unknown option, a value of the wrong type, or no such run or file to start from.
    """
    config = RunConfig.layered(options, "detector")
    start = config.run["start_from"]
    if start is None:
        return config
    known = read_detector(checkpoint_of(start))[CONFIG_KEY]
    network = {name: value for name, value in known.items() if name != "size"}
    base = {"model": {**network, "weights": "none"}, "data": {"size": known["size"]}}
    return RunConfig.layered(options, "detector", base)


class DetectorTask(Task):
    """Training of a face detector."""

    options: DetectorRun
    data: BoxesDataModule
    model: FaceDetector

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.options = options = DetectorRun(**config.run)
        network = {**config.model, "size": config.data["size"]}
        if options.start_from is None:
            self.model = FaceDetector(**network)
        else:
            self.model = FaceDetector.from_checkpoint(checkpoint_of(options.start_from), **network).train()
        self.data = BoxesDataModule(**config.data)
        self.trainer_options = {
            "accelerator": options.accelerator,
            "devices": 1,
            "max_epochs": options.epochs,
            "precision": options.precision,
            "gradient_clip_val": options.clip,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "log_every_n_steps": 10,
            "enable_progress_bar": sys.stdout.isatty(),
        }

    def division_hash(self) -> str:
        """Hash of which image is in which part."""
        split = self.data.split_table().drop(columns="content")  # older runs do not have this column
        digest = hashlib.sha256(pd.util.hash_pandas_object(split, index=False).to_numpy().tobytes())
        digest.update(np.concatenate(self.data.boxes).tobytes())
        return digest.hexdigest()[:16]

    def check_start(self) -> None:
        """Load the weights that the run starts from."""
        if self.options.start_from is not None:
            refuse_known(self.options.start_from, self.data, "--from")

    def name(self) -> str:
        """Return the name of the run."""
        data, backbone = self.data.manifest.name, self.model.plain["backbone"]
        return self.options.name or f"detector {data} {backbone} seed {self.config.seed_everything}"

    def tags(self) -> dict[str, str]:
        """Return the tags for this kind of training."""
        return {"kind": "detector"}

    def callbacks(self, folder: Path) -> list[Callback]:
        """Return checkpoints, early stopping, guards and progress."""
        return run_callbacks(self.options, folder)

    def log_beginning(self, tracker: RunLogger) -> None:
        """Log the config and the data set."""
        log_config(tracker, self.config)
        data = self.data
        counts = data.split_table().groupby("role")["faces"].agg(["size", "sum"])
        profile = {"pictures": counts["size"].to_dict(), "faces": counts["sum"].to_dict(), "clipped": data.clipped}
        tracker.log_dataset(data.manifest.name, data.source, data.manifest.fingerprint(), profile=profile)

    def evaluate(self, trainer: pl.Trainer, tracker: RunLogger) -> tuple[pd.DataFrame, str]:
        """Predict the test part once; return the table of predictions and the printed result."""
        model, data = self.model, self.data
        best = str(tracker.run_folder / "best.ckpt")
        trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        if self.options.keep != "none":
            tracker.log_file(best, "checkpoint")
        images = image_matches(model.detections, data)
        table = intervals(images, resamples=self.options.resamples, seed=self.config.seed_everything)
        table_of_detections = detection_table(model.detections, data)
        tracker.log_table(table_of_detections, "detections")
        tracker.log_table(truth_table(data, data.fold.test), "truth")
        tracker.log_table(data.split_table(), "split")
        tracker.log_table(table, "intervals")
        ends = {f"test/{row.metric}_{end}": getattr(row, end) for row in table.itertuples() for end in ("low", "high")}
        tracker.log_metrics(ends)
        text = text_of(table, len(images), sum(image.faces for image in images))
        about, commands = text.splitlines()[0], next_commands("detector", str(tracker.run_id))
        result = result_table(table)
        note = "\n\n".join([as_markdown(result), escape_markdown(about), command_list(commands)])
        tracker.set_tags({"mlflow.note.content": note})
        tags = {"backbone": self.model.plain["backbone"], "data": data.manifest.name}
        page = result_page(self.name(), tags, [Section("Result", table=result, below=(about,))], commands)
        tracker.log_text(page, REPORT)
        return table_of_detections, text

    def split_table(self) -> pd.DataFrame:
        """Return the table of the role of each image."""
        return self.data.split_table()


def run_callbacks(options: DetectorRun, folder: Path) -> list[Callback]:
    """Return the callbacks of a run: best and last checkpoint, guards, progress, and those of its options."""
    files: dict[str, Any] = {"dirpath": folder, "auto_insert_metric_name": False, "enable_version_counter": False}
    callbacks: list[Callback] = [
        ModelCheckpoint(filename="best", monitor=MONITOR, mode="max", save_weights_only=True, **files),
        ModelCheckpoint(filename="last", save_top_k=1, monitor=None, save_on_train_epoch_end=True, **files),
        ResumeAtBatch(),
        NonFiniteLoss(),
        run_progress() if sys.stdout.isatty() else DetectorLines(),
    ]
    if options.patience is not None:
        callbacks.append(StopEarly(monitor=MONITOR, mode="max", patience=options.patience, strict=False))
    if options.ema_decay is not None:
        callbacks.append(AverageWeights(options.ema_decay))
    return [*callbacks, StopGracefully(folder)]  # after the others have done what belongs to a step


def find_faces(
    model: FaceDetector, data: BoxesDataModule, rows: Sequence[int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Detect the faces of some rows; return boxes (F, 4) and scores (F,) of each row."""
    device = best_device()
    model = model.to(device).eval()
    detections: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with torch.inference_mode():
        for batch in tqdm(
            data.loader(np.asarray(rows, np.int64)), desc="detecting faces", unit="batch", delay=1, disable=None
        ):
            detections.update(zip(batch["row"].tolist(), model.decode(model(batch["image"].to(device))), strict=True))
    return detections


def evaluate(model: FaceDetector, data: BoxesDataModule, rows: Sequence[int]) -> list[ImageMatches]:
    """Detect the faces of some rows and match them with the true boxes, in the order of the row numbers."""
    return image_matches(find_faces(model, data, rows), data)


SHOWN = {"map_50": "mAP@.5", "map": "mAP@.5:.95"}


def result_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of :func:`intervals` as the text of a table."""
    return pd.DataFrame(
        {"score": SHOWN[row.metric], "value": number(row.value), "95% interval": interval(row.low, row.high)}
        for row in table.itertuples()
    )


def text_of(table: pd.DataFrame, images: int, faces: int, kind: str = "held-out images") -> str:
    """Return the result as text."""
    lines = [
        f"{SHOWN[row.metric]:<11} {row.value:.3f}  ({row.low:.3f} to {row.high:.3f})" for row in table.itertuples()
    ]
    return "\n".join([f"{faces} faces in {images} {kind}; 95 % intervals over images", *lines])


def checkpoint_of(which: str) -> Path:
    """Return the checkpoint that a file's name or a run (its id, the beginning of that, name, or latest) stands for."""
    from results.tracking.runs import CHECKPOINT, download, find_run

    path = Path(which).expanduser()
    if path.is_file() or path.suffix == ".ckpt":
        return path
    return download(find_run(which), CHECKPOINT)


def refuse_known(which: str, data: BoxesDataModule, option: str) -> None:
    """Raise for a detector that was trained or selected on images of the test part, or on images of their clusters.

    Args:
        which: the run or file, as `lightning_modules.face_detector.training.checkpoint_of` takes it.
        data: the images of the run; it records what the detector has seen.
        option: the option that named the detector.

    Raises:
        InputError: it was, or it does not record which images it was trained on.
    """
    path = Path(which).expanduser()
    run_id = None if path.is_file() or path.suffix == ".ckpt" else find_run(which)
    seen = seen_by(read_detector(checkpoint_of(which)), data, option, which, run_id)
    alike = "the same data.split, outer_fraction, inner_fraction and fold_seed"
    refuse_seen(seen, data, data.fold.test, option, which, alike)
