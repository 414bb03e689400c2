import contextlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial
from PIL import Image

from benchmarks import Figure, ablation, fer2013, golden, label_errors, median_ratio
from benchmarks import __main__ as bench
from benchmarks.ablation import Cell
from benchmarks.commands import emotion
from datamodules.errors import InputError
from datamodules.readers import ReadOptions, read
from emotion import main
from lightning_modules.config import RunConfig
from results.tracking.runs import load_table

NAMES = {
    "startup": {"help", "help_of_fit", "predict_one_image", "runs_list"},
    "workers": {"two_workers"},
    "faces": {"face_crops_per_second"},
    "pipeline": {"input_pipeline_first_epoch", "input_pipeline_later_epoch", "input_pipeline_uncached_epoch"},
    "decoding": {"decodes_of_five_folds"},
    "rows": {"table_minutes", "table_peak_gigabytes"},
    "training": {"training_loop"},
    "throughput": {
        *("throughput_contiguous", "throughput_compiled", "throughput_bf16"),
        *("throughput_one_thread", "throughput_one_worker", "throughput_two_workers"),
    },
    "memory": {f"kept_memory_{name}" for name in ("strong", "strong_peak", "baseline", "baseline_peak")},
    "tracking": {"logging_share"},
    "prediction": {"prediction"},
    "gpu": {"gpu_images_per_second", "gpu_share_of_model_alone"},
}
LONG = ("startup", "memory", "tracking", "training", "throughput", "prediction")  # commands or runs one after another


def check(name: str, figures: list[Figure]) -> None:
    """Each figure has a number with its settings, or the reason why it was not measured."""
    more = {"face_detector_alone_per_second"} if name == "faces" and figures[0].value is not None else set()
    assert {figure.name for figure in figures} == NAMES[name] | more
    for figure in figures:
        assert figure.about
        if figure.value is None:
            assert figure.about.startswith("not measured: ")
        else:
            assert figure.value > 0
            assert figure.detail


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in bench.MEASUREMENTS]
)
@pytest.mark.filterwarnings("ignore")  # Lightning's, MLflow's and Optuna's advice, tested elsewhere
def test_every_measurement_runs_and_states_what_it_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    before = Path.cwd()
    figures = bench.measure(name, toy=True)

    assert Path.cwd() == before
    check(name, figures)
    detail = figures[0].detail
    if name == "decoding":
        assert figures[0].value == 1
        assert detail["opened_one_fold"] == detail["opened_five_folds"] == detail["images"]
    if name == "training":  # both loops did the same work
        assert detail["largest_weight_difference_after"] < 1e-4
    if name == "tracking":
        assert detail["logging_seconds"] < detail["run_seconds"]
    if name == "workers":
        assert figures[0].value is None
        assert "OPTUNA_STORAGE" in figures[0].about


@pytest.mark.slow
def test_two_workers_are_measured_on_postgresql(monkeypatch: pytest.MonkeyPatch, postgresql: str) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", postgresql)
    figures = bench.measure("workers", toy=True)

    check("workers", figures)
    assert figures[0].value is not None


def test_a_command_that_fails_is_named_with_the_reason(workplace: Path) -> None:
    message = r"emotion nothing ended with status 2: error: unknown command 'nothing'"
    with pytest.raises(RuntimeError, match=message):
        emotion("nothing")


def test_ratio_is_the_median_over_neighbours() -> None:
    assert median_ratio([2.0, 2.0, 10.0], [1.0, 2.0, 10.0]) == 1
    assert median_ratio([2.0, 3.0, 10.0], [1.0, 1.0, 1.0]) == 3


