"""The lines of a certificate about numbers: the tables are those that were kept, and every logged score follows."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from records.evidence import TABLES, Evidence
from records.predictions import classes_of
from records.statistics import calibration, cluster_bootstrap, fold_scores
from records.verdicts import Line, broken, judged, statement, unknown

TOLERANCE = 5e-6  # of scores that were logged from single precision
_CALIBRATION = ("nll", "brier", "calibration_error")


Scores = tuple[dict[str, float], pd.DataFrame]  # what `recomputed` returns
_SCORES, _INTERVALS = (f"logged {what} equal those of the prediction table" for what in ("scores", "intervals"))


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
        yield judged(_SCORES, [str(error)], "")
        return
    except Exception as error:  # not a fault of the run
        yield broken(_SCORES, error)
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
    return {f"test/{name}_{end}" for name in _whole(intervals) for end in ("low", "high")}


def _whole(intervals: pd.DataFrame) -> list[str]:
    return [str(name) for name in intervals.loc[intervals["class"] == "", "metric"]]


@statement(_SCORES)
def _equal_scores(text: str, found: Evidence, values: dict[str, float], intervals: pd.DataFrame) -> Line:
    needed = {f"test/{name}" for name in (*_whole(intervals), *_CALIBRATION)}
    needed |= {_logged(f"test/f1_{name}") for name in classes_of(found.predictions)}
    return _equal(text, values, found.metrics, set(values) - _ends(intervals), needed)


@statement(_INTERVALS)
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
