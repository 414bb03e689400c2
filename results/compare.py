"""Comparison of runs on the images they share: differences with intervals, and corrected paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from datamodules.errors import InputError
from results.predictions import HONEST, classes_of, cut_differently, matched, protocol_of
from results.reports.figures import COLOURS, fonts, svg_of
from results.reports.pages import Image, render, run_url
from results.reports.tables import SCORES, Part, estimate, interval, p_value, signed
from results.significance import SignificanceResult, corrected_t, holm, mcnemar, paired_permutation
from results.statistics import cluster_bootstrap, paired_difference
from results.tracking import runs, store

_METRICS = ("f1_macro", "accuracy")


@dataclass(frozen=True)
class ComparedRun:
    """A run to compare: its name, its tables, the address of its page, and its status."""

    name: str
    predictions: pd.DataFrame
    folds: pd.DataFrame | None = None
    url: str = ""
    status: str = "FINISHED"


@dataclass(frozen=True)
class Comparison:
    """Scores of the runs on the images they share, and the differences between them.

    Attributes:
        scores: One row per run: run, f1_macro and accuracy with low and high, protocol, number of its images.
        pairs: One row per pair and metric: a, b, metric, a_score, b_score, difference, low, high, test, p_value, p_holm
            (of macro F1 alone, over all pairs), fold_t (corrected t over folds, if both have the same folds).
        differences: One row per pair and class: a, b, class, difference, low, high of F1.
        images: Number of images that all runs share.
        notes: Sentences below the tables.
    """

    scores: pd.DataFrame
    pairs: pd.DataFrame
    differences: pd.DataFrame
    images: int
    notes: tuple[str, ...]


def compare(
    runs: Sequence[ComparedRun],
    *,
    all_pairs: bool = False,
    resamples: int = 2000,
    permutations: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare runs on the images that all of them evaluated.

    Args:
        runs: At least two. The first is the reference that the others are compared with.
        all_pairs: Compare every run with every other instead.
        resamples: Resamples of the cluster bootstrap.
        permutations: Permutations of the paired cluster permutation test.
        seed: Seed of both.

    Raises:
        InputError: Fewer than two runs, a run twice, or no image in common.
    """
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        msg = f"runs: must be at least two different runs, got {', '.join(names) or 'none'}."
        raise InputError(msg)
    tables = matched([run.predictions for run in runs])
    classes = classes_of(tables[0])
    chosen = list(combinations(range(len(runs)), 2)) if all_pairs else [(0, i) for i in range(1, len(runs))]
    rows, by_class = [], []
    for i, j in tqdm(chosen, desc="comparing", unit="pair", disable=None):
        a, b = tables[i], tables[j]
        differences = paired_difference(a, b, classes, resamples=resamples, seed=seed)
        macro = paired_permutation(a, b, classes, permutations=permutations, seed=seed)
        accuracy = mcnemar(a, b, classes)
        if accuracy is None:
            accuracy = paired_permutation(a, b, classes, metric="accuracy", permutations=permutations, seed=seed)
        fold_test = over_folds(runs[i], runs[j])
        for metric, test in (("f1_macro", macro), ("accuracy", accuracy)):
            row = differences[differences["metric"] == metric].iloc[0]
            rows.append(
                {
                    "a": names[i],
                    "b": names[j],
                    "metric": metric,
                    "a_score": row["a"],
                    "b_score": row["b"],
                    **{key: row[key] for key in ("difference", "low", "high")},
                    "test": test.test,
                    "p_value": test.p_value,
                    "p_holm": np.nan,
                    "fold_t": fold_test.p_value if fold_test is not None and metric == "f1_macro" else np.nan,
                }
            )
        f1 = differences[differences["metric"] == "f1"]
        by_class += [
            {"a": names[i], "b": names[j], **{key: row[key] for key in ("class", "difference", "low", "high")}}
            for row in f1.to_dict("records")
        ]
    pairs = pd.DataFrame(rows)
    family = pairs["metric"] == "f1_macro"
    pairs.loc[family, "p_holm"] = holm(pairs.loc[family, "p_value"].tolist())
    scores = pd.DataFrame(
        [_scores(run, table, classes, resamples, seed) for run, table in zip(runs, tables, strict=True)]
    )
    return Comparison(scores, pairs, pd.DataFrame(by_class), len(tables[0]), _notes(runs, tables, pairs, resamples))


