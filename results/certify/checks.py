"""The lines of a certificate: each recomputes one statement about a run and gives a verdict.

A statement holds or fails; it is not checkable if the run did not record enough; and it could not be checked if the
check itself ended with an error, which says nothing about the run.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from results.certify.run_artifacts import TABLES, Evidence
from results.predictions import HONEST, SPLIT_COLUMNS, check_predictions, classes_of, protocol_of
from results.statistics import calibration, cluster_bootstrap, fold_scores
from results.tracking.environment import changed_between, known_commit, lock_of
from results.tracking.store import reason

Verdict = Literal["holds", "fails", "not checkable", "could not be checked"]
_P = ParamSpec("_P")


@dataclass(frozen=True)
class Line:
    """One statement and what came of checking it."""

    statement: str
    verdict: Verdict
    detail: str


def judged(text: str, faults: list[str], detail: str) -> Line:
    """Return `fails` with the faults when there are any, else `holds` with the detail."""
    return Line(text, "fails", "; ".join(faults)) if faults else Line(text, "holds", detail)


def unknown(text: str, why: str) -> Line:
    """Return that a statement cannot be checked, and why."""
    return Line(text, "not checkable", why)


def statement(text: str) -> Callable[[Callable[Concatenate[str, _P], Line]], Callable[_P, Line]]:
    """Decorate a check with its statement, passed as first argument; if the check raises, the others still run."""

    def decorate(check: Callable[Concatenate[str, _P], Line]) -> Callable[_P, Line]:
        @functools.wraps(check)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> Line:
            try:
                return check(text, *args, **kwargs)
            except Exception as error:  # an error of the check is not a fault of the run
                return broken(text, error)

        return checked

    return decorate


def broken(text: str, error: Exception) -> Line:
    """Return that a statement could not be checked, and which error the check ended with."""
    return Line(text, "could not be checked", f"{type(error).__name__}: {reason(error)}")


def table_lines(found: Evidence) -> Iterator[Line]:
    """Check what the two tables say of themselves and of each other."""
    predictions, split = found.predictions, found.split
    yield _well_formed(predictions)
    yield _once(predictions, split)
    yield _apart_by_row(split)
    yield _apart_by_content(predictions, split)
    yield _apart_by_cluster(predictions, split)
    yield _apart_by_subject(predictions, split)
    yield _copies(split)
    yield _selection(found)


@statement("the prediction table is well formed")
def _well_formed(text: str, predictions: pd.DataFrame) -> Line:
    try:
        check_predictions(predictions)
    except InputError as error:
        return judged(text, [str(error)], "")
    scores = predictions[[name for name in predictions if str(name).startswith("prob_")]]
    said = scores.columns[scores.to_numpy().argmax(axis=1)].str.removeprefix("prob_")
    other = predictions["row"][predictions["predicted"].astype(str).to_numpy() != said.to_numpy(object)]
    faults = [f"{len(other)} predicted classes are not the most probable ones (rows {other.tolist()[:3]})"] * (
        len(other) > 0
    )
    several = predictions.groupby("content")["cluster"].nunique()
    twins = int((several > 1).sum())
    faults += [f"{twins} pictures stand in several clusters"] * (twins > 0)
    return judged(text, faults, f"{len(predictions)} images; probabilities sum to 1 and give the predictions")


@statement("every held-out image is predicted exactly once")
def _once(text: str, predictions: pd.DataFrame, split: pd.DataFrame) -> Line:
    faults = []
    twice = int(predictions["row"].duplicated().sum())
    faults += [f"{twice} rows are predicted again"] * (twice > 0)
    test = split[(split["role"] == "test") & ~split["is_copy"].astype(bool)]
    held, said = (set(map(tuple, table[["fold", "row"]].to_numpy())) for table in (test, predictions))
    faults += [f"{len(held - said)} held-out images were not predicted"] * bool(held - said)
    faults += [f"{len(said - held)} predictions are of images that their fold did not hold out"] * bool(said - held)
    again = int(test["row"].duplicated().sum())
    faults += [f"{again} images are held out by more than one fold"] * (again > 0)
    folds = split["fold"].nunique()
    if folds > 1:
        never = len(set(split["row"]) - set(test["row"]))
        faults += [f"{never} images are held out by no fold"] * (never > 0)
    return judged(text, faults, f"{len(said)} images, {folds} fold(s)")


@statement("folds are disjoint by image")
def _apart_by_row(text: str, split: pd.DataFrame) -> Line:
    missing = [name for name in SPLIT_COLUMNS if name not in split]
    if missing:
        return judged(text, [f"the split table has no column {', '.join(missing)}"], "")
    originals = split[~split["is_copy"].astype(bool)]
    faults = []
    unknown_roles = sorted(set(split["role"].astype(str)) - {"train", "val", "test"})
    faults += [f"unknown roles {unknown_roles}"] * bool(unknown_roles)
    twice = int(originals.duplicated(["fold", "row", "role"]).sum())
    doubled = _doubled(split)
    faults += [f"{twice} images stand twice in one part"] * (twice > 0 and not doubled)
    roles = split.groupby(["fold", "row"])["role"].nunique()
    several = roles.index[roles > 1].tolist()
    faults += [f"{len(several)} images play several roles in a fold (fold, row: {several[:3]})"] * bool(several)
    return judged(text, faults, "no image, nor a copy of it, plays two roles in a fold")


def _doubled(split: pd.DataFrame) -> bool:
    """Whether training sees every image exactly twice, as the doubled set does."""
    train = split.loc[split["role"] == "train"].groupby(["fold", "row"]).size()
    return bool(len(train)) and bool((train == 2).all())


@statement("folds are disjoint by content (equal images)")
def _apart_by_content(text: str, predictions: pd.DataFrame, split: pd.DataFrame) -> Line:
    known = _of_rows(predictions, split, "content")
    if known is None:
        return unknown(text, "the contents of images that were not held out are in neither table")
    absent = int((known.fillna("").astype(str) == "").sum())
    faults = [f"the content of {absent} images is not stated"] * (absent > 0)
    faults += _other(predictions, split, "content") + _crossing(split, known, "contents")
    if {"content", "cluster"} <= set(split):
        several = int((split.groupby("content")["cluster"].nunique() > 1).sum())
        faults += [f"{several} contents are in several clusters"] * (several > 0)
    return judged(text, faults, f"{known.nunique()} contents, none divided")


@statement("folds are disjoint by cluster (duplicates, people)")
def _apart_by_cluster(text: str, predictions: pd.DataFrame, split: pd.DataFrame) -> Line:
    known = _of_rows(predictions, split, "cluster")
    if known is None:
        return unknown(text, "the clusters of images that were not held out are in neither table")
    faults = _other(predictions, split, "cluster") + _crossing(split, known, "clusters")
    return judged(text, faults, f"{known.nunique()} clusters, none divided")


@statement("folds are disjoint by subject")
def _apart_by_subject(text: str, predictions: pd.DataFrame, split: pd.DataFrame) -> Line:
    tables = [table for table in (predictions, split) if "subject" in table]
    if all((table["subject"].fillna("").astype(str) == "").all() for table in tables):
        return unknown(text, "the data set has no subjects")
    known = _of_rows(predictions, split, "subject")
    if known is None:
        return unknown(text, "the subjects of images that were not held out are in neither table")
    named = known[known.fillna("").astype(str) != ""]
    faults = _other(predictions, split, "subject")
    faults += _crossing(split[split["row"].isin(named.index)], named, "subjects")
    return judged(text, faults, f"{named.nunique()} subjects, none divided")


def _other(predictions: pd.DataFrame, split: pd.DataFrame, column: str) -> list[str]:
    """Return how many images have another value of a column in the other table, or in another fold of the split."""
    if column not in split:
        return []
    both = pd.concat([predictions[["row", column]], split[["row", column]]], ignore_index=True)
    both[column] = both[column].fillna("").astype(str)
    other = int((both.groupby("row")[column].nunique() > 1).sum())
    return [f"{other} images have another {column} in another place of the tables"] * (other > 0)


def _of_rows(predictions: pd.DataFrame, split: pd.DataFrame, column: str) -> pd.Series | None:
    """Return a column's value of every row that plays a role, None where some are not known."""
    source = split if column in split else predictions
    known = source.drop_duplicates("row").set_index("row")[column]
    return known if split["row"].isin(known.index).all() else None


