"""The LightningCLI behind fit, validate and test: subclasses of model and data, tracking, one evaluation at the end."""

import contextlib
import copy
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from lightning_modules.beginning import begin_from, check_resumed, check_weights
from lightning_modules.callbacks import CheckedCheckpointIO
from lightning_modules.checkpoints import read_checkpoint
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.cli import TRAINER_DEFAULTS, quiet
from lightning_modules.evaluation import RunResult, evaluate_outer
from lightning_modules.parser import EmotionParser, input_error
from lightning_modules.run import RunOptions, first_rank, forget_training_state, resume_checkpoint, run_callbacks
from lightning_modules.stops import explained, how_it_ended
from lightning_modules.tracked_run import RunLogger, division_hash, log_beginning, require_resumable, unfinished_run


class EmotionCLI(LightningCLI):
    """LightningCLI in subclass mode, with our run options, tracking, guards and one evaluation at the end."""

    result: RunResult | None = None

    def __init__(self, args: list[str], callbacks: Sequence[Callback] = ()) -> None:
        quiet()
        self._callbacks = callbacks
        self._asked = args[:1]
        self._plain: dict[str, Any] | None = None
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

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override] # Lightning's is static, called on self
        """Return the one that was asked for: a parser of every option takes a while to build."""
        known = super().subcommands()
        return {name: skipped for name, skipped in known.items() if name in self._asked} or known

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
        if self._plain is None:
            dump = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
            self._plain = dict(dump[self.subcommand] if self.subcommand in dump else dump)
            self._plain["run"].pop("resume", None)  # says how the run was started, not what it is
        return copy.deepcopy(self._plain)

    def config_hash(self) -> str:
        """Hash of everything that makes the run's numbers; its name, parent and resuming do not."""
        whole = self.plain_config
        config = {key: value for key, value in whole.items() if key not in ("run", "ckpt_path", "weights_only")}
        config["run"] = {key: whole["run"][key] for key in ("patience", "ema_decay")}
        if whole["run"]["start_from"] is not None:
            config["run"]["start_from"] = whole["run"]["start_from"]
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Make the trainer; `fit` gets a tracked run, its callbacks and the guards."""
        self.tracker: RunLogger | None = None
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        options = self.options
        run_id = unfinished_run(options, self.config_hash())
        seed = self._get(self.config, "seed_everything")
        data = self.datamodule
        division = ""
        if first_rank():
            data.prepare_data()
            data.setup("fit")  # wrong data leaves no run behind
            division = division_hash(data)
            if run_id:
                require_resumable(run_id, division)
        if options.start_from:
            begin_from(self.model, data, options.start_from)
        if self.plain_config.get("ckpt_path"):
            check_resumed(self.model, data, self.plain_config["ckpt_path"])
        check_weights(data, str(self.plain_config["model"].get("init_args", {}).get("weights", "embedded")))
        fold = f" fold {data.fold}" if getattr(data, "split", "") == "folds" else ""
        self.tracker = RunLogger(
            experiment=options.experiment,
            run_name=f"{options.name}{fold}"
            if options.name
            else f"{options.recipe} {data.manifest.name}{fold} seed {seed}",
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
            trainer["callbacks"] = [*(trainer.get("callbacks") or []), *self._callbacks, *callbacks]
            plugins = trainer.get("plugins") or []
            plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                trainer["plugins"] = [*plugins, CheckedCheckpointIO()]
            return super().instantiate_trainer(logger=self.tracker, default_root_dir=str(folder), **kwargs)
        except BaseException as error:
            if first_rank():
                self.tracker.end(how_it_ended(error))
            raise

    def instantiate_classes(self) -> None:
        """Build data and model; jsonargparse hides the errors of their options in a tree of all it tried."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if inner := input_error(error):
                raise inner from error
            raise

    def fit(self, model: LightningModule, datamodule: LightningDataModule, **kwargs: object) -> None:
        """Train, then predict the outer part once with the checkpoint that the inner split chose."""
        assert isinstance(datamodule, EmotionDataModule) and self.tracker is not None  # noqa: PT018
        tracker, trainer = self.tracker, self.trainer
        start = self._resume_from or kwargs.get("ckpt_path")
        try:
            with explained(datamodule.batch_size):
                log_beginning(tracker, self.plain_config, datamodule)
                if trainer.is_global_zero:
                    print(*(f"note: {note}\n" for note in datamodule.manifest.notes), sep="", end="")
                trainer.fit(model, datamodule=datamodule, ckpt_path=str(start) if start else None, weights_only=True)
                if self.options.evaluate:
                    self.result = evaluate_outer(self, tracker)
                if trainer.is_global_zero:
                    tracker.end("success")
                    forget_training_state(tracker.run_folder)
        except BaseException as error:
            if trainer.is_global_zero:
                with contextlib.suppress(OSError):  # what ended the run is told, not that its end cannot be written
                    tracker.end(how_it_ended(error))
                if self.options.parent is None and list(tracker.run_folder.glob("*.ckpt")):
                    advice = f"the run is kept; to go on: the same command with --resume {tracker.run_id}"
                    print(advice, file=sys.stderr)
            raise
