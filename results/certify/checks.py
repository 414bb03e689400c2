"""Checks of a certificate: each compares one statement about a run with its records and returns a verdict.

A statement holds or fails; it is not checkable if the run did not record enough; and it could not be checked if the
check itself ended with an error, which says nothing about the run.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from results.certify.run_artifacts import TABLES, RunArtifacts
from results.predictions import HONEST, LAST_EPOCH, ROLES, SPLIT_COLUMNS, check_predictions, classes_of, protocol_of
from results.statistics import calibration, cluster_bootstrap, fold_scores, mean_and_sd
from results.tracking.environment import changed_between, known_commit, lock_of
from results.tracking.store import clean_name, flatten, reason

Verdict = Literal["holds", "fails", "not checkable", "could not be checked"]
_P = ParamSpec("_P")


@dataclass(frozen=True)
class Line:
    """A statement and the result of its check."""

    statement: str
    verdict: Verdict
    detail: str


class NotCheckableError(Exception):
    """The run did not record what a check needs."""


class Faults(list[str]):
    """Records that contradict a statement, one text each."""

    def add_count(self, number: int, text: str) -> None:
        """Add "NUMBER TEXT", unless the number is zero."""
        if number:
            self.append(f"{number} {text}")

    def add_names(self, text: str, names: Iterable[str]) -> None:
        """Add "TEXT NAME, NAME", unless there are no names."""
        if joined := ", ".join(names):
            self.append(f"{text} {joined}")


Outcome = tuple[list[str], str]  # faults, and the detail if there are none


def statement(text: str) -> Callable[[Callable[_P, Outcome]], Callable[_P, Line]]:
    """Decorate a check with its statement; the check returns its faults, and the detail if there are none.

    An InputError of a check is a fault of the run's tables. Any other error says nothing about the run, and the other
    checks still run.
    """

    def decorate(check: Callable[_P, Outcome]) -> Callable[_P, Line]:
        @functools.wraps(check)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> Line:
            try:
                faults, detail = check(*args, **kwargs)
            except NotCheckableError as error:
                return Line(text, "not checkable", str(error))
            except InputError as error:
                return Line(text, "fails", str(error))
            except Exception as error:
                return Line(text, "could not be checked", f"{type(error).__name__}: {reason(error)}")
            return Line(text, "fails", "; ".join(faults)) if faults else Line(text, "holds", detail)

        return checked

    return decorate


def table_lines(run: RunArtifacts) -> Iterator[Line]:
    """Check the prediction table and the split table, by themselves and against each other."""
    predictions, split = run.predictions, run.split
    yield _well_formed(predictions)
    yield _predicted_once(predictions, split)
    yield _one_part(split)
    yield _contents_apart(predictions, split)
    yield _clusters_apart(predictions, split)
    yield _subjects_apart(predictions, split)
    yield _copies(split)
    yield _selection(run)


@statement("the prediction table is well formed")
def _well_formed(predictions: pd.DataFrame) -> Outcome:
    check_predictions(predictions)
    classes = classes_of(predictions)
    highest = predictions[[f"prob_{name}" for name in classes]].to_numpy().argmax(axis=1)
    other = predictions["row"][predictions["predicted"].astype(str).to_numpy() != np.array(classes, object)[highest]]
    faults = Faults()
    faults.add_count(len(other), f"predicted classes are not the most probable ones (rows {other.tolist()[:3]})")
    faults.add_count(_several(predictions, "content", "cluster"), "images are in several clusters")
    return faults, f"{len(predictions)} images; probabilities sum to 1 and give the predictions"


def _several(table: pd.DataFrame, key: str, column: str) -> int:
    """Return how many keys have several values of a column."""
    return int((table.groupby(key)[column].nunique() > 1).sum())


def _places(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(table[["fold", "row"]])


@statement("every held-out image is predicted exactly once")
def _predicted_once(predictions: pd.DataFrame, split: pd.DataFrame) -> Outcome:
    test = split[(split["role"] == "test") & ~split["is_copy"].astype(bool)]
    expected, predicted = _places(test), _places(predictions)
    folds = split["fold"].nunique()
    faults = Faults()
    faults.add_count(int(predictions["row"].duplicated().sum()), "rows are predicted again")
    faults.add_count(len(expected.difference(predicted, sort=False)), "held-out images were not predicted")
    faults.add_count(
        len(predicted.difference(expected, sort=False)), "predictions are of images that their fold did not hold out"
    )
    faults.add_count(int(test["row"].duplicated().sum()), "images are held out by more than one fold")
    if folds > 1:
        faults.add_count(len(set(split["row"]) - set(test["row"])), "images are held out by no fold")
    return faults, f"{len(predictions)} images, {folds} fold(s)"


@statement("folds are disjoint by image")
def _one_part(split: pd.DataFrame) -> Outcome:
    faults = Faults()
    faults.add_names("the split table has no column", [name for name in SPLIT_COLUMNS if name not in split])
    if faults:
        return faults, ""
    faults.add_names("unknown roles", sorted(set(split["role"].astype(str)) - set(ROLES)))
    uses = split[split["role"] == "train"].groupby(["fold", "row"]).size()
    doubled = len(uses) > 0 and bool((uses == 2).all())  # a recipe may train on every image exactly twice
    if not doubled:
        originals = split[~split["is_copy"].astype(bool)]
        faults.add_count(int(originals.duplicated(["fold", "row", "role"]).sum()), "images are twice in one part")
    roles = split.groupby(["fold", "row"])["role"].nunique()
    several = roles.index[roles > 1].tolist()
    faults.add_count(len(several), f"images are in several parts of a fold (fold, row: {several[:3]})")
    return faults, "no image, nor a copy of it, is in two parts of a fold"


def _apart(predictions: pd.DataFrame, split: pd.DataFrame, column: str) -> tuple[Faults, pd.Series]:
    """Check that no value of a column is in two parts of a fold, and that both tables give a row the same value.

    Returns:
        The faults, and the value of each row; "" where it is not known.

    Raises:
        NotCheckableError: Neither table has the values of all rows.
    """
    tables = [table[["row", column]] for table in (split, predictions) if column in table]
    both = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["row", column])
    both[column] = both[column].where(both[column].notna(), "").astype(str)
    values = both.drop_duplicates("row").set_index("row")[column]
    if not split["row"].isin(values.index).all():
        msg = f"neither table has the {column} of the images that were not held out"
        raise NotCheckableError(msg)
    faults = Faults()
    faults.add_count(_several(both, "row", column), f"images have different values of {column} in the tables")
    parts = split[["fold", "role"]].assign(value=values.reindex(split["row"]).to_numpy())
    roles = parts[parts["value"] != ""].drop_duplicates().groupby(["fold", "value"]).size()
    divided = roles[roles > 1]
    faults.add_count(len(divided), f"values of {column} are in several parts of a fold")
    return faults, values


@statement("folds are disjoint by content (equal images)")
def _contents_apart(predictions: pd.DataFrame, split: pd.DataFrame) -> Outcome:
    faults, values = _apart(predictions, split, "content")
    faults.add_count(int((values == "").sum()), "images have no content hash")
    if {"content", "cluster"} <= set(split):
        faults.add_count(_several(split, "content", "cluster"), "contents are in several clusters")
    return faults, f"{values.nunique()} contents, none divided"


@statement("folds are disjoint by cluster (duplicates, people)")
def _clusters_apart(predictions: pd.DataFrame, split: pd.DataFrame) -> Outcome:
    faults, values = _apart(predictions, split, "cluster")
    return faults, f"{values.nunique()} clusters, none divided"


@statement("folds are disjoint by subject")
def _subjects_apart(predictions: pd.DataFrame, split: pd.DataFrame) -> Outcome:
    tables = [table for table in (predictions, split) if "subject" in table]
    if all((table["subject"].fillna("").astype(str) == "").all() for table in tables):
        msg = "the data set has no subjects"
        raise NotCheckableError(msg)
    faults, values = _apart(predictions, split, "subject")
    return faults, f"{values[values != ''].nunique()} subjects, none divided"


@statement("no copy is outside of the train part")
def _copies(split: pd.DataFrame) -> Outcome:
    is_copy, in_train = split["is_copy"].astype(bool), split["role"] == "train"
    copied, originals = _places(split[is_copy & in_train]), _places(split[~is_copy & in_train])
    faults = Faults()
    faults.add_count(int((is_copy & ~in_train).sum()), "copies are outside of the train part")
    faults.add_count(int((~copied.isin(originals)).sum()), "copies in the train part are of images that are not in it")
    return faults, f"{is_copy.sum()} copies, each of an image in training"


@statement("what is selected on is not what is reported")
def _selection(run: RunArtifacts) -> Outcome:
    faults = Faults()
    # a model on another data set: nothing was trained or selected there, and nothing may be
    evaluation = run.tags.get("kind") == "evaluation" and set(run.split["role"]) == {"test"}
    needed = {"protocol"} if run.folded or evaluation else {"protocol", "selected_on"}
    faults.add_names("no tag", sorted(needed - set(run.tags)))
    protocols = {"tag": run.tags.get("protocol", HONEST)}
    for name in ("predictions", "split"):
        try:
            protocols[name] = protocol_of(run.tables[name])
        except InputError as error:
            faults.append(str(error))
    faults.add_names("protocol:", sorted(set(protocols.values()) - {HONEST}))
    if len(set(protocols.values())) > 1:
        faults.add_names("the protocol differs:", (f"{place} {value!r}" for place, value in protocols.items()))
    options = data_options(run)
    for name, value in sorted(options.items()):
        if (name, value) in {("protocol", "paper"), ("leak", "duplicates"), ("leak", "oversample_first")}:
            faults.append(f"made with data.{name}={value}")
    if evaluation:
        if seen := int((run.predictions.get("seen", pd.Series(dtype=str)) == "yes").sum()):
            faults.append(f"{seen} images that the model was trained or selected on")
        return faults, "an evaluation: nothing of this data set was trained or selected on"
    selected = run.tags.get("selected_on", "val part")
    if selected not in ("val part", LAST_EPOCH):
        faults.append(f"selected on the {selected}")
    val = run.split[run.split["role"] == "val"]
    without = sorted(set(run.split["fold"]) - set(val["fold"]))
    faults.add_names("no val part to select on in fold", map(str, without))
    faults += _recorded_leak(run, options.get("leak"))
    return faults, f"{len(val)} val rows, apart from the test rows"


def _recorded_leak(run: RunArtifacts, leak: str | None) -> Faults:
    """Return what the run recorded of duplicates across a given split."""
    faults = Faults()
    recorded = run.tags.get("leak.leak")
    crossing = run.tags.get("leak.leaking_clusters", "0")
    val, dropped = (run.tags.get(f"leak.{name}", "0") for name in ("leaking_val_rows", "dropped_val_rows"))
    if recorded is not None and leak is not None and recorded != leak:
        faults.append(f"data.leak is {leak}, recorded as {recorded}")
    elif leak == "allow" and crossing != "0":
        faults.append(f"{crossing} clusters cross the given split (data.leak=allow)")
    elif val not in ("0", dropped):
        faults.append(f"{val} val rows share clusters with the test part")
    return faults


def data_options(run: RunArtifacts) -> dict[str, str]:
    """Return the data options `protocol` and `leak` of a run, from its parameters or its config.

    Where the two differ, the value that is not the default is returned; another line says that they differ.
    """
    data = run.config.get("data") or {}
    options = {}
    for name, default in {"protocol": HONEST, "leak": "error"}.items():
        values = [str(value) for value in (run.params.get(f"data.{name}"), data.get(name)) if value is not None]
        if values:
            options[name] = next((value for value in values if value != default), default)
    return options


TOLERANCE = 5e-6  # of scores that were logged from single precision

Scores = tuple[dict[str, float], pd.DataFrame]  # what `recomputed` returns


def number_lines(run: RunArtifacts, scores: Callable[[], Scores]) -> Iterator[Line]:
    """Check the tables against their hashes, and the logged scores against the tables.

    Args:
        run: The run.
        scores: Returns the result of `recomputed`; the caller caches it, since the bootstrap takes a while.
    """
    yield _hashes(run)
    yield _equal_scores(run, scores)
    yield _equal_intervals(run, scores)


@statement("the tables are those that the run stored")
def _hashes(run: RunArtifacts) -> Outcome:
    logged = {name: run.tags[f"sha256.{name}"] for name in TABLES if f"sha256.{name}" in run.tags}
    faults = Faults(f"{name} is missing" for name in logged if name not in run.digests)
    faults += run.unreadable
    if not logged and not faults:
        msg = "the run logged no hashes of its tables"
        raise NotCheckableError(msg)
    faults.add_names("no logged hash of", (name for name in run.digests if name not in logged))
    faults.add_names("changed since:", run.changed_tables)
    return faults, "SHA-256 equal to those logged"


def recomputed(run: RunArtifacts) -> Scores:
    """Return every score of the prediction table under its logged name, and the table of intervals.

    Raises:
        InputError: The prediction table is not well formed.
    """
    classes = classes_of(run.predictions)
    stored = run.tables.get("intervals", pd.DataFrame())
    intervals = cluster_bootstrap(run.predictions, classes, resamples=_resamples(run, stored))
    values = {f"test/{name}": value for name, value in calibration(run.predictions, classes).items()}
    for row in intervals.to_dict("records"):
        name = clean_name(f"test/{row['metric']}{'_' + row['class'] if row['class'] else ''}")
        values[name] = float(row["value"])
        if not row["class"]:
            values |= {f"{name}_{end}": float(row[end]) for end in ("low", "high")}
    return values, intervals


def _resamples(run: RunArtifacts, intervals: pd.DataFrame) -> int:
    """Return the number of resamples of a run's intervals: of the table, else of the run's options."""
    stated = [intervals.attrs.get("resamples"), run.params.get("run.resamples")]
    stated.append((run.config.get("run") or {}).get("resamples"))
    valid = [int(text) for text in map(str, stated) if text.isdigit() and int(text) >= 100]
    return valid[0] if valid else 2000


def _ends(intervals: pd.DataFrame) -> set[str]:
    """Return the logged names of the ends of intervals."""
    metrics = intervals.loc[intervals["class"] == "", "metric"]
    return {f"test/{name}_{end}" for name in metrics for end in ("low", "high")}


@statement("logged scores equal those of the prediction table")
def _equal_scores(run: RunArtifacts, scores: Callable[[], Scores]) -> Outcome:
    values, intervals = scores()
    faults, count = _compare(values, run.metrics, set(values) - _ends(intervals))
    if not count:
        msg = "the run logged no scores"
        raise NotCheckableError(msg)
    return faults, f"{count} recomputed"


@statement("logged intervals equal those of the prediction table")
def _equal_intervals(run: RunArtifacts, scores: Callable[[], Scores]) -> Outcome:
    values, intervals = scores()
    faults, count = _compare(values, run.metrics, _ends(intervals))
    stored = run.tables.get("intervals")
    if stored is None and not count:
        msg = "the run logged no intervals"
        raise NotCheckableError(msg)
    if stored is not None:
        both = stored.merge(intervals, on=["metric", "class"], suffixes=("", "_now"), how="outer")
        numbers = ["value", "low", "high", "images", "clusters"]
        differences = np.abs(
            both[numbers].to_numpy(np.float64) - both[[f"{n}_now" for n in numbers]].to_numpy(np.float64)
        )
        count = len(both)
        faults.add_count(int((~(differences <= TOLERANCE)).any(axis=1).sum()), "rows of its table of intervals differ")
    return faults, f"{count} recomputed"


def _compare(values: Mapping[str, float], logged: Mapping[str, float], names: Iterable[str]) -> tuple[Faults, int]:
    """Compare the scores that were logged; return the faults, and how many were compared."""
    common = sorted(set(names) & set(logged))
    wrong = [name for name in common if not abs(values[name] - logged[name]) <= TOLERANCE]
    shown = ", ".join(f"{name} logged {logged[name]:.6f}, recomputed {values[name]:.6f}" for name in wrong[:3])
    faults = Faults()
    faults.add_count(len(wrong), f"differ: {shown}")
    return faults, len(common)


_SPREAD = ["f1_macro", "accuracy"]
_OWN = {"seed_everything", "run", "ckpt_path"}  # options in which folds differ, beside data.fold


def member_lines(run: RunArtifacts) -> Iterator[Line]:
    """Check a cross-validation against the runs of its folds; nothing for a single run."""
    if run.folded:
        yield _own_tables(run)
        yield _fold_scores(run)
        yield _one_config(run)


def _of_seed(run: RunArtifacts, seed: str) -> list[RunArtifacts]:
    return [member for member in run.members if member.tags.get("seed") == seed]


def _seeds(run: RunArtifacts) -> list[str]:
    return run.tags.get("seed", "").split(",")


@statement("the tables are those of the folds' own runs")
def _own_tables(run: RunArtifacts) -> Outcome:
    if not run.members:
        why = "; ".join(run.missing_folds) or "they were deleted, or not imported"
        msg = f"the runs of the folds are not in this store: {why}"
        raise NotCheckableError(msg)
    faults = Faults(run.missing_folds)
    first = _seeds(run)[0]
    folds = _of_seed(run, first)
    if not folds:
        faults.append(f"no run of a fold has seed {first}")
    else:
        order = {"predictions": ["row"], "split": ["fold", "row", "role", "is_copy"]}
        faults.add_names("different:", (name for name, keys in order.items() if not _same_rows(run, folds, name, keys)))
    members = run.members
    faults.add_names(
        "not finished:", (member.name for member in members if member.status != "FINISHED" or member.deleted)
    )
    faults.add_names(
        "tables changed since they were stored:", (member.name for member in members if member.changed_tables)
    )
    faults.add_names(
        "not below it:", (member.name for member in members if member.tags.get("mlflow.parentRunId") != run.run_id)
    )
    return faults, f"{len(folds)} folds"


def _same_rows(run: RunArtifacts, folds: Sequence[RunArtifacts], name: str, order: list[str]) -> bool:
    """Whether a table equals those of the folds, joined."""
    columns = list(run.tables[name].columns)
    if any(set(columns) - set(fold.tables[name]) for fold in folds):
        return False
    joined = pd.concat([fold.tables[name] for fold in folds], ignore_index=True)
    left, right = (table[columns].sort_values(order, ignore_index=True) for table in (joined, run.tables[name]))
    return bool(left.equals(right))


@statement("the tables of folds and seeds equal the predictions and the logged spread")
def _fold_scores(run: RunArtifacts) -> Outcome:
    """Recompute both tables: of every seed from its runs, or of the first one from the run's own predictions."""
    tables = {name: run.tables[name] for name in ("folds", "seeds") if name in run.tables}
    if not tables:
        msg = "the run has neither table"
        raise NotCheckableError(msg)
    faults, seeds = Faults(), _seeds(run)
    for name, table in tables.items():
        faults += _other_spread(run, name, table)
    classes = classes_of(run.predictions)
    images = run.predictions[["row", "content"]].sort_values("row", ignore_index=True)
    for seed in seeds if run.members else seeds[:1]:
        predictions = run.predictions
        if run.members:
            members = _of_seed(run, seed)
            if not members:
                faults.append(f"seed {seed} has no runs")
                continue
            predictions = pd.concat([member.predictions for member in members], ignore_index=True)
            if not predictions[["row", "content"]].sort_values("row", ignore_index=True).equals(images):
                faults.append(f"seed {seed} predicted other images")
        for name, table in tables.items():
            both = [predictions, table[table["seed"].astype(str) == seed]]
            pooled, stored = both if name == "folds" else [part.assign(fold=0) for part in both]
            if not _same_scores(fold_scores(pooled, classes), stored.set_index("fold")):
                faults.append(f"the table of {name} differs for seed {seed}")
    return faults, f"{len(run.members)} runs, {len(seeds)} seed(s)"


