"""Export and import of runs: complete, once, with the same ids, also after an interruption."""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from datamodules.errors import InputError
from emotion.cli.runs import main
from results.tracking import store
from results.tracking.export_import import export_runs, import_runs, record_of
from results.tracking.logger import TrackingLogger
from results.tracking.runs import children, find_runs, load_table

NewLogger = Callable[..., TrackingLogger]
Family = Callable[..., list[str]]


@pytest.fixture
def family(mlruns: Path, new_logger: NewLogger) -> Family:
    """Makes a parent with two children in a store and returns their ids."""

    def make(name: str = "cv", *, directory: Path = mlruns, experiment: str = "faces") -> list[str]:
        parent = new_logger(run_name=name, experiment=experiment, directory=str(directory), tags={"kind": "parent"})
        parent.log_text("# 결과\n", "report.md")
        loggers = [parent]
        for fold in range(2):
            child = new_logger(
                run_name=f"{name} {fold}",
                experiment=experiment,
                directory=str(directory),
                parent_run_id=parent.run_id,
                tags={"kind": "run"},
            )
            child.log_hyperparams({"fold": fold, "classes": ["기쁨", "sad"]})
            child.log_metrics({"bad": float("nan"), "exact": 0.1 + 0.2}, 0)
            for step in range(3):
                child.log_metrics({"val/f1_macro": step / 3, "train/loss": 1 / (step + 1)}, step)
            child.log_dataset("drawn", "drawn:largest=10", "f" * 64, profile={"images": 20})
            child.log_table(pd.DataFrame({"row": [fold]}), "predictions")
            child.log_text("not a real one", "checkpoint.ckpt")
            loggers.append(child)
        for logger in loggers:
            logger.finalize()
        return [str(logger.run_id) for logger in loggers]

    return make


@pytest.fixture
def other(tmp_path: Path, empty_store: Path) -> Path:
    """The store of another person, at another path."""
    return Path(shutil.copytree(empty_store, tmp_path / "home" / "other person" / "mlruns"))


def _client(directory: Path) -> MlflowClient:
    return MlflowClient(store.embedded_uri(directory))


def _look(directory: Path, run_id: str) -> tuple[object, list[tuple[object, ...]]]:
    client = _client(directory)
    record = record_of(client, client.get_run(run_id))
    return record, list(record.metrics.fillna(-1.0).itertuples(index=False, name=None))


def test_runs_arrive_whole_and_open_without_where_they_came_from(
    mlruns: Path, family: Family, other: Path, tmp_path: Path
) -> None:
    ids = family()
    before = {run_id: _look(mlruns, run_id) for run_id in ids}
    assert export_runs("out") == dict.fromkeys(ids, "exported")
    assert not list(Path("out").rglob("*.ckpt"))
    texts = [path.read_bytes() for path in Path("out").rglob("*") if path.is_file()]
    assert not any(str(tmp_path).encode() in text for text in texts)  # nothing tells where it was
    shutil.move(mlruns, tmp_path / "gone")
    assert import_runs("out", directory=other) == dict.fromkeys(ids, "new")
    for run_id in ids:
        assert _look(other, run_id) == before[run_id]
        run = _client(other).get_run(run_id)
        assert run.info.artifact_uri == str(other / "artifacts" / run_id / "artifacts")
    assert children(ids[0], directory=other)["run_id"].tolist() == ids[1:]
    assert load_table(ids[1], "predictions", directory=other)["row"].tolist() == [0]
    listed = {one.path for one in _client(other).list_artifacts(ids[0])}
    assert listed == {"environment.json", "report.md"}  # as the MLflow page sees them
    run = _client(other).get_run(ids[1])
    assert (run.data.metrics["val/f1_macro"], run.data.metrics["exact"]) == (2 / 3, 0.1 + 0.2)
    assert np.isnan(run.data.metrics["bad"])
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, json.loads(dataset.profile)) == ("drawn", {"images": 20, "digest": "f" * 64})


