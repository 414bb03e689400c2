import json
import multiprocessing
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks.commands import Training, run
from benchmarks.report import Figure, as_table, paired, write
from benchmarks.searches import Score
from benchmarks.searching import overheads

NAMES = {
    "mapping": {"cache_mapping_memory"},
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
    context.set_forkserver_preload(["sweeps.search_trial", "sweeps.trial"])
    process = context.Process(target=int)
    process.start()
    process.join()


LONG = ("pruning", "searching", "workers")  # two searches each, or commands one after another


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
