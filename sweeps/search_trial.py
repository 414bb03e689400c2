"""One trial of a search: draws options, trains every inner fold once, reports as it goes, and is a run of its own."""

import gc
import math
from statistics import fmean
from typing import Any

import optuna
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.config import RunConfig
from lightning_modules.evaluation import RunResult
from lightning_modules.run import MONITOR
from lightning_modules.training import train
from records.tracking import TrackingLogger
from sweeps.lost import end_lost_runs
from sweeps.spaces import Options, build_space, suggest

RUN, OPTIONS, FOLD_SCORES, MANIFEST = "run_id", "options", "fold_scores", "manifest"  # attributes of a trial
OBJECTIVES = ("inner macro F1", "FLOPs an image")


class Report(Callback):
    """Keeps a fold's best inner macro F1, and tells the study after every epoch the mean over the folds so far.

    A trial that is to be pruned stops after the epoch, so its run ends as any other.
    """

    def __init__(self, trial: optuna.Trial, done: list[float], folds: int, epochs: int, *, tell: bool) -> None:
        self.best, self.pruned = -math.inf, False
        self._trial, self._done, self._tell = trial, done, tell
        self._first, self._last = len(done) * epochs, folds * epochs - 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the epoch's score."""
        if trainer.sanity_checking:
            return
        self.best = max(self.best, float(trainer.callback_metrics[MONITOR]))
        step = self._first + trainer.current_epoch  # a second report at a step would be ignored
        if self._tell:
            self._trial.report(fmean([*self._done, self.best]), step)
            if step < self._last and self._trial.should_prune():  # at the last one nothing is saved by it
                self.pruned = trainer.should_stop = True


def run_trial(trial: optuna.Trial, settings: dict[str, Any]) -> float | tuple[float, float]:
    """Return the mean of the folds' best inner macro F1; with two objectives, the FLOPs of one image, too.

    Args:
        trial: of a study.
        settings: study, parent (run id), config (plain data), space, folds, objectives, pruner.

    Raises:
        optuna.TrialPruned: the pruner ended it.
    """
    if lost := trial.user_attrs.get(RUN):  # of a killed worker; a trial that is queued again inherits it
        end_lost_runs([str(lost)])
    options = suggest(trial, build_space(settings["space"]))
    config = RunConfig.from_dict(settings["config"])
    tracker = TrackingLogger(
        experiment=config.run["experiment"],
        run_name=f"trial {trial.number}",
        parent_run_id=settings["parent"],
        system_metrics=False,
        tags={"kind": "trial", "study": settings["study"], "trial": str(trial.number)},
    )
    trial.set_user_attr(RUN, str(tracker.run_id))
    trial.set_user_attr(OPTIONS, options)
    try:
        tracker.log_hyperparams(options)
        scores, flops = _folds(trial, config, settings, options, tracker)
        tracker.log_metrics({"search/f1_macro": fmean(scores), "search/flops": flops})
    except optuna.TrialPruned:
        tracker.set_tags({"ended": "pruned"})
        tracker.finalize("success")
        raise
    except BaseException as error:
        tracker.set_tags({"ended": f"failed: {error}"[:500]})
        tracker.finalize("failed")
        raise
    tracker.finalize("success")
    trial.set_user_attr(FOLD_SCORES, scores)
    return (fmean(scores), flops) if settings["objectives"] == 2 else fmean(scores)


def _folds(
    trial: optuna.Trial, config: RunConfig, settings: dict[str, Any], drawn: Options, tracker: TrackingLogger
) -> tuple[list[float], float]:
    scores: list[float] = []
    folds, epochs, pruner = settings["folds"], int(config.trainer["max_epochs"]), settings["pruner"]
    flops, data = 0.0, None
    for fold in range(folds):
        report = Report(trial, scores, folds, epochs, tell=pruner == "hyperband")
        where: dict[str, Any] = {"data.inner_folds": folds, "data.inner_fold": fold, "run.evaluate": False}
        where["run.keep"] = "none"  # nothing is predicted with a trial's weights
        place = {"run.parent": str(tracker.run_id), "run.name": f"trial {trial.number} fold {fold}"}
        done = train(config.override({**drawn, **where, **place}), [report], data)
        assert done is not None  # a trial is one process
        scores.append(report.best)
        tracker.log_metrics({"search/fold_f1_macro": report.best}, step=fold)
        if fold == 0:
            flops = flops_an_image(done)
            trial.set_user_attr(MANIFEST, done.data.manifest.fingerprint())
            data = done.data
            data.trainer = None  # which holds the model
        if pruner == "wilcoxon":
            trial.report(report.best, fold)
            report.pruned = fold + 1 < folds and trial.should_prune()
        del done
        gc.collect()  # a trainer and its callbacks refer to each other; a GPU's memory goes back only now
        if report.pruned:
            raise optuna.TrialPruned
    return scores, flops


def flops_an_image(done: RunResult) -> float:
    """Return the floating-point operations of one picture through the trained network; a multiply-add is two."""
    model = done.model.eval()
    counter = FlopCounterMode(display=False)
    image = torch.zeros(1, 3, done.data.size, done.data.size, device=model.device)
    with counter, torch.inference_mode():
        model(image)
    return float(counter.get_total_flops())
