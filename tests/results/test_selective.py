"""Results of decisions: the risk-coverage curve against a loop, scores against scikit-learn, tables and files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from results.predictions import classes_of
from results.selective import (
    before_and_after,
    coverage_by_class,
    decided_table,
    decision_metrics,
    decision_text,
    risk_coverage,
    selective_scores,
    write_decisions,
)

Draw = Callable[..., pd.DataFrame]


@pytest.fixture
def raw(draw_predictions: Draw) -> pd.DataFrame:
    return draw_predictions(300)


@pytest.fixture
def decided(raw: pd.DataFrame) -> pd.DataFrame:
    """Sharper probabilities, some other classes, and every third image unanswered."""
    probability = raw.filter(like="prob_").to_numpy() ** 2
    probability /= probability.sum(axis=1, keepdims=True)
    predicted = probability.argmax(axis=1)
    predicted[::10] = 0
    return decided_table(raw, probability, predicted, np.arange(300) % 3 == 0)


def test_the_curve_is_that_of_a_loop(decided: pd.DataFrame) -> None:
    confidence = [row[f"prob_{row['predicted']}"] for row in decided.to_dict("records")]
    order = np.argsort(confidence)[::-1]
    wrong = (decided["label"] != decided["predicted"]).to_numpy()[order]
    expected = [wrong[:number].mean() for number in range(1, 301)]
    curve = risk_coverage(decided)
    assert curve["risk"].to_numpy() == pytest.approx(expected)
    assert curve["coverage"].iloc[[0, -1]].tolist() == [1 / 300, 1]
    assert selective_scores(decided)["aurc"] == pytest.approx(np.mean(expected))


def test_images_of_equal_probability_have_no_order(raw: pd.DataFrame) -> None:
    probability = np.tile([0.7, 0.1, 0.1, 0.1], (300, 1))
    table = decided_table(raw, probability, np.zeros(300, int), np.zeros(300, bool))
    wrong = float((table["label"] != "angry").mean())
    assert risk_coverage(table)["risk"].to_numpy() == pytest.approx(wrong)
    shuffled = table.sample(frac=1, random_state=0)
    assert risk_coverage(shuffled)["risk"].to_numpy() == pytest.approx(wrong)


def test_selective_scores_are_those_of_the_answered_images(decided: pd.DataFrame) -> None:
    found, answered = selective_scores(decided), decided[~decided["unsure"]]
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(accuracy_score(answered["label"], answered["predicted"]))
    assert found["risk"] == pytest.approx(1 - found["accuracy"])
    assert found["f1_macro"] == pytest.approx(f1_score(answered["label"], answered["predicted"], average="macro"))
    nothing = selective_scores(decided.assign(unsure=True))
    assert nothing["coverage"] == 0
    assert np.isnan(nothing["risk"])
    assert "selective/risk" not in decision_metrics(decided, decided.assign(unsure=True))


def test_scores_before_and_after_leave_abstention_out(raw: pd.DataFrame, decided: pd.DataFrame) -> None:
    found = before_and_after(raw, decided).set_index("score")
    classes = sorted(classes_of(raw))
    columns = [f"prob_{name}" for name in classes]
    assert found.loc["nll", "before"] == pytest.approx(log_loss(raw["label"], raw[columns], labels=classes))
    assert found.loc["nll", "after"] == pytest.approx(log_loss(decided["label"], decided[columns], labels=classes))
    expected = f1_score(decided["label"], decided["predicted"], average="macro")
    assert found.loc["f1_macro", "after"] == pytest.approx(expected)
    assert found.loc["accuracy", "before"] == pytest.approx(accuracy_score(raw["label"], raw["predicted"]))
    same = before_and_after(raw, raw.assign(unsure=False))
    assert same["before"].tolist() == same["after"].tolist()
    metrics = decision_metrics(raw, decided)
    assert metrics["decided/f1_macro"] == pytest.approx(expected)
    assert metrics["selective/coverage"] == pytest.approx(2 / 3)


def test_coverage_of_each_class_adds_up(decided: pd.DataFrame) -> None:
    table = coverage_by_class(decided[decided["label"] != "sad"])
    assert table["answered"].sum() == (~decided["unsure"] & (decided["label"] != "sad")).sum()
    by_name = table.set_index("class")
    assert np.isnan(by_name.loc["sad", "coverage"])
    happy = decided[decided["label"] == "happy"]
    assert by_name.loc["happy", "coverage"] == pytest.approx(1 - happy["unsure"].mean())


def test_the_text_and_the_files_say_what_was_answered(
    raw: pd.DataFrame, decided: pd.DataFrame, tmp_path: Path, blank_figures: None
) -> None:
    text = decision_text(raw, decided, ["temperature 0.500"])
    assert "  temperature 0.500\n" in text
    assert "answered 66.7% of 300 images" in text
    assert "Scores above ignore what is left unanswered." in text
    assert "every image is answered" in decision_text(raw, decided.assign(unsure=False), [])
    files = write_decisions(tmp_path, raw, decided, text)
    assert {path.name for path in files.values()} == {path.name for path in tmp_path.iterdir()}
    curve = pd.read_csv(files["decisions/risk_coverage.csv"])
    assert (len(curve), curve["coverage"].iloc[-1]) == (200, 1)
    stored = pd.read_parquet(files["tables/decisions.parquet"])
    assert stored["unsure"].sum() == 100