def test_results_hold_target_verdict_command_machine_and_versions(tmp_path: Path) -> None:
    figures = [
        Figure("good", 0.97, "a share", ">= 0.95", {"seconds": [1.23456789]}),
        Figure("bad", 0.02, "another", "<= 0.01"),
        Figure("exact", 1.0, "a count", "= 1"),
        Figure("absent", None, "not measured: no CUDA device", ">= 0.95"),
        Figure("free", 3.0, "without a target"),
    ]
    bench.write(tmp_path / "results.json", figures, "python -m benchmarks", bench.machine())

    content = json.loads((tmp_path / "results.json").read_text())
    assert content.keys() == {"date", "command", "machine", "versions", "figures"}
    assert content["versions"]["torch"]
    assert content["machine"]["usable_cores"] >= 1
    assert [figure["met"] for figure in content["figures"]] == [True, False, True, None, None]
    assert [figure["target"] for figure in content["figures"]] == [">= 0.95", "<= 0.01", "= 1", ">= 0.95", ""]
    assert content["figures"][0]["detail"] == {"seconds": [1.23457]}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    table = bench.as_table(figures)
    assert "MISSED" in table
    assert "not measured" in table


def test_a_measurement_that_breaks_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(name: str, *, toy: bool = False) -> list[Figure]:
        if name == "decoding":
            msg = "no room"
            raise OSError(msg)
        return [Figure(name, 1.0, "fine", ">= 1")]

    monkeypatch.setattr(bench, "measure", measure)

    status = bench.main(["--toy", "--only", "decoding", "gpu", "--output", str(tmp_path / "results.json")])

    assert status == 1
    figures = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert [(figure["figure"], figure["value"]) for figure in figures] == [("decoding", None), ("gpu", 1.0)]
    assert figures[0]["about"] == "not measured: OSError: no room"


def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": [0, 1, 2, 3],
            "cluster": [7, 7, 2, 3],
            "fold": 0,
            "predicted": ["happy", "sad", "sad", "happy"],
            "prob_happy": [0.9, 0.2, 0.3, 0.8],
            "prob_sad": [0.1, 0.8, 0.7, 0.2],
        }
    )


def split() -> pd.DataFrame:
    roles = ["train", "train", "val", "test"]
    return pd.DataFrame({"fold": 0, "row": [0, 0, 1, 2], "role": roles, "is_copy": [False, True, False, False]})


def differing(name: str, base: pd.DataFrame, head: pd.DataFrame, tolerance: float = 1e-4) -> list[golden.Difference]:
    return golden.compare_tables(base, head, golden.TABLES[name], tolerance)


def test_golden_allows_another_order_other_numbers_of_clusters_and_small_errors() -> None:
    head = predictions().iloc[::-1].assign(cluster=[30, 20, 10, 10], path="elsewhere")
    head["prob_sad"] += 0.5e-4

    assert [verdict for verdict, _ in differing("predictions", predictions().assign(path="here"), head)] == []


@pytest.mark.parametrize(
    ("column", "values", "detail"),
    [
        ("prob_sad", [0.1, 0.8, 0.7, 0.2002], "prob_sad in 1 of 4: 3, 0: 0.2 / 0.2002"),
        ("predicted", ["happy", "sad", "sad", "sad"], "predicted in 1 of 4: 3, 0: happy / sad"),
        ("cluster", [7, 8, 2, 3], "cluster in 1 of 4: 1, 0: 0 / 1"),
        ("prob_happy", [0.9, 0.2, None, 0.8], "prob_happy in 1 of 4: 2, 0: 0.3 / nan"),
    ],
)
def test_golden_finds_a_changed_value_and_shows_it(column: str, values: list[Any], detail: str) -> None:
    head = predictions().assign(**{column: values})

    assert differing("predictions", predictions(), head) == [("differs", detail)]


def test_golden_finds_another_order_of_classes() -> None:
    head = predictions()[["row", "cluster", "fold", "predicted", "prob_sad", "prob_happy"]]

    ((verdict, detail),) = differing("predictions", predictions(), head)
    assert verdict == "differs"
    assert detail == "classes prob_happy prob_sad / prob_sad prob_happy"


