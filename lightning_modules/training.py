"""Train one run from a RunConfig: data, model, trainer, tracking, and one evaluation at the end."""

import contextlib
import hashlib
import importlib
import inspect
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.imports import _IS_INTERACTIVE
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.nn import functional as F

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, invalid
from datamodules.processes import keep_freed_memory
from datamodules.splits.folds import lacking_classes
from lightning_modules.backbones import (
    best_device,
    build_backbone,
    build_head,
    check_size,
    describe_device,
    require_embedded,
)
from lightning_modules.callbacks import (
    BEST,
    LAST,
    CheckedCheckpointIO,
    StopGracefully,
    explained,
    first_rank,
    has_bar,
    how_it_ended,
    print_stage,
    quiet,
    remove_checkpoints,
    resume_checkpoint,
    run_callbacks,
    sigterm_ends,
)
from lightning_modules.checkpoints import (
    CONFIG_KEY,
    load_tensors,
    read_checkpoint,
    require_classes,
    store_in_checkpoint,
)
from lightning_modules.classifier import EmotionClassifier, check_model
from lightning_modules.config import TEACHER_SHARE, DecisionOptions, RunConfig, RunOptions, data_module, recipe_names
from lightning_modules.decisions import (
    DECISIONS_KEY,
    NO_VAL_PART,
    Decisions,
    apply_decisions,
    check_val_part,
    fit_decisions,
    refuse_not_finite,
)
from lightning_modules.limits import check_against_data, check_limits, is_whole, settle_limits
from lightning_modules.losses import soft_targets_refused
from lightning_modules.warm_start import (
    check_resumed,
    check_weights,
    count_known,
    learn_from_teacher,
    note_known_val,
    read_start,
    seen_by,
    start_from_weights,
)
from results.predictions import (
    LAST_EPOCH,
    PREDICTIONS,
    SPLIT,
    build_predictions,
    check_split,
    classes_of,
    flag_protocol,
    protocol_of,
)
from results.reports.figures import class_figure, confusion_figure, curves_figure
from results.reports.run_page import REPORT, next_commands, run_description, run_page, shown_tags
from results.reports.tables import result_text
from results.selective import VAL_PREDICTIONS, decision_metrics, decision_text, write_decisions
from results.statistics import calibration, cluster_bootstrap, fold_scores, whole_scores
from results.tracking import store
from results.tracking.environment import changed_between, environment
from results.tracking.logger import TrackingLogger, refuse_written
from results.tracking.offline import Spool
from results.tracking.runs import find_runs, find_trained_run, has_store, load_table, replay_spools, run_row
from results.tracking.store import DIRECTORY


class RunLogger(TrackingLogger):
    """Logger that ends the run only in `end`: Lightning would end it after `fit`, before its tables are written."""

    def finalize(self, status: str = "success") -> None:
        """Leave the run open."""

    def end(self, status: str) -> None:
        """End the run: success, failed or interrupted."""
        super().finalize(status)


def division_hash(data: EmotionDataModule) -> str:
    """Hash of the role of each image; one more image can change clusters, and so the roles of many."""
    contents = np.asarray(data.contents, dtype=object)
    split = data.split_table()[["fold", "row", "role", "is_copy"]]
    split["content"] = contents[split["row"]]
    return hashlib.sha256(pd.util.hash_pandas_object(split, index=False).to_numpy().tobytes()).hexdigest()[:16]


def _row(run_id: str) -> dict[str, Any]:
    """Return the row of a run in the store; empty if there is no store yet, or if it cannot be reached.

    Raises:
        InputError: there is no such run, or it was deleted.
    """
    try:
        if not has_store():
            return {}
        store.open_client(only_reading=True)
    except InputError:
        return {}
    return run_row(run_id)


def require_resumable(run_id: str, division: str, identity: str) -> None:
    """Raise for a run whose data or options changed, or that has finished, since it cannot be resumed.

    Args:
        run_id: the run.
        division: hash of which image is in which part, as it is now.
        identity: of the options and the data, as they are now.

    Raises:
        InputError: its data or options changed, it has finished, or there is no such run.
    """
    folder = Path(DIRECTORY, "runs", run_id)
    status, tags = Spool.state(folder / "spool")
    before, begun = tags.get("division"), tags.get("identity")
    if known := _row(run_id):
        status, before, begun = known["status"], known.get("tags.division"), known.get("tags.identity")
    if status == "FINISHED" and (begun != identity or not (folder / LAST).exists()):
        msg = (
            f"--resume: run {run_id} has finished, so there is nothing to resume; to train its model further, start "
            f"a new run from its weights: --run.start_from {run_id} instead of --resume"
        )
        raise InputError(msg)
    if isinstance(before, str) and before != division:
        msg = (
            f"--resume: the data or the clusters in it changed since run {run_id} began, so held-out images may have "
            "been trained on; start a new run without --resume"
        )
        raise InputError(msg)
    if isinstance(begun, str) and begun != identity:
        msg = (
            f"--resume: run {run_id} was started with other options; give the options in its config.yaml (emotion ui "
            "shows it), or start a new run without --resume"
        )
        raise InputError(msg)


def require_unwritten(run_id: str) -> None:
    """Raise for a run that another process is writing, on this machine or on another one.

    Raises:
        InputError: another process is writing it. While the store cannot be reached, only processes of this
            machine are checked.
    """
    row = _row(run_id)
    tags = {name.removeprefix("tags."): value for name, value in row.items() if name.startswith("tags.")}
    refuse_written(run_id, str(row.get("status")), tags, "--resume")