def test_a_second_import_changes_nothing(family: Family, other: Path) -> None:
    ids = family()
    export_runs("out")
    import_runs("out", directory=other)
    with sqlite3.connect(other / "mlflow.db") as database:
        before = list(database.iterdump())
    assert import_runs("out", directory=other) == dict.fromkeys(ids, "unchanged")
    with sqlite3.connect(other / "mlflow.db") as database:
        assert list(database.iterdump()) == before


def test_an_imported_run_has_its_model_and_the_runs_that_evaluated_it_are_linked(
    mlruns: Path, new_logger: NewLogger, other: Path
) -> None:
    trained = new_logger(run_name="quick")
    trained.log_dataset("faces", "drawn", "0" * 40)
    trained.log_model_scores({"test/f1_macro": 0.25})
    trained.finalize()
    evaluation = new_logger(run_name="quick on others", tags={"model_runs": str(trained.run_id)})
    evaluation.log_dataset("others", "folder", "1" * 40)
    evaluation.log_model_scores({"test/f1_macro": 0.5}, evaluated=[str(trained.run_id)])
    evaluation.finalize()
    export_runs("out")
    import_runs("out", directory=other)
    client = _client(other)
    experiment = client.get_run(str(trained.run_id)).info.experiment_id
    (model,) = client.search_logged_models([experiment])
    assert (model.name, model.source_run_id) == ("quick", trained.run_id)
    scores = {(score.value, score.dataset_name, score.run_id) for score in model.metrics}
    assert scores == {(0.25, "faces", trained.run_id), (0.5, "others", evaluation.run_id)}
    assert set(import_runs("out", directory=other).values()) == {"unchanged"}


def test_two_peoples_runs_merge(mlruns: Path, family: Family, other: Path) -> None:
    theirs = family("theirs", directory=other, experiment="theirs first")
    family("more", directory=other)  # "faces" has another number there
    ours = family()
    export_runs("out", directory=other)
    import_runs("out")
    assert len(find_runs()) == 9
    assert set(find_runs("theirs first")["run_id"]) == set(theirs)
    assert set(ours) < set(find_runs("faces")["run_id"])
    export_runs("out")
    import_runs("out", directory=other)
    assert set(find_runs(directory=other)["run_id"]) == set(find_runs()["run_id"])


def test_the_side_that_ended_later_wins_and_nothing_is_lost(
    mlruns: Path, family: Family, other: Path, new_logger: NewLogger
) -> None:
    run_id = family()[1]
    export_runs("out")
    import_runs("out", directory=other)
    resumed = new_logger(run_id=run_id, directory=str(other))  # the other person goes on with the run
    resumed.log_metrics({"val/f1_macro": 0.9}, 3)
    resumed.log_table(pd.DataFrame({"row": [7]}), "predictions")
    resumed.set_tags({"kind": "resumed", "more": "1"})
    resumed.finalize("failed")
    _client(mlruns).set_tag(run_id, "note", "mine")
    export_runs("back", [run_id], directory=other)
    assert import_runs("back") == {run_id: "brought up to date"}
    run = _client(mlruns).get_run(run_id)
    tags = run.data.tags
    assert (tags["kind"], tags["more"], tags["note"], run.info.status) == ("resumed", "1", "mine", "FAILED")
    assert run.data.metrics["val/f1_macro"] == 0.9
    assert len(_client(mlruns).get_metric_history(run_id, "val/f1_macro")) == 4
    assert load_table(run_id, "predictions")["row"].tolist() == [7]
    assert import_runs("back") == {run_id: "unchanged"}
    assert import_runs("out", directory=other)[run_id] == "unchanged"  # the older state brings nothing back
    assert load_table(run_id, "predictions", directory=other)["row"].tolist() == [7]


