"""The one prediction of the outer part, and everything that is computed from its two tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from datamodules.errors import InputError
from records.figures import class_figure, confusion_figure, curves_figure
from records.predictions import build_predictions, check_split, classes_of, flag_protocol, protocol_of
from records.runs import load_table
from records.statistics import calibration, cluster_bootstrap, fold_scores
from records.tables import result_text
from records.tracking import TrackingLogger

if TYPE_CHECKING:
    from lightning_modules.cli import EmotionCLI

PREDICTIONS = "predictions"
SPLIT = "split"


@dataclass(frozen=True)
class RunResult:
    """What one finished run gives: its two tables and its scores on the outer part."""

    run_id: str
    classes: tuple[str, ...]
    predictions: pd.DataFrame
    split: pd.DataFrame

    @property
    def scores(self) -> dict[str, float]:
        """Macro F1 and accuracy, computed from the prediction table."""
        return whole_scores(self.predictions, self.classes)

    @classmethod
    def from_run(cls, run_id: str) -> "RunResult":
        """Read a finished run's tables."""
        predictions = load_table(run_id, PREDICTIONS)
        return cls(run_id, classes_of(predictions), predictions, load_table(run_id, SPLIT))


def whole_scores(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Return f1_macro, accuracy and balanced_accuracy of a prediction table."""
    table = fold_scores(predictions.assign(fold=0), classes)
    return {str(name): float(value) for name, value in table.iloc[0].items()}


def evaluate_outer(cli: "EmotionCLI", tracker: TrackingLogger) -> RunResult | None:
    """Predict the outer part once with the checkpoint the inner split chose; keep and print the results.

    Returns:
        The result; None on other ranks than zero.
    """
    trainer, data = cli.trainer, cli.datamodule
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not best:
        msg = "run.evaluate: no checkpoint was kept, since no epoch ended; give --trainer.max_epochs at least 1"
        raise InputError(msg)
    trainer.test(cli.model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return None
    tracker.log_file(best, "checkpoint")
    found = cli.model.outer_predictions
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
    text = keep_evaluation(tracker, predictions, split, resamples=cli.options.resamples)
    curves = tracker.history("train/loss", "val/loss", "val/f1_macro", "val/accuracy")
    tracker.log_figure(curves_figure({name: curve for name, curve in curves.items() if len(curve)}), "curves")
    if cli.options.parent is None:
        leaks = "".join(f"{name}: {value}\n" for name, value in data.leak_record.items())
        print(f"\n{leaks}{text}\nrun {tracker.run_id} (look at it: emotion ui)")
    return RunResult(str(tracker.run_id), classes_of(predictions), predictions, split)


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
