"""RunConfig: all options of a training run as plain data, from a recipe, files and the command line.

The one jsonargparse parser of the project is here; everything else takes a RunConfig, or argparse in `emotion.cli`.
"""

import copy
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader

from datamodules.errors import InputError, did_you_mean, invalid, nearest
from datamodules.files.paths import path_text
from datamodules.read_options import LONG, ReadOptions, Spelling, short_words, spellings

if TYPE_CHECKING:
    from datamodules.emotion import EmotionDataModule

RECIPES = Path(__file__).resolve().parent / "recipes"  # package data: they are in the wheel, too
DEFAULT_RECIPE = "quick"
SECTIONS = ("model", "data", "run", "trainer")
MONITOR = "val/f1_macro"  # of the val part: what is selected on is never what is reported
EMA_WARMUP = 10  # of the average's decay, see WeightAverage
TEACHER_SHARE = 0.5
Keep = Literal["best", "last", "none"]
StepName = Literal["temperature", "tau", "thresholds"]  # of `lightning_modules.decisions`, in their order
Kind = Literal["emotion", "detector"]  # what is trained: an emotion classifier, or a face detector
TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "max_epochs": 10,
    "log_every_n_steps": 50,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the data module shares out whole batches without padding
    "num_sanity_val_steps": 0,
}
# options that change no number of a run, so two runs that differ in these alone are the same run
WITHOUT_EFFECT: dict[str, frozenset[str]] = {
    "model": frozenset({"compile", "channels_last"}),
    "data": frozenset(
        {"source", "boxes", "num_workers", "cache_dir", "cache_budget_gb", "eval_batch_size", "pixel_limit"}
    ),
    "read": frozenset({"images"}),  # below data: a folder; the content of the images counts
    "run": frozenset({"recipe", "name", "experiment", "parent", "resume", "evaluate", "accelerator", "keep"})
    | {"decisions", "risk", "coverage"},  # these follow the network: its predictions, and so the scores, stay the same
    "trainer": frozenset(
        "accelerator devices num_nodes strategy logger profiler default_root_dir log_every_n_steps "
        "enable_progress_bar enable_model_summary enable_checkpointing barebones".split()
    ),
}
_SHORT = {
    "--seed": "--seed_everything",
    "--split": "--data.split",
    "--fold": "--data.fold",
    "--resume": "--run.resume",
    "-c": "--config",
}
_SHORT_FOR_DETECTOR = {
    "--boxes": "--data.boxes",
    "--epochs": "--run.epochs",
    "--size": "--data.size",
    "--from": "--run.start_from",
}
_FLAGS = {"--drop-twins": ("data.leak", "drop_twins"), "--allow-leak": ("data.leak", "allow")}
_NUMBERS_OF_BATCHES = frozenset(
    f"trainer.{name}"
    for name in (
        *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
        *("overfit_batches", "val_check_interval"),
    )
)
_OPTION = re.compile(r"--|-[A-Za-z]")  # -1 is a value
_CLASS = re.compile(r"(\w+\.)*(EmotionDataModule|EmotionClassifier)")  # as version 0.1 named data and model


def recipe_names() -> list[str]:
    """Return the names of the recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a named recipe.

    Raises:
        InputError: there is no such recipe.
    """
    if name in recipe_names():
        return RECIPES / f"{name}.yaml"
    hint = did_you_mean(name, recipe_names(), cutoff=0.4) or f"there are {', '.join(recipe_names())}"
    msg = f"--recipe: no recipe is called {name!r}; {hint} (for a file: --config FILE.yaml)"
    raise InputError(msg)


HELP = """short options:
  --recipe NAME     a named recipe: {recipes} (or --config FILE.yaml)
  --data SOURCE     a folder, manifest, archive or reader:path; or drawn, for drawn faces
  --seed N          seed of the run
  --split given     use the split column of the data; with duplicates across parts, --drop-twins or --allow-leak
  --resume [RUN]    resume RUN, or the newest unfinished run of the same config
  --classes A B     use only these classes; --alias NAME=CLASS renames or merges one; --unknown-labels, --votes,
                    --pattern, --label-column and all other options of `emotion data describe --help` work here, too
all options of the model, the data and the trainer: emotion fit --help-all
"""


