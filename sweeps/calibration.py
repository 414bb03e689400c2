"""Fit decisions of finished runs, one by one and for the mean of several, and store them with their checkpoints."""

import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, invalid
from datamodules.readers import ReadOptions
from lightning_modules.callbacks import quiet
from lightning_modules.checkpoints import read_checkpoint, store_in_checkpoint
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import DecisionOptions, RunConfig, data_module
from lightning_modules.decisions import (
    DECISIONS_KEY,
    JOINT_KEY,
    NO_VAL_PART,
    Decisions,
    JointDecisions,
    apply_decisions,
    check_val_part,
    fit_decisions,
    values_of,
)
from lightning_modules.evaluation import Evaluation, evaluate_on
from lightning_modules.predictor import Predictor, TorchMember, find_model_run, member_runs
from lightning_modules.training import division_hash, prepare, val_predictions
from results.predictions import PREDICTIONS, classes_of
from results.selective import (
    VAL_PREDICTIONS,
    before_and_after,
    decision_metrics,
    decision_text,
    selective_scores,
    write_decisions,
)
from results.tracking.runs import CHECKPOINT, CONFIG, add_to_run, download, load_table, run_checkpoint, run_row
from results.tracking.store import write_table


@dataclass(frozen=True)
class Calibrated:
    """A run whose decisions were fitted.

    Attributes:
        run_id: The run.
        name: Its name.
        text: The result as it is printed.
        steps: One row per step, each with those before it: run, name, recipe, seed, data, images, step, the fitted
            temperature, tau and threshold of abstention, f1_macro, accuracy, balanced_accuracy, nll, brier,
            calibration_error, aurc, coverage and risk of the answers. Empty where the run has no predictions.
        notes: What a user should know.
    """

    run_id: str
    name: str
    text: str
    steps: pd.DataFrame
    notes: tuple[str, ...] = ()


@dataclass
class _Fitted:
    """One network: its run, its val predictions, and what was fitted for it, and for the mean that it is part of."""

    run_id: str
    row: dict[str, Any]
    checkpoint: Path
    val: pd.DataFrame
    decisions: Decisions
    joint: JointDecisions | None = None
    notes: list[str] = field(default_factory=list)


def calibrate(
    runs: Sequence[str],
    options: DecisionOptions,
    *,
    ensemble: bool = False,
    source: str | None = None,
    read_options: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    part: str | None = None,
) -> list[Calibrated]:
    """Fit decisions on the val parts of finished runs, and store them in their checkpoints.

    What was fitted before is replaced: the raw probabilities of the val part are kept with the run, or computed again.
    The networks of a cross-validation, and of all runs with `ensemble`, are also fitted together: each has its own
    temperature; tau and thresholds come from the calibrated val predictions of all of them; a rule of abstention needs
    images that none of them has seen.

    Args:
        runs: Ids, their beginnings, names, or latest; of a cross-validation all folds.
        options: What is fitted.
        ensemble: Fit all runs together, to be averaged by ``emotion predict --run A B``.
        source: Labelled images that no network has seen, for the abstention of the mean.
        read_options: How they are read.
        part: Only rows of this part of them, such as test.

    Returns:
        One result a run; of a cross-validation its folds, then itself.

    Raises:
        InputError: There is no such run; it has no val part, or too small a one; its data has changed; or abstention of
            a mean without images that no network has seen.
    """
    quiet()
    chosen = [find_model_run(run) for run in runs]
    groups = [member_runs(run) for run in chosen]
    together = (
        [[run for group in groups for run in group]] if ensemble else [group for group in groups if len(group) > 1]
    )
    _check_together(together, options, ensemble, source, part)
    shared: list[EmotionDataModule] = []
    fitted = {run: _fit(run, options, shared) for group in groups for run in group}
    for members in together:
        _fit_joint([fitted[run] for run in members], options, source, read_options, part)
    for each in fitted.values():  # now that all of them are fitted
        _store(each)
    results = {run: _report(each) for run, each in fitted.items()}
    found = []
    for run, members in zip(chosen, groups, strict=True):
        found += [results[member] for member in members]
        if run not in results:
            found.append(_report_folds(run, [fitted[member] for member in members]))
    return found


def remove_decisions(runs: Sequence[str]) -> list[str]:
    """Remove the decisions of runs, so that the most probable class is the answer again; return a sentence per run."""
    members = [member for run in runs for member in member_runs(find_model_run(run))]
    said = []
    for run in members:
        checkpoint = run_checkpoint(run)
        with tempfile.TemporaryDirectory() as folder:
            file = store_in_checkpoint(checkpoint, {DECISIONS_KEY: None, JOINT_KEY: None}, Path(folder, "best.ckpt"))
            said.append(add_to_run(run, {CHECKPOINT: file}, shown="the checkpoint without decisions"))
    return said