def over_folds(a: ComparedRun, b: ComparedRun) -> SignificanceResult | None:
    """Test macro F1 over the folds that two cross-validations share, by the corrected t; None if they share none.

    Seeds on the same folds are averaged first: they use the same test images, so they are no repeated k-fold.
    """
    if a.folds is None or b.folds is None or len(a.predictions) != len(b.predictions):
        return None
    keys = ["content", "row", "fold"]
    tables = [run.predictions[keys].sort_values(keys, ignore_index=True) for run in (a, b)]
    if not tables[0].equals(tables[1]):
        return None
    means = [run.folds.groupby("fold")["f1_macro"].mean() for run in (a, b) if run.folds is not None]
    difference = (means[1] - means[0]).dropna()
    return corrected_t(difference.to_numpy(), 1 / (len(difference) - 1)) if len(difference) > 1 else None


def _scores(
    run: ComparedRun, table: pd.DataFrame, classes: Sequence[str], resamples: int, seed: int
) -> dict[str, object]:
    intervals = cluster_bootstrap(table, classes, resamples=resamples, seed=seed)
    whole = intervals[intervals["class"] == ""].set_index("metric")
    row: dict[str, object] = {"run": run.name}
    for metric in _METRICS:
        row |= {metric: whole.loc[metric, "value"]}
        row |= {f"{metric}_{end}": whole.loc[metric, end] for end in ("low", "high")}
    return row | {"protocol": protocol_of(run.predictions), "images": len(run.predictions)}


def _notes(
    runs: Sequence[ComparedRun], tables: Sequence[pd.DataFrame], pairs: pd.DataFrame, resamples: int
) -> tuple[str, ...]:
    images, clusters = len(tables[0]), tables[0]["cluster"].nunique()
    by = "the photograph they were cut from" if cut_differently(tables) else "content"
    notes = [
        f"{images} images in {clusters} clusters that all runs evaluated, matched by {by}. Intervals: 95%, "
        f"{resamples} resamples of clusters within each class. Intervals and tests reflect the sample of test images, "
        "not the training seed."
    ]
    others = [f"{run.name} {len(run.predictions)}" for run in runs if len(run.predictions) != images]
    if others:
        notes.append(f"Runs with more images: {', '.join(others)}.")
    whole = pairs[pairs["metric"] == "f1_macro"]
    number = len(whole)
    sound = all(run.status == "FINISHED" and protocol_of(run.predictions) == HONEST for run in runs)
    for pair in whole.itertuples() if number <= 3 and sound else ():
        better, other = (pair.b, pair.a) if pair.difference > 0 else (pair.a, pair.b)
        shown = pair.p_holm <= 0.05
        notes.append(
            f"These images show that {better} has a higher macro F1 than {other}."
            if shown
            else f"These images do not show a difference in macro F1 between {pair.a} and {pair.b}."
        )
    notes.append(
        "Primary test: paired cluster permutation on macro F1"
        + (f", corrected by Holm over {number} comparisons (p Holm)." if number > 1 else ", one comparison.")
    )
    if (pairs["test"] == "McNemar, exact").any():
        notes.append("Accuracy: exact McNemar test, since every image is a cluster of its own.")
    else:
        notes.append(
            "Accuracy: paired cluster permutation; McNemar's test needs independent images, and some share a cluster."
        )
    if pairs["fold_t"].notna().any():
        notes.append("p folds: corrected t of Nadeau and Bengio over the folds, seeds averaged, ratio 1/(k-1).")
    several = [run.name for run in runs if run.folds is not None and run.folds["seed"].nunique() > 1]
    if several:
        notes.append(f"Several seeds: {', '.join(several)}. Images are compared by the predictions of the first seed.")
    notes += [f"{run.name} did not finish ({run.status})." for run in runs if run.status != "FINISHED"]
    leaky = [f"{run.name}: {protocol_of(run.predictions)}" for run in runs if protocol_of(run.predictions) != HONEST]
    return (*notes, *(f"Protocol of {protocol}." for protocol in leaky))