def test_golden_finds_moved_rows_and_lost_copies_under_old_and_new_names_of_roles() -> None:
    renamed = split().assign(role=["train", "train", "val", "test"])
    assert differing("split", split(), renamed) == []
    assert differing("split", split(), renamed.assign(content="x")) == [("note", "columns only in HEAD: content")]

    moved = renamed.assign(role=["train", "train", "test", "val"])
    assert [verdict for verdict, _ in differing("split", split(), moved)] == ["only in BASE", "only in HEAD"]

    twice = pd.concat([split(), split()[split()["is_copy"]]])
    ((verdict, detail),) = differing("split", twice, renamed)
    assert verdict == "only in BASE"
    assert detail == "1 of 5 rows, by fold row role is_copy, count: 0, 0, train, True, 1"


def test_golden_compares_metrics_but_not_the_machine() -> None:
    base = {"test/f1_macro": 0.5, "val/loss": float("nan"), "system/cpu": 3.0, "fit/seconds": 1.0, "old": 1.0}
    head = {"test/f1_macro": 0.50001, "val/loss": float("nan"), "system/cpu": 9.0, "fit/seconds": 2.0, "new": 1.0}

    assert golden.compare_metrics(base, head) == [("only in BASE", "old"), ("only in HEAD", "new")]
    assert golden.compare_metrics(base, {**base, "test/f1_macro": 0.6}) == [
        ("differs", "1 of 3: test/f1_macro: 0.5 / 0.6")
    ]


def test_golden_compares_verdicts_of_certificates_and_only_notes_other_wording() -> None:
    def certificate(holds: bool, **lines: str) -> dict[str, Any]:
        return {"holds": holds, "lines": [{"statement": name, "verdict": verdict} for name, verdict in lines.items()]}

    base = certificate(True, folds="holds", old="holds")
    assert {kind for kind, _ in golden.compare_certificates(base, certificate(True, folds="holds", new="holds"))} == {
        "note"
    }
    assert golden.compare_certificates(base, certificate(False, folds="fails", old="holds")) == [
        ("differs", "statements differs: 2 of 3: the run holds: True / False; folds: holds / fails"),
    ]