def _other_spread(run: RunArtifacts, name: str, table: pd.DataFrame) -> Iterator[str]:
    """Yield the logged means and standard deviations that are not those of a table."""
    source = table[table["seed"] == table["seed"].iloc[0]] if name == "folds" else table
    for metric, spread in mean_and_sd(source[_SPREAD]).iterrows():
        for what in ("mean", "sd"):
            logged = run.metrics.get(f"{name}/{metric}_{what}")
            if logged is not None and not abs(logged - spread[what]) <= TOLERANCE:
                yield f"{name}/{metric}_{what} logged {logged:.6f}, recomputed {spread[what]:.6f}"


def _same_scores(recomputed: pd.DataFrame, stored: pd.DataFrame) -> bool:
    """Whether two tables of scores, indexed by fold, are equal in the scores that both have."""
    if sorted(stored.index) != sorted(recomputed.index):
        return False
    names = [name for name in recomputed if name in stored]
    return bool(((recomputed[names] - stored.loc[recomputed.index, names]).abs() <= TOLERANCE).to_numpy().all())


@statement("all folds were run with the same options")
def _one_config(run: RunArtifacts) -> Outcome:
    """Compare the configs of the folds with that of the cross-validation."""
    if not run.members or not run.config or not all(member.config for member in run.members):
        msg = "the config of some run is missing"
        raise NotCheckableError(msg)
    faults, shared = Faults(), _shared(run.config)
    faults.add_names("other options in", (member.name for member in run.members if _shared(member.config) != shared))
    return faults, f"{len(run.members)} runs"


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the folds of a cross-validation share."""
    shared = {name: value for name, value in config.items() if name not in _OWN}
    shared["data"] = {name: value for name, value in (config.get("data") or {}).items() if name != "fold"}
    shared["run"] = {name: (config.get("run") or {}).get(name) for name in ("patience", "ema_decay", "ema_warmup")}
    return shared


_UNKNOWN = (None, "", "None", "unknown")


def origin_lines(run: RunArtifacts) -> Iterator[Line]:
    """Check the records of seed, options, data, code and packages against each other."""
    yield _seed(run)
    yield _settings(run)
    yield _manifest(run)
    yield _labels(run)
    yield _code(run)
    yield _lock(run)
    yield _finished(run)


def _agree(records: Mapping[str, object]) -> tuple[Faults, str]:
    """Compare the records of one value, by place; the first place is where the run states it.

    Returns:
        Faults, and the value; "" if fewer than two places have it, so that there is nothing to compare.
    """
    known = {place: str(value) for place, value in records.items() if value not in _UNKNOWN}
    faults = Faults()
    first = next(iter(records))
    if known and (len(set(known.values())) > 1 or first not in known):
        if first not in known:  # it was removed there
            known = {first: "absent", **known}
        faults.append(", ".join(f"{place} {value}" for place, value in known.items()))
    return faults, next(iter(known.values())) if len(known) > 1 else ""


def _compared(records: Mapping[str, object]) -> tuple[Faults, str]:
    """Do what `_agree` does.

    Raises:
        NotCheckableError: Fewer than two places have the value.
    """
    faults, value = _agree(records)
    if not faults and not value:
        known = any(record not in _UNKNOWN for record in records.values())
        raise NotCheckableError("it is recorded in one place only" if known else "the run did not state it")
    return faults, value


@statement("the seed is stated, and the same everywhere")
def _seed(run: RunArtifacts) -> Outcome:
    stated = run.tags.get("seed", "")
    records: dict[str, object] = {"tag": stated.split(",")[0], "parameter": run.params.get("seed_everything")}
    records["config"] = run.config.get("seed_everything")
    for name in ("folds", "seeds"):
        if name in run.tables:
            trained = ",".join(map(str, run.tables[name]["seed"].drop_duplicates()))
            if stated != trained:
                return [f"tag {stated or 'none'}, table of {name} {trained}"], ""
            records[f"table of {name}"] = trained.split(",")[0]
    return _compared(records)


@statement("parameters and tags are those of the config")
def _settings(run: RunArtifacts) -> Outcome:
    """Compare parameters and tags with the config; a cross-validation keeps the config of its first fold."""
    if not run.config:
        msg = "the run kept no config"
        raise NotCheckableError(msg)
    config = flatten(run.config)
    faults = Faults()
    if run.params:
        resumed = {key.removeprefix("resumed."): value for key, value in run.tags.items() if key.startswith("resumed.")}
        params = {**run.params, **resumed}
        names = sorted(name for name in {*config, *params} if config.get(name) != params.get(name))
        shown = [f"{name} is {params.get(name, 'absent')}, in the config {config.get(name)}" for name in names[:3]]
        faults.add_count(len(names), f"differ: {', '.join(shown)}")
    faults += [f"tag {name} is {run.tags.get(name)}, but {why}" for name, why in _other_tags(run, config)]
    return faults, f"{len(config)} options"


def _other_tags(run: RunArtifacts, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    folds = run.split["fold"].drop_duplicates().astype(str).tolist()
    if run.folded:
        if run.tags.get("folds", str(len(folds))) != str(len(folds)):
            yield "folds", f"the split table has {len(folds)}"
    else:
        if run.tags.get("fold") not in (None, "", *folds):
            yield "fold", f"the split table is of fold {folds[0]}"
        recipe = config.get("run.recipe")
        if recipe is not None and run.tags.get("recipe", recipe) != recipe:
            yield "recipe", f"the config is of {recipe}"
        if config.get("data.split") == "folds" and config.get("data.fold") != folds[0]:
            yield "fold", f"the config is of fold {config.get('data.fold')}"
    name = run.dataset.get("name")
    if name and run.tags.get("data", name) != name:
        yield "data", f"the data set is {name}"


@statement("the manifest hash is stated, and the same everywhere")
def _manifest(run: RunArtifacts) -> Outcome:
    stated = run.tags.get("manifest", "")
    faults = Faults()
    faults.add_names("other data in", (member.name for member in run.members if member.tags.get("manifest") != stated))
    return (faults, "") if faults else _compared({"tag": stated, "data set": run.dataset.get("digest")})


@statement("images and labels are as many as the data set's")
def _labels(run: RunArtifacts) -> Outcome:
    classes = {str(name): int(count) for name, count in (run.dataset.get("classes") or {}).items()}
    if not classes:
        msg = "the run logged no class counts"
        raise NotCheckableError(msg)
    total, faults = sum(classes.values()), Faults()
    if run.tags.get("kind") != "evaluation":  # which counts what it scored, by its rows in the whole data set
        beyond = int((run.split["row"] >= total).sum() + (run.predictions["row"] >= total).sum())
        faults.add_count(beyond, f"rows are beyond its {total} images")
    unused = sum(int(run.tags.get(f"leak.{name}", 0)) for name in ("unused_rows", "dropped_rows"))
    for fold, part in run.split.groupby("fold"):
        faults.add_count(total - part["row"].nunique() - unused, f"images are in no part of fold {fold}")
    counts = run.predictions["label"].astype(str).value_counts().to_dict()
    whole = len(run.predictions) == total
    for name in sorted({*classes, *counts}):
        predicted, known = counts.get(name, 0), classes.get(name, 0)
        if predicted > known or (whole and predicted != known):
            faults.append(f"{name}: {predicted} of {known}")
    return faults, "equal to the manifest's" if whole else "no count is above the manifest's"


@statement("the code is a commit")
def _code(run: RunArtifacts) -> Outcome:
    records = ("tag", run.tags), ("environment.json", run.environment)
    commits, changes = ({place: record.get(name) for place, record in records} for name in ("git_commit", "git_dirty"))
    if set(commits.values()) <= set(_UNKNOWN):
        msg = "the run was made outside of git"
        raise NotCheckableError(msg)
    faults, commit = _agree(commits)
    faults += _agree(changes)[0]
    stated = str(commits["tag"])
    if "true" in changes.values():
        faults.append(f"source files differed from {stated[:12]} when it ran")
    if resumed := run.tags.get("resumed_with"):
        faults.append(f"the run was resumed with other code or packages ({resumed[:12]})")
    faults.add_names(
        "other or changed code in", sorted({member.name for member in run.members if _other_code(stated, member)})
    )
    if not faults:
        why = "" if commit else "the commit is recorded in one place only"
        if not why and changes["tag"] != "false":
            why = "the run did not state whether files differed"
        if not why and not known_commit(commit):
            why = f"{commit} is stated twice, but is not a commit of this clone"
        if why:
            raise NotCheckableError(why)
    return faults, f"{commit}, a commit of this clone"


def _other_code(commit: str, member: RunArtifacts) -> bool:
    """Whether a fold ran other code: with changed files, or at a commit whose code is another or not known."""
    theirs = member.tags.get("git_commit", commit)
    return member.tags.get("git_dirty") == "true" or (theirs != commit and changed_between(commit, theirs))


@statement("lock hash")
def _lock(run: RunArtifacts) -> Outcome:
    stated = run.tags.get("lock_sha256")
    records: dict[str, object] = {"tag": stated, "environment.json": run.environment.get("lock_sha256")}
    if set(records.values()) <= set(_UNKNOWN):
        msg = "the run did not state it"
        raise NotCheckableError(msg)
    faults = Faults()
    others = (member.name for member in run.members if member.tags.get("lock_sha256", stated) != stated)
    faults.add_names("another lock hash in", others)
    if faults:
        return faults, ""
    if run.tags.get("git_dirty") == "false":
        records["the commit's requirements.lock"] = lock_of(run.tags.get("git_commit", ""))
    return _compared(records)


@statement("the run finished")
def _finished(run: RunArtifacts) -> Outcome:
    state = " and ".join([run.status, *(["deleted"] if run.deleted else [])])
    return ([] if state == "FINISHED" else [state]), state
