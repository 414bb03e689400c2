import json
import multiprocessing
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import __main__ as bench
from benchmarks import golden
from benchmarks.commands import Training, run
from benchmarks.report import Figure, as_table, paired, write
from benchmarks.searches import Score
from benchmarks.searching import overheads

NAMES = {
    "mapping": {"cache_mapping_memory"},
    "startup": {"help", "help_of_fit", "predict_one_image", "runs_list"},
    "faces": {"face_crops_per_second"},
    "pipeline": {"input_pipeline_first_epoch", "input_pipeline_later_epoch"},
    "training": {"training_loop"},
    "explaining": {"explain_seconds_per_image", "explain_batched_gain"},
    "decoding": {"decodes_of_five_folds"},
    "tracking": {"logging_share"},
    "searching": {"search_against_separate_commands", "search_overhead_seconds"},
    "pruning": {"hyperband_image_passes", "hyperband_interval_holds_grid_best"},
    "workers": {"two_workers"},
    "gpu": {"gpu_images_per_second", "gpu_share_of_model_alone"},
}
FACES = {"face_detector_alone_per_second", "face_crops_memory_growth"}  # with YuNet's file


@pytest.fixture(scope="module")
def _trials_know_the_cache_of_the_tests() -> None:
    """Start the server of trials' processes before a measurement changes the environment that it would keep."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweeps.search", "sweeps.workers"])
    process = context.Process(target=int)
    process.start()
    process.join()


# two searches each, or commands or runs one after another
LONG = ("pruning", "searching", "startup", "tracking", "training", "workers")


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] if one in LONG else []) for one in bench.BENCHMARKS]
)
@pytest.mark.usefixtures("_trials_know_the_cache_of_the_tests")
@pytest.mark.filterwarnings("ignore")  # Lightning's, MLflow's and Optuna's advice, tested elsewhere
def test_every_measurement_runs_and_says_what_it_measured(name: str) -> None:
    before = Path.cwd()
    with bench.workplace() as folder:
        figures = bench.measure(name, folder, toy=True)

    assert Path.cwd() == before
    more = FACES if name == "faces" and figures[0].value is not None else set()
    assert {figure.name for figure in figures} == NAMES[name] | more
    for figure in figures:
        assert figure.about
        if figure.value is None:
            assert figure.about.startswith("not measured: ")
        else:
            assert figure.value > 0 or figure.name == "hyperband_interval_holds_grid_best"
            assert figure.detail
    detail = figures[0].detail
    if name == "decoding":
        assert figures[0].value == 1
        assert detail["opened_one_fold"] == detail["opened_five_folds"] == detail["pictures"]
        assert detail["cache_says_one_fold"] == detail["cache_says_five_folds"] == detail["pictures"]
    if name == "training":  # both loops did the same work
        assert detail["largest_weight_difference_after"] < 1e-4
    if name == "tracking":
        assert detail["of_which_drawing_figures_seconds"] <= detail["logging_seconds"] < detail["run_seconds"]
    if name == "pruning":  # 8 classes of 24 without the held-out fifth; two folds train on each half; one epoch
        assert detail["grid_cells"] == 2
        assert detail["hyperband_image_passes"] * 2 == detail["grid_image_passes"]
        assert detail["grid_image_passes"] == pytest.approx(2 * 8 * 24 * 0.8, rel=0.05)
        assert figures[0].value == 0.5
    if name == "searching":
        assert len(figures[1].detail["seconds"]) == 1
        assert figures[1].detail["training_seconds_a_trial"] > 0


def test_a_trial_counts_from_the_end_of_the_one_before() -> None:
    spans = [(0.0, 10.0), (11.0, 16.0), (16.0, 20.0)]
    trained = [Training(4, 9), Training(12, 13), Training(14, 15.5), Training(17, 18), Training(21, 29)]

    assert overheads(spans, trained) == [6 - 2.5, 4 - 1]  # the last training is the winner's


def test_ends_of_an_interval_are_inside_it() -> None:
    score = Score(0.5, low=0.4, high=0.6)

    assert [score.holds(value) for value in (0.39, 0.4, 0.6, 0.61)] == [False, True, True, False]


def test_a_command_that_fails_says_which_and_why(workplace: Path) -> None:
    with pytest.raises(RuntimeError, match=r"emotion nothing ended with status 2: error: unknown command 'nothing'"):
        run(["nothing"])


def test_no_server_programs_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(*_: Any, **__: Any) -> None:
        msg = "no pg_config"
        raise OSError(msg)

    monkeypatch.setattr(subprocess, "run", absent)

    assert bench.measure("workers", tmp_path) == [Figure("two_workers", None, "not measured: no pg_config")]


def test_ratio_is_the_median_over_neighbours() -> None:
    ratio, detail = paired([1.0, 2.0, 10.0], [2.0, 2.0, 10.0])

    assert ratio == 1
    assert detail["ratios"] == [2, 1, 1]


def test_results_tell_target_verdict_command_machine_and_versions(tmp_path: Path) -> None:
    figures = [
        Figure("good", 0.97, "a share", at_least=0.95),
        Figure("bad", 0.02, "another", at_most=0.01),
        Figure("exact", 1.0, "a count", at_least=1, at_most=1),
        Figure("absent", None, "not measured: no CUDA device", at_least=0.95),
    ]
    write(tmp_path / "results.json", figures, "python -m benchmarks", {"cores": "2"})

    content = json.loads((tmp_path / "results.json").read_text())
    assert content.keys() == {"date", "command", "machine", "versions", "figures"}
    assert content["versions"]["torch"]
    assert [one["met"] for one in content["figures"]] == [True, False, True, None]
    assert [one["target"] for one in content["figures"]] == [">= 0.95", "<= 0.01", "= 1", ">= 0.95"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    table = as_table(figures)
    assert "MISSED" in table
    assert "not measured" in table


def test_a_measurement_that_breaks_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(name: str, folder: Path, *, toy: bool = False) -> list[Figure]:
        if name == "mapping":
            msg = "no room"
            raise OSError(msg)
        return [Figure(name, 1.0, "fine", at_least=1)]

    monkeypatch.setattr(bench, "measure", measure)

    status = bench.main(["--toy", "--only", "mapping", "gpu", "--output", str(tmp_path / "results.json")])

    assert status == 1
    figures = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert [(one["figure"], one["value"]) for one in figures] == [("mapping", None), ("gpu", 1.0)]
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
        ("prob_sad", [0.1, 0.8, 0.7, 0.2002], "prob_sad in 1 of 4 rows: 3 0: 0.2 / 0.2002"),
        ("predicted", ["happy", "sad", "sad", "sad"], "predicted in 1 of 4 rows: 3 0: happy / sad"),
        ("cluster", [7, 8, 2, 3], "cluster in 1 of 4 rows: 1 0: 0 / 1"),
        ("prob_happy", [0.9, 0.2, None, 0.8], "prob_happy in 1 of 4 rows: 2 0: 0.3 / nan"),
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
    assert detail == "1 of 5 rows, by fold row role is_copy and count: 0 0 train True 1"


def test_golden_compares_metrics_but_not_the_machine() -> None:
    base = {"test/f1_macro": 0.5, "val/loss": float("nan"), "system/cpu": 3.0, "fit/seconds": 1.0, "old": 1.0}
    head = {"test/f1_macro": 0.50001, "val/loss": float("nan"), "system/cpu": 9.0, "fit/seconds": 2.0, "new": 1.0}

    assert golden.compare_numbers(base, head, 1e-4) == [("only in BASE", "old"), ("only in HEAD", "new")]
    assert golden.compare_numbers(base, {**base, "test/f1_macro": 0.6}, 1e-4) == [
        ("differs", "1 of 3: test/f1_macro 0.5 / 0.6")
    ]


def test_golden_compares_verdicts_of_certificates_and_only_notes_other_wording() -> None:
    def certificate(holds: bool, **lines: str) -> dict[str, Any]:
        return {"holds": holds, "lines": [{"statement": name, "verdict": verdict} for name, verdict in lines.items()]}

    base = certificate(True, folds="holds", old="holds")
    assert {kind for kind, _ in golden.compare_certificates(base, certificate(True, folds="holds", new="holds"))} == {
        "note"
    }
    assert golden.compare_certificates(base, certificate(False, folds="fails", old="holds")) == [
        ("differs", "the run holds: True / False"),
        ("differs", "folds: holds / fails"),
    ]


def test_golden_reads_options_and_values_of_trials(tmp_path: Path) -> None:
    """The tables are Optuna's; making them with Optuna would take seconds."""
    with sqlite3.connect(tmp_path / "search.db") as database:
        database.executescript(
            """
            CREATE TABLE studies (study_id INTEGER, study_name TEXT);
            CREATE TABLE trials (trial_id INTEGER, study_id INTEGER, number INTEGER, state TEXT);
            CREATE TABLE trial_values (trial_id INTEGER, objective INTEGER, value FLOAT);
            CREATE TABLE trial_params (trial_id INTEGER, param_name TEXT, param_value FLOAT, distribution_json TEXT);
            INSERT INTO studies VALUES (1, 'golden'), (2, 'golden winner');
            INSERT INTO trials VALUES (5, 1, 0, 'COMPLETE'), (6, 2, 0, 'RUNNING');
            INSERT INTO trial_values VALUES (5, 0, 1.25);
            INSERT INTO trial_params VALUES
                (5, 'rate', 0.25, '{"name": "FloatDistribution", "attributes": {"low": 0.0, "high": 1.0}}'),
                (5, 'loss', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["CE", "Focal"]}}');
            """
        )
    database.close()

    table = golden.read_trials(tmp_path / "search.db").set_index("name")
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


@pytest.mark.parametrize(
    ("module", "message"),
    [("emotion", "HEAD must load its own code"), ("numpy", None)],
)
def test_golden_refuses_code_from_elsewhere(tmp_path: Path, module: str, message: str | None) -> None:
    head = golden.Side("HEAD", tmp_path / "code", tmp_path, {"emotion"})
    (tmp_path / "modules.txt").write_text(f"{module}\t/installed/{module}/__init__.py\n")

    if message is None:
        head._check_modules("fit-quick", "")
        return
    with pytest.raises(golden.CannotRunError, match=message):
        head._check_modules("fit-quick", "")


def test_golden_says_what_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(["no-such-commit"]) == 2
    assert "no-such-commit" in capsys.readouterr().err
