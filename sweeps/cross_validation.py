"""k runs under one parent: each fold selected on its inner split, each image predicted once, one table at the end."""

import contextlib
import gc
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from datamodules.errors import InputError
from lightning_modules.cli import run_cli
from lightning_modules.evaluation import RunResult, keep_evaluation, whole_scores
from lightning_modules.run import first_rank
from lightning_modules.shorthand import fingerprint
from lightning_modules.stored import CONFIG
from records.predictions import join_folds
from records.runs import children, download, find_run, find_runs, has_store
from records.tracking import TrackingLogger


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation gives; all of it is in the parent run, too."""

    run_id: str
    predictions: pd.DataFrame  # of the first seed, every image once
    folds: pd.DataFrame  # one row a seed and fold: run_id, f1_macro, accuracy, balanced_accuracy
    pooled: pd.DataFrame  # one row a seed: the same over all images together
    text: str  # the printed result


def cross_validate(
    args: list[str], *, folds: int, seeds: list[int], resume: str | None = None, resamples: int = 2000
) -> CrossValidation | None:
    """Train and evaluate every fold once.

    Args:
        args: options of `emotion fit` (short or long) that all folds share.
        folds: number of folds, at least 2.
        seeds: training seeds; the folds are those of the first seed throughout.
        resume: parent run id to go on with, or "auto" for the newest unfinished one of the same options.
        resamples: bootstrap resamples of the pooled intervals.

    Returns:
        The pooled result of the first seed, and the spread over folds and seeds; None on other ranks than zero.

    Raises:
        InputError: wrong options; a class with fewer clusters than folds; folds that do not cover the images once.
    """
    if folds < 2:
        msg = f"--folds: at least 2, got {folds}; for one split use `emotion fit --split holdout`"
        raise InputError(msg)
    if len(set(seeds)) != len(seeds):
        msg = f"--seeds: each seed once, got {seeds}"
        raise InputError(msg)
    if resamples < 100:
        msg = f"--resamples: at least 100 for an interval (2000 is usual), got {resamples}"
        raise InputError(msg)
    key = f"{fingerprint(args)}-{folds}-{'-'.join(map(str, seeds))}"
    parent_id = _parent_to_resume(key, resume)
    finished = _finished_children(parent_id) if parent_id else {}
    todo = [(seed, fold) for seed in seeds for fold in range(folds)]
    if not first_rank():  # trains along with rank zero, which keeps the results
        for seed, fold in todo:
            if (seed, fold) not in finished:
                _run_fold(args, folds, fold, seed, seeds[0], parent_id, resume=parent_id is not None)
        return None
    parent = _open_parent(args, folds, seeds, key, parent_id)
    results = dict(finished)
    try:
        for seed, fold in tqdm(todo, desc="folds", unit="fold"):
            if (seed, fold) in results:
                continue
            result = _run_fold(args, folds, fold, seed, seeds[0], str(parent.run_id), resume=parent_id is not None)
            if result is None:
                msg = "run.evaluate: a cross-validation is made of its folds' predictions; leave --run.evaluate out"
                raise InputError(msg)
            results[seed, fold] = result
        pooled = {seed: join_folds([results[seed, fold].predictions for fold in range(folds)]) for seed in seeds}
        _check_complete(pooled)
        _keep_origin(parent, results[seeds[0], 0].run_id)
        split = pd.concat([results[seeds[0], fold].split for fold in range(folds)], ignore_index=True)
        text = keep_evaluation(parent, pooled[seeds[0]], split, resamples=resamples)
        fold_table = pd.DataFrame(
            [{"seed": s, "fold": f, "run_id": results[s, f].run_id, **results[s, f].scores} for s, f in todo]
        )
        classes = results[seeds[0], 0].classes
        pooled_table = pd.DataFrame([{"seed": seed, **whole_scores(table, classes)} for seed, table in pooled.items()])
        _keep_spread(parent, fold_table, pooled_table)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what ended it is told, not that its end cannot be written
            parent.finalize("interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed")
        print(f"finished folds are kept; to go on: the same command with --resume {parent.run_id}", file=sys.stderr)
        raise
    parent.finalize("success")
    return CrossValidation(str(parent.run_id), pooled[seeds[0]], fold_table, pooled_table, text)


def _parent_to_resume(key: str, resume: str | None) -> str | None:
    if resume is None:
        return None
    if not has_store():
        if first_rank():
            print("--resume: there are no runs yet; a new one begins", file=sys.stderr)
        return None
    if resume != "auto":
        found = find_runs(where=f"attributes.run_id = '{find_run(resume)}'", limit=1).iloc[0]
        if found.get("tags.config_hash") != key:
            msg = f"--resume: {resume} is {found['name']!r} with other options; give those it was started with"
            raise InputError(msg)
        return str(found["run_id"])
    unfinished = find_runs(where=f"tags.config_hash = '{key}' and attributes.status != 'FINISHED'", limit=1)
    if not unfinished.empty:
        return str(unfinished.iloc[0]["run_id"])
    if first_rank():
        print("--resume: no unfinished cross-validation has these options; a new one begins", file=sys.stderr)
    return None


def _open_parent(args: list[str], folds: int, seeds: list[int], key: str, run_id: str | None) -> TrackingLogger:
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
    config = next((args[i + 1] for i, word in enumerate(args[:-1]) if word in ("--config", "-c")), None)
    held = yaml.safe_load(Path(config).read_text(encoding="utf-8")) if config else {}
    recipe = (held.get("run") or {}).get("recipe") or recipe
    data = data or ((held.get("data") or {}).get("init_args") or {}).get("source") or "drawn"
    return Path(recipe).stem, "drawn" if data.startswith("drawn") else Path(data.rsplit(":", 1)[-1]).stem


def _finished_children(parent_id: str) -> dict[tuple[int, int], RunResult]:
    found: dict[tuple[int, int], RunResult] = {}
    for row in children(parent_id).to_dict("records"):
        if row["status"] == "FINISHED":
            found[int(row["tags.seed"]), int(row["tags.fold"])] = RunResult.from_run(row["run_id"])
    return found


def _run_fold(
    args: list[str], folds: int, fold: int, seed: int, fold_seed: int, parent: str | None, *, resume: bool
) -> RunResult | None:
    words = ["fit", *args, "--seed", str(seed), *(["--run.parent", parent] if parent else [])]
    words += [
        "--data.split",
        "folds",
        "--data.folds",
        str(folds),
        "--data.fold",
        str(fold),
        "--data.fold_seed",
        str(fold_seed),
    ]
    result = run_cli([*words, *(["--resume"] if resume else [])]).result
    gc.collect()  # a trainer and its callbacks refer to each other; a GPU's memory goes back only now
    return result


def _check_complete(pooled: dict[int, pd.DataFrame]) -> None:
    """Every seed predicted the same images, and no number is left out; or the pooled figures mean nothing."""
    first = next(iter(pooled.values()))
    missing = np.setdiff1d(np.arange(first["row"].max() + 1), first["row"])
    other = [seed for seed, table in pooled.items() if not table[["row", "content"]].equals(first[["row", "content"]])]
    if len(missing) or other:
        msg = (
            f"folds: each image is predicted once; {len(missing)} were not (rows {missing[:5].tolist()}), and seeds "
            f"{other} saw other images. Did the data change between folds? Start again without --resume"
        )
        raise InputError(msg)


def _keep_origin(parent: TrackingLogger, first: str) -> None:
    """Keep the config of the first fold with the parent, and refuse folds of different data."""
    folds = children(str(parent.run_id))
    manifests = set(folds.loc[folds["status"] == "FINISHED", "tags.manifest"])
    if len(manifests) > 1:
        msg = f"folds: all must be of the same data, they are of {len(manifests)} states of it; start without --resume"
        raise InputError(msg)
    parent.log_file(download(first, CONFIG))
    if manifests:  # none while the tracking server is away
        parent.set_tags({"manifest": manifests.pop()})


def _keep_spread(parent: TrackingLogger, folds: pd.DataFrame, pooled: pd.DataFrame) -> None:
    """Keep mean and standard deviation over the first seed's folds, and over the seeds."""
    first = folds[folds["seed"] == folds["seed"].iloc[0]]
    for name in ("f1_macro", "accuracy"):
        parent.log_metrics({f"folds/{name}_mean": first[name].mean(), f"folds/{name}_sd": first[name].std(ddof=1)})
        if len(pooled) > 1:
            parent.log_metrics(
                {f"seeds/{name}_mean": pooled[name].mean(), f"seeds/{name}_sd": pooled[name].std(ddof=1)}
            )
    parent.log_table(folds, "folds")
    parent.log_table(pooled, "seeds")
