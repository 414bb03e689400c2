"""Check limits of Lightning's trainer (`limit_*_batches`, no validation, `fast_dev_run`) before a run begins."""

import math
import sys

from lightning.pytorch import Trainer

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, invalid
from lightning_modules.config import RunConfig

PARTS = {"limit_train_batches": "train", "limit_val_batches": "val", "limit_test_batches": "test"}


def is_whole(limit: float | None) -> bool:
    """Return whether a limit leaves all batches: 1.0 is all of them, the whole number 1 is one batch."""
    return limit is None or (isinstance(limit, float) and limit == 1.0)


def without_validation(config: RunConfig) -> str | None:
    """Return the option because of which no validation will run, with its value; None if there will be one."""
    trainer = config.trainer
    if trainer.get("fast_dev_run"):
        return None
    if not trainer.get("overfit_batches") and trainer.get("limit_val_batches") == 0:
        return f"--trainer.limit_val_batches {trainer['limit_val_batches']}"
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    if every is not None and epochs is not None and 0 < epochs < every:
        return f"--trainer.check_val_every_n_epoch {every} with --trainer.max_epochs {epochs}"
    return None


def check_limits(config: RunConfig) -> None:
    """Check the limits of an emotion run that need no data.

    Raises:
        InputError: Nothing would be trained, a schedule or early stopping would wait for a validation that never runs,
            or there would be no checkpoint.
    """
    trainer = config.trainer
    if trainer.get("limit_train_batches") == 0:
        rule, hint = (
            "must be above 0, or nothing is trained",
            "to evaluate a run, use `emotion validate` or `emotion test`",
        )
        raise invalid("--trainer.limit_train_batches", rule, trainer["limit_train_batches"], hint)
    if trainer.get("max_steps") == 0:
        raise invalid("--trainer.max_steps", "must be at least 1, or -1 for no limit", 0)
    for name, allowed in (("enable_checkpointing", (None, True)), ("barebones", (None, False))):
        if trainer.get(name) not in allowed:
            hint = "--run.keep none keeps no checkpoint when the run has ended"
            rule = f"must be {str(allowed[1]).lower()}, since a run is evaluated with its selected checkpoint"
            raise invalid(f"--trainer.{name}", rule, trainer[name], hint)
    _check_epochs(config)
    if radius := config.model["sam_radius"]:
        if str(trainer.get("precision")) in ("16", "16-mixed"):
            rule, hint = "must be 0 with --trainer.precision 16-mixed", "or give --trainer.precision bf16-mixed"
            raise invalid("--model.sam_radius", rule, radius, hint)
        if trainer.get("accumulate_grad_batches") not in (None, 1):
            rule, hint = "must be 0 with --trainer.accumulate_grad_batches", "leave one of them out"
            raise invalid("--model.sam_radius", rule, radius, hint)
    none = without_validation(config)
    if none and config.model["schedule"] == "plateau":
        msg = f"--model.schedule plateau: needs validations, and none runs ({none}); choose another schedule"
        raise InputError(msg)
    if none and config.run["patience"] is not None:
        msg = f"--run.patience {config.run['patience']}: needs validations, and none runs ({none}); leave one out"
        raise InputError(msg)


def _check_epochs(config: RunConfig) -> None:
    """Raise for options that count epochs in a run that has no number of epochs, or too few."""
    epochs, unmixed = config.trainer.get("max_epochs"), config.model["unmixed_epochs"]
    counting = {"progressive_from": config.model["progressive_from"], "unmixed_epochs": unmixed}
    used = next((name for name, value in counting.items() if value), None)
    if used is not None and (epochs is None or epochs < 1):
        raise invalid(f"--model.{used}", "needs --trainer.max_epochs of at least 1", counting[used])
    loss, steps = config.model["loss"] or {}, config.trainer.get("max_steps")
    after = (loss.get("init_args") or {}).get("reweight_after")
    if after is not None and epochs == -1 and steps in (None, -1):
        raise invalid("--model.loss.reweight_after", "needs --trainer.max_epochs or --trainer.max_steps", after)
    if epochs is not None and 0 < epochs <= unmixed:
        raise invalid("--model.unmixed_epochs", f"must be below --trainer.max_epochs, {epochs}", unmixed)


def require_whole_runs(config: RunConfig, what: str, *, validation: bool = False) -> None:
    """Check the options of runs whose results are combined, before any of them begins.

    Args:
        config: Their common options.
        what: What combines them, for the message, such as ``a search``.
        validation: Whether each run must be validated; else each must predict its whole test part.

    Raises:
        InputError: They use `fast_dev_run`, or would be evaluated only in part or not at all.
    """
    trainer = config.trainer
    if trainer.get("fast_dev_run"):
        hint = "try the options with `emotion fit --trainer.fast_dev_run true`"
        raise invalid("--trainer.fast_dev_run", f"cannot be used in {what}", trainer["fast_dev_run"], hint)
    if not is_whole(trainer.get("limit_test_batches")):
        rule = f"must be left out in {what}, which needs the whole test part"
        raise invalid("--trainer.limit_test_batches", rule, trainer["limit_test_batches"])
    if validation and (none := without_validation(config)):
        msg = f"{none}: {what} compares validations, and none would run; leave it out"
        raise InputError(msg)


def check_against_data(config: RunConfig, data: EmotionDataModule) -> None:
    """Check the limits against the number of batches, before a run is tracked.

    Raises:
        InputError: The interval of the validation is longer than an epoch.
    """
    interval, steps = config.trainer.get("val_check_interval"), len(data.train_dataloader())
    by_epochs = config.trainer.get("check_val_every_n_epoch") is not None
    if by_epochs and isinstance(interval, int) and not isinstance(interval, bool) and interval > steps:
        rule = f"must be at most {steps}, the batches of an epoch"
        hint = "for an interval over several epochs give --trainer.check_val_every_n_epoch null"
        raise invalid("--trainer.val_check_interval", rule, interval, hint)
    data.val_dataloader()  # like the other, refuses loading processes for which there is no shared memory


def settle_limits(trainer: Trainer, data: EmotionDataModule) -> None:
    """Use one batch where a share of the batches of a part is less than one, which Lightning refuses; print a note."""
    size = data.eval_batch_size or data.batch_size
    rows = {"val": len(data.selected_on), "test": len(data.fold_rows.test)}
    batches = {"train": len(data.train_dataloader())}
    batches |= {name: math.ceil(math.ceil(number / trainer.world_size) / size) for name, number in rows.items()}
    for option, part in PARTS.items():
        share = getattr(trainer, option)
        if isinstance(share, float) and 0 < share < 1 and int(batches[part] * share) == 0:
            setattr(trainer, option, 1)
            if trainer.is_global_zero:
                note = f"note: {share:g} of the {batches[part]} batches of the {part} part is less than one batch; "
                note += "one batch is used"
                print(note, file=sys.stderr)
