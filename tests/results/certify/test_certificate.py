"""Certificates of a single run and of a cross-validation: complete runs hold, and any change is noticed."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from datamodules.errors import InputError
from emotion.cli.report import main
from results.certify.certificate import Certificate, certify
from results.certify.checks import recomputed
from results.certify.run_artifacts import read_artifacts
from results.predictions import PROTOCOL, classes_of
from results.statistics import cluster_bootstrap, fold_scores
from results.tracking.environment import changed_between, known_commit, lock_of
from results.tracking.logger import TrackingLogger

Draw = Callable[..., pd.DataFrame]
Edit = Callable[[pd.DataFrame], pd.DataFrame]
MANIFEST = "ab" * 32
MADE_WITH = {"lock_sha256": "d" * 64, "git_commit": "c" * 40, "git_dirty": "false"}
SHOWN = "the tables are those that the run stored"


def _split(rows: int, folds: int, clusters: np.ndarray) -> pd.DataFrame:
    """Fold f holds out the clusters with number f modulo folds, and selects on those of the next."""
    parts = []
    for fold in range(folds):
        role = np.full(rows, "train", dtype=object)
        role[clusters % 5 == fold] = "test"
        role[clusters % 5 == fold + 1 - 5 * (fold == 4)] = "val"
        originals = pd.DataFrame({"fold": fold, "row": np.arange(rows), "role": role, "is_copy": False})
        copies = originals[originals["role"] == "train"].head(7).assign(is_copy=True)
        parts.append(pd.concat([originals, copies], ignore_index=True))
    return pd.concat(parts, ignore_index=True)


def _config(fold: int) -> dict[str, Any]:
    data = {"leak": "error", "protocol": "honest", "fold": fold, "split": "folds"}
    run = {"recipe": "quick", "resamples": 2000}
    return {"seed_everything": 3, "data": data, "model": {"learning_rate": 1e-05, "sizes": [1, 2]}, "run": run}


def _log(run: TrackingLogger, predictions: pd.DataFrame, split: pd.DataFrame, counts: dict[str, int]) -> None:
    run.log_table(predictions, "predictions")
    run.log_table(split, "split")
    run.log_table(cluster_bootstrap(predictions, classes_of(predictions)), "intervals")
    run.log_text(yaml.safe_dump(_config(0)), "config.yaml")
    profile = {"images": sum(counts.values()), "classes": counts, "digest": MANIFEST}
    run.log_dataset("drawn", "drawn", MANIFEST, profile=profile)
    run.set_tags({"manifest": MANIFEST, "protocol": "honest", "selected_on": "val part", "data": "drawn"})


def _close(run: TrackingLogger) -> str:
    """End the run with the scores of its tables, computed where the certificate would, and its true environment."""
    run.finalize("success")
    run_id = str(run.run_id)
    values = recomputed(read_artifacts(run_id, with_members=False))[0]
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
    test = table[table["fold"] == 0].reset_index(drop=True)
    split = _split(200, 1, table["cluster"].to_numpy())
    split["cluster"] = table["cluster"].to_numpy()[split["row"]]
    split["subject"] = table["subject"].to_numpy(object)[split["row"]]
    run = TrackingLogger(
        run_name="one", system_metrics=False, tags={"kind": "run", "seed": "3", "fold": "0", "recipe": "quick"}
    )
    run.log_hyperparams(_config(0))
    _log(run, test, split, table["label"].value_counts().to_dict())
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
    "train to test": lambda table: _at("role", int(np.flatnonzero(table["role"] == "train")[-1]), "test")(table),
    "test to train": lambda table: _at("role", int(np.flatnonzero(table["role"] == "test")[0]), "train")(table),
    "val to train": lambda table: _at("role", int(np.flatnonzero(table["role"] == "val")[0]), "train")(table),
    "unknown role": _at("role", 3, "other"),
    "copy in the test part": lambda table: _at("role", int(np.flatnonzero(table["is_copy"])[0]), "test")(table),
    "row twice": lambda table: pd.concat([table, table.iloc[[4]]], ignore_index=True),
    "no val part": lambda table: table[table["role"] != "val"],
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
    assert set(unnoticed) <= {"val to train", "probability of two other classes"}


def test_a_cross_validation_is_held_against_its_folds(folds_run: str) -> None:
    path = Path("mlruns/artifacts", folds_run, "artifacts/tables/split.parquet")
    whole = path.read_bytes()
    for name in ("val to train", "train to test", "test to train"):
        _edit(folds_run, "split", SPLIT[name])
        assert "the tables are those of the folds' own runs" in _failing(certify(folds_run)), name
        path.write_bytes(whole)


def test_changed_records_are_noticed(one_run: str) -> None:
    changes: list[tuple[str, str, object, str]] = [
        ("tags", "seed", "4", "the seed is stated"),
        ("tags", "manifest", "ab" * 31 + "ff", "the manifest hash"),
        ("tags", "git_commit", "e" * 40, "the code is a commit"),
        ("tags", "git_dirty", "true", "the code is a commit"),
        ("tags", "fold", "1", "parameters and tags"),
        ("tags", "recipe", "focal", "parameters and tags"),
        ("tags", "data", "fer2013", "parameters and tags"),
        ("params", "model.learning_rate", "0.1", "parameters and tags"),
        ("params", "data.leak", "duplicates", "what is selected on"),
        ("tags", "lock_sha256", "e" * 64, "lock hash"),
        ("tags", "protocol", "selected on the reported fold", "what is selected on"),
        ("tags", "selected_on", "reported fold", "what is selected on"),
        *(
            ("latest_metrics", f"test/{name}", 0.123, "logged ")
            for name in ("f1_macro", "f1_sad", "nll", "accuracy_low")
        ),
    ]
    for table, key, value, expected in changes:
        failing = _with_record(one_run, table, key, value)
        assert any(one.startswith(expected) for one in failing), (key, failing)
    assert _failing(certify(one_run)) == []


def test_a_run_without_logged_scores_is_not_checkable(one_run: str) -> None:
    with sqlite3.connect("mlruns/mlflow.db") as database:
        database.execute("DELETE FROM latest_metrics WHERE run_uuid = ?", (one_run,))
    found = certify(one_run)
    verdicts = {line.statement: line.verdict for line in found.lines}
    assert verdicts["logged scores equal those of the prediction table"] == "not checkable"
    assert verdicts["logged intervals equal those of the prediction table"] == "holds"  # by the table of intervals
    assert found.intervals is not None


def test_records_taken_away_are_noticed(one_run: str) -> None:
    removed = {
        ("tags", "seed"): "the seed is stated",
        ("tags", "manifest"): "the manifest hash",
        ("tags", "git_commit"): "the code is a commit",
        ("tags", "git_dirty"): "the code is a commit",
        ("tags", "lock_sha256"): "lock hash",
        ("tags", "protocol"): "what is selected on",
        ("tags", "selected_on"): "what is selected on",
        ("tags", "sha256.split"): SHOWN,
        ("params", "model.learning_rate"): "parameters and tags",
    }
    for (table, key), expected in removed.items():
        failing = _with_record(one_run, table, key, None)
        assert any(one.startswith(expected) for one in failing), (key, failing)
    tables = Path("mlruns/artifacts", one_run, "artifacts/tables")
    (tables / "intervals.parquet").unlink()
    assert SHOWN in _failing(certify(one_run))


def test_files_that_cannot_be_read_are_noticed(one_run: str) -> None:
    home = Path("mlruns/artifacts", one_run, "artifacts")
    for name, text in (("config.yaml", "a: [1"), ("config.yaml", "- 1"), ("environment.json", "{")):
        whole = (home / name).read_bytes()
        (home / name).write_text(text)
        assert SHOWN in _failing(certify(one_run)), (name, text)
        (home / name).write_bytes(whole)
    config = yaml.safe_load((home / "config.yaml").read_text())
    for section, option, value in (("model", "learning_rate", 0.5), ("run", "recipe", "focal")):
        changed = {**config, section: {**config[section], option: value}}
        (home / "config.yaml").write_text(yaml.safe_dump(changed))
        assert _failing(certify(one_run)) == ["parameters and tags are those of the config"]
    leaky = {**config, "data": {**config["data"], "protocol": "paper"}}
    (home / "config.yaml").write_text(yaml.safe_dump(leaky))
    assert "what is selected on is not what is reported" in _failing(certify(one_run))


def test_a_subject_that_one_table_no_longer_names_is_noticed(one_run: str) -> None:
    _edit(one_run, "predictions", lambda table: table.assign(subject=""))
    assert "folds are disjoint by subject" in _failing(certify(one_run))


def test_images_that_play_no_role_are_noticed(one_run: str) -> None:
    line = "images and labels are as many as the data set's"
    _edit(one_run, "split", lambda table: table[table["row"] != table.loc[table["role"] == "train", "row"].iloc[-1]])
    assert line in _failing(certify(one_run))
    run = TrackingLogger(run_id=one_run, system_metrics=False)
    run.set_tags({"leak.leak": "drop_twins", "leak.dropped_rows": 1})
    run.finalize("success")
    assert line not in _failing(certify(one_run))


def test_only_a_finished_run_that_is_there_holds(one_run: str) -> None:
    line = "the run finished"
    for status in ("RUNNING", "FAILED", "KILLED"):
        _sql("UPDATE runs SET status = ? WHERE run_uuid = ?", status, one_run)
        assert _failing(certify(one_run)) == [line]
    _sql("UPDATE runs SET status = 'FINISHED', lifecycle_stage = 'deleted' WHERE run_uuid = ?", one_run)
    assert [one.detail for one in certify(one_run).failed] == ["FINISHED and deleted"]


def test_commits_are_looked_up(one_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def code() -> tuple[str, str]:
        lines = {line.statement: line.verdict for line in certify(one_run).lines}
        return lines["the code is a commit"], lines["lock hash"]

    assert code() == ("not checkable", "holds")  # stated twice, but not a commit of this clone
    monkeypatch.setattr("results.certify.checks.known_commit", lambda commit: commit == "c" * 40)
    monkeypatch.setattr("results.certify.checks.lock_of", lambda commit: "d" * 64)
    assert code() == ("holds", "holds")
    monkeypatch.setattr("results.certify.checks.lock_of", lambda commit: "e" * 64)
    assert code() == ("holds", "fails")
    for value in ("unknown", "main"):
        assert "the code is a commit" in _with_record(one_run, "tags", "git_commit", value)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_repository_knows_its_commits(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *names, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    commits = []
    for name, text in (("requirements.lock", "a"), ("notes.md", "b"), ("one.py", "c")):
        (tmp_path / name).write_text(text)
        git("add", name)
        git("commit", "-q", "-m", name)
        commits.append(git("rev-parse", "HEAD"))
    assert known_commit(commits[0], tmp_path)
    assert not known_commit("e" * 40, tmp_path)
    assert not known_commit("--help", tmp_path)
    assert not known_commit(commits[0], tmp_path / "elsewhere")
    assert lock_of(commits[2], tmp_path) == hashlib.sha256(b"a").hexdigest()
    assert lock_of("e" * 40, tmp_path) is None
    assert not changed_between(commits[0], commits[1], tmp_path)  # a page, not the program
    assert changed_between(commits[1], commits[2], tmp_path)
    assert changed_between(commits[0], "e" * 40, tmp_path)


def test_a_cross_validation_is_known_whatever_its_kind(folds_run: str) -> None:
    _sql("UPDATE tags SET value = 'cell' WHERE key = 'kind' AND run_uuid = ?", folds_run)
    found = certify(folds_run)
    assert found.failed == []
    assert "the tables are those of the folds' own runs" in {line.statement for line in found.lines}


@pytest.mark.slow
def test_what_became_of_folds_is_noticed(folds_run: str) -> None:
    own, same = "the tables are those of the folds' own runs", "all folds were run with the same options"
    folds = Path("mlruns/artifacts", folds_run, "artifacts/tables/folds.parquet")
    child = pd.read_parquet(folds)["run_id"].iloc[2]
    one = "WHERE run_uuid = ?"
    for change, back, expected in (
        ("UPDATE runs SET status = 'FAILED'", "UPDATE runs SET status = 'FINISHED'", own),
        ("UPDATE runs SET lifecycle_stage = 'deleted'", "UPDATE runs SET lifecycle_stage = 'active'", own),
    ):
        _sql(f"{change} {one}", child)
        assert expected in _failing(certify(folds_run))
        _sql(f"{back} {one}", child)
    for key, value, expected in (
        ("git_commit", "f" * 40, "the code is a commit"),
        ("git_dirty", "true", "the code is a commit"),
        ("lock_sha256", "f" * 64, "lock hash"),
        ("manifest", "cd" * 32, "the manifest hash is stated, and the same everywhere"),
        ("seed", "4", own),
    ):
        assert expected in _with_record(child, "tags", key, value, of=folds_run), key
    config = Path("mlruns/artifacts", child, "artifacts/config.yaml")
    whole = config.read_text()
    config.write_text(whole.replace("learning_rate: 1.0e-05", "learning_rate: 0.1"))
    assert _failing(certify(folds_run)) == [same]
    config.write_text(whole)
    tables = Path("mlruns/artifacts", child, "artifacts/tables")
    shutil.move(tables / "split.parquet", tables / "gone.parquet")
    assert own in _failing(certify(folds_run))


def test_every_seed_is_recomputed_from_its_own_runs(folds_run: str) -> None:
    line = "the tables of folds and seeds equal the predictions and the logged spread"
    assert line in _with_record(folds_run, "latest_metrics", "folds/f1_macro_mean", 0.123)
    assert _failing(certify(folds_run)) == []
    _edit(folds_run, "folds", lambda table: table.assign(f1_macro=table["f1_macro"].where(table.index != 3, 0.9)))
    assert line in _failing(certify(folds_run))


def test_intervals_are_recomputed_with_the_resamples_they_were_made_with(one_run: str) -> None:
    again = read_artifacts(one_run)
    table = cluster_bootstrap(again.predictions, classes_of(again.predictions), resamples=150)
    run = TrackingLogger(run_id=one_run, system_metrics=False)
    run.log_table(table, "intervals")  # what `cross-validate --resamples` does, which stands in no config
    whole = table[table["class"] == ""].set_index("metric")
    run.log_metrics({f"test/{name}_{end}": row[end] for name, row in whole.iterrows() for end in ("low", "high")})
    run.finalize("success")
    found = certify(one_run)
    assert found.failed == []
    assert found.intervals is not None
    pd.testing.assert_frame_equal(found.intervals, table)


def _with_record(run: str, table: str, key: str, value: object, *, of: str = "") -> list[str]:
    """Return what fails while one record of a run is another, or is not there; of the run itself or the one above."""
    where = "WHERE key = ? AND run_uuid = ?"
    with sqlite3.connect("mlruns/mlflow.db") as database:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        before = database.execute(f"SELECT * FROM {table} {where}", (key, run)).fetchone()
    if value is None:
        _sql(f"DELETE FROM {table} {where}", key, run)
    else:
        _sql(f"UPDATE {table} SET value = ? {where}", value, key, run)
    failing = _failing(certify(of or run))
    if value is not None:
        _sql(f"DELETE FROM {table} {where}", key, run)
    _sql(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", *before)
    return failing


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


def test_a_check_that_breaks_says_nothing_about_the_run(
    one_run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Wherever it breaks, the other lines are there, and the exit status is neither that of a failure nor success."""

    def breaks(*_: object, **__: object) -> None:
        msg = "no such\nthing"
        raise RuntimeError(msg)

    whole = {line.statement: line.verdict for line in certify(one_run).lines}
    assert len(whole) > 10
    for name in (
        "check_predictions",
        "_apart",
        "data_options",
        "cluster_bootstrap",
        "_compare",
        "flatten",
        "known_commit",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"results.certify.checks.{name}", breaks)
            found = certify(one_run)
            broken = {line.statement for line in found.broken}
            assert broken, name
            assert {line.detail for line in found.broken} == {"RuntimeError: no such"}
            assert found.failed == []
            others = {line.statement: line.verdict for line in found.lines if line.statement not in broken}
            assert others.items() <= whole.items()
            assert len(found.lines) == len(whole)
            assert main(["report", "certify", one_run, "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().out
        assert "COULD NOT BE CHECKED: " in said
        assert "Traceback" not in said
        assert json.loads((tmp_path / f"certificate-{one_run[:8]}.json").read_text())["holds"] is False
    _edit(one_run, "predictions", _other_label)
    monkeypatch.setattr("results.certify.checks.data_options", breaks)
    assert main(["report", "certify", one_run]) == 1  # a statement that fails counts for more


def test_the_bootstrap_runs_once(one_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any, **options: Any) -> pd.DataFrame:
        calls.append(args)
        return cluster_bootstrap(*args, **options)

    monkeypatch.setattr("results.certify.checks.cluster_bootstrap", counted)
    assert certify(one_run).intervals is not None
    assert len(calls) == 1


def test_a_run_without_tables_cannot_be_certified(mlruns: Path) -> None:
    run = TrackingLogger(run_name="bare", system_metrics=False)
    run.finalize("success")
    with pytest.raises(InputError, match="has no table predictions and split"):
        certify(str(run.run_id))
