"""Cells that train a face detector: two sets of test images, and the differences between two detectors."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from datamodules.face_boxes import BoxesDataModule
from lightning_modules.backbones import best_device
from lightning_modules.config import RunConfig
from lightning_modules.face_detector.network import (
    MONITOR,
    FaceDetector,
    ImageMatches,
    average_precision,
    difference,
    intervals,
    permutation,
)
from lightning_modules.face_detector.training import checkpoint_of, detection_table, find_faces, matched, truth_table
from lightning_modules.training import train
from results.tracking.logger import TrackingLogger
from results.tracking.runs import load_table
from sweeps.studies.analysis import Jackknife, Outcome, Outcomes, best_epoch
from sweeps.studies.schema import OTHER, Metric, SeedChanges

BEST_MAP = "val/best_map_50"  # of the selected epoch
TABLES = {"": ("detections", "truth"), OTHER: ("detections_elsewhere", "truth_elsewhere")}  # of a run, by metric prefix
RESAMPLES = 1000  # of the intervals, and swaps of the permutation tests
STARTUP = 15.0  # seconds of a run besides training: checks, evaluation on two sets of images, tables


def run_detector(config: RunConfig, other: RunConfig | None) -> tuple[str, dict[str, float]]:
    """Train a cell's detector, and find faces in the test images of another cell, too.

    Args:
        config: With the run's name, parent and seed.
        other: Of the cell on whose test images the detector is evaluated besides its own.

    Returns:
        The run's id and its numbers.
    """
    done = train(config)
    assert done is not None  # one device
    if other is not None:
        data = BoxesDataModule(**other.data)
        rows = data.fold.test.tolist()
        boxes = find_faces(FaceDetector.from_checkpoint(checkpoint_of(done.run_id)), data, rows)
        tracker = TrackingLogger(run_id=done.run_id, system_metrics=False)
        for name, table in zip(TABLES[OTHER], (detection_table(boxes, data), truth_table(data, rows)), strict=True):
            tracker.log_table(table, name)
        tracker.finalize("success")
    return done.run_id, {BEST_MAP: best_epoch(done.run_id, MONITOR)}


@dataclass(frozen=True)
class DetectorOutcome(Outcome):
    """One finished detector; intervals are over images."""

    @cached_property
    def images(self) -> dict[str, list[ImageMatches]]:
        """Boxes matched with the truth, image by image: of its own test images, and under `OTHER` of the others."""
        return {
            prefix: matched(load_table(self.run_id, detections), load_table(self.run_id, truth))
            for prefix, (detections, truth) in TABLES.items()
        }

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """Average precisions with bootstrap intervals, in the columns of a classifier's table."""
        tables = {prefix: intervals(images, resamples=RESAMPLES) for prefix, images in self.images.items()}
        named = [table.assign(metric=prefix + table["metric"], **{"class": ""}) for prefix, table in tables.items()]
        return pd.concat(named, ignore_index=True)

    @classmethod
    def jackknife(cls, runs: Sequence[Outcome], metrics: Sequence[Metric]) -> Jackknife | None:
        """Return average precisions, one per run, with and without each image; None if the runs' images differ."""
        prefixes = [OTHER if metric.startswith(OTHER) else "" for metric in metrics]
        pairs = zip(runs, prefixes, strict=True)
        sets = [run.images[prefix] for run, prefix in pairs if isinstance(run, DetectorOutcome)]
        if len({tuple(image.faces for image in images) for images in sets}) > 1:
            return None

        def value(images: list[ImageMatches], metric: Metric) -> float:
            precisions = average_precision(images)
            return float(precisions[0] if metric.endswith("map_50") else precisions.mean())

        both = list(zip(sets, metrics, strict=True))
        values = np.array([value(images, metric) for images, metric in both])
        count = len(sets[0])
        without = [[value(images[:i] + images[i + 1 :], metric) for images, metric in both] for i in range(count)]
        return Jackknife(values, np.array(without))


def seed_changes(changes: SeedChanges, outcomes: Outcomes) -> pd.DataFrame:
    """Return the differences between two detectors on the same images: one row a set of images, seed and metric.

    Columns: images (name of the set of images), seed, metric, held_out (their number), faces, before, after,
    difference, low, high, p, and the runs before and after.
    """
    before, after = (
        {run.seed: run for run in outcomes.of(cell) if isinstance(run, DetectorOutcome)}
        for cell in (changes.before, changes.after)
    )
    rows = []
    for name, (prefix_before, prefix_after) in changes.images.items():
        for seed in sorted(before.keys() & after.keys()):
            old, new = before[seed], after[seed]
            images = old.images[prefix_before], new.images[prefix_after]
            table = difference(*images, resamples=RESAMPLES)
            p_values = permutation(*images, resamples=RESAMPLES)
            for line, p_value in zip(table.itertuples(), p_values.tolist(), strict=True):
                rows.append(
                    {
                        "images": name,
                        "seed": seed,
                        "metric": line.metric,
                        "held_out": len(images[0]),
                        "faces": sum(image.faces for image in images[0]),
                        "before": old.number(f"{prefix_before}{line.metric}")[0],
                        "after": new.number(f"{prefix_after}{line.metric}")[0],
                        "difference": line.value,
                        "low": line.low,
                        "high": line.high,
                        "p": p_value,
                        "run_before": old.run_id,
                        "run_after": new.run_id,
                    }
                )
    return pd.DataFrame(rows)


def detector_sizes(config: RunConfig) -> tuple[int, int, int]:
    """Return the images of an epoch, of the val part and of the test parts; draws and decodes the images."""
    fold = BoxesDataModule(**config.data).fold
    return len(fold.train), len(fold.val), 2 * len(fold.test)  # two test parts of about the same size


def seconds_a_detector_image(config: RunConfig) -> float:
    """Return the seconds of training per image on the best device, measured on the second batch."""
    device, size, batch = best_device(), config.data["size"], config.data["batch_size"]
    model = FaceDetector(**{**config.model, "weights": "none", "size": size}).to(device).train()
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    face = torch.tensor([[0.3, 0.3, 0.6, 0.7]], device=device) * size
    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        loss = model.objective(model(image), [face] * batch, model.centres, model.scales)["loss"]
        loss.backward()
        float(loss.detach())  # waits for the device
    return (time.perf_counter() - start) / batch