def note_other_code(run_id: str) -> dict[str, str]:
    """Compare code and packages with those that a resumed run was started with; print what differs.

    A difference does not make it another run. It is a note on stderr, and a tag that the certificate reads.

    Returns:
        The tag ``resumed_with`` where something differs, else nothing.
    """
    row, now = _row(run_id), environment()
    commit, lock = row.get("tags.git_commit"), row.get("tags.lock_sha256")
    differ = []
    if isinstance(commit, str) and commit != now["git_commit"] and changed_between(commit, now["git_commit"]):
        differ.append(f"other code (commit {commit[:12]}, now {now['git_commit'][:12]})")
    if isinstance(lock, str) and lock != now["lock_sha256"]:
        differ.append("other packages (requirements.lock differs)")
    if not differ:
        return {}
    print(
        f"note: run {run_id} was started with {' and '.join(differ)}; it is resumed, and records this", file=sys.stderr
    )
    return {"resumed_with": f"{now['git_commit']} {now['lock_sha256']}"}


def send_what_waits() -> None:
    """Send what runs stored locally while the store was unreachable, such as that they have finished."""
    if first_rank():
        replay_spools()


def unfinished_run(options: RunOptions, identity: str) -> str | None:
    """Return the id of the run that `--resume` selects, None for a new run.

    Args:
        options: of the run.
        identity: of its options and data; "auto" selects an unfinished run with the same.

    Raises:
        InputError: another process is writing it.
    """
    if options.resume is not None and options.parent is None and has_store():
        send_what_waits()
    run_id = _resumed(options.resume) if options.resume != "auto" else _newest_unfinished(options, identity)
    if run_id is not None and first_rank():  # for the other ranks, rank zero is the process that writes the run
        require_unwritten(run_id)
    return run_id


def _resumed(text: str | None) -> str | None:
    """Return the id of the run that `--resume` names: an id, its start, a name, or `latest`.

    Raises:
        InputError: there is no such run, or it is a cross-validation or an evaluation.
    """
    if text is None or Path(DIRECTORY, "runs", text, "spool").is_dir() or not has_store():
        return text  # the local folder of a run is enough while the store cannot be reached
    run_id = find_trained_run(text, finished=False)
    kind = run_row(run_id).get("tags.kind")
    if kind in ("cross-validation", "evaluation", "search", "study"):
        hints = {
            "cross-validation": f"use `emotion cross-validate ... --resume {run_id}`",
            "evaluation": "run the evaluation again",
        }
        hint = hints.get(kind, f"the same `emotion {kind}` command resumes it")
        raise invalid("--resume", f"must be a training run, and run {run_id} is of kind {kind}", text, hint)
    return run_id


def _newest_unfinished(options: RunOptions, identity: str) -> str | None:
    # every rank looks for itself and finds the same: the run that rank zero opened stays unfinished
    if not has_store():
        if first_rank():
            print("--resume: there are no runs yet; a new run starts", file=sys.stderr)
        return None
    same = f"tags.identity = '{identity}' and attributes.status != 'FINISHED'"
    runs = find_runs(where=same, parent=options.parent)
    if options.parent is None:
        runs = runs[runs["parent"].isna()]  # a fold belongs to its cross-validation
    if runs.empty:
        if options.parent is None and first_rank():
            print("--resume: no unfinished run has this config and these images; a new run starts", file=sys.stderr)
        return None
    return str(runs.iloc[0]["run_id"])


def log_beginning(tracker: RunLogger, config: RunConfig, data: EmotionDataModule) -> None:
    """Log the config, the data set and how it was split."""
    log_config(tracker, config)
    log_data(tracker, data)
    tracker.set_tags({f"leak.{name}": value for name, value in data.leak_record.items()} | stated_tags(config, data))


def stated_tags(config: RunConfig, data: EmotionDataModule) -> dict[str, str]:
    """Return the tags by which reports and certificates say what else a result depends on.

    Returns:
        ``changed_options``, what differs from the recipe, and ``data_notes``, what the reader left out; each only where
        there is something.
    """
    changed = ", ".join(f"{name} {value}" for name, value in config.changes().items())
    if config.run["recipe"] not in recipe_names():
        changed = "the recipe is not one of this package; see config.yaml"
    return {
        name: text[:2000]
        for name, text in (("changed_options", changed), ("data_notes", "; ".join(data.notes)))
        if text
    }


def log_config(tracker: RunLogger, config: RunConfig) -> None:
    """Log the options as parameters of the run, and as the file that ``--config`` takes."""
    text = config.to_yaml()
    tracker.log_hyperparams(yaml.safe_load(text))
    tracker.log_text(text, "config.yaml")


def log_data(tracker: TrackingLogger, data: EmotionDataModule) -> None:
    """Log the data set as an input of the run: name, source, fingerprint, images per class."""
    numbers = np.bincount(data.manifest.labels, minlength=len(data.classes)).tolist()
    counts = dict(zip(data.classes, numbers, strict=True))
    profile = {"images": len(data.manifest), "classes": counts}
    tracker.log_dataset(data.manifest.name, data.source, data.manifest.fingerprint(), profile=profile)


CURVES = ("train/loss", "val/loss", "val/f1_macro", "val/accuracy")