def _check_together(
    together: Sequence[Sequence[str]], options: DecisionOptions, ensemble: bool, source: str | None, part: str | None
) -> None:
    """Raise for abstention of a mean without unseen images, and for such images without a mean.

    Raises:
        InputError: They do not go together.
    """
    if ensemble and len(together[0]) < 2:
        raise invalid("--ensemble", "needs at least 2 networks", len(together[0]), "name more runs, or leave it out")
    if together and options.rule and source is None:
        name, stated = options.rule
        rule = "must be fitted, for a mean of networks, on images that none of them has seen"
        hint = "name such a labelled set with --data, or name one run at a time"
        raise invalid(f"--{name}", rule, stated, hint)
    if source is not None and not (together and options.rule):
        rule = "is only used for --risk or --coverage of a cross-validation or of an --ensemble"
        raise invalid("--data", rule, source, "leave it out: all else is fitted on the val part")
    if part is not None and source is None:
        raise invalid("--part", "needs --data", part)


def _fit(run_id: str, options: DecisionOptions, shared: list[EmotionDataModule]) -> _Fitted:
    """Fit the decisions of one run."""
    checkpoint, row = run_checkpoint(run_id), run_row(run_id)
    notes = []
    before = read_checkpoint(checkpoint).get(DECISIONS_KEY)
    if before:
        notes.append("it was calibrated before; the decisions were fitted anew, from the raw probabilities")
    try:
        val = load_table(run_id, VAL_PREDICTIONS)
    except InputError:
        val = _predict_val(run_id, row, checkpoint, options, shared)
    return _Fitted(run_id, row, checkpoint, val, fit_decisions(val, options), notes=notes)


def _predict_val(
    run_id: str, row: Mapping[str, Any], checkpoint: Path, options: DecisionOptions, shared: list[EmotionDataModule]
) -> pd.DataFrame:
    """Predict the val part of a run.

    Raises:
        InputError: The run has no val part, or its data changed.
    """
    config = RunConfig.from_file(download(run_id, CONFIG))
    if config.data["seed"] is None:
        config = config.override({"data.seed": config.seed_everything})
    data = data_module(config)
    if data.plan.protocol == "paper":
        raise InputError(NO_VAL_PART)
    if shared:
        data.share(shared[0])
    print(f"predicting the val part of {row['name']} [{run_id[:8]}] ...", file=sys.stderr, flush=True)
    prepare(data)
    data.setup("fit")
    shared[:] = [data]
    if row.get("tags.division") != division_hash(data):
        msg = (
            f"RUN: the data of {row['name']} [{run_id[:8]}] is not divided as it was ({config.data['source']}), so "
            "images it was trained on may be in the val part; restore the data, or train again"
        )
        raise InputError(msg)
    check_val_part(data.manifest.labels[data.selected_on], data.classes, options)
    return val_predictions(EmotionClassifier.from_checkpoint(checkpoint, data.classes), data)


def _store(fitted: _Fitted) -> None:
    """Keep the val predictions with a run, and the decisions in its checkpoint; note if the store does not answer."""
    joint = None if fitted.joint is None else fitted.joint.state()
    entries = {DECISIONS_KEY: fitted.decisions.state(), JOINT_KEY: joint}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = store_in_checkpoint(fitted.checkpoint, entries, Path(folder, "best.ckpt"))
        table = Path(folder, f"{VAL_PREDICTIONS}.parquet")
        write_table(fitted.val, table)
        files = {CHECKPOINT: checkpoint, f"tables/{table.name}": table}
        said = add_to_run(fitted.run_id, files, shown="the checkpoint with its decisions")
    if said.startswith("not stored"):
        fitted.notes.append(said)


def _fit_joint(
    members: Sequence[_Fitted],
    options: DecisionOptions,
    source: str | None,
    read_options: ReadOptions,
    part: str | None,
) -> None:
    """Fit what is decided from the mean of networks.

    Raises:
        InputError: They have other classes; or images for the abstention that a network has seen, or that lack a class.
    """
    classes = classes_of(members[0].val)
    for member in members[1:]:
        if classes_of(member.val) != classes:
            msg = (
                f"--ensemble: networks of other classes cannot be averaged: {', '.join(classes)} and "
                f"{', '.join(classes_of(member.val))}; name runs of the same classes"
            )
            raise InputError(msg)
    adjusting = tuple(step for step in options.steps if step != "temperature")
    values = [member.decisions.calibrated(values_of(member.val)[0]) for member in members]
    labels = np.concatenate([values_of(member.val)[1] for member in members])
    decisions = Decisions.fit(np.concatenate(values), labels, classes, DecisionOptions(adjusting))
    key = hashlib.sha256(" ".join(sorted(member.run_id for member in members)).encode()).hexdigest()[:16]
    joint, notes = JointDecisions(len(members), key, decisions), []
    if options.rule is not None and source is not None:
        evaluation = _evaluate_unseen(members, joint, source, read_options, part)
        assert evaluation.decided is not None  # of networks with decisions
        joint = replace(joint, decisions=decisions.with_rule(*values_of(evaluation.decided), options))
        images = len(evaluation.decided)
        notes.append(f"its abstention was fitted on {images:,} images of {source} (run {evaluation.run_id})")
    lines = "; ".join(joint.decisions.lines()) or "each network has its own temperature"
    for member in members:
        member.joint = joint
        member.notes += [f"mean of {len(members)} networks: {lines}", *notes]


