"""The lines of a certificate that hold a cross-validation against the runs of its folds, seed by seed."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from records.evidence import Evidence
from records.predictions import classes_of
from records.recomputed import TOLERANCE
from records.statistics import fold_scores
from records.verdicts import Line, judged, statement, unknown

_ROLES = ["fold", "row", "role", "is_copy"]
_SCORES = ["f1_macro", "accuracy", "balanced_accuracy"]
_OWN = {"seed_everything", "run", "ckpt_path"}  # options in which folds differ, beside data.fold


def member_lines(found: Evidence) -> Iterator[Line]:
    """Check a cross-validation against the runs of its folds; nothing for a single run."""
    if not found.folded:
        if "fold" in found.tables.get("predictions", pd.DataFrame()) and found.predictions["fold"].nunique() > 1:
            yield judged("the tables are those of one fold", ["the prediction table holds several"], "")
        return
    seeds = found.tags.get("seed", "").split(",")
    yield _own_tables(found, seeds)
    if found.members:
        yield _each_seed(found, seeds)
        yield _one_config(found)


@statement("the tables are those of the folds' own runs")
def _own_tables(text: str, found: Evidence, seeds: Sequence[str]) -> Line:
    if not found.members:
        why = "; ".join(found.gone) or "they were deleted, or not imported"
        return unknown(text, f"the runs of the folds are not in this store: {why}")
    mine = [one for one in found.members if one.tags.get("seed") == seeds[0]]
    if not mine:
        return judged(text, [f"no run of a fold has seed {seeds[0]}"], "")
    return judged(text, [*found.gone, *_pooled(found, mine), *_ended(found)], f"{len(mine)} folds")


def _pooled(found: Evidence, mine: Sequence[Evidence]) -> list[str]:
    """Compare the two tables with those of the first seed's folds, joined."""
    faults = []
    for name, order, columns in (
        ("predictions", ["row"], list(found.predictions.columns)),
        ("split", _ROLES, list(found.split.columns)),
    ):
        if any(set(columns) - set(one.tables[name]) for one in mine):
            faults.append(f"{name} differ")
            continue
        parts = pd.concat([one.tables[name] for one in mine], ignore_index=True)
        both = [table[columns].sort_values(order, ignore_index=True) for table in (parts, found.tables[name])]
        if not both[0].equals(both[1]):
            faults.append(f"{name} differ")
    return faults


def _ended(found: Evidence) -> list[str]:
    unfinished = [one.name for one in found.members if one.status != "FINISHED" or one.deleted]
    faults = [f"not finished: {', '.join(unfinished)}"] * bool(unfinished)
    changed = [
        one.name
        for one in found.members
        if any(one.tags.get(f"sha256.{name}", digest) != digest for name, digest in one.digests.items())
    ]
    faults += [f"tables changed since they were kept: {', '.join(changed)}"] * bool(changed)
    elsewhere = [one.name for one in found.members if one.tags.get("mlflow.parentRunId") != found.run_id]
    return faults + [f"not below it: {', '.join(elsewhere)}"] * bool(elsewhere)


@statement("the tables of folds and seeds equal the folds' own predictions")
def _each_seed(text: str, found: Evidence, seeds: Sequence[str]) -> Line:
    """Recompute the rows of the tables of folds and seeds from the folds' own predictions."""
    if not {"folds", "seeds"} & set(found.tables):
        return unknown(text, "the run has neither table")
    faults, held = [], found.predictions[["row", "content"]].sort_values("row", ignore_index=True)
    classes = classes_of(found.predictions)
    for seed in seeds:
        runs = [one for one in found.members if one.tags.get("seed") == seed]
        if not runs:
            faults.append(f"seed {seed} has no runs")
            continue
        pooled = pd.concat([one.predictions for one in runs], ignore_index=True)
        own = pooled[["row", "content"]].sort_values("row", ignore_index=True)
        faults += [f"seed {seed} predicted other images"] * (not own.equals(held))
        for name, table in (("folds", fold_scores(pooled, classes)), ("seeds", _whole(pooled, classes))):
            kept = found.tables.get(name)
            if kept is not None and not _same(table, kept[kept["seed"].astype(str) == seed], name):
                faults.append(f"the table of {name} differs for seed {seed}")
    return judged(text, faults, f"{len(found.members)} runs, {len(seeds)} seed(s)")


def _whole(pooled: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    return fold_scores(pooled.assign(fold=0), classes)


def _same(mine: pd.DataFrame, kept: pd.DataFrame, name: str) -> bool:
    kept = kept.set_index("fold") if name == "folds" else kept.assign(fold=0).set_index("fold")
    names = [one for one in _SCORES if one in kept]
    if sorted(kept.index) != sorted(mine.index):
        return False
    return bool(((mine[names] - kept.loc[mine.index, names]).abs() <= TOLERANCE).to_numpy().all())


@statement("all folds were run with the same options")
def _one_config(text: str, found: Evidence) -> Line:
    """Check that all folds were run with the options that the cross-validation kept."""
    if not found.config or not all(one.config for one in found.members):
        return unknown(text, "the config of some run is missing")
    mine = _shared(found.config)
    other = [one.name for one in found.members if _shared(one.config) != mine]
    return judged(text, [f"{', '.join(other)} differ"] * bool(other), f"{len(found.members)} runs")


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the folds of a cross-validation share."""
    kept = {name: value for name, value in config.items() if name not in _OWN}
    data = kept.get("data") or {}
    kept["data"] = {name: value for name, value in data.items() if name != "fold"}
    kept["run"] = {name: (config.get("run") or {}).get(name) for name in ("patience", "ema_decay")}
    return kept