@dataclass(frozen=True)
class DecisionOptions:
    """Which decisions are fitted on the val part; none by default (see `lightning_modules.decisions`).

    Attributes:
        steps: Some of temperature, tau and thresholds, in this order.
        risk: Largest share of wrong answers, between 0 and 1; None: every image is answered.
        coverage: Share of the images whose set of classes holds the true one, between 0 and 1, instead of `risk`.
    """

    steps: tuple[StepName, ...] = ()
    risk: float | None = None
    coverage: float | None = None

    @classmethod
    def of(
        cls, steps: Sequence[str] | None, risk: float | None, coverage: float | None, prefix: str = "--"
    ) -> "DecisionOptions":
        """Return checked options of a user, whose names begin with `prefix`.

        Raises:
            InputError: An unknown step, a share that is not between 0 and 1, or two rules.
        """
        known = get_args(StepName)
        for step in steps or ():
            if step not in known:
                raise invalid(f"{prefix}decisions", f"must be some of {', '.join(known)}", step)
        for name, value in (("risk", risk), ("coverage", coverage)):
            if value is not None and not 0 < value < 1:
                raise invalid(f"{prefix}{name}", "must be between 0 and 1", value)
        if risk is not None and coverage is not None:
            rule = f"cannot be given with {prefix}risk, since one rule says which images are answered"
            raise invalid(f"{prefix}coverage", rule, coverage, "leave one of them out")
        return cls(tuple(name for name in known if name in (steps or ())), risk, coverage)

    def __bool__(self) -> bool:
        return bool(self.steps) or self.rule is not None

    @property
    def rule(self) -> tuple[str, float] | None:
        """Name of the rule of abstention, and what it promises."""
        if self.risk is not None:
            return "risk", self.risk
        return None if self.coverage is None else ("coverage", self.coverage)


class RunOptions:
    """Options of a run: name, experiment, start, stop, checkpoints and decisions.

    Args:
        recipe: name of the recipe, shown with the run.
        name: the run's name on the MLflow page; by default recipe, data, fold and seed.
        experiment: MLflow experiment.
        parent: run id of the parent, for the folds of a cross-validation.
        resume: run id to resume, or "auto": the newest unfinished run of the same config.
        start_from: start with the weights (backbone and head) of a run (id or name) or a .ckpt file.
        teacher: runs, .ckpt files or cross-validations that have not seen the test part; the mean of their predictions
            becomes part of the training targets (distillation). For each image only models that did not train on it
            are used, if there are any. None: no teacher.
        teacher_share: share of the teacher's predictions in the targets, above 0 and up to 1; the rest is the label.
        patience: stop after this many epochs without a better macro F1 on the val part; None: train all epochs.
        ema_decay: average the weights with this decay per step and evaluate the average; None: off.
        ema_warmup: a smaller value averages over more steps, early in a training. The decay at step n is the smaller
            of ``ema_decay`` and (1 + n) / (ema_warmup + n), so that the average covers at most about the last
            1 / (ema_warmup - 1) of the steps so far: a ninth with 10, a third with 4. At least 2.
        evaluate: predict the test part once at the end and write the tables of predictions and split.
        resamples: bootstrap resamples of the printed intervals.
        keep: checkpoint to keep when the run has ended: "best", the selected weights; "last", also the training
            state of the last epoch; or "none", after which `emotion predict` cannot use the run.
        decisions: post-processing fitted on the val part, which `emotion predict` applies: some of "temperature",
            "tau" and "thresholds"; None: none.
        risk: leave images unanswered so that at most this share of the answers is wrong, such as 0.1.
        coverage: leave images unanswered unless a conformal set has one class; the sets hold the true class of this
            share of the images, such as 0.9.
    """

    def __init__(
        self,
        recipe: str = "custom",
        name: str | None = None,
        experiment: str = "emotion",
        parent: str | None = None,
        resume: str | None = None,
        start_from: str | None = None,
        teacher: list[str] | None = None,
        teacher_share: float = TEACHER_SHARE,
        patience: int | None = None,
        ema_decay: float | None = None,
        ema_warmup: int = EMA_WARMUP,
        evaluate: bool = True,
        resamples: int = 2000,
        keep: Keep = "best",
        decisions: list[StepName] | None = None,
        risk: float | None = None,
        coverage: float | None = None,
    ) -> None:
        self.decides = DecisionOptions.of(decisions, risk, coverage, "--run.")
        if self.decides and keep == "none":
            raise invalid("--run.keep", "must be best or last with --run.decisions, which the checkpoint holds", keep)
        if patience is not None and patience < 1:
            raise invalid("--run.patience", "must be at least 1 epoch", patience, "leave it out to train all epochs")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise invalid("--run.ema_decay", "must be between 0 and 1, such as 0.998", ema_decay)
        if not 0 < teacher_share <= 1:
            raise invalid("--run.teacher_share", "must be above 0 and at most 1", teacher_share)
        if teacher_share != TEACHER_SHARE and not teacher:
            raise invalid("--run.teacher_share", "needs --run.teacher", teacher_share)
        if ema_warmup < 2:
            raise invalid("--run.ema_warmup", "must be at least 2", ema_warmup, f"{EMA_WARMUP} is usual")
        if ema_warmup != EMA_WARMUP and ema_decay is None:
            msg = f"--run.ema_warmup is {ema_warmup}, but nothing is averaged; give --run.ema_decay 0.999 as well"
            raise InputError(msg)
        if resamples < 100:
            raise invalid("--run.resamples", "must be at least 100 for an interval (2000 is usual)", resamples)
        self.recipe = recipe
        self.name = name
        self.experiment = experiment
        self.parent = parent
        self.resume = resume
        self.start_from = start_from
        self.teacher = teacher
        self.teacher_share = teacher_share
        self.patience = patience
        self.ema_decay = ema_decay
        self.ema_warmup = ema_warmup
        self.evaluate = evaluate
        self.resamples = resamples
        self.keep = keep