@dataclass(frozen=True)
class RunResult:
    """A finished run: its two tables, and after `train` also its model and data.

    Attributes:
        run_id: MLflow's id.
        classes: Names of the classes, in the order of their labels.
        predictions: Prediction table of the test part; empty where nothing was evaluated (``run.evaluate`` false).
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


def evaluate_test(
    trainer: Trainer,
    model: EmotionClassifier,
    data: EmotionDataModule,
    tracker: TrackingLogger,
    *,
    resamples: int,
    keep_checkpoint: bool = True,
    decides: DecisionOptions = DecisionOptions(),  # noqa: B008 - frozen
) -> tuple[pd.DataFrame, str]:
    """Predict the test part once with the checkpoint selected on the val part, and store the results in the run.

    Without any validation there is no such checkpoint, and the weights at the end of the training are used.

    Returns:
        The prediction table and the printed result; an empty table and "" on other ranks than zero.

    Raises:
        InputError: Nothing was trained.
    """
    best, validated = selected_checkpoint(trainer)
    if validated and trainer.is_global_zero:
        epoch = int(read_checkpoint(Path(best))["epoch"]) + 1
        print(f"epoch {epoch} of {trainer.current_epoch} is kept, which is best on the val part", file=sys.stderr)
    trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return pd.DataFrame(), ""
    decisions = fit_into_checkpoint(Path(best), model, data, tracker, decides) if decides else None
    if keep_checkpoint:
        tracker.log_file(best, "checkpoint")
    collected = model.test_predictions
    assert collected is not None  # of the test above
    predictions = build_predictions(
        data.manifest,
        collected["row"],
        collected["prob"],
        fold=data.fold_rows.index,
        clusters=data.clusters,
        contents=data.contents,
    )
    protocol = data.division.protocol
    predictions, split = flag_protocol(predictions, protocol), flag_protocol(data.split_table(), protocol)
    selected_on = data.leak_record.get("selected_on", "val part") if validated else LAST_EPOCH
    tracker.set_tags({"selected_on": selected_on})
    text = keep_evaluation(tracker, predictions, split, resamples=resamples)
    if decisions is not None:
        text += "\n" + keep_decisions(tracker, predictions, apply_decisions(decisions, predictions), decisions.lines())
    return predictions, text


def selected_checkpoint(trainer: Trainer) -> tuple[str, bool]:
    """Return the checkpoint that a finished training is evaluated with, and whether it was selected on the val part.

    Without any validation the weights at the end of the training are saved as this checkpoint, with a note.

    Raises:
        InputError: Nothing was trained.
    """
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        return best, True
    if not trainer.global_step:
        msg = "--trainer: nothing was trained; give --trainer.max_epochs at least 1, and no limit of 0 steps or time"
        raise InputError(msg)
    if trainer.is_global_zero:
        print(
            "note: no validation ran, so no epoch was selected and the weights at the end of the training are used "
            "(see --trainer.limit_val_batches, check_val_every_n_epoch and val_check_interval)",
            file=sys.stderr,
        )
    path: str = trainer.strategy.broadcast(str(Path(trainer.default_root_dir, BEST)))
    trainer.save_checkpoint(path, weights_only=True)
    return path, False


def keep_evaluation(
    tracker: TrackingLogger,
    predictions: pd.DataFrame,
    split: pd.DataFrame,
    *,
    resamples: int,
    evaluated: Sequence[str] | None = None,
) -> str:
    """Store both tables, and everything computed from them, in the run; return the printed result.

    Args:
        tracker: the run.
        predictions: prediction table, of one fold or of all; a leaky protocol is named above the result.
        split: split table of the same folds.
        resamples: resamples of the bootstrap.
        evaluated: ids of the runs whose models made the predictions; by default that of ``tracker``.
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
    tracker.set_tags(shown_tags(intervals))
    tracker.log_text(result_text(intervals, folds, markdown=True), "result.md")
    tracker.log_text(intervals.to_csv(index=False), "per_class.csv")
    whole = intervals[intervals["class"] == ""].set_index("metric")
    summary = {f"test/{name}": float(row["value"]) for name, row in whole.iterrows()}
    by_class = intervals[(intervals["metric"] == "f1") & (intervals["images"] > 0)]  # others have no F1
    summary |= {f"test/f1_{row['class']}": float(row["value"]) for _, row in by_class.iterrows()}
    summary |= {f"test/{name}": value for name, value in calibration(predictions, classes).items()}
    summary |= {f"test/{name}_{end}": float(row[end]) for name, row in whole.iterrows() for end in ("low", "high")}
    tracker.log_model_scores(summary, evaluated=evaluated)
    figures = {"confusion_matrix": confusion_figure(predictions, classes), "f1_by_class": class_figure(intervals)}
    curves = {name: curve for name, curve in tracker.history(*CURVES).items() if len(curve)}
    if curves:
        figures["curves"] = curves_figure(curves)
    for name, figure in figures.items():
        tracker.log_figure(figure, name)
    commands = next_commands(tracker.tags.get("kind", ""), str(tracker.run_id))
    tracker.set_tags({"mlflow.note.content": run_description(intervals, folds, commands)})
    page = run_page(tracker.title, tracker.tags, intervals, folds, list(figures.values()), commands)
    tracker.log_text(page, REPORT)
    return result_text(intervals, folds)


def val_predictions(model: EmotionClassifier, data: EmotionDataModule) -> pd.DataFrame:
    """Return the prediction table of the val part: raw probabilities, as `emotion predict` computes them.

    Args:
        model: The trained model; it is left where it was.
        data: The images of its run.

    Raises:
        InputError: The run has no val part, since it selected on the test part; or the network gives no numbers.
    """
    if data.plan.protocol == "paper":
        raise InputError(NO_VAL_PART)
    device, before = best_device(), model.device
    model.to(device).eval()
    rows, parts = [], []
    with torch.inference_mode():
        for batch in data.evaluation_loader(data.selected_on, alone=True):
            rows.append(batch["row"].numpy())
            parts.append(model.probabilities(batch["image"].to(device)).cpu().numpy())
    model.to(before)
    probabilities = np.concatenate(parts)
    refuse_not_finite(probabilities, "the val part")
    return build_predictions(
        data.manifest,
        np.concatenate(rows),
        probabilities,
        fold=data.fold_rows.index,
        clusters=data.clusters,
        contents=data.contents,
    )


