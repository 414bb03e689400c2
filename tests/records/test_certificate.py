"""Certificates of a single run and of a cross-validation: whole ones hold, and any changed part is noticed."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from datamodules.errors import InputError
from records.certificate import Certificate, certify
from records.evidence import read_evidence
from records.predictions import PROTOCOL, classes_of
from records.recomputed import recomputed
from records.report_cli import main
from records.statistics import cluster_bootstrap, fold_scores
from records.tracking import TrackingLogger

Draw = Callable[..., pd.DataFrame]
Edit = Callable[[pd.DataFrame], pd.DataFrame]
MANIFEST = "ab" * 32
MADE_WITH = {"lock_sha256": "d" * 64, "git_commit": "c" * 40, "git_dirty": "false"}
SHOWN = "the tables are those that the run kept"


def _split(rows: int, folds: int, clusters: np.ndarray) -> pd.DataFrame:
    """Fold f holds out the clusters with number f modulo folds, and selects on those of the next."""
    parts = []
    for fold in range(folds):
        role = np.full(rows, "train", dtype=object)
        role[clusters % 5 == fold] = "outer"
        role[clusters % 5 == fold + 1 - 5 * (fold == 4)] = "inner"
        originals = pd.DataFrame({"fold": fold, "row": np.arange(rows), "role": role, "is_copy": False})
        copies = originals[originals["role"] == "train"].head(7).assign(is_copy=True)
        parts.append(pd.concat([originals, copies], ignore_index=True))
    return pd.concat(parts, ignore_index=True)


def _config(fold: int) -> dict[str, Any]:
    data = {"class_path": "Data", "init_args": {"leak": "error", "protocol": "honest", "fold": fold, "split": "folds"}}
    run = {"recipe": "quick", "resamples": 2000}
    return {"seed_everything": 3, "data": data, "model": {"learning_rate": 1e-05, "sizes": [1, 2]}, "run": run}


def _log(run: TrackingLogger, predictions: pd.DataFrame, split: pd.DataFrame, counts: dict[str, int]) -> None:
    run.log_table(predictions, "predictions")
    run.log_table(split, "split")
    run.log_table(cluster_bootstrap(predictions, classes_of(predictions)), "intervals")
    run.log_text(yaml.safe_dump(_config(0)), "config.yaml")
    run.log_dataset("drawn", "drawn", MANIFEST, profile={"images": sum(counts.values()), "classes": counts})
    run.set_tags({"manifest": MANIFEST, "protocol": "honest", "selected_on": "inner part", "data": "drawn"})


def _close(run: TrackingLogger) -> str:
    """End the run with the scores of its tables, computed where the certificate would, and its true environment."""
    run.finalize("success")
    run_id = str(run.run_id)
    values = recomputed(read_evidence(run_id, with_members=False))[0]
    again = TrackingLogger(run_id=run_id, system_metrics=False)
    again.log_metrics(values)
    again.log_text(json.dumps(MADE_WITH), "environment.json")
    again.set_tags({**MADE_WITH, "mlflow.source.git.commit": "c" * 40})
    again.finalize("success")
    return run_id


@pytest.fixture
def one_run(mlruns: Path, draw_predictions: Draw) -> str:
    table = draw_predictions(200, cluster_size=2)
    table["subject"] = "p" + table["cluster"].astype(str)
    outer = table[table["fold"] == 0].reset_index(drop=True)
    split = _split(200, 1, table["cluster"].to_numpy())
    split["cluster"] = table["cluster"].to_numpy()[split["row"]]
    split["subject"] = table["subject"].to_numpy(object)[split["row"]]
    run = TrackingLogger(
        run_name="one", system_metrics=False, tags={"kind": "run", "seed": "3", "fold": "0", "recipe": "quick"}
    )
    run.log_hyperparams(_config(0))
    _log(run, outer, split, table["label"].value_counts().to_dict())
    return _close(run)


@pytest.fixture
def folds_run(mlruns: Path, draw_predictions: Draw) -> str:
    table = draw_predictions(200, cluster_size=2)
    split = _split(200, 5, table["cluster"].to_numpy())
    counts = table["label"].value_counts().to_dict()
    parent = TrackingLogger(run_name="folds", system_metrics=False, tags={"kind": "cross-validation", "seed": "3"})
    parent.open()
    ids: list[str] = []
    for fold in range(5):
        tags = {"kind": "run", "seed": "3", "fold": str(fold), "manifest": MANIFEST}
        child = TrackingLogger(
            run_name=f"fold {fold}", system_metrics=False, parent_run_id=str(parent.run_id), tags=tags
        )
        child.log_table(table[table["fold"] == fold].reset_index(drop=True), "predictions")
        child.log_table(split[split["fold"] == fold].reset_index(drop=True), "split")
        child.log_hyperparams(_config(fold))
        child.log_text(yaml.safe_dump(_config(fold)), "config.yaml")
        child.set_tags(MADE_WITH)
        child.finalize("success")
        ids.append(str(child.run_id))
    scores = fold_scores(table, classes_of(table)).reset_index().assign(seed=3, run_id=ids)
    parent.log_table(scores, "folds")
    for name in ("f1_macro", "accuracy"):
        parent.log_metrics({f"folds/{name}_mean": scores[name].mean(), f"folds/{name}_sd": scores[name].std()})
    _log(parent, table, split, counts)
    return _close(parent)


def _failing(found: Certificate) -> list[str]:
    return [line.statement for line in found.failed]


def _edit(run_id: str, name: str, edit: Edit) -> None:
    path = Path("mlruns/artifacts", run_id, "artifacts/tables", f"{name}.parquet")
    edit(pd.read_parquet(path)).to_parquet(path, index=False)


def _sql(statement: str, *values: object) -> None:
    with sqlite3.connect("mlruns/mlflow.db") as database:
        assert database.execute(statement, values).rowcount == 1


def _at(column: str, place: int, value: object) -> Edit:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        values = table[column].to_numpy(object).copy()
        values[place] = value
        return table.assign(**{column: values.tolist()})

    return edit


def _other_label(table: pd.DataFrame) -> pd.DataFrame:
    return _at("label", 4, "sad" if table["label"].iloc[4] != "sad" else "angry")(table)


def _less_sure(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(prob_sad=table["prob_sad"].where(table.index != 4, table["prob_sad"] + 0.01))


def _sure_elsewhere(table: pd.DataFrame) -> pd.DataFrame:
    """Move probability between two classes that are not the predicted one, so that nothing else changes."""
    names = [f"prob_{name}" for name in classes_of(table) if name not in (table["predicted"][4], table["label"][4])][:2]
    moved = table.copy()
    less = table.loc[4, names].min() / 2
    moved.loc[4, names[0]] += less if table.loc[4, names[1]] >= less else 0
    moved.loc[4, names[1]] -= less if table.loc[4, names[1]] >= less else 0
    return moved


PREDICTIONS: dict[str, Edit] = {
    "label": _other_label,
    "probability that no longer sums to 1": _less_sure,
    "probability of two other classes": _sure_elsewhere,
    "cluster joined with another": lambda table: _at("cluster", 4, table["cluster"].iloc[20])(table),
    "cluster of its own": _at("cluster", 4, 999),
    "row twice": lambda table: pd.concat([table, table.iloc[[4]]], ignore_index=True),
    "row left out": lambda table: table.drop(index=4),
    "another row": _at("row", 4, 100_000),
    "predicted class": lambda table: _at(
        "predicted", 4, next(c for c in classes_of(table) if c != table["predicted"][4])
    )(table),
    "column lost": lambda table: table.drop(columns="cluster"),
    "protocol": lambda table: table.assign(**{PROTOCOL: "selected on the reported fold"}),
}
SPLIT: dict[str, Edit] = {
    "train to outer": lambda table: _at("role", int(np.flatnonzero(table["role"] == "train")[-1]), "outer")(table),
    "outer to train": lambda table: _at("role", int(np.flatnonzero(table["role"] == "outer")[0]), "train")(table),
    "inner to train": lambda table: _at("role", int(np.flatnonzero(table["role"] == "inner")[0]), "train")(table),
    "unknown role": _at("role", 3, "other"),
    "copy in the outer part": lambda table: _at("role", int(np.flatnonzero(table["is_copy"])[0]), "outer")(table),
    "row twice": lambda table: pd.concat([table, table.iloc[[4]]], ignore_index=True),
    "no inner part": lambda table: table[table["role"] != "inner"],
}


def test_whole_runs_hold(one_run: str, folds_run: str) -> None:
    for run in (one_run, folds_run):
        found = certify(run)
        assert _failing(found) == []
        verdicts = {line.statement: line.verdict for line in found.lines}
        assert verdicts[SHOWN] == "holds"
        assert verdicts["folds are disjoint by cluster (duplicates, people)"] == "holds"
        subjects = verdicts["folds are disjoint by subject"]
        assert subjects == ("holds" if run == one_run else "not checkable")


def test_any_changed_part_of_a_table_is_noticed(one_run: str) -> None:
    unnoticed = []
    for table, edits in (("predictions", PREDICTIONS), ("split", SPLIT)):
        path = Path("mlruns/artifacts", one_run, "artifacts/tables", f"{table}.parquet")
        whole = path.read_bytes()
        for name, edit in edits.items():
            _edit(one_run, table, edit)
            failing = _failing(certify(one_run))
            assert SHOWN in failing, name
            if len(failing) == 1:
                unnoticed.append(name)
            path.write_bytes(whole)
    # In a single run nothing but the table's hash can tell this; every other change fails another line, too.
    assert set(unnoticed) <= {"inner to train", "probability of two other classes"}


def test_a_cross_validation_is_held_against_its_folds(folds_run: str) -> None:
    path = Path("mlruns/artifacts", folds_run, "artifacts/tables/split.parquet")
    whole = path.read_bytes()
    for name in ("inner to train", "train to outer", "outer to train"):
        _edit(folds_run, "split", SPLIT[name])
        assert "the tables are those of the folds' own runs" in _failing(certify(folds_run)), name
        path.write_bytes(whole)


def test_changed_records_are_noticed(one_run: str) -> None:
    changes: list[tuple[str, str, object, str]] = [
        ("tags", "seed", "4", "the seed is stated"),
        ("tags", "manifest", "ff" + "ab" * 31, "the manifest hash"),
        ("tags", "git_commit", "e" * 40, "the code is a commit"),
        ("tags", "git_dirty", "true", "the code is a commit"),
        ("tags", "lock_sha256", "e" * 64, "lock hash"),
        ("tags", "protocol", "selected on the reported fold", "what is selected on"),
        ("tags", "selected_on", "reported fold", "what is selected on"),
        *(
            ("latest_metrics", f"test/{name}", 0.123, "logged ")
            for name in ("f1_macro", "f1_sad", "nll", "accuracy_low")
        ),
    ]
    for table, key, value, expected in changes:
        with sqlite3.connect("mlruns/mlflow.db") as database:
            where = "WHERE key = ? AND run_uuid = ?"
            before = database.execute(f"SELECT value FROM {table} {where}", (key, one_run)).fetchone()[0]
        change = f"UPDATE {table} SET value = ? {where}"
        _sql(change, value, key, one_run)
        failing = _failing(certify(one_run))
        assert any(one.startswith(expected) for one in failing), (key, failing)
        _sql(change, before, key, one_run)
    assert _failing(certify(one_run)) == []


def test_the_command_prints_writes_and_exits(one_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _sql("UPDATE tags SET value = ? WHERE key = 'mlflow.runName' AND run_uuid = ?", "<b>one</b>", one_run)
    _sql("UPDATE runs SET name = ? WHERE run_uuid = ?", "<b>one</b>", one_run)
    assert main(["report", "certify", one_run[:8], "--out", str(tmp_path / "out")]) == 0
    assert "HOLDS" in capsys.readouterr().out
    page = (tmp_path / "out" / f"certificate-{one_run[:8]}.html").read_text()
    assert "<b>one" not in page
    assert "&lt;b&gt;one" in page
    assert f"runs/{one_run}" in page
    held = json.loads((tmp_path / "out" / f"certificate-{one_run[:8]}.json").read_text())
    assert held["holds"] is True
    assert {line["verdict"] for line in held["lines"]} <= {"holds", "fails", "not checkable"}
    _edit(one_run, "predictions", _other_label)
    assert main(["report", "certify", "latest"]) == 1
    assert "FAILS" in capsys.readouterr().out


def test_a_run_without_tables_cannot_be_certified(mlruns: Path) -> None:
    run = TrackingLogger(run_name="bare", system_metrics=False)
    run.finalize("success")
    with pytest.raises(InputError, match="left no table predictions and split"):
        certify(str(run.run_id))