def _evaluate_unseen(
    members: Sequence[_Fitted], joint: JointDecisions, source: str, read_options: ReadOptions, part: str | None
) -> Evaluation:
    """Evaluate the mean of networks on labelled images that none of them has seen.

    Raises:
        InputError: A network has seen some of them, or does not record which it has seen; or a class is missing.
    """
    networks = []
    for member in members:
        network = TorchMember(member.checkpoint)
        network.decisions, network.joint = member.decisions, joint
        if network.seen is None:
            msg = (
                f"--data: run {member.run_id[:8]} does not record which images it has seen, so these may be among "
                "them; train it again"
            )
            raise InputError(msg)
        networks.append(network)
    predictor = Predictor(networks, f"mean of {len(members)} networks")
    predictor.runs = [member.run_id for member in members]
    evaluation = evaluate_on(predictor, source, read_options, part=part)
    if lacking := [name for name in predictor.classes if name not in evaluation.classes]:
        rule = f"must have images of every class of the networks; there is none of {', '.join(lacking)}"
        raise invalid("--data", rule, source)
    return evaluation


def _report(fitted: _Fitted) -> Calibrated:
    """Apply the decisions of a run to its predictions, and store the result beside them."""
    name = str(fitted.row["name"])
    try:
        raw = load_table(fitted.run_id, PREDICTIONS)
    except InputError:
        text = "\n".join(["decisions", *(f"  {line}" for line in fitted.decisions.lines())])
        notes = (*fitted.notes, "the run has no predictions of a test part, so nothing was measured")
        return Calibrated(fitted.run_id, name, f"{text}\n", pd.DataFrame(), notes)
    decided = apply_decisions(fitted.decisions, raw)
    text = _keep(fitted.run_id, raw, decided, fitted.decisions.lines())
    return Calibrated(fitted.run_id, name, text, _steps(fitted, raw), tuple(fitted.notes))


def _report_folds(run_id: str, members: Sequence[_Fitted]) -> Calibrated:
    """Store the decisions of all folds of a cross-validation beside its predictions, each fold by its own."""
    row, raw = run_row(run_id), load_table(run_id, PREDICTIONS)
    seed = str(row["tags.seed"]).split(",")[0]  # the seed of its prediction table
    first = [member for member in members if member.row["tags.seed"] == seed]
    parts = [apply_decisions(member.decisions, load_table(member.run_id, PREDICTIONS)) for member in first]
    decided = pd.concat(parts, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)
    lines = [f"fold {member.row.get('tags.fold')}: {'; '.join(member.decisions.lines())}" for member in first]
    return Calibrated(run_id, str(row["name"]), _keep(run_id, raw, decided, lines), pd.DataFrame())


def _keep(run_id: str, raw: pd.DataFrame, decided: pd.DataFrame, lines: Sequence[str]) -> str:
    text = decision_text(raw, decided, lines)
    with tempfile.TemporaryDirectory() as folder:
        files = write_decisions(Path(folder), raw, decided, text)
        add_to_run(run_id, files, decision_metrics(raw, decided))
    return text


def _steps(fitted: _Fitted, raw: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of a run after each step."""
    decisions, row = fitted.decisions, fitted.row
    about = {
        "run": fitted.run_id[:8],
        "name": row["name"],
        "recipe": row.get("tags.recipe"),
        "seed": row.get("tags.seed"),
    }
    about |= {"data": row.get("tags.data"), "images": len(raw)}
    stages = [("raw", decisions.up_to(0))]
    stages += [(step.name, decisions.up_to(number)) for number, step in enumerate(decisions.steps, 1)]
    if decisions.rule is not None:
        stages.append((decisions.rule.name, decisions))
    rows = []
    for name, stage in stages:
        decided = apply_decisions(stage, raw)
        after = before_and_after(raw, decided).set_index("score")["after"].to_dict()
        selective = selective_scores(decided)
        found = {"aurc": selective["aurc"], "coverage": selective["coverage"], "risk": selective["risk"]}
        rows.append({**about, "step": name, **_fitted_numbers(stage), **after, **found})
    return pd.DataFrame(rows)


def _fitted_numbers(decisions: Decisions) -> dict[str, float]:
    """Return the numbers of a stage: temperature, tau, the stated promise and the threshold of abstention, or NaN."""
    numbers: dict[str, float] = dict.fromkeys(("temperature", "tau", "stated", "threshold"), float("nan"))
    for step in decisions.steps:
        numbers |= {name: value for name, value in vars(step).items() if name in numbers}
    if decisions.rule is not None:
        rule = vars(decisions.rule)
        numbers |= {"threshold": rule["threshold"], "stated": rule[decisions.rule.name]}
    return numbers