def fit_into_checkpoint(
    path: Path, model: EmotionClassifier, data: EmotionDataModule, tracker: TrackingLogger, options: DecisionOptions
) -> Decisions | None:
    """Fit decisions on the val part, store them in the run's checkpoint, and keep the val predictions with the run.

    If the network is not good enough for what is stated, the run has no decisions, and a note is printed.

    Args:
        path: the checkpoint.
        model: with its weights.
        data: the images of the run.
        tracker: the run.
        options: what is fitted.
    """
    val = val_predictions(model, data)
    tracker.log_table(val, VAL_PREDICTIONS)
    try:
        decisions = fit_decisions(val, options)
    except InputError as error:
        note = f"note: no decisions were fitted, so the most probable class is the answer: {error}"
        print(note, file=sys.stderr)
        return None
    store_in_checkpoint(path, {DECISIONS_KEY: decisions.state()})
    return decisions


def keep_decisions(tracker: TrackingLogger, raw: pd.DataFrame, decided: pd.DataFrame, lines: Sequence[str]) -> str:
    """Store what decisions make of a run's predictions, beside these; return the printed result.

    Args:
        tracker: the run.
        raw: its prediction table.
        decided: its table of decisions.
        lines: what was fitted.
    """
    text = decision_text(raw, decided, lines)
    with tempfile.TemporaryDirectory() as folder:
        for artifact, file in write_decisions(Path(folder), raw, decided, text).items():
            tracker.log_file(file, artifact.rpartition("/")[0])
    tracker.log_metrics(decision_metrics(raw, decided))
    return text


def train(config: RunConfig, callbacks: Sequence[Callback] = (), data: Any = None) -> RunResult | None:  # noqa: ANN401
    """Train a model, evaluate its best checkpoint once on the test part, and track the run.

    Args:
        config: All options.
        callbacks: More callbacks of the trainer.
        data: The data module of another run, such as another fold: its manifest, clusters and decoded images are reused
            if both read the same images in the same way.

    Returns:
        The finished run; None on other ranks than zero.

    Raises:
        InputError: Options or data that do not fit, no memory, no space on the disk.
    """
    quiet()
    keep_freed_memory()
    with _explained(), sigterm_ends():
        return _train(with_run_ids(config), callbacks, data)


class Task(ABC):
    """What differs between training an emotion classifier and a face detector.

    Attributes:
        options: Options of the run, such as its name.
        data: The data module.
        model: The untrained module.
        trainer_options: Arguments of Lightning's Trainer.
    """

    options: Any
    data: Any
    model: LightningModule
    trainer_options: dict[str, Any]

    @abstractmethod
    def division_hash(self) -> str:
        """Hash of which image is in which part."""

    @abstractmethod
    def check_start(self) -> None:
        """Load the weights that the run starts from.

        Raises:
            InputError: They are of another network, or were trained on images of the test part.
        """

    @abstractmethod
    def name(self) -> str:
        """Return the name of the run."""

    @abstractmethod
    def tags(self) -> dict[str, str]:
        """Return the tags for this kind of training."""

    @abstractmethod
    def callbacks(self, folder: Path) -> list[Callback]:
        """Return checkpoints, early stopping, guards and progress."""

    @abstractmethod
    def log_beginning(self, tracker: RunLogger) -> None:
        """Log the config and the data set."""

    @abstractmethod
    def evaluate(self, trainer: Trainer, tracker: RunLogger) -> tuple[pd.DataFrame, str]:
        """Predict the test part once; return the table of predictions and the printed result."""

    @abstractmethod
    def split_table(self) -> pd.DataFrame:
        """Return the table of the role of each image."""


class EmotionTask(Task):
    """Training of an emotion classifier."""

    def __init__(self, config: RunConfig, shared: EmotionDataModule | None = None) -> None:
        self.config = config
        sections = config.instantiate()
        self.options = RunOptions(**config.run)
        self.data = EmotionDataModule(**sections.data)
        if shared is not None:
            self.data.share(shared)
        elif first_rank():
            print_stage(f"reading the list of images: {self.data.source}")
        self.model: EmotionClassifier = EmotionClassifier(
            classes=self.data.classes, size=self.data.size, **sections.model
        )
        self.trainer_options = dict(sections.trainer)
        self._shows_progress = self.trainer_options["enable_progress_bar"] is not False
        self.trainer_options["enable_progress_bar"] = self._shows_progress and has_bar()  # else lines

    def division_hash(self) -> str:
        """Hash of which image is in which part."""
        return division_hash(self.data)

    def check_start(self) -> None:
        """Load the weights that the run starts from."""
        if self.options.start_from:
            start_from_weights(self.model, self.data, self.options.start_from)
        if self.config.ckpt_path:
            check_resumed(self.model, self.data, self.config.ckpt_path)
        check_weights(self.data, self.config.model["weights"])
        if (note := note_known_val(self.data, self.options.decides.rule)) and first_rank():
            print(f"note: {note}", file=sys.stderr)
        if self.options.teacher:
            if first_rank():
                print_stage("computing the teacher's predictions")
            learn_from_teacher(self.data, self.options.teacher, self.options.teacher_share)

    def name(self) -> str:
        """Return the name of the run."""
        fold = f" fold {self.data.fold}" if self.data.split == "folds" else ""
        if self.options.name:
            return f"{self.options.name}{fold}"
        return f"{self.options.recipe} {self.data.manifest.name}{fold} seed {self.config.seed_everything}"

    def tags(self) -> dict[str, str]:
        """Return the tags for this kind of training."""
        tags = {"kind": "run", "recipe": self.options.recipe, "fold": str(self.data.fold)}
        return {**tags, "backbone": str(self.config.model["backbone"])}

    def callbacks(self, folder: Path) -> list[Callback]:
        """Return checkpoints, early stopping, guards and progress."""
        return run_callbacks(self.options, folder, progress=self._shows_progress)

    def log_beginning(self, tracker: RunLogger) -> None:
        """Log the config and the data set."""
        log_beginning(tracker, self.config, self.data)
        if self.options.parent is None and first_rank():
            print(*(f"note: {note}\n" for note in run_notes(self.config, self.data)), sep="", end="", file=sys.stderr)

    def evaluate(self, trainer: Trainer, tracker: RunLogger) -> tuple[pd.DataFrame, str]:
        """Predict the test part once; return the table of predictions and the printed result."""
        if not self.options.evaluate:
            return pd.DataFrame(), ""
        limit, keep = self.trainer_options["limit_test_batches"], self.options.keep != "none"
        if not is_whole(limit) and first_rank():
            share = "not" if limit == 0 else "only in part"
            print(f"note: the test part is {share} evaluated (--trainer.limit_test_batches {limit})", file=sys.stderr)
        if limit == 0:
            best = selected_checkpoint(trainer)[0]
            if keep and trainer.is_global_zero:
                if decides := self.options.decides:
                    trained = EmotionClassifier.from_checkpoint(best)
                    fit_into_checkpoint(Path(best), trained, self.data, tracker, decides)
                tracker.log_file(best, "checkpoint")
            return pd.DataFrame(), ""
        return evaluate_test(
            trainer,
            self.model,
            self.data,
            tracker,
            resamples=self.options.resamples,
            keep_checkpoint=keep,
            decides=self.options.decides,
        )

    def split_table(self) -> pd.DataFrame:
        """Return the table of the role of each image."""
        return flag_protocol(self.data.split_table(), self.data.division.protocol)