def _crossing(split: pd.DataFrame, known: pd.Series, what: str) -> list[str]:
    found = pd.DataFrame({"fold": split["fold"], "role": split["role"], "of": known.reindex(split["row"]).to_numpy()})
    roles = found.drop_duplicates().groupby(["fold", "of"]).size()
    divided = roles[roles > 1]
    return [f"{len(divided)} {what} are divided between roles of a fold"] if len(divided) else []


@statement("no copy stands outside of training")
def _copies(text: str, split: pd.DataFrame) -> Line:
    copies = split[split["is_copy"].astype(bool)]
    outside = int((copies["role"] != "train").sum())
    faults = [f"{outside} copies stand outside of training"] * (outside > 0)
    originals = split.loc[(split["role"] == "train") & ~split["is_copy"].astype(bool), ["fold", "row"]]
    of_train = set(map(tuple, originals.to_numpy()))
    inside = copies.loc[copies["role"] == "train", ["fold", "row"]].to_numpy()
    foreign = sum(one not in of_train for one in map(tuple, inside))
    faults += [f"{foreign} copies in training are of images that are not in it"] * (foreign > 0)
    return judged(text, faults, f"{len(copies)} copies, each of an image in training")


@statement("what is selected on is not what is reported")
def _selection(text: str, found: Evidence) -> Line:
    faults = []
    said = {"tag": found.tags.get("protocol", HONEST)}
    for name, table in (("predictions", found.predictions), ("split", found.split)):
        try:
            said[name] = protocol_of(table)
        except InputError as error:
            faults.append(str(error))
    leaky = sorted(set(said.values()) - {HONEST})
    faults += [f"protocol: {'; '.join(leaky)}"] * bool(leaky)
    if len(set(said.values())) > 1:
        faults.append(f"the protocol differs: {', '.join(f'{place} {value!r}' for place, value in said.items())}")
    chosen = settings(found)
    for name, value in sorted(chosen.items()):
        if (name, value) in {("protocol", "paper"), ("leak", "duplicates"), ("leak", "oversample_first")}:
            faults.append(f"made with data.{name}={value}")
    selected = found.tags.get("selected_on", "val part")
    faults += [f"selected on the {selected}"] * (selected != "val part")
    needed = {"protocol"} if found.folded else {"protocol", "selected_on"}
    absent = sorted(needed - set(found.tags)) if "sha256.predictions" in found.tags else []  # older runs had neither
    faults += [f"no tag {' and '.join(absent)}"] * bool(absent)
    val = found.split[found.split["role"] == "val"]
    without = sorted(set(found.split["fold"]) - set(val["fold"]))
    faults += [f"fold {', '.join(map(str, without))} has no val part to select on"] * bool(without)
    faults += _recorded_leak(found, chosen.get("leak"))
    return judged(text, faults, f"{len(val)} val rows, apart from the test rows")


