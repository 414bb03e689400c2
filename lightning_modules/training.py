"""Train one run from a RunConfig: data, model, trainer, tracking, and one evaluation at the end."""

import contextlib
import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.imports import _IS_INTERACTIVE
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, invalid
from lightning_modules.beginning import begin_from, check_resumed, check_weights, read_start
from lightning_modules.callbacks import CheckedCheckpointIO
from lightning_modules.checkpoints import load_tensors, read_checkpoint
from lightning_modules.classifier import EmotionClassifier, check_model
from lightning_modules.config import RunConfig
from lightning_modules.evaluation import CURVES, RunResult, evaluate_outer
from lightning_modules.progress import has_bar, quiet, say_stage
from lightning_modules.run import RunOptions, first_rank, remove_checkpoints, resume_checkpoint, run_callbacks
from lightning_modules.stops import explained, how_it_ended, sigterm_ends
from lightning_modules.tracked_run import (
    RunLogger,
    division_hash,
    log_beginning,
    note_other_code,
    require_resumable,
    unfinished_run,
)
from records.predictions import flag_protocol


def train(config: RunConfig, callbacks: Sequence[Callback] = (), data: Any = None) -> RunResult | None:  # noqa: ANN401
    """Train a model, evaluate its best checkpoint once on the held-out part, and track the run.

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
    with _explained(), sigterm_ends():
        return _train(config, callbacks, data)


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
            InputError: They are of another network, or were trained on images of the held-out part.
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
        """Predict the held-out part once; return the table of predictions and the printed result."""

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
            say_stage(f"reading the list of images: {self.data.source}")
        self.model: EmotionClassifier = EmotionClassifier(classes=self.data.classes, **sections.model)
        self.trainer_options = dict(sections.trainer)
        self._shows_progress = self.trainer_options["enable_progress_bar"] is not False
        self.trainer_options["enable_progress_bar"] = self._shows_progress and has_bar()  # else lines

    def division_hash(self) -> str:
        """Hash of which image is in which part."""
        return division_hash(self.data)

    def check_start(self) -> None:
        """Load the weights that the run starts from."""
        if self.options.start_from:
            begin_from(self.model, self.data, self.options.start_from)
        if self.config.ckpt_path:
            check_resumed(self.model, self.data, self.config.ckpt_path)
        check_weights(self.data, self.config.model["weights"])

    def name(self) -> str:
        """Return the name of the run."""
        fold = f" fold {self.data.fold}" if self.data.split == "folds" else ""
        if self.options.name:
            return f"{self.options.name}{fold}"
        return f"{self.options.recipe} {self.data.manifest.name}{fold} seed {self.config.seed_everything}"

    def tags(self) -> dict[str, str]:
        """Return the tags for this kind of training."""
        return {"kind": "run", "recipe": self.options.recipe, "fold": str(self.data.fold)}

    def callbacks(self, folder: Path) -> list[Callback]:
        """Return checkpoints, early stopping, guards and progress."""
        return run_callbacks(self.options, folder, progress=self._shows_progress)

    def log_beginning(self, tracker: RunLogger) -> None:
        """Log the config and the data set."""
        log_beginning(tracker, self.config, self.data)
        if self.options.parent is None and first_rank():
            print(*(f"note: {note}\n" for note in self.data.manifest.notes), sep="", end="", file=sys.stderr)

    def evaluate(self, trainer: Trainer, tracker: RunLogger) -> tuple[pd.DataFrame, str]:
        """Predict the held-out part once; return the table of predictions and the printed result."""
        if not self.options.evaluate:
            return pd.DataFrame(), ""
        return evaluate_outer(
            trainer,
            self.model,
            self.data,
            tracker,
            resamples=self.options.resamples,
            keep_checkpoint=self.options.keep != "none",
        )

    def split_table(self) -> pd.DataFrame:
        """Return the table of the role of each image."""
        return flag_protocol(self.data.split_table(), self.data.division.protocol)


def make_task(config: RunConfig, shared: Any = None) -> Task:  # noqa: ANN401 - a data module of the same kind
    """Seed everything, and create the data and the model of a config."""
    seed_everything(config.seed_everything, workers=True, verbose=False)
    if config.kind == "detector":  # that module imports this one
        return importlib.import_module("lightning_modules.detector.run").DetectorTask(config)
    return EmotionTask(config, shared)


def prepare(data: Any) -> None:  # noqa: ANN401 - a data module
    """Decode the images and find duplicates, unless another run has done so.

    Raises:
        InputError: Images that cannot be read.
    """
    if "cache" not in data.__dict__:
        say_stage(f"decoding {len(data.manifest):,} images at {data.size} px, unless they are in the cache")
        _ = data.cache
    if "clusters" not in data.__dict__:
        say_stage("looking for duplicates")
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
        with explained(data.batch_size):
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


def check_options(config: RunConfig) -> None:
    """Check what needs no data: ranges, names, and whether the trainer can be made; reads and writes nothing.

    Raises:
        InputError: An option is out of range, unknown, or does not fit another.
    """
    if not 0 <= config.seed_everything < 2**32:
        raise invalid("--seed", "must be from 0 to 4294967295", config.seed_everything)
    _check_devices(config)
    sections = config.instantiate()
    if config.kind == "detector":
        return
    start = RunOptions(**config.run).start_from
    EmotionDataModule(**sections.data)
    names = set(inspect.signature(check_model).parameters) | {"dropout", "drop_path", "warmup"}
    check_model(**{name: value for name, value in config.model.items() if name in names})
    if (epochs := config.trainer["max_epochs"]) is not None and epochs < 1 and epochs != -1:
        raise invalid("--trainer.max_epochs", "must be at least 1", epochs)
    weights = config.model["weights"]
    if weights not in ("embedded", "hub", "none"):
        if not Path(weights).is_file():
            raise invalid("--model.weights", "must be embedded, hub, none or a file that exists", weights)
        load_tensors(Path(weights))
    if config.ckpt_path is not None:
        read_checkpoint(config.ckpt_path)  # refuses a damaged or unsafe file before Lightning opens it
    if start:
        read_start(start)
    if first_rank():
        options = {**dict(sections.trainer), "enable_progress_bar": False}
        try:
            Trainer(**options | {"logger": False})
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            msg = f"--trainer: {' '.join(str(error).split())[:450]}"
            raise InputError(msg) from error


def _check_devices(config: RunConfig) -> None:
    """Refuse ways of starting processes in which the other processes cannot find this run.

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


def evaluate(config: RunConfig, checkpoint: Path, part: Literal["validate", "test"]) -> None:
    """Evaluate a checkpoint on the val part (validate) or the held-out part (test); Lightning prints the metrics.

    Raises:
        InputError: The checkpoint is damaged, of another program or of other classes.
    """
    quiet()
    check_options(config)
    read_checkpoint(checkpoint)
    with _explained():
        task = make_task(config)
        trainer = make_trainer(task.trainer_options, None, Path.cwd(), [])
        run = trainer.validate if part == "validate" else trainer.test
        run(task.model, datamodule=task.data, ckpt_path=str(checkpoint), weights_only=True)


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
    """Turn what Lightning raises into the errors and exit statuses of the command line.

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
