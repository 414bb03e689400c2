"""`emotion report`: comparison, certificate and bias report of trained runs; their numbers are in `expected.json`."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

QUICK = ("--resamples", "100", "--permutations", "99")


def scores(table: pd.DataFrame) -> dict[str, float]:
    """Scores of a prediction table, by scikit-learn."""
    label, predicted = table["label"].to_numpy(object), table["predicted"].to_numpy(object)
    classes = [name.removeprefix("prob_") for name in table if name.startswith("prob_")]
    f1 = f1_score(label, predicted, labels=classes, average="macro", zero_division=0)
    return {"f1_macro": float(f1), "accuracy": float(accuracy_score(label, predicted))}


def failed(emotion: Any, run_id: str, *, status: int | None = None) -> list[str]:
    """Certify a run and return its lines that fail, without the one on the code, which fails while you edit."""
    done = emotion("report", "certify", run_id, "--out", "certificate", status=status)
    lines = json.loads(Path("certificate", f"certificate-{run_id[:8]}.json").read_text())["lines"]
    wrong = [f"{line['statement']}: {line['detail']}" for line in lines if line["verdict"] == "fails"]
    assert done.status == (1 if wrong else 0)
    assert all(line["statement"] in done.out for line in lines)
    assert Path("certificate", f"certificate-{run_id[:8]}.html").is_file()
    return [line for line in wrong if "commit" not in line]


def test_compare_gives_the_difference_on_shared_images(emotion: Any, cross_validated: str) -> None:
    fold = {
        (run.data.tags["seed"], run.data.tags["fold"]): run.info.run_id for run in emotion.children(cross_validated)
    }
    one, two = fold["0", "0"], fold["1", "0"]
    done = emotion("report", "compare", one, two, *QUICK, "--out", "report")
    pairs = pd.read_csv("report/compare.csv").set_index("metric")
    before, after = (scores(emotion.table(run_id, "predictions")) for run_id in (one, two))
    for metric in ("f1_macro", "accuracy"):
        row = pairs.loc[metric]
        assert row["a_score"] == pytest.approx(before[metric], abs=1e-9)
        assert row["difference"] == pytest.approx(after[metric] - before[metric], abs=1e-9)
        assert row["low"] <= row["difference"] <= row["high"]
        assert 0 < row["p_value"] <= 1
        assert f"{row['difference']:+.3f}" in done.out
    for name in ("compare.md", "compare.html"):
        assert one[:8] in Path("report", name).read_text()

    assert len(emotion("report", "compare", one, one, status=1).errors) == 1
    done = emotion("report", "compare", one, fold["0", "1"], status=1)  # another fold: no image in common
    assert len(done.errors) == 1
    emotion("report", "compare", cross_validated, one, *QUICK)  # a run with others besides
    assert len(emotion("report", "compare", one, "nope", status=1).errors) == 1


def test_certify_holds_for_what_was_run(emotion: Any, cross_validated: str) -> None:
    assert failed(emotion, cross_validated) == []
    (fold, *_) = emotion.children(cross_validated)
    assert failed(emotion, fold.info.run_id) == []


def test_certify_fails_changed_tables(emotion: Any, fitted: str, roles: dict[str, str]) -> None:
    path = emotion.artifact(fitted, "tables/predictions.parquet")
    whole = pd.read_parquet(path)
    probabilities = [name for name in whole if name.startswith("prob_")]

    better = whole.copy()  # one prediction made right
    wrong = better.index[better["label"] != better["predicted"]][0]
    better.loc[wrong, "predicted"] = better.loc[wrong, "label"]
    better.loc[wrong, probabilities] = 0.0
    better.loc[wrong, f"prob_{better.loc[wrong, 'label']}"] = 1.0
    better.to_parquet(path, index=False)
    assert any("scores" in line for line in failed(emotion, fitted, status=1))

    whole.iloc[1:].to_parquet(path, index=False)  # one image left out
    assert any("were not predicted" in line for line in failed(emotion, fitted, status=1))

    whole.to_parquet(path, index=False)
    path = emotion.artifact(fitted, "tables/split.parquet")
    split = pd.read_parquet(path)
    leak = split[split["role"] == roles["test"]].head(1).assign(role=roles["train"])
    pd.concat([split, leak]).to_parquet(path, index=False)  # a reported image was trained on
    lines = failed(emotion, fitted, status=1)
    assert any("disjoint by image" in line for line in lines)

    assert len(emotion("report", "certify", "nope", status=1).errors) == 1


def test_bias_counts_groups_and_is_kept_with_the_run(emotion: Any, fitted: str) -> None:
    emotion("report", "bias", fitted, "--by", "gender", "age", *QUICK, "--minimum", "5", "--out", "bias")
    predictions = emotion.table(fitted, "predictions")
    right = predictions["label"] == predictions["predicted"]
    groups = pd.read_csv("bias/groups.csv").set_index(["by", "group"])
    for column in ("gender", "age"):
        for group, part in right.groupby(predictions[column]):
            assert groups.loc[(column, group), "images"] == len(part)
            assert groups.loc[(column, group), "accuracy"] == pytest.approx(part.mean())
    assert {"bias.html", "bias.md", "gaps.csv"} <= {path.name for path in Path("bias").iterdir()}
    kept = {path.name for path in Path("mlruns").rglob("*") if "bias" in path.parts}
    assert "bias.html" in kept

    done = emotion("report", "bias", fitted, "--by", "gendr", *QUICK, status=1)
    assert "gendr" in done.errors[0]