def test_golden_reads_options_and_values_of_trials(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    options: dict[str, Any] = {"rate": FloatDistribution(0, 1), "loss": CategoricalDistribution(["CE", "Focal"])}
    study = optuna.create_study(study_name="golden", storage=storage)
    study.add_trial(create_trial(params={"rate": 0.25, "loss": "Focal"}, distributions=options, value=1.25))
    optuna.create_study(study_name="golden winner", storage=storage).ask()

    table = golden.read_trials(tmp_path / "search.db").set_index("name")
    assert len(table) == 4
    assert table.loc["rate", "number"] == 0.25
    assert table.loc["loss", "text"] == "Focal"
    assert table.loc["value 0", "number"] == 1.25
    assert table.loc["state", "text"] == "COMPLETE"


def side(name: str, folder: Path, value: float) -> golden.Side:
    """Return one commit whose command `fit-quick` left one run with a table of predictions."""
    artifacts = folder / name / "artifacts"
    (artifacts / "tables").mkdir(parents=True)
    table = predictions()
    table.loc[0, "prob_sad"] += value
    table.to_parquet(artifacts / "tables" / "predictions.parquet")
    made = golden.Side(name, folder, folder / name, {"emotion"})
    run = golden.Run("run 1 of 1", "FINISHED", {"test/f1_macro": 0.5 + value}, {"data.size": "32"}, artifacts)
    made.outcomes["fit-quick"] = golden.Outcome(0, "", [run])
    return made


@pytest.mark.parametrize(("value", "verdicts"), [(0.0, []), (0.01, ["differs", "differs"])])
def test_golden_compares_what_two_commits_left(tmp_path: Path, value: float, verdicts: list[str]) -> None:
    findings = golden.compare_sides(
        side("BASE", tmp_path, 0), side("HEAD", tmp_path, value), golden.chosen_commands(["fit-quick"])
    )

    assert [one.what for one in findings] == [
        "exit status",
        "run status",
        "metrics",
        "parameters",
        "predictions",
        "artifacts",
    ]
    assert [one.verdict for one in findings if one.verdict != "equal"] == verdicts
    assert f"6 comparisons, {len(verdicts)} differences, 0 notes" in golden.result_text(findings)


def test_golden_finds_a_lost_run_and_another_exit_status(tmp_path: Path) -> None:
    head = side("HEAD", tmp_path, 0)
    head.outcomes["fit-quick"] = golden.Outcome(1, "starting\nerror: no such option\n")

    findings = golden.compare_sides(side("BASE", tmp_path, 0), head, golden.chosen_commands(["fit-quick"]))

    assert [(one.what, one.verdict, one.detail) for one in findings] == [
        ("exit status", "differs", "0 / 1: error: no such option"),
        ("runs", "differs", "1 / 0 runs"),
    ]


def test_golden_runs_what_a_command_needs_and_in_order() -> None:
    assert [command.name for command in golden.chosen_commands(["compare", "resume"])] == [
        "prepare", "fit-balanced", "fit-paper", "kill", "resume", "cross-validate", "compare",
    ]  # fmt: skip


@pytest.mark.parametrize(("own", "status"), [({"emotion", "json"}, golden.FOREIGN), ({"emotion"}, 3)])
def test_golden_refuses_code_from_elsewhere(tmp_path: Path, own: set[str], status: int) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "emotion.py").write_text("def main():\n    import json\n    return 3\n")
    head = golden.Side("HEAD", tmp_path / "code", tmp_path, own)

    done = subprocess.run(
        [sys.executable, "-c", golden.RUNNER],
        cwd=tmp_path, env=head.environment(golden.COMMANDS[0]), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == status, done.stderr
    assert ("must load its own code" in done.stdout) == (status == golden.FOREIGN)


def test_golden_says_what_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(["no-such-commit"]) == 2
    assert "no-such-commit" in capsys.readouterr().err


def test_every_part_of_the_ablation_is_a_run_of_its_own() -> None:
    runs = {Cell(name, 1): name for name in ablation.PARTS}
    configs = [RunConfig.resolve([cell.filled(word, runs) for word in cell.words[1:]]) for cell in runs]
    for cell, config in zip(runs, configs, strict=True):
        assert config.seed_everything == 1
        assert config.data["source"] == (ablation.VOTED if cell.voted else ablation.TRAINING)
    assert len({config.identity() for config in configs}) == len(runs)


def test_hard_and_soft_targets_of_the_ablation_have_the_same_images_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["file,split,label,votes_happy,votes_sad,votes_NF"]
    for number, votes in enumerate(("6,4,0", "0,9,1", "3,3,0", "0,1,9", "8,2,0")):  # the fourth shows no face
        Image.fromarray(np.full((48, 48), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'test' if number == 4 else 'train'},sad,{votes}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    monkeypatch.setattr(ablation, "run_emotion", lambda words, _: main(words))
    ablation.training_part(str(tmp_path), tmp_path, voted=True)
    hard, soft = (read(str(tmp_path / ablation.VOTED), ReadOptions(votes=votes)) for votes in ("majority", "soft"))
    for manifest in (hard, soft):
        assert list(manifest.table["path"]) == ["0.png", "1.png", "2.png"]
        assert list(manifest.table["label"]) == ["happy", "sad", "sad"]  # the published label decides a tie
    assert hard.votes is None
    assert soft.votes is not None
    np.testing.assert_allclose(soft.votes, [[0.6, 0.4], [0, 1], [0.5, 0.5]])


def test_commands_of_the_ablation_name_the_runs_that_they_use() -> None:
    runs = {Cell(part, seed): f"{part}-{seed}" for part in ablation.PARTS for seed in range(5)}
    cell = Cell("soup of three seeds", 0)
    first, last = ([cell.filled(word, runs) for word in words] for words in cell.commands)
    assert first == ["soup", "base-0", "base-1", "base-2", "--output", "soup.ckpt"]
    assert last[:4] == ["evaluate", "soup.ckpt", "--data", ablation.REPORTED]
    cell = Cell("teacher of three inner folds", 4)
    words = [cell.filled(word, runs) for word in cell.words]
    assert words[words.index("--run.teacher") + 1] == "[inner-fold-0-4,inner-fold-1-4,inner-fold-2-4]"
    with pytest.raises(SystemExit, match="uses the run of 'inner-fold-0' with seed 4, which has no row yet"):
        [cell.filled(word, {}) for word in cell.words]


def test_the_ablation_continues_where_its_table_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "training_part", lambda data, work, voted: None)
    measured: list[Cell] = []

    def measure(cell: Cell, work: Path, runs: dict[Cell, str]) -> dict[str, str]:
        assert len(runs) == len(ablation.read_rows(tmp_path / "table.csv"))
        if len(measured) == 2:
            msg = "power cut"
            raise OSError(msg)
        measured.append(cell)
        return dict.fromkeys(ablation.COLUMNS, "0") | {"part": cell.part, "seed": str(cell.seed)}

    monkeypatch.setattr(ablation, "measure", measure)
    words = ["--work", str(tmp_path), "--table", str(tmp_path / "table.csv")]
    words += ["--parts", "base", "mixup", "--seeds", "0", "1"]
    with pytest.raises(SystemExit, match=r"^error: --data: is needed by the first run"):
        ablation.main(words)
    words += ["--data", "fer2013.zip"]
    with pytest.raises(OSError, match="power cut"):
        ablation.main(words)
    first = measured.copy()
    measured.clear()
    assert ablation.main(words) == 0
    assert [*first, *measured] == [Cell(part, seed) for seed in (0, 1) for part in ("base", "mixup")]
    assert (tmp_path / "table.csv").read_text().startswith(",".join(ablation.COLUMNS))


@pytest.mark.parametrize("benchmark", [ablation, fer2013])
def test_wrong_input_of_a_benchmark_is_one_line(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "table.csv"
    words = ["--work", str(tmp_path / "work"), "--table", str(table), "--data", str(tmp_path / "gone.zip")]
    header = ",".join(benchmark.COLUMNS)
    for content, message in (
        (b"", "its first line must be "),
        (b"a,b\n1,2\n", "its first line must be "),
        (f"{header}\n1,2\n".encode(), "row 1 has too many or too few columns, or no seed"),
        (f"{header}\n{','.join('x' * len(benchmark.COLUMNS))}\n".encode(), "row 1 has too many or too few columns"),
        (b"\xff\xfe", "utf-8"),
    ):
        table.write_bytes(content)
        for more in ([], ["--markdown"]):
            with pytest.raises(
                SystemExit, match=rf"^error: --table: must be a CSV that this benchmark wrote .*{message}"
            ):
                benchmark.main([*words, *more])
        assert table.read_bytes() == content
    row = dict.fromkeys(benchmark.COLUMNS, "0") | {"part": "base", "recipe": "baseline"}
    table.unlink()
    ablation.append(table, {name: row[name] for name in benchmark.COLUMNS})
    with pytest.raises(SystemExit, match=r"^error: --work: must be the folder with the runs that the CSV names"):
        benchmark.main([*words, "--markdown"])
    capsys.readouterr()
    chosen = ["--recipes", "baseline"] if benchmark is fer2013 else ["--parts", "base"]
    assert benchmark.main([*words, *chosen, "--seeds", "0"]) == 0
    assert f"{table} has all 1 rows; to measure them again, give --table a new file" in capsys.readouterr().err
    assert benchmark.main([*words, *chosen, "--seeds", "0", "1", "--dry-run"]) == 0
    assert re.match(r"1 of 2 rows to measure: (base|baseline), seed 1$", capsys.readouterr().err)
    table.unlink()
    for more, message in (
        (["--markdown"], "--table: must be a CSV with rows"),
        (["--seeds", "1", "1"], "--seeds: must be different whole numbers of at least 0, got '1 1'"),
        ([], "status|--data: no such file or folder"),  # of the command of ours, or of reading the data
    ):
        with pytest.raises(SystemExit, match=rf"^error: .*({message})"):
            benchmark.main([*words, *more])
    assert not table.exists()


def test_a_mean_needs_two_networks_and_a_table_keeps_its_columns(tmp_path: Path) -> None:
    words = ["--work", str(tmp_path), "--table", str(tmp_path / "table.csv"), "--data", "fer2013.zip"]
    with pytest.raises(SystemExit, match="--seeds: must be at least two with --ensemble, got 0"):
        fer2013.main([*words, "--seeds", "0", "--ensemble"])
    row = dict.fromkeys(ablation.COLUMNS, "0")
    ablation.append(tmp_path / "table.csv", row)
    with pytest.raises(InputError, match=r"--table: must be a CSV .*its first line must be recipe,data,seed"):
        ablation.append(tmp_path / "table.csv", dict.fromkeys(fer2013.COLUMNS, "0"))
    assert ablation.read_rows(tmp_path / "table.csv") == [row]


def test_the_ablation_prints_each_part_minus_the_base_of_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {Cell("base", 0): 20, Cell("mixup", 0): 30, Cell("mixup", 1): 30}  # of 40
    right |= {Cell("FER+ labels", 0): 36, Cell("FER+ labels, soft targets", 0): 38}
    label = ["happy", "sad"] * 20

    def table(name: str, _: str) -> pd.DataFrame:
        cell = next(cell for cell in right if str(cell) == name)
        other = {"happy": "sad", "sad": "happy"}
        predicted = [one if number < right[cell] else other[one] for number, one in enumerate(label)]
        rows = pd.DataFrame({"row": range(40), "cluster": range(40), "label": label, "predicted": predicted})
        rows["path"] = rows["content"] = [f"{row:064d}" for row in range(40)]
        sure = [0.9 if one == "happy" else 0.1 for one in predicted]
        return rows.assign(fold=0, subject="", prob_happy=sure, prob_sad=1 - pd.Series(sure))

    monkeypatch.setattr(ablation, "load_table", table)
    scores = {"macro_f1": "0.5000", "low": "0.4", "high": "0.6", "accuracy": "0.5", "minutes": "2.0"}
    rows = [scores | {"part": cell.part, "seed": str(cell.seed), "run": str(cell)} for cell in right]
    lines = [*ablation.markdown(rows, tmp_path)][2:]
    assert lines[0] == "| base | 0 | .500 (.400-.600) | .500 | 2.0 |  |  |  |"
    assert re.match(r"\| mixup \| 0 .* \| \+\.250 \(\+\.\d+ to \+\.\d+\) \| \+\.250 \(", lines[1])
    assert lines[2].endswith("|  |  | `--model.mixup 0.2` |")  # the base has no seed 1
    assert lines[3].endswith("|  |  | `--data voted.csv --votes majority` |")  # other labels: a base of their own
    assert re.match(
        r"\| FER\+ labels, soft targets \| 0 .* \| \+\.050 \([+-]\.\d+ to \+\.\d+\) \| \+\.050 \(", lines[4]
    )
    with pytest.raises(InputError, match="--table: must have at least two rows of seed 0"):
        ablation.figure([row for row in rows if row["part"] != "mixup"], tmp_path)
    (drawn,) = ablation.figure(rows, tmp_path).axes
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["mixup minus base"]


def test_recipes_are_trained_once_and_averaged(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a drawn set that has its own three parts in place of FER2013, two recipes and two seeds."""
    manifest = read("drawn:largest=24,ratio=1,size=32,classes=happy+sad", ReadOptions())
    part = np.array(["train", "train", fer2013.PUBLIC, "test"])[np.arange(len(manifest)) % 4]
    replace(manifest, table=manifest.table.assign(split=part)).save(workplace / "set.csv")
    trained: list[list[str]] = []
    small = ["--data.size", "32", "--model.backbone", "test_resnet", "--model.weights", "none"]
    small += ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
    monkeypatch.setattr(fer2013, "SAME_STEPS", {"baseline": small, "focal": small})

    def run(words: list[str], work: Path) -> float:
        trained.append(words)
        monkeypatch.setattr("sys.argv", ["emotion", *words])
        with contextlib.chdir(work):
            assert main() == 0
        return 1.5

    monkeypatch.setattr(fer2013, "run_emotion", run)
    words = ["--work", "runs", "--table", "table.csv", "--recipes", "baseline", "focal", "--seeds", "0", "1"]
    assert fer2013.main([*words, "--data", "set.csv"]) == 0
    assert fer2013.main([*words, "--data", "set.csv", "--ensemble"]) == 0
    rows = pd.read_csv("table.csv", dtype=str)
    assert tuple(rows.columns) == fer2013.COLUMNS
    assert rows["recipe"].tolist()[3:] == ["focal", "baseline, mean of 2 networks", "focal, mean of 2 networks"]
    assert rows["seed"].tolist() == ["0", "0", "1", "1", "0 1", "0 1"]
    assert rows["minutes"].tolist() == ["1.5"] * 6
    assert rows["command"].str.contains(f"--data.outer {fer2013.PUBLIC}").tolist() == [True] * 4 + [False] * 2
    with contextlib.chdir("runs"):
        reported = [len(load_table(run, "predictions")) for run in rows["run"]]
    assert reported == [(part == fer2013.PUBLIC).sum()] * 6
    trained.clear()
    Path("table.csv").unlink()  # the runs stay
    assert fer2013.main([*words, "--data", "set.csv"]) == 0
    assert not trained
    again = pd.read_csv("table.csv", dtype=str)
    assert again["macro_f1"].tolist() == rows["macro_f1"].tolist()[:4]
    assert again["run"].tolist() == rows["run"].tolist()[:4]
    fer2013.SAME_STEPS["focal"] = [*small, "--model.learning_rate", "0.003"]  # a recipe that was edited
    other = [*words[:2], "--table", "other.csv", "--recipes", "focal", "--seeds", "0", "--data", "set.csv"]
    assert fer2013.main(other) == 0
    assert len(trained) == 1
    assert pd.read_csv("other.csv", dtype=str)["run"].item() not in set(rows["run"])
    with pytest.raises(SystemExit, match="no row of baseline with seed 7 yet"):
        fer2013.main([*words[:4], "--recipes", "baseline", "--seeds", "0", "7", "--ensemble", "--data", "set.csv"])
    capsys.readouterr()
    assert fer2013.main([*words[:4], "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| recipe | seed | accuracy | macro F1 | happy | sad |")
    assert "`focal`, 2 seeds, mean ± standard deviation: accuracy " in printed
    assert printed.count("`focal` minus `baseline`, seed ") == 2
    assert fer2013.main([*words[:4], "--figure", "classes.png"]) == 0
    assert Path("classes.png").stat().st_size > 10_000
    axes = fer2013.figure(ablation.read_rows(Path("table.csv"), fer2013.COLUMNS), Path("runs").absolute()).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["happy", "sad", "macro F1"]
    drawn = [(line.get_label(), np.asarray(line.get_xdata())[-1]) for line in axes.lines[:4]]  # macro F1 of each run
    assert [drawn[0][0], drawn[2][0]] == ["baseline", "focal"]
    by_recipe = again.sort_values(["recipe", "seed"])["macro_f1"].astype(float)
    np.testing.assert_allclose([score for _, score in drawn], by_recipe, atol=1e-4)


def test_doubtful_labels_are_compared_with_annotators(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read("drawn:largest=40,ratio=1,size=32,classes=happy+sad+angry", ReadOptions(votes="soft"))
    part = np.where(np.arange(len(manifest)) % 4 == 0, "test", "train")
    replace(manifest, table=manifest.table.assign(split=part)).save(workplace / "voted.csv")
    assert label_errors.main(["voted.csv", "--size", "32", "--folds", "2", "--seeds", "0", "1"]) == 0
    printed = capsys.readouterr().out
    assert "90 images to train on, 30 to report on" in printed
    assert printed.count("out-of-fold accuracy") == 2
    assert printed.count(" other_emotion  unclear  wrong") == 2
    assert len(re.findall(r"^ +none( +[01]\.\d+){3}$", printed, re.MULTILINE)) == 2
    assert re.search(r"doubtful, all( +[01]\.\d+){3}\n +\d+ random", printed)