def _recorded_leak(found: Evidence, chosen: str | None) -> list[str]:
    """Return what the run recorded of twins across a split that it was given."""
    recorded = found.tags.get("leak.leak")
    if recorded is not None and chosen is not None and recorded != chosen:
        return [f"data.leak is {chosen}, recorded as {recorded}"]
    crossing = found.tags.get("leak.leaking_clusters", "0")
    if chosen == "allow" and crossing != "0":
        return [f"{crossing} clusters cross the given split (data.leak=allow)"]
    dropped = found.tags.get("leak.dropped_val_rows", "0")
    val = found.tags.get("leak.leaking_val_rows", "0")
    return [f"{val} val rows share clusters with the reported part"] * (val not in ("0", dropped))


def settings(found: Evidence) -> dict[str, str]:
    """Return the data options `protocol` and `leak` of a run, as its parameters or config say.

    Where the two differ, the one that is not the default is returned; another line says that they do.
    """
    data = found.config.get("data") or {}
    usual = {"protocol": HONEST, "leak": "error"}
    chosen = {}
    for name, default in usual.items():
        values = [found.params.get(f"data.{name}"), data.get(name)]
        there = [str(value) for value in values if value is not None]
        if there:
            chosen[name] = next((value for value in there if value != default), default)
    return chosen


TOLERANCE = 5e-6  # of scores that were logged from single precision
_CALIBRATION = ("nll", "brier", "calibration_error")