def test_what_is_not_over_is_left_out_and_what_was_deleted_stays_deleted(
    mlruns: Path, family: Family, other: Path, new_logger: NewLogger
) -> None:
    ids = family()
    going = new_logger()
    going.log_metrics({"loss": 1.0}, 0)
    outcome = export_runs("out")
    assert outcome.pop(str(going.run_id)) == "left out: its status is RUNNING"
    assert outcome == dict.fromkeys(ids, "exported")
    import_runs("out", directory=other)
    _client(other).delete_run(ids[1])
    _client(other).update_run(ids[2], status="RUNNING")
    again = import_runs("out", directory=other)
    assert again[ids[1]] == "skipped: it was deleted here"
    assert again[ids[2]] == "skipped: its status here is RUNNING"
    with open(mlruns / "runs" / ids[0] / "spool" / "journal.jsonl", "a") as journal:
        journal.write('{"op": "tags", "values": {"late": "1"}}\n')
    assert "emotion sync" in export_runs("out", [ids[0]])[ids[0]]


def test_an_export_grows_and_keeps_the_files_it_had(family: Family) -> None:
    first, second = family("first"), family("second")
    export_runs("out", first[:1], skip=())  # a parent brings its members
    assert {one.name for one in Path("out").iterdir()} == {"exchange.json", *first}
    assert export_runs("out", [second[1]], skip=("*.ckpt", "tables/*")) == {second[1]: "exported"}
    export_runs("out", first[1:], skip=("*.ckpt", "tables/*"))
    assert (Path("out") / first[1] / "artifacts" / "checkpoint.ckpt").exists()
    left = {path.name for path in (Path("out") / second[1] / "artifacts").rglob("*")}
    assert left == {"environment.json"}


