"""Bias report: the numbers of a paper, hostile and Korean names, charts without overlaps, and the command."""

import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from emotion.cli.report import main
from emotion.cli.runs import main as sync
from results.bias.groups import groupings, measure
from results.bias.report import BiasOptions, EvaluatedRun, bias_figure, correct_table, files, find_bias, text, verdicts
from results.tracking.logger import TrackingLogger
from results.tracking.runs import add_to_run, download, run_row

Draw = Callable[..., pd.DataFrame]
QUICK = {"resamples": 100, "permutations": 199}
OPTIONS = ["--resamples", "100", "--permutations", "99"]
# Correct and all images of each class by gender: CAFE in Noh and Lim (2023), tables 1 and 3
PUBLISHED = {
    "angry": ((20, 35), (42, 77)), "disgust": ((32, 34), (58, 75)), "fear": ((11, 22), (45, 62)),
    "happy": ((38, 41), (73, 82)), "neutral": ((22, 44), (35, 82)), "sad": ((8, 19), (20, 38)),
    "surprise": ((13, 17), (31, 40)),
}  # fmt: skip


@pytest.fixture
def published() -> pd.DataFrame:
    names = list(PUBLISHED)
    rows = [
        (gender, label, label if i < hits else names[names.index(label) - 1])
        for label, both in PUBLISHED.items()
        for gender, (hits, images) in zip(("Male", "Female"), both, strict=True)
        for i in range(images)
    ]
    table = pd.DataFrame(rows, columns=["gender", "label", "predicted"])
    table["row"] = range(len(table))
    table = table.assign(path=table["row"].astype(str), content=table["row"].astype(str), cluster=table["row"])
    table = table.assign(subject="", fold=0)
    return table.assign(**{f"prob_{name}": (table["predicted"] == name).astype(float) for name in names})


@pytest.fixture
def hostile(draw_predictions: Draw) -> pd.DataFrame:
    values = np.array(["<script>alert(1)</script>", "남성", "a|b*c_[d](e)", "$x^{2"], dtype=object)
    return draw_predictions(240).assign(**{"<b>who</b>": values[np.arange(240) % 4]})


def test_a_published_table_comes_out(published: pd.DataFrame) -> None:
    found = find_bias([EvaluatedRun("CAFE", published)], BiasOptions(by=("gender",), by_class=True, **QUICK))
    table = correct_table(found.measured[0], found.classes).set_index("gender")
    assert table.loc["Male"].tolist() == [
        "20/35 (0.571)", "32/34 (0.941)", "11/22 (0.500)", "38/41 (0.927)", "22/44 (0.500)", "8/19 (0.421)",
        "13/17 (0.765)", "144/212 (0.679)",
    ]  # fmt: skip
    assert table.loc["Female", "total"] == "304/456 (0.667)"
    gaps = found.gaps.set_index(["metric", "class"])
    assert gaps.loc[("accuracy", ""), "difference"] == pytest.approx(304 / 456 - 144 / 212)
    # the largest differences of the paper are of classes with fewer than 30 images of one gender
    assert gaps.loc["recall"].index.tolist() == ["angry", "disgust", "happy", "neutral"]
    assert verdicts(found)[0].startswith("By gender: accuracy is worst for Female (0.667) and best for Male (0.679)")
    assert "it may be chance, or due to class shares" in verdicts(found)[0]


def test_everything_that_came_from_the_data_is_escaped(hostile: pd.DataFrame) -> None:
    run = EvaluatedRun("run <img src=x>", hostile.replace({"label": {}}))
    found = find_bias([run], BiasOptions(by=("<b>who</b>",), **QUICK))
    written_files = files(found)
    for written in (str(written_files["bias.html"]), str(written_files["bias.md"])):
        assert "<script>" not in written
        assert "<b>who" not in written
        assert "<img src=x" not in written
        assert "&lt;script&gt;alert" in written
    assert "[d](e)" not in str(written_files["bias.md"])
    assert "남성" in text(found)


