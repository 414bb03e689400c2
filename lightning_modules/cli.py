"""The command line of one run: LightningCLI's fit, validate, test and predict, with tracking around them."""

import contextlib
import difflib
import hashlib
import inspect
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules import losses
from lightning_modules.checkpoints import read_checkpoint
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.evaluation import RunResult, evaluate_outer
from lightning_modules.run import RunOptions, explained, first_rank, resume_checkpoint, run_callbacks
from lightning_modules.shorthand import HELP, expand, recipe_names, take
from records.runs import find_runs, has_store
from records.tracking import TrackingLogger

TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "max_epochs": 10,
    "log_every_n_steps": 50,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # ours shares out whole batches without padding
    "num_sanity_val_steps": 0,
}


def quiet() -> None:
    """Silence messages that tell a user nothing: advertisements, device lists, notes on our own choices."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",  # two cores: the workers we ask for are the workers there are
        ".*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
        ".*LeafSpec.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ".*Detected call of `lr_scheduler.step\\(\\)` before.*",
        ".*find_unused_parameters.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.formatwarning = _note


def _note(message: Warning | str, *_: object, **__: object) -> str:
    """Return a warning as a user reads it, without a path into the code."""
    return f"note: {message}\n"


class RunLogger(TrackingLogger):
    """A run that ends when we say so: Lightning would end it after `fit`, before its tables are written."""

    def finalize(self, status: str = "success") -> None:
        """Leave the run open."""

    def end(self, status: str) -> None:
        """End the run: success, failed or interrupted."""
        super().finalize(status)


class EmotionParser(LightningArgumentParser):
    """Says in one sentence what is wrong with an option and which names are near."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise the user's error in place of printing the whole tree of tried types."""
        inner = _input_error(ex)
        groups = list(self.groups or {})
        owner = groups[0] if len(groups) == 1 else ""  # the parser of one class, or that of the command
        names = [action.dest for action in self._actions if "help" not in action.dest]
        raise InputError(str(inner) if inner else _plain(message, names, owner)) from ex