def test_an_interrupted_import_is_completed(
    family: Family, other: Path, monkeypatch: pytest.MonkeyPatch, start_python: Callable[..., Any]
) -> None:
    ids = family()
    export_runs("out")
    expected = _look(Path("mlruns"), ids[1])
    script = """
import os, sys
from mlflow import MlflowClient
from results.tracking.export_import import import_runs
log = MlflowClient.log_batch
def dies(self, run_id, **entries):
    if entries.get("metrics"):
        os._exit(9)
    log(self, run_id, **entries)
MlflowClient.log_batch = dies
import_runs("out", directory=sys.argv[1])
"""
    process = start_python(script, [str(other)], {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 9, out
    assert len(find_runs(directory=other)) < 3 or _look(other, ids[1]) != expected
    outcome = import_runs("out", directory=other)
    # Families go in by id, so the run that has no metrics may have been whole before the death.
    assert outcome[ids[1]] in {"new", "brought up to date"}
    assert [_look(other, run_id) for run_id in ids] == [_look(Path("mlruns"), run_id) for run_id in ids]


def _edit(folder: Path, **facts: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / "artifacts" / "report.md").write_text("changed"), "report.md was changed or cut"),
        (lambda run: (run / "artifacts" / "report.md").unlink(), "cannot be read"),
        (lambda run: (run / "metrics.parquet").write_bytes(b"PAR1"), "metrics.parquet was changed or cut"),
        (lambda run: (run / "run.json").write_text('{"format": 1'), "cannot be read"),
        (lambda run: _edit(run, files={"../../../escaped": "0"}), "leads out of it"),
        (lambda run: _edit(run, run_id="../escaped"), "run_id must be 32 hex digits"),
        (lambda run: _edit(run, run_id="0" * 32), "the folder must be named"),
        (lambda run: _edit(run, status="RUNNING"), "status must be one of"),
        (lambda run: _edit(run, tags={"a": 1}), "must be text"),
        (lambda run: _edit(run, datasets=["x"]), "cannot be read"),
        (lambda run: _edit(run, end="today"), "end must be of type int"),
    ],
)
def test_a_damaged_run_is_refused_and_the_others_are_taken(
    empty_store: Path,
    tmp_path: Path,
    shared_export: Path,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    mine = Path(shutil.copytree(empty_store, tmp_path / "mlruns"))
    out = Path(shutil.copytree(shared_export, tmp_path / "out"))
    broken = next(path.parents[1] for path in out.rglob("report.md"))
    damage(broken)
    outcome = import_runs(out, directory=mine)
    assert reason in outcome.pop(broken.name)
    assert list(outcome.values()) == ["new"]
    assert find_runs(directory=mine)["run_id"].tolist() == list(outcome)
    assert not list(tmp_path.rglob("escaped*"))


@pytest.fixture(scope="module")
def shared_export(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    home = tmp_path_factory.mktemp("shared")
    directory = str(shutil.copytree(empty_store, home / "mlruns"))
    for name in ("a", "b"):
        logger = TrackingLogger(run_name=name, directory=directory, system_metrics=False, send_every=0.05)
        logger.log_text(name, "report.md" if name == "a" else "other.md")
        logger.finalize()
    export_runs(home / "out", directory=directory)
    return home / "out"


def test_a_link_is_not_followed(shared_export: Path, tmp_path: Path, mlruns: Path) -> None:
    out = Path(shutil.copytree(shared_export, tmp_path / "out"))
    report = next(out.rglob("report.md"))
    secret = tmp_path / "secret"
    secret.write_text("a")  # the same content, so that only the link is wrong
    report.unlink()
    report.symlink_to(secret)
    assert "leads out of it" in import_runs(out)[report.parents[1].name]


def test_bad_input_is_a_clear_error(
    mlruns: Path, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family()
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("")
    with pytest.raises(InputError, match="full is something else"):
        export_runs(full)
    with pytest.raises(InputError, match="full has no exported runs"):
        import_runs(full)
    export_runs("out")
    Path("out/exchange.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="has format 2, this program reads format 1"):
        import_runs("out")
    Path("out/exchange.json").write_text('{"format": 1}')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(InputError, match=r"folder mlruns only.*http://127\.0\.0\.1:9; unset it"):
        import_runs("out")


def test_commands(
    family: Family, other: Path, capsys: pytest.CaptureFixture[str], shared_export: Path, tmp_path: Path
) -> None:
    ids = family("처음")
    assert main(["runs", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[2].split()[:3] == ["처음", ids[0][:8], "parent"]
    assert [line[:2] for line in listed[3:5]] == ["  ", "  "]  # members stand under their parent
    assert main(["runs", "export", "out", "--skip", "tables/*", "--run", "처음"]) == 0
    assert "3 runs: 3 exported" in capsys.readouterr().out
    assert main(["runs", "list", "out"]) == 0
    assert capsys.readouterr().out.splitlines() == listed
    assert main(["runs", "import", "out", "--directory", str(other)]) == 0
    assert "3 runs: 3 new" in capsys.readouterr().out
    assert not list(other.rglob("*.parquet"))
    (Path("out") / ids[0] / "run.json").write_text("")
    assert main(["runs", "import", "out", "--directory", str(other)]) == 1
    assert f"{ids[0][:8]}  refused: path: the exported run" in capsys.readouterr().out
    with pytest.raises(InputError, match="'nothing' has no runs here"):
        main(["runs", "export", "out", "--experiment", "nothing"])


@pytest.mark.parametrize(
    ("version", "advice"),
    [("451aebb31d03", "mlflow db upgrade sqlite:///"), ("f" * 12, "pip install --upgrade mlflow")],
    ids=["older", "newer"],
)
def test_tables_of_another_mlflow_version_are_refused(family: Family, other: Path, version: str, advice: str) -> None:
    family()
    export_runs("out")
    for directory in (Path("mlruns"), other):
        with sqlite3.connect(directory / "mlflow.db") as database:
            ((needed,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    message = f"schema version {version}, MLflow {re.escape(mlflow.__version__)} needs {needed}; .*{advice}"
    with pytest.raises(InputError, match=message):  # the client of this store was opened before
        export_runs("again")
    assert all(re.search(message, outcome) for outcome in import_runs("out").values())
    with pytest.raises(InputError, match=message):  # this store is opened now
        import_runs("out", directory=other)