def make_task(config: RunConfig, shared: Any = None) -> Task:  # noqa: ANN401 - a data module of the same kind
    """Seed everything, and create the data and the model of a config."""
    seed_everything(config.seed_everything, workers=True, verbose=False)
    if config.kind == "detector":  # that module imports this one
        return importlib.import_module("lightning_modules.face_detector.training").DetectorTask(config)
    return EmotionTask(config, shared)


def prepare(data: Any) -> None:  # noqa: ANN401 - a data module
    """Decode the images and find duplicates, unless another run has done so.

    Raises:
        InputError: Images that cannot be read.
    """
    if "cache" not in data.__dict__:
        print_stage(f"decoding {len(data.manifest):,} images at {data.size} px, unless they are in the cache")
        _ = data.cache
    if "clusters" not in data.__dict__:
        print_stage("looking for duplicates")
    data.prepare_data()


def _train(config: RunConfig, callbacks: Sequence[Callback], shared: Any) -> RunResult | None:  # noqa: ANN401
    check_options(config)
    task = make_task(config, shared)
    options, data = task.options, task.data
    division = identity = ""
    run_id = None if options.resume in (None, "auto") else unfinished_run(options, "")
    if first_rank() or options.resume == "auto":
        prepare(data)
        data.setup("fit")  # wrong data leaves no run behind
        identity = config.identity(data.content_hash)
    if options.resume == "auto":
        run_id = unfinished_run(options, identity)
    if first_rank():
        division = task.division_hash()
        if run_id:
            require_resumable(run_id, division, identity)
    task.check_start()
    if isinstance(task, EmotionTask):
        if config.trainer.get("fast_dev_run"):
            return _try_out(task, callbacks)
        if first_rank():
            check_against_data(config, data)
            if decides := task.options.decides:
                check_val_part(data.manifest.labels[data.selected_on], data.classes, decides, "--run.")
    tracker = RunLogger(
        experiment=options.experiment,
        run_name=task.name(),
        run_id=run_id,
        parent_run_id=options.parent,
        tags={
            "seed": str(config.seed_everything),
            "identity": identity,
            "manifest": data.manifest.fingerprint(),
            "data": data.manifest.name,
            "division": division,
            **task.tags(),
        },
    )
    # other ranks than zero make no run; Lightning tells them rank zero's folder before they need it
    folder = tracker.run_folder if tracker.run_id else Path("mlruns", "runs", "of-rank-zero")
    try:
        start = (resume_checkpoint(folder) if run_id else None) or config.ckpt_path
        trainer = make_trainer(task.trainer_options, tracker, folder, [*callbacks, *task.callbacks(folder)])
        if isinstance(task, EmotionTask):
            settle_limits(trainer, data)
        with explained(data.batch_size, accumulates=not config.model.get("sam_radius")):
            if run_id and first_rank() and (other := note_other_code(run_id)):
                tracker.set_tags(other)
            task.log_beginning(tracker)
            trainer.fit(task.model, datamodule=data, ckpt_path=str(start) if start else None, weights_only=True)
            predictions, text = task.evaluate(trainer, tracker)
        if not trainer.is_global_zero:
            return None
        tracker.end("success")
        remove_checkpoints(folder, options.keep)
    except BaseException as error:
        if first_rank():
            with contextlib.suppress(OSError):  # report the first error, not that the end of the run cannot be written
                tracker.end(how_it_ended(error))
            if options.parent is None and list(folder.glob("*.ckpt")):
                advice = f"the run is kept; to resume it, run the same command with --resume {tracker.run_id}"
                print(advice, file=sys.stderr)
        raise
    return RunResult(
        run_id=str(tracker.run_id),
        classes=tuple(getattr(data, "classes", ())),
        predictions=predictions,
        split=task.split_table(),
        text=text,
        model=task.model,
        data=data,
        folder=folder,
        curves=tracker.history(*CURVES),
        logging_seconds=tracker.seconds,
    )


