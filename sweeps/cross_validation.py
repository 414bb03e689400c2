"""k runs under one parent: each fold selected on its inner split, each image predicted once, one table at the end."""

import gc
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from lightning_modules.cli import EmotionCLI, run_cli
from lightning_modules.evaluation import RunResult, log_evaluation
from records.runs import children, find_runs
from records.tracking import TrackingLogger


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation gives: the pooled tables of the first seed, and macro F1 of every fold and seed."""

    run_id: str
    classes: list[str]
    predictions: pd.DataFrame
    folds: pd.DataFrame  # seed, fold, run_id, f1_macro, accuracy
    pooled: pd.DataFrame  # seed, f1_macro, accuracy over all images
    summary: Any


def cross_validate(
    args: list[str], *, folds: int, seeds: list[int], resume: str | None = None, resamples: int = 2000
) -> CrossValidation:
    """Train and evaluate every fold once.

    Args:
        args: options of `emotion fit` (short or long) that all folds share.
        folds: number of folds, at least 2.
        seeds: training seeds; the folds are those of the first seed throughout.
        resume: parent run id to go on with, or "auto" for the newest unfinished one of the same options.
        resamples: bootstrap resamples of the pooled intervals.

    Returns:
        The pooled result; everything in it is in the parent run, too.

    Raises:
        InputError: wrong options; a class with fewer clusters than folds; folds that do not cover the images once.
    """
    if folds < 2:
        msg = f"--folds: at least 2, got {folds}; for one split use `emotion fit --split holdout`"
        raise InputError(msg)
    if len(set(seeds)) != len(seeds):
        msg = f"--seeds: each seed once, got {seeds}"
        raise InputError(msg)
    key = hashlib.sha256(json.dumps([args, folds, seeds]).encode()).hexdigest()[:16]
    parent = _open_parent(args, folds, seeds, key, resume)
    results: list[dict[str, Any]] = []
    tables: dict[int, list[pd.DataFrame]] = {seed: [] for seed in seeds}
    splits: list[pd.DataFrame] = []
    classes: list[str] = []
    done = _finished_children(parent.run_id) if resume else {}
    todo = [(seed, fold) for seed in seeds for fold in range(folds)]
    try:
        for seed, fold in tqdm(todo, desc="folds", unit="fold"):
            result = done.get((seed, fold))
            if result is None:
                result = _run_fold(args, folds, fold, seed, seeds[0], parent.run_id or "", resume is not None)
            classes = result.classes
            tables[seed].append(result.predictions)
            if seed == seeds[0]:
                splits.append(result.split)
            results.append({"seed": seed, "fold": fold, "run_id": result.run_id, **result.metrics})
        pooled = {seed: pd.concat(parts, ignore_index=True) for seed, parts in tables.items()}
        for seed, table in pooled.items():
            _check_once(table, seed)
        first = pooled[seeds[0]]
        summary = log_evaluation(parent, first, pd.concat(splits, ignore_index=True), classes, resamples=resamples)
        fold_table = pd.DataFrame(results)
        pooled_table = pd.DataFrame([{"seed": seed, **_pooled_metrics(table, classes)} for seed, table in pooled.items()])
        _log_spread(parent, fold_table, pooled_table)
    except BaseException as error:
        parent.finalize("interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed")
        print(f"finished folds are kept; the same command with --resume goes on ({parent.run_id})", file=sys.stderr)
        raise
    parent.finalize("success")
    return CrossValidation(parent.run_id or "", classes, first, fold_table, pooled_table, summary)


def _open_parent(args: list[str], folds: int, seeds: list[int], key: str, resume: str | None) -> TrackingLogger:
    run_id = None if resume in (None, "auto") else resume
    if resume == "auto":
        found = find_runs(where=f"tags.config_hash = '{key}' and attributes.status != 'FINISHED'", limit=1)
        run_id = None if found.empty else str(found.iloc[0]["run_id"])
        if run_id is None:
            print("--resume: no unfinished cross-validation has these options; a new one begins")
    recipe, data = _described(args)
    parent = TrackingLogger(
        run_name=f"{recipe} {data} {folds}-fold",
        run_id=run_id,
        system_metrics=False,
        tags={
            "kind": "cross-validation",
            "recipe": recipe,
            "seed": ",".join(map(str, seeds)),
            "config_hash": key,
            "arguments": json.dumps(args),
            "folds": str(folds),
        },
    )
    parent.open()
    return parent


def _described(args: list[str]) -> tuple[str, str]:
    recipe = next((args[i + 1] for i, word in enumerate(args[:-1]) if word in ("--recipe", "--config", "-c")), "quick")
    data = next((args[i + 1] for i, word in enumerate(args[:-1]) if word in ("--data", "--data.source")), "")
    return Path(recipe).stem, Path(data.rsplit(":", 1)[-1]).stem if data and not data.startswith("drawn") else "drawn"


def _finished_children(parent_id: str | None) -> dict[tuple[int, int], RunResult]:
    found: dict[tuple[int, int], RunResult] = {}
    for row in children(str(parent_id)).to_dict("records"):
        if row["status"] == "FINISHED":
            found[int(row["tags.seed"]), int(row["tags.fold"])] = RunResult.from_run(row["run_id"])
    return found


def _run_fold(args: list[str], folds: int, fold: int, seed: int, fold_seed: int, parent: str, resume: bool) -> RunResult:
    words = ["fit", *args, "--seed", str(seed), "--run.parent", parent]
    words += ["--data.split", "folds", "--data.folds", str(folds), "--data.fold", str(fold), "--data.fold_seed", str(fold_seed)]
    cli: EmotionCLI | None = run_cli([*words, *(["--resume"] if resume else [])])
    assert cli is not None and cli.result is not None  # noqa: S101, PT018
    result = cli.result
    cli = None
    gc.collect()  # the trainer and its callbacks refer to each other; a GPU's memory goes back only now
    return result


def _check_once(predictions: pd.DataFrame, seed: int) -> None:
    """Every image is predicted by exactly one fold, or the pooled figures mean nothing."""
    twice = predictions["row"][predictions["row"].duplicated()]
    missing = np.setdiff1d(np.arange(predictions["row"].max() + 1), predictions["row"])
    if len(twice) or len(missing):
        msg = (
            f"seed {seed}: {len(twice)} images were predicted twice and {len(missing)} never (rows {list(twice[:3])} "
            f"{list(missing[:3])}); did the data change between folds? Start again without --resume"
        )
        raise InputError(msg)


def _pooled_metrics(predictions: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    truth, predicted = predictions["label"].to_numpy(), predictions["predicted"].to_numpy()
    return {"f1_macro": macro_f1(truth, predicted, classes), "accuracy": float((truth == predicted).mean())}


def _log_spread(parent: TrackingLogger, folds: pd.DataFrame, pooled: pd.DataFrame) -> None:
    """Log mean and standard deviation over folds (of each seed's folds together) and the spread of the seeds."""
    for name in ("f1_macro", "accuracy"):
        parent.log_metrics({f"cv/{name}_mean": folds[name].mean(), f"cv/{name}_sd": folds[name].std(ddof=1)})
        if len(pooled) > 1:
            parent.log_metrics({f"cv/{name}_seed_sd": pooled[name].std(ddof=1)})
    parent.log_table(folds, "folds")
    parent.log_table(pooled, "seeds")