Scores = tuple[dict[str, float], pd.DataFrame]  # what `recomputed` returns
_SCORES_EQUAL, _INTERVALS_EQUAL = (
    f"logged {what} equal those of the prediction table" for what in ("scores", "intervals")
)


def number_lines(found: Evidence, scores: Callable[[], Scores]) -> Iterator[Line]:
    """Check the tables against their hashes, and the logged numbers against the tables.

    Args:
        found: What the run left.
        scores: Returns the result of `recomputed`; the caller caches it, since the bootstrap takes a while.
    """
    yield _files(found)
    try:
        values, intervals = scores()
    except InputError as error:
        yield judged(_SCORES_EQUAL, [str(error)], "")
        return
    except Exception as error:  # not a fault of the run
        yield broken(_SCORES_EQUAL, error)
        return
    yield _equal_scores(found, values, intervals)
    yield _equal_intervals(found, values, intervals)
    for name, check in (("folds", _folds), ("seeds", _seeds)):
        if name in found.tables:
            yield check(found, name, found.tables[name])


@statement("the tables are those that the run kept")
def _files(text: str, found: Evidence) -> Line:
    logged = {name.removeprefix("sha256."): value for name, value in found.tags.items() if name.startswith("sha256.")}
    logged = {name: value for name, value in logged.items() if name in TABLES}
    faults = [f"{name} is gone" for name in logged if name not in found.digests] + list(found.missing)
    if not logged:
        return judged(text, faults, "") if faults else unknown(text, "the run logged no hashes of its tables")
    faults += [f"{name} has no logged hash" for name in found.digests if name not in logged]
    other = [name for name, digest in found.digests.items() if logged.get(name, digest) != digest]
    faults += [f"{', '.join(other)} changed since"] * bool(other)
    return judged(text, faults, "SHA-256 equal to those logged")


def recomputed(found: Evidence) -> Scores:
    """Return every score of the prediction table under its logged name, and the table of intervals."""
    classes = classes_of(found.predictions)
    intervals = cluster_bootstrap(found.predictions, classes, resamples=_resamples(found))
    values: dict[str, float] = {}
    for row in intervals.to_dict("records"):
        name = _logged(f"test/{row['metric']}{'_' + row['class'] if row['class'] else ''}")
        values[name] = float(row["value"])
        if not row["class"]:
            values |= {f"{name}_{end}": float(row[end]) for end in ("low", "high")}
    values |= {f"test/{name}": value for name, value in calibration(found.predictions, classes).items()}
    return values, intervals


def _resamples(found: Evidence) -> int:
    """Return of how many resamples the run made its intervals; those of a cross-validation stand in the table alone."""
    kept = found.tables.get("intervals")
    said = [kept.attrs.get("resamples")] if kept is not None else []
    said += [found.params.get("run.resamples"), (found.config.get("run") or {}).get("resamples")]
    whole = [int(one) for one in map(str, said) if one.isdigit() and int(one) >= 100]
    return whole[0] if whole else 2000


def _logged(name: str) -> str:
    """Return a score's name as it is logged: MLflow takes few characters."""
    return re.sub(r"[^\w/. -]", "_", name)


def _ends(intervals: pd.DataFrame) -> set[str]:
    return {f"test/{name}_{end}" for name in _whole_metrics(intervals) for end in ("low", "high")}


def _whole_metrics(intervals: pd.DataFrame) -> list[str]:
    return [str(name) for name in intervals.loc[intervals["class"] == "", "metric"]]


@statement(_SCORES_EQUAL)
def _equal_scores(text: str, found: Evidence, values: dict[str, float], intervals: pd.DataFrame) -> Line:
    needed = {f"test/{name}" for name in (*_whole_metrics(intervals), *_CALIBRATION)}
    needed |= {_logged(f"test/f1_{name}") for name in classes_of(found.predictions)}
    return _equal(text, values, found.metrics, set(values) - _ends(intervals), needed)


