"""The one prediction of the outer part, and everything that is computed from its two tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Trainer

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.classifier import EmotionClassifier
from records.figures import class_figure, confusion_figure, curves_figure
from records.predictions import (
    PREDICTIONS,
    SPLIT,
    build_predictions,
    check_split,
    classes_of,
    flag_protocol,
    protocol_of,
)
from records.runs import load_table
from records.statistics import calibration, cluster_bootstrap, fold_scores
from records.tables import result_text
from records.tracking import TrackingLogger

CURVES = ("train/loss", "val/loss", "val/f1_macro", "val/accuracy")


@dataclass(frozen=True)
class RunResult:
    """A finished run: its two tables, and after `train` also what it was made of.

    Attributes:
        run_id: MLflow's id.
        classes: Names of the classes, in the order of their labels.
        predictions: Prediction table of the outer part; empty where nothing was evaluated (``run.evaluate`` false).
        split: Split table.
        text: The result as it is printed.
        model: The trained module; after an evaluation with the weights of the selected epoch.
        data: The data module: images and their division.
        folder: Local folder of the run, with its checkpoints.
        curves: Metrics by step.
        logging_seconds: Time that log calls took in the main thread.
    """

    run_id: str
    classes: tuple[str, ...]
    predictions: pd.DataFrame
    split: pd.DataFrame
    text: str = ""
    model: Any = None
    data: Any = None
    folder: Path | None = None
    curves: dict[str, pd.Series] = field(default_factory=dict)
    logging_seconds: float = 0.0

    @property
    def scores(self) -> dict[str, float]:
        """Macro F1 and accuracy, computed from the prediction table."""
        return whole_scores(self.predictions, self.classes)

    @classmethod
    def tables_of(cls, result: "RunResult") -> "RunResult":
        """Return a result without the model and the data, which take memory."""
        return cls(result.run_id, result.classes, result.predictions, result.split)

    @classmethod
    def from_run(cls, run_id: str) -> "RunResult":
        """Read a finished run's tables."""
        predictions = load_table(run_id, PREDICTIONS)
        return cls(run_id, classes_of(predictions), predictions, load_table(run_id, SPLIT))


def whole_scores(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Return f1_macro, accuracy and balanced_accuracy of a prediction table."""
    table = fold_scores(predictions.assign(fold=0), classes)
    return {str(name): float(value) for name, value in table.iloc[0].items()}


def evaluate_outer(
    trainer: Trainer,
    model: EmotionClassifier,
    data: EmotionDataModule,
    tracker: TrackingLogger,
    *,
    resamples: int,
    keep_checkpoint: bool = True,
) -> tuple[pd.DataFrame, str]:
    """Predict the outer part once with the checkpoint that the inner part chose, and keep the results with the run.

    Returns:
        The prediction table and the printed result; an empty table and "" on other ranks than zero.

    Raises:
        InputError: No checkpoint was kept.
    """
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not best:
        msg = "run.evaluate: no checkpoint was kept, since no epoch ended; give --trainer.max_epochs at least 1"
        raise InputError(msg)
    trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return pd.DataFrame(), ""
    if keep_checkpoint:
        tracker.log_file(best, "checkpoint")
    found = model.outer_predictions
    assert found is not None  # of the test above
    predictions = build_predictions(
        data.manifest,
        found["row"],
        found["prob"],
        fold=data.fold_rows.index,
        clusters=data.clusters,
        contents=data.contents,
    )
    protocol = data.division.protocol
    predictions, split = flag_protocol(predictions, protocol), flag_protocol(data.split_table(), protocol)
    tracker.set_tags({"selected_on": data.leak_record.get("selected_on", "inner part")})
    text = keep_evaluation(tracker, predictions, split, resamples=resamples)
    curves = tracker.history(*CURVES)
    tracker.log_figure(curves_figure({name: curve for name, curve in curves.items() if len(curve)}), "curves")
    return predictions, text


def keep_evaluation(tracker: TrackingLogger, predictions: pd.DataFrame, split: pd.DataFrame, *, resamples: int) -> str:
    """Keep both tables, and all that is computed from them, with the run; return the printed result.

    Args:
        tracker: the run.
        predictions: prediction table, of one fold or of all; says above the result by which protocol it leaks, if so.
        split: split table of the same folds.
        resamples: of the bootstrap.
    """
    check_split(split, predictions)
    classes = classes_of(predictions)
    tracker.log_table(predictions, PREDICTIONS)
    tracker.log_table(split, SPLIT)
    protocol = protocol_of(predictions)
    tracker.set_tags({"protocol": protocol})
    intervals = flag_protocol(cluster_bootstrap(predictions, classes, resamples=resamples), protocol)
    folds = fold_scores(predictions, classes)
    tracker.log_table(intervals, "intervals")
    tracker.log_text(result_text(intervals, folds, markdown=True), "result.md")
    tracker.log_text(intervals.to_csv(index=False), "per_class.csv")
    whole = intervals[intervals["class"] == ""].set_index("metric")
    summary = {f"test/{name}": float(row["value"]) for name, row in whole.iterrows()}
    by_class = intervals[intervals["metric"] == "f1"]
    summary |= {f"test/f1_{row['class']}": float(row["value"]) for _, row in by_class.iterrows()}
    summary |= {f"test/{name}": value for name, value in calibration(predictions, classes).items()}
    known = tracker.history()  # a run's own test has logged some of them; a parent none
    summary = {name: value for name, value in summary.items() if name not in known}
    summary |= {f"test/{name}_{end}": float(row[end]) for name, row in whole.iterrows() for end in ("low", "high")}
    tracker.log_metrics(summary)
    tracker.log_figure(confusion_figure(predictions, classes), "confusion_matrix")
    tracker.log_figure(class_figure(intervals), "f1_by_class")
    return result_text(intervals, folds)
