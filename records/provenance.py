"""The lines of a certificate about numbers and origin: metrics recomputed, and what a run says of itself twice."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from records.evidence import Evidence
from records.predictions import classes_of
from records.statistics import calibration, cluster_bootstrap, fold_scores
from records.verdicts import Line, judged, unknown

TOLERANCE = 5e-6  # of scores that were logged from single precision
_ROLES = ["fold", "row", "role", "is_copy"]


def origin_lines(found: Evidence) -> Iterator[Line]:
    """Check the logged numbers against the tables, and what stands in two places against itself."""
    yield _files(found)
    yield from _metrics(found)
    yield _seed(found)
    yield _manifest(found)
    yield _labels(found)
    yield _code(found)
    yield _same_as_environment(found, "lock hash", "lock_sha256")
    yield Line("the run finished", "holds" if found.status == "FINISHED" else "fails", found.status)


def _files(found: Evidence) -> Line:
    statement = "the tables are those that the run kept"
    logged = {name: found.tags[f"sha256.{name}"] for name in found.digests if f"sha256.{name}" in found.tags}
    if not {"predictions", "split"} <= set(logged):
        return unknown(statement, "the run logged no hashes of its tables")
    other = [name for name, digest in logged.items() if found.digests[name] != digest]
    return judged(statement, [f"{', '.join(other)} changed since"] * bool(other), "SHA-256 equal to those logged")


def recomputed(found: Evidence) -> tuple[dict[str, float], pd.DataFrame]:
    """Return every score of the prediction table under its logged name, and the table of intervals."""
    classes = classes_of(found.predictions)
    resamples = _whole(found.params.get("run.resamples")) or _resamples(found) or 2000
    intervals = cluster_bootstrap(found.predictions, classes, resamples=resamples)
    values: dict[str, float] = {}
    for row in intervals.to_dict("records"):
        name = f"test/{row['metric']}{'_' + row['class'] if row['class'] else ''}"
        values[name] = float(row["value"])
        if not row["class"]:
            values |= {f"{name}_{end}": float(row[end]) for end in ("low", "high")}
    values |= {f"test/{name}": value for name, value in calibration(found.predictions, classes).items()}
    return values, intervals


def _resamples(found: Evidence) -> int | None:
    held = found.config.get("run") or {}
    return _whole(str(held.get("resamples")))


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text) >= 100 else None


def _metrics(found: Evidence) -> Iterator[Line]:
    statement = "logged scores equal those of the prediction table"
    try:
        values, intervals = recomputed(found)
    except InputError as error:
        yield judged(statement, [str(error)], "")
        return
    ends = {name for name in values if name.endswith(("_low", "_high"))}
    yield _equal(statement, values, found.metrics, set(values) - ends)
    statement = "logged intervals equal those of the prediction table"
    line = _equal(statement, values, found.metrics, ends)
    kept = found.tables.get("intervals")
    if kept is not None and line.verdict != "fails":
        keys = ["metric", "class"]
        both = kept.merge(intervals, on=keys, suffixes=("", "_now"), how="outer")
        numbers = ["value", "low", "high", "images", "clusters"]
        apart = np.abs(both[numbers].to_numpy(np.float64) - both[[f"{n}_now" for n in numbers]].to_numpy(np.float64))
        wrong = int((~(apart <= TOLERANCE)).any(axis=1).sum())
        line = judged(statement, [f"{wrong} rows of its table of intervals differ"] * (wrong > 0), f"{len(both)} rows")
    yield line
    for name, table in (("folds", found.tables.get("folds")), ("seeds", found.tables.get("seeds"))):
        if table is not None:
            yield _spread(found, name, table)


def _equal(statement: str, values: dict[str, float], logged: dict[str, float], names: set[str]) -> Line:
    there = sorted(names & set(logged))
    if not any(name.startswith("test/f1_macro") for name in there):
        return unknown(statement, "none were logged")
    wrong = [name for name in there if not abs(values[name] - logged[name]) <= TOLERANCE]
    shown = ", ".join(f"{name} logged {logged[name]:.6f}, recomputed {values[name]:.6f}" for name in wrong[:3])
    return judged(statement, [f"{len(wrong)} differ: {shown}"] * bool(wrong), f"{len(there)} recomputed")


def _spread(found: Evidence, name: str, table: pd.DataFrame) -> Line:
    """Check the mean and deviation over folds or seeds, and the first seed's rows against the prediction table."""
    first = table[table["seed"] == table["seed"].iloc[0]]
    source = first if name == "folds" else table
    faults = []
    for metric in ("f1_macro", "accuracy"):
        for what, value in (("mean", source[metric].mean()), ("sd", source[metric].std(ddof=1))):
            logged = found.metrics.get(f"{name}/{metric}_{what}")
            if logged is not None and not abs(logged - value) <= TOLERANCE:
                faults.append(f"{name}/{metric}_{what} logged {logged:.6f}, recomputed {value:.6f}")
    predictions = found.predictions if name == "folds" else found.predictions.assign(fold=0)
    mine = fold_scores(predictions, classes_of(predictions))
    held = first.set_index("fold") if name == "folds" else first.assign(fold=0).set_index("fold")
    for metric in ("f1_macro", "accuracy"):
        apart = (mine[metric] - held[metric].reindex(mine.index)).abs()
        if len(held) != len(mine) or not (apart <= TOLERANCE).all():
            faults.append(f"{metric} of the {name} table is not that of the predictions")
    return judged(f"the table of {name} equals the predictions and the logged spread", faults, f"{len(table)} rows")


