"""`emotion search`: trials see inner folds only, the winner is scored once, and the same command adds nothing."""

import re
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.usefixtures("store")
SPACE = "model.learning_rate: {choice: [0.001, -1.0, 0.01]}\n"  # the second cannot train


@pytest.fixture
def space(place: Path) -> str:
    (place / "space.yaml").write_text(SPACE)
    return "space.yaml"


def of_kind(emotion: Any, parent: str, kind: str) -> list[Any]:
    return [run for run in emotion.children(parent) if run.data.tags.get("kind") == kind]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning, MLflow and Optuna for their users, not for ours
def test_a_search_selects_on_inner_folds_and_reports_once(emotion: Any, tiny: tuple[str, ...], space: str) -> None:
    """A grid of three cells, one of which fails."""
    own = ("--trainer.max_epochs", "1")
    command = ("search", "--space", space, "--sampler", "grid", "--folds", "2", "--name", "lr", *tiny, *own)
    done = emotion(*command)
    assert "3 trials (2 complete, 1 fail)" in done.out
    assert "--model.learning_rate: must be above 0" in done.out
    (parent,) = (run.info.run_id for run in emotion.runs("tags.kind = 'search'"))
    trials = emotion.table(parent, "trials").set_index("trial")
    assert list(trials["state"]) == ["complete", "fail", "complete"]
    assert {run.data.tags["trial"]: run.info.status for run in of_kind(emotion, parent, "trial")} == {
        "0": "FINISHED",
        "1": "FAILED",
        "2": "FINISHED",
    }
    (winner,) = of_kind(emotion, parent, "winner")
    finished = trials[trials["state"] == "complete"]
    for row in finished.itertuples():
        folds = emotion.children(row.run_id)
        assert len(folds) == 2
        best = [max(emotion.history(fold.info.run_id, "val/f1_macro").values()) for fold in folds]
        assert row.f1_macro == pytest.approx(sum(best) / 2)
    best_trial = trials.loc[finished["f1_macro"].idxmax()]
    kept = yaml.safe_load(emotion.artifact(winner.info.run_id, "config.yaml").read_text())
    assert kept["model"]["learning_rate"] == float(best_trial["model.learning_rate"])

    # the winner was scored on images that no trial saw: a trial's folds are trained again, now with their tables
    scored = emotion.table(winner.info.run_id, "predictions")
    selected_on: list[int] = []
    for fold in emotion.children(finished["run_id"].iloc[0]):
        config = emotion.artifact(fold.info.run_id, "config.yaml")
        emotion("fit", "--config", str(config), "--run.evaluate", "true", "--run.parent", "null", "--run.name", "again")
        again = emotion.runs()[0].info.run_id
        assert emotion.history(again, "val/loss") == emotion.history(fold.info.run_id, "val/loss")
        seen = emotion.rows(again, "train") | emotion.rows(again, "val")
        assert not seen & set(scored["row"])
        assert set(emotion.table(again, "predictions")["content"]) == set(scored["content"])
        selected_on += sorted(emotion.rows(again, "val"))
    every = emotion.split(winner.info.run_id)["row"]
    assert sorted(selected_on) == sorted(set(every) - set(scored["row"]))

    note = emotion.client.get_run(parent).data.tags["mlflow.note.content"]
    page = emotion.artifact(parent, "Report.html").read_text()
    for following in ("emotion fit --config lr.yaml", f"emotion predict {winner.info.run_id[:8]} IMAGES"):
        assert f"`{following}`" in note
        assert f"<code>{following}</code>" in page
    macro = f"{emotion.summary(winner.info.run_id)['test/f1_macro']:.3f}"
    assert f"**macro F1 {macro}**" in note
    assert macro in page
    assert f"model.learning_rate {float(best_trial['model.learning_rate'])}" in page

    recipe = Path("lr.yaml")
    assert emotion.artifact(parent, "recipe.yaml").read_text() == recipe.read_text()
    emotion("fit", "--config", "lr.yaml", "--trainer.enable_progress_bar", "false")
    pd.testing.assert_frame_equal(emotion.table(emotion.runs()[0].info.run_id, "predictions"), scored)

    before = len(emotion.runs())
    emotion(*command)  # nothing is left to do, and nothing is scored a second time
    assert len(emotion.runs()) == before
    for words, message in (
        (("--data.size", "40"), "study lr was started with other recipe or options"),
        (("--data", "drawn:largest=40,ratio=2,size=32,seed=1"), "study lr was started with other data"),
    ):
        (error,) = emotion(*command, *words, status=1).errors
        assert message in error
    Path(space).write_text(SPACE.replace("0.01", "0.01, 0.02"))
    (error,) = emotion(*command, status=1).errors
    assert "study lr was started with other --space" in error
    assert len(emotion.runs()) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_on_postgresql_costs_no_trial(
    emotion: Any, tiny: tuple[str, ...], postgresql: str, place: Path
) -> None:
    """Two workers share four trials; one is killed in the middle of a trial, which the other runs again."""
    (place / "space.yaml").write_text("model.learning_rate: {real: [0.0001, 0.01], log: true}\n")
    own = ("--trainer.max_epochs", "1", "--storage", postgresql, "--trials", "4")
    command = ("search", "--space", "space.yaml", "--folds", "2", "--name", "shared", *own, *tiny, *own[:2])
    killed = emotion.start(*command, at_step="2:wait", fresh=True)  # trials are processes of a fork server of its own
    other = emotion.start(*command)
    wait_for(killed, "step 2 done")
    emotion.kill(killed)
    said = emotion.finish(other, seconds=900)
    assert "4 trials (4 complete)" in said

    study = optuna.load_study(study_name="shared", storage=postgresql.replace("postgresql:", "postgresql+psycopg:"))
    states = [trial.state.name for trial in study.trials]
    assert states.count("COMPLETE") == 4
    assert not {"RUNNING", "WAITING"} & set(states)
    assert states.count("FAIL") == 1  # what the killed one was at
    assert {run.info.status for run in emotion.runs()} <= {"FINISHED", "KILLED"}
    (parent,) = emotion.runs("tags.kind = 'search'")
    assert len(of_kind(emotion, parent.info.run_id, "winner")) == 1
    assert list(emotion.table(parent.info.run_id, "trials")["state"]) == ["complete"] * 4

    before = len(emotion.runs())
    again = emotion(*command)
    assert re.search(r"4 trials \(4 complete\)", again.out)
    assert len(emotion.runs()) == before


def wait_for(process: Any, text: str) -> None:
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))
