"""The lines of a certificate: each recomputes one statement about a run and gives a verdict.

A statement holds or fails; it is not checkable if the run did not record enough; and it could not be checked if the
check itself ended with an error, which says nothing about the run.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec

import pandas as pd

from datamodules.errors import InputError
from records.evidence import Evidence
from records.predictions import HONEST, SPLIT_COLUMNS, check_predictions, protocol_of
from records.store import reason

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
    outer = split[(split["role"] == "outer") & ~split["is_copy"].astype(bool)]
    held, said = (set(map(tuple, table[["fold", "row"]].to_numpy())) for table in (outer, predictions))
    faults += [f"{len(held - said)} held-out images were not predicted"] * bool(held - said)
    faults += [f"{len(said - held)} predictions are of images that their fold did not hold out"] * bool(said - held)
    again = int(outer["row"].duplicated().sum())
    faults += [f"{again} images are held out by more than one fold"] * (again > 0)
    folds = split["fold"].nunique()
    if folds > 1:
        never = len(set(split["row"]) - set(outer["row"]))
        faults += [f"{never} images are held out by no fold"] * (never > 0)
    return judged(text, faults, f"{len(said)} images, {folds} fold(s)")


@statement("folds are disjoint by image")
def _apart_by_row(text: str, split: pd.DataFrame) -> Line:
    missing = [name for name in SPLIT_COLUMNS if name not in split]
    if missing:
        return judged(text, [f"the split table has no column {', '.join(missing)}"], "")
    originals = split[~split["is_copy"].astype(bool)]
    faults = []
    unknown_roles = sorted(set(split["role"].astype(str)) - {"train", "inner", "outer"})
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
    selected = found.tags.get("selected_on", "inner part")
    faults += [f"selected on the {selected}"] * (selected != "inner part")
    needed = {"protocol"} if found.folded else {"protocol", "selected_on"}
    absent = sorted(needed - set(found.tags)) if "sha256.predictions" in found.tags else []  # older runs had neither
    faults += [f"no tag {' and '.join(absent)}"] * bool(absent)
    inner = found.split[found.split["role"] == "inner"]
    without = sorted(set(found.split["fold"]) - set(inner["fold"]))
    faults += [f"fold {', '.join(map(str, without))} has no inner part to select on"] * bool(without)
    faults += _recorded_leak(found, chosen.get("leak"))
    return judged(text, faults, f"{len(inner)} inner rows, apart from the outer ones")


def _recorded_leak(found: Evidence, chosen: str | None) -> list[str]:
    """Return what the run recorded of twins across a split that it was given."""
    recorded = found.tags.get("leak.leak")
    if recorded is not None and chosen is not None and recorded != chosen:
        return [f"data.leak is {chosen}, recorded as {recorded}"]
    crossing = found.tags.get("leak.leaking_clusters", "0")
    if chosen == "allow" and crossing != "0":
        return [f"{crossing} clusters cross the given split (data.leak=allow)"]
    dropped = found.tags.get("leak.dropped_inner_rows", "0")
    inner = found.tags.get("leak.leaking_inner_rows", "0")
    return [f"{inner} inner rows share clusters with the reported part"] * (inner not in ("0", dropped))


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