def _try_out(task: EmotionTask, callbacks: Sequence[Callback]) -> RunResult | None:
    """Run a few batches of training, validation and test (`fast_dev_run`), without tracking and checkpoints."""
    own = task.callbacks(Path(DIRECTORY))
    kept = [each for each in own if not isinstance(each, ModelCheckpoint | EarlyStopping | StopGracefully)]
    trainer = make_trainer(task.trainer_options, None, Path.cwd(), [*callbacks, *kept])
    with explained(task.data.batch_size, accumulates=not task.config.model.get("sam_radius")):
        trainer.fit(task.model, datamodule=task.data)
        trainer.test(task.model, datamodule=task.data, verbose=False)
    if not trainer.is_global_zero:
        return None
    batches = task.trainer_options["fast_dev_run"]
    ran = "one batch" if batches is True or batches == 1 else f"{batches} batches"
    text = f"fast_dev_run: {ran} of training, validation and test ran; nothing was tracked and no checkpoint was kept\n"
    return RunResult("", tuple(task.data.classes), pd.DataFrame(), task.split_table(), text, task.model, task.data)


def with_run_ids(config: RunConfig) -> RunConfig:
    """Replace the names of runs in `run.start_from` and `run.teacher` by their ids.

    A name such as `latest` means another run later on, and so would make another run of the same identity.

    Raises:
        InputError: There is no such run.
    """
    if config.kind == "detector":
        return config
    changes: dict[str, Any] = {}
    start, teacher = config.run["start_from"], config.run["teacher"]
    if start and not start.endswith(".ckpt"):
        changes["run.start_from"] = _id_of("--run.start_from", find_trained_run, start)
    if teacher:
        from lightning_modules.predictor import find_model_run  # few runs have a teacher

        changes["run.teacher"] = [
            source if source.endswith(".ckpt") else _id_of("--run.teacher", find_model_run, source)
            for source in teacher
        ]
    return config.override(changes) if changes else config


def _id_of(option: str, find: Callable[[str], str], text: str) -> str:
    """Return the id of a run that an option names."""
    try:
        return find(text)
    except InputError as error:
        msg = f"{option}: {str(error).removeprefix('run: ')}"
        raise InputError(msg) from error


def check_options(config: RunConfig) -> None:
    """Check what needs no data: ranges, names, and whether the trainer can be made; reads and writes nothing.

    Raises:
        InputError: An option is out of range, unknown, or does not fit another.
    """
    quiet()
    if not 0 <= config.seed_everything < 2**32:
        raise invalid("--seed", "must be from 0 to 4294967295", config.seed_everything)
    _check_devices(config)
    sections = config.instantiate()
    if config.kind == "detector":
        return
    options = RunOptions(**config.run)
    start = options.start_from
    if options.decides and config.data["protocol"] == "paper":
        raise InputError(NO_VAL_PART)
    EmotionDataModule(**sections.data)
    names = set(inspect.signature(check_model).parameters) | {"dropout", "drop_path", "warmup"}
    check_model(**{name: value for name, value in config.model.items() if name in names})
    if (epochs := config.trainer["max_epochs"]) is not None and epochs < 1 and epochs != -1:
        raise invalid("--trainer.max_epochs", "must be at least 1", epochs)
    check_limits(config)
    model, loss = config.model, sections.model.loss
    soft = model["mixup"] or model["cutmix"] or options.teacher or getattr(sections.data.read, "votes", None) == "soft"
    if soft and loss is not None and not loss.takes_soft_targets:
        raise InputError(soft_targets_refused(loss))
    check_size(model["backbone"], config.data["size"], model["stem_stride"], model["progressive_from"])
    if (shift := model["shift_at_test"]) and round(shift * config.data["size"]) == 0:
        size = config.data["size"]
        rule = f"must move images of {size} px (--data.size) by at least one pixel, or be 0"
        raise invalid("--model.shift_at_test", rule, shift, f"one pixel is {1 / size:.3f}")
    weights = model["weights"]
    if weights == "embedded":
        require_embedded(model["backbone"])
    elif weights not in ("hub", "none"):
        if not Path(weights).is_file():
            raise invalid("--model.weights", "must be embedded, hub, none or a file that exists", weights)
        load_tensors(Path(weights))
    if config.ckpt_path is not None:
        read_checkpoint(config.ckpt_path)  # refuses a damaged or unsafe file before Lightning opens it
    if start:
        read_start(start if start.endswith(".ckpt") else _id_of("--run.start_from", find_trained_run, start))
    for source in options.teacher or ():
        if not source.endswith(".ckpt"):
            from lightning_modules.predictor import find_model_run  # few runs have a teacher

            _id_of("--run.teacher", find_model_run, source)
        elif not Path(source).is_file():
            raise invalid("--run.teacher", "must list runs, or .ckpt files that exist", source)
        else:
            read_checkpoint(source)
    if first_rank():
        given = {**dict(sections.trainer), "enable_progress_bar": False}
        try:
            Trainer(**given | {"logger": False})
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            msg = f"--trainer: {' '.join(str(error).split())[:450]}"
            raise InputError(msg) from error


def _check_devices(config: RunConfig) -> None:
    """Raise for ways of starting processes in which the other processes cannot find this run.

    Raises:
        InputError: The strategy copies this process, or a notebook has several devices.
    """
    strategy, devices = config.trainer.get("strategy", "auto"), config.trainer.get("devices", 1)
    if isinstance(strategy, str) and ("spawn" in strategy or "fork" in strategy or "notebook" in strategy):
        msg = (
            f"--trainer.strategy: {strategy} copies this process, which is not supported; give --trainer.strategy ddp "
            "on the command line or in a script"
        )
        raise InputError(msg)
    if _IS_INTERACTIVE and devices not in (1, "1"):
        msg = (
            f"--trainer.devices: must be 1 in a notebook, got {devices!r}; give 1, or run `emotion fit` with "
            "several devices from a terminal"
        )
        raise InputError(msg)


