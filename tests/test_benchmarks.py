import json
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.report import Figure, as_table, paired, write

NAMES = {
    "mapping": {"cache_mapping_memory"},
    "pipeline": {"input_pipeline_first_epoch", "input_pipeline_later_epoch"},
    "training": {"training_loop"},
    "decoding": {"decodes_of_five_folds"},
    "tracking": {"logging_share"},
    "gpu": {"gpu_images_per_second", "gpu_share_of_model_alone"},
}


@pytest.mark.parametrize("name", bench.BENCHMARKS)
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_every_measurement_runs_and_says_what_it_measured(name: str) -> None:
    before = Path.cwd()
    with bench.workplace() as folder:
        figures = bench.measure(name, folder, toy=True)

    assert Path.cwd() == before
    assert {figure.name for figure in figures} == NAMES[name]
    for figure in figures:
        assert figure.about
        if figure.value is None:
            assert figure.about.startswith("not measured: ")
        else:
            assert figure.value > 0
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
