"""`emotion study NAME` at scale tiny, cut to a few cells: runs below one run, a report, and going on with the rest."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("store")
FACES = ("--data", "drawn:largest=24,ratio=2,size=32")
NETWORK = ("--data.size", "32", "--model.backbone", "test_resnet", "--model.weights", "none")
SHORT = ("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--run.resamples", "100")


def cells(emotion: Any) -> dict[str, Any]:
    """Return the runs of the one study here by the name of their cell."""
    (study,) = emotion.runs("tags.kind = 'study'")
    runs = emotion.runs(f"tags.mlflow.parentRunId = '{study.info.run_id}'")
    return {run.data.tags.get("cell", run.info.run_name): run for run in runs}


def study(emotion: Any) -> Any:
    (found,) = emotion.runs("tags.kind = 'study'")
    return found


def report(emotion: Any) -> tuple[str, pd.DataFrame]:
    """Return the page and the table of the one study here."""
    run_id = study(emotion).info.run_id
    text = emotion.artifact(run_id, "report/report.md").read_text(encoding="utf-8")
    return text, pd.read_csv(emotion.artifact(run_id, "report/report.csv"))


def names(emotion: Any, name: str) -> list[str]:
    """Return the cells of a study, as the command prints them."""
    (error,) = emotion("study", name, "--cells", "no such cell", status=1).errors
    return re.findall(r"'([^']*)'", error.partition("it has")[2])


def check_cells(emotion: Any, name: str, chosen: list[str], done: Any) -> None:
    """These cells alone have finished, and the report is about them."""
    found = cells(emotion)
    assert sorted(found) == sorted(chosen)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert study(emotion).info.status == "FINISHED"
    text, table = report(emotion)
    assert text.startswith(f"# {name}: scale tiny, protocol ")
    assert f"{len(chosen)} of {len(names(emotion, name))} cells finished" in text
    assert all(run.info.run_id in text for run in found.values())
    assert "not run" in text
    note = study(emotion).data.tags["mlflow.note.content"]
    assert note.startswith(f"# {name}: scale tiny, protocol ")
    assert "\n## " not in note
    assert note.endswith("Tables, claims and figures: report/report.html among the artifacts of this run.")
    assert "report.html" in done.out
    for cell, run in found.items():
        ours = table[(table["row"] == cell) & (table["metric"] == "accuracy") & table["value"].notna()]
        for value in ours["value"]:
            assert value == pytest.approx(emotion.summary(run.info.run_id)["test/accuracy"])


def test_a_class_with_too_few_images_is_refused_before_any_cell(emotion: Any, tmp_path: Path) -> None:
    for name, images in (("happy", 12), ("sad", 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(images):
            pixels = np.random.default_rng([index, images]).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{index}.png")
    for more in (["--dry-run"], []):
        (error,) = emotion("study", "backbones", "--data", str(tmp_path / "set"), *more, status=1).errors
        assert "class 'sad' has 1 cluster of images that must stay together" in error
    assert emotion.runs("tags.kind = 'study'") == []


def test_a_dry_run_refuses_what_the_study_refuses(emotion: Any) -> None:
    for more in (["--dry-run"], []):
        (error,) = emotion("study", "backbones", "--trainer.fast_dev_run", "true", *more, status=1).errors
        assert "--trainer.fast_dev_run: cannot be used in a study" in error
    assert emotion.runs("tags.kind = 'study'") == []


def test_a_cell_that_cannot_be_divided_does_not_stop_the_others(emotion: Any) -> None:
    equal = ("--data", "drawn:largest=12,ratio=1,size=32,classes=happy+sad")  # nothing to over-sample before the split
    every = names(emotion, "leakage")
    leaky = next(name for name in every if "over-sampl" in name)
    printed = emotion("study", "leakage", *equal, "--dry-run").out
    assert f"note: cell {leaky} cannot be run: --data.leak oversample_first: no class has fewer" in printed
    (error,) = emotion("study", "leakage", *equal, "--dry-run", "--cells", leaky, status=1).errors
    assert "--data.leak oversample_first: no class has fewer images" in error


def test_what_costs_nothing(emotion: Any) -> None:
    listed = emotion("study", "list").out
    known = ("balanced-augmentation", "teachable", "backbones", "face-crop", "face-detector", "data-imbalance")
    known = (*known, "leakage", "balancing")
    # a study that is not tested below would be listed, too
    assert set(re.findall(r"^  ([\w-]+)  ", listed, re.MULTILINE)) == set(known)
    every = names(emotion, "balanced-augmentation")
    lines = emotion("study", "balanced-augmentation", *FACES, "--dry-run").out.splitlines()
    assert next(line for line in lines if line.startswith("together")).split()[1] == str(len(every))
    lines = emotion("study", "balanced-augmentation", *FACES, "--dry-run", "--cells", *every[:2]).out.splitlines()
    assert next(line for line in lines if line.startswith("together")).split()[1] == "2"
    for words, message in (
        (("backbones", "--scale", "small"), "scale small needs a data set"),
        (("leakage", "--protocol", "paper"), "--protocol: study leakage compares protocols"),
        (("backbones", "--seeds", "1", "1"), "--seeds: must not repeat a seed"),
        (("backbones", *FACES, "--report"), "has not been started here with these options"),
        (("backbones", "--cells", "resnet"), "--cells: study backbones has no cell 'resnet'; it has 'test_resnet'"),
        (("face-detector", "--cells", "a"), "--cells: study face-detector runs as a whole"),
        (("data-imbalance", "--cells", names(emotion, "data-imbalance")[-1]), "add them to --cells"),
        (("balanced-augmentation", "--cells", every[-1]), "add them to --cells"),
    ):
        (error,) = emotion("study", *words, status=1).errors
        assert message in error
    assert emotion.runs() == []
    with pytest.raises(AssertionError, match=r"(?s)status 0.*--cells CELL"):
        emotion("study", "--help", status=1)


@pytest.mark.slow
def test_some_cells_of_a_study_run_once_and_the_rest_later(emotion: Any) -> None:
    """A cell that fails fails alone, and is tried anew."""
    command = ("study", "backbones", *FACES, *SHORT, "--data.size", "32")
    every = names(emotion, "backbones")
    done = emotion(*command, "--cells", *every[:2])
    check_cells(emotion, "backbones", every[:2], done)
    first = cells(emotion)
    before = len(emotion.runs())
    emotion(*command, "--cells", *every[:2])  # again: nothing is left to run
    assert len(emotion.runs()) == before
    assert (emotion.artifact(study(emotion).info.run_id, "figures/1-curves.png")).stat().st_size > 1000
    emotion(*command)
    after = cells(emotion)
    assert sorted(after) == sorted(every)
    assert all(after[name].info.run_id == run.info.run_id for name, run in first.items())
    assert "3 of 3 cells finished" in report(emotion)[0]


def test_a_cell_that_fails_fails_alone_and_is_named(emotion: Any) -> None:
    one = ("--data.size", "32", "--model.backbone", "no_such_network", "--cells", "test_resnet")
    done = emotion("study", "backbones", *FACES, *SHORT, *one, status=1)
    (reason,) = (line for line in done.err.splitlines() if line.startswith("failed: test_resnet: "))
    assert "no_such_network" in reason
    assert "Cells that failed" in report(emotion)[0]
    assert study(emotion).info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:protocol")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("balanced-augmentation", (*FACES, *SHORT, *NETWORK)),
        ("balancing", (*FACES, *SHORT, *NETWORK)),
        ("leakage", ("--data", "drawn:largest=24,ratio=2,size=32,subjects=20", *SHORT, *NETWORK)),
        ("teachable", ("--trainer.accelerator", "cpu", "--run.resamples", "100")),
    ],
)
def test_two_cells_of_a_study(emotion: Any, name: str, options: tuple[str, ...]) -> None:
    two = names(emotion, name)[:2]
    done = emotion("study", name, *options, "--seeds", "0", "--cells", *two)
    check_cells(emotion, name, two, done)


@pytest.mark.slow
def test_further_training_of_data_imbalance(emotion: Any) -> None:
    """The second cell goes on from the first; then another seed, and then the other cells."""
    first, _, further, *_ = every = names(emotion, "data-imbalance")
    faces = ("--data", "drawn:largest=60,ratio=1,size=32,classes=happy+sad,confusion=0")
    command = ("study", "data-imbalance", *faces, *NETWORK, *SHORT)
    done = emotion(*command, "--seeds", "0", "--cells", first, further)
    check_cells(emotion, "data-imbalance", [first, further], done)
    found = cells(emotion)
    kept = emotion.artifact(found[further].info.run_id, "config.yaml").read_text()
    assert f"start_from: {found[first].info.run_id}" in kept
    text, table = report(emotion)
    for part in ("## Gains: children, by class", "## Forgetting: the others, by class", "## Claims", "paper 0.671"):
        assert part in text
    assert (table["part"] == "claims").sum() == 8
    emotion(*command, "--seeds", "0")
    after = cells(emotion)
    assert sorted(after) == sorted(every)
    assert after[first].info.run_id == found[first].info.run_id
    tested = {tuple(emotion.table(run.info.run_id, "predictions")["row"]) for run in after.values()}
    assert len(tested) == 1  # one reported part
    for run in after.values():
        trained = emotion.rows(run.info.run_id, "train") | emotion.rows(run.info.run_id, "val")
        assert not trained & set(next(iter(tested)))
    emotion(*command, "--seeds", "0", "1", "--cells", first)  # one more seed goes on with the same study
    assert len(emotion.children(study(emotion).info.run_id)) == len(every) + 1


@pytest.mark.slow
def test_the_inputs_of_face_crop_come_out_in_the_published_order(emotion: Any) -> None:
    emotion("study", "face-crop", "--seeds", "0", "--trainer.accelerator", "cpu")
    assert {run.info.status for run in cells(emotion).values()} == {"FINISHED"}
    table = report(emotion)[1]
    whole, cascade, detector = (
        table.loc[(table["row"] == name) & (table["metric"] == "accuracy") & table["value"].notna(), "value"].item()
        for name in ("whole image", "cascade crop", "detector crop")
    )
    assert whole + 0.1 < cascade < detector - 0.1


@pytest.mark.slow
def test_face_detector(emotion: Any) -> None:
    """Its two trainings belong together, so it is not cut, but its network is smaller and sees the images once."""
    small = (
        *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.width", "8", "--size", "64"),
        *("--epochs", "1", "--data.num_workers", "0", "--run.resamples", "100", "--run.accelerator", "cpu"),
        *("--seeds", "0"),
    )
    emotion("study", "face-detector", *small)
    found = cells(emotion)
    assert len(found) == 2
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    text, table = report(emotion)
    assert text.startswith("# face-detector: scale tiny")
    ours = table[table["part"] == "On the new images, held out"]
    assert ours["published"].tolist() == [0.8223, 0.984, 0.8672, 0.994]
    assert ours["value"].between(0, 1).all()
    before = len(emotion.runs())
    emotion("study", "face-detector", *small)
    assert len(emotion.runs()) == before