def evaluate(config: RunConfig, checkpoint: Path, part: Literal["validate", "test"], run_id: str | None = None) -> None:
    """Evaluate a checkpoint on the val part (validate) or the test part (test); Lightning prints the metrics.

    Args:
        config: Options of the run, and others, such as another fold.
        checkpoint: The file.
        part: What to evaluate on.
        run_id: The run that wrote the checkpoint, if known.

    Raises:
        InputError: The checkpoint is damaged, of another program or of other classes; or the images are divided
            otherwise than in its run, and the model was trained on some of those that would be evaluated.
    """
    quiet()
    # the weights that the run started from, and its teacher, are not needed again, and may be gone
    changes = {"run.start_from": None, "run.teacher": None, "run.teacher_share": TEACHER_SHARE, "model.weights": "none"}
    # nor is what only trains; older versions took some of these with values that have no effect
    changes |= {"model.mixup": 0.0, "model.cutmix": 0.0, "model.unmixed_epochs": 0}
    if round(config.model["shift_at_test"] * config.data["size"]) == 0:
        changes["model.shift_at_test"] = 0.0
    config = config.override(changes)
    check_options(config)
    content = read_checkpoint(checkpoint)
    with _explained():
        task = make_task(config)
        require_classes(content[CONFIG_KEY]["classes"], task.data.classes, f"checkpoint {checkpoint}")
        prepare(task.data)
        task.data.setup("validate" if part == "validate" else "test")
        if run_id is None or run_row(run_id).get("tags.division") != division_hash(task.data):
            _refuse_known(content, task.data, part, str(run_id or checkpoint), run_id)
        trainer = make_trainer(task.trainer_options, None, Path.cwd(), [])
        run = trainer.validate if part == "validate" else trainer.test
        run(task.model, datamodule=task.data, ckpt_path=str(checkpoint), weights_only=True)
        if trainer.is_global_zero:
            print(scored_on(task.data, "val" if part == "validate" else "test"))


def _refuse_known(
    content: Mapping[str, Any], data: EmotionDataModule, part: Literal["validate", "test"], source: str, run: str | None
) -> None:
    """Raise for a model that was trained on images of a part; print a note if the checkpoint does not record it."""
    option = "--ckpt_path" if run is None else "--run"
    try:
        seen = seen_by(content, data, option, source, run)
    except InputError:
        note = f"note: {source} does not record which images it was trained on, so some of these may be among them"
        print(note, file=sys.stderr)
        return
    rows = data.selected_on if part == "validate" else data.fold_rows.test
    known = count_known(seen, data, rows, selected=part == "test" and data.plan.protocol != "paper")
    if known and run is None and data.plan.leak != "error":
        note = f"note: {source} was trained on {known} of the {len(rows)} images that are scored, or near-duplicates"
        print(note, file=sys.stderr)
    elif known:
        msg = (
            f"{option}: {source} was trained on {known} of the {len(rows)} images that would be scored (or on "
            "near-duplicates of them or images of the same people), since the images or the options are not those of "
            "its run; give them as they were then, or score it with `emotion evaluate RUN --data DATA --allow-seen`"
        )
        raise InputError(msg)


def scored_on(data: EmotionDataModule, part: Literal["val", "test"]) -> str:
    """Return how many images of a part are scored, and the classes that its macro F1 averages."""
    rows = data.selected_on if part == "val" else data.fold_rows.test
    lacking = lacking_classes(data.manifest.labels[rows], len(data.classes))
    there = [name for index, name in enumerate(data.classes) if index not in lacking]
    without = f"; no image is of {', '.join(data.classes[index] for index in lacking)}" if lacking else ""
    images = f"{len(rows):,} images of the {part} part of {data.manifest.name} ({len(data.manifest):,} images)"
    return f"{images}; macro F1 is the mean over {len(there)} classes: {', '.join(there)}{without}"