def difference_figure(comparison: Comparison) -> Figure:
    """Return the differences of macro F1, one line per pair, with intervals; filled where p (Holm) is at most 0.05."""
    rows = comparison.pairs[comparison.pairs["metric"] == "f1_macro"]
    figure = Figure(figsize=(8, 1.3 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows.to_dict("records")):
        reach = [[max(row["difference"] - row["low"], 0)], [max(row["high"] - row["difference"], 0)]]
        fill = COLOURS[0] if row["p_holm"] <= 0.05 else "white"
        axes.errorbar(
            row["difference"], place, xerr=reach, fmt="o", color=COLOURS[0], mfc=fill, capsize=3, markersize=7
        )
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(
        range(len(rows)),
        [f"{row['b']} minus {row['a']}" for row in rows.to_dict("records")],
        fontsize=8,
        family=fonts(),
        parse_math=False,
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("difference of macro F1, 95% interval\n(filled: p Holm at most 0.05)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def read_run(run_id: str, directory: str | Path = store.DIRECTORY) -> ComparedRun:
    """Read the tables of a run, for a comparison.

    Raises:
        InputError: The run has no predictions.
    """
    info = store.open_client(directory, only_reading=True).get_run(run_id).info
    try:
        folds = runs.load_table(run_id, "folds", directory=directory)
    except InputError:  # a single run
        folds = None
    predictions = runs.load_table(run_id, "predictions", directory=directory)
    name = f"{info.run_name} [{run_id[:8]}]"
    status = "deleted" if info.lifecycle_stage == "deleted" else str(info.status)
    return ComparedRun(name, predictions, folds, run_url(str(info.experiment_id), run_id), status)


def compare_runs(
    names: Sequence[str],
    *,
    all_pairs: bool = False,
    resamples: int = 2000,
    permutations: int = 9999,
    directory: str | Path = store.DIRECTORY,
) -> tuple[Comparison, dict[str, str]]:
    """Compare tracked runs.

    Args:
        names: Run id or its start, name, or latest of each run; the first is the reference.
        all_pairs: As for `compare`.
        resamples: As for `compare`.
        permutations: As for `compare`.
        directory: Folder of the runs.

    Returns:
        The comparison, and the address of each run's page by the name that the comparison gives the run.

    Raises:
        InputError: The same run twice, or a run without predictions.
    """
    chosen = [read_run(run, directory) for run in runs.find_different_runs(names, directory=directory)]
    compared = compare(chosen, all_pairs=all_pairs, resamples=resamples, permutations=permutations)
    return compared, {run.name: run.url for run in chosen}


def comparison_tables(comparison: Comparison) -> list[pd.DataFrame]:
    """Return scores of the runs, differences of pairs, and differences of classes, as text."""
    scores = pd.DataFrame(
        {"run": row["run"]}
        | {SCORES[name]: estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in _METRICS}
        for row in comparison.scores.to_dict("records")
    )
    pairs = pd.DataFrame(
        {"a": row["a"], "b": row["b"], "score": SCORES[row["metric"]]}
        | _difference(row)
        | {"p": p_value(row["p_value"]), "p Holm": p_value(row["p_holm"]), "p folds": p_value(row["fold_t"])}
        for row in comparison.pairs.to_dict("records")
    )
    if not comparison.pairs["fold_t"].notna().any():
        pairs = pairs.drop(columns="p folds")
    classes = pd.DataFrame(
        {"a": row["a"], "b": row["b"], "F1 of": row["class"]} | _difference(row)
        for row in comparison.differences.to_dict("records")
    )
    return [scores, pairs, classes]


def _difference(row: Mapping[str, Any]) -> dict[str, str]:
    return {"b - a": signed(row["difference"]), "95% interval": interval(row["low"], row["high"], sign=True)}


def comparison_files(comparison: Comparison, links: Mapping[str, str]) -> dict[str, str]:
    """Return the content of each file of a comparison: pages with links to the runs, and a table.

    Args:
        comparison: Result of `compare`.
        links: Name of a run -> address of its page.
    """
    tables = [
        table.map(lambda cell: (Part(cell, links[cell]),) if cell in links else cell)
        for table in comparison_tables(comparison)
    ]
    page = {
        "title": "Comparison of runs",
        **dict(zip(("scores", "differences", "classes"), tables, strict=True)),
        "figure": Image("", "differences of macro F1 with 95% intervals", svg=svg_of(difference_figure(comparison))),
        "notes": comparison.notes,
    }
    pages = {name: render(name.replace("compare", "comparison"), **page) for name in ("compare.md", "compare.html")}
    return {**pages, "compare.csv": comparison.pairs.to_csv(index=False)}
