"""Results of decisions: calibration before and after, the risk-coverage curve, and coverage of each class.

A run keeps the raw probabilities of its network in the table `predictions`, from which all headline scores come. What
decisions make of them is in the table `decisions`: calibrated probabilities, the decided class
(`predicted`), and which images are left unanswered (`unsure`). Scores of the answered images alone are called
selective, and are never headline scores.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from results.predictions import PROBABILITY, classes_of
from results.reports.tables import as_text, number, percent
from results.statistics import calibration, whole_scores
from results.tracking.store import write_table

DECISIONS = "decisions"  # name of the table of decided predictions
VAL_PREDICTIONS = "val_predictions"  # of the raw predictions of the val part, which decisions are fitted on
_NAMES = {"nll": "NLL", "brier": "Brier score", "calibration_error": "calibration error"}
_NAMES |= {"f1_macro": "macro F1", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


def decided_table(
    predictions: pd.DataFrame, probabilities: np.ndarray, predicted: np.ndarray, unsure: np.ndarray
) -> pd.DataFrame:
    """Return the table of decisions, with the columns of a prediction table and `unsure`.

    Args:
        predictions: Prediction table of N images.
        probabilities: Calibrated probabilities, (N, C).
        predicted: Decided classes as codes, (N,).
        unsure: Images that are not answered, bool (N,).
    """
    classes = classes_of(predictions)
    table = predictions.assign(predicted=np.asarray(classes, dtype=object)[predicted])
    table[[f"{PROBABILITY}{name}" for name in classes]] = probabilities
    return table.assign(unsure=unsure)


def risk_coverage(decided: pd.DataFrame) -> pd.DataFrame:
    """Return the risk-coverage curve: `coverage`, and the `risk` among so large a share of the surest images.

    Images are ordered by the probability of their decided class. Images of equal probability have no order, so within
    them errors grow evenly (El-Yaniv and Wiener 2010). One row per image.
    """
    probability, label, predicted = _values(decided)
    confidence = probability[np.arange(len(label)), predicted]
    ties = pd.DataFrame({"confidence": -confidence, "wrong": predicted != label}).groupby("confidence")["wrong"]
    images = np.concatenate([[0], ties.size().cumsum()])
    errors = np.concatenate([[0], ties.sum().cumsum()])
    answered = np.arange(1, len(label) + 1)
    return pd.DataFrame({"coverage": answered / len(label), "risk": np.interp(answered, images, errors) / answered})


def selective_scores(decided: pd.DataFrame) -> dict[str, float]:
    """Return `coverage`, `risk`, `accuracy` and `f1_macro` of the answered images, and `aurc`.

    aurc is the mean of the risk-coverage curve, the smaller the better; it does not depend on the rule. Without an
    answered image risk, accuracy and macro F1 are NaN.
    """
    answered = decided[~decided["unsure"].astype(bool)]
    found = {"coverage": len(answered) / len(decided), "aurc": float(risk_coverage(decided)["risk"].mean())}
    if not len(answered):
        return found | dict.fromkeys(("risk", "accuracy", "f1_macro"), float("nan"))
    whole = whole_scores(answered, classes_of(decided))
    return found | {"risk": 1 - whole["accuracy"], "accuracy": whole["accuracy"], "f1_macro": whole["f1_macro"]}


def coverage_by_class(decided: pd.DataFrame) -> pd.DataFrame:
    """Return one row per class: class, images, answered, coverage, accuracy (of the answered; NaN if none)."""
    rows = []
    for name in classes_of(decided):
        part = decided[decided["label"] == name]
        answered = part[~part["unsure"].astype(bool)]
        rows.append(
            {
                "class": name,
                "images": len(part),
                "answered": len(answered),
                "coverage": len(answered) / len(part) if len(part) else np.nan,
                "accuracy": float((answered["label"] == answered["predicted"]).mean()) if len(answered) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def before_and_after(raw: pd.DataFrame, decided: pd.DataFrame) -> pd.DataFrame:
    """Return one row a score: score, before (of the raw predictions), after (of the decided ones, all answered).

    Calibration after is that of the calibrated probabilities and of their most probable class.
    """
    classes = classes_of(raw)
    columns = [f"{PROBABILITY}{name}" for name in classes]
    probable = decided.assign(predicted=np.asarray(classes, dtype=object)[decided[columns].to_numpy().argmax(axis=1)])
    before = calibration(raw, classes) | whole_scores(raw, classes)
    after = calibration(probable, classes) | whole_scores(decided, classes)
    return pd.DataFrame([{"score": name, "before": before[name], "after": after[name]} for name in before])


def decision_text(raw: pd.DataFrame, decided: pd.DataFrame, fitted: Sequence[str]) -> str:
    """Return the result of decisions as it is printed.

    Args:
        raw: Prediction table.
        decided: Table of decisions of the same images.
        fitted: One line per step.
    """
    changes = before_and_after(raw, decided)
    shown = pd.DataFrame(
        {
            "score": [_NAMES[name] for name in changes["score"]],
            "before": [number(value) for value in changes["before"]],
            "after": [number(value) for value in changes["after"]],
        }
    )
    parts = ["\n".join(["decisions", *(f"  {line}" for line in fitted)])]
    parts.append(as_text(shown))
    scores = selective_scores(decided)
    line = f"risk-coverage curve: mean risk {number(scores['aurc'])}"
    if decided["unsure"].any():
        of_answers = f"{percent(scores['risk'])} of the answers are wrong" if scores["risk"] == scores["risk"] else ""
        parts.append(
            f"answered {percent(scores['coverage'])} of {len(decided):,} images"
            f"{', ' if of_answers else ''}{of_answers}; {line}. Scores above ignore what is left unanswered."
        )
        by_class = coverage_by_class(decided)
        cells = {
            "class": by_class["class"],
            "images": by_class["images"].astype(str),
            "answered": by_class["answered"].astype(str),
            "coverage": by_class["coverage"].map(lambda value: number(value, "-")),
            "accuracy of answers": by_class["accuracy"].map(lambda value: number(value, "-")),
        }
        parts.append(as_text(pd.DataFrame(cells)))
    else:
        parts.append(f"every image is answered; {line}.")
    return "\n\n".join(parts) + "\n"


def decision_metrics(raw: pd.DataFrame, decided: pd.DataFrame) -> dict[str, float]:
    """Return what a run logs: `decided/<score>` of all images, `selective/<score>` of the answered ones."""
    after = before_and_after(raw, decided).set_index("score")["after"]
    selective = {name: value for name, value in selective_scores(decided).items() if value == value}
    return {f"decided/{name}": float(value) for name, value in after.items()} | {
        f"selective/{name}": value for name, value in selective.items()
    }


def write_decisions(folder: Path, raw: pd.DataFrame, decided: pd.DataFrame, text: str) -> dict[str, Path]:
    """Write the files of a run's decisions on its test part into a folder; return the file of each artifact name."""
    from results.reports.figures import png_of, risk_coverage_figure  # matplotlib, which predictions do without

    curve = risk_coverage(decided)
    thinned = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 200).astype(int))]
    files = {
        f"tables/{DECISIONS}.parquet": folder / f"{DECISIONS}.parquet",
        "decisions/result.txt": folder / "result.txt",
        "decisions/before_and_after.csv": folder / "before_and_after.csv",
        "decisions/coverage_by_class.csv": folder / "coverage_by_class.csv",
        "decisions/risk_coverage.csv": folder / "risk_coverage.csv",
        "decisions/risk_coverage.png": folder / "risk_coverage.png",
    }
    write_table(decided, files[f"tables/{DECISIONS}.parquet"])
    files["decisions/result.txt"].write_text(text, encoding="utf-8")
    before_and_after(raw, decided).to_csv(files["decisions/before_and_after.csv"], index=False)
    coverage_by_class(decided).to_csv(files["decisions/coverage_by_class.csv"], index=False)
    thinned.to_csv(files["decisions/risk_coverage.csv"], index=False)
    share = 1 - float(decided["unsure"].mean())
    files["decisions/risk_coverage.png"].write_bytes(png_of(risk_coverage_figure(curve, share)))
    return files


def _values(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities (N, C), labels (N,) and decided classes (N,) as codes."""
    classes = classes_of(table)
    index = pd.Index(list(classes))
    columns = [f"{PROBABILITY}{name}" for name in classes]
    label, predicted = (index.get_indexer(pd.Index(table[column])) for column in ("label", "predicted"))
    return table[columns].to_numpy(np.float64), label, predicted