@dataclass(frozen=True)
class DetectorRun:
    """Options of a detector's run: name, experiment, start, length, device and checkpoints.

    Attributes:
        name: the run's name on the MLflow page; by default data, backbone and seed.
        experiment: MLflow experiment.
        parent: run id of the parent, for the runs of a study.
        resume: run id to resume, or "auto": the newest unfinished run of the same config.
        start_from: start with the weights of a run (id or name) or a .ckpt file.
        epochs: largest number of epochs.
        patience: stop after this many epochs without a better map_50 (mAP@.5) on the val part; None: train all epochs.
        ema_decay: average the weights with this decay per step and evaluate the average; None: off.
        accelerator: "auto", "cpu" or "gpu".
        precision: precision of the computations, such as "bf16-mixed".
        clip: largest norm of the gradient.
        resamples: bootstrap resamples of the printed intervals.
        keep: checkpoint to keep when the run has ended: "best", "last" (with the training state) or "none".
    """

    name: str | None = None
    experiment: str = "face-detector"
    parent: str | None = None
    resume: str | None = None
    start_from: str | None = None
    epochs: int = 12
    patience: int | None = None
    ema_decay: float | None = None
    accelerator: str = "auto"
    precision: str = "32-true"
    clip: float = 10.0
    resamples: int = 1000
    keep: Keep = "best"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("patience", 1), ("resamples", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise invalid(f"--run.{name}", f"must be at least {least}", value)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise invalid("--run.ema_decay", "must be between 0 and 1, such as 0.998", self.ema_decay)
        if not self.clip > 0:
            raise invalid("--run.clip", "must be above 0", self.clip)


@dataclass(frozen=True)
class RunConfig:
    """One training run as plain data: the options of the model, the data, the run and Lightning's trainer.

    Attributes:
        model: arguments of EmotionClassifier, without the classes, which the data know; or of FaceDetector.
        data: arguments of EmotionDataModule, or of BoxesDataModule.
        run: arguments of RunOptions, or of DetectorRun.
        trainer: arguments of Lightning's Trainer; empty for a detector, whose few are in ``run``.
        seed_everything: the one seed of the run.
        ckpt_path: a Lightning checkpoint whose training state is continued.
        kind: what is trained.

    Notes:
        Every value has been checked against the type of its argument. Options of the loss stand in
        ``model["loss"]``, as ``{"class_path": ..., "init_args": {...}}``.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    run: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    seed_everything: int = 0
    ckpt_path: str | None = None
    kind: Kind = "emotion"

    @classmethod
    def resolve(cls, words: Sequence[str] = (), kind: Kind = "emotion") -> "RunConfig":
        """Return the config of a recipe, files and options; options override files, files override the recipe.

        Args:
            words: a command line, such as ``["--recipe", "balanced", "--data.size=48"]``. Of an option that is
                given twice the last value counts; otherwise their order does not matter. Recipe `quick` where neither
                a recipe nor a file is given.
            kind: what is trained.

        Raises:
            InputError: an unknown option, recipe or file, or a value of the wrong type; with the nearest names.
        """
        return cls.layered(Options.read(words, kind), kind)

    @classmethod
    def layered(cls, options: "Options", kind: Kind = "emotion", base: Mapping[str, Any] | None = None) -> "RunConfig":
        """Return the config of parsed options, as `resolve` does; recipe and files override `base`."""
        recipe, files = options.recipe, options.files
        if kind == "detector" and recipe is not None:
            msg = f"--recipe: the detector has no recipes, got {recipe!r}; leave it out, or give --config FILE.yaml"
            raise InputError(msg)
        if kind == "emotion" and recipe is None and not files:
            recipe = DEFAULT_RECIPE
        layers = [dict(base)] if base else []
        layers += [_read_file(recipe_path(recipe))] if recipe is not None else []
        for file in files:
            layer = _read_file(Path(file))
            if recipe is None and kind == "emotion":
                layer["run"] = {"recipe": Path(file).stem, **layer.get("run", {})}
            layers.append(layer)
        if recipe is not None:
            layers.append({"run": {"recipe": recipe}})
        return cls._parsed(layers, options.values, kind)

    @classmethod
    def from_file(cls, path: Path, kind: Kind = "emotion") -> "RunConfig":
        """Return the config in the YAML file of a run or of a user.

        Raises:
            InputError: the file cannot be read, or has an unknown option or a wrong value.
        """
        return cls.layered(Options(files=(str(path),)), kind)

    @classmethod
    def from_dict(cls, whole: Mapping[str, Any], kind: Kind = "emotion") -> "RunConfig":
        """Return the config of a dictionary from `as_dict`; values are not checked again."""
        return cls(**copy.deepcopy(dict(whole)), kind=kind)

    @classmethod
    def _parsed(cls, layers: Sequence[Mapping[str, Any]], values: Mapping[str, Any], kind: Kind) -> "RunConfig":
        # an option comes before its own options (model.loss before model.loss.gamma), wherever it was typed
        names = sorted(values, key=lambda name: name.count("."))
        words = [f"--config={json.dumps(layer, default=str, ensure_ascii=False)}" for layer in layers]
        words += [f"--{name}={written(values[name])}" for name in names]
        return cls(**copy.deepcopy(_checked(tuple(words), kind)), kind=kind)

    def override(self, changes: Mapping[str, Any]) -> "RunConfig":
        """Return a copy with some options replaced, whose values are checked.

        Args:
            changes: by dotted name, such as ``{"data.fold": 2, "model.loss": "Focal", "model.loss.gamma": 1.0}``.

        Raises:
            InputError: an unknown option or a value of the wrong type.
        """
        return self._parsed([self.as_dict()], changes, self.kind)

    @property
    def data_name(self) -> str:
        """Name of the data set, from its source."""
        source = str(self.data["source"])
        return "drawn" if source.startswith("drawn") else Path(source.rsplit(":", 1)[-1]).stem

    def as_dict(self) -> dict[str, Any]:
        """Return a copy as nested plain data, as in a config file."""
        whole = {"seed_everything": self.seed_everything, **{name: getattr(self, name) for name in SECTIONS}}
        if self.kind == "detector":
            del whole["trainer"]
        else:
            whole["ckpt_path"] = self.ckpt_path
        return copy.deepcopy(whole)

    def get(self, name: str) -> Any:  # noqa: ANN401 - an option's value
        """Return one option by its dotted name, None if there is none."""
        value: Any = self.as_dict()
        for part in name.split("."):
            if isinstance(value, dict) and "init_args" in value and part != "init_args":
                value = value["init_args"]
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def to_yaml(self) -> str:
        """Return the config as the file that ``--config`` takes."""
        whole = self.as_dict()
        whole["run"].pop("resume")  # how the run was started is no part of its config
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)

    def effective(self) -> dict[str, Any]:
        """Return the options that can change a result, without those of `WITHOUT_EFFECT`."""
        whole = self.as_dict()
        for section in set(whole) & set(SECTIONS):
            for name in WITHOUT_EFFECT[section]:
                whole[section].pop(name, None)
        for name in WITHOUT_EFFECT["read"]:
            (whole["data"].get("read") or {}).pop(name, None)
        if whole["data"].get("seed", 0) is None:
            whole["data"]["seed"] = self.seed_everything
        return whole

    def changes(self) -> dict[str, str]:
        """Return the options that can change a result and are not those of the recipe; {} without a recipe.

        Seed and number of the fold are left out, since a run states them.
        """
        recipe = self.run.get("recipe")
        if self.kind != "emotion" or recipe not in recipe_names():
            return {}
        from results.tracking.store import flatten  # it imports MLflow

        usual = flatten(RunConfig.resolve(["--recipe", recipe]).effective())
        stated = {"seed_everything", "data.seed", "data.fold", "data.fold_seed"}
        return {
            name.replace(".class_path", "").replace(".init_args", ""): value
            for name, value in flatten(self.effective()).items()
            if name not in stated and usual.get(name) != value
        }

    def identity(self, content: str = "") -> str:
        """Return the identity of a run: SHA-256 of the options that can change a result, and of the data.

        Args:
            content: hash of the data's content; "" compares options alone.
        """
        text = json.dumps([self.kind, self.effective(), content], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def instantiate(self) -> Namespace:
        """Return the sections with their nested objects created (loss, read options), to pass as arguments."""
        try:
            options = _typed(json.dumps(self.as_dict(), sort_keys=True, default=str), self.kind)
            return _parser(self.kind).instantiate(options.clone())
        except (ValueError, TypeError) as error:  # of a nested class, such as a loss, whose own error it quotes
            stated = re.search(r"--model\.loss\..*", str(error))
            if inner := input_error(error):
                raise inner from error
            if stated is None:
                raise
            raise InputError(stated[0]) from error


def data_module(config: RunConfig) -> "EmotionDataModule":
    """Return the data module of a config; it reads files only when they are needed.

    Raises:
        InputError: options of the data that exclude each other.
    """
    from datamodules.emotion import EmotionDataModule

    return EmotionDataModule(**config.instantiate().data)


@dataclass(frozen=True)
class Options:
    """Options as a user gave them: a recipe, files, and values by full dotted name.

    Attributes:
        recipe: name of a recipe, or None.
        files: of YAML, later ones win.
        values: text or plain value of each option, such as ``{"data.size": "48"}``; they win over recipe and files.
        typed: how the user wrote each option, such as ``{"data.split": "--split"}``.
    """

    recipe: str | None = None
    files: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, words: Sequence[str], kind: Kind = "emotion") -> "Options":
        """Return the options of a command line; of one that is given twice the last value counts.

        Raises:
            InputError: a word that belongs to no option, or an option without its value.
        """
        recipe: str | None = None
        files: list[str] = []
        values: dict[str, Any] = {}
        typed: dict[str, str] = {}
        for word, name, value in _pairs(words, kind):
            if name == "recipe":
                recipe = value
            elif name == "config":
                files.append(value)
            else:
                values[name], typed[name] = _joined(values.get(name), value), word
        return cls(recipe, tuple(files), values, typed)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        words = [f"--recipe={self.recipe}"] if self.recipe is not None else []
        words += [f"--config={file}" for file in self.files]
        return words + [f"--{name}={written(value)}" for name, value in self.values.items()]


def _pairs(words: Sequence[str], kind: Kind) -> list[tuple[str, str, Any]]:
    """Return the options of a command line, in order: as they were written, their dotted name, their value."""
    short = _SHORT | (_SHORT_FOR_DETECTOR if kind == "detector" else {})
    pairs: list[tuple[str, str, Any]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in _FLAGS:
            pairs.append((word, *_FLAGS[word]))
            continue
        if word.startswith("-c") and word != "-c":  # -cFILE
            word = f"--config={word[2:]}"
        name, equals, value = word.partition("=")
        if not (name.startswith("--") and len(name) > 2) and name not in short:
            msg = f"{word}: an option begins with --, such as --data.size 48"
            raise InputError(msg)
        if kind == "emotion" and (spelling := _reading(name)):
            pairs.append((name, f"data.read.{spelling.name}", _read_value(name, spelling, value, bool(equals), rest)))
            continue
        if not equals:
            if rest and not _OPTION.match(rest[0]):
                value = rest.pop(0)
            elif name == "--resume":
                value = "auto"
            else:
                msg = f"{name}: needs a value, got none"
                raise InputError(msg)
        if equals and not value.strip() and name in ("--resume", "--run.resume", "--config", "--recipe"):
            msg = f"{name}: needs a value, got none"
            raise InputError(msg)
        value = path_text(value) if name in ("--data", "--data.source") and value else value
        typed, name = name, short.get(name, name).removeprefix("--")
        for section in ("data", "model"):  # as version 0.1 wrote them
            name = name.replace(f"{section}.init_args.", f"{section}.").replace(f"{section}.class_path", section)
        if name in ("data", "model") and _CLASS.fullmatch(value):
            continue  # there is one class
        pairs.append((typed, "data.source" if name == "data" else name, value))
    return pairs


def _reading(word: str) -> Spelling | None:
    """Return the reading option that a word spells, None for any other option."""
    return short_words().get(word) or spellings().get(word.removeprefix(LONG) if word.startswith(LONG) else "")


def _read_value(word: str, spelling: Spelling, value: str, equals: bool, rest: list[str]) -> Any:  # noqa: ANN401
    """Return the value of a reading option, taken from behind its `=` or from the words that follow it."""
    if equals:
        return spelling.read([value])
    if spelling.form == "flag" and not word.startswith(LONG):
        return spelling.sets
    several = spelling.form in ("list", "names")
    texts: list[str] = []
    while rest and not _OPTION.match(rest[0]) and (several or not texts):
        texts.append(rest.pop(0))
    if not texts:
        msg = f"{word}: needs a value, got none"
        raise InputError(msg)
    return spelling.read(texts)


def _joined(before: object, value: Any) -> Any:  # noqa: ANN401 - an option's value
    """Return the value of an option that may have been given before: aliases add up, else the last value counts."""
    return {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value


def read_options(values: Mapping[str, Any]) -> ReadOptions:
    """Return the reading options of values by field, text or plain, as the options of a run are checked.

    Raises:
        InputError: a value of the wrong type, or out of range.
    """
    parser = _reading_parser()
    try:
        parsed = parser.parse_args([f"{LONG}{name}={written(value)}" for name, value in values.items()])
        return ReadOptions(**parsed.as_dict().get("data", {}).get("read", {}))
    except ArgumentError as error:
        raise input_error(error) or plain(str(error), _names(parser)) from error


@functools.cache
def _reading_parser() -> ArgumentParser:
    parser = _Parser(prog="emotion data", exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(ReadOptions, LONG.strip("-."), instantiate=False, sub_configs=True)
    return parser


def written(value: object) -> str:
    """Return a value as text for the command line."""
    if value is None:
        return "null"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def load_yaml(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Parse a YAML text as the parser of options does; PyYAML's own loader reads ``1e-1`` and ``1e-05`` as text."""
    return get_loader("yaml")(text)


def _read_file(path: Path) -> dict[str, Any]:
    """Return the options in a YAML file; version 0.1 wrote ``class_path`` and ``init_args`` of data and model.

    Raises:
        InputError: no such file, no YAML, or no mapping.
    """
    if not path.is_file():
        names = ", ".join(recipe_names())
        msg = f"--config: {path} is not a file; give a YAML file, or a recipe with --recipe ({names})"
        raise InputError(msg)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        example = recipe_path(DEFAULT_RECIPE)
        msg = f"--config: {path} is not readable YAML: {str(error).splitlines()[0]}; for an example see {example}"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"--config: {path} must contain keys such as model, data and trainer, got a {type(content).__name__}"
        raise InputError(msg)
    for section in SECTIONS:
        if content.get(section, {}) is None:  # an empty section
            del content[section]
        elif not isinstance(content.get(section, {}), dict):
            msg = f"--config: {path}: {section} must contain options by name, got {content[section]!r}"
            raise InputError(msg)
    content.pop("weights_only", None)  # of Lightning's command line in version 0.1
    for section in ("data", "model"):
        stored = content.get(section)
        if isinstance(stored, dict) and {"class_path", "init_args"} & set(stored):
            name = str(stored.get("class_path", f"Emotion{'Classifier' if section == 'model' else 'DataModule'}"))
            if not _CLASS.fullmatch(name):
                msg = f"--config: {section}.class_path must be left out, since there is one class; got {name!r}"
                raise InputError(msg)
            content[section] = {**(stored.get("init_args") or {})}
            content[section].pop("classes", None)
    if "seed" in content:  # of a detector's config
        content["seed_everything"] = content.pop("seed")
    if "from" in content:
        content.setdefault("run", {})["start_from"] = content.pop("from")
    return content


class _Parser(ArgumentParser):
    """Parser that reports an error in one sentence; jsonargparse also creates one for each nested class."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise an `InputError` instead of printing all types that jsonargparse tried."""
        inner = input_error(ex)
        groups = list(self.groups or {})
        owner = groups[0] if len(groups) == 1 else ""  # of the parser of one class, such as a loss
        raise (inner or plain(message, _names(self), owner)) from ex


def _names(parser: ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if "help" not in action.dest]


_OWNERS: dict[Kind, dict[str, tuple[str, set[str]]]] = {
    "emotion": {
        "model": ("lightning_modules.classifier:EmotionClassifier", {"classes", "size"}),
        "data": ("datamodules.emotion:EmotionDataModule", set()),
        "run": ("lightning_modules.config:RunOptions", set()),
        "trainer": ("lightning.pytorch:Trainer", set()),
    },
    "detector": {
        "model": ("lightning_modules.face_detector.network:FaceDetector", {"size"}),
        "data": ("datamodules.face_boxes:BoxesDataModule", {"seed"}),
        "run": ("lightning_modules.config:DetectorRun", set()),
    },
}  # section -> the class whose arguments are its options, imported when needed, and which arguments are no options


def _owners(kind: Kind) -> dict[str, tuple[type, set[str]]]:
    """Return the class whose arguments are the options of each section, and which arguments are no options."""
    owners = {}
    for section, (place, left_out) in _OWNERS[kind].items():
        module, _, name = place.partition(":")
        owners[section] = (getattr(importlib.import_module(module), name), left_out)
    return owners


@functools.cache
def _parser(kind: Kind) -> ArgumentParser:
    """Return the parser of every option of a run; it takes half a second to build."""
    parser = _Parser(prog="emotion fit", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_argument("--seed_everything", type=int, default=0, help="seed of the run")
    for section, (owner, left_out) in _owners(kind).items():
        parser.add_class_arguments(owner, section, skip=left_out, instantiate=False, sub_configs=True)
    if kind == "emotion":
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="continue a checkpoint's training state")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    for action in parser._actions:
        # 1 is one batch and 1.0 are all. `typing` keeps one object for Union[int, float] and Union[float, int], so
        # their order depends on which library was imported first, and the parser takes the first type that fits.
        if action.dest in _NUMBERS_OF_BATCHES:
            action._typehint = int | float | None  # type: ignore[attr-defined]
    return parser


def option_names() -> list[str]:
    """Return the dotted names of the options of an emotion run, without those of a loss."""
    return [name for name in _names(_parser("emotion")) if "." in name]


@functools.lru_cache(maxsize=512)  # folds, trials and cells resolve the same options again; each takes 60 ms
def _checked(words: tuple[str, ...], kind: Kind) -> dict[str, Any]:
    """Return the options that a command line gives, each checked; to be copied before it is changed.

    Raises:
        InputError: an unknown option or a value of the wrong type.
    """
    try:
        options: dict[str, Any] = _parser(kind).parse_args(list(words)).as_dict()
    except ArgumentError as error:
        raise plain(str(error), _names(_parser(kind))) from error
    options.pop("config", None)
    return options


@functools.lru_cache(maxsize=64)
def _typed(config: str, kind: Kind) -> Namespace:
    """Return a config, given as JSON, with the types of the parser's arguments; to be cloned before it is changed."""
    return _parser(kind).parse_object(json.loads(config))


def all_options(kind: Kind = "emotion") -> str:
    """Return the help of every option of a run, for ``--help-all``."""
    return _parser(kind).format_help()


def input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` inside an error of jsonargparse, None if there is none."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


_UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected|nrecognized arguments?: (\S+)"
    r"|does not accept option '([^']+)'"
)
_EXPECTED = re.compile(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, such as [first,second]",
    "str": "text",
}


def plain(message: str, names: Sequence[str], owner: str = "") -> InputError:
    """Return jsonargparse's message as one line: the option, what is wrong with it, and the nearest names.

    Args:
        message: of jsonargparse, several lines with a tree of the types that were tried.
        names: arguments of the parser, dotted.
        owner: the class whose arguments they are, where that is a loss.
    """
    before = "--model.loss." if owner else "--"
    if unknown := _UNKNOWN.search(message):
        option = next(group for group in unknown.groups() if group).lstrip("-").split("=")[0]
        option = option.replace(".init_args", "")
        place = f"not an option of {owner}" if owner else "no such option"
        msg = f"{before}{option}: {place}; {_nearest(option, names, before)}"
        return InputError(msg)
    key = re.search(r"(?:Parser key|[Oo]ption) [\"']([\w.]+)[\"']", message)
    option = f"{before}{key[1].replace('.init_args', '')}" if key else "--config"
    value = re.findall(r"(?:Given|Got) value: ?(.*)", message)
    given = value[-1] if value else ""
    if "Expected a dot import path" in message or "subclass of EmotionLoss" in message:
        losses = sorted(_loss_names())
        return invalid(option, f"must be one of {', '.join(losses)}", given, did_you_mean(given, losses))
    if "Unable to load config" in message:
        msg = f"{option}: takes no value itself; give its options, such as {_first_below(option, names)}"
        return InputError(msg)
    expected = _EXPECTED.findall(message)
    if not expected or not value:
        return InputError(f"{option}: {' '.join(message.split())}")
    choices = list(dict.fromkeys(word.strip(" '\"") for _, listed in expected for word in listed.split(",") if listed))
    kinds = [_KINDS.get(kind, kind) for kind, _ in expected if kind not in ("", "NoneType")]
    parts = [*dict.fromkeys(kinds), *([f"one of {', '.join(choices)}"] if choices else [])]
    rule = f"must be {' or '.join(parts)}"
    return invalid(option, rule, given, did_you_mean(given, choices))


def _nearest(option: str, names: Sequence[str], before: str) -> str:
    """Return the hint for an unknown option: the nearest ones, by their whole name or by its last part."""
    known = [name for name in names if name not in ("config", *SECTIONS)]
    if before != "--":
        whole = [f"{before}{name}" for name in known]
        return did_you_mean(f"{before}{option}", whole, cutoff=0.9) or f"it takes {', '.join(whole)}"
    short = (*_SHORT, *_FLAGS, *(word for spelling in spellings().values() for word in spelling.words))
    known += [name.removeprefix("--") for name in (*short, "--recipe", "--config", "--data")]
    tail = option.rsplit(".", 1)[-1]
    alike = [name for name in known if name.rsplit(".", 1)[-1] == tail]
    if not alike:
        tails = {name.rsplit(".", 1)[-1]: name for name in known}
        alike = [tails[near_tail] for near_tail in nearest(tail, tails, cutoff=0.8)]
    if not alike:
        alike = nearest(option, known, cutoff=0.8)
    return f"did you mean {' or '.join(f'--{name}' for name in alike[:3])}?" if alike else "see emotion fit --help-all"


def _first_below(option: str, names: Sequence[str]) -> str:
    return next((f"--{name}" for name in names if f"--{name}".startswith(f"{option}.")), "--data.size")


def _loss_names() -> list[str]:
    from lightning_modules import losses

    return [name for name in losses.__all__ if name[0].isupper() and name != "EmotionLoss"]
