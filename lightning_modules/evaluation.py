"""The one prediction of the outer part, and everything that is computed from its two tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from records.figures import confusion_figure, curves_figure, f1_figure
from records.predictions import build_predictions
from records.runs import find_runs, load_table
from records.statistics import Summary, summarise
from records.tables import text_table
from records.tracking import TrackingLogger

if TYPE_CHECKING:
    from lightning_modules.cli import EmotionCLI

PREDICTIONS = "predictions"
SPLIT = "split"


@dataclass(frozen=True)
class RunResult:
    """What one finished run gives: its two tables and its figures on the outer part."""

    run_id: str
    classes: list[str]
    predictions: pd.DataFrame
    split: pd.DataFrame
    metrics: dict[str, float]


def evaluate_outer(cli: "EmotionCLI", tracker: TrackingLogger) -> RunResult | None:
    """Predict the outer part once with the checkpoint the inner split chose; write and print the results.

    Returns:
        The result; None on other ranks than zero.
    """
    trainer, data = cli.trainer, cli.datamodule
    best = trainer.checkpoint_callback.best_model_path
    if not best:
        msg = "run.evaluate: training kept no checkpoint, since it was cut short; give --trainer.max_epochs at least 1"
        raise InputError(msg)
    metrics = trainer.test(cli.model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)[0]
    if rank_zero_only.rank not in (0, None):
        return None
    tracker.log_file(best, "checkpoint")
    predictions = prediction_table(data, cli.model.outer_predictions)
    classes = list(data.classes)
    split = data.split_table()
    tracker.set_tags({f"leak.{name}": value for name, value in data.leak_record.items()})
    summary = log_evaluation(tracker, predictions, split, classes, resamples=cli.options.resamples)
    _log_curves(tracker)
    if cli.options.parent is None:
        print(f"\n{text_table(summary)}\n\nrun {tracker.run_id}; on the MLflow page: emotion ui")
    return RunResult(str(tracker.run_id), classes, predictions, split, {key.removeprefix("test/"): value for key, value in metrics.items()})