def _input_error(error: BaseException | None) -> InputError | None:
    """Return our own error that jsonargparse wrapped in its report of all the types it tried."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


_UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected|nrecognized arguments?: (\S+)"
    r"|does not accept option '([^']+)'"
)


def _plain(message: str, names: Iterable[str] = (), owner: str = "") -> str:
    """Return one line: the option, what is wrong with it, the nearest names there are."""
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        words = " ".join(line.strip(" -") for line in message.splitlines() if not _NOISE.search(line))
        if "Expected a dot import path" in words:
            words += f" ({_LOSSES})"
        return words.replace("Parser key", "option")
    option = next(group for group in unknown.groups() if group).lstrip("-").split("=")[0]
    known = set(names) if owner else _all_options()
    parts = [part for part in option.split(".") if part not in known | {"init_args", "class_path"}]
    near = difflib.get_close_matches((parts or [option])[0], known, n=3, cutoff=0.6)
    place = f" by {owner}" if owner else ""
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"it takes {', '.join(names)}" if owner else "emotion fit --help lists the options"
    return f"{option}: this option is not accepted{place}; {hint}"


_LOSSES = "Losses are " + ", ".join(name for name in losses.__all__ if name[0].isupper() and name != "EmotionLoss")
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value type|^\s*$")


def _all_options() -> set[str]:
    owners = [EmotionClassifier, EmotionDataModule, RunOptions, Trainer]
    named = {name for owner in owners for name in inspect.signature(owner).parameters}
    return named | {"model", "data", "trainer", "run", "seed_everything", "seed"}


class EmotionCLI(LightningCLI):
    """LightningCLI in subclass mode, with our run options, tracking, guards and one evaluation at the end."""

    result: RunResult | None = None

    def __init__(self, args: list[str]) -> None:
        quiet()
        super().__init__(
            EmotionClassifier,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            parser_class=EmotionParser,
            save_config_callback=None,
            parser_kwargs={"allow_abbrev": False},  # a misspelt option is an error, not the start of another
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults=dict(TRAINER_DEFAULTS),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's options, and hand the class names from the data to the model."""
        parser.add_class_arguments(RunOptions, "run")
        parser.link_arguments("data.classes", "model.init_args.classes", apply_on="instantiate")
        parser.set_defaults(
            {
                "model": {"class_path": "lightning_modules.classifier.EmotionClassifier"},
                "data": {"class_path": "datamodules.emotion.EmotionDataModule"},
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse a checkpoint that is damaged, not ours or would run code, before Lightning opens it.

        Lightning's own would warn that we hand it the words instead of sys.argv.

        Raises:
            InputError: so, or nothing trained is given to evaluate.
        """
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        command = self.config.subcommand
        path = self.config[command].ckpt_path
        if path is not None:
            read_checkpoint(path)
        elif command != "fit":
            msg = f"emotion {command}: --run RUN or --ckpt_path FILE says which trained model, got neither"
            raise InputError(msg)

    @property
    def options(self) -> RunOptions:
        """The run's options."""
        return self._get(self.config_init, "run")

    @property
    def plain_config(self) -> dict[str, Any]:
        """The whole config as plain types, as it is logged and as `--config` takes it."""
        dump = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return dict(dump[self.subcommand] if self.subcommand in dump else dump)

    def config_hash(self) -> str:
        """Hash of everything that makes the run's numbers; its name, parent and resuming do not."""
        whole = self.plain_config
        config = {key: value for key, value in whole.items() if key not in ("run", "ckpt_path", "weights_only")}
        config["run"] = {key: whole["run"][key] for key in ("patience", "ema_decay")}
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Make the trainer; `fit` gets a tracked run, its callbacks and the guards."""
        self.tracker: RunLogger | None = None
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        options = self.options
        run_id = self._run_to_resume(options)
        seed = self._get(self.config, "seed_everything")
        data = self.datamodule
        division = ""
        if first_rank():
            data.prepare_data()
            data.setup("fit")  # wrong data leaves no run behind
            division = division_hash(data)
            if run_id:
                _require_same_division(run_id, division)
        fold = f" fold {data.fold}" if getattr(data, "split", "") == "folds" else ""
        self.tracker = RunLogger(
            experiment=options.experiment,
            run_name=options.name or f"{options.recipe} {data.manifest.name}{fold} seed {seed}",
            run_id=run_id,
            parent_run_id=options.parent,
            tags={
                "recipe": options.recipe,
                "seed": str(seed),
                "fold": str(getattr(data, "fold", "")),
                "config_hash": self.config_hash(),
                "manifest": data.manifest.fingerprint(),
                "data": data.manifest.name,
                "division": division,
                "kind": "run",
            },
        )
        # other ranks than zero make no run; Lightning tells them rank zero's folder before they need it
        folder = self.tracker.run_folder if self.tracker.run_id else Path("mlruns", "runs", "of-rank-zero")
        try:
            self._resume_from = resume_checkpoint(folder) if run_id else None
            trainer = self._get(self.config_init, "trainer")
            callbacks = run_callbacks(options, folder, progress=trainer.get("enable_progress_bar") is not False)
            trainer["callbacks"] = [*(trainer.get("callbacks") or []), *callbacks]
            return super().instantiate_trainer(logger=self.tracker, default_root_dir=str(folder), **kwargs)
        except BaseException:
            if first_rank():
                self.tracker.end("failed")
            raise

    def _run_to_resume(self, options: RunOptions) -> str | None:
        if options.resume is None:
            return None
        if options.resume != "auto":
            return options.resume
        # every rank looks for itself and finds the same: the run that rank zero opened stays unfinished
        if not has_store():
            if first_rank():
                print("--resume: there are no runs yet; a new one begins", file=sys.stderr)
            return None
        same = f"tags.config_hash = '{self.config_hash()}' and attributes.status != 'FINISHED'"
        found = find_runs(where=same, parent=options.parent)
        if options.parent is None:
            found = found[found["parent"].isna()]  # a fold belongs to its cross-validation
        if found.empty:
            if options.parent is None and first_rank():
                print("--resume: no unfinished run has this config; a new one begins", file=sys.stderr)
            return None
        return str(found.iloc[0]["run_id"])

    def instantiate_classes(self) -> None:
        """Build data and model; jsonargparse hides the errors of their options in a tree of all it tried."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if inner := _input_error(error):
                raise inner from error
            raise

    def fit(self, model: LightningModule, datamodule: LightningDataModule, **kwargs: object) -> None:
        """Train, then predict the outer part once with the checkpoint that the inner split chose."""
        assert isinstance(datamodule, EmotionDataModule) and self.tracker is not None  # noqa: PT018
        tracker, trainer = self.tracker, self.trainer
        start = self._resume_from or kwargs.get("ckpt_path")
        try:
            with explained(datamodule.batch_size):
                self._log_beginning(tracker, datamodule)
                trainer.fit(model, datamodule=datamodule, ckpt_path=str(start) if start else None, weights_only=True)
                if self.options.evaluate:
                    self.result = evaluate_outer(self, tracker)
                if trainer.is_global_zero:
                    tracker.end("success")
        except BaseException as error:
            if trainer.is_global_zero:
                with contextlib.suppress(OSError):  # what ended the run is told, not that its end cannot be written
                    tracker.end("interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed")
                if self.options.parent is None and list(tracker.run_folder.glob("*.ckpt")):
                    advice = f"the run is kept; to go on: the same command with --resume {tracker.run_id}"
                    print(advice, file=sys.stderr)
            raise

    def _log_beginning(self, tracker: RunLogger, data: EmotionDataModule) -> None:
        config = self.plain_config
        del config["run"]["resume"]  # says how the run was started, not what it is
        tracker.log_hyperparams(config)
        tracker.log_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "config.yaml")
        numbers = np.bincount(data.manifest.labels, minlength=len(data.classes)).tolist()
        counts = dict(zip(data.classes, numbers, strict=True))
        if self.trainer.is_global_zero:
            print(*(f"note: {note}\n" for note in data.manifest.notes), sep="", end="")
        profile = {"images": len(data.manifest), "classes": counts}
        tracker.log_dataset(data.manifest.name, data.source, data.manifest.fingerprint(), profile=profile)
        tracker.set_tags({f"leak.{name}": value for name, value in data.leak_record.items()})


def division_hash(data: EmotionDataModule) -> str:
    """Hash of which picture plays which role; one added picture can change clusters, and so the roles of many."""
    contents = np.asarray(data.contents, dtype=object)
    split = data.split_table()
    split["content"] = contents[split["row"]]
    return hashlib.sha256(pd.util.hash_pandas_object(split, index=False).to_numpy().tobytes()).hexdigest()[:16]


def _require_same_division(run_id: str, division: str) -> None:
    known = find_runs(where=f"attributes.run_id = '{run_id}'", limit=1)
    before = known.iloc[0].get("tags.division") if len(known) else None
    if isinstance(before, str) and before != division:
        msg = (
            f"--resume: the data or the clusters in it changed since run {run_id} began, so held-out pictures may have "
            "been trained on; start a new run without --resume"
        )
        raise InputError(msg)


def main(args: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test``, ``predict``, ``export`` or ``register``; return the exit status."""
    command, rest = args[0], args[1:]
    if command in ("export", "register"):
        from lightning_modules import export

        return export.main(args)
    run, without_run = take(rest, "--run")
    if command == "predict":
        from lightning_modules import predict

        return predict.main(rest)
    if command in ("validate", "test") and run:
        from lightning_modules.stored import stored_run

        config, checkpoint_path = stored_run(run)
        rest = ["--config", str(config), *without_run, "--ckpt_path", str(checkpoint_path)]
    if {"-h", "--help"} & set(rest):
        print(HELP.format(recipes=", ".join(recipe_names())))
    run_cli([command, *rest])
    return 0


def run_cli(args: list[str]) -> EmotionCLI:
    """Run one LightningCLI subcommand on short or long options; the same door for the shell and for many runs.

    Args:
        args: the subcommand, then its options.

    Returns:
        The finished command line, with ``result`` after ``fit``.

    Raises:
        InputError: a wrong option, wrong data, no memory, no space.
    """
    words = expand(_resume_words(args[1:]))
    try:
        return EmotionCLI([args[0], *words])
    except ArgumentError as error:
        raise InputError(_plain(str(error))) from error
    except MisconfigurationException as error:  # of options of the trainer that do not fit
        msg = f"trainer: {' '.join(str(error).split())}"
        raise InputError(msg) from error
    except SIGTERMException as stop:  # Lightning's carries no status, which would say success
        raise SystemExit(143) from stop
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
        elif stop.code == 1:  # Lightning ends so after Ctrl-C
            raise KeyboardInterrupt from stop
        raise


def _resume_words(args: list[str]) -> list[str]:
    value, rest = take(args, "--resume", optional=True)
    return rest if value is None else [*rest, "--run.resume", value or "auto"]