def _seed(found: Evidence) -> Line:
    statement = "the seed is stated, and the same everywhere"
    said: dict[str, str | None] = {"tag": found.tags.get("seed", "").split(",")[0]}
    said |= {"parameter": found.params.get("seed_everything"), "config": str(found.config.get("seed_everything"))}
    if "folds" in found.tables:
        said["table of folds"] = str(found.tables["folds"]["seed"].iloc[0])
        tagged = found.tags.get("seed", "").split(",")
        ran = [str(one) for one in found.tables["folds"]["seed"].drop_duplicates()]
        if tagged != ran:
            return judged(statement, [f"tag {','.join(tagged)}, table of folds {','.join(ran)}"], "")
    return _agree(statement, said)


def _manifest(found: Evidence) -> Line:
    statement = "the manifest hash is stated, and the same everywhere"
    tag, digest = found.tags.get("manifest", ""), found.dataset.get("digest", "")
    said: dict[str, str | None] = {"tag": tag[: len(digest)] if digest else tag, "data set": digest}
    line = _agree(statement, said)
    others = [one.name for one in found.members if one.tags.get("manifest") != tag]
    if others and line.verdict == "holds":
        return judged(statement, [f"other data in {', '.join(others)}"], "")
    whole = len(tag) == 64 and set(tag) <= set("0123456789abcdef")
    if tag and not whole:
        return judged(statement, ["the tag is not a SHA-256"], "")
    return Line(statement, line.verdict, tag if line.verdict == "holds" else line.detail)


def _labels(found: Evidence) -> Line:
    statement = "labels are as many as the data set's"
    classes = {str(name): int(count) for name, count in (found.dataset.get("classes") or {}).items()}
    if not classes:
        return unknown(statement, "the run logged no class counts")
    counts = found.predictions["label"].astype(str).value_counts().to_dict()
    whole = len(found.predictions) == sum(classes.values())
    other = [
        f"{name}: {counts.get(name, 0)} of {classes.get(name, 0)}"
        for name in sorted({*classes, *counts})
        if counts.get(name, 0) > classes.get(name, 0) or (whole and counts.get(name, 0) != classes.get(name, 0))
    ]
    return judged(statement, other, "equal to the manifest's" if whole else "none more than the manifest holds")


def _code(found: Evidence) -> Line:
    statement = "the code is a commit"
    commit = found.tags.get("git_commit", "unknown")
    if commit == "unknown":
        return unknown(statement, "the run was made outside of git")
    line = _same_as_environment(found, statement, "git_commit")
    dirty = found.tags.get("git_dirty") != "false"
    if line.verdict == "holds" and dirty:
        return judged(statement, [f"files differed from {commit[:12]} when it ran"], "")
    return Line(statement, line.verdict, line.detail)


def _same_as_environment(found: Evidence, statement: str, name: str) -> Line:
    if found.tags.get(name, "unknown") == "unknown":
        return unknown(statement, "the run did not state it")
    return _agree(statement, {"tag": found.tags[name], "environment.json": found.environment.get(name)})


def _agree(statement: str, said: dict[str, str | None]) -> Line:
    """Return whether what stands in several places is the same; in one place alone it cannot be checked."""
    there = {place: str(value) for place, value in said.items() if value not in (None, "", "None")}
    if len(set(there.values())) > 1:
        return judged(statement, [", ".join(f"{place} {value}" for place, value in there.items())], "")
    if len(there) < 2:
        return unknown(statement, "it stands in one place alone" if there else "the run did not state it")
    return Line(statement, "holds", next(iter(there.values())))


def member_lines(found: Evidence) -> Iterator[Line]:
    """Check a cross-validation against the runs of its folds."""
    statement = "the tables are those of the folds' own runs"
    if found.tags.get("kind") != "cross-validation":
        return
    seed = found.tags.get("seed", "").split(",")[0]
    mine = [one for one in found.members if one.tags.get("seed") == seed]
    if not mine:
        yield unknown(statement, "the runs of the folds are not here")
        return
    faults = []
    tables = (("predictions", ["row"], list(found.predictions.columns)), ("split", _ROLES, _ROLES))
    for name, order, columns in tables:
        parts = pd.concat([one.tables[name] for one in mine], ignore_index=True)
        both = [table[columns].sort_values(order, ignore_index=True) for table in (parts, found.tables[name])]
        if not both[0].equals(both[1]):
            faults.append(f"{name} differ")
    unfinished = [one.name for one in mine if one.status != "FINISHED"]
    faults += [f"not finished: {', '.join(unfinished)}"] * bool(unfinished)
    yield judged(statement, faults, f"{len(mine)} folds")