@statement(_INTERVALS_EQUAL)
def _equal_intervals(text: str, found: Evidence, values: dict[str, float], intervals: pd.DataFrame) -> Line:
    ends = _ends(intervals)
    older = "sha256.predictions" not in found.tags and not ends & set(found.metrics)  # kept the table alone
    line = _equal(text, values, found.metrics, ends, set() if older else ends)
    kept = found.tables.get("intervals")
    if older and kept is None:
        line = unknown(text, "none were logged")
    elif kept is not None and line.verdict != "fails":
        keys = ["metric", "class"]
        both = kept.merge(intervals, on=keys, suffixes=("", "_now"), how="outer")
        numbers = ["value", "low", "high", "images", "clusters"]
        apart = np.abs(both[numbers].to_numpy(np.float64) - both[[f"{n}_now" for n in numbers]].to_numpy(np.float64))
        wrong = int((~(apart <= TOLERANCE)).any(axis=1).sum())
        line = judged(text, [f"{wrong} rows of its table of intervals differ"] * (wrong > 0), f"{len(both)} rows")
    return line


def _equal(text: str, values: dict[str, float], logged: dict[str, float], names: set[str], needed: set[str]) -> Line:
    """Compare those of `names` that were logged; all that are `needed` must have been, since evaluating logs them."""
    absent = sorted(needed - set(logged))
    faults = [f"{len(absent)} were not logged: {', '.join(absent[:3])}"] * bool(absent)
    there = sorted(names & set(logged))
    wrong = [name for name in there if not abs(values[name] - logged[name]) <= TOLERANCE]
    shown = ", ".join(f"{name} logged {logged[name]:.6f}, recomputed {values[name]:.6f}" for name in wrong[:3])
    faults += [f"{len(wrong)} differ: {shown}"] * bool(wrong)
    return judged(text, faults, f"{len(there)} recomputed")


def _spread(text: str, found: Evidence, name: str, table: pd.DataFrame) -> Line:
    """Check the mean and deviation over folds or seeds, and the first seed's rows against the prediction table."""
    first = table[table["seed"] == table["seed"].iloc[0]]
    source = first if name == "folds" else table
    faults = []
    for metric in ("f1_macro", "accuracy"):
        for what, value in (("mean", source[metric].mean()), ("sd", source[metric].std(ddof=1))):
            logged = found.metrics.get(f"{name}/{metric}_{what}")
            if logged is None and (name == "folds" or len(table) > 1):
                faults.append(f"{name}/{metric}_{what} was not logged")
            elif logged is not None and not abs(logged - value) <= TOLERANCE:
                faults.append(f"{name}/{metric}_{what} logged {logged:.6f}, recomputed {value:.6f}")
    predictions = found.predictions if name == "folds" else found.predictions.assign(fold=0)
    mine = fold_scores(predictions, classes_of(predictions))
    held = first.set_index("fold") if name == "folds" else first.assign(fold=0).set_index("fold")
    for metric in ("f1_macro", "accuracy"):
        apart = (mine[metric] - held[metric].reindex(mine.index)).abs()
        if len(held) != len(mine) or not (apart <= TOLERANCE).all():
            faults.append(f"{metric} of the {name} table is not that of the predictions")
    return judged(text, faults, f"{len(table)} rows")


_folds, _seeds = (
    statement(f"the table of {name} equals the predictions and the logged spread")(_spread)
    for name in ("folds", "seeds")
)

_ROLES = ["fold", "row", "role", "is_copy"]
_FOLD_SCORES = ["f1_macro", "accuracy", "balanced_accuracy"]
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
        for name, table in (("folds", fold_scores(pooled, classes)), ("seeds", _pooled_scores(pooled, classes))):
            kept = found.tables.get(name)
            if kept is not None and not _same_scores(table, kept[kept["seed"].astype(str) == seed], name):
                faults.append(f"the table of {name} differs for seed {seed}")
    return judged(text, faults, f"{len(found.members)} runs, {len(seeds)} seed(s)")