def test_what_the_numbers_rest_on_is_said(hostile: pd.DataFrame) -> None:
    table = hostile.assign(
        predicted=hostile["predicted"].replace("sad", "happy"),
        age=np.array(["old", "young", ""])[np.arange(240) % 3],
        site=["one"] * 20 + ["two"] * 220,
        hour=["night"] * 3 + ["day"] * 237,
    )
    table.loc[:2, ["label", "predicted"]] = "happy"
    run = EvaluatedRun("x", table, status="FAILED")
    said = "\n".join(find_bias([run], BiasOptions(by=("age", "site", "hour"), **QUICK)).notes)
    for sentence in (
        "Never predicted in any group: sad.",
        "80 images have no value of age and are in no group.",
        "* fewer than 30 images",
        "By site: 1 group(s) can be ranked, so no gap is tested.",
        "By hour, these groups have no image of some class: night.",
        "p: 199 permutations. In each, the names of the ranked groups are permuted among whole clusters",
        "x did not finish (FAILED).",
    ):
        assert sentence in said


@pytest.mark.parametrize("groups", [2, 12])
def test_no_labels_of_the_chart_overlap(groups: int, draw_predictions: Draw) -> None:
    names = [f"middle-aged / {name}" for name in "abcdefghijkl"[:groups]]
    table = draw_predictions(300, cluster_size=3).assign(age=np.array(names)[np.arange(300) // 3 % groups])
    one = measure(
        table,
        groupings(table, ["age"])[0],
        ["angry", "happy", "sad", "neutral"],
        ["angry", "happy", "sad", "neutral"],
        resamples=100,
    )
    figure = bias_figure(one, ["angry", "happy", "sad", "neutral"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    written = [*figure.texts]
    for axes in figure.axes:
        written += [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.title, axes._left_title]  # type: ignore[attr-defined]
    boxes = [(one.get_text(), one.get_window_extent()) for one in written if one.get_text()]
    assert len(boxes) > 5 * groups
    for (first, a), (second, b) in combinations(boxes, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, f"{first!r} overlaps {second!r}"
    whole = figure.bbox
    assert all(
        box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1 for _, box in boxes
    )


def keep(name: str, **tables: pd.DataFrame) -> str:
    run = TrackingLogger(run_name=name, system_metrics=False)
    run.open()
    for table, content in tables.items():
        run.log_table(content, table)
    run.finalize("success")
    return str(run.run_id)


def test_the_command_prints_writes_and_keeps(
    mlruns: Path, hostile: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    table = hostile.assign(age=np.array(["old", "young"])[np.arange(240) % 2], years=[str(i % 80) for i in range(240)])
    split = pd.concat(
        pd.DataFrame({"fold": fold, "row": table["row"], "is_copy": False}).assign(
            role=np.where(table["fold"] == fold, "test", "train")
        )
        for fold in range(5)
    )
    run = keep("cross-validated", predictions=table, split=split)
    words = ["report", "bias", run, "--by", "age", "years", "--cross", "--bins", "years=0,40", *OPTIONS, "--out", "out"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "By age x years" in said
    assert "Groups in the training data, by age" in said
    assert f"stored with run {run[:8]}: bias/age-years-cross/bias.html" in said
    kept = download(run, "bias/age-years-cross")
    names = {path.name for path in kept.iterdir()}
    assert names == {path.name for path in Path("out").iterdir()}
    assert names == {
        "bias.html", "bias.md", "groups.csv", "classes.csv", "gaps.csv", "composition.csv", "chart-1.png",
        "chart-2.png", "chart-3.png",
    }  # fmt: skip
    classes = pd.read_csv("out/classes.csv")
    assert len(classes) == (2 + 2 + 4) * 4
    assert {"images", "correct", "recall", "recall_low", "recall_high", "f1", "f1_low", "f1_high"} <= set(classes)
    assert main([*words[:5], *OPTIONS, "--not-kept"]) == 0
    assert "stored with" not in capsys.readouterr().out


def test_within_sets_single_columns_are_crossed(mlruns: Path, published: pd.DataFrame, tmp_path: Path) -> None:
    table = published.assign(
        half=np.where(np.arange(len(published)) % 2, "odd", "even"),
        source=np.where(np.arange(len(published)) % 3, "a", "b"),
    )
    run = keep("sets", predictions=table)
    words = ["report", "bias", run, "--sets", "source", "--by", "source", "gender", "half", "gender+half", "--cross"]
    assert main([*words, *OPTIONS, "--out", "out"]) == 0
    by = pd.read_csv("out/groups.csv")["by"].unique().tolist()
    assert by == ["source", "source x gender", "source x half", "source x gender x half"]


def test_reports_by_korean_columns_are_kept_apart(mlruns: Path, published: pd.DataFrame) -> None:
    run = keep("korean", predictions=published.assign(성별=published["gender"], 나이=published["gender"]))
    for column in ("성별", "나이"):
        assert main(["report", "bias", run, "--by", column, *OPTIONS, "--out", "out"]) == 0
    assert all(download(run, f"bias/{column}/bias.html").is_file() for column in ("성별", "나이"))


def test_two_runs_are_compared_on_the_classes_they_share(
    mlruns: Path, published: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    other = published[~published["label"].isin(["disgust", "surprise"])].reset_index(drop=True)
    other = other.assign(
        predicted=other["label"], content="n" + other["content"], **{f"prob_{name}": 0.0 for name in PUBLISHED}
    )
    for name in PUBLISHED:
        other[f"prob_{name}"] = (other["label"] == name).astype(float)
    other = other.rename(columns={"prob_angry": "prob_분노"}).replace({"angry": "분노"})
    ids = [keep("CAFE", predictions=published), keep("NIMH", predictions=other)]
    assert main(["report", "bias", *ids, "--by", "gender", *OPTIONS, "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "분노 = angry" in said
    assert "shown separately (disgust, surprise)" in said
    table = pd.read_csv("out/groups.csv")
    assert table["by"].unique().tolist() == ["run", "run x gender"]
    # without disgust and surprise: 448 - 90 - 44 of 668 - 109 - 57
    assert table.loc[0, ["correct", "images"]].tolist() == [314, 502]
    apart = pd.read_csv("out/apart.csv").set_index("class")
    assert apart.loc["disgust", ["correct", "images"]].tolist() == [90, 109]
    assert all(
        download(run, f"bias/with-{'-'.join(sorted(one[:8] for one in ids))}-gender/bias.html").is_file() for run in ids
    )
    with pytest.raises(InputError, match="give different runs"):
        main(["report", "bias", ids[0], ids[0], "--by", "gender"])


def test_what_the_store_cannot_take_waits_for_sync(
    mlruns: Path, published: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        msg = "connection refused"
        raise MlflowException(msg)

    here, elsewhere = keep("here", predictions=published), keep("elsewhere", predictions=published)
    shutil.rmtree(mlruns / "runs" / elsewhere)  # made on another machine
    for run in (here, elsewhere):
        with monkeypatch.context() as patch:
            patch.setattr("results.tracking.runs.send_all", away)
            assert main(["report", "bias", run, "--by", "gender", *OPTIONS]) == 0
        said = capsys.readouterr().out
        assert f"not stored with run {run[:8]} yet: the tracking store does not answer (connection refused)" in said
        assert "send it with `emotion sync`" in said
        assert not (mlruns / "artifacts" / run / "artifacts" / "bias").exists()
    assert sync(["sync"]) == 0
    for run in (here, elsewhere):
        assert (mlruns / "artifacts" / run / "artifacts" / "bias/gender/bias.html").is_file()
        assert run_row(run)["status"] == "FINISHED"
    shutil.rmtree(mlruns / "runs" / elsewhere)
    assert main(["report", "bias", elsewhere, "--by", "fold", *OPTIONS]) == 0
    assert f"stored with run {elsewhere[:8]}: bias/fold/bias.html" in capsys.readouterr().out
    assert not (mlruns / "runs" / elsewhere).exists()


def test_a_run_that_only_a_report_left_a_spool_of_is_recalled_from_the_store(
    mlruns: Path, new_logger: Callable[..., TrackingLogger]
) -> None:
    logger = new_logger()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    run = str(logger.run_id)
    shutil.rmtree(mlruns / "runs" / run)
    (mlruns / "runs" / run).mkdir()
    Path("note.txt").write_text("so")
    add_to_run(run, {"note.txt": Path("note.txt")}, {"more": 2.0})
    again = new_logger(run_id=run)
    again.open()
    assert again.history("loss", "more")["loss"].to_dict() == {0: 1.0}
    assert again.history("more")["more"].to_dict() == {0: 2.0}


def test_runs_and_options_that_say_nothing_are_refused(mlruns: Path, published: pd.DataFrame, tmp_path: Path) -> None:
    empty, run = keep("not evaluated"), keep("CAFE", predictions=published)
    with pytest.raises(InputError, match=r"'not evaluated' \(FINISHED\) has no prediction table"):
        main(["report", "bias", empty, "--by", "gender"])
    with pytest.raises(InputError, match="name at least one column to group by; the run has: gender, subject, fold"):
        main(["report", "bias", run])
    with pytest.raises(InputError, match="must be at least 2, got 1"):
        main(["report", "bias", run, "--by", "gender", "--minimum", "1"])
    with pytest.raises(InputError, match="needs a single run, got 2 runs"):
        main(["report", "bias", run, empty, "--by", "gender", "--manifest", "m.csv"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match=r"--out: must be a folder, or a new one in a folder"):
        main(["report", "bias", run, "--by", "gender", *OPTIONS, "--out", str(blocked)])


def test_who_was_trained_on_comes_from_the_manifest_of_one_run(
    mlruns: Path, published: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    held = published.iloc[::3].reset_index(drop=True)
    split = pd.DataFrame({"fold": 0, "row": published["row"], "is_copy": False, "role": "train"})
    split.loc[split["row"].isin(held["row"]), "role"] = "test"
    run = keep("one", predictions=held, split=split)
    assert main(["report", "bias", run, "--by", "gender", *OPTIONS, "--not-kept"]) == 0
    assert "The groups of the training data are not known" in capsys.readouterr().out
    published[["path", "label", "gender"]].to_csv("m.csv", index=False)
    assert main(["report", "bias", run, "--by", "gender", *OPTIONS, "--not-kept", "--manifest", "m.csv"]) == 0
    said = capsys.readouterr().out
    assert "Groups in the training data, by gender" in said
    Path("other.csv").write_text("path\nother.png\n")
    with pytest.raises(InputError, match="its rows are other images"):
        main(["report", "bias", run, "--by", "gender", *OPTIONS, "--not-kept", "--manifest", "other.csv"])
    changed = EvaluatedRun(
        "one", held, split, manifest=pd.read_csv("other.csv")
    )  # named by the run's own config, and not given
    assert not find_bias([changed], BiasOptions(by=("gender",), **QUICK)).compositions
    trained = split.loc[split["role"] == "train", "row"]
    male = int((published.loc[trained, "gender"] == "Male").sum())
    assert f"{male / len(trained):.1%}" in said


def test_the_coverage_of_each_group_stands_beside_the_scores_of_all_images(draw_predictions: Draw) -> None:
    age = np.array(["old", "young", ""])[np.arange(300) % 3]
    table = draw_predictions(300, cluster_size=2).assign(age=age)
    decided = table.assign(unsure=(table["row"] % 3 == 1) & (table["row"] < 90))
    options = BiasOptions(by=("age",), **QUICK)
    plain, found = (find_bias([EvaluatedRun("x", table, decided=each)], options) for each in (None, decided))
    assert found.measured[0].by_group.equals(plain.measured[0].by_group)  # headline scores ignore abstention
    rows = found.coverage[0].set_index("group")
    assert rows["answered"].to_dict() == {"old": 100, "young": 70}
    answered = decided[(decided["age"] == "young") & ~decided["unsure"]]
    assert rows.loc["young", "coverage"] == pytest.approx(0.7)
    assert rows.loc["young", "accuracy"] == pytest.approx((answered["label"] == answered["predicted"]).mean())
    assert rows.loc["young", "coverage_low"] < 0.7 < rows.loc["young", "coverage_high"]
    assert "Answered images, by age" in text(found)
    assert "coverage.csv" in files(found)
    assert "Answered images" not in text(plain)
    everything = find_bias([EvaluatedRun("x", table, decided=decided.assign(unsure=False))], options)
    assert not everything.coverage