def make_trainer(
    options: dict[str, Any], tracker: RunLogger | None, folder: Path, callbacks: Sequence[Callback]
) -> Trainer:
    """Return Lightning's trainer with the run's callbacks, its logger and `CheckedCheckpointIO`."""
    given = dict(options)
    given["callbacks"] = [*(given.get("callbacks") or []), *callbacks]
    plugins = given.get("plugins") or []
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(CheckedCheckpointIO())
    given["plugins"] = plugins
    return Trainer(**given | {"logger": tracker or False, "default_root_dir": str(folder)})


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn exceptions of Lightning into the errors and exit statuses of the command line.

    Raises:
        InputError: options of the trainer that do not fit.
        SystemExit: with 143 after SIGTERM; Lightning's own exception carries no status, which would say success.
        KeyboardInterrupt: after Ctrl-C, which Lightning turns into an exit.
    """
    try:
        yield
    except MisconfigurationException as error:
        msg = f"--trainer: {' '.join(str(error).split())}"
        raise InputError(msg) from error
    except SIGTERMException as stop:
        raise SystemExit(143) from stop
    except SystemExit as stop:
        if stop.code == 1:
            raise KeyboardInterrupt from stop
        raise


STARTUP = 5.0  # seconds of a run besides training: checks, tables and figures
FORWARD = 3.0  # an image that is only predicted costs a third of one that is trained on
TIMED = 3  # batches after the first
TIMED_PIXELS = 128 * 96**2  # of the images in one of these batches, on the CPU


def seconds_an_image(config: RunConfig) -> float:
    """Return the seconds of training per image on the best device, measured on a few batches."""
    model, size, batch = config.model, config.data["size"], config.data["batch_size"]
    backbone, features, _ = build_backbone(model["backbone"], "none", size=size, stem_stride=model["stem_stride"])
    network = torch.nn.Sequential(backbone, build_head("linear", features, 8)).train()
    device = best_device()
    if device.type == "cpu":  # as quick per image in parts; a whole batch of large images may not fit into memory
        batch = max(2, min(batch, TIMED_PIXELS // size**2))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.randint(8, (batch,), device=device)
    start = 0.0
    for step in range(TIMED + 1):
        if step == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), label)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device
    return (time.perf_counter() - start) / (TIMED * batch)


def duration(seconds: float) -> str:
    """Return a duration as text."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def planned_epochs(config: RunConfig, steps: int = 1) -> int:
    """Return the number of epochs that a run trains at most, by the rules of Lightning's trainer.

    Args:
        config: The options.
        steps: Steps of an epoch; needed where only ``trainer.max_steps`` ends the run.

    Raises:
        InputError: neither epochs nor steps end the run.
    """
    epochs, most = config.trainer["max_epochs"], config.trainer["max_steps"]
    if epochs is None and most == -1:
        return 1000  # Lightning's own default
    ends = [number for number in (epochs or -1, -(-most // steps)) if number > 0]
    if not ends:
        raise invalid("--trainer.max_epochs", "must be at least 1 where max_steps does not end the run", epochs)
    return int(min(ends))


FEW_STEPS, FEW_SELECTED = 50, 5  # steps of a run; val images per class
LONG = 1200  # seconds


def run_notes(config: RunConfig, data: EmotionDataModule) -> list[str]:
    """Return what a user should know before a training: what was left out, and where too little is trained on.

    Args:
        config: The options.
        data: The images, after `setup`.
    """
    notes = list(data.notes)
    trainer, in_epoch = config.trainer, -(-len(data.draws) // data.batch_size)
    endless = trainer["max_epochs"] == -1 and trainer["max_steps"] == -1  # until --trainer.max_time
    shortened = trainer["fast_dev_run"] or trainer["overfit_batches"] or not is_whole(trainer["limit_train_batches"])
    steps = FEW_STEPS if endless or shortened else planned_epochs(config, in_epoch) * in_epoch
    if steps < FEW_STEPS:
        smaller = "smaller batches (--data.batch_size 16) or " if data.batch_size > 16 else ""
        notes.append(
            f"this trains only {steps} batches, after which a network has hardly learned anything; {smaller}more "
            "epochs (--trainer.max_epochs) give more"
        )
    selected, classes = len(data.selected_on), len(data.classes)
    if data.plan.protocol != "paper" and 0 < selected < FEW_SELECTED * classes:
        inside = config.data["inner_folds"] is None and config.data["inner_fraction"] < 0.2 and data.split != "given"
        notes.append(
            f"the val part has {selected} images of {classes} classes, so which epoch is kept is partly chance"
            + ("; --data.inner_fraction 0.2 makes it larger" if inside else "")
        )
    return notes


def limited_steps(steps: int, limit: float | None) -> int:
    """Return the steps that Lightning's `limit_train_batches`, a number or a share of the batches, leaves of them."""
    if isinstance(limit, float):
        return max(1, int(steps * limit))
    return steps if limit is None else min(steps, limit)


def describe_run(
    config: RunConfig, runs: int = 1, identity: str = "", workers: int = 1, shared: EmotionDataModule | None = None
) -> str:
    """Describe what `emotion fit` or a cross-validation would do, without training or storing a run.

    Args:
        config: The options; of a cross-validation those of its first fold.
        runs: Number of trainings like this one.
        identity: Of a cross-validation; by default that of the run.
        workers: Trainings at the same time.
        shared: A data module of the same images, already prepared.

    Raises:
        InputError: Wrong options or data, as in training.
    """
    check_options(config)
    config = with_run_ids(config)
    data = data_module(config)
    if shared is not None:
        data.share(shared)
    prepare(data)
    data.setup("fit")
    drawn, val, test = len(data.draws), len(data.selected_on), len(data.fold_rows.test)
    whole = -(-drawn // data.batch_size)
    steps = limited_steps(whole, config.trainer.get("limit_train_batches"))
    epochs = planned_epochs(config, steps)
    at_once = min(workers, torch.cuda.device_count()) if torch.cuda.is_available() else 1  # workers share the cores
    rounds = -(-runs // max(1, at_once))
    passes = 2 if config.model["sam_radius"] else 1
    views = (5 if config.model["shift_at_test"] else 1) * (2 if config.model["flip_at_test"] else 1)
    trained = passes * epochs * min(steps * data.batch_size, drawn)
    seconds = STARTUP + seconds_an_image(config) * (trained + (epochs * val + views * test) / FORWARD)
    selected = "the same as the test part (protocol paper)" if data.plan.protocol == "paper" else "to select the epoch"
    time_needed = f"{'about ' if rounds * seconds >= 60 else ''}{duration(rounds * seconds)}"
    first = "of fold 0" if runs > 1 else ""
    more = f"; an epoch has {drawn:,} rows after over-sampling" if drawn != len(data.fold_rows.train) else ""
    lines = [
        ("data", f"{data.manifest.name}: {len(data.manifest):,} images, {len(data.classes)} classes"),
        ("classes", ", ".join(f"{name} {count:,}" for name, count in zip(data.classes, _counts(data), strict=True))),
        (f"train {first}", f"{len(data.fold_rows.train):,} images{more}"),
        (f"val {first}", f"{val:,} images, {selected}"),
        (f"test {first}", f"{test:,} images, evaluated once"),
        ("steps", f"{steps:,} in an epoch of batch size {data.batch_size}, {epochs * steps:,} in {epochs} epochs"),
        ("runs", str(runs)),
        ("time", f"{time_needed} on {describe_device(best_device())}, at its current load"),
        ("identity", identity or config.identity(data.content_hash)),
    ]
    width = max(len(name) for name, _ in lines) + 2
    notes = [f"note: {note}" for note in run_notes(config, data)]
    if rounds * seconds > LONG:
        shorter = "--data.read.part 0.1 (a share of every class), --data.size 48, --trainer.max_epochs 2"
        notes.append(f"note: shorter, to try it out: {shorter}")
    return "\n".join([*(f"{name.strip():<{width}}{text}" for name, text in lines), *notes, "nothing was trained"])


def _counts(data: EmotionDataModule) -> list[int]:
    return np.bincount(data.manifest.labels, minlength=len(data.classes)).tolist()