def _pooled_scores(pooled: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    return fold_scores(pooled.assign(fold=0), classes)


def _same_scores(mine: pd.DataFrame, kept: pd.DataFrame, name: str) -> bool:
    kept = kept.set_index("fold") if name == "folds" else kept.assign(fold=0).set_index("fold")
    names = [one for one in _FOLD_SCORES if one in kept]
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


_UNKNOWN = (None, "", "None", "unknown")


def origin_lines(found: Evidence) -> Iterator[Line]:
    """Check what stands in two places against itself."""
    yield _seed(found)
    yield _settings(found)
    yield _manifest(found)
    yield _labels(found)
    yield _code(found)
    yield _lock(found)
    ended = [found.status, *(["deleted"] if found.deleted else [])]
    whole = ended == ["FINISHED"]
    yield Line("the run finished", "holds" if whole else "fails", " and ".join(ended))


@statement("the seed is stated, and the same everywhere")
def _seed(text: str, found: Evidence) -> Line:
    tagged = found.tags.get("seed", "")
    said: dict[str, object] = {"tag": tagged.split(",")[0], "parameter": found.params.get("seed_everything")}
    said["config"] = found.config.get("seed_everything")
    for name in ("folds", "seeds"):
        if name in found.tables:
            ran = ",".join(str(one) for one in found.tables[name]["seed"].drop_duplicates())
            if tagged != ran:
                return judged(text, [f"tag {tagged or 'none'}, table of {name} {ran}"], "")
            said[f"table of {name}"] = ran.split(",")[0]
    return _agree(text, said)


@statement("parameters and tags are those of the config")
def _settings(text: str, found: Evidence) -> Line:
    """Check parameters and tags against the config; a cross-validation keeps the config of its first fold."""
    if not found.config:
        return unknown(text, "the run kept no config")
    config = _flat(found.config)
    resumed = {key.removeprefix("resumed."): value for key, value in found.tags.items() if key.startswith("resumed.")}
    faults = []
    if found.params:
        held = {**found.params, **resumed}
        names = sorted(name for name in {*config, *held} if not _same_value(config.get(name), held.get(name)))
        shown = ", ".join(f"{one} is {held.get(one, 'absent')}, in the config {config.get(one)}" for one in names[:3])
        faults += [f"{len(names)} differ: {shown}"] * bool(names)
    elif not found.folded:
        faults.append("it has a config, but no parameters")
    faults += [f"tag {name} is {found.tags.get(name)}, but {why}" for name, why in _other_tags(found, config)]
    return judged(text, faults, f"{len(config)} options")


def _other_tags(found: Evidence, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    folds = found.split["fold"].drop_duplicates().tolist()
    if found.folded:
        if found.tags.get("folds", str(len(folds))) != str(len(folds)):
            yield "folds", f"the split table has {len(folds)}"
    else:
        if found.tags.get("fold") not in (None, "", *map(str, folds)):
            yield "fold", f"the split table is of fold {folds[0]}"
        recipe = config.get("run.recipe")
        if recipe is not None and found.tags.get("recipe", recipe) != recipe:
            yield "recipe", f"the config is of {recipe}"
        placed = config.get("data.fold")
        if config.get("data.split") == "folds" and placed != str(folds[0]):
            yield "fold", f"the config is of fold {placed}"
    name = found.dataset.get("name")
    if name and found.tags.get("data", name) != name:
        yield "data", f"the data set is {name}"


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in options.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": str(value)}
    return flat


def _same_value(held: str | None, logged: str | None) -> bool:
    if held is None or logged is None:
        return False
    return held == logged or (len(logged) >= 500 and held.startswith(logged))  # MLflow cuts long ones


@statement("the manifest hash is stated, and the same everywhere")
def _manifest(text: str, found: Evidence) -> Line:
    tag, digest = found.tags.get("manifest", ""), str(found.dataset.get("digest", ""))
    if tag and not (len(tag) == 64 and set(tag) <= set("0123456789abcdef")):
        return judged(text, ["the tag is not a SHA-256"], "")
    others = [one.name for one in found.members if one.tags.get("manifest") != tag]
    if others:
        return judged(text, [f"other data in {', '.join(others)}"], "")
    line = _agree(text, {"tag": tag[: len(digest)] if digest else tag, "data set": digest})
    if line.verdict != "holds":
        return line
    whole = len(digest) == len(tag) or bool(found.members)
    return Line(text, "holds", tag if whole else f"{tag} (its first {len(digest)} digits are recorded twice)")


@statement("images and labels are as many as the data set's")
def _labels(text: str, found: Evidence) -> Line:
    classes = {str(name): int(count) for name, count in (found.dataset.get("classes") or {}).items()}
    if not classes:
        return unknown(text, "the run logged no class counts")
    total, faults = sum(classes.values()), []
    stated = found.dataset.get("images")
    faults += [f"{stated} images stated, {total} counted by class"] * (stated is not None and int(stated) != total)
    beyond = int((found.split["row"] >= total).sum() + (found.predictions["row"] >= total).sum())
    faults += [f"{beyond} rows are beyond its {total} images"] * (beyond > 0)
    unused = sum(int(found.tags.get(f"leak.{name}", 0)) for name in ("unused_rows", "dropped_rows"))
    for fold, part in found.split.groupby("fold"):
        absent = total - part["row"].nunique() - unused
        faults += [f"fold {fold} gives no role to {absent} images"] * (absent != 0)
    counts = found.predictions["label"].astype(str).value_counts().to_dict()
    whole = len(found.predictions) == total
    faults += [
        f"{name}: {counts.get(name, 0)} of {classes.get(name, 0)}"
        for name in sorted({*classes, *counts})
        if counts.get(name, 0) > classes.get(name, 0) or (whole and counts.get(name, 0) != classes.get(name, 0))
    ]
    return judged(text, faults, "equal to the manifest's" if whole else "no count is above the manifest's")


@statement("the code is a commit")
def _code(text: str, found: Evidence) -> Line:
    commit = found.tags.get("git_commit")
    if {commit, found.environment.get("git_commit")} <= set(_UNKNOWN):
        return unknown(text, "the run was made outside of git")
    said = {"tag": commit, "environment.json": found.environment.get("git_commit")}
    same = _agree(text, said | {"MLflow's tag": found.tags.get("mlflow.source.git.commit")})
    dirty = {"tag": found.tags.get("git_dirty"), "environment.json": found.environment.get("git_dirty")}
    clean = _agree("whether files differed", dirty)
    faults = [line.detail for line in (same, clean) if line.verdict == "fails"]
    commit = str(commit)
    if not faults and not (len(commit) == 40 and set(commit) <= set("0123456789abcdef")):
        faults.append(f"{commit} is not a commit's name")
    faults += [f"files differed from {commit[:12]} when it ran"] * ("true" in dirty.values())
    resumed = found.tags.get("resumed_with")
    faults += [f"the run went on with other code or packages ({resumed[:12]})"] if resumed else []
    moved = sorted({one.name for one in found.members if _other_code(commit, one)})
    faults += [f"other or changed code in {', '.join(moved)}"] * bool(moved)
    if faults or same.verdict == "not checkable":
        return judged(text, faults, "") if faults else same
    if clean.verdict != "holds" and dirty["tag"] != "false":
        return unknown(text, "the run did not state whether files differed")
    if not known_commit(commit):
        return unknown(text, f"{commit} is stated twice, but is not a commit of this clone")
    return Line(text, "holds", f"{commit}, a commit of this clone")


def _other_code(commit: str, member: Evidence) -> bool:
    """Whether a fold ran other code: with changed files, or at a commit whose program is another or not known."""
    theirs = member.tags.get("git_commit", commit)
    return member.tags.get("git_dirty") == "true" or (theirs != commit and changed_between(commit, theirs))


@statement("lock hash")
def _lock(text: str, found: Evidence) -> Line:
    tag, commit = found.tags.get("lock_sha256"), found.tags.get("git_commit", "")
    said: dict[str, object] = {"tag": tag, "environment.json": found.environment.get("lock_sha256")}
    if set(said.values()) <= set(_UNKNOWN):
        return unknown(text, "the run did not state it")
    if found.tags.get("git_dirty") == "false":
        said["the commit's requirements.lock"] = lock_of(commit)
    line = _agree(text, said)
    others = [one.name for one in found.members if one.tags.get("lock_sha256", tag) != tag]
    return judged(text, [f"another lock hash in {', '.join(others)}"], "") if others else line


def _agree(text: str, said: Mapping[str, object]) -> Line:
    """Return whether what stands in several places is the same; in one place alone it cannot be checked.

    The first place is where the run states it: if it stands elsewhere and not there, it was taken away.
    """
    there = {place: str(value) for place, value in said.items() if value not in _UNKNOWN}
    if not there:
        return unknown(text, "the run did not state it")
    first = next(iter(said))
    if len(set(there.values())) > 1 or first not in there:
        shown = there if first in there else {first: "absent", **there}
        return judged(text, [", ".join(f"{place} {value}" for place, value in shown.items())], "")
    if len(there) < 2:
        return unknown(text, "it is recorded in one place only")
    return Line(text, "holds", next(iter(there.values())))
