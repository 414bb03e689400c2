"""`emotion calibrate`: what turns probabilities into answers, fitted on the val part and kept with the run."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

OTHER = "drawn:largest=8,ratio=1,size=32,seed=7"  # images that no run here has seen


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[name for name in table if name.startswith("prob_")]].to_numpy(float)


def checkpoint(emotion: Any, run_id: str) -> dict[str, Any]:
    return dict(torch.load(emotion.artifact(run_id, "best.ckpt"), weights_only=True))


def scaled(raw: np.ndarray, temperature: float) -> np.ndarray:
    powers = raw ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def predicted(emotion: Any, *words: str) -> pd.DataFrame:
    emotion("predict", *words, "--output", "answers.parquet")
    return pd.read_parquet("answers.parquet")


def test_the_temperature_minimises_the_nll_of_the_val_part_and_predict_uses_it(
    emotion: Any, fitted: str, faces: Path
) -> None:
    raw, scores = predicted(emotion, fitted, str(faces)), emotion.summary(fitted)
    done = emotion("calibrate", fitted, "--table", "steps.csv")
    kept = checkpoint(emotion, fitted)["decisions"]
    temperature = kept["steps"]["temperature"]["temperature"]
    assert f"temperature {temperature:.3f} (fitted on {kept['images']} images of the val part)" in done.out
    val = emotion.table(fitted, "val_predictions")
    assert set(val["row"]) == emotion.rows(fitted, "val")
    assert kept["images"] == len(val)
    label = [kept["classes"].index(name) for name in val["label"]]

    def nll(value: float) -> float:
        return float(-np.log(scaled(probabilities(val), value)[np.arange(len(val)), label]).mean())

    assert nll(temperature) <= min(nll(temperature * 1.02), nll(temperature / 1.02), nll(1.0))
    answers = predicted(emotion, fitted, str(faces))
    assert probabilities(answers) == pytest.approx(scaled(probabilities(raw), temperature), abs=1e-6)
    assert answers["label"].tolist() == raw["label"].tolist()

    # the run keeps its scores and its raw predictions; the calibrated ones stand beside them
    again = emotion.summary(fitted)
    assert {name: again[name] for name in scores} == scores
    stored, decided = emotion.table(fitted, "predictions"), emotion.table(fitted, "decisions")
    assert probabilities(decided) == pytest.approx(scaled(probabilities(stored), temperature), abs=1e-9)
    assert again["decided/nll"] != again["test/nll"]
    assert again["decided/accuracy"] == pytest.approx(again["test/accuracy"])
    steps = pd.read_csv("steps.csv").set_index("step")
    assert list(steps.index) == ["raw", "temperature"]
    assert steps.loc["raw", "nll"] == pytest.approx(again["test/nll"], abs=1e-5)
    assert steps.loc["temperature", "nll"] == pytest.approx(again["decided/nll"], abs=1e-5)
    emotion.artifact(fitted, "decisions/risk_coverage.png")
    failed = [line for line in emotion("report", "certify", fitted, status=None).out.splitlines() if line[:1] == "✗"]
    assert all("the code is a commit" in line for line in failed)


def test_an_unsure_answer_is_the_same_in_every_engine(
    emotion: Any, fitted: str, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emotion("calibrate", fitted, "--decisions", "temperature", "tau", "--coverage", "0.6")
    done = emotion("predict", fitted, str(faces), "--output", "answers.parquet")
    assert "decisions: temperature" in done.err
    assert "decisions: unsure unless only one class has a probability of at least" in done.err
    by_torch = pd.read_parquet("answers.parquet")
    unsure = by_torch["label"] == "unsure"
    assert unsure.any()  # after two epochs the network knows little
    assert f"\tunsure\t{by_torch['confidence'][unsure].iloc[0]:.3f}\t" in done.out
    assert by_torch.loc[unsure, "note"].str.contains("one of |most likely ").all()
    rule = checkpoint(emotion, fitted)["decisions"]["rule"]["coverage"]
    sets = probabilities(by_torch) >= rule["threshold"]
    assert (sets.sum(axis=1)[~unsure] == 1).all()

    emotion("register", fitted, "--name", "calibrated")  # as `emotion export` writes it
    assert "- unsure unless only one class" in emotion.artifact(fitted, "README.md").read_text()
    by_onnx = predicted(emotion, "models:/calibrated/1", str(faces))
    assert by_onnx["label"].tolist() == by_torch["label"].tolist()
    assert by_onnx["note"].tolist() == by_torch["note"].tolist()
    assert probabilities(by_onnx) == pytest.approx(probabilities(by_torch), abs=1e-4)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", emotion.client.tracking_uri)
        model = mlflow.pyfunc.load_model("models:/calibrated/1")
    given = model.predict(pd.DataFrame({"image": [Path(path).read_bytes() for path in by_torch["path"].head(3)]}))
    assert given["label"].tolist() == by_torch["label"].head(3).tolist()
    assert probabilities(given) == pytest.approx(probabilities(by_torch)[:3], abs=1e-4)


def test_reports_show_what_is_answered_beside_the_scores_of_all_images(emotion: Any, fitted: str) -> None:
    emotion("calibrate", fitted, "--decisions", "--coverage", "0.6")
    decided = emotion.table(fitted, "decisions")
    assert emotion.summary(fitted)["selective/coverage"] == pytest.approx(1 - decided["unsure"].mean())
    few = ("--resamples", "100", "--permutations", "99")
    out = emotion("report", "bias", fitted, "--by", "age", *few, "--out", "bias").out
    assert "Answered images, by age" in out
    assert pd.read_csv("bias/coverage.csv")["answered"].sum() == (~decided["unsure"]).sum()
    out = emotion(
        "evaluate", fitted, "--data", "drawn:largest=8,ratio=1,size=32,seed=5,classes=happy+sad", *few[:2]
    ).out
    assert "decisions\n  unsure unless only one class" in out
    run_id = emotion.runs("tags.kind = 'evaluation'")[0].info.run_id
    table, beside = emotion.table(run_id, "predictions"), emotion.table(run_id, "decisions")
    assert beside.drop(columns="unsure").equals(table)  # no step changes them
    assert list(beside.filter(like="prob_")) == ["prob_happy", "prob_sad"]


def test_calibrating_twice_is_calibrating_once_and_it_can_be_removed(emotion: Any, fitted: str, faces: Path) -> None:
    raw = predicted(emotion, fitted, str(faces))
    assert "calibrated before" not in emotion("calibrate", fitted, "--decisions", "temperature", "tau").err
    first = checkpoint(emotion, fitted)["decisions"]
    done = emotion("calibrate", fitted, "--decisions", "tau", "temperature")
    assert "it was calibrated before; the decisions were fitted anew, from the raw probabilities" in done.err
    assert checkpoint(emotion, fitted)["decisions"] == first
    said = emotion("calibrate", fitted, "--remove").out
    assert "stored with run" in said
    assert "decisions" not in checkpoint(emotion, fitted)
    assert predicted(emotion, fitted, str(faces)).equals(raw)


def test_a_run_fits_its_decisions_at_its_end(emotion: Any, fitted: str, tiny: tuple[str, ...], faces: Path) -> None:
    words = ["--run.decisions", "[temperature,tau]", "--run.coverage", "0.6"]
    done = emotion("fit", *tiny, "--data.folds", "4", *words)
    run = emotion.runs()[0].info.run_id
    assert emotion.table(run, "predictions").equals(emotion.table(fitted, "predictions"))  # the raw ones
    assert "decisions\n  temperature" in done.out
    kept = checkpoint(emotion, run)["decisions"]
    assert list(kept["steps"]) == ["temperature", "tau"]
    emotion("calibrate", run, "--decisions", "temperature", "tau", "--coverage", "0.6")
    assert checkpoint(emotion, run)["decisions"] == kept
    emotion("calibrate", fitted, "--decisions", "temperature", "tau", "--coverage", "0.6")  # predicts the val part
    same = checkpoint(emotion, fitted)["decisions"]["steps"]["temperature"]["temperature"]
    assert same == pytest.approx(kept["steps"]["temperature"]["temperature"], rel=1e-4)
    assert predicted(emotion, fitted, str(faces)).equals(predicted(emotion, run, str(faces)))


def test_a_risk_that_the_network_cannot_keep_leaves_the_run_without_decisions(
    emotion: Any, tiny: tuple[str, ...]
) -> None:
    words = ["fit", *tiny, "--data.folds", "4", "--trainer.max_epochs", "1", "--model.learning_rate", "1e-9"]
    (error,) = emotion(*words, "--run.risk", "0.001", status=1).errors
    assert "--run.risk: needs at least 6907 images to be fitted on" in error
    assert not emotion.runs()  # before anything is trained
    done = emotion(*words, "--run.risk", "0.4")
    assert "note: no decisions were fitted, so the most probable class is the answer: --risk: cannot" in done.err
    run = emotion.runs()[0]
    assert run.info.status == "FINISHED"
    assert "decisions" not in checkpoint(emotion, run.info.run_id)
    assert len(emotion.table(run.info.run_id, "predictions"))


def test_the_folds_are_calibrated_before_their_mean(emotion: Any, cross_validated: str, faces: Path) -> None:
    members = [run.info.run_id for run in emotion.children(cross_validated)]
    raws = [probabilities(predicted(emotion, member, str(faces))) for member in members]
    (error,) = emotion("calibrate", cross_validated, "--risk", "0.5", status=1).errors
    assert "--risk: must be fitted, for a mean of networks, on images that none of them has seen" in error
    emotion("calibrate", cross_validated, "--decisions", "temperature", "tau")
    kept = [checkpoint(emotion, member) for member in members]
    temperatures = [each["decisions"]["steps"]["temperature"]["temperature"] for each in kept]
    mean = np.mean([scaled(raw, value) for raw, value in zip(raws, temperatures, strict=True)], axis=0)
    answers = predicted(emotion, cross_validated, str(faces))
    assert probabilities(answers) == pytest.approx(mean, abs=1e-6)

    joint = kept[0]["joint_decisions"]
    assert all(each["joint_decisions"] == joint for each in kept)
    assert joint["members"] == 4
    assert joint["decisions"]["images"] == sum(each["decisions"]["images"] for each in kept)
    assert list(joint["decisions"]["steps"]) == ["tau"]
    tau = joint["decisions"]["steps"]["tau"]
    classes = np.array(joint["decisions"]["classes"])
    expected = classes[(np.log(mean) - tau["tau"] * np.log(tau["shares"])).argmax(axis=1)]
    assert answers["label"].tolist() == expected.tolist()
    decided = emotion.table(cross_validated, "decisions")
    assert decided["row"].tolist() == emotion.table(cross_validated, "predictions")["row"].tolist()

    # two of the four were not fitted together
    (error,) = emotion("predict", "--run", *members[:2], "--data", str(faces), status=1).errors
    assert "fit them together with `emotion calibrate RUN... --ensemble`" in error
    emotion("calibrate", *members[:2], "--decisions", "tau", "--ensemble")
    assert len(predicted(emotion, "--run", *members[:2], "--data", str(faces))) == 20
    (error,) = emotion("predict", cross_validated, str(faces), status=1).errors
    assert "fitted for networks alone" in error


def test_abstention_of_a_mean_is_fitted_on_images_that_no_fold_has_seen(
    emotion: Any, cross_validated: str, faces: Path, drawn: str
) -> None:
    words = ["calibrate", cross_validated, "--decisions", "--coverage", "0.6", "--data"]
    (error,) = emotion(*words, drawn, status=1).errors
    assert "was trained or selected on" in error
    first = emotion.children(cross_validated)[0].info.run_id
    assert "decisions" not in checkpoint(emotion, first)  # nothing is half done
    done = emotion(*words, OTHER)
    evaluation = emotion.runs("tags.kind = 'evaluation'")[0].info.run_id
    assert f"its abstention was fitted on 64 images of {OTHER} (run {evaluation})" in done.err
    answers = predicted(emotion, cross_validated, str(faces))
    assert (answers["label"] == "unsure").any()
    rule = checkpoint(emotion, first)["joint_decisions"]["decisions"]["rule"]["coverage"]
    assert rule["images"] == 64
    # the quantile of the mean's own probabilities on those images
    table = emotion.table(evaluation, "decisions")
    own = np.sort([row[f"prob_{row['label']}"] for row in table.to_dict("records")])[::-1]
    assert rule["threshold"] == pytest.approx(own[int(np.ceil(65 * 0.6)) - 1])
    few = "drawn:largest=8,ratio=1,size=32,seed=5,classes=happy+sad"
    (error,) = emotion(*words, few, status=1).errors
    assert "--data: must have images of every class of the networks" in error


def test_a_cross_validation_fits_its_mean_and_refuses_abstention(
    emotion: Any, tiny: tuple[str, ...], drawn: str
) -> None:
    words = ["cross-validate", *tiny, "--folds", "2", "--trainer.max_epochs", "1"]
    (error,) = emotion(*words, "--run.risk", "0.2", status=1).errors
    assert "--run.risk: of the mean of folds needs images that no fold has seen" in error
    done = emotion(*words, "--run.decisions", "[temperature,tau]")
    parent = emotion.runs("tags.kind = 'cross-validation'")[0].info.run_id
    assert "decisions\n  fold 0: temperature" in done.out
    kept = [checkpoint(emotion, run.info.run_id) for run in emotion.children(parent)]
    assert [each["joint_decisions"]["members"] for each in kept] == [2, 2]
    decided = emotion.table(parent, "decisions")
    assert decided["row"].tolist() == emotion.table(parent, "predictions")["row"].tolist()
    emotion("data", "prepare", "--data", drawn, "--output", "drawn.csv")
    answers = predicted(emotion, parent, "drawn.csv", "--out-of-fold").iloc[decided["row"]]
    assert probabilities(answers) == pytest.approx(probabilities(decided), abs=1e-6)


def test_a_run_without_an_evaluation_has_decisions_too(emotion: Any, tiny: tuple[str, ...], faces: Path) -> None:
    words = ["--trainer.max_epochs", "1", "--trainer.limit_test_batches", "0", "--run.decisions", "[temperature]"]
    emotion("fit", *tiny, *words)
    run = emotion.runs()[0].info.run_id
    kept = checkpoint(emotion, run)["decisions"]
    assert kept["images"] == len(emotion.table(run, "val_predictions"))
    done = emotion("calibrate", run, "--decisions", "temperature")
    assert checkpoint(emotion, run)["decisions"] == kept
    assert "the run has no predictions of a test part, so nothing was measured" in done.err


def test_a_network_that_gives_no_numbers(emotion: Any, fitted: str, faces: Path) -> None:
    file = emotion.artifact(fitted, "best.ckpt")
    content = torch.load(file, weights_only=True)
    weights = content["state_dict"]
    name = next(name for name in weights if name.startswith("head") and name.endswith("weight"))
    weights[name] = weights[name] * float("nan")
    torch.save(content, file)
    (error,) = emotion("calibrate", fitted, status=1).errors
    assert "the network gives no finite probabilities for" in error
    done = emotion("predict", fitted, str(faces), "--output", "answers.csv", status=1)
    assert "error: the network gave no number" in done.err
    assert (pd.read_csv("answers.csv", keep_default_na=False)["label"] == "").all()


def test_decisions_for_other_classes_are_refused(emotion: Any, fitted: str, faces: Path) -> None:
    emotion("calibrate", fitted, "--decisions", "thresholds")
    content = checkpoint(emotion, fitted)
    content["decisions"]["classes"] = content["decisions"]["classes"][::-1]
    torch.save(content, "other.ckpt")
    (error,) = emotion("predict", "other.ckpt", str(faces), status=1).errors
    assert "its decisions are for the classes" in error
    assert "calibrate it again with `emotion calibrate RUN`" in error


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--data", "given.csv", "--split", "given"],
            "the val part must have images of at least 2 classes, got 'happy'",
        ),
        (["--data.protocol", "paper"], "the run has no val part to fit them on, since it selects on the test part"),
        (["--run.keep", "none"], "--run.keep: must be best or last with --run.decisions"),
    ],
)
def test_a_run_whose_val_part_cannot_fit_them_is_refused_before_it_trains(
    emotion: Any, tiny: tuple[str, ...], faces: Path, words: list[str], complaint: str
) -> None:
    files = sorted(faces.rglob("*.png"))  # ten of happy, ten of sad
    parts = ["val"] * 3 + ["train"] * 4 + ["test"] * 3 + ["train"] * 5 + ["test"] * 5
    table = pd.DataFrame({"path": files, "label": [file.parent.name for file in files], "split": parts})
    table.to_csv("given.csv", index=False)
    (error,) = emotion("fit", *tiny, "--run.decisions", "[tau]", *words, status=1).errors
    assert complaint in error
    assert not Path("mlruns/mlflow.db").exists()


def test_a_run_whose_data_changed_is_refused(emotion: Any, tiny: tuple[str, ...], faces: Path) -> None:
    own = [*tiny[2:], "--data", str(faces), "--data.folds", "2", "--data.inner_fraction", "0.4"]
    emotion("fit", *own, "--trainer.max_epochs", "1")
    images = sorted(faces.rglob("*.png"))
    images[0].rename(faces / ("sad" if images[0].parent.name == "happy" else "happy") / "moved.png")
    (error,) = emotion("calibrate", "latest", status=1).errors
    assert "is not divided as it was" in error
